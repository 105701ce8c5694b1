"""Losing arms get no further seeds: by which rule, in which order, and what the report says of them."""

from __future__ import annotations

import csv
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from scipy.stats import ttest_rel
from typer.testing import CliRunner

from agents.cli import app
from agents.experiments.compare import compare as comparing
from agents.experiments.compare.analysis import analyse
from agents.experiments.compare.config import CompareConfig, join_existing
from agents.experiments.compare.exports import to_csv, to_latex
from agents.experiments.compare.plan import Outcome, Run, plan, read_outcomes
from agents.experiments.compare.plots import draw_plots
from agents.experiments.compare.pruning import find_pruned
from agents.experiments.compare.report import headline, summary_table, to_markdown

# The rewards of five seeds: a2c is close to ppo, reinforce is far behind.
REWARDS = {"ppo": [0.8, 0.9, 0.7, 0.8, 0.9], "a2c": [0.7, 0.9, 0.8, 0.6, 0.9], "reinforce": [0.0, 0.3, 0.0, 0.1, 0.2]}


def config(folder: Path, **given: Any) -> CompareConfig:
    chosen: dict[str, Any] = dict(env="rlhf/TokenBandit-v0", algos=list(REWARDS), seeds=5, tokens=96, evaluations=1)
    return CompareConfig(**{**chosen, "folder": str(folder), "prune": True, **given})


def result(run: Run) -> dict[str, Any]:
    """A run that rises from 0 to the reward of its arm and seed."""
    end = REWARDS[run.arm.name][run.seed]
    ends = [(0, {"reward": 0.0, "kl": 0.0}), (96, {"reward": end, "kl": 1.0})]
    found: dict[str, Any] = {"tokens": 96, "seconds": 1.0, "judges": [], "reference": "tiny", "prompts": "abc"}
    found["evaluations"] = [
        {
            "step": step,
            "tokens": step,
            "seconds": 1.0,
            "samples": [],
            "estimates": {k: {"mean": v} for k, v in m.items()},
        }
        for step, m in ends
    ]
    return found | {"config": {"kl_coef": 0.1, "hyperparams": {}, "seed": run.seed}}


def outcomes(found: CompareConfig, ended: Callable[[Run], bool]) -> list[Outcome]:
    return [Outcome(run, result(run) if ended(run) else {}, None) for run in plan(found)]


def test_an_arm_is_pruned_once_the_paired_interval_excludes_the_best(tmp_path: Path) -> None:
    """The interval is SciPy's."""
    found = config(tmp_path)
    assert find_pruned(outcomes(found, lambda run: run.seed < 2), "reward") == {}
    pruned = find_pruned(outcomes(found, lambda run: run.seed < 4), "reward")
    assert {name: (arm.seeds, arm.best) for name, arm in pruned.items()} == {"reinforce": (3, "ppo")}
    intervals = {
        (name, n): ttest_rel(REWARDS["ppo"][:n], REWARDS[name][:n]).confidence_interval(0.95)
        for name in ("a2c", "reinforce")
        for n in (2, 3, 4)
    }
    assert [place for place, (low, _) in intervals.items() if low > 0] == [("reinforce", 3), ("reinforce", 4)]
    gap = pruned["reinforce"].difference
    assert (gap.low, gap.high) == pytest.approx(tuple(intervals["reinforce", 3]))


def test_a_round_that_is_not_finished_decides_nothing(tmp_path: Path) -> None:
    waiting = outcomes(config(tmp_path), lambda run: run.seed < 3 and run.name != "a2c/seed_02")
    assert find_pruned(waiting, "reward") == {}
    failed = [Outcome(o.run, o.result, "broke") if o.run.name == "a2c/seed_02" else o for o in waiting]
    assert find_pruned(failed, "reward").keys() == {"reinforce"}, "a failed run has ended"


