"""Reward several aspects of an answer (helpful, true, harmless), each with a weight or a limit.

A file says which, as `rlhf reward fit --aspects` writes it and `rlhf train --aspects` reads it:

    helpful: {weight: 1}        # the reward model in the folder "helpful" beside the file
    polite: {weight: 0.5}
    harm: {limit: 0.1}          # a cost: its mean per episode is kept at or below 0.1
    true: {at_least: 0}         # a score: its mean is kept at or above 0
    brief: {weight: 0.1, reward: length-penalty}

The weighted ones make a `Composed` reward, and each limit puts a `Constrained` around it, whose price training finds.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from rlhf_envs.datasets.messages import Prompt
from rlhf_envs.files import check_size
from rlhf_envs.models import has_place, split_label
from rlhf_envs.names import find_name, nearest
from rlhf_envs.rewards.base import FunctionReward, Reward, RewardOfRewards
from rlhf_envs.rewards.constraints import Constrained
from rlhf_envs.rewards.registry import MODEL, get_reward, is_import, list_rewards
from rlhf_envs.rewards.scores import Columns, Scores, as_scores
from rlhf_envs.rewards.state import walk

__all__ = [
    "FACTORS",
    "FILE",
    "Aspect",
    "AspectPart",
    "AspectReward",
    "aspect_limits",
    "find_aspects",
    "find_reward",
    "named_aspects",
    "read_aspects",
]

FILE = "aspects.yml"  # in a folder of reward models
MAX_FILE = 2**20  # bytes
FACTORS = ("weight", "limit", "at_least")
LOSSES = ("bt", "mse", "ordinal")
NAMES = {"True": "true", "False": "false"}  # what YAML reads these two words as, and an aspect may be called
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,59}")


@dataclass(frozen=True)
class Aspect:
    """Hold an aspect: how it counts, what scores it, and which judgements that is fitted to.

    Attributes:
        name: the name of its component.
        weight: what its score is multiplied by; negative for what is bad.
        limit: the highest mean per episode, of a cost.
        at_least: the lowest mean per episode, of a score.
        reward: a registered reward's name, a folder, a hub id, or in Python a reward function; its name by default.
        criterion: the project's own question that a fit reads; its name by default.
        harm: the harm whose flags a fit reads, or "any"; the reward model is then a cost.
        loss: "bt", "mse" or "ordinal"; by the question by default.
        data: a file of judgements, or a store, of its own.
    """

    name: str
    weight: float | None = None
    limit: float | None = None
    at_least: float | None = None
    reward: str | Callable[..., Any] | None = None
    criterion: str | None = None
    harm: str | None = None
    loss: str | None = None
    data: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return what `AspectReward` takes, without what only a fit reads."""
        given = {name: getattr(self, name) for name in (*FACTORS, "reward")}
        return {name: value for name, value in given.items() if value is not None}


def read_aspects(source: str | os.PathLike[str] | Mapping[str, Any], to_fit: bool = False) -> dict[str, Aspect]:
    """Return aspects by name, from a YAML file, a folder that has one, or a mapping of the same shape.

    A reward named in a file is the folder of that name beside the file if there is one, else a registered reward, a
    folder or a hub id. A file names nothing to import: anybody may have written it.

    Args:
        source: the file (`aspects.yml`), its folder, or a mapping.
        to_fit: whether the aspects are to be fitted: then those without a `reward` need no weight or limit either, and
            a `reward` is returned as it stands.

    Raises:
        ValueError: the source is no such file or mapping, or an aspect is wrong; the message has the file, the aspect
            and what to write.
        OSError: the file cannot be read.
    """
    if isinstance(source, Mapping):
        return _parse(source, "aspects", None, to_fit)
    path = Path(source)
    path = path / FILE if path.is_dir() else path
    if not path.is_file():
        raise ValueError(
            f"there is no file of aspects {path}: rlhf reward fit --aspects writes one, or write lines such as "
            "'helpful: {weight: 1}'"
        )
    check_size(path, MAX_FILE)
    try:
        content = YAML(typ="safe", pure=True).load(path.read_text(encoding="utf-8"))
    except (YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path}: expected aspects such as 'helpful: {{weight: 1}}', got {content!r:.80}")
    named = {NAMES[str(name)] if isinstance(name, bool) else name: given for name, given in content.items()}
    return _parse(named, str(path), path.parent, to_fit)


