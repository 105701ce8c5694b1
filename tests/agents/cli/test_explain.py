"""The command `rlhf explain`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from agents.cli import app

LEAVE = ("--method", "leave_one_out")


def rlhf(*arguments: object) -> Any:
    return CliRunner().invoke(app, ["explain", *map(str, arguments)], env={"COLUMNS": "160"})


def test_a_completion_is_explained_as_text_json_and_html(tmp_path: Path) -> None:
    page = tmp_path / "why.html"
    given = ("tiny", "--text", "The film was", "--seed", 1, "--max-new-tokens", 4, *LEAVE)
    result = rlhf(*given, "--html", page)
    assert result.exit_code == 0, result.output
    for shown in ("the film was|", "tokens that count most", "token by token", "most probable instead"):
        assert shown in result.output
    assert page.read_text(encoding="utf-8").startswith("<!doctype html>")
    report = json.loads(rlhf(*given, "--json", "--alternatives", 2).stdout)
    assert "".join(unit["text"] for unit in report["units"]) == report["prompt"] + report["completion"]
    assert len(report["units"]) == len(report["components"]["reward"]["values"])
    assert [len(step["alternatives"]) for step in report["steps"]] == [2] * 4


def test_a_reward_alone_is_explained() -> None:
    report = json.loads(rlhf("--reward", "gold-bow", "--text", "a wonderful film", "--json").stdout)
    assert (report["prompt"], report["completion"], report["steps"]) == ("", "a wonderful film", [])
    assert max(report["components"]["reward"]["values"]) == report["components"]["reward"]["values"][1]
    empty = rlhf("--reward", "gold-bow", "--text", "a film", "--completion", "")
    assert "(empty completion)" in empty.output
    nothing = rlhf("--reward", "gold-bow", "--text", "")
    assert nothing.exit_code == 0 and "(empty completion)" in nothing.output
    assert "tokens that count" not in nothing.output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "nothing to explain"),
        (("tiny",), "--text is missing"),
        (("--reward", "gold-bow", "--text", "x", "--env", "rlhf/Sentiment-v0"), "--env is for a run"),
        (("--reward", "gold-bow", "--text", "x", "--temperature", "0.5"), "--temperature is for a run"),
        (("--reward", "gold-bow", "--text", "x", "--method", "integrated_gradients"), "has no part with a gradient"),
        (("--reward", "gold-bow", "--text", "x", "--method", "shap"), "--method"),
        (("--reward", "nothing", "--text", "x"), "unknown reward 'nothing'"),
        (("--reward", "gold-bow", "--text", "x", "--html", "no/where/x.html"), "there is no folder no/where"),
        (("tiny", "--text", "x", "--env", "rlhf/CustomerService-v0", *LEAVE), "has no column 'goal'"),
    ],
)
def test_mistakes_are_named(arguments: tuple[str, ...], message: str) -> None:
    result = rlhf(*arguments)
    assert result.exit_code == 2
    assert message in " ".join(result.output.split())
