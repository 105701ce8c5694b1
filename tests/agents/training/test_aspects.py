"""`rlhf train --aspects FILE`: what a run, its evaluations and a comparison make of aspects."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from agents.algorithms.ppo_lagrangian import LagrangeMultiplier
from agents.experiments.compare.config import CompareConfig
from agents.experiments.loop.config import LoopConfig
from agents.training.config import TrainConfig
from agents.training.constraint import find_multipliers
from agents.training.run import prepare, train
from rlhf_envs.rewards.constraints import find_constraints
from tests.agents.training.runs import config, rlhf

ASPECTS = "right: {weight: 2, reward: token-bandit}\nvaried: {at_least: 3, reward: distinct-ngrams}\n"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "aspects.yml"
    path.write_text(ASPECTS + "again: {limit: -1, reward: repetition}\n")  # no agent keeps to these two
    return path


def test_a_run_raises_the_weighted_sum_finds_the_prices_and_shows_every_aspect(tmp_path: Path, file: Path) -> None:
    result = train(config(tmp_path, eval_freq=0, n_timesteps=192, aspects=str(file)))
    with (result.folder / "progress.csv").open(newline="") as lines:
        rollouts = [row for row in csv.DictReader(lines) if row["rlhf/cost_varied"]]
    assert len(rollouts) == 2
    prices = {"varied": 0.0, "again": 0.0}
    for row in rollouts:
        costs = {name: float(row[f"rlhf/cost_{name}"]) for name in prices}
        total = 2 * float(row["rlhf/reward_right"]) - prices["varied"] * (3 - costs["varied"])
        assert float(row["rlhf/reward"]) == pytest.approx(total - prices["again"] * (costs["again"] + 1), abs=1e-2)
        assert float(row["rlhf/reward_varied"]) == pytest.approx(costs["varied"], abs=1e-3)
        prices["varied"] += 0.1 * (3 - costs["varied"])
        prices["again"] += 0.1 * (costs["again"] + 1)
    found = find_constraints(result.agent.get_env().get_attr("reward_fn", 0)[0])
    assert {one.cost_name: one.multiplier for one in found} == pytest.approx(prices, rel=1e-3)
    for evaluation in (result.before, result.after):
        assert set(evaluation.components) == {"right", "varied", "again"}
        assert evaluation.reward == pytest.approx(2 * evaluation.components["right"]), "evaluations have no price"
    report = json.loads((result.folder / "report.json").read_text())
    assert {"reward_right", "reward_varied", "reward_again"} <= set(report["after"]["estimates"])
    saved = json.loads((result.folder / "config.json").read_text())
    file.write_text("changed: {weight: 1, reward: gold}\n")
    again = TrainConfig.of_folder(result.folder, TrainConfig())
    assert again.env_kwargs["reward_kwargs"] == saved["env_kwargs"]["reward_kwargs"], "a run keeps what it had"


def test_aspects_beside_a_reward_are_refused_and_verbs_take_them_as_they_can(tmp_path: Path, file: Path) -> None:
    refused = rlhf("train", "--aspects", str(file), "--env-kwargs", "reward:gold")
    assert refused.exit_code == 2
    assert "beside --env-kwargs reward:gold: the aspects are the reward" in " ".join(refused.stderr.split())
    comparison = CompareConfig(algos="ppo", aspects=str(file))
    assert set(comparison.env_kwargs["reward_kwargs"]["aspects"]) == {"right", "varied", "again"}
    assert "env_kwargs" not in CompareConfig(algos="ppo").model_fields_set
    assert "env_kwargs" not in TrainConfig().model_fields_set
    assert LoopConfig(aspects=str(file)).env_kwargs == {}, "a round fits them before they are its reward"


def test_an_algorithm_with_a_constraint_of_its_own_takes_the_limits_of_the_aspects(tmp_path: Path, file: Path) -> None:
    kwargs = {"algo": "ppo_lagrangian", "env": "rlhf/Sentiment-v0"}
    assert TrainConfig(**kwargs).resolved().hyperparams["cost"] == "repetition"
    limited = TrainConfig(**kwargs, aspects=str(file)).resolved()
    assert "cost" not in limited.hyperparams
    file.write_text("right: {weight: 1, reward: gold}\n")
    assert TrainConfig(**kwargs, aspects=str(file)).resolved().hyperparams["cost"] == "repetition"
    file.write_text(ASPECTS)
    run = prepare(config(tmp_path, algo="ppo_lagrangian", aspects=str(file), hyperparams={"multiplier_step": 0.5}))
    assert not any(isinstance(callback, LagrangeMultiplier) for callback in run.callbacks), "it brings its own"
    assert run.agent.multiplier_step == 0.5
    run.lock.release()
    with pytest.raises(ValueError, match="multiplier_step=2: ppo_lagrangian has one of its own; give -params multip"):
        find_multipliers(config(tmp_path, algo="ppo_lagrangian", aspects=str(file), multiplier_step=2), run.agent)


def test_a_step_of_prices_is_for_limits_however_the_aspects_are_given(file: Path) -> None:
    kwargs = {"reward": "aspects", "reward_kwargs": {"aspects": str(file)}}
    assert TrainConfig(env_kwargs=kwargs, multiplier_step=2).multiplier_step == 2
    with pytest.raises(ValueError, match="multiplier_start=2 is for the price of a cost: give --constraint"):
        TrainConfig(aspects=str(file), multiplier_start=2)
    file.write_text("right: {weight: 1, reward: gold}\n")
    with pytest.raises(ValueError, match=r"multiplier_step=2 is for .* or --aspects with a limit"):
        TrainConfig(aspects=str(file), multiplier_step=2)


def test_a_run_of_another_imports_nothing_that_its_aspects_name(tmp_path: Path) -> None:
    evil = {"aspects": {"a": {"weight": 1, "reward": "evil.py:score"}}}
    Path(tmp_path, "run.json").write_text(
        json.dumps({"algo": "ppo", "env_kwargs": {"reward": "aspects", "reward_kwargs": evil}})
    )
    refused = rlhf("train", "--config", str(tmp_path / "run.json"))
    assert "the reward 'evil.py:score' is not imported just because" in refused.stderr
