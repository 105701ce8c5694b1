"""Compare algorithms on equal terms: `agents.compare(CompareConfig(algos=["ppo", "a2c"]))` or `rlhf compare`.

Every run has the same budget of tokens, prompts, start, reference, decoding and evaluation. A run is what `rlhf train`
does, in a process of its own. Finished runs stay. Runs that were cut short go on from their last checkpoint, or start
again if the algorithm leaves none. Failed runs are reported, and tried again the next time. The report follows
Agarwal et al., 2021 (https://arxiv.org/abs/2108.13264), see `agents.evaluation.statistics`.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

from rlhf_envs.files import replace_file, replace_json
from rlhf_envs.rendering import html_table

from ...saving.folders import CONFIG
from ...saving.locks import locked
from ...saving.provenance import provenance, write_settings
from ..cluster.jobs import check_ray, on_cluster
from .analysis import ComparisonReport, analyse, compared_metric
from .checks import check_start, horizon_of
from .config import CompareConfig, join_existing
from .exports import to_csv, to_latex
from .plan import Run, judges_of, plan, read_outcomes
from .plots import draw_plots
from .pruning import Pruned, find_pruned
from .report import headline, summary_table, write_report
from .tracking import EVALUATIONS, write_board
from .worker import run_all

__all__ = ["CompareConfig", "Comparison", "compare"]


@dataclass(frozen=True, repr=False)
class Comparison:
    """Hold a comparison whose runs have all ended; `config` is joined with what the folder held before."""

    config: CompareConfig
    folder: Path
    report: ComparisonReport
    seconds: float

    def __repr__(self) -> str:
        """Return what was compared, and the metric of every arm, the best first."""
        metric = self.report.metric
        arms = [f"{arm.name} {arm.metrics[metric]}" for arm in self.report.arms if metric in arm.metrics]
        failed = f", {len(self.failed)} failed" if self.failed else ""
        return f"Comparison({headline(self.report)}: {metric} {', '.join(arms)}{failed}, {str(self.folder)!r})"

    def _repr_html_(self) -> str:
        """Return the table of the report, as notebooks show it."""
        return html_table(*summary_table(self.report), headline(self.report))

    @property
    def failed(self) -> dict[str, str]:
        """Return the errors of failed runs, by the names of the runs."""
        return self.report.failed


def compare(config: CompareConfig, say: Callable[[str], None] = print) -> Comparison:
    """Run what is not finished, and write the comparison's folder.

    The folder gets config.json, one folder `<algorithm>/seed_<kk>` per run (as `rlhf train` has it), next to it the
    run's log and, if it failed, the error, then report.md, report.html, report.json, results.csv (every evaluation),
    table.tex, plots/ and TensorBoard events. If the folder exists, `config` may add algorithms, seeds and coefficients.
    `say` gets a line of text about each step.

    Raises:
        ValueError, TypeError: the configuration is wrong, or the folder holds another comparison. Nothing is written,
            and no language model is loaded.
        ModuleNotFoundError: it is to run on a Ray cluster, and Ray is not installed.
        KeyboardInterrupt: the runs under way are saved. The same configuration goes on.
    """
    started = time.perf_counter()
    config = join_existing(config)
    runs = plan(config)
    if missing := [run for run in runs if not run.result.is_file()]:
        check_start(config, [run.config.sft_data for run in missing if run.config.sft_data is not None])
    if rounded := _rounded(config, runs):
        say(f"{config.tokens:,} tokens are rounded up to whole rollouts: {', '.join(rounded)}")
    if config.uses_ray:
        check_ray(config.tracker)
    folder = config.path
    with locked(folder, "comparison"):
        write_settings(folder / CONFIG, config.model_dump(mode="json"))
        _run_missing(config, runs, say)
        outcomes = read_outcomes(runs)
        report = replace(analyse(config, outcomes), made=provenance())
        plots = draw_plots(report)
        replace_json(folder / "report.json", report.to_json())
        pruned = {arm.name: arm.pruned for arm in report.arms if arm.pruned is not None}
        replace_file(folder / "results.csv", to_csv(outcomes, pruned).encode("utf-8"))
        replace_file(folder / "table.tex", to_latex(report).encode("utf-8"))
        write_board(folder, judges_of(config.env_id, config.env_kwargs), write_report(folder, report, plots), plots)
    return Comparison(config, folder, report, time.perf_counter() - started)


def _rounded(config: CompareConfig, runs: Sequence[Run]) -> list[str]:
    """Return the arms that train for more tokens than asked, with how many."""
    horizon, rounded = horizon_of(config.env_id, config.env_kwargs), []
    for arm in {run.arm.name: run.arm for run in runs}.values():
        rollout = arm.rollout(horizon)
        if config.tokens % rollout:
            rounded.append(f"{arm.name} {rollout * math.ceil(config.tokens / rollout):,}")
    return rounded


def _run_missing(config: CompareConfig, runs: Sequence[Run], say: Callable[[str], None]) -> None:
    """Run the runs that have no result: all side by side, or seed by seed if losing arms are pruned in between."""
    missing = [run for run in runs if not run.result.is_file()]
    say(f"{len(runs)} runs in {config.path}, {len(runs) - len(missing)} of them finished")
    if not missing:
        return
    write_board(config.path, judges_of(config.env_id, config.env_kwargs))
    for run in missing:
        run.folder.parent.mkdir(parents=True, exist_ok=True)
        run.error.unlink(missing_ok=True)
    gpus = int(config.device.startswith("cuda"))
    with on_cluster(config.ray_address, gpus=gpus) if config.uses_ray else nullcontext():
        _run_due(config, runs, missing, say)


def _run_due(config: CompareConfig, runs: Sequence[Run], missing: Sequence[Run], say: Callable[[str], None]) -> None:
    pruned: dict[str, Pruned] = {}
    progress = _Progress(missing, config.tokens, say)
    by_seed = [[run for run in missing if run.seed == seed] for seed in range(config.seeds)]
    for due in by_seed if config.prune else [missing]:
        if config.prune:
            pruned.update(_prune(config, runs, pruned, say))
            progress.runs = [run for run in missing if not _is_left_out(run, pruned)]
        run_all([run for run in due if not _is_left_out(run, pruned)], config, progress.end, progress.look)


class _Progress:
    """Say how runs get on: a line at the first evaluation of each since training began, and one at its end.

    Attributes:
        runs: the runs to do, and those done.
    """

    def __init__(self, runs: Sequence[Run], tokens: int, say: Callable[[str], None]) -> None:
        self.runs, self.tokens, self.say = runs, tokens, say
        self._ended, self._begun, self._started = set[str](), set[str](), time.perf_counter()

    def end(self, run: Run, how: str) -> None:
        """Say how a run ended."""
        self._ended.add(run.name)
        self.say(f"{len(self._ended)}/{len(self.runs)} {run.name}: {how}{self._left(len(self._ended))}")

    def look(self) -> None:
        """Say which runs have been evaluated since their training began."""
        trained = {run.name: _tokens_trained(run) for run in self.runs if run.name not in self._ended}
        done = len(self._ended) + sum(min(tokens / self.tokens, 1.0) for tokens in trained.values())
        for name, tokens in trained.items():
            if 0 < tokens < self.tokens and name not in self._begun:
                self._begun.add(name)
                self.say(f"{name}: {tokens:,} of {self.tokens:,} tokens{self._left(done)}")

    def _left(self, done: float) -> str:
        """Return the time that is left after `done` runs' worth of work."""
        left = (time.perf_counter() - self._started) / done * (len(self.runs) - done)
        return f", about {left / 60:.0f} min left" if left >= 60 else ""


def _tokens_trained(run: Run) -> int:
    """Return the tokens that a run had trained for at its last evaluation; 0 before the first."""
    file = run.folder / EVALUATIONS
    return max((entry["tokens"] for entry in json.loads(file.read_text("utf-8"))), default=0) if file.is_file() else 0


def _is_left_out(run: Run, pruned: Mapping[str, Pruned]) -> bool:
    return run.arm.name in pruned and run.seed >= pruned[run.arm.name].seeds


def _prune(
    config: CompareConfig, runs: Sequence[Run], known: Mapping[str, Pruned], say: Callable[[str], None]
) -> dict[str, Pruned]:
    """Return the arms that are pruned by now, and name those that are not `known`."""
    outcomes = read_outcomes(runs)
    metric = compared_metric(config, [outcome for outcome in outcomes if outcome.result])
    pruned = find_pruned(outcomes, metric)
    for name, found in pruned.items():
        if name not in known:
            say(f"pruned {name} {found.describe(metric)}")
    return pruned