def named_aspects(text: str) -> dict[str, Aspect]:
    """Return the aspects to fit that a flag names: names with commas between, or a YAML file or its folder.

    Raises:
        ValueError, OSError: see `read_aspects`.
    """
    place = Path(text)
    if place.suffix in (".yml", ".yaml") or (place / FILE).is_file():
        return read_aspects(place, to_fit=True)
    names = dict.fromkeys(name.strip() for name in text.split(","))
    return read_aspects({name: {} for name in names if name}, to_fit=True)


def _parse(content: Mapping[str, Any], where: str, folder: Path | None, to_fit: bool) -> dict[str, Aspect]:
    if not content:
        raise ValueError(f"{where}: there is no aspect: write lines such as 'helpful: {{weight: 1}}'")
    aspects = {}
    for name, given in content.items():
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise ValueError(
                f"{where}: the name {name!r}: write at most 60 letters, digits, '_' or '-', the first of them a letter"
            )
        aspects[name] = _aspect(name, given, f"{where}: {name}", folder, to_fit)
    if not to_fit and all(aspect.weight is None for aspect in aspects.values()):
        raise ValueError(f"{where}: limits alone give nothing to raise: give one of {', '.join(aspects)} a weight")
    if not to_fit and not any(aspect.weight for aspect in aspects.values()):
        raise ValueError(f"{where}: all weights are 0, which gives nothing to raise: give an aspect another weight")
    return aspects


def _aspect(name: str, given: Any, where: str, folder: Path | None, to_fit: bool) -> Aspect:
    if given is None and to_fit:
        given = {}
    if not isinstance(given, Mapping):
        raise ValueError(f"{where}: expected {{weight: 1}} or {{limit: 0.1}}, got {given!r:.80}")
    known = [key for key in Aspect.__dataclass_fields__ if key != "name"]
    if unknown := [key for key in given if key not in known]:
        raise ValueError(f"{where}: unknown key {unknown[0]!r}; {nearest(str(unknown[0]), known)}")
    factors = [key for key in FACTORS if given.get(key) is not None]
    if len(factors) > 1 or (not factors and not (to_fit and given.get("reward") is None)):
        has = " and ".join(factors) or "none of them"
        raise ValueError(f"{where}: give a weight, a limit (of a cost) or at_least (of a score); it has {has}")
    for key in factors:
        value = given[key]
        if isinstance(value, bool) or not isinstance(value, Real) or not math.isfinite(value):
            raise ValueError(f"{where}: {key} is {value!r}, not a finite number")
    for key in ("criterion", "harm", "loss", "data"):
        if given.get(key) is not None and not isinstance(given[key], str):
            raise ValueError(f"{where}: {key} is {given[key]!r}, not a text")
    if given.get("loss") not in (None, *LOSSES):
        raise ValueError(f"{where}: loss is {given['loss']!r}: choose {', '.join(LOSSES)}")
    if given.get("harm") is not None and (given.get("criterion") or given.get("loss")):
        raise ValueError(f"{where}: harm reads flags: leave criterion and loss out")
    numbers: dict[str, Any] = {key: float(given[key]) for key in factors}
    texts = {key: given.get(key) for key in ("criterion", "harm", "loss", "data")}
    reward = given.get("reward") if to_fit else find_reward(given.get("reward", name), where, folder)
    return Aspect(name, **numbers, **texts, reward=reward)


