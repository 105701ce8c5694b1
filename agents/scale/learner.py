"""Train a run whose rollouts Ray workers collect: this process learns, evaluates, logs and writes."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from stable_baselines3.common.callbacks import BaseCallback, CallbackList

from ..algorithms.common.importance import reweigh
from ..algorithms.common.text_agent import TextAgent
from ..core.random_state import get_generators, set_generators
from ..core.rollout_buffer import SequenceRolloutBuffer
from ..registry import check_name, get_algorithm
from ..training.config import TrainConfig
from ..training.human_feedback import human_rewards
from ..training.report import TrainResult
from ..training.resume import prepare_resumed
from ..training.run import prepare, resolve_config
from ..training.run import train as train_run
from .cluster import connected
from .launch import is_rank
from .parts import Part, dones_by_step, infos_by_step, join
from .pool import WorkerPool
from .shared import SharedRewards, prices, whitened_sums
from .workers import Order, describe_agent

__all__ = ["RayRollouts", "check_workers", "collecting", "train"]

logger = logging.getLogger(__name__)

CLIP_MAX = 2.0  # the most that a token of older weights counts, as with engines


def train(config: TrainConfig, resume: str | None = None) -> TrainResult:
    """Train as `agents.training.run.train` does, with the rollouts of `config.workers` Ray workers.

    Args:
        resume: the folder of a run to go on with.

    Raises:
        ValueError: the configuration does not train with workers, see `check_workers`, or they differ.
        RunStopped, RunInterrupted, OSError: as there.
    """
    with collecting(config) as rollouts:
        config = rollouts.config
        return train_run(prepare(config, rollouts) if resume is None else prepare_resumed(resume, config, rollouts))


@contextmanager
def collecting(config: TrainConfig) -> Iterator[RayRollouts]:
    """Start the workers of a run, and end them with the `with` block, which gets the `collector` of its agent."""
    config = resolve_config(config)
    check_workers(config)
    with connected(config.ray_address, config.workers * config.worker_cpus) as ray, WorkerPool(ray, config) as pool:
        pool.check_versions()
        rollouts = RayRollouts(config, pool)
        try:
            yield rollouts
        finally:
            rollouts.detach()


def check_workers(config: TrainConfig) -> None:
    """Raise ValueError, with the reason, if the workers cannot collect rollouts for a resolved configuration."""
    n, n_envs = config.workers, config.n_envs or 0
    check_name(config.algo)
    cls = get_algorithm(config.algo)
    if not (issubclass(cls, TextAgent) and cls.data_parallel and cls.has_rollouts):
        raise ValueError(
            f"algo={config.algo}: workers={n} collect rollouts for algorithms that learn from whole rollouts; leave "
            "--workers out, or take ppo, maskable_ppo, ppo_lagrangian, nlpo, a2c, reinforce, awr, rloo, grpo or "
            "online_dpo"
        )
    if config.engine is not None:
        raise ValueError(f"engine={config.engine}: it draws the completions, and workers={n} do too; leave one out")
    if "human" in (config.env_kwargs.get("reward"), config.env_kwargs.get("reward_fn")):
        raise ValueError(_HUMAN.format(n))
    if is_rank():
        raise ValueError(f"workers={n} in a rank of torchrun: share a run by --nproc or by --workers, not by both")
    if config.shard:
        raise ValueError(f"shard=True: ranks hold shards, and workers={n} whole copies; leave one out")
    if n_envs % n:
        raise ValueError(
            f"n_envs={n_envs}: {n} workers share the environments equally; take a multiple of {n}, such as "
            f"{-(-n_envs // n) * n}"
        )
    if (size := config.agent_kwargs().get("group_size")) and hasattr(cls, "check_groups"):
        cls.check_groups(size, n_envs // n)


_HUMAN = "reward='human' waits for people in one process, not in workers={}; leave --workers out"


class RayRollouts:
    """Collect the rollouts of an agent in workers: the agent's `collector`.

    A rollout is one of all environments. Once the workers have sent their parts, the callbacks see it step by step, as
    if it had been collected here, and the agent's own buffer gets the rows of all workers side by side. What SB3 does
    with it then is untouched. With `async_rollouts` the workers begin the next rollout before the update.

    Attributes:
        clip_max: the most that a token is weighted with in this rollout; None if it is of the policy that is updated.
    """

    def __init__(self, config: TrainConfig, pool: WorkerPool) -> None:
        self.config, self.pool = config, pool
        self.clip_max: float | None = None
        self._agent: Any = None
        self._states: list[Mapping[str, Any]] = []  # of the workers, between two rollouts
        self._restored: Mapping[str, Any] = {}
        self._ordered: int | None = None  # updates that the policy had had when the rollout under way was begun
        self._begun = False

    # Preparing

    def attach(self, config: TrainConfig, agent: Any, callbacks: Sequence[BaseCallback]) -> None:
        """Become the collector of an agent, once the workers are like it, and save their states with the run's.

        Raises:
            ValueError: a worker differs from the learner, or its environment cannot be collected from by workers.
        """
        if human_rewards(agent.get_env()):
            raise ValueError(_HUMAN.format(config.workers))
        self.pool.check_alike(describe_agent(agent))
        if config.async_rollouts and config.threads is None and (taken := self.pool.cores_here()):
            torch.set_num_threads(max(1, (os.cpu_count() or 1) - taken))  # both work at once
        agent.set_collector(self)
        self._agent = agent
        for callback in callbacks:
            if hasattr(callback, "add") and hasattr(callback, "restore"):
                callback.add(self)

    def detach(self) -> None:
        """Let the agent collect its rollouts itself, in new episodes."""
        if self._agent is not None:
            self._agent.set_collector(None)

    def get_state(self) -> dict[str, Any]:
        """Return the states of the workers between two rollouts, and what the agent's buffer keeps of the last."""
        return {"workers": list(self._states), "buffer": self._agent.rollout_buffer.get_state()}

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Go on from a state of `get_state`, at the first rollout: exactly, if it is of as many workers."""
        self._restored = state

    def _begin(self, agent: Any) -> None:
        """Let the workers go on, or begin new episodes."""
        saved = list(self._restored.get("workers", ()))
        if len(saved) == self.config.workers:
            self._states = saved
            agent.rollout_buffer.set_state(self._restored["buffer"])
        elif agent.num_timesteps:
            if saved:
                logger.warning(
                    "the run had %d workers and goes on with %d: the environments begin new episodes, and episodes "
                    "that were under way or waiting for their group are dropped",
                    len(saved),
                    self.config.workers,
                )
            else:
                logger.warning("the run goes on with %d workers: they begin new episodes", self.config.workers)
        learned = saved[0]["env"] if saved else agent.get_env().get_state() if agent.num_timesteps else None
        self.pool.begin(agent.policy, self._states, agent.num_timesteps, learned)
        self._shared = SharedRewards(agent.get_env())
        self._restored, self._begun = {}, True
        agent._last_obs = None  # the workers have the environments: a bundle of the agent says so

    # Collecting

    def collect(self, agent: Any, callback: Any) -> bool:
        """Fill the agent's buffer with a rollout of all environments; return False if a callback ends the training."""
        if not self._begun:
            self._begin(agent)
        started, buffer = time.perf_counter(), agent.rollout_buffer
        if self._ordered is None:
            self._order(agent, agent.num_timesteps)
        buffer.reset()
        callback.on_rollout_start()
        every = [*_all_callbacks(callback)]
        parts = self.pool.take(lambda: any(_is_interrupted(one) for one in every))
        if parts is None:  # a signal came: the rollout is given up, as in its next step here
            return all([one.on_step() for one in every if _is_interrupted(one)])
        waited, lag = time.perf_counter() - started, int(agent._n_updates != self._ordered)
        self._ordered = None
        self._shared.take(parts[0].state["env"], [part.learned for part in parts])
        generators = get_generators() if self._draws_together else None
        if generators is not None:
            set_generators(parts[0].state["generators"])
        ahead = agent.num_timesteps + agent.n_steps * agent.n_envs
        if self.config.async_rollouts and ahead < agent._total_timesteps:
            self._order(agent, ahead)
        if not _replay(agent, callback, parts):  # it is not trained on: a run that goes on collects it again
            self._shared.give_back()
            if generators is not None:
                set_generators(generators)
            return False
        self._states = [part.state for part in parts]
        join(buffer, agent.policy, parts)
        self._correct(agent, lag)
        self._log(agent, parts, waited, lag)
        callback.update_locals({"rollout_buffer": buffer})
        callback.on_rollout_end()
        return True

    @property
    def _draws_together(self) -> bool:
        """Return whether a single worker draws from the run's own generators, as one process would."""
        return self.config.workers == 1 and not self.config.async_rollouts

    def _order(self, agent: Any, num_timesteps: int) -> None:
        """Let the workers collect a rollout with the weights of now."""
        env = agent.get_env()
        order = Order(
            num_timesteps,
            agent._total_timesteps,
            prices(env),
            whitened_sums(env) if self.config.workers > 1 else None,
            get_generators() if self._draws_together else None,
        )
        self._ordered = agent._n_updates
        self.pool.order(order)

    def _correct(self, agent: Any, lag: int) -> None:
        """Weigh a rollout of older weights; whole episodes are weighted where the algorithm computes advantages."""
        self.clip_max = CLIP_MAX if lag else None
        if lag and isinstance(agent.rollout_buffer, SequenceRolloutBuffer):
            centred = bool(getattr(agent, "normalize_advantage", False))
            for name, value in reweigh(agent.rollout_buffer, agent.policy, CLIP_MAX, centred).items():
                agent.logger.record(f"train/{name}", value)

    def _log(self, agent: Any, parts: Sequence[Part], waited: float, lag: int) -> None:
        """Log, under `workers/`, how long the rollout took, how long it was waited for, and what it sent."""
        metrics = {
            "seconds": max(part.seconds for part in parts),
            "waited_seconds": waited,
            "lag": lag,
            **self.pool.take_metrics(),
        }
        for name, value in metrics.items():
            agent.logger.record(f"workers/{name}", value, exclude=("stdout", "log"))


