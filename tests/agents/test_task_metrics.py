"""The metrics of a task reach TensorBoard, evaluations, comparisons, searches, early stopping and reports."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

import agents
from agents.cli.tables import change_table
from agents.core.text_metrics import TextMetrics
from agents.experiments.compare.config import CompareConfig
from agents.experiments.compare.plan import plan
from agents.experiments.tune.config import TuneConfig
from agents.experiments.tune.search import find_space, measure
from agents.training.config import TrainConfig
from agents.training.early_stopping import EarlyStopping
from agents.training.report import TrainResult, samples_markdown
from rlhf_envs.tasks.token_bandit import TokenBandit

ID = "test/CountingBandit-v0"


class CountingBandit(TokenBandit):
    def metrics(
        self, prompts: list[str], completions: list[str], columns: Mapping[str, list[Any]]
    ) -> dict[str, Sequence[float]]:
        return {"letters": [float(len(text.split())) for text in completions]}


class Reward(TokenBandit):
    def metrics(self, prompts: list[str], completions: list[str], columns: Any) -> dict[str, Sequence[float]]:
        return {"length": [0.0] * len(prompts)}


@pytest.fixture(autouse=True)
def _registered() -> Iterator[None]:
    gym.register(
        ID,
        entry_point="rlhf_envs.text_env:TextGenerationEnv",
        vector_entry_point="rlhf_envs.vector_env:TextGenerationVectorEnv",
        kwargs={"task": CountingBandit},
    )
    yield
    gym.registry.pop(ID)


def make_agent(**kwargs: Any) -> Any:
    return agents.make("ppo", ID, n_envs=8, seed=0, device="cpu", n_steps=6, batch_size=48, **kwargs)


def letters(completions: list[Any]) -> list[float]:
    return [float(len(c.completion.split())) for c in completions]


def test_an_evaluation_has_them_with_intervals() -> None:
    evaluation = agents.evaluate(make_agent(), ID, n_episodes=16)
    assert evaluation.metrics["letters"].tolist() == letters(evaluation.completions)
    assert evaluation.estimates()["letters"].mean == pytest.approx(np.mean(letters(evaluation.completions)))


def test_tensorboard_has_their_means() -> None:
    class Watch(TextMetrics):
        def _on_rollout_end(self) -> None:
            expected = np.mean([len(info["completion"].split()) for info in self._episodes])
            super()._on_rollout_end()
            seen.append((self.logger.name_to_value["rlhf/letters"], expected))

    seen: list[tuple[float, float]] = []
    make_agent().learn(96, callback=Watch())
    assert seen
    assert all(logged == pytest.approx(expected) for logged, expected in seen)


def test_early_stopping_goes_by_them() -> None:
    callback = EarlyStopping("letters", eval_freq=48, n_episodes=8)
    make_agent().learn(48, callback=callback)
    assert [tokens for tokens, _ in callback.history] == [0, 48]
    assert 0 <= callback.best <= 3


def test_the_tables_of_a_run_have_them() -> None:
    agent = make_agent()
    evaluation = agents.evaluate(agent, ID, n_episodes=8)
    result = TrainResult(TrainConfig(env=ID), Path(), agent, evaluation, evaluation, 1.0)
    table = change_table(result)
    assert "letters" in [str(cell) for cell in table.columns[0].cells]
    assert str(table.title) == "8 completions of 4 training prompts, mean ± standard error"
    assert samples_markdown(evaluation, evaluation).startswith("# The same training prompts before and after")


def test_a_comparison_takes_one_and_refuses_others(tmp_path: Path) -> None:
    shared: dict[str, Any] = {"env": ID, "algos": ["ppo"], "seeds": 1, "tokens": 96, "folder": str(tmp_path / "c")}
    assert plan(CompareConfig(**shared, metric="letters"))
    with pytest.raises(ValueError, match=f"unknown metric 'words' for {ID}: there are letters, reward"):
        plan(CompareConfig(**shared, metric="words"))


def test_a_search_maximises_one() -> None:
    config = TuneConfig(env=ID, tokens=192, n_envs=16, episodes=8, metric="letters", threads=1)
    find_space(config)
    agent = make_agent()
    expected = np.mean(letters(agents.evaluate(agent, ID, 8, "validation").completions))
    assert measure(config, agent, "validation")[0] == pytest.approx(expected)
    with pytest.raises(ValueError, match="unknown reward 'syllables'"):
        find_space(config.model_copy(update={"metric": "syllables"}))


def test_a_metric_may_not_have_the_name_of_another() -> None:
    env = gym.make("rlhf/TokenBandit-v0", task=Reward)
    with pytest.raises(
        ValueError,
        match=r"Task\.metrics, or log_metric of a reward, gives 'length', which is the name of another metric",
    ):
        agents.evaluate(make_agent(), env, n_episodes=4)
