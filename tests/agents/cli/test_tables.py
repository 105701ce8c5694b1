"""What the command line prints stays readable: headings in whole words, and a warning once."""

from __future__ import annotations

import io
import logging
from typing import Any

import pytest
import typer
from rich.console import Console
from typer.testing import CliRunner

from agents.cli.options import Flags, add_command
from agents.cli.tables import make_table


def test_headings_break_between_words_alone() -> None:
    headings = ["annotator", "judged", "skips", "seconds", "agreement", "gold right", "at random", "first shown"]
    rows = [["simulated-10", "60", "0", "12.5", "0.52", "11/12", "22% (10%-41%)", "51% (43%-60%)"]] * 2
    output = io.StringIO()
    Console(width=80, file=output).print(make_table(headings, rows))
    words = output.getvalue().split()
    assert [word for heading in headings for word in heading.split() if word not in words] == []
    assert max(map(len, output.getvalue().splitlines())) <= 80


@pytest.mark.parametrize("width", [40, 80, 120])
@pytest.mark.parametrize(
    "name", ["zoe", "my-app/1b263f0c4d5e6f70", "a-client-with-a-long-name/1b263f0c4d5e6f70", "x" * 100]
)
def test_names_that_are_typed_elsewhere_stay_whole(name: str, width: int) -> None:
    headings = ["annotator", "judged", "skips", "seconds", "agreement", "gold right", "at random", "first shown"]
    rows = [[one, "60", "0", "12.5", "0.52", "11/12", "22% (10%-41%)", "51% (43%-60%)"] for one in (name, "bob")]
    output = io.StringIO()
    Console(width=width, file=output).print(make_table(headings, rows, typed="annotator"), crop=False)
    lines = output.getvalue().splitlines()
    assert sum(name in line for line in lines) == 1 and sum("bob" in line for line in lines) == 1
    assert all(len(line) <= width for line in lines if name not in line), "only a name may be wider"
    shown = "".join(output.getvalue().split())
    assert width < 80 or all(cell in shown for cell in rows[0][1:6]), "nothing is cut"


def test_a_command_says_a_thing_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The environments for training and for evaluations are made alike, and warn alike; failures come again."""
    app, stream = typer.Typer(), io.StringIO()
    of_task, of_run = logging.getLogger("rlhf_envs.tasks.said_once"), logging.getLogger("agents.training.said_often")
    for logger in (of_task, of_run):
        monkeypatch.setattr(logger, "propagate", False)  # pytest has handlers: the last resort would print nothing
    handler = logging.StreamHandler(stream)
    monkeypatch.setattr(logging, "lastResort", handler)

    @add_command(app, Flags, "warn")
    def warn(flags: Any) -> None:
        """Warn."""
        for number in (1, 1, 2):
            of_task.warning("no reward %d", number)
            of_run.warning("no checkpoint")

    for _ in range(2):
        assert CliRunner().invoke(app).exit_code == 0
    said = ["no reward 1", "no checkpoint", "no checkpoint", "no reward 2", "no checkpoint"]
    assert stream.getvalue().split("\n") == [*said, *said, ""]
    assert handler.filters == []
