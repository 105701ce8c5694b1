"""Runs whose ranks share the weights: saved, stopped and resumed as other runs, and refused where they cannot be."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import agents
from agents.core import ranks
from agents.core.sharding import shard
from tests.agents.scale.runs import ROLLOUT, config, kill, run, run_with, stop
from tests.forked import on_ranks


def assert_like(one: dict[str, Any], other: dict[str, Any], atol: float = 1e-5) -> None:
    for name, value in one["weights"].items():
        if value.size and not name.startswith("reference."):
            np.testing.assert_allclose(other["weights"][name], value, rtol=0, atol=atol, err_msg=name)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, Any]]]:
    """A run of four rollouts on two ranks with shards, with evaluations and checkpoints in between."""
    folder = tmp_path_factory.mktemp("whole")
    return folder, on_ranks(run, config(folder, shard=True, eval_freq=ROLLOUT, save_freq=ROLLOUT, n_eval_episodes=4))


def test_a_run_with_shards_learns_and_saves_what_one_without_does(whole: Any, tmp_path: Path) -> None:
    folder, (first, second) = whole
    plain, _ = on_ranks(run, config(tmp_path))
    assert_like(plain, first)
    assert_like(first, second, atol=0)
    saved, kept = (agents.load(one / "ppo" / "run" / "agent") for one in (tmp_path, folder))
    for name, value in saved.policy.state_dict().items():
        np.testing.assert_allclose(kept.policy.state_dict()[name], value, rtol=0, atol=1e-5, err_msg=name)
    states = [one.policy.optimizer.state_dict()["state"] for one in (saved, kept)]
    assert states[0].keys() == states[1].keys()
    for n, one in states[0].items():
        np.testing.assert_allclose(states[1][n]["exp_avg"], one["exp_avg"], rtol=0, atol=1e-5)
    assert (folder / "ppo" / "run" / "model" / "config.json").is_file()
    numbers = sorted(int(path.name) for path in (folder / "ppo" / "run" / "checkpoints").iterdir())
    assert numbers == [2 * ROLLOUT, 3 * ROLLOUT, 4 * ROLLOUT]


def test_a_run_goes_on_with_as_many_ranks_another_number_and_alone(whole: Any, tmp_path: Path) -> None:
    on_ranks(run, config(tmp_path, shard=True, n_timesteps=2 * ROLLOUT))
    resumed = on_ranks(run, config(tmp_path, shard=True), True)
    assert resumed[0]["start"] == 2 * ROLLOUT
    assert_like(whole[1][0], resumed[0], atol=0)
    assert resumed[1]["actions"] == whole[1][1]["actions"]
    first, *others = on_ranks(run, config(tmp_path, shard=True, n_timesteps=6 * ROLLOUT), True, n=3)
    assert (first["start"], first["tokens"]) == (4 * ROLLOUT, 6 * ROLLOUT)
    for other in others:
        assert_like(first, other, atol=0)
    with pytest.raises(ValueError, match=r"this is one process: .* or go on with --no-shard"):
        run(config(tmp_path, n_timesteps=8 * ROLLOUT), True)
    alone = run(config(tmp_path, shard=False, n_timesteps=8 * ROLLOUT), True)
    assert (alone["start"], alone["tokens"]) == (6 * ROLLOUT, 8 * ROLLOUT)


@pytest.mark.parametrize("rank", [0, 1])
def test_a_signal_to_one_rank_ends_all_with_one_checkpoint_of_the_whole(rank: int, tmp_path: Path) -> None:
    settings = config(tmp_path, shard=True)
    call = 2 if rank else 3  # in the second rollout; the first rank has evaluated before training
    messages = on_ranks(run_with, settings, rank, call, stop, failing=True)
    assert messages[0].startswith("RunInterrupted: SIGTERM: the run is saved in"), messages
    assert messages[1].startswith("RunInterrupted: rank 1 was ended by" if rank else "RunInterrupted: rank 1 ended, as")
    (saved,) = (path for path in (tmp_path / "ppo" / "run" / "checkpoints").iterdir() if path.name[0] != ".")
    assert saved.name == str(2 * ROLLOUT)
    resumed = on_ranks(run, settings, True)
    assert resumed[0]["start"] == 2 * ROLLOUT


def test_a_rank_that_is_lost_is_named_and_the_last_checkpoint_counts(tmp_path: Path) -> None:
    settings = config(tmp_path, shard=True, save_freq=ROLLOUT)
    message, code = on_ranks(run_with, settings, 1, 3, kill, failing=True)
    assert code == -9
    assert "rank 1 of 2 (process" in message and "has ended without a word" in message, message
    assert f"its last checkpoint is {tmp_path / 'ppo' / 'run' / 'checkpoints' / str(2 * ROLLOUT)}" in message, message


def refuse(given: dict[str, Any], folder: Path) -> None:
    run(config(folder / str(ranks.rank()), shard=True, **given))


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"algo": "nlpo"}, "shard with a NLPOPolicy"),
        ({"algo": "dqn", "hyperparams": {}}, "algo=dqn: it trains in one process"),
        ({"hyperparams": {"value": "separate"}}, "shard with value='separate'"),
        ({"hyperparams": {"compile": True}}, "shard with compile=True"),
        ({"hyperparams": {"micro_batch_size": 64}}, "shard with micro_batch_size"),
        ({"hyperparams": {"adversarial_coef": 0.1}}, "shard with adversarial_coef"),
    ],
)
def test_what_is_not_sharded_is_named_before_training(given: dict[str, Any], named: str, tmp_path: Path) -> None:
    for message in on_ranks(refuse, {"kl_target": None, **given}, tmp_path, failing=True):
        assert named in message, message
    assert not list(tmp_path.rglob("report.json"))


def test_one_process_alone_shares_with_nobody(tmp_path: Path) -> None:
    agent = agents.make("ppo", agents.make_vec_env("rlhf/TokenBandit-v0", 2), seed=0)
    with pytest.raises(ValueError, match="this is one process: give --nproc 2 too"):
        shard(agent)
    with pytest.raises(ValueError, match="early_stopping=reward with shard"):
        config(tmp_path, shard=True, early_stopping="reward", eval_freq=ROLLOUT)
