"""Define what a search may choose from: ranges by argument name, for the arguments that the algorithm takes."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rlhf_envs.names import nearest

from ...training.fields import parse_literal

if TYPE_CHECKING:
    import optuna

__all__ = ["RANGES", "Range", "parse_range", "search_space"]

LOG_FROM = 10.0  # a range of this factor or more is searched on a logarithmic scale


@dataclass(frozen=True)
class Range:
    """Hold the values of one argument: `low` to `high`, both included, or one of `choices`."""

    low: float = 0
    high: float = 0
    choices: tuple[Any, ...] = ()

    @property
    def log(self) -> bool:
        return self.low > 0 and self.high / self.low >= LOG_FROM

    def suggest(self, trial: optuna.Trial, name: str) -> Any:
        if self.choices:
            return trial.suggest_categorical(name, list(self.choices))
        if isinstance(self.low, int) and isinstance(self.high, int):
            return trial.suggest_int(name, self.low, self.high, log=self.log)
        return trial.suggest_float(name, float(self.low), float(self.high), log=self.log)

    def nearest(self, value: Any) -> Any:
        """Return the value moved into the range; None if that is not possible."""
        if self.choices:
            return value if value in self.choices else None
        return min(max(value, self.low), self.high) if _is_number(value) else None

    def __str__(self) -> str:
        """Return the range as `--space` takes it."""
        return ",".join(map(str, self.choices)) if self.choices else f"{self.low}..{self.high}"


RANGES: dict[str, Range] = {
    "learning_rate": Range(1e-5, 1e-2),
    "n_epochs": Range(1, 8),
    "kl_coef": Range(0.01, 1.0),
    "ent_coef": Range(1e-4, 0.1),
    "vf_coef": Range(0.02, 0.5),
    "clip_range": Range(choices=(0.1, 0.2, 0.3, 0.4)),
    "gae_lambda": Range(0.9, 1.0),
    "max_grad_norm": Range(0.3, 5.0),
    "group_size": Range(choices=(2, 4, 8)),
    "target_kl": Range(0.003, 0.1),  # TRPO's trust region; others end an update early by it, and have it off
}
ONLY_OF = {"target_kl": ("trpo",)}
WORDS = {"true": "True", "false": "False", "none": "None"}  # may be written in any case


def parse_range(text: str) -> tuple[str, Range]:
    """Read "learning_rate:1e-5..1e-3", "n_epochs:1..8" or "clip_range:0.1,0.2". Raise ValueError for other texts."""
    name, _, values = map(str.strip, text.partition(":"))
    is_range = ".." in values
    words = values.split("..", 1) if is_range else values.split(",")
    found = tuple(parse_literal(WORDS.get(word.strip().lower(), word.strip())) for word in words)
    finite = not any(isinstance(value, float) and not math.isfinite(value) for value in found)
    if not (name and values and finite) or (is_range and not all(map(_is_number, found))):
        raise ValueError(f"{text!r}: expected name:low..high or name:choice,choice, such as learning_rate:1e-5..1e-3")
    if not is_range:
        return name, Range(choices=found)
    low, high = found
    if not low < high:
        raise ValueError(f"{text!r}: {low} is not below {high}")
    return name, Range(low, high)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def search_space(
    known: Collection[str],
    given: Mapping[str, Range],
    *,
    algo: str,
    only: Iterable[str] = (),
    kl_coef: bool = True,
    rollout: int | None = None,
    episode: int = 1,
    n_envs: int = 1,
) -> dict[str, Range]:
    """Return the ranges of a search: the user's, and the `RANGES` whose argument the algorithm takes.

    Args:
        known: the arguments that the algorithm takes.
        given: the user's ranges, which come before `RANGES`; `only` leaves out all other arguments.
        kl_coef: search `kl_coef`. Do not if the objective is the reward that is trained on and nothing limits the KL:
            no KL penalty is then the best one.
        rollout: tokens of a rollout. `batch_size` is chosen from its divisors; None for no search of `batch_size`.
        episode: tokens of an episode, the smallest `batch_size`.
        n_envs: environments. Groups have to divide them.

    Raises:
        ValueError: the algorithm takes no argument of a name, or there is nothing to search.
    """
    ranges = {name: found for name, found in RANGES.items() if algo in ONLY_OF.get(name, (algo,))}
    if not kl_coef:
        del ranges["kl_coef"]
    ranges["group_size"] = Range(choices=tuple(k for k in RANGES["group_size"].choices if n_envs % k == 0) or (1,))
    if rollout is not None:
        sizes = [rollout // k for k in (16, 8, 4, 2, 1) if rollout % k == 0 and rollout // k >= min(episode, rollout)]
        ranges["batch_size"] = Range(choices=tuple(sizes))
    ranges |= given
    for name in (*given, *only):
        if name not in known:
            raise ValueError(f"--space {name}: {algo} takes no such argument; {nearest(name, sorted(known))}")
        if name not in ranges:
            raise ValueError(f"--only {name}: no range is known for it, give one with --space {name}:low..high")
    chosen = {name: found for name, found in ranges.items() if name in known and (not only or name in set(only))}
    chosen = {name: found for name, found in chosen.items() if len(found.choices) != 1}
    if not chosen:
        raise ValueError(f"there is nothing to search: {algo} takes none of {', '.join(RANGES)}; give --space")
    return chosen
