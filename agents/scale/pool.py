"""Keep the Ray workers of a run at work: send weights, take rollouts, and put another in the place of a lost one."""

from __future__ import annotations

import logging
import os
import platform
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Self

from ..core.ranks import RankLost
from ..saving.provenance import versions
from ..training.config import TrainConfig
from .cluster import explain_store, is_lost, why_lost
from .parts import Part
from .weights import WeightSender
from .workers import Order, RolloutWorker, Setup

__all__ = ["WorkerPool"]

logger = logging.getLogger(__name__)

LOOK = 1.0  # seconds after which a wait looks whether a signal has come
TELL = 30.0  # seconds between two messages of a wait for a place in the cluster


class WorkerPool:
    """Hold the workers of a run, each an actor with a number. Use it in a `with` block, which ends them.

    A worker that dies, with its machine or alone, costs its part of one rollout: a new actor is built, goes on from the
    state that the lost one had sent last, and collects that part again with the same weights. So no episode counts
    twice and none is lost.

    Args:
        ray: the module, connected to a cluster.
        config: the run's, resolved.
    """

    def __init__(self, ray: Any, config: TrainConfig) -> None:
        self._ray, self.config = ray, config
        options = {"num_cpus": config.worker_cpus, "num_gpus": config.worker_gpus, "scheduling_strategy": "SPREAD"}
        self._remote = ray.remote(RolloutWorker).options(max_restarts=0, max_task_retries=0, **options)
        self._actors: list[Any] = []
        self._hellos: list[Any] = []  # what each says once it has a place
        self._since: list[float] = []  # when each was asked for
        self._setups: list[Setup] = []
        self._deaths: list[int] = []  # in this rollout
        self._running: dict[Any, int] = {}  # rollouts under way, and whose they are
        self._metrics = {"lost": 0.0, "sent_megabytes": 0.0, "transfer_seconds": 0.0}

    def __enter__(self) -> Self:
        path = tuple(dict.fromkeys([os.getcwd(), *(place for place in sys.path if place)]))
        for number in range(self.config.workers):
            self._setups.append(Setup(self.config, number, os.getcwd(), path))
            self._actors.append(None)
            self._hellos.append(None)
            self._since.append(0.0)
            self._start(number)
        return self

    def __exit__(self, *_: object) -> None:
        for actor in self._actors:
            self._ray.kill(actor)

    def _start(self, number: int) -> None:
        """Ask the cluster for a new actor."""
        self._actors[number] = self._remote.remote()
        self._hellos[number] = self._actors[number].describe.remote()
        self._since[number] = time.monotonic()

    # Before training

    def check_versions(self) -> None:
        """Wait until all workers have a place, and compare their versions with this process's.

        Raises:
            ValueError: they differ, a worker lacks this package, or the cluster has no place for it in time.
        """
        here, differ = versions(), []
        for number, hello in enumerate(self._hellos):
            there = self._wait_for(number, hello)
            found = there["versions"]
            for name in sorted(here.keys() | found.keys()):
                if here.get(name) != found.get(name):
                    where = f"worker {number} (on {there['node']})"
                    differ.append(f"{name} is {here.get(name)} on the learner and {found.get(name)} in {where}")
        if differ:
            raise ValueError(f"the workers of a run have the learner's versions, and {'; '.join(differ)}")

    def cores_here(self) -> int:
        """Return the CPUs that workers have on this machine, once they have a place."""
        here = [self._ray.get(hello)["node"] == platform.node() for hello in self._hellos]
        return sum(here) * self.config.worker_cpus

    def check_alike(self, mine: Mapping[str, Any]) -> None:
        """Build the environments and policies of all workers, and compare them with the learner's.

        Raises:
            ValueError: they differ; the message names in what, and where. Or one cannot be built there.
        """
        built = [actor.build.remote(setup) for actor, setup in zip(self._actors, self._setups, strict=True)]
        differ = []
        for number, ref in enumerate(built):
            theirs = self._wait_for(number, ref)
            for name in mine:
                if theirs[name] != mine[name]:
                    differ.append(f"{name} is {mine[name]!r} on the learner and {theirs[name]!r} in worker {number}")
        if differ:
            raise ValueError(f"the workers of a run have to be like the learner, and {'; '.join(differ)}")

    def begin(
        self, policy: Any, states: Sequence[Mapping[str, Any]], tokens: int, learned: Mapping[str, Any] | None
    ) -> None:
        """Send all weights, and let the workers go on from `states`, or begin new episodes where there are none.

        Args:
            tokens: of the run before; they seed new episodes.
            learned: what the rewards and curricula of workers without a state begin with, see `Setup`.
        """
        self._sender = WeightSender(policy)
        self._all = self._put(self._sender.pack_all())
        self._latest = None
        for number in range(self.config.workers):
            state = states[number] if states else None
            setup = replace(self._setups[number], state=state, learned=learned, begun_at=tokens)
            self._setups[number] = setup
        self._deaths = [0] * self.config.workers

    # Rollouts

    def order(self, order: Order) -> None:
        """Let all workers collect a rollout with the policy's weights of now."""
        first = self._latest is None
        self._latest, self._ordered = self._put(self._sender.pack_changed()), order
        self._deaths = [0] * self.config.workers
        self._parts: list[Part | None] = [None] * self.config.workers
        for number in range(self.config.workers):
            self._collect(number, anew=first)

    def _collect(self, number: int, anew: bool) -> None:
        """Let a worker collect the rollout that was ordered last; `anew` from its setup, with all weights."""
        more = [self._all, self._setups[number]] if anew else []
        self._running[self._actors[number].collect.remote(self._ordered, self._latest, *more)] = number

    def take(self, is_over: Callable[[], bool]) -> list[Part] | None:
        """Wait for the rollout of all workers, and return its parts; None if `is_over` says that nobody needs it.

        Raises:
            RankLost: a worker was lost more often than `worker_retries` says.
            ValueError: the cluster has no place for a new worker in time, or its object store is full.
            Exception: what a worker raised, such as a RewardError, with its number.
        """
        while self._running:
            ready, _ = self._ray.wait([*self._running], num_returns=1, timeout=LOOK)
            if is_over():
                return None
            for ref in ready:
                number = self._running.pop(ref)
                try:
                    begin = time.perf_counter()
                    part = self._ray.get(ref)
                    self._metrics["transfer_seconds"] += time.perf_counter() - begin
                except self._ray.exceptions.RayError as error:
                    self._replace(number, error)
                else:
                    self._parts[number] = part
                    self._setups[number] = replace(self._setups[number], state=part.state)
            if not ready:
                self._look_for_places()
        return [part for part in self._parts if part is not None]

    def _replace(self, number: int, error: BaseException) -> None:
        """Put a new actor in the place of a lost one, and let it collect what that owes; raise any other error."""
        if not is_lost(error):
            raise self._explain(number, error) from error
        self._deaths[number] += 1
        self._metrics["lost"] += 1
        n, limit, why = self._deaths[number], self.config.worker_retries, why_lost(error)
        name = f"worker {number} of {self.config.workers}"
        if n > limit:
            raise RankLost(
                f"{name} was lost {n} times in one rollout ({why}), more than worker_retries={limit}: look at its log "
                "in Ray's folder, /tmp/ray/session_latest/logs on its machine"
            ) from error
        message = "%s was lost (%s): a new one collects its part of the rollout again, attempt %d of %d"
        logger.warning(message, name, why, n, limit)
        self._ray.kill(self._actors[number])  # if its machine alone is out of reach
        self._start(number)
        self._collect(number, anew=True)

    def take_metrics(self) -> dict[str, float]:
        """Return what was sent, and how often a worker was lost, since the last call."""
        metrics, self._metrics = self._metrics, dict.fromkeys(self._metrics, 0.0)
        return metrics

    def _put(self, packed: Mapping[str, Any]) -> Any:
        """Put weights into the object store."""
        begin = time.perf_counter()
        try:
            ref = self._ray.put(packed)
        except self._ray.exceptions.RayError as error:
            raise ValueError(explain_store(error) or str(error)) from error
        self._metrics["transfer_seconds"] += time.perf_counter() - begin
        self._metrics["sent_megabytes"] += sum(array.nbytes for array in packed.values()) / 1e6
        return ref

    # Waiting and errors

    def _wait_for(self, number: int, ref: Any) -> Any:
        """Return what a worker answers before training."""
        while True:
            ready, _ = self._ray.wait([ref], timeout=LOOK)
            if ready:
                break
            self._look_for_places()
        try:
            return self._ray.get(ref)
        except self._ray.exceptions.RayError as error:
            raise self._explain(number, error) from error

    def _look_for_places(self) -> None:
        """Say which workers still wait for a place in the cluster.

        Raises:
            ValueError: one has waited for longer than `worker_wait` seconds.
        """
        missing = [n for n, hello in enumerate(self._hellos) if not self._ray.wait([hello], timeout=0)[0]]
        now, limit = time.monotonic(), self.config.worker_wait
        for number in missing:
            waited = now - self._since[number]
            if waited < limit and int(waited / TELL) == int((waited - LOOK) / TELL):
                continue
            total, free = self._ray.cluster_resources(), self._ray.available_resources()
            has = f"{total.get('CPU', 0):g} CPUs and {total.get('GPU', 0):g} GPUs, of them free {free.get('CPU', 0):g} "
            has += f"and {free.get('GPU', 0):g}"
            wants = f"{self.config.worker_cpus} CPUs" + (f" and {g:g} GPUs" if (g := self.config.worker_gpus) else "")
            about = f"worker {number} of {self.config.workers} has not started: it needs {wants}, the cluster has {has}"
            if waited >= limit:
                raise ValueError(
                    f"{about}; after worker_wait={limit:g} seconds it is given up: take fewer --workers, or add nodes"
                )
            logger.warning("%s; waiting for up to %.0f seconds", about, limit)

    def _explain(self, number: int, error: BaseException) -> BaseException:
        """Return the error to raise for one of a worker: its own, with its number, if it said what went wrong."""
        if (full := explain_store(error)) is not None:
            return ValueError(f"worker {number}: {full}")
        cause = getattr(error, "cause", None)
        if isinstance(cause, Exception) and not isinstance(cause, self._ray.exceptions.RayError):
            cause.args = (f"worker {number}: {cause}",)
            return cause
        text = str(error)
        if "No module named" in text or "ImportError" in text or "AttributeError" in text:
            last = [line for line in text.splitlines() if line.strip()][-1].strip()
            return ValueError(
                f"worker {number} cannot start ({last[:200]}): install the learner's versions on its machine"
            )
        return ValueError(f"worker {number} cannot start: {text[:500]}")
