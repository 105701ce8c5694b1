"""Be a Ray worker of a run: collect rollouts in a part of its environments, with a copy of its policy."""

from __future__ import annotations

import os
import platform
import sys
import time
import zlib
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from stable_baselines3.common.callbacks import CallbackList
from stable_baselines3.common.logger import Logger

from ..core.random_state import get_generators, set_generators
from ..core.together import seed_of_episodes, seed_process
from ..core.trainer_state import TellTrainerState
from ..saving.environment import describe_env
from ..saving.provenance import versions
from ..training.building import build_agent
from ..training.config import TrainConfig
from ..training.rank_states import checksum
from .group import be_quiet
from .parts import Part, PartRecorder, record_instead
from .shared import set_shared, whitened_sums
from .weights import base_checksum_entries, load_weights

__all__ = ["Order", "RolloutWorker", "Setup", "describe_agent"]


@dataclass(frozen=True)
class Setup:
    """Hold what a worker is built from.

    Attributes:
        config: the run's, resolved.
        number: the worker's, from 0.
        folder: where the learner works; the worker works there too if it is there, so that files have one name.
        path: the learner's places to import modules from.
        state: what to go on from, as `Part.state` has it; None begins new episodes.
        learned: the state of another worker's environment, whose rewards' and curriculum's learning to take over where
            there is no `state`.
        begun_at: tokens of the run before these episodes; they choose the seeds of new ones.
    """

    config: TrainConfig
    number: int
    folder: str
    path: tuple[str, ...]
    state: Mapping[str, Any] | None = None
    learned: Mapping[str, Any] | None = None
    begun_at: int = 0


@dataclass(frozen=True)
class Order:
    """Hold what a worker is told for one rollout.

    Attributes:
        num_timesteps: tokens of the run before it.
        total_timesteps: tokens that the run is to have.
        prices: of the constraints in the reward.
        sums: statistics of its `Whitened` parts; None for the worker's own.
        generators: the global random generators to draw from; None for the worker's own.
    """

    num_timesteps: int
    total_timesteps: int
    prices: Sequence[float] = ()
    sums: Sequence[np.ndarray] | None = None
    generators: Mapping[str, Any] | None = None


class RolloutWorker:
    """Collect rollouts. An actor of Ray: its methods run one after another, in a process of their own."""

    def __init__(self) -> None:
        self.agent: Any = None

    def describe(self) -> dict[str, Any]:
        """Return where this worker is, and the versions that it has."""
        return {"process": os.getpid(), "node": platform.node(), "versions": versions()}

    def build(self, setup: Setup) -> dict[str, Any]:
        """Build the environments, the reward and the policy. Return what has to be as on the learner, by name."""
        _be_at(setup)
        config, n = setup.config, setup.config.workers
        assert config.n_envs is not None
        device = "cuda" if config.worker_gpus else "cpu"
        own = {"n_envs": config.n_envs // n, "device": device, "threads": config.worker_cpus, "verbose": 0}
        self.agent = agent = build_agent(config.model_copy(update=own), (setup.number, n))
        agent.set_logger(Logger(None, []))
        agent.ep_info_buffer, agent.ep_success_buffer = deque(maxlen=1), deque(maxlen=1)
        self._recorder = PartRecorder()
        self._made = record_instead(agent.rollout_buffer, self._recorder)
        self._callback = CallbackList([TellTrainerState(), self._recorder])
        self._callback.init_callback(agent)
        return describe_agent(agent)

    def _begin(self, setup: Setup) -> None:
        """Go on from a state, or begin an episode in every environment."""
        agent, state = self.agent, setup.state
        agent.num_timesteps = setup.begun_at
        if state is not None:
            agent.env.set_state(state["env"])
            agent._last_obs, agent._last_episode_starts = state["observations"], state["episode_starts"]
            set_generators(state["generators"])
            return
        if setup.begun_at:
            agent.env.seed(seed_of_episodes(setup.config.seed, setup.begun_at))
        if setup.learned is not None and hasattr(agent.env, "set_learned"):
            agent.env.set_learned(setup.learned)
        agent._last_obs, agent._last_episode_starts = agent.env.reset(), np.ones(agent.n_envs, bool)
        seed_process(agent, 1 + setup.number)  # the learner is 0

    def collect(
        self,
        order: Order,
        changed: Mapping[str, np.ndarray],
        everything: Mapping[str, np.ndarray] | None = None,
        setup: Setup | None = None,
    ) -> Part:
        """Collect a rollout of `n_steps` steps.

        Args:
            order: see there.
            changed: what `WeightSender.pack_changed` returned.
            everything: in a worker's first rollout, what `WeightSender.pack_all` returned.
            setup: in a worker's first rollout, what to go on from; where nothing is built yet it is built first.
        """
        begin = time.perf_counter()
        if setup is not None:
            if self.agent is None:
                self.build(setup)
            self._begin(setup)
        agent = self.agent
        for packed in filter(None, (everything, changed)):
            load_weights(agent.policy, packed)
        set_shared(agent.env, order.prices, order.sums)
        before = whitened_sums(agent.env)
        agent.num_timesteps, agent._total_timesteps = order.num_timesteps, order.total_timesteps
        if order.generators is not None:
            set_generators(order.generators)
        agent.collect_rollouts(agent.env, self._callback, agent.rollout_buffer, agent.n_steps)
        part = self._made.pop()
        part.state = {
            "env": agent.env.get_state(),
            "observations": agent._last_obs,
            "episode_starts": agent._last_episode_starts,
            "generators": get_generators(),
        }
        part.learned = [now - then for now, then in zip(whitened_sums(agent.env), before, strict=True)]
        part.seconds = time.perf_counter() - begin
        return part


def describe_agent(agent: Any) -> dict[str, Any]:
    """Return what has to be the same on the learner and the workers, by name; texts and tensors by their checksums."""
    env = agent.get_env()
    environment = {name: value for name, value in describe_env(env).items() if name != "num_envs"}
    rows = env.get_attr("rows", 0)[0] if env.has_attr("rows") else []
    entries = {name: tuple(tensor.shape) for name, tensor in agent.policy.state_dict().items()}
    vocabulary = getattr(agent.action_space, "vocabulary", None)
    return {
        "the environment": environment,
        "the spaces": [str(agent.observation_space), str(agent.action_space)],
        "the checksum of the data": zlib.crc32(repr([row.get("prompt") for row in rows]).encode()),
        "the checksum of the vocabulary": zlib.crc32(repr(vocabulary).encode()),
        "the checksum of the model's shapes": zlib.crc32(repr(entries).encode()),
        "the checksum of the model below the adapters": checksum(base_checksum_entries(agent.policy)),
    }


def _be_at(setup: Setup) -> None:
    """Work in the learner's folder if it is there, find its modules, and print errors only: the learner says the rest.

    A worker of a run on one machine is in its own process, so that nothing else sees this.
    """
    if Path(setup.folder).is_dir():
        os.chdir(setup.folder)
    sys.path += [place for place in setup.path if place not in sys.path and Path(place).exists()]
    torch.set_num_threads(setup.config.worker_cpus)
    be_quiet()
