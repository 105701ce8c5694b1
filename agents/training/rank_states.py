"""Check that the ranks of a data-parallel run are alike, and keep what each of them needs to go on exactly."""

from __future__ import annotations

import logging
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from stable_baselines3.common.callbacks import BaseCallback

from ..core import ranks
from ..core.random_state import get_generators, set_generators
from ..core.together import same_everywhere
from ..saving.environment import describe_env
from ..saving.provenance import versions
from .config import TrainConfig
from .human_feedback import human_rewards

__all__ = ["RankStates", "check_alike", "check_ranks", "checksum", "envs_per_rank"]

logger = logging.getLogger(__name__)

# Settings that may differ from rank to rank: where and how loudly a run is written, and the machine.
FREE = {"log_folder", "run_name", "verbose", "progress", "threads", "device", "wandb", "tracker", "project"}


def envs_per_rank(n_envs: int) -> int:
    """Return the environments of each rank.

    Raises:
        ValueError: the ranks cannot share the environments equally.
    """
    if n_envs % ranks.size():
        raise ValueError(
            f"n_envs={n_envs}: {ranks.size()} ranks share the environments equally; take a multiple of {ranks.size()}, "
            f"such as {-(-n_envs // ranks.size()) * ranks.size()}"
        )
    return n_envs // ranks.size()


def check_ranks(config: TrainConfig, agent: Any) -> None:
    """Check, where there are several ranks, that they can train this agent together, and that they are alike.

    Raises:
        ValueError: the algorithm or the reward needs one process, or ranks have unequal settings, environments, models
            or versions. Every rank raises it, and the message names what differs, and where.
    """
    if ranks.size() == 1:
        return
    if not getattr(type(agent), "data_parallel", False):
        raise ValueError(
            f"algo={config.algo}: it trains in one process; leave --nproc out, or take ppo, maskable_ppo, "
            "ppo_lagrangian, nlpo, a2c, reinforce, awr, rloo, grpo, online_dpo, sft, dpo or kto"
        )
    if (getattr(agent, "credit", None), getattr(agent, "baseline", None)) == ("turn", "mean"):
        raise ValueError("credit='turn' with baseline='mean': ranks may have unequal turns; take baseline='value'")
    if config.engine is not None:
        raise ValueError(f"engine={config.engine}: it draws for one process; leave --nproc out, or the engine")
    if human_rewards(agent.get_env()):
        raise ValueError("reward='human' trains in one process, which waits for people; leave --nproc out")
    check_alike(_description(config, agent))


def check_alike(mine: Mapping[str, Any]) -> None:
    """Raise ValueError, on every rank, if the ranks differ in a value. The message names it, and where it differs."""
    found = ranks.everywhere(dict(mine))
    differ = []
    for name in sorted({name for one in found for name in one}):
        values = [one.get(name) for one in found]
        if other := [rank for rank, value in enumerate(values) if value != values[0]]:
            differ.append(f"{name} is {values[0]!r} on rank 0 and {values[other[0]]!r} on rank {other[0]}")
    if differ:
        raise ValueError(f"the ranks of a run have to be alike, and {'; '.join(differ)}")


def _description(config: TrainConfig, agent: Any) -> dict[str, Any]:
    """Return what has to be the same on every rank, by name; texts and tensors by their checksums."""
    settings = config.model_dump(mode="json", exclude=FREE)
    rows = agent.get_env().get_attr("rows", 0)[0]
    return {
        **{f"the setting {name}": value for name, value in settings.items()},
        **{f"the version of {name}": value for name, value in versions().items()},
        "the environment": describe_env(agent.get_env()),
        "the checksum of the data": zlib.crc32(repr([row.get("prompt") for row in rows]).encode()),
        "the checksum of the rows to learn": getattr(agent, "data_checksum", None),
        "the checksum of the model": checksum(same_everywhere(agent.policy)),
    }


def checksum(tensors: Mapping[str, torch.Tensor]) -> int:
    """Return the CRC-32 of tensors with their names and shapes."""
    found = 0
    for name, tensor in sorted(tensors.items()):
        found = zlib.crc32(f"{name} {tuple(tensor.shape)}".encode(), found)
        if tensor.numel():
            array: np.ndarray = tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy()
            found = zlib.crc32(array.data, found)
    return found


class RankStates(BaseCallback):
    """Keep, on the first rank, what every rank needs to go on exactly: its environments, episodes and random numbers.

    Put it before `CheckpointCallback`, and among the callbacks whose state that saves. A run that goes on with as many
    ranks does so exactly. With another number of ranks, environments begin new episodes, parts of episodes and groups
    that wait for their other completions are dropped, and generators are seeded anew; the log says so. Weights, the
    optimizer, counters, the KL coefficient and what callbacks keep go on in both cases. So does what rewards and
    curricula have learned: of each rank, or of the first one if their number is another.

    Raises:
        RuntimeError: at the end of training, the ranks' weights are not the same.
    """

    def __init__(self) -> None:
        super().__init__()
        self._states: list[dict[str, Any]] = []  # of all ranks, on the first one
        self._restored: list[dict[str, Any]] = []
        self._in_rollout = False

    def get_state(self) -> dict[str, Any]:
        """Return the states of all ranks at the last boundary, on the first rank."""
        return {"ranks": self._states}

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Go on from a state that `get_state` returned on the first rank, when training starts."""
        self._restored = list(state["ranks"])

    def _on_training_start(self) -> None:
        self._in_rollout = False
        saved, self._restored = ranks.from_first(self._restored), []
        if len(saved) == ranks.size():
            self._go_on(saved[ranks.rank()])
        elif saved and ranks.first():
            logger.warning(
                "the run was on %d ranks and goes on with %d: the environments begin new episodes, and episodes that "
                "were under way or waiting for their group are dropped",
                len(saved),
                ranks.size(),
            )

    def _go_on(self, state: Mapping[str, Any]) -> None:
        model: Any = self.model
        model.get_env().set_state(state["env"])
        model.rollout_buffer.set_state(state["buffer"])
        model._last_obs, model._last_episode_starts = state["observations"], state["episode_starts"]
        set_generators(state["generators"])

    def _keep(self) -> None:
        model: Any = self.model
        state = {
            "env": model.get_env().get_state(),
            "buffer": model.rollout_buffer.get_state(),
            "observations": model._last_obs,
            "episode_starts": model._last_episode_starts,
            "generators": get_generators(),
        }
        self._states = ranks.gathered([state])

    def _on_rollout_start(self) -> None:
        self._in_rollout = True
        self._keep()

    def _on_step(self) -> bool:
        return True

    def _on_rollout_end(self) -> None:
        self._in_rollout = False

    def _on_training_end(self) -> None:
        if self._in_rollout:  # it was given up: the state of the boundary before it counts
            return
        self._keep()
        if len({*ranks.everywhere(checksum(same_everywhere(self.model.policy)))}) > 1:
            raise RuntimeError("the ranks' weights have drifted apart: do all machines have the same hardware?")
