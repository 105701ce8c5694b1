"""The laboratory: algorithms compared on equal terms.

`agents.compare(CompareConfig(algos=["ppo", "a2c"]))`, or `rlhf compare --algos ppo,a2c`. Every run has the same budget
of tokens, prompts, start, reference, decoding and evaluation, and is what `rlhf train` does, in a process beside. Runs
that are finished stay, those that were cut short go on from their last checkpoint (or anew, where an algorithm leaves
none), and those that failed are reported, and tried again the next time. What it comes to is told as Agarwal et al.,
2021 ask (https://arxiv.org/abs/2108.13264), see `agents.evaluation.statistics`.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from rlhf_envs.files import replace_file
from rlhf_envs.registration import task_of

from .config import CONFIG, CompareConfig, join_existing
from .plan import Run, plan

__all__ = ["CompareConfig", "Comparison", "compare"]


@dataclass(frozen=True)
class Comparison:
    """A comparison whose runs have all ended.

    Attributes:
        config: with what the folder held before.
        report: what is in `report.json`.
        failed: the errors of failed runs, by their names.
    """

    config: CompareConfig
    folder: Path
    report: dict[str, Any]
    seconds: float

    @property
    def failed(self) -> dict[str, str]:
        """The errors of failed runs, by their names."""
        return {entry["run"]: entry["error"] for entry in self.report["failed"]}


def compare(config: CompareConfig, say: Callable[[str], None] = print) -> Comparison:
    """Run what is not finished, and write the comparison's folder.

    The folder gets config.json, a folder `<algorithm>/seed_<kk>` a run (that of `rlhf train`), beside it what the run
    printed and why it failed, report.md, report.html, report.json, plots/, and TensorBoard events.

    Args:
        config: the configuration; of a folder that exists, it may add algorithms, seeds and coefficients.
        say: is told what is going on.

    Raises:
        ValueError, TypeError: the configuration is wrong, or is of another comparison than the folder; nothing is
            written, and no model loaded.
        KeyboardInterrupt: the runs under way are saved; the same configuration goes on.
    """
    from .processes import locked

    started = time.perf_counter()
    config = join_existing(config)
    runs = plan(config)
    folder = config.path
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder):
        replace_file(folder / CONFIG, (config.model_dump_json(indent=2) + "\n").encode("utf-8"))
        _run_missing(config, runs, say)
        report = _report(config, runs)
    return Comparison(config, folder, report, time.perf_counter() - started)


def _run_missing(config: CompareConfig, runs: Sequence[Run], say: Callable[[str], None]) -> None:
    """Run the runs that have no result."""
    from ...registry import registered
    from .board import write_board
    from .processes import run_all

    missing = [run for run in runs if not run.result.is_file()]
    say(f"{len(runs)} runs in {config.path}, {len(runs) - len(missing)} of them finished")
    if not missing:
        return
    write_board(config.path, _judges(config))
    by_name = {run.name: run for run in missing}
    for run in missing:
        run.folder.parent.mkdir(parents=True, exist_ok=True)
        run.error.unlink(missing_ok=True)
    tasks = [
        {
            "name": run.name,
            "label": run.arm.label,
            "config": json.loads(run.config.model_dump_json()),
            "steps": config.steps,
            "keep_agents": config.keep_agents,
            "registered": registered(),
            "log": str(run.log.absolute()),
        }
        for run in missing
    ]
    ended = 0

    def done(task: dict[str, Any], answer: dict[str, Any]) -> None:
        nonlocal ended
        ended += 1
        run, failed = by_name[task["name"]], answer["status"] in ("failed", "died")
        if failed:
            replace_file(run.error, (json.dumps(answer, indent=2) + "\n").encode("utf-8"))
        say(f"{ended}/{len(missing)} {run.name}: {answer['status'] if not failed else 'FAILED, ' + answer['error']}")

    run_all(tasks, config.jobs, done)


def _judges(config: CompareConfig) -> tuple[str, ...]:
    return tuple(getattr(task_of(config.env_id), "judges", ()))


def _report(config: CompareConfig, runs: Sequence[Run]) -> dict[str, Any]:
    """Write the report from the files of the runs."""
    from .analysis import analyse, read_outcomes
    from .board import write_board
    from .plots import draw_plots
    from .report import write_report

    report = analyse(config, read_outcomes(runs))
    plots = draw_plots(report)
    replace_file(config.path / "report.json", (json.dumps(report, indent=1) + "\n").encode("utf-8"))
    write_report(config.path, report, plots)
    markdown = (config.path / "report.md").read_text(encoding="utf-8")
    write_board(config.path, _judges(config), markdown, plots)
    return report


class _Module(ModuleType):
    """This module, which is the function too: `agents.compare` is the one or the other by what was imported first."""

    def __call__(self, config: CompareConfig, say: Callable[[str], None] = print) -> Comparison:
        return compare(config, say)


sys.modules[__name__].__class__ = _Module
