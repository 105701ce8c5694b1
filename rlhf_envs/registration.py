"""The table of environments; importing the package registers them."""

from __future__ import annotations

import gymnasium as gym

__all__ = ["ENVIRONMENTS", "register_task"]

ENVIRONMENTS: dict[str, str] = {
    "rlhf/Sentiment-v0": "rlhf_envs.tasks.sentiment:Sentiment",
    "rlhf/HumanSentiment-v0": "rlhf_envs.tasks.sentiment:HumanSentiment",
    "rlhf/IncreasingNumbers-v0": "rlhf_envs.tasks.increasing_numbers:IncreasingNumbers",
    "rlhf/TokenBandit-v0": "rlhf_envs.tasks.token_bandit:TokenBandit",
}
NONDETERMINISTIC = {"rlhf/HumanSentiment-v0"}  # people answer differently each time


def register_task(env_id: str, task: str, nondeterministic: bool = False) -> None:
    """Register an environment of a task, single and batched.

    Args:
        env_id: such as "rlhf/Sentiment-v0".
        task: "module:Class" of a `rlhf_envs.tasks.Task`, imported when the environment is made.
        nondeterministic: whether the same seed and actions may give other rewards, as people do.

    Raises:
        ValueError: the id is taken by something else.
    """
    if env_id in gym.registry:
        if gym.registry[env_id].kwargs.get("task") == task:
            return
        raise ValueError(f"{env_id!r} is registered already, as {gym.registry[env_id]}: take another id or version")
    gym.register(
        id=env_id,
        entry_point="rlhf_envs.text_env:TextGenerationEnv",
        vector_entry_point="rlhf_envs.vector_env:TextGenerationVectorEnv",
        kwargs={"task": task},
        nondeterministic=nondeterministic,
    )


def register_all() -> None:
    """Register the table above."""
    for env_id, task in ENVIRONMENTS.items():
        register_task(env_id, task, env_id in NONDETERMINISTIC)
