"""The settings that `rlhf train` takes where none are given: one table, by environment and algorithm.

`n_timesteps` counts tokens; everything else is what `agents.make` takes. They are tuned so that a run
learns in about a minute on two cores.
"""

from __future__ import annotations

from typing import Any

__all__ = ["HYPERPARAMS", "default_hyperparams"]

HYPERPARAMS: dict[str, dict[str, dict[str, Any]]] = {
    "rlhf/Sentiment-v0": {
        "ppo": dict(
            n_timesteps=40_960,
            n_envs=64,
            learning_rate=2e-4,
            batch_size=512,
            n_epochs=2,
            temperature=0.7,
            kl_coef=0.35,
            kl_target=6.0,
            kl_horizon=2000,
        ),
        "a2c": dict(
            n_timesteps=49_152,
            n_envs=32,
            learning_rate=3e-4,
            temperature=0.7,
            kl_coef=0.35,
            kl_target=6.0,
            kl_horizon=2000,
        ),
    },
    "rlhf/IncreasingNumbers-v0": {  # no leash: the model starts fresh, there is nothing in it to keep
        "ppo": dict(n_timesteps=65_536, n_envs=64, learning_rate=1e-3, n_epochs=4, ent_coef=0.01, kl_coef=0.0),
        "a2c": dict(n_timesteps=131_072, n_envs=64, learning_rate=5e-4, ent_coef=0.02, kl_coef=0.0),
    },
    "rlhf/TokenBandit-v0": {
        "ppo": dict(n_timesteps=49_152, n_envs=256, learning_rate=3e-3, batch_size=192, kl_coef=0.1),
        "a2c": dict(n_timesteps=98_304, n_envs=256, learning_rate=3e-3, kl_coef=0.1),
    },
}
for of_environment in HYPERPARAMS.values():  # PPO's own updates, under a mask
    of_environment["maskable_ppo"] = dict(of_environment["ppo"])
    of_environment["nlpo"] = dict(of_environment["ppo"], mask_top_p=0.95, target_update=5)
HYPERPARAMS["rlhf/HumanSentiment-v0"] = HYPERPARAMS["rlhf/Sentiment-v0"]
ANY: dict[str, Any] = dict(n_timesteps=65_536, n_envs=32, kl_coef=0.1)


def default_hyperparams(env_id: str, algo: str) -> dict[str, Any]:
    """The settings for an environment and an algorithm; those for any where the table has none. A copy."""
    return dict(HYPERPARAMS.get(env_id, {}).get(algo, ANY))
