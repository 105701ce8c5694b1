from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any, Literal

import pytest

from agents.registry import available
from benchmarks.tasks import __main__ as tasks
from rlhf_envs.registration import ENVIRONMENTS, task_of
from rlhf_envs.tasks import results as of_tasks
from rlhf_envs.tasks.results import describe_result, improved, read_results, results_table
from tests.forked import run_rlhf

PLANS = tasks.read_plans()


@pytest.mark.parametrize("env_id", sorted(PLANS))
def test_every_plan_measures_a_metric_of_its_task_that_is_not_the_reward(env_id: str) -> None:
    plan, task = PLANS[env_id], task_of(env_id)
    assert env_id in ENVIRONMENTS and task is not None
    assert plan["algo"] in available()
    known = [*task.judges, *task.metric_names(task.rows("train", None))]
    assert {plan["metric"], *plan.get("kept", ())} <= {*known}


def test_every_result_has_a_plan_and_says_what_it_measured() -> None:
    for env_id, result in read_results().items():
        assert PLANS[env_id]["metric"] == result["metric"]
        assert result["gain"] == pytest.approx(result["after"] - result["before"], abs=2e-4)
        assert result["metric"] in describe_result(env_id)
        assert PLANS[env_id].get("best") == result.get("best")
        assert {*PLANS[env_id].get("kept", ())} == {*result.get("kept", {})}
        assert tasks.settings_of(PLANS[env_id]) == result.get("flags", "")


@pytest.mark.parametrize(
    ("before", "after", "sem", "best", "better"),
    [
        (0.2, 0.5, 0.09, None, True),
        (0.2, 0.5, 0.11, None, False),
        (0.5, 0.2, 0.01, None, False),
        (0.5, 0.2, 0.09, 0, True),
        (0.5, 0.2, 0.11, 0, False),
        (0.2, 0.5, 0.01, 0, False),
        (0.5, -0.4, 0.09, 0, False),
        (0.2, 0.5, None, None, False),
    ],
)
def test_a_result_is_better_if_it_came_nearer_to_the_best_value_by_three_errors(
    before: float, after: float, sem: float | None, best: float | None, better: bool
) -> None:
    found = {"before": before, "after": after, "gain": after - before, "sem": sem}
    assert improved(found if best is None else {**found, "best": best}) == better


def test_a_result_tells_which_value_is_best_and_what_training_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = {"metric": "bias", "algo": "rloo", "best": 0, "kept": ["accuracy"], "sft": {"model": "tiny"}}
    plan["train"] = {"test-episodes": 9, "lr-schedule": "linear", "model": "tiny"}
    ends = [((0.6, 0.4), (0.1, 0.5)), ((0.8, 0.4), (0.2, 0.6)), ((0.7, 0.4), (0.15, 0.55))]
    reports: list[dict[str, Any]] = []
    for before, after in ends:
        means = [{"bias": {"mean": bias}, "accuracy": {"mean": accuracy}} for bias, accuracy in (before, after)]
        when = {name: {"estimates": one, "prompts": "p"} for name, one in zip(("before", "after"), means, strict=True)}
        reports.append({**when, "n_timesteps": 64})
    result = tasks.summarise("rlhf/Bias-v0", plan, reports)
    assert result["kept"] == {"accuracy": {"before": 0.4, "after": 0.55, "gain": 0.15, "sem": 0.0289}}
    assert result["flags"] == "--lr-schedule linear"
    monkeypatch.setattr(of_tasks, "read_results", lambda: {"rlhf/Bias-v0": result})
    assert describe_result("rlhf/Bias-v0") == (
        "bias (0 is best) 0.700 -> 0.150, -0.550 ± 0.029; accuracy 0.400 -> 0.550, +0.150 ± 0.029"
    )
    cells = "| `rlhf/Bias-v0` | bias (0 is best) | 0.700 (SFT) | 0.150 | **-0.550 ± 0.029**; accuracy +0.150 ± 0.029 |"
    assert cells in results_table()
    assert "| bias（0 为最佳） |" in results_table("zh")


@pytest.mark.parametrize(("page", "language"), [("README.md", "en"), ("README.zh.md", "zh")])
def test_the_readme_has_the_table_of_results(page: str, language: Literal["en", "zh"]) -> None:
    readme = (Path(__file__).parents[2] / page).read_text(encoding="utf-8")
    assert results_table(language) in readme, results_table(language)