def test_an_arm_that_has_all_its_runs_is_not_pruned(tmp_path: Path) -> None:
    assert find_pruned(outcomes(config(tmp_path), lambda run: True), "reward") == {}


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The names of the runs that comparisons start together. The third call of `run_all` is interrupted."""
    calls: list[list[str]] = []

    def run_all(runs: Sequence[Run], _: CompareConfig, ended: Callable[[Run, str], None], look: Any) -> None:
        calls.append([run.name for run in runs])
        for run in runs[: 1 if len(calls) == 3 else None]:
            run.folder.mkdir(parents=True)
            run.result.write_text(json.dumps(result(run)))
            ended(run, "finished")
        if len(calls) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(comparing, "run_all", run_all)
    monkeypatch.setattr(comparing, "write_board", lambda *_: None)
    return calls


def test_a_comparison_runs_seed_by_seed_and_drops_the_losers(tmp_path: Path, started: list[list[str]]) -> None:
    """Also if it is stopped in between."""
    found, said = config(tmp_path), list[str]()
    with pytest.raises(KeyboardInterrupt):
        comparing._run_missing(found, plan(found), said.append)
    comparing._run_missing(found, plan(found), said.append)
    assert [[name[:-8] + name[-1] for name in call] for call in started] == [
        ["ppo0", "a2c0", "reinforce0"],
        ["ppo1", "a2c1", "reinforce1"],
        ["ppo2", "a2c2", "reinforce2"],
        [],
        [],
        ["a2c2", "reinforce2"],
        ["ppo3", "a2c3"],
        ["ppo4", "a2c4"],
    ]
    (line,) = [line for line in said if line.startswith("pruned")]
    assert line == "pruned reinforce after 3 seeds: ppo is ahead by 0.700 [0.452, 0.948] in reward"
    assert said[-1] == "6/6 a2c/seed_04: finished", "pruned runs are not waited for"
    report = analyse(found, read_outcomes(plan(found)))
    assert [arm.name for arm in report.arms if arm.pruned] == ["reinforce"]


def test_a_comparison_that_prunes_nothing_runs_all_at_once(tmp_path: Path, started: list[list[str]]) -> None:
    found = config(tmp_path, prune=False)
    comparing._run_missing(found, plan(found), lambda _: None)
    assert [len(call) for call in started] == [15]


def test_a_pruned_arm_is_called_so_wherever_it_is_shown(tmp_path: Path) -> None:
    found = config(tmp_path)
    runs = outcomes(found, lambda run: run.seed < 3 or run.arm.name != "reinforce")
    report = analyse(found, runs)
    (arm,) = [arm for arm in report.arms if arm.pruned]
    assert (arm.name, arm.finished, report.unfinished) == ("reinforce", 3, [])
    assert report.to_json()["arms"][2]["pruned"]["seeds"] == 3
    assert headline(report).startswith("3 algorithms, up to 5 seeds")
    assert [row[1] for row in summary_table(report)[1]] == ["5 of 5", "5 of 5", "3 of 5, pruned"]
    assert any(note.startswith("Pruned: reinforce.") for note in report.notes)
    text = to_markdown(report, ["final"]).replace("\\", "")
    assert "## Pruned" in text
    assert "reinforce (pruned, 3 of 5 seeds)" in text
    assert "ppo is ahead by 0.700" in text
    assert r"reinforce & 3 of 5, pruned & " in to_latex(report)
    rows = list(csv.DictReader(to_csv(runs, {arm.name: arm.pruned}).splitlines()))
    assert {row["pruned_after"] for row in rows if row["algorithm"] == "reinforce"} == {"3"}
    assert {row["pruned_after"] for row in rows if row["algorithm"] != "reinforce"} == {""}
    plots = draw_plots(report)
    labels = [label.get_text() for label in plots["final"].axes[0].get_yticklabels()]
    assert labels == ["reinforce (pruned, 3 of 5 seeds)", "a2c", "ppo"]
    assert "reinforce (pruned, 3 of 5 seeds)" in [line.get_label() for line in plots["efficiency"].axes[0].lines]
    assert "pruned" in [text.get_text() for text in plots["frontier"].axes[0].texts]


def test_pruning_needs_three_seeds(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="prune with seeds=2: an arm is pruned after two seeds or later; take 3"):
        plan(config(tmp_path, seeds=2))


def test_a_later_call_may_prune_or_run_what_was_pruned(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(config(tmp_path).model_dump_json())
    assert join_existing(CompareConfig(folder=str(tmp_path))).prune
    assert not join_existing(CompareConfig(folder=str(tmp_path), prune=False)).prune
    assert "--no-prune" in CliRunner().invoke(app, ["compare", "--help"], env={"COLUMNS": "200"}).output


def test_the_first_evaluation_of_each_run_under_way_is_told_with_the_time_that_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After 10 minutes one run of four is a quarter done and one is half done: 10 / 0.75 * 3.25 minutes are left."""
    runs, said, clock = plan(config(tmp_path, tokens=960))[:4], list[str](), iter([0.0, 600.0, 600.0])
    monkeypatch.setattr(time, "perf_counter", lambda: next(clock))
    progress = comparing._Progress(runs, 960, said.append)
    for run, tokens in zip(runs, ([0, 240], [0, 240, 480], [0], []), strict=True):
        run.folder.mkdir(parents=True)
        if tokens:
            (run.folder / "evaluations.json").write_text(json.dumps([{"tokens": n} for n in tokens]))
    progress.look()
    assert said == [
        "ppo/seed_00: 240 of 960 tokens, about 43 min left",
        "a2c/seed_00: 480 of 960 tokens, about 43 min left",
    ]
    progress.look()
    assert len(said) == 2, "once for each run"
