"""Train and evaluate for a search, in a process of its own on a node of a cluster: see `remote.Remote.run`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from rlhf_envs.files import replace_json
from rlhf_envs.registration import check_environment

from ... import registry
from ..processes import serve
from .config import TuneConfig
from .remote import REPORTS, RESULT
from .search import Pruning, train_and_measure

__all__ = ["execute", "main"]


def main() -> int:
    """Run the task on standard input, and return the exit code."""
    return serve(execute)


def execute(task: dict[str, Any]) -> None:
    """Train once per seed and evaluate. Write the evaluations meanwhile to reports.json, the last ones to result.json.

    Args:
        task: the search's `config`, the `chosen` settings, the `seeds`, the `splits` to evaluate on, whether to write
            `reports`, the `folder`, the `name` for trackers, and the `registered` algorithms of the search's process.
    """
    for name, target in task["registered"].items():
        registry.register(name, target)
    config, folder = TuneConfig(**task["config"]), Path(task["folder"])
    check_environment(config.env)
    folder.mkdir(parents=True, exist_ok=True)
    reports: list[tuple[int, float, float]] = []

    def report(step: int, metric: float, kl: float) -> None:
        reports.append((step, metric, kl))
        replace_json(folder / REPORTS, reports, exact=True)

    (folder / REPORTS).unlink(missing_ok=True)  # of a node that was lost
    found = []
    for index, seed in enumerate(task["seeds"]):
        callback = Pruning(config, report, index) if task["reports"] else None
        found.append(train_and_measure(config, seed, task["chosen"], task["splits"], task["name"], callback))
    replace_json(folder / RESULT, found, exact=True)


if __name__ == "__main__":
    sys.exit(main())
