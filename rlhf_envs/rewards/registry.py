"""Find reward functions by name, and import them when they are first asked for."""

from __future__ import annotations

import ast
import inspect
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rlhf_envs.models import has_place, split_label
from rlhf_envs.names import find_name, import_attribute, nearest

__all__ = ["MODEL", "check_reward", "get_reward", "is_import", "list_rewards", "register_reward", "reward_target"]

MODEL = "hf:"  # before the folder or hub id of a reward model, where nothing else is meant
AI_JUDGE = "ai_judge:"  # before the YAML file of a language model that judges

_targets: dict[str, str | Callable[..., Any]] = {
    "tiny-reward": "rlhf_envs.rewards.reward_model:RewardModel",
    "gold": "rlhf_envs.rewards.judge:gold",
    "gold-bow": "rlhf_envs.rewards.bag_of_words:gold_bow",
    "summary-reward": "rlhf_envs.rewards.summary:summary_reward",
    "chinese-reward": "rlhf_envs.rewards.chinese:chinese_reward",
    "chinese-judge": "rlhf_envs.rewards.chinese:chinese_judge",
    "chrf": "rlhf_envs.rewards.chrf:ChrF",
    "increasing-numbers": "rlhf_envs.rewards.rules:IncreasingNumbersReward",
    "token-bandit": "rlhf_envs.rewards.rules:TokenBanditReward",
    "human": "rlhf_envs.rewards.human:HumanReward",
    "toxicity": "rlhf_envs.rewards.toxicity:Toxicity",
    "repetition-penalty": "rlhf_envs.rewards.shaping:RepetitionPenalty",
    "repetition": "rlhf_envs.rewards.shaping:Repetition",
    "length-penalty": "rlhf_envs.rewards.shaping:LengthPenalty",
    "distinct-ngrams": "rlhf_envs.rewards.diversity:DistinctNgrams",
    "self-bleu-diversity": "rlhf_envs.rewards.diversity:SelfBleuDiversity",
    "novelty": "rlhf_envs.rewards.diversity:Novelty",
    "clipped": "rlhf_envs.rewards.shaping:Clipped",
    "whitened": "rlhf_envs.rewards.shaping:Whitened",
    "constrained": "rlhf_envs.rewards.constraints:Constrained",
    "aspects": "rlhf_envs.rewards.aspects:AspectReward",
    "service": "rlhf_envs.tasks.customer_service.scoring:service_reward",
    "service-success": "rlhf_envs.tasks.customer_service.scoring:Success",
    "private-data": "rlhf_envs.tasks.customer_service.scoring:PrivateData",
    "promises": "rlhf_envs.tasks.customer_service.scoring:Promises",
    "rudeness": "rlhf_envs.tasks.customer_service.scoring:Rudeness",
    "dialogue-turn": "rlhf_envs.tasks.dialogue.reward:DialogueTurn",
    "dialogue-rating": "rlhf_envs.tasks.dialogue.reward:DialogueRating",
    "pessimistic": "rlhf_envs.rewards.pessimism:Pessimistic",
}
_made: dict[str, Callable[..., Any]] = {}


def register_reward(name: str, target: str | Callable[..., Any]) -> None:
    """Give a reward function a name, by which `reward=name` finds it.

    Args:
        name: the name; an existing one is replaced.
        target: a reward function, or a factory of one (a class or a function that needs no argument), itself or as
            `"module:attribute"`, which is imported when the reward is first asked for.
    """
    if not name or ":" in name:
        raise ValueError(f"a reward's name must be non-empty and without ':', got {name!r}")
    _targets[name] = target
    _made.pop(name, None)


def get_reward(name: str | os.PathLike[str], **kwargs: Any) -> Callable[..., Any]:
    """Return the reward with that name, at that `"module:attribute"`, or the reward model of that folder or hub id.

    Without arguments it is made once and then kept; with arguments it is made anew.

    Args:
        name: a registered name, "module:attribute" or "file.py:attribute", a folder, or a hub id. A folder or hub id
            may begin with "hf:", and end with "@" and the label of its classifier that is rewarded. "ai_judge:FILE.yml"
            is a language model that judges, see `rlhf_envs.rewards.ai_judge`.
        **kwargs: arguments of the reward's class or factory.

    Raises:
        ValueError: the name is unknown (the message lists those that exist), there is nothing at the address, or the
            reward does not take the arguments.
    """
    if isinstance(name, os.PathLike):
        name = os.fspath(name)
    if not isinstance(name, str):
        raise ValueError(f"reward={name!r} is no name: {_hint(str(name))}")
    name = find_name(name, _targets)
    if name.startswith(AI_JUDGE):
        return _judge(name, kwargs)
    if name.startswith(MODEL) or (name not in _targets and has_place(split_label(name)[0])):
        loader, model = import_attribute("rlhf_envs.rewards.ensemble:load_reward", name), name.removeprefix(MODEL)
        return _call_with(loader, name, (model,), kwargs)
    if kwargs or name not in _made:
        if name not in _targets and not is_import(name):
            raise ValueError(f"unknown reward {name!r}; {_hint(name)}")
        made = _make(name, _targets.get(name, name), kwargs)
        if kwargs:
            return made
        _made[name] = made
    return _made[name]


