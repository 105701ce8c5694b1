"""`rlhf train --constraint COST --limit X`: the multiplier around any algorithm's reward, and its exact resume."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from agents.experiments.loop.config import LoopConfig
from agents.training.config import TrainConfig
from agents.training.dry_run import describe_run
from agents.training.run import prepare, train
from rlhf_envs.rewards import get_reward
from rlhf_envs.rewards.constraints import find_constraints
from rlhf_envs.rewards.state import get_reward_state
from tests.agents.training.runs import assert_same_run, config, finish, rlhf, train_until_killed

CONSTRAINT = {"constraint": "repetition", "limit": -1.0, "n_timesteps": 192}  # two rollouts; no agent keeps to it


def multiplier(agent: Any) -> float:
    (state,) = get_reward_state(agent.get_env().get_attr("reward_fn", 0)[0]).values()
    return state["multiplier"]


def test_the_multiplier_rises_by_the_violation_of_each_rollout_and_the_cost_is_in_the_report(tmp_path: Path) -> None:
    result = train(config(tmp_path, eval_freq=0, **CONSTRAINT))
    with (result.folder / "progress.csv").open(newline="") as file:
        costs = [float(row["rlhf/cost"]) for row in csv.DictReader(file) if row["rlhf/cost"]]
    assert len(costs) == 2
    assert multiplier(result.agent) == pytest.approx(sum(0.1 * (cost + 1.0) for cost in costs), rel=1e-3)
    report = json.loads((result.folder / "report.json").read_text())
    for time, evaluation in (("before", result.before), ("after", result.after)):
        cost = report[time]["estimates"]["repetition"]["mean"]
        assert cost == pytest.approx(evaluation.judges["repetition"].mean(), abs=1e-3)
        assert set(evaluation.components) == {"token-bandit"}, "evaluations have the reward without the price"


def test_the_first_multiplier_and_its_step_are_flags(tmp_path: Path) -> None:
    result = train(config(tmp_path, eval_freq=0, multiplier_start=2.0, multiplier_step=0.5, **CONSTRAINT))
    with (result.folder / "progress.csv").open(newline="") as file:
        costs = [float(row["rlhf/cost"]) for row in csv.DictReader(file) if row["rlhf/cost"]]
    assert multiplier(result.agent) == pytest.approx(2 + sum(0.5 * (cost + 1.0) for cost in costs), rel=1e-3)


def test_a_killed_run_goes_on_exactly_with_its_multiplier(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = dict(algo="rloo", hyperparams={}, save_freq=96, **CONSTRAINT)
    whole = train(config(tmp_path / "whole", **settings))
    train_until_killed(monkeypatch, config(tmp_path, **settings), 192)
    result = finish(tmp_path / "rloo" / "run")
    assert_same_run(whole.folder, result.folder)
    assert multiplier(result.agent) == multiplier(whole.agent) > 0


def test_the_configuration_has_it_and_a_dry_run_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = config(tmp_path, **CONSTRAINT)
    assert TrainConfig(**json.loads(settings.model_dump_json())) == settings
    monkeypatch.setattr("agents.training.dry_run._measure", lambda *_: None)
    plan = dict(describe_run(settings))
    assert "constraint=repetition, limit=-1.0" in plan["settings other than the defaults"]


def test_a_cost_of_ones_own_is_imported_when_it_is_typed_and_not_when_a_file_names_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("my_cost.py").write_text("def letters(prompts, completions, **_):\n    return [len(c) for c in completions]\n")
    run = prepare(config(tmp_path, constraint="./my_cost.py:letters", limit=1))
    (constrained,) = find_constraints(run.agent.get_env().get_attr("reward_fn", 0)[0])
    assert (constrained.cost_name, constrained.limit) == ("letters", 1.0)
    assert run.before.judges["letters"].mean() > 1
    run.lock.release()
    Path("run.json").write_text(run.config.model_dump_json())
    refused = "the constraint './my_cost.py:letters' is not imported just because"
    assert refused in rlhf("train", "--config", "run.json").stderr
    (run.folder / "config.json").write_text(run.config.model_dump_json())
    assert refused in rlhf("train", "--resume", str(run.folder)).stderr


def test_a_cost_with_a_memory_learns_nothing_from_evaluations(tmp_path: Path) -> None:
    cost: Any = get_reward("novelty")
    before = cost.get_state()
    run = prepare(config(tmp_path, constraint="novelty", limit=0.1))
    run.lock.release()
    assert len(run.before.judges["novelty"]) == 8
    assert cost.get_state() == before


def test_an_environment_that_is_constrained_by_the_cost_already_is_refused(tmp_path: Path) -> None:
    own = {"reward": "constrained", "reward_kwargs": {"reward": "token-bandit", "cost": "repetition", "limit": 1}}
    with pytest.raises(ValueError, match="--constraint repetition: the environment's reward limits 'repetition' alre"):
        prepare(config(tmp_path, env_kwargs=own, **CONSTRAINT))


def test_the_rounds_of_a_loop_have_none() -> None:
    with pytest.raises(ValueError, match="constraint=repetition: the rounds of a loop have none; leave it out"):
        LoopConfig(constraint="repetition", limit=0.1)
    assert "--constraint" not in rlhf("loop", "--help").output
