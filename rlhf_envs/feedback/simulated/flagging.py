"""Say by which reward simulated annotators answer each question of a project, and which texts they flag."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from ...names import nearest

if TYPE_CHECKING:
    from ..settings import Settings

__all__ = ["FLAGS", "HarmFlagger", "check_names", "told_apart"]

FLAGS = "flags"  # in place of a harm: the project's first one
FLAGGED = 0.5  # from this score on a text is flagged

Scorer = Callable[..., Iterable[float]]


class HarmFlagger:
    """Flag a text with the harms whose reward gives it at least 0.5, which is an even chance for a cost.

    Args:
        rewards: scorers by the name of the harm.
    """

    def __init__(self, rewards: Mapping[str, Scorer]) -> None:
        self.rewards = rewards

    def __call__(self, prompt: str, completion: str) -> list[str]:
        """Return the harms of a text."""
        scores = {harm: float(next(iter(reward([prompt], [completion])))) for harm, reward in self.rewards.items()}
        return [harm for harm, score in scores.items() if score >= FLAGGED]


def check_names(names: Iterable[str], settings: Settings) -> None:
    """Raise ValueError for a name that is no question of the project, none of its harms, and not "flags"."""
    known = [*(question.name for question in settings.questions), FLAGS, *settings.harms]
    for name in names:
        if name not in known:
            raise ValueError(f"there is no question or harm {name!r}; {nearest(name, known)}")


def told_apart(scorers: Mapping[str, Scorer], settings: Settings) -> dict[str, Any]:
    """Return the arguments of simulated annotators for scorers by names of questions and harms, see `check_names`."""
    asked = {question.name for question in settings.questions}
    harms = {name: scorer for name, scorer in scorers.items() if name not in asked}
    if settings.harms and FLAGS in harms:
        harms[settings.harms[0]] = harms.pop(FLAGS)
    return {
        "scorers": {name: scorer for name, scorer in scorers.items() if name in asked},
        "flagger": HarmFlagger(harms),
        "harms": settings.harms,
    }