def find_reward(reward: Any, where: str, folder: Path | None) -> Any:
    """Return the name of a reward that a file or a mapping has, in full; a reward function as it is."""
    if callable(reward) and folder is None:
        return reward
    if isinstance(reward, os.PathLike):
        reward = os.fspath(reward)
    if not isinstance(reward, str):
        raise ValueError(f"{where}: reward is {reward!r}, not the name or folder of a reward")
    if folder is None:
        return reward
    if is_import(reward):
        raise ValueError(
            f"{where}: the reward {reward!r} is not imported just because a file names it: register it "
            "(rlhf_envs.rewards.register_reward), or give the aspects in Python"
        )
    bare = reward.removeprefix(MODEL)
    if (folder / bare).is_dir():
        return f"{MODEL}{folder / bare}"
    if find_name(reward, list_rewards()) in list_rewards() or has_place(split_label(bare)[0]):
        return reward
    raise ValueError(
        f"{where}: there is no reward model {folder / bare}, and no reward named {reward!r} "
        f"({nearest(reward, list_rewards())}): fit one with rlhf reward fit --aspects, or write reward: NAME"
    )


class AspectPart(FunctionReward):
    """Score an aspect by its reward, as one component with the aspect's name."""

    def parts(self) -> tuple[Reward, ...]:
        """Return the reward."""
        return (self.function,) if isinstance(self.function, Reward) else ()

    def evaluate(self, prompts: Sequence[Prompt], completions: Sequence[Prompt], columns: Columns) -> Scores:
        """Return the scores, (n,) float64, and the same by the aspect's name."""
        if not isinstance(self.function, Reward):
            return super().evaluate(prompts, completions, columns)
        found = as_scores(self.function.evaluate(prompts, completions, columns))
        return Scores(found.totals, {self.name: found.totals}, found.tokens)


class AspectReward(RewardOfRewards):
    """Score the weighted sum of aspects, less the prices of their limits; every aspect is a component.

    By itself a limit's price is 0, so that evaluations have the weighted sum. `rlhf train` finds the prices, see
    `agents.LagrangeMultiplier`.

    Args:
        aspects: a YAML file of aspects, its folder, or a mapping such as `{"helpful": {"weight": 1, "reward":
            "models/helpful"}, "harm": {"limit": 0.1, "reward": "models/harm"}}`, see `read_aspects`.

    Raises:
        ValueError: an aspect is wrong, or there is no such reward.
    """

    name = "aspects"

    def __init__(self, aspects: str | os.PathLike[str] | Mapping[str, Any]) -> None:
        self.aspects = read_aspects(aspects)
        made = {name: AspectPart(_load(aspect), name) for name, aspect in self.aspects.items()}
        weighted = [aspect.weight * made[name] for name, aspect in self.aspects.items() if aspect.weight is not None]
        reward: Reward = sum(weighted[1:], start=weighted[0])
        for name, aspect in self.aspects.items():
            if aspect.limit is not None:
                reward = Constrained(reward, made[name], aspect.limit)
            elif aspect.at_least is not None:
                reward = Constrained(reward, made[name], aspect.at_least, at_least=True)
        self.whole = reward

    def parts(self) -> tuple[Reward, ...]:
        """Return the composition that the aspects make."""
        return (self.whole,)

    def evaluate(self, prompts: Sequence[Prompt], completions: Sequence[Prompt], columns: Columns) -> Scores:
        """Return the weighted sum less the prices, and the unweighted score of every aspect."""
        return as_scores(self.whole.evaluate(prompts, completions, columns))


def _load(aspect: Aspect) -> Callable[..., Any]:
    if callable(aspect.reward):
        return aspect.reward
    try:
        return get_reward(str(aspect.reward))
    except ValueError as error:
        raise ValueError(f"aspect {aspect.name!r}: {error}") from error


def find_aspects(reward_fn: Callable[..., Any]) -> list[AspectReward]:
    """Return the rewards by aspects that a reward is made of; none for a plain function."""
    return [reward for _, reward in walk(reward_fn) if isinstance(reward, AspectReward)]


def aspect_limits(reward_fn: Callable[..., Any]) -> bool:
    """Return whether an aspect in a reward has a limit, whose price training is to find."""
    return any(aspect.weight is None for found in find_aspects(reward_fn) for aspect in found.aspects.values())
