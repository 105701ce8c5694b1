"""Runs whose rollouts Ray workers collect: the same learning, exact resume, and what a kill costs."""

from __future__ import annotations

import csv
import logging
import os
import random
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from agents.core.together import seed_process
from agents.scale import learner
from agents.scale.cluster import connected, is_lost
from agents.scale.parts import dones_by_step, join
from agents.scale.pool import WorkerPool
from agents.scale.workers import describe_agent
from agents.training.building import build_agent
from agents.training.config import TrainConfig
from agents.training.errors import RunStopped
from agents.training.resume import prepare_resumed
from agents.training.run import resolve_config
from agents.training.run import train as train_alone

ray = pytest.importorskip("ray")

ROLLOUT = 12 * 3  # 12 environments, episodes of at most 3 tokens
STORE = 80 * 2**20
REWARD = """
import os, signal, time
from pathlib import Path

calls = 0

def score(completions, **_):
    global calls
    if os.getpid() != int(Path("learner").read_text()):
        calls += 1
        for what in Path().glob("kill-*"):
            if calls == int(what.name.split("-")[1]):
                try:
                    what.rename("done")  # one of the workers takes it
                except FileNotFoundError:
                    continue
                os.kill(os.getpid(), signal.SIGKILL)
        if Path("slow").exists():
            time.sleep(float(Path("slow").read_text()))
    return [float(len(text)) for text in completions]
"""
Weights = dict[str, np.ndarray]


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """A cluster with a place for two workers, and with a small object store that never spills."""
    from ray.cluster_utils import Cluster

    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # What does not fit into the object store goes nowhere: the disk counts as full.
    settings = {"local_fs_capacity_threshold": 0.001, "local_fs_monitor_interval_ms": 100}
    settings |= {"automatic_object_spilling_enabled": False}
    handler = signal.getsignal(signal.SIGTERM)  # the head puts its own there
    made = Cluster(
        initialize_head=True,
        head_node_args={"num_cpus": 2, "object_store_memory": STORE, "_system_config": settings},
    )
    ray.init(address=made.address, logging_level=logging.ERROR, log_to_driver=False)
    yield made
    ray.shutdown()
    made.shutdown()
    signal.signal(signal.SIGTERM, handler)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where a test works: the reward is there, which kills workers, and the number of this process."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "dies.py").write_text(REWARD, encoding="utf-8")
    (tmp_path / "learner").write_text(str(os.getpid()), encoding="utf-8")
    return tmp_path


def config(folder: Path, name: str = "run", **kwargs: Any) -> TrainConfig:
    given: dict[str, Any] = dict(env="rlhf/TokenBandit-v0", n_timesteps=4 * ROLLOUT, n_envs=12, eval_freq=0)
    given |= dict(test_episodes=4, hyperparams=dict(batch_size=18, n_epochs=2), progress=False, kl_target=0.3)
    return TrainConfig(log_folder=str(folder), run_name=name, **(given | kwargs))


def deadly(folder: Path, name: str = "run", **kwargs: Any) -> TrainConfig:
    """The same with the reward that kills."""
    return config(folder, name, env_kwargs={"reward": "dies.py:score"}, **({"workers": 2} | kwargs))


def weights(agent: Any) -> Weights:
    return {name: tensor.numpy().copy() for name, tensor in agent.policy.state_dict().items()}


def assert_equal(one: Weights, other: Weights) -> None:
    assert one.keys() == other.keys()
    for name, value in one.items():
        np.testing.assert_array_equal(value, other[name], err_msg=name)


def logged(folder: Path, name: str) -> list[float]:
    with (folder / "progress.csv").open(encoding="utf-8") as file:
        return [float(row[name]) for row in csv.DictReader(file) if row[name]]


