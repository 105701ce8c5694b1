"""The verbs on the user's own prompts and reward, and what they say where these are wrong."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from agents.cli import app
from agents.cli.compare import CompareFlags
from agents.cli.evaluate import EvaluateConfig
from agents.cli.train import TrainFlags

SMALL = ["-n", "256", "--n-envs", "8", "--env-kwargs", "max_new_tokens:4", "--env-kwargs", "max_prompt_tokens:8"]
SMALL += [
    "--test-episodes",
    "4",
    "--n-eval-episodes",
    "4",
    "--no-progress",
    "--run-name",
    "mine",
    "-params",
    "batch_size:32",
]


def rlhf(*arguments: str) -> Any:
    return CliRunner().invoke(app, list(arguments), env={"COLUMNS": "200"})


def write(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with a reward, which the command line imports from there."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path])
    monkeypatch.delitem(sys.modules, "my_own_reward", raising=False)
    (tmp_path / "my_own_reward.py").write_text(
        "def words(prompts, completions, **columns):\n    return [float(len(c.split())) for c in completions]\n"
    )
    return tmp_path


def test_the_short_flags_become_arguments_of_the_environment() -> None:
    flags = TrainFlags(data="my.jsonl", reward="m:r", column=["prompt:question"], env_kwargs=["max_new_tokens:4"])
    kwargs = {"max_new_tokens": 4, "data": "my.jsonl", "reward": "m:r", "columns": {"prompt": "question"}}
    assert (flags.env, flags.env_kwargs, flags.data) == ("rlhf/Prompts-v0", kwargs, None)
    assert TrainFlags(data="my.jsonl", env="rlhf/Sentiment-v0").env == "rlhf/Sentiment-v0"
    assert CompareFlags(data="my.jsonl", algos="ppo").env == "rlhf/Prompts-v0"
    assert "env" not in CompareFlags(data="my.jsonl", config="my.toml").model_fields_set
    assert EvaluateConfig(source="tiny", data="my.jsonl").arguments()["env_id"] == "rlhf/Prompts-v0"


def test_prompts_and_a_reward_of_ones_own_train_and_are_evaluated(here: Path, caplog: pytest.LogCaptureFixture) -> None:
    data = write(here / "my.jsonl", [{"question": f"film number {i} was"} for i in range(40)])
    own = ["--data", data, "--reward", "my_own_reward:words", "--column", "prompt:question"]
    result = rlhf("train", *own, *SMALL)
    assert result.exit_code == 0, result.output
    assert "4 completions of 1 held-out prompt, mean ± standard error" in result.output
    assert re.search(r"my\.jsonl: \d test, \d\d train, \d validation rows", caplog.text)
    report = json.loads((here / "logs/ppo/mine/report.json").read_text())
    assert (report["env"], report["after"]["prompts"]) == ("rlhf/Prompts-v0", "held-out prompts")
    found = rlhf("evaluate", "logs/ppo/mine", "-n", "4", "--samples", "0")
    assert found.exit_code == 2
    assert "'my_own_reward:words' is not imported just because a run's file names it: give it again" in found.output
    found = rlhf("evaluate", "logs/ppo/mine", "-n", "4", "--samples", "0", "--reward", "my_own_reward:words")
    assert found.exit_code == 0, found.output
    assert "4 completions of 1 held-out prompt, test split" in " ".join(found.output.split())
    resumed = rlhf("train", "--resume", "logs/ppo/mine")
    assert "give it again, --reward my_own_reward:words" in resumed.output


@pytest.mark.parametrize(
    ("rows", "flags", "message"),
    [
        ([{"prompt": "a film"}], (), "1 different prompt is too few for a test split: test_share=0.1 needs 10. Add"),
        ([{"prompt": "a film"}] * 30, (), "1 different prompt is too few for a test split"),
        (
            [{"text": "a film"}],
            (),
            "my.jsonl:1: no column 'prompt' (it has: text): add it, or rename one",
        ),
        (
            [{"prompt": "a film"}],
            ("--column", "text:promt"),
            "my.jsonl:1: no column 'promt' to rename (it has: prompt); did you mean 'prompt'?",
        ),
        ([{"prompt": "a film", "split": "fold 1"}], (), "no row has split 'train'; there are: fold 1"),
        ([{"prompt": "a film"}], ("--reward", "no_such:reward"), "there is no module 'no_such' in"),
    ],
)
def test_what_is_wrong_is_one_line_with_the_fix(
    here: Path, rows: list[dict[str, Any]], flags: tuple[str, ...], message: str
) -> None:
    data = write(here / "my.jsonl", rows)
    result = rlhf("train", "--data", data, "--reward", "my_own_reward:words", *SMALL, *flags)
    assert result.exit_code == 2, result.output
    assert message in " ".join(result.output.split())
    assert not (here / "logs").exists()


def test_a_file_of_training_prompts_is_measured_on_them_if_that_is_asked_for(here: Path) -> None:
    data = write(here / "my.jsonl", [{"prompt": "a film"}])
    result = rlhf("train", "--data", data, "--reward", "my_own_reward:words", *SMALL, "--test-split", "train")
    assert result.exit_code == 0, result.output
    assert "held-out" not in result.output
    assert "4 completions of 1 training prompt, mean ± standard error" in result.output
    assert "# The same training prompts before and after" in (here / "logs/ppo/mine/samples.md").read_text()
