"""What Ray workers refuse, share and send, without Ray."""

from __future__ import annotations

import logging
import os
import sys
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from agents.algorithms.common.importance import reweigh
from agents.core.random_state import isolated_generators
from agents.core.together import whitened_rewards
from agents.core.vec_env import make_vec_env
from agents.scale import learner
from agents.scale.cluster import import_ray
from agents.scale.shared import SharedRewards, prices, set_shared, whitened_sums
from agents.scale.weights import WeightSender
from agents.scale.workers import Order, RolloutWorker, Setup
from agents.training.building import build_agent
from agents.training.config import TrainConfig
from agents.training.run import prepare, resolve_config
from rlhf_envs.rewards import Constrained, TrainerState, Whitened
from rlhf_envs.rewards.constraints import find_constraints
from tests.forked import run_python

ROLLOUT = 12 * 3  # 12 environments, episodes of at most 3 tokens


def config(folder: Path, name: str = "run", **kwargs: Any) -> TrainConfig:
    given: dict[str, Any] = dict(env="rlhf/TokenBandit-v0", n_timesteps=4 * ROLLOUT, n_envs=12, eval_freq=0)
    given |= dict(test_episodes=4, hyperparams=dict(batch_size=18, n_epochs=2), progress=False, kl_target=0.3)
    return TrainConfig(log_folder=str(folder), run_name=name, **(given | kwargs))


