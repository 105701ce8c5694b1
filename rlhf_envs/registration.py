"""The table of environments; importing the package registers them."""

from __future__ import annotations

import importlib
import json
from dataclasses import dataclass
from pathlib import Path

import gymnasium as gym

from rlhf_envs.episodes import load_task
from rlhf_envs.models import EMBEDDED, resolve

__all__ = [
    "ENVIRONMENTS",
    "Description",
    "check_environment",
    "describe",
    "register_task",
    "text_environments",
]

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


@dataclass(frozen=True)
class Description:
    """What there is to know about an environment before it is made."""

    env_id: str
    task: str
    summary: str
    reward: str
    model: str | None
    vocab_size: int | None
    max_prompt_tokens: int
    max_new_tokens: int


def text_environments() -> list[str]:
    """The ids of all registered text environments: ours and those of users that name a task."""
    return sorted(spec.id for spec in gym.registry.values() if "task" in spec.kwargs)


def check_environment(env_id: str) -> str:
    """The id of a registered environment; of "module:id", after importing the module, as Gymnasium has it.

    Raises:
        ValueError: there is no such module or environment; the message lists those that exist.
    """
    module, _, name = env_id.rpartition(":")
    if module:
        try:
            importlib.import_module(module)
        except ModuleNotFoundError as error:
            raise ValueError(f"environment {env_id!r}: {error}") from error
    known = text_environments()
    if name not in gym.registry:
        raise ValueError(f"unknown environment {name!r}: there are {', '.join(known)}")
    return name


def describe(env_id: str) -> Description:
    """Describe an environment without making it; its vocabulary comes from the model's config.json, if there is one."""
    kwargs = gym.spec(check_environment(env_id)).kwargs
    task = load_task(kwargs["task"])
    words = getattr(task, "words", None)
    return Description(
        env_id=env_id,
        task=task.name,
        summary=(type(task).__doc__ or "").strip().split("\n")[0],
        reward=kwargs.get("reward") or task.default_reward,
        model=kwargs.get("model", task.default_model),
        vocab_size=2 + len(words) if words else _vocab_size(kwargs.get("model", task.default_model)),
        max_prompt_tokens=kwargs.get("max_prompt_tokens") or task.max_prompt_tokens,
        max_new_tokens=kwargs.get("max_new_tokens") or task.max_new_tokens,
    )


def _vocab_size(model: str | None) -> int | None:
    if model is None or (model not in EMBEDDED and not Path(model).is_dir()):
        return None
    config = Path(resolve(model)) / "config.json"
    return json.loads(config.read_text(encoding="utf-8")).get("vocab_size") if config.is_file() else None
