"""Runs on several ranks: one folder, equal weights, exact resume, and clear ends."""

from __future__ import annotations

import json
import signal
import socket
import sqlite3
import sys
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agents.core import ranks
from agents.scale.group import joined, taking_part
from agents.training import run as running
from agents.training.config import TrainConfig
from agents.training.trackers import RunTracker
from tests.agents.scale.runs import ROLLOUT, Weights, config, kill, run, run_with, stop
from tests.forked import on_ranks


def assert_equal(one: Weights, other: Weights) -> None:
    assert one.keys() == other.keys()
    for name, value in one.items():
        np.testing.assert_array_equal(value, other[name], err_msg=name)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, Any]]]:
    """A run of four rollouts on two ranks."""
    folder = tmp_path_factory.mktemp("whole")
    return folder, on_ranks(run, config(folder))


def test_the_ranks_of_a_run_have_equal_weights_and_counters_and_other_random_numbers(whole: Any) -> None:
    folder, (first, second) = whole
    assert_equal(first["weights"], second["weights"])
    assert first["tokens"] == second["tokens"] == 4 * ROLLOUT
    assert first["updates"] == second["updates"]
    assert first["kl_coef"] == second["kl_coef"] != config(folder).resolved().kl_coef
    assert first["actions"] != second["actions"]


def test_the_first_rank_alone_writes_and_reports_the_tokens_of_all(whole: Any) -> None:
    folder, _ = whole
    assert [path.name for path in (folder / "ppo").iterdir()] == ["run"]
    report = json.loads((folder / "ppo" / "run" / "report.json").read_text(encoding="utf-8"))
    assert report["n_timesteps"] == 4 * ROLLOUT
    rows = (folder / "ppo" / "run" / "progress.csv").read_text(encoding="utf-8").splitlines()
    column = rows[0].split(",").index("time/total_timesteps")
    assert [row.split(",")[column] for row in rows[1:]] == [str(ROLLOUT * k) for k in range(1, 5)]


def test_a_run_goes_on_exactly_with_as_many_ranks_and_with_another_number_too(whole: Any, tmp_path: Path) -> None:
    half = config(tmp_path, n_timesteps=2 * ROLLOUT)
    on_ranks(run, half)
    resumed = on_ranks(run, config(tmp_path), True)
    assert resumed[0]["start"] == 2 * ROLLOUT
    assert_equal(resumed[0]["weights"], whole[1][0]["weights"])
    assert_equal(resumed[1]["weights"], whole[1][0]["weights"])
    assert resumed[1]["actions"] == whole[1][1]["actions"]
    more = config(tmp_path, n_timesteps=6 * ROLLOUT)
    first, *others = on_ranks(run, more, True, n=3)
    assert (first["start"], first["tokens"]) == (4 * ROLLOUT, 6 * ROLLOUT)
    for other in others:
        assert_equal(first["weights"], other["weights"])
    alone = run(config(tmp_path, n_timesteps=8 * ROLLOUT), True)
    assert (alone["start"], alone["tokens"]) == (6 * ROLLOUT, 8 * ROLLOUT)


def fail() -> None:
    raise OSError("the disk of this machine is full")


def test_ranks_say_which_other_rank_was_killed_or_failed_and_by_what(tmp_path: Path) -> None:
    begin = time.monotonic()
    message, code = on_ranks(run_with, config(tmp_path / "killed"), 1, 2, kill, failing=True)
    assert time.monotonic() - begin < 60
    assert code == -signal.SIGKILL
    assert message.startswith("RunStopped") and "rank 1 of 2 (process" in message, message
    assert "has ended without a word" in message and "rlhf train --resume" in message, message
    settings = config(tmp_path / "failed", env_kwargs={"reward_retries": 0})
    for message in on_ranks(run_with, settings, 1, 2, fail, failing=True):
        assert "rank 1" in message and "the disk of this machine is full" in message, message


def lose_while_preparing() -> None:
    with taking_part():
        if ranks.rank() == 1:
            kill()
        ranks.everywhere("ready")


def test_a_rank_lost_while_a_run_is_prepared_ends_it_in_one_line_and_the_first_one_is_named_too(tmp_path: Path) -> None:
    message, code = on_ranks(lose_while_preparing, failing=True, joining=False)
    assert code == -signal.SIGKILL
    assert message.startswith("RunStopped: rank 0 stopped: rank 1 of 2 (process "), message
    _, message = on_ranks(run_with, config(tmp_path), 0, 2, kill, failing=True)  # it has the store
    assert message.startswith("RunStopped: rank 1 stopped: rank 0 of 2, or its launcher, has ended: 127.0.0.1:"), (
        message
    )


