"""`rlhf loop`: its flags, what it prints, and how it goes on."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from typer.testing import CliRunner

from agents.cli import app, loop
from agents.experiments.loop import feedback
from agents.experiments.loop.loop import LoopConfig
from agents.experiments.loop.report import round_cells

pytest.importorskip("sqlalchemy", reason="the feedback store needs the extra web")
pytest.importorskip("crowdkit", reason="aggregation needs the extra agreement")

FLAGS = ["--env", "rlhf/TokenBandit-v0", "-n", "96", "--n-envs", "32", "-params", "batch_size:48", "--no-progress"]
FLAGS += ["--rounds", "1", "--labels", "8", "--annotators", "3", "--reward-epochs", "1", "--test-episodes", "4"]


def rlhf(*arguments: str) -> Any:
    return CliRunner().invoke(app, ["loop", *arguments], env={"COLUMNS": "400"})


@pytest.fixture(autouse=True, scope="module")
def _no_pictures_of_rounds() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("agents.experiments.loop.report.plot_rounds", lambda *_: None)
        yield


@pytest.fixture(scope="module")
def done(module_path: Path) -> tuple[Any, Path]:
    """A run in the default folder, which is relative."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(module_path)
        return rlhf(*FLAGS), Path.cwd() / "logs/loop/TokenBandit-v0_1"


def test_it_shows_every_round_and_says_where_all_of_it_is(done: tuple[Any, Path]) -> None:
    result, folder = done
    assert result.exit_code == 0, result.output
    report = json.loads((folder / "report.json").read_text())
    for figures in report["rounds"]:
        judge = figures["estimates"]["token-bandit"]
        row = rf"{figures['round']}\s+{figures['tokens']}\s+{judge['mean']:.3f} ± {judge['sem']:.3f}"
        assert re.search(row, result.output), result.output
    assert "24 judgements, 96 tokens" in result.output
    assert f"Everything is in {folder}, see report.md" in result.output


def test_a_narrow_terminal_shows_the_rounds_side_by_side_and_breaks_no_word(done: tuple[Any, Path]) -> None:
    report = json.loads((done[1] / "report.json").read_text())
    headings, rows = round_cells({**report, "rounds": report["rounds"] * 4})  # of eight rounds
    output = io.StringIO()
    console = Console(width=80, file=output)
    tables = loop._rounds_tables(console, headings, rows)
    console.print(*tables, sep="\n")
    printed = output.getvalue()
    assert len(tables) > 1
    assert max(map(len, printed.splitlines())) <= 80
    for heading, *cells in zip(headings, *rows, strict=True):
        lines = re.findall(rf"^ ?{re.escape(heading)}  +(.*)$", printed, re.M)
        assert [re.sub(r"\s+", " ", cell) for line in lines for cell in re.split(r"\s{2,}", line.strip())] == cells
    (wide,) = loop._rounds_tables(Console(width=400), headings, rows)
    assert wide.row_count == len(rows)


def test_the_flags_are_the_configuration(done: tuple[Any, Path]) -> None:
    saved = LoopConfig(**json.loads((done[1] / "config.json").read_text()))
    assert (saved.rounds, saved.labels, saved.annotators, saved.n_timesteps, saved.n_envs) == (1, 8, 3, 96, 32)
    assert saved.hyperparams["batch_size"] == 48
    helped = rlhf("--help").output
    for name in LoopConfig.model_fields:
        assert (f"--{name.replace('_', '-')}" in helped) == (name not in LoopConfig.without)
    assert "--resume" in helped


def test_resume_adds_a_round(done: tuple[Any, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(done[1].parent)
    result = rlhf("--resume", done[1].name, "--rounds", "2")
    assert result.exit_code == 0, result.output
    assert "round_1: " not in result.output
    assert "round_2: learn" in result.output
    assert "48 judgements, 192 tokens" in result.output


def test_resume_takes_flags_that_the_run_has_and_no_others(done: tuple[Any, Path], tmp_path: Path) -> None:
    """Also such as would not go with the defaults of the flags that are left out."""
    settings = json.loads((done[1] / "config.json").read_text())
    settings |= {"labels": 300, "people": 300, "annotators": 0, "rounds": 1}
    (tmp_path / "config.json").write_text(json.dumps(settings))
    (tmp_path / "round_1").mkdir()  # and no run_id: it stops right after the flags
    same = rlhf("--resume", str(tmp_path), "--people", "300")
    assert "run_id is gone" in same.output
    other = rlhf("--resume", str(tmp_path), "--people", "301")
    assert other.exit_code == 2
    assert "--people 301 with --resume: the run in" in other.output


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--people", "9"], "--people 9 is more than --labels 8"),
        (["--annotators", "0"], "nobody labels 8 of the 8 pairs"),
        (["--query", "best"], "--query: "),
        (["--scorer", "nothing"], "unknown reward 'nothing'"),
        (["--resume", "nowhere"], "--resume nowhere: no run's folder"),
    ],
)
def test_a_wrong_flag_is_one_line_and_exit_code_2(flags: list[str], message: str, tmp_path: Path) -> None:
    result = rlhf(*FLAGS, "-f", str(tmp_path), *flags)
    assert result.exit_code == 2
    assert message in result.output
    assert "Traceback" not in result.output
    assert not (tmp_path / "loop").exists()


def test_a_run_that_is_interrupted_or_fails_says_how_it_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    def fail(*_: Any) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(feedback, "ask_simulated", interrupt)
    result = rlhf(*FLAGS, "-f", str(tmp_path))
    folder = tmp_path / "loop" / "TokenBandit-v0_1"
    assert result.exit_code == 130
    assert f"go on with: rlhf loop --resume {folder}" in result.output
    monkeypatch.setattr(feedback, "ask_simulated", fail)
    result = rlhf("--resume", str(folder))
    assert result.exit_code == 1
    assert "no space left on device" in result.output
    assert f"go on with: rlhf loop --resume {folder}" in result.output
    monkeypatch.undo()
    result = rlhf("--resume", str(folder))
    assert result.exit_code == 0, result.output
