"""Whole comparisons and searches on a Ray cluster of two nodes, beside the same in processes of this machine."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

import agents
from agents.experiments.compare.config import CompareConfig
from agents.experiments.tune import search
from agents.experiments.tune.config import TuneConfig
from agents.experiments.tune.workers import counted

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"),
]

BANDIT = "rlhf/TokenBandit-v0"
TIMES = {"seconds", "made"}


def without_times(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: without_times(one) for key, one in value.items() if key not in TIMES and "second" not in key}
    return [without_times(one) for one in value] if isinstance(value, list) else value


@pytest.mark.usefixtures("ray")
def test_a_comparison_on_the_cluster_gives_what_two_processes_give(tmp_path: Path) -> None:
    shared: dict[str, Any] = dict(env=BANDIT, algos=["ppo", "a2c"], seeds=1, tokens=384, n_envs=32, test_episodes=16)
    shared |= dict(evaluations=2, overrides={"ppo": {"batch_size": 48}})
    here = agents.compare(CompareConfig(**shared, folder=str(tmp_path / "here"), jobs=2), lambda line: None)
    said: list[str] = []
    there = agents.compare(CompareConfig(**shared, folder=str(tmp_path / "there"), ray=True), said.append)
    assert not here.failed and not there.failed
    for name in ("ppo/seed_00", "a2c/seed_00"):
        results = []
        for root in ("here", "there"):
            text = (tmp_path / root / name / "result.json").read_text()
            results.append(json.loads(text.replace(f"{tmp_path}/{root}", "root")))
        assert without_times(results[0]) == without_times(results[1])
        assert results[1]["config"]["log_folder"] == f"root/{name.partition('/')[0]}"
        ours, theirs = (load_file(tmp_path / root / name / "model" / "model.safetensors") for root in ("here", "there"))
        assert all(np.array_equal(ours[key], theirs[key]) for key in ours.keys() | theirs.keys())
        files = [{p.name.partition(".out.")[0] for p in (tmp_path / r / name).rglob("*")} for r in ("here", "there")]
        assert files[0] - {".lock"} == files[1]
    again = agents.compare(CompareConfig(folder=str(there.folder)), said.append)
    assert not again.config.uses_ray, "where runs are done is not kept"
    assert said[-1].endswith("2 of them finished")


@pytest.mark.usefixtures("ray")
def test_a_search_on_the_cluster_finds_what_one_process_finds(tmp_path: Path) -> None:
    shared: dict[str, Any] = dict(env=BANDIT, tokens=192, n_envs=16, episodes=16, confirm_seeds=1, threads=1, trials=3)
    shared |= dict(only=["learning_rate"], hyperparams={"batch_size": 24, "n_epochs": 1}, sampler="random")
    shared |= dict(pruner="none")
    here = search.tune(TuneConfig(**shared, log_folder=str(tmp_path / "here")))
    said: list[str] = []
    there = search.tune(TuneConfig(**shared, log_folder=str(tmp_path / "there"), ray=True), said.append)
    # Both threads of the second may have begun a third trial: one of the two is a surplus, which does not count.
    trials = [counted(found.study) for found in (here, there)]
    for one in trials:
        assert [trial.state.name for trial in one] == ["COMPLETE"] * 3
    for mine, other in zip(*trials, strict=True):
        assert (mine.params, mine.value, mine.user_attrs["kl"]) == (other.params, other.value, other.user_attrs["kl"])
        assert mine.intermediate_values == other.intermediate_values
    assert (here.confirmed, here.defaults) == (there.confirmed, there.defaults)
    begun = [trial.datetime_start for trial in trials[1]]
    ended = [trial.datetime_complete for trial in trials[1]]
    assert begun[1] is not None and ended[0] is not None and begun[1] < ended[0], "two at a time"


@pytest.mark.usefixtures("ray")
def test_a_trial_on_the_cluster_is_pruned_by_what_has_come_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shared: dict[str, Any] = dict(env=BANDIT, tokens=960_000, n_envs=16, episodes=16, confirm_seeds=0)
    shared |= dict(only=["learning_rate"], log_folder=str(tmp_path), ray=True, trials=1, evaluations=1000)
    monkeypatch.setattr(
        search, "_is_pruned", lambda trial, step, metric, kl: bool(trial.report(metric, step)) or step > 2
    )
    with pytest.raises(ValueError, match=r"none of 1 trials finished .*the first: pruned"):
        search.tune(TuneConfig(**shared, hyperparams={"batch_size": 24, "n_epochs": 1}))
    shared |= dict(study="fails")
    with pytest.raises(ValueError, match=r"the first: RuntimeError: ValueError: batch_size.*\(see .*000\.log\)"):
        search.tune(TuneConfig(**shared, hyperparams={"batch_size": 2}))