class Counter:
    """Count the episodes that callbacks saw, and those that were trained on."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.seen = self.trained = 0
        real = learner._replay

        def watched_join(buffer: Any, policy: Any, parts: Any) -> None:
            join(buffer, policy, parts)
            self.trained += int(dones_by_step(parts).sum())

        def watched_replay(agent: Any, callback: Any, parts: Any) -> bool:
            self.seen += sum(len(part.ended) for part in parts)
            return real(agent, callback, parts)

        monkeypatch.setattr(learner, "join", watched_join)
        monkeypatch.setattr(learner, "_replay", watched_replay)


SENTIMENT: dict[str, Any] = {"env": "rlhf/Sentiment-v0", "env_kwargs": {"max_new_tokens": 6}, "n_timesteps": 288}
SENTIMENT |= {"hyperparams": {"n_steps": 6, "batch_size": 36}}
ALGORITHMS: list[tuple[str, dict[str, Any]]] = [
    ("ppo", {}),
    ("rloo", {"hyperparams": {"group_size": 2, "batch_size": 18}}),
    ("a2c", {"hyperparams": {}}),
    ("maskable_ppo", {"env_kwargs": {"min_new_tokens": 2}}),
    ("nlpo", {"hyperparams": {"target_update": 1, "batch_size": 18}}),
    ("ppo_lagrangian", {"hyperparams": {"cost": "repetition", "cost_limit": 0.0, "batch_size": 18}}),
    ("reinforce", {"hyperparams": {}}),
    ("awr", {"hyperparams": {"batch_size": 18}}),
    ("grpo", {"hyperparams": {"group_size": 2, "batch_size": 18}}),
    ("online_dpo", {"hyperparams": {"batch_size": 18}, "kl_target": None}),
    ("ppo", SENTIMENT | {"train": "lora"}),
    ("ppo", SENTIMENT | {"constraint": "repetition", "limit": -1.0}),
]


@pytest.mark.parametrize(
    ("algo", "more"),
    [pytest.param(*one, marks=[pytest.mark.slow] if i > 1 else []) for i, one in enumerate(ALGORITHMS)],
)
def test_one_worker_trains_as_one_process_does(cluster: Any, tmp_path: Path, algo: str, more: dict[str, Any]) -> None:
    alone = train_alone(config(tmp_path, "alone", algo=algo, **more))
    worked = learner.train(config(tmp_path, "worked", algo=algo, workers=1, **more))
    assert worked.agent._n_updates == alone.agent._n_updates > 0
    for name, value in weights(alone.agent).items():
        np.testing.assert_allclose(weights(worked.agent)[name], value, atol=1e-6, err_msg=name)
    for name in ("rlhf/reward", "rlhf/length", "time/total_timesteps"):
        assert logged(worked.folder, name) == logged(alone.folder, name)


def test_two_workers_collect_what_the_halves_of_the_environments_collect(cluster: Any, tmp_path: Path) -> None:
    worked = learner.train(config(tmp_path, n_timesteps=ROLLOUT, workers=2))
    halves = []
    for number in range(2):
        resolved = resolve_config(config(tmp_path, n_envs=6))
        agent = build_agent(resolved, (number, 2))
        seed_process(agent, 1 + number)
        agent.learn(1, reset_num_timesteps=True)
        halves.append(agent.rollout_buffer)
    buffer = worked.agent.rollout_buffer
    assert buffer.n_segments == sum(half.n_segments for half in halves)
    for name in ("actions", "rewards", "log_probs", "values", "advantages", "returns"):
        joined = np.concatenate([getattr(half, name) for half in halves], axis=1)
        np.testing.assert_allclose(getattr(buffer, name), joined, atol=1e-6, err_msg=name)
    assert np.abs(buffer.advantages).max() > 0
    assert not np.array_equal(halves[0].actions, halves[1].actions)


@pytest.fixture(scope="module")
def whole(cluster: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A run of four rollouts with two workers."""
    return learner.train(config(tmp_path_factory.mktemp("whole"), workers=2))


