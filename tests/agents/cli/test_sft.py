"""`rlhf sft`, alone and between the export of feedback and `rlhf train`."""

from __future__ import annotations

import inspect
import json
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

pytest.importorskip("sqlalchemy", reason='the store needs pip install "rlhf-envs[web]"')

from agents.cli import app
from agents.cli.loop import LoopFlags
from agents.cli.sft import SFTConfig
from agents.cli.train import TrainFlags
from agents.training.data_flags import ChatOptions
from agents.training.sft import fine_tune
from rlhf_envs.feedback import FeedbackStore, NewItem


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def write_corrections(n: int) -> None:
    """Fill feedback.db with the better completions that an annotator wrote."""
    with FeedbackStore("feedback.db") as store:
        store.add_annotator("ann")
        store.add_items([NewItem("correction", f"the film number {i}", (" was bad",)) for i in range(n)])
        while (task := store.claim("ann")) is not None:
            store.submit(task.id, "ann", {"text": " was quite good."}, key=str(task.id))


def test_every_argument_of_fine_tune_has_a_flag_with_its_default() -> None:
    parameters = inspect.signature(fine_tune).parameters
    fields = SFTConfig.model_fields
    assert {"columns" if name == "column" else name for name in fields} == set(parameters)
    for name, parameter in parameters.items():
        if parameter.default is not inspect.Parameter.empty and name not in (
            "columns",
            "chat_template_kwargs",
            "env_kwargs",
        ):
            assert fields[name].default == parameter.default, name


def test_corrections_are_learned_from_standard_input_and_what_is_cut_is_said() -> None:
    rows = [{"prompt": f"film {i}", "completion": " was good."} for i in range(30)]
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    result = CliRunner().invoke(app, ["sft", "-", "start", "--max-length", "32"], input=lines)
    assert result.exit_code == 0, result.output
    assert "start: " in result.output and "examples, validation loss" in result.output
    assert json.loads(Path("start/sft.json").read_text())["max_length"] == 32


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ('{"prompt": "p"}\n', "row 1: no column 'completion'"),
        ("{\n", "standard input:1: not JSON"),
        ("", "there are no rows"),
    ],
)
def test_bad_rows_are_named_with_the_fix(given: str, message: str) -> None:
    result = CliRunner().invoke(app, ["sft", "-", "start"], input=given)
    assert result.exit_code == 2
    assert message in result.output


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (
            ["promptt:question"],
            "--column promptt:question: fine-tuning reads no column 'promptt'; did you mean 'prompt'",
        ),
        (
            ["question:question", "xyz:completion"],
            "--column xyz:completion: fine-tuning reads no column 'xyz'; there",
        ),
        (
            ["prompt:questoin"],
            "no column 'questoin' to rename (it has: question, completion); did you mean 'question'",
        ),
    ],
)
def test_a_column_that_nothing_reads_or_that_is_not_there_is_named(columns: list[str], message: str) -> None:
    Path("rows.jsonl").write_text(json.dumps({"question": "p", "completion": "c"}) + "\n")
    flags = [part for column in columns for part in ("--column", column)]
    result = CliRunner().invoke(app, ["sft", "rows.jsonl", "start", *flags])
    assert result.exit_code == 2 and message in " ".join(result.output.split())
    assert not Path("start").exists()


def test_an_export_to_standard_output_is_rows_alone() -> None:
    write_corrections(3)
    result = CliRunner().invoke(app, ["feedback", "export", "-", "--format", "sft"])
    assert [json.loads(line)["completion"] for line in result.stdout.splitlines()] == [" was quite good."] * 3
    assert "-: 3 rows" in result.stderr


@pytest.mark.slow
def test_from_feedback_to_a_trained_agent_in_one_line() -> None:
    write_corrections(40)
    line = (
        "rlhf feedback export - --format sft | rlhf sft - start --epochs 4 && "
        "rlhf train --model start -n 2048 --test-episodes 32 -f runs"
    ).replace("rlhf ", f"{shlex.quote(sys.executable)} -m agents ")
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", line], capture_output=True, text=True, check=False, timeout=180
    )
    assert done.returncode == 0, done.stderr
    (agent,) = Path("runs").rglob("agent")
    assert json.loads((agent.parent / "config.json").read_text())["model"] == "start"


def test_the_flags_for_conversations_are_those_of_train(monkeypatch: pytest.MonkeyPatch) -> None:
    given: dict[str, Any] = {}
    monkeypatch.setattr("agents.training.sft.fine_tune", lambda *_, **options: given.update(options) or {"examples": 0})
    flags = ["--chat", "--system-prompt", "be brief", "--chat-template", "roles"]
    flags += ["--chat-template-kwargs", "enable_thinking:false"]
    result = CliRunner().invoke(app, ["sft", "rows.jsonl", "start", *flags])
    assert result.exit_code == 0, result.output
    asked: dict[str, Any] = {"chat": True, "system_prompt": "be brief", "chat_template": "roles"}
    asked |= {"chat_template_kwargs": {"enable_thinking": False}}
    assert {name: given[name] for name in ChatOptions.model_fields} == asked
    parsed: dict[str, Any] = {**asked, "chat_template_kwargs": ["enable_thinking:false"]}
    assert TrainFlags(**parsed).env_kwargs == LoopFlags(**parsed).env_kwargs == asked


def test_packing_can_be_turned_off() -> None:
    assert "--no-packing" in CliRunner().invoke(app, ["sft", "--help"], env={"COLUMNS": "200"}).output