def _is_interrupted(callback: BaseCallback) -> bool:
    return getattr(callback, "interrupted", None) is not None


def _all_callbacks(callback: BaseCallback) -> Iterator[BaseCallback]:
    """Yield a callback, or those of a list of callbacks."""
    if isinstance(callback, CallbackList):
        for child in callback.callbacks:
            yield from _all_callbacks(child)
    else:
        yield callback


def _replay(agent: Any, callback: Any, parts: Sequence[Part]) -> bool:
    """Let the callbacks, and SB3's statistics, see the steps of all environments; return False if one ends it."""
    buffer, dones = agent.rollout_buffer, dones_by_step(parts)
    for step, infos in enumerate(infos_by_step(parts)):
        agent.num_timesteps += agent.n_envs
        rewards = [part.steps["rewards"][step] for part in parts]
        seen: dict[str, Any] = {"self": agent, "env": agent.env, "callback": callback, "rollout_buffer": buffer}
        seen |= {"n_steps": step, "n_rollout_steps": agent.n_steps, "infos": infos, "dones": dones[step]}
        callback.update_locals(seen | {"rewards": [reward for row in rewards for reward in row]})
        if not callback.on_step():
            return False
        agent._update_info_buffer(infos, dones[step])
        buffer.pos = step + 1
    return True
