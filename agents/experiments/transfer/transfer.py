"""Measure what training on one environment does to others: `agents.transfer(TransferConfig(envs=[...]))`.

The environments share a vocabulary, a start and an algorithm. One agent per environment and seed is trained as `rlhf
train` does it, in a process of its own, and every agent and the start complete the held-out prompts of every
environment. In a sequence the agents go on from each other. Finished runs and evaluations stay; what was cut short goes
on; failed runs are tried again.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from rlhf_envs.files import replace_file, replace_json
from rlhf_envs.rendering import html_table

from ...saving.folders import CONFIG
from ...saving.locks import locked
from ...saving.provenance import provenance, write_settings
from ..compare.checks import check_device
from ..processes import run_jobs
from .analysis import TransferReport, analyse
from .config import TransferConfig, join_existing
from .given import plan_given
from .plan import Plan, Run, make_start, plan
from .plots import draw_matrix
from .report import headline, matrix_table, to_csv, write_report
from .worker import make_job

__all__ = ["Transfer", "TransferConfig", "transfer"]


@dataclass(frozen=True, repr=False)
class Transfer:
    """Hold a transfer experiment whose runs have all ended; `config` is joined with what the folder held before."""

    config: TransferConfig
    folder: Path
    report: TransferReport
    seconds: float

    def __repr__(self) -> str:
        """Return what was done, and how many runs failed."""
        failed = f", {len(self.failed)} failed" if self.failed else ""
        return f"Transfer({headline(self.report)}{failed}, {str(self.folder)!r})"

    def _repr_html_(self) -> str:
        """Return the matrix, as notebooks show it."""
        return html_table(*matrix_table(self.report), headline(self.report))

    @property
    def failed(self) -> dict[str, str]:
        """Return the errors of failed runs, by the names of the runs."""
        return self.report.failed


def transfer(config: TransferConfig, say: Callable[[str], None] = print) -> Transfer:
    """Run and evaluate what is missing, and write the experiment's folder.

    The folder gets config.json, one folder `<environment>/seed_<kk>` per run (as `rlhf train` has it), `evaluations/`
    with the runs' logs and errors, then report.md, report.html, report.json, matrix.csv and plots/. If the folder
    exists, `config` may add environments (not to a sequence), finished runs and seeds. `say` gets a line of text about
    each step.

    Raises:
        ValueError, TypeError: the configuration is wrong, or the folder holds another experiment. Nothing is written.
        KeyboardInterrupt: the runs under way are saved. The same configuration goes on.
    """
    started = time.perf_counter()
    config = join_existing(config)
    found = plan_given(config) if config.runs else plan(config)
    if any(run.read(column.name) is None for run in (found.first, *found.runs) for column in found.columns):
        check_device(config.device)
    folder = config.path
    with locked(folder, "transfer experiment"):
        write_settings(folder / CONFIG, config.model_dump(mode="json"))
        make_start(found)
        _run_missing(config, found, say)
        report = replace(analyse(config, found), made=provenance())
        replace_json(folder / "report.json", report.to_json())
        replace_file(folder / "matrix.csv", to_csv(report).encode("utf-8"))
        plots = {"matrix": draw_matrix(report)} if any(report.cells.values()) else {}
        write_report(folder, report, plots)
    return Transfer(config, folder, report, time.perf_counter() - started)


def _run_missing(config: TransferConfig, found: Plan, say: Callable[[str], None]) -> None:
    """Run what has no result: all side by side, or step by step of a sequence, whose runs wait for each other."""
    every = [found.first, *found.runs]
    missing = [run for run in every if any(run.read(column.name) is None for column in found.columns)]
    say(f"{len(every)} runs in {config.path}, the start among them, {len(every) - len(missing)} of them finished")
    for run in missing:
        run.place.mkdir(parents=True, exist_ok=True)
        run.error.unlink(missing_ok=True)
    ended: list[str] = []
    begun = time.perf_counter()

    def end(name: str, how: str) -> None:
        ended.append(name)
        left = (time.perf_counter() - begun) / len(ended) * (len(missing) - len(ended))
        say(f"{len(ended)}/{len(missing)} {name}: {how}" + (f", about {left / 60:.0f} min left" if left >= 60 else ""))

    for due in _in_order(config, found, missing):
        ready = [run for run in due if not _waits(run, config, found)]
        for run in due:
            if run not in ready:
                say(f"{run.name}: waits for the run before it, which has no model yet")
        run_jobs([make_job(run, found, config) for run in ready], config.jobs, end, lambda: None)


def _waits(run: Run, config: TransferConfig, found: Plan) -> bool:
    """Return whether a run of a sequence has nothing to start from, because the one before it failed or was stopped."""
    if not config.sequence or run.config is None or run.row == found.rows[0]:
        return False
    return not Path(str(run.config.model)).is_dir()


def _in_order(config: TransferConfig, found: Plan, missing: Sequence[Run]) -> list[list[Run]]:
    """Return the missing runs in groups that can be run side by side."""
    if not config.sequence:
        return [list(missing)]
    steps = [[run for run in missing if run.row == row] for row in found.rows]
    return [[run for run in missing if run == found.first] + steps[0], *steps[1:]]