@pytest.fixture
def worker_here(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let workers be built in this process: it gets back what they change in one of their own."""
    monkeypatch.setattr("sys.path", [*sys.path])
    loggers, threads = [logging.getLogger(name) for name in ("agents", "rlhf_envs")], torch.get_num_threads()
    levels = [logger.level for logger in loggers]
    with isolated_generators(), warnings.catch_warnings():
        yield
    torch.set_num_threads(threads)
    for logger, level in zip(loggers, levels, strict=True):
        logger.setLevel(level)


class PoolHere:
    """Collect as `WorkerPool` does, in this process."""

    def __init__(self, config: TrainConfig) -> None:
        self.config, self.workers = config, [RolloutWorker() for _ in range(config.workers)]

    def check_alike(self, mine: Any) -> None: ...

    def begin(self, policy: Any, states: Any, tokens: int, learned: Any) -> None:
        self.sender = WeightSender(policy)
        everything, setup = self.sender.pack_all(), Setup(self.config, 0, os.getcwd(), (), None, learned, tokens)
        self.setups: Any = [(everything, replace(setup, number=n)) for n in range(self.config.workers)]

    def order(self, order: Order) -> None:
        changed = self.sender.pack_changed()
        with isolated_generators():
            self.parts = [w.collect(order, changed, *s) for w, s in zip(self.workers, self.setups, strict=True)]
        self.setups = [()] * self.config.workers

    def take(self, _: Any) -> Any:
        return self.parts

    def take_metrics(self) -> dict[str, float]:
        return {}


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (
            {"algo": "dqn", "hyperparams": {}},
            "algo=dqn: workers=2 collect rollouts for algorithms that",
        ),
        ({"algo": "sft", "hyperparams": {}}, "algo=sft"),
        ({"engine": "http://localhost:1"}, "engine=http://localhost:1: it draws the completions"),
        ({"env_kwargs": {"reward": "human"}}, "reward='human' waits for people in one process"),
        ({"n_envs": 9}, "n_envs=9: 2 workers share the environments equally; take a multiple of 2, such as 10"),
        ({"algo": "rloo", "n_envs": 6, "hyperparams": {"group_size": 4}}, "group_size=4 with 3 environments"),
    ],
)
def test_what_workers_do_not_collect_is_named_before_anything_starts(
    tmp_path: Path, given: dict[str, Any], said: str
) -> None:
    with pytest.raises(ValueError, match=said):
        learner.check_workers(resolve_config(config(tmp_path, workers=2, **({"kl_target": None} | given))))


def test_ranks_and_workers_exclude_each_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match="by --nproc or by --workers, not by both"):
        learner.check_workers(resolve_config(config(tmp_path, workers=2)))


def test_statistics_of_a_whitened_reward_and_prices_of_constraints_are_those_of_all_workers() -> None:
    def make() -> Any:
        reward = Constrained(Whitened(lambda completions, **_: [0.0] * len(completions)), "repetition", 0.1)
        return make_vec_env("rlhf/TokenBandit-v0", 4, seed=0, reward_fn=reward)

    own, *envs = make(), make(), make()
    shared, scores = SharedRewards(own), [np.array([1.0, 5.0, 2.0]), np.array([7.0, -3.0])]
    for _ in range(2):  # rollouts
        added = []
        for env, found in zip(envs, scores, strict=True):
            set_shared(env, prices(own), whitened_sums(own))
            before = whitened_sums(env)
            whitened_rewards(env)[0].transform(found)
            added.append([now - then for now, then in zip(whitened_sums(env), before, strict=True)])
        set_shared(own, [2.5], None)
        find_constraints(own.get_attr("reward_fn", 0)[0])[0].integral = 1.5
        shared.take(envs[0].get_state(), added)
    (whitened,) = whitened_rewards(own)
    everything = np.tile(np.concatenate(scores), 2)
    assert whitened.count == len(everything)
    assert whitened.mean == pytest.approx(everything.mean())
    assert whitened.deviation == pytest.approx(everything.std())
    assert prices(own) == [2.5]
    assert find_constraints(own.get_attr("reward_fn", 0)[0])[0].integral == 1.5, "no worker knows it"
    assert prices(envs[0]) == [2.5]


def test_a_rollout_of_older_weights_is_weighted_by_truncated_ratios(tmp_path: Path) -> None:
    agent = build_agent(resolve_config(config(tmp_path)))
    agent.learn(1)
    buffer, policy = agent.rollout_buffer, agent.policy
    old, advantages = buffer.log_probs.copy(), buffer.advantages.copy()
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
    policy.set_training_mode(True)
    metrics = reweigh(buffer, policy, 1.1, centred=True)
    samples = next(buffer.get(None))
    _, log_probs, _ = policy.evaluate_actions(samples.observations, samples.actions.flatten())
    torch.testing.assert_close(log_probs.detach(), samples.old_log_prob)  # the ratios of the update begin at 1
    ratio = np.exp(buffer.log_probs - old)
    assert ratio.min() < 0.95 < 1.1 < ratio.max() == pytest.approx(metrics["importance_ratio_max"])
    expected = np.minimum(ratio, 1.1) * (advantages - advantages.mean())
    np.testing.assert_allclose(buffer.advantages, expected, rtol=1e-4, atol=1e-6)


def test_a_token_that_newer_weights_gave_up_cannot_overflow_in_the_update() -> None:
    """SB3's PPO computes ratios in float32 from the log-probabilities of the newer weights, which may rise again."""
    old, newer = np.array([[-5.0], [-5.0], [-5.0]], np.float32), np.array([[-110.0], [-79.0], [-5.0]], np.float32)
    buffer: Any = SimpleNamespace(log_probs=old, advantages=np.array([[2.0], [1.0], [1.0]], np.float32))
    buffer.compute_again = lambda policy: setattr(buffer, "log_probs", newer)
    reweigh(buffer, None, 2.0, centred=False)
    assert buffer.log_probs[1:].tolist() == newer[1:].tolist(), "others are as they were"
    log_prob = torch.tensor([[-1.0], [-79.0], [-5.0]], requires_grad=True)
    surrogate = torch.exp(log_prob - torch.tensor(buffer.log_probs)) * torch.tensor(buffer.advantages)
    surrogate.sum().backward()
    assert surrogate[0].item() == pytest.approx(2 * np.exp(4.0), rel=1e-4), "the ratio to the weights that drew it"
    assert log_prob.grad is not None
    assert log_prob.grad.flatten().tolist() == pytest.approx([2 * np.exp(4.0), np.exp(-74.0), 1.0], rel=1e-4)


@pytest.mark.usefixtures("worker_here")
def test_a_worker_goes_on_from_the_state_it_sent(tmp_path: Path) -> None:
    """Without Ray: the actor's class alone."""
    resolved = resolve_config(config(tmp_path, workers=2))
    setup, order = Setup(resolved, 1, os.getcwd(), ()), Order(0, 4 * ROLLOUT)
    first, second = RolloutWorker(), RolloutWorker()
    first.build(setup)
    sent = WeightSender(build_agent(resolved).policy)
    everything, changed = sent.pack_all(), sent.pack_changed()
    part = first.collect(order, changed, everything, setup)
    expected = first.collect(order, changed)
    found = second.collect(order, changed, everything, replace(setup, state=part.state))
    for name, array in expected.steps.items():
        np.testing.assert_array_equal(found.steps[name], array, err_msg=name)
    assert [info["completion"] for *_, info in found.ended] == [info["completion"] for *_, info in expected.ended]


@pytest.mark.usefixtures("worker_here")
@pytest.mark.parametrize("number", [0, 1])
def test_rewards_in_a_worker_are_told_how_far_the_run_is(tmp_path: Path, number: int) -> None:
    resolved = resolve_config(config(tmp_path, workers=2))
    worker, setup = RolloutWorker(), Setup(resolved, number, os.getcwd(), (), begun_at=2 * ROLLOUT)
    weights = WeightSender(build_agent(resolved).policy).pack_all()
    for rollout in (2, 3):  # a worker that is new in the run's third rollout, and its next one
        worker.collect(Order(rollout * ROLLOUT, 4 * ROLLOUT), weights, {}, setup if rollout == 2 else None)
        found = worker.agent.env.get_attr("trainer_state", 0)[0]
        assert found == TrainerState(rollout, 4, rollout * ROLLOUT)


@pytest.mark.usefixtures("worker_here")
def test_a_rollout_that_a_callback_ends_is_collected_again_by_a_run_that_goes_on(tmp_path: Path) -> None:
    whitened = {"reward": "whitened", "reward_kwargs": {"reward": "token-bandit"}}
    resolved = resolve_config(config(tmp_path, workers=2, env_kwargs=whitened))
    agent, rollouts = build_agent(resolved), learner.RayRollouts(resolved, PoolHere(resolved))  # type: ignore[arg-type]
    rollouts.attach(resolved, agent, [])
    agent.learn(2 * ROLLOUT, callback=lambda *_: agent.num_timesteps < ROLLOUT + 24)
    assert agent.num_timesteps == ROLLOUT + 24  # in the second rollout, which is not trained on
    ended = rollouts.get_state()["workers"]
    again = learner.RayRollouts(resolved, PoolHere(resolved))  # type: ignore[arg-type]
    other = build_agent(resolved)
    again.attach(resolved, other, [])
    other.learn(ROLLOUT)
    for one, same in zip(ended, again.get_state()["workers"], strict=True):
        np.testing.assert_array_equal(one["observations"]["input_ids"], same["observations"]["input_ids"])
    scored, once = (whitened_sums(one.get_env()) for one in (agent, other))
    np.testing.assert_allclose(scored, once)  # and the scores of the rollout that is collected again count once
    rollouts.detach()
    agent.learn(ROLLOUT, reset_num_timesteps=False)  # in this process
    assert agent.num_timesteps == 2 * ROLLOUT + 24


def test_rollouts_that_lag_need_workers(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"async_rollouts=1: .* give --workers too"):
        prepare(config(tmp_path, async_rollouts=1))
    assert not any(tmp_path.iterdir())


def test_a_process_without_ray_is_told_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'rlhf-envs\[ray\]'"):
        import_ray()


def test_ray_is_not_imported_before_workers_are_asked_for(tmp_path: Path) -> None:
    code = "import sys, agents.scale.learner, agents.cli.train; print('ray' in sys.modules)"
    done = run_python(code, tmp_path)
    assert done.stdout.strip() == "False", done.stderr