def _judge(name: str, kwargs: dict[str, Any]) -> Callable[..., Any]:
    """Return the reward of a judge's file. It is kept, so that its limit of costs holds for the program."""
    if kwargs:
        raise ValueError(f"reward {name!r} is made without arguments, got {', '.join(sorted(kwargs))}: write the file")
    key = f"{AI_JUDGE}{Path(name.removeprefix(AI_JUDGE)).resolve()}"
    if key not in _made:
        loader = import_attribute("rlhf_envs.rewards.ai_judge:AIJudgeReward", f"reward {name!r}")
        _made[key] = loader(name.removeprefix(AI_JUDGE))
    return _made[key]


def check_reward(name: str) -> None:
    """Raise ValueError for a name that `get_reward` does not know. Nothing is loaded, imported or made."""
    name = find_name(name, _targets)
    if name not in _targets and not (name.startswith(MODEL) or is_import(name) or has_place(split_label(name)[0])):
        raise ValueError(f"unknown reward {name!r}; {_hint(name)}")


def is_import(name: str) -> bool:
    """Return whether a reward's name is the address of something that would be imported, "module:attribute".

    The file of a judge counts too: it names a server that gets the texts, which no file of another's may bring in.
    """
    return ":" in name and not name.startswith(MODEL)


def reward_target(name: str) -> Any:
    """Return the function or class that a registered name stands for. It is imported, and not called.

    Raises:
        ValueError: there is no such name.
    """
    found = _targets.get(find_name(name, _targets))
    if found is None:
        raise ValueError(f"unknown reward {name!r}; {nearest(name, _targets)}")
    return import_attribute(found, f"reward {name!r}") if isinstance(found, str) else found


def list_rewards() -> list[str]:
    """Return the registered names, sorted."""
    return sorted(_targets)


def _hint(name: str) -> str:
    """Return what to write instead of an unknown name."""
    if name.endswith(".py"):
        found = _functions_of(name)
        return f"name the function in the file, {' or '.join(f'{name}:{function}' for function in found[:4])}"
    if "." in name and "/" not in name:
        return f"did you mean '{':'.join(name.rsplit('.', 1))}'?"
    return (
        f"{nearest(name, _targets)} (or give 'module:attribute', 'file.py:attribute', the folder or hub id of a reward "
        "model, or a callable as reward_fn)"
    )


def _functions_of(file: str) -> list[str]:
    """Return the names of the functions and classes in a file of code, which is read and not imported."""
    try:
        body = ast.parse(Path(file).read_text(encoding="utf-8")).body
    except (OSError, ValueError, SyntaxError, RecursionError, MemoryError):
        body = []
    kinds = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
    return [part.name for part in body if isinstance(part, kinds) and part.name[0] != "_"] or ["my_reward"]


def _make(name: str, target: str | Callable[..., Any], kwargs: dict[str, Any]) -> Callable[..., Any]:
    found: Any = import_attribute(target, f"reward {name!r}") if isinstance(target, str) else target
    if kwargs and not _is_factory(found):
        raise ValueError(f"reward {name!r} is made without arguments, got {', '.join(sorted(kwargs))}")
    reward: Callable[..., Any] = _call_with(found, name, (), kwargs) if _is_factory(found) else found
    if not callable(reward):
        raise ValueError(f"reward {name!r} is {reward!r}, which cannot be called with prompts and completions")
    return reward


def _call_with(factory: Callable[..., Any], name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    try:
        inspect.signature(factory).bind(*args, **kwargs)
    except TypeError as error:
        raise ValueError(f"reward {name!r} does not take the arguments {kwargs}: {error}") from None
    return factory(*args, **kwargs)


def _is_factory(target: Any) -> bool:
    """Return whether `target` makes the reward function: a class, or a callable that needs no argument."""
    if inspect.isclass(target):
        return True
    if not callable(target):
        return False
    parameters = inspect.signature(target).parameters.values()
    return all(parameter.default is not parameter.empty for parameter in parameters)
