"""Read what became of the runs of a comparison."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from .plan import Run

__all__ = ["Outcome", "read_outcomes"]


@dataclass(frozen=True)
class Outcome:
    """Hold what became of a run: its `result.json` (empty if it has not finished), and an error if it failed."""

    run: Run
    result: dict[str, Any]
    error: str | None

    @property
    def evaluations(self) -> list[dict[str, Any]]:
        """Return the evaluations of a finished run, by step, see `Tracker.records`."""
        return list(self.result["evaluations"])

    def curve(self, name: str) -> dict[int, float]:
        """Return a metric by step."""
        return {e["step"]: e["estimates"][name]["mean"] for e in self.evaluations if name in e["estimates"]}

    def last(self) -> dict[str, float]:
        """Return all metrics at the end."""
        return {name: estimate["mean"] for name, estimate in self.evaluations[-1]["estimates"].items()}


def read_outcomes(runs: Sequence[Run]) -> list[Outcome]:
    """Return what became of runs, from their files."""
    outcomes = []
    for run in runs:
        result = json.loads(run.result.read_text(encoding="utf-8")) if run.result.is_file() else {}
        failed = not result and run.error.is_file()
        error = json.loads(run.error.read_text(encoding="utf-8"))["error"] if failed else None
        outcomes.append(Outcome(run, result, error))
    return outcomes
