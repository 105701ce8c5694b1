"""A transfer experiment on two of the package's own tasks, whose metrics differ, from the embedded model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

import agents
from agents.experiments.transfer.config import TransferConfig


def test_a_judge_and_a_metric_of_all_episodes_stand_in_one_matrix(
    tmp_path: Path, jobs_here: Callable[..., list[str]]
) -> None:
    jobs_here()
    chosen = TransferConfig(
        envs=["rlhf/Sentiment-v0", {"id": "rlhf/SpamFilter-v0", "name": "Spam"}],
        seeds=1,
        jobs=1,
        n_timesteps=128,
        n_envs=16,
        hyperparams={"n_steps": 8, "batch_size": 128},
        metric={"Spam": "balanced_accuracy"},
        test_episodes=8,
        folder=str(tmp_path / "t"),
    )
    found = agents.transfer(chosen, lambda _: None)
    assert found.failed == {}
    sentiment, spam = found.report.columns
    assert (sentiment.metric, spam.metric) == ("gold", "balanced_accuracy")
    assert (sentiment.decoding["temperature"], spam.decoding["temperature"]) == (0.7, 1.0)  # as their own settings say
    before = agents.evaluate("tiny", "rlhf/Sentiment-v0", 8, temperature=0.7)
    after = agents.evaluate(str(tmp_path / "t" / "Spam" / "seed_00"), "rlhf/Sentiment-v0", 8, temperature=0.7)
    cell = found.report.cells["Spam"]["Sentiment-v0"]
    assert found.report.before["Sentiment-v0"].mean == pytest.approx(before.judges["gold"].mean())
    assert cell.change.mean == pytest.approx(after.change_from(before)["gold"].mean, abs=1e-6)
    assert cell.change.low <= cell.change.mean <= cell.change.high
    assert found.report.before["Spam"].mean == pytest.approx(
        agents.evaluate("tiny", "rlhf/SpamFilter-v0", 8).estimates()["balanced_accuracy"].mean
    )
    assert all(cell.prompts == "held-out prompts" for own in found.report.cells.values() for cell in own.values())
    assert found.report.prompts["Spam"] == "8 held-out prompts"
