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
_Q = dict(learning_rate=3e-3, train_freq=3, gradient_steps=8, batch_size=1536, learning_starts=2048)
_Q |= dict(target_update_interval=1536, exploration_final_eps=0.1)
_NUMBERS = dict(learning_rate=1e-3, train_freq=10, gradient_steps=16, batch_size=1024, learning_starts=2048)
_NUMBERS |= dict(target_update_interval=2560, exploration_final_eps=0.1, n_steps=10)
_TEXT = dict(learning_rate=3e-4, n_steps=32, beta=8.0, gradient_steps=24, batch_size=512, learning_starts=4096)
_TEXT |= dict(target_update_interval=4096, exploration_final_eps=0.1, temperature=0.7)
for _name in ("dqn", "qrdqn"):
    HYPERPARAMS["rlhf/TokenBandit-v0"][_name] = dict(n_timesteps=81_920, n_envs=256, **_Q)
    HYPERPARAMS["rlhf/IncreasingNumbers-v0"][_name] = dict(n_timesteps=65_536, n_envs=128, **_NUMBERS)
    HYPERPARAMS["rlhf/Sentiment-v0"][_name] = dict(n_timesteps=32_768, n_envs=128, **_TEXT)
# Of these tokens only `log_fraction` are the environment's; the rest are those of the updates.
HYPERPARAMS["rlhf/TokenBandit-v0"]["ilql"] = dict(n_timesteps=1_000_000, n_envs=256, learning_rate=3e-3, train_freq=3)
HYPERPARAMS["rlhf/TokenBandit-v0"]["ilql"] |= dict(gradient_steps=8, batch_size=1024, log_fraction=0.05)
HYPERPARAMS["rlhf/TokenBandit-v0"]["ilql"] |= dict(expectile=0.95, beta=30.0, cql_coef=0.0)
HYPERPARAMS["rlhf/IncreasingNumbers-v0"]["ilql"] = dict(n_timesteps=400_000, n_envs=128, learning_rate=1e-3)
HYPERPARAMS["rlhf/IncreasingNumbers-v0"]["ilql"] |= dict(train_freq=10, batch_size=1024, log_fraction=0.15)
HYPERPARAMS["rlhf/IncreasingNumbers-v0"]["ilql"] |= dict(expectile=0.9, beta=50.0, cql_coef=0.0)
HYPERPARAMS["rlhf/Sentiment-v0"]["ilql"] = dict(n_timesteps=120_000, n_envs=128, learning_rate=3e-4, batch_size=512)
HYPERPARAMS["rlhf/Sentiment-v0"]["ilql"] |= dict(log_fraction=0.15, n_steps=8, beta=8.0, temperature=0.7)
HYPERPARAMS["rlhf/HumanSentiment-v0"] = HYPERPARAMS["rlhf/Sentiment-v0"]
ANY: dict[str, Any] = dict(n_timesteps=65_536, n_envs=32, kl_coef=0.1)


def default_hyperparams(env_id: str, algo: str) -> dict[str, Any]:
    """The settings for an environment and an algorithm; those for any where the table has none. A copy."""
    return dict(HYPERPARAMS.get(env_id, {}).get(algo, ANY))