def test_a_signal_to_one_rank_ends_all_of_them_with_one_checkpoint(tmp_path: Path) -> None:
    settings = config(tmp_path)
    first, second = on_ranks(run_with, settings, 1, 2, stop, failing=True)  # after the second rollout
    assert first.startswith("RunInterrupted: SIGTERM: the run is saved in"), first
    assert second == "RunInterrupted: rank 1 was ended by SIGTERM"
    saved = [path.name for path in (tmp_path / "ppo" / "run" / "checkpoints").iterdir() if path.name[0] != "."]
    assert saved == [str(2 * ROLLOUT)]


def track(settings: TrainConfig, packages: bool) -> tuple[list[str], int, list[str]]:
    """Be one rank of a run with trackers. Return which started, how often they were given numbers, what is imported."""
    started: list[str] = []
    given = 0
    real = running.start_trackers  # type: ignore[attr-defined]

    class Counter(RunTracker):
        def log(self, scalars: Any, step: int) -> None:
            nonlocal given
            given += 1

        def finish(self, error: BaseException | None = None) -> None:
            """Leave it."""

    def start(config: TrainConfig, folder: Path) -> list[RunTracker]:
        started.extend(config.trackers)
        return real(config, folder) if packages else [Counter()]

    running.start_trackers = start  # type: ignore[attr-defined]
    if not packages:
        running.check_trackers = lambda config: None  # type: ignore[attr-defined]
    run(settings)
    return started, given, [name for name in settings.trackers if name in sys.modules]


def test_the_first_rank_alone_opens_trackers_and_logs_to_them(tmp_path: Path) -> None:
    (started, given, _), other = on_ranks(track, config(tmp_path, tracker=["trackio", "mlflow"]), False)
    assert started == ["trackio", "mlflow"] and given > 0
    assert other == ([], 0, [])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["trackio", "mlflow"])
def test_the_real_tracker_has_one_run_of_two_ranks(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if find_spec(name) is None:
        pytest.skip(f"needs {name}: pip install 'rlhf-envs[{name}]'")
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    first, other = on_ranks(track, config(tmp_path, tracker=[name], project="mine"), True)
    assert first == ([name], 0, [name])
    assert other == ([], 0, [])
    table = ("mlflow.db", "runs", "run_uuid") if name == "mlflow" else ("trackio/mine.db", "metrics", "run_name")
    with sqlite3.connect(tmp_path / table[0]) as database:
        runs = {row for row in database.execute(f"select {table[2]} from {table[1]}")}
    assert len(runs) == 1


def test_early_stopping_on_the_first_rank_stops_all(tmp_path: Path) -> None:
    stopped = dict(early_stopping="reward", eval_patience=1, eval_freq=ROLLOUT, n_eval_episodes=4, learning_rate=1e-12)
    first, second = on_ranks(run, config(tmp_path, **stopped))
    assert first["tokens"] == second["tokens"] == ROLLOUT + 12  # found out before the second rollout, in its first step


def test_groups_of_unequal_lengths_are_cut_into_as_many_minibatches_on_every_rank(tmp_path: Path) -> None:
    groups: dict[str, Any] = dict(
        env="rlhf/IncreasingNumbers-v0", algo="rloo", kl_target=None, n_timesteps=400, learning_rate=0.01
    )
    groups |= dict(env_kwargs={"max_new_tokens": 5}, hyperparams=dict(batch_size=20, group_size=2))
    first, second = on_ranks(run, config(tmp_path, **groups))
    assert_equal(first["weights"], second["weights"])
    assert first["tokens"] == second["tokens"]


def settings_of(rank_1: dict[str, Any], folder: Path) -> None:
    run(config(folder / str(ranks.rank()), **(rank_1 if ranks.rank() else {})))


@pytest.mark.parametrize(
    ("other", "named"),
    [
        ({"learning_rate": 0.5}, "the setting learning_rate is 0.0"),
        ({"env": "rlhf/DialogBandit-v0", "kl_target": None}, "the setting env is 'rlhf/TokenBandit-v0' on rank 0"),
        ({"seed": 1}, "the checksum of the model is"),
        ({"algo": "trpo", "hyperparams": {}}, "algo=trpo: it trains in one process"),
        ({"n_envs": 13}, "n_envs=13: 2 ranks share the environments equally; take a multiple of 2, such as 14"),
    ],
)
def test_what_ranks_do_not_have_in_common_is_named_before_training(other: Any, named: str, tmp_path: Path) -> None:
    messages = on_ranks(settings_of, other, tmp_path, failing=True)
    assert named in messages[1], messages[1]
    assert not list(tmp_path.rglob("report.json"))


def test_a_port_that_is_taken_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as taken:
        taken.bind(("", 0))
        taken.listen()
        port = taken.getsockname()[1]
        given = {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        for name, value in given.items():
            monkeypatch.setenv(name, value)
        with pytest.raises(ValueError, match=f"MASTER_PORT {port} of 127.0.0.1 is taken"), joined():
            pass
