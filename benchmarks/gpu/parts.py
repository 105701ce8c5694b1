"""Run parts one after the other inside a limit of time, and show what they found."""

from __future__ import annotations

import gc
import math
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, field

import torch

__all__ = ["Outcome", "Part", "Row", "Setting", "SkippedPart", "run_parts", "show"]


@dataclass(frozen=True)
class Setting:
    """Say where the parts run.

    Args:
        device: a device of torch's.
        small: tiny sizes and no bars for learning, only to see that everything runs.
        peak: the device's FLOP/s in bfloat16, to state how much of it is used; None if it is not known.
    """

    device: str = "cuda"
    small: bool = False
    peak: float | None = None

    def synchronize(self) -> None:
        """Wait until the device has done what it was given."""
        if self.device.startswith("cuda"):
            torch.cuda.synchronize(self.device)


@dataclass
class Outcome:
    """Hold what a part found.

    Args:
        figures: numbers by name.
        passed: whether they meet their bar; None for a measurement without one.
        bar: the bar, in words.
    """

    figures: dict[str, float]
    passed: bool | None = None
    bar: str = ""

    @classmethod
    def at_most(cls, **bars: tuple[float, float]) -> Outcome:
        """Return the outcome of figures with an upper bar each: `name=(figure, bar)`. NaN passes none."""
        figures = {name.replace("_", " "): figure for name, (figure, _) in bars.items()}
        passed = all(figure <= bar for figure, bar in bars.values())
        return cls(figures, passed, "at most " + ", ".join(f"{bar:g}" for _, bar in bars.values()))


@dataclass(frozen=True)
class Part:
    """Name a part, the seconds that it may need, and what runs it."""

    name: str
    seconds: float
    run: Callable[[Setting], Outcome]


@dataclass
class Row:
    """Hold a line of the table. `state` is "ok", "FAIL", "skipped", or "" for a measurement."""

    part: str
    state: str
    seconds: float
    figures: dict[str, float] = field(default_factory=dict)
    note: str = ""

    def to_dict(self) -> dict[str, object]:
        """Return the line as JSON takes it: a number that is not finite becomes None."""
        return asdict(self) | {"figures": {k: v if math.isfinite(v) else None for k, v in self.figures.items()}}


class SkippedPart(Exception):
    """Stop a part that cannot be judged here; the message says why."""


def run_parts(parts: Iterable[Part], setting: Setting, limit: float) -> Iterator[Row]:
    """Run the parts, and yield each line when it is known. A part that may not end within the limit is skipped.

    Args:
        parts: in the order of their importance.
        limit: seconds for all of them.
    """
    start = time.perf_counter()
    for part in parts:
        left = limit - (time.perf_counter() - start)
        if left < part.seconds and not setting.small:
            yield Row(part.name, "skipped", 0.0, note=f"{left:.0f} s left, may need {part.seconds:.0f}")
        else:
            yield _run(part, setting)


def _run(part: Part, setting: Setting) -> Row:
    began = time.perf_counter()
    try:
        outcome = part.run(setting)
        state = "" if outcome.passed is None else "ok" if outcome.passed else "FAIL"
        row = Row(part.name, state, 0.0, outcome.figures, outcome.bar)
    except SkippedPart as reason:
        row = Row(part.name, "skipped", 0.0, note=str(reason))
    except Exception as error:  # the other parts are still worth running
        traceback.print_exc()
        row = Row(part.name, "FAIL", 0.0, note=f"{type(error).__name__}: {str(error).partition(chr(10))[0]}")
    row.seconds = time.perf_counter() - began
    if setting.device.startswith("cuda"):
        gc.collect()
        torch.cuda.empty_cache()
    return row


def show(row: Row) -> str:
    """Return a line of the table: state, part, seconds, figures and bar."""
    figures = ", ".join(f"{name} {_short(value)}" for name, value in row.figures.items())
    note = f" ({row.note})" if row.note and row.figures else row.note
    return f"{row.state:>7} | {row.part:<34} | {row.seconds:6.1f} s | {figures}{note}"


def _short(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"