def test_a_run_goes_on_exactly_with_as_many_workers_and_with_another_number_too(
    whole: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    half = learner.train(config(tmp_path, n_timesteps=2 * ROLLOUT, workers=2))
    resumed = learner.train(TrainConfig.of_folder(half.folder, config(tmp_path, workers=2)), str(half.folder))
    assert resumed.resumed_at == 2 * ROLLOUT
    assert_equal(weights(resumed.agent), weights(whole.agent))
    more = TrainConfig.of_folder(half.folder, config(tmp_path, n_timesteps=5 * ROLLOUT, workers=1))
    assert learner.train(more, str(half.folder)).agent.num_timesteps == 5 * ROLLOUT
    assert "the run had 2 workers and goes on with 1" in caplog.text
    with pytest.raises(ValueError, match="workers=1: `rlhf train` starts them"):
        train_alone(more)
    alone = TrainConfig.of_folder(half.folder, config(tmp_path, n_timesteps=6 * ROLLOUT, workers=0))
    assert train_alone(prepare_resumed(half.folder, alone)).agent.num_timesteps == 6 * ROLLOUT
    assert "the run had 1 workers and goes on without: the environments begin new episodes" in caplog.text


def test_a_killed_worker_costs_its_rollout_alone(
    cluster: Any, folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    undisturbed = learner.train(deadly(folder, "undisturbed"))
    (folder / "kill-2").touch()  # in the second rollout
    counter = Counter(monkeypatch)
    disturbed = learner.train(deadly(folder, "disturbed"))
    assert (folder / "done").exists()
    assert (
        "was lost (its process has died): a new one collects its part of the rollout again, attempt 1 of 3"
        in caplog.text
    )
    assert logged(disturbed.folder, "workers/lost") == [0, 1, 0, 0]
    assert_equal(weights(disturbed.agent), weights(undisturbed.agent))
    assert counter.seen == counter.trained > 0
    assert disturbed.agent.num_timesteps == 4 * ROLLOUT


def test_a_worker_that_dies_too_often_ends_the_run_with_a_checkpoint(cluster: Any, folder: Path) -> None:
    (folder / "kill-3").touch()  # in the second rollout: the first one scores its first step apart
    with pytest.raises(RunStopped, match=r"was lost 1 times in one rollout .*go on with: rlhf train --resume"):
        learner.train(deadly(folder, workers=1, worker_retries=0))
    saved = folder / "ppo" / "run"
    resumed = learner.train(TrainConfig.of_folder(saved, deadly(folder, workers=1)), str(saved))
    assert resumed.resumed_at == ROLLOUT
    assert_equal(weights(resumed.agent), weights(train_alone(deadly(folder, "alone", workers=0)).agent))


def test_a_killed_node_costs_its_rollout_alone_and_a_new_node_takes_its_place(
    cluster: Any, folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    nodes = [cluster.add_node(num_cpus=1, object_store_memory=STORE)]
    cluster.wait_for_nodes()
    orders, real = [], WorkerPool.order

    def order(self: Any, one: Any) -> None:
        real(self, one)
        orders.append(one)
        if len(orders) == 2:  # its worker is at work: the reward takes its time
            cluster.remove_node(nodes.pop(), allow_graceful=False)
            nodes.append(cluster.add_node(num_cpus=1, object_store_memory=STORE))

    monkeypatch.setattr(WorkerPool, "order", order)
    (folder / "slow").write_text("1", encoding="utf-8")
    disturbed = learner.train(deadly(folder, "disturbed", workers=3, n_timesteps=3 * ROLLOUT))
    cluster.remove_node(nodes.pop(), allow_graceful=False)
    assert sum(logged(disturbed.folder, "workers/lost")) == 1
    assert "attempt 1 of 3" in caplog.text
    assert disturbed.agent.num_timesteps == 3 * ROLLOUT


def test_rollouts_that_lag_are_weighted_by_the_ratio_of_the_policies(cluster: Any, tmp_path: Path) -> None:
    done = learner.train(config(tmp_path, workers=2, async_rollouts=1, learning_rate=0.01))
    assert logged(done.folder, "workers/lag") == [0, 1, 1, 1]
    assert len(logged(done.folder, "train/importance_ratio_max")) == 3
    assert max(logged(done.folder, "train/importance_ratio_max")) > 1.01
    assert done.agent.num_timesteps == 4 * ROLLOUT


@pytest.mark.slow
def test_twenty_kills_of_random_workers_change_nothing(
    cluster: Any, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "slow").write_text("0.2", encoding="utf-8")
    long: dict[str, Any] = {"n_timesteps": 24 * ROLLOUT, "worker_retries": 20}
    undisturbed = learner.train(deadly(folder, "undisturbed", **long))
    draw, over = random.Random(0), threading.Event()
    killed: list[int] = []
    pools: list[WorkerPool] = []
    real = WorkerPool.order

    def order(self: Any, one: Any) -> None:
        pools[:] = [self]
        real(self, one)

    def kill() -> None:
        while len(killed) < 20 and not over.wait(draw.uniform(0.2, 1.5)):
            hello = draw.choice(pools[0]._hellos) if pools else None
            if hello is not None and ray.wait([hello], timeout=0)[0]:
                process = ray.get(hello)["process"]
                if process not in killed:
                    os.kill(process, signal.SIGKILL)
                    killed.append(process)

    monkeypatch.setattr(WorkerPool, "order", order)
    # A run is not longer than its rollouts, so the kills set the pace: the learner waits for them.
    waits = learner._replay

    def slowly(agent: Any, callback: Any, parts: Any) -> bool:
        done = agent.num_timesteps // ROLLOUT
        deadline = time.monotonic() + 60
        while len(killed) < min(done, 20) and time.monotonic() < deadline:
            time.sleep(0.05)
        return waits(agent, callback, parts)

    monkeypatch.setattr(learner, "_replay", slowly)
    counter = Counter(monkeypatch)
    thread = threading.Thread(target=kill)
    thread.start()
    try:
        disturbed = learner.train(deadly(folder, "disturbed", **long))
    finally:
        over.set()
        thread.join()
    assert len(killed) == 20
    assert sum(logged(disturbed.folder, "workers/lost")) >= 15  # two may fall on one rollout's part
    assert disturbed.agent.num_timesteps == 24 * ROLLOUT
    assert counter.seen == counter.trained
    assert_equal(weights(disturbed.agent), weights(undisturbed.agent))


# What is wrong is said before training


def test_other_versions_are_named_before_training(
    cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agents.scale.pool.versions", lambda: {"torch": "1.0", "rlhf-envs": "0.0"})
    with pytest.raises(ValueError, match=r"torch is 1\.0 on the learner and 2.* in worker 0 \(on "):
        learner.train(config(tmp_path, workers=1))
    assert not (tmp_path / "ppo").exists()


def test_another_environment_or_model_is_named_before_training(
    cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        learner, "describe_agent", lambda agent: describe_agent(agent) | {"the checksum of the data": 1}
    )
    with pytest.raises(ValueError, match=r"the checksum of the data is 1 on the learner and [0-9]+ in worker 0"):
        learner.train(config(tmp_path, workers=1))
    assert not (tmp_path / "ppo" / "run").exists()


def test_a_worker_without_a_place_is_waited_for_and_then_named(cluster: Any, tmp_path: Path) -> None:
    with pytest.raises(
        ValueError,
        match=r"worker [0-3] of 4 has not started: it needs 1 CPUs, the cluster has [23] CPUs .*worker_wait=8",
    ):
        learner.train(config(tmp_path, workers=4, worker_wait=8.0))


def test_a_reward_that_fails_in_a_worker_is_told_with_its_number(cluster: Any, folder: Path) -> None:
    with (folder / "dies.py").open("a", encoding="utf-8") as file:
        file.write("\n_good = score\ndef score(completions, **kw):\n    found = _good(completions)\n")
        file.write("    return [float('nan')] * len(found) if calls == 3 else found\n")
    with pytest.raises(RunStopped, match=r"after 36 tokens: worker 0: .*nan.*go on with: rlhf train --resume"):
        learner.train(deadly(folder, workers=1))


def test_a_full_object_store_says_what_to_do(cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    held, real = [], WorkerPool.begin

    def fill_and_begin(self: WorkerPool, *arguments: Any) -> None:
        for kilobytes in (20_000, 4_000, 1_000, 200):
            with suppress(ray.exceptions.OutOfDiskError):
                while True:
                    held.append(ray.put(np.zeros(1000 * kilobytes, np.uint8)))
        real(self, *arguments)

    monkeypatch.setattr(WorkerPool, "begin", fill_and_begin)
    with pytest.raises(RunStopped, match=r"Ray's object store is full .*--object-store-memory"):
        learner.train(config(tmp_path, workers=1))
    assert len(held) > 4


def test_an_error_of_a_worker_is_not_taken_for_its_loss() -> None:
    raised = ray.exceptions.RayTaskError("collect", "", torch.OutOfMemoryError("CUDA out of memory"))
    assert not is_lost(raised.as_instanceof_cause())
    assert is_lost(ray.exceptions.OutOfMemoryError("killed")) and is_lost(ray.exceptions.ActorDiedError())


def test_no_cluster_at_an_address_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray, "is_initialized", lambda: False)

    def fails(**_: Any) -> None:
        raise ConnectionError("could not find\nand more")

    monkeypatch.setattr(ray, "init", fails)
    for address, said in (("127.0.0.1:1", r"127\.0\.0\.1:1 \(.*refused\)"), ("auto", r"auto \(could not find\)")):
        with pytest.raises(ValueError, match=f"no Ray cluster answers at {said}"), connected(address, 1):
            pass


def test_a_thread_may_train_with_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, fake in (("is_initialized", lambda: False), ("init", lambda **_: None), ("shutdown", lambda: None)):
        monkeypatch.setattr(ray, name, fake)

    def enter() -> bool:
        with connected("local", 1) as found:
            return found is ray

    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(enter).result()
