from __future__ import annotations

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import agents
from agents.evaluation.corpus import corpus_estimate, corpus_metrics
from agents.training.early_stopping import EarlyStopping
from rlhf_envs import Task, register_task
from rlhf_envs.tasks.increasing_numbers import IncreasingNumbers
from rlhf_envs.text_env import TextGenerationEnv

ENV = "test/Spread-v0"


class Spread(IncreasingNumbers):
    """Measure how many different first words all completions have, over their number: no mean over episodes."""

    name = "spread"

    def corpus_metrics(
        self, prompts: list[str], completions: list[str], columns: Mapping[str, list[Any]]
    ) -> dict[str, float]:
        assert len(prompts) == len(completions) == len(columns["log_probs"])
        return {"spread": len({text[:1] for text in completions}) / len(completions), "nothing": float("nan")}


register_task(ENV, f"{__name__}:Spread")


@pytest.fixture(scope="module")
def evaluations() -> list[agents.evaluation.evaluate.Evaluation]:
    agent = agents.make("ppo", agents.make_vec_env(ENV, n_envs=2), seed=0)
    other = agents.make("ppo", agents.make_vec_env(ENV, n_envs=2), seed=1)
    return [agents.evaluate(one, ENV, 24) for one in (agent, other)]


def test_metrics_of_all_episodes_together_are_estimated_and_compared(evaluations: list[Any]) -> None:
    first, second = evaluations
    firsts = {c.completion[:1] for c in first.completions}
    estimate = first.estimates()["spread"]
    assert estimate.mean == pytest.approx(len(firsts) / 24)
    assert estimate.sem > 0
    assert estimate.n == 24
    change = second.change_from(first)["spread"]
    assert change.mean == pytest.approx(second.estimates()["spread"].mean - estimate.mean)
    assert "nothing" not in first.estimates()
    assert "spread" not in first.values()


def test_the_interval_is_the_bootstraps() -> None:
    values = np.array([0.5, *np.linspace(0, 1, 101)])
    estimate = corpus_estimate(values, 10)
    assert (estimate.mean, estimate.low, estimate.high) == (0.5, pytest.approx(0.025), pytest.approx(0.975))
    assert np.isnan(corpus_estimate(np.array([0.5, np.nan]), 10).sem)


def test_the_same_seed_draws_the_same_samples(evaluations: list[Any]) -> None:
    again = evaluations[0].change_from(evaluations[0])["spread"]
    assert (again.mean, again.sem) == (0, 0)


def test_early_stopping_can_go_by_such_a_metric(tmp_path: Any) -> None:
    vec_env = agents.make_vec_env(ENV, n_envs=4)
    agent = agents.make("ppo", vec_env, seed=0, n_steps=8)
    stopping = EarlyStopping("spread", patience=50, folder=tmp_path / "best", env=ENV, eval_freq=32, n_episodes=8)
    agent.learn(64, callback=stopping)
    assert len(stopping.history) >= 2
    assert all(0 < value <= 1 for _, value in stopping.history)


def test_a_task_without_such_metrics_is_never_asked() -> None:
    assert not Task().has_corpus_metrics
    assert Spread().has_corpus_metrics
    assert Spread().metric_names([{"prompt": "1"}])[-2:] == ["spread", "nothing"]


class Twice(Spread):
    """Give one name to two metrics."""

    def metrics(
        self, prompts: list[str], completions: list[str], columns: Mapping[str, list[Any]]
    ) -> dict[str, list[float]]:  # type: ignore[override]
        return {"spread": [0.0] * len(completions)}


def test_a_name_of_two_metrics_is_refused() -> None:
    env = TextGenerationEnv(Twice)
    agent = agents.make("ppo", agents.make_vec_env(ENV, n_envs=2), seed=0)
    with pytest.raises(ValueError, match=r"both give 'spread': rename one"):
        agents.evaluate(agent, env, 4)


def test_a_task_of_a_mixture_gets_its_own_columns_alone() -> None:
    seen: list[set[str]] = []

    class Columns(Spread):
        def corpus_metrics(
            self, prompts: list[str], completions: list[str], columns: Mapping[str, list[Any]]
        ) -> dict[str, float]:
            seen.append({*columns})
            return {"n": float(len(prompts))}

    def done(task: str, **row: Any) -> Any:
        return SimpleNamespace(asked="p", answered="c", row={"task": task, **row}, log_probs=np.zeros(1), metrics={})

    mixture = SimpleNamespace(subtasks={"a": Columns(), "b": Task()}, has_corpus_metrics=False)
    rows = [done("a", label=1), done("b", other=2), done("a", label=3)]
    found = corpus_metrics(mixture, rows)  # type: ignore[arg-type]
    assert found["a/n"][0] == 2
    assert {*found} == {"a/n"}
    assert seen[0] == {"label", "task", "log_probs"}
