"""The registered text environments, and their episodes for evaluation. Imports no torch."""

from __future__ import annotations

import importlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rlhf_envs.episodes import EpisodeBatch

__all__ = [
    "Description",
    "check_environment",
    "describe",
    "find_bundle",
    "is_bundle",
    "like_batch",
    "open_batch",
    "run_environment",
    "text_environments",
]


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
    import gymnasium as gym

    import rlhf_envs  # noqa: F401  # registers ours

    return sorted(spec.id for spec in gym.registry.values() if "task" in spec.kwargs)


def check_environment(env_id: str) -> str:
    """The id of a registered environment; of "module:id", after importing the module, as Gymnasium has it.

    Raises:
        ValueError: there is no such module or environment; the message lists those that exist.
    """
    import gymnasium as gym

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
    import gymnasium as gym

    from rlhf_envs.episodes import load_task

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
    from rlhf_envs.models import EMBEDDED, resolve

    if model is None or (model not in EMBEDDED and not Path(model).is_dir()):
        return None
    config = Path(resolve(model)) / "config.json"
    return json.loads(config.read_text(encoding="utf-8")).get("vocab_size") if config.is_file() else None


def is_bundle(path: Path) -> bool:
    """Whether a folder looks like a bundle of `agents.save`."""
    return (path / "manifest.json").is_file() and (path / "agent.json").is_file()


def find_bundle(path: Path) -> Path | None:
    """The bundle at `path`, of a run its agent, or of one not finished its newest checkpoint; None without any."""
    for folder in (path, path / "agent"):
        if is_bundle(folder):
            return folder
    checkpoints = [p for p in path.glob("checkpoints/*") if p.name.isdecimal() and is_bundle(p)]
    return max(checkpoints, key=lambda p: int(p.name), default=None)


def run_environment(source: str) -> str | None:
    """The environment that a run folder or a bundle was trained in; None where `source` is neither."""
    path = Path(source)
    if is_bundle(path):
        env_id = json.loads((path / "agent.json").read_text(encoding="utf-8"))["env"].get("id")
        return env_id if isinstance(env_id, str) else None
    folder = next((p for p in (path, *path.parents) if path.suffix == ".zip" and (p / "config.json").is_file()), path)
    config = folder / "config.json"
    env = json.loads(config.read_text(encoding="utf-8")).get("env") if config.is_file() else None
    return env if isinstance(env, str) else None


def open_batch(env: Any, n: int, **env_kwargs: Any) -> EpisodeBatch:
    """`n` rows of the episodes of an environment, on their own state.

    Args:
        env: an id, or a text environment (single, batched, or SB3's around it), whose task, data and reward are taken.
        n: rows.
        **env_kwargs: the environment's arguments, where `env` is an id.

    Raises:
        ValueError: the id is unknown; the message lists those that exist.
        TypeError: `env` is no text environment.
    """
    import gymnasium as gym

    from rlhf_envs.episodes import EpisodeBatch

    if isinstance(env, str):
        kwargs = {**gym.spec(check_environment(env)).kwargs, **env_kwargs}
        if "task" in kwargs:
            return EpisodeBatch(n, **kwargs)
        env = gym.make(env, **env_kwargs)
    while not hasattr(env, "episodes"):  # SB3's and Gymnasium's wrappers
        inner = env.envs[0] if hasattr(env, "envs") else getattr(env, "venv", getattr(env, "env", None))
        if inner is None:
            raise TypeError(f"expected an environment id or a text environment, got {env!r}")
        env = inner
    return like_batch(env.episodes, n)


def like_batch(batch: EpisodeBatch, n: int) -> EpisodeBatch:
    """Another batch of `n` rows with the same task, data and reward."""
    from rlhf_envs.episodes import EpisodeBatch

    return EpisodeBatch(
        n,
        batch.task,
        model=batch.model_name,
        max_prompt_tokens=batch.max_prompt_tokens,
        max_new_tokens=batch.max_new_tokens,
        reward_fn=batch.reward_fn,
        data=batch.rows,
        reward_timeout=batch.reward_timeout,
        reward_retries=batch.reward_retries,
        **batch.mask_options,
    )