def test_the_readme_and_the_docs_make_the_start_as_it_is_measured() -> None:
    plan = PLANS["rlhf/SpamFilter-v0"]
    command = " ".join(["rlhf sft rlhf/SpamFilter-v0 start", *tasks.as_flags(plan["sft"])])
    for page in ("README.md", "docs/environments/index.md"):
        assert f"\n{command}\n" in (Path(__file__).parents[2] / page).read_text(encoding="utf-8")


def test_flags_repeat_lists_and_leave_true_alone() -> None:
    assert tasks.as_flags({"params": ["a:1", "b:2"], "chat": True}) == ["--params", "a:1", "--params", "b:2", "--chat"]


def test_the_cpu_seconds_of_a_seed_are_those_of_its_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    burn = "import time\nwhile time.process_time() < 0.4: pass\ntime.sleep(0.6)"

    def work(*_: object) -> dict[str, float]:
        subprocess.run([sys.executable, "-c", burn], check=True)
        return {"seconds": 1.0}

    monkeypatch.setattr(tasks, "call_rlhf", work)
    monkeypatch.setattr(tasks, "run", work)
    found = tasks.measure_seed("rlhf/SpamFilter-v0", PLANS["rlhf/SpamFilter-v0"], 0, tmp_path, [])
    assert found["sft_seconds"] > 1
    assert 0.7 < found["cpu_seconds"] < 1.6, "two processes burn 0.4 s each, to a tick of 10 ms, and sleep for 0.6 s"


def test_a_task_is_fine_tuned_trained_and_written_down(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [{"prompt": f"{i} {word}", "completion": f" {word}"} for i in range(8) for word in ("spam", "ham")]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    plan = {
        "metric": "balanced_accuracy",
        "algo": "ppo",
        "demonstrations": str(tmp_path / "rows.jsonl"),
        "sft": {"epochs": 1},
        "train": {"tokens": 16, "n-envs": 4, "test-episodes": 4, "hyperparams": ["n_steps:4", "batch_size:16"]},
    }
    results = tmp_path / "results.json"
    results.write_text("{}")
    monkeypatch.setattr(tasks, "read_plans", lambda: {"rlhf/SpamFilter-v0": plan})
    monkeypatch.setattr(tasks, "RESULTS", results)
    monkeypatch.setattr(tasks, "read_results", lambda: {})
    monkeypatch.setattr(tasks, "ROOT", tmp_path)
    for page in ("README.md", "README.zh.md"):  # one of them lacks a row, as after a measurement
        text = (Path(__file__).parents[2] / page).read_text(encoding="utf-8")
        (tmp_path / page).write_text(text.replace(results_table("en"), results_table("en").rpartition("\n")[0]))
    monkeypatch.setattr(sys, "argv", ["tasks", "rlhf/SpamFilter-v0", "--seeds", "1", "--write"])
    monkeypatch.setattr(subprocess, "run", run_rlhf)
    tasks.main()
    (result,) = json.loads(results.read_text()).values()
    assert result["model"] == "tiny" and result["start"] == "sft" and result["seeds"] == 1
    assert "balanced_accuracy: a gain of" in capsys.readouterr().out
    for page in ("README.md", "README.zh.md"):
        assert (tmp_path / page).read_bytes() == (Path(__file__).parents[2] / page).read_bytes()


def test_a_task_with_a_pre_training_gets_its_base_once_and_the_result_names_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    called: list[list[str]] = []

    def call(what: str, words: list[str]) -> None:
        called.append(words)
        (tmp_path / "zh").mkdir()

    monkeypatch.setattr(tasks, "call_rlhf", call)
    env_id = "rlhf/ChineseReview-v0"
    assert [tasks.make_base(env_id, tmp_path) for _ in range(2)] == [{"model": str(tmp_path / "zh")}] * 2
    (words,) = called
    assert words[:3] == ["pretrain", "chinese-reviews", str(tmp_path / "zh")] and "--steps" in words
    assert tasks.make_base("rlhf/SpamFilter-v0", tmp_path) == {}
    assert tasks.named_model(env_id, PLANS[env_id]) == "zh"
    assert tasks.named_model("rlhf/SpamFilter-v0", PLANS["rlhf/SpamFilter-v0"]) == "tiny"
