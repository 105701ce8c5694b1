"""Take a worker's part of a rollout out of its buffer, and join the parts of all workers in the learner's."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from stable_baselines3.common.callbacks import BaseCallback

from ..core.last_values import LastValues
from ..core.rollout_buffer import SequenceRolloutBuffer
from ..core.segment_buffer import SegmentBuffer

__all__ = ["Part", "PartRecorder", "dones_by_step", "infos_by_step", "join", "record_instead"]

STEPS = ("actions", "rewards", "values", "log_probs", "episode_starts", "segments", "columns")  # of every buffer
MASKS = "action_masks"  # of buffers that have them


@dataclass
class Part:
    """Hold a rollout of `n_steps` steps in a worker's n environments, complete but for what all workers' rows decide.

    Attributes:
        steps: arrays `(n_steps, n, ...)` by their names in the buffer; `known_reference` too where it was asked.
        observations: the contexts, one row per episode segment.
        ended: the step, the environment and the info of each episode that ended.
        last_values: `(n,)` float32, the values after the rollout, 0 where an episode has just ended.
        dones: `(n,)` bool, whether one has.
        metrics: what `SegmentBuffer.complete` returned.
        state: what the worker, or another in its place, goes on from.
        learned: what its rewards have added to shared statistics, see `agents.scale.shared`.
        seconds: what the rollout took.
    """

    steps: dict[str, np.ndarray]
    observations: dict[str, np.ndarray]
    ended: list[tuple[int, int, dict[str, Any]]]
    last_values: np.ndarray
    dones: np.ndarray
    metrics: dict[str, float]
    state: dict[str, Any] = field(default_factory=dict)
    learned: list[np.ndarray] = field(default_factory=list)
    seconds: float = 0.0


class PartRecorder(BaseCallback):
    """Keep the infos of the episodes that end in a rollout: `ended`, with their step and environment."""

    def __init__(self) -> None:
        super().__init__()
        self.ended: list[tuple[int, int, dict[str, Any]]] = []

    def _on_rollout_start(self) -> None:
        self.ended = []

    def _on_step(self) -> bool:
        step, infos = self.locals["n_steps"], self.locals["infos"]
        self.ended += [(step, int(row), infos[row]) for row in np.flatnonzero(self.locals["dones"])]
        return True


def record_instead(buffer: SegmentBuffer, recorder: PartRecorder) -> list[Part]:
    """Let a worker's buffer end its rollouts by making a `Part` of each; return the list that the newest is put in.

    GAE, the price of the KL and its controller, and the groups of episodes are left to `join`: they are of all rows.
    """
    made: list[Part] = []
    complete, metrics = buffer.complete, dict[str, float]()

    def complete_and_keep(policy: Any) -> dict[str, float]:
        metrics.clear()
        metrics.update(complete(policy))
        return {}

    def finish(policy: Any, last_values: torch.Tensor, dones: np.ndarray) -> None:
        made[:] = [_make_part(buffer, policy, last_values, dones, recorder.ended, dict(metrics))]

    vars(buffer).update(complete=complete_and_keep, _finish_rollout=finish)
    return made


def _make_part(
    buffer: SegmentBuffer,
    policy: Any,
    last_values: torch.Tensor,
    dones: np.ndarray,
    ended: list[tuple[int, int, dict[str, Any]]],
    metrics: dict[str, float],
) -> Part:
    names = [*STEPS, *([MASKS] if hasattr(buffer, MASKS) else [])]
    steps: dict[str, np.ndarray] = {name: getattr(buffer, name) for name in names}
    values = np.zeros(len(dones), np.float32)
    if isinstance(buffer, SequenceRolloutBuffer):  # others neither bootstrap nor keep the steps as they are
        if isinstance(last_values, LastValues):
            last_values = last_values.where_going_on(dones)
        values = last_values.detach().cpu().numpy().reshape(-1).astype(np.float32)
        if buffer.report_kl:
            steps["known_reference"] = buffer.reference_log_probs_of(policy)
    observations = {key: array[: buffer.n_segments] for key, array in buffer.observations.items()}
    return Part(steps, observations, ended, values, np.asarray(dones, bool), metrics)


def dones_by_step(parts: Sequence[Part]) -> np.ndarray:
    """Return which episodes ended in which step, bool `(n_steps, n_envs)`, of all workers side by side."""
    rows = [np.vstack([part.steps["episode_starts"][1:], part.dones[None]]) for part in parts]
    return np.concatenate(rows, axis=1).astype(bool)


def infos_by_step(parts: Sequence[Part]) -> Iterator[list[dict[str, Any]]]:
    """Yield the infos of each step, one per environment, as the environments of all workers would give them."""
    n_steps, widths = len(parts[0].steps["rewards"]), [len(part.dones) for part in parts]
    firsts = np.cumsum([0, *widths])
    by_step: dict[int, list[tuple[int, dict[str, Any]]]] = {}
    for part, first in zip(parts, firsts, strict=False):
        for step, row, info in part.ended:
            by_step.setdefault(step, []).append((int(first) + row, info))
    for step in range(n_steps):
        infos: list[dict[str, Any]] = [{} for _ in range(firsts[-1])]
        for row, info in by_step.get(step, ()):
            infos[row] = info
        yield infos


def join(buffer: SegmentBuffer, policy: Any, parts: Sequence[Part]) -> None:
    """Put the parts side by side into a buffer of all environments, and make it ready for the update."""
    for name in parts[0].steps.keys() - {"segments"}:
        setattr(buffer, name, np.concatenate([part.steps[name] for part in parts], axis=1))
    firsts = np.cumsum([0, *(len(part.observations["input_ids"]) for part in parts)])
    numbered = [part.steps["segments"] + first for part, first in zip(parts, firsts, strict=False)]
    buffer.segments, buffer.n_segments = np.concatenate(numbered, axis=1), int(firsts[-1])
    keys = parts[0].observations
    buffer.observations = {key: np.concatenate([part.observations[key] for part in parts]) for key in keys}
    buffer.pos, buffer.full = buffer.buffer_size, True
    last_values = torch.as_tensor(np.concatenate([part.last_values for part in parts]))[:, None]
    metrics = {name: float(np.mean([part.metrics[name] for part in parts])) for name in parts[0].metrics}
    buffer.finish(policy, last_values, np.concatenate([part.dones for part in parts]), metrics)
