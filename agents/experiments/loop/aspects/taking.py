"""Take over the aspects of a loop's run (`..loop`) and check them, and load what a round has fitted to them."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlhf_envs.feedback.questions import asked_about
from rlhf_envs.feedback.simulated.flagging import FLAGS
from rlhf_envs.files import replace_file
from rlhf_envs.preferences.aspects.fitting import LIMIT, aspects_as_yaml
from rlhf_envs.preferences.aspects.rows import ANY, Asked, find_asked, judged_among
from rlhf_envs.rewards import get_reward
from rlhf_envs.rewards.aspects import FACTORS, FILE, Aspect, AspectReward, find_reward, named_aspects, read_aspects
from rlhf_envs.rewards.ensemble import load_reward
from rlhf_envs.rewards.state import get_reward_state

from ..config import LoopConfig

if TYPE_CHECKING:
    from rlhf_envs.feedback import FeedbackStore
    from rlhf_envs.feedback.questions import Question
    from rlhf_envs.feedback.settings import Settings

__all__ = ["ALONE", "STUDY", "find_aspects", "kind_of", "load_aspects", "take_aspects"]

STUDY = "the study"  # what messages call the project
ALONE = ("questions", 1)  # an item that asks the project's own questions about one completion
PAIR = ("pairwise", 2)


def take_aspects(config: LoopConfig, folder: Path, store: FeedbackStore) -> None:
    """Write the aspects of a new run into its folder, with a weight or a limit each; check those of one that goes on.

    The file is what every round goes by: a weight that is changed there counts from the next fit on.

    Raises:
        ValueError: an aspect cannot be asked about, or nobody would say anything of it.
    """
    assert config.aspects is not None
    place = folder / FILE
    found = find_aspects(config, str(place) if place.is_file() else config.aspects, store.settings, store.versions())
    if not place.is_file():
        replace_file(place, aspects_as_yaml(found.values()).encode())


def find_aspects(
    config: LoopConfig, source: str, settings: Settings, versions: Mapping[int, Settings]
) -> dict[str, Aspect]:
    """Return the aspects of a run, with a weight or a limit each, and with the places of their rewards.

    Args:
        config: the run.
        source: names with commas between, or the file of aspects.
        settings: those of the project that is asked.
        versions: see `FeedbackStore.versions`.

    Raises:
        ValueError: an aspect cannot be asked about, or nobody would say anything of it.
    """
    assert config.aspects is not None
    given = named_aspects(source)
    base = Path(config.aspects)
    base = (base if base.is_dir() else base.parent).absolute()
    found = {}
    for name, aspect in given.items():
        where = f"aspects={config.aspects}: {name}"
        if aspect.data is not None:
            raise ValueError(
                f"{where}: data: {aspect.data}: a round fits what was said in it; fit that file before (rlhf reward "
                "fit) and write reward: FOLDER"
            )
        found[name] = replace(aspect, reward=find_reward(aspect.reward, where, base)) if aspect.reward else aspect
    asked = [find_asked(aspect, versions, STUDY) for aspect in found.values() if aspect.reward is None]
    if not asked:
        raise ValueError(
            f"aspects={config.aspects}: all have a reward of their own: leave them to rlhf train --aspects"
        )
    for one in asked:
        judged_among(one, [], [])  # whether the question's answers have such a form
        kind_of(one, settings.questions)
        found[one.aspect.name] = _with_factor(one)
    if all(aspect.weight is None for aspect in found.values()):
        raise ValueError(f"aspects={config.aspects}: limits alone give nothing to raise: give one of them a weight")
    _check_simulated(config, asked, settings.harms)
    return found


def _with_factor(asked: Asked) -> Aspect:
    """Return an aspect with a weight or a limit: its own, or the usual one."""
    aspect = asked.aspect
    if any(getattr(aspect, name) is not None for name in FACTORS):
        return aspect
    return replace(aspect, limit=LIMIT) if asked.loss == "flags" else replace(aspect, weight=1.0)


def _check_simulated(config: LoopConfig, asked: Sequence[Asked], harms: Sequence[str]) -> None:
    """Raise ValueError unless simulated annotators have something to say of every aspect."""
    for one in asked if config.annotators else ():
        harm = one.aspect.harm
        enough = (FLAGS, *harms) if harm == ANY else (harm,)
        if harm is not None and not any(name in config.by for name in enough):
            name = FLAGS if harm == ANY else harm
            raise ValueError(
                f"aspect {one.aspect.name!r}: simulated annotators flag nothing by themselves: say what they flag, "
                f"such as --by {name}:repetition, or let people label all, --people {config.labels}"
            )


def kind_of(asked: Asked, questions: Sequence[Question]) -> str | None:
    """Return the kind of the items that ask about an aspect; None if the pairs do."""
    if asked.format == "flags":
        return "flags"
    if asked.criterion is None:
        return "rating" if asked.format == "ratings" else None
    question = asked.criterion.question
    on_pairs = question.type == "choice" or question.each
    kind, n = PAIR if on_pairs else ALONE
    if question.name not in [one.name for one in asked_about(questions, kind, n)]:
        raise ValueError(
            f"aspect {asked.aspect.name!r}: its question is asked about items of {', '.join(question.kinds)} alone, "
            f"and a loop asks it about {'pairs' if on_pairs else 'completions'}: add {kind!r} to its kinds"
        )
    return None if on_pairs else kind


def load_aspects(folder: Path) -> AspectReward:
    """Return the reward by the aspects of a round, with reward models and memories of its own.

    `get_reward` gives everybody one object by name. What a reward remembers of the training would then be in
    evaluations, and models of past rounds would stay in memory.
    """
    made = {}
    for name, aspect in read_aspects(folder).items():
        if (folder / name).is_dir():
            reward: Any = load_reward(folder / name)
        else:
            reward = get_reward(str(aspect.reward))
            reward = copy.deepcopy(reward) if get_reward_state(reward) else reward
        made[name] = {**aspect.to_dict(), "reward": reward}
    return AspectReward(made)
