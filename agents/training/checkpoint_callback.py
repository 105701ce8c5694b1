"""Save checkpoints during training, and the state before the current rollout when a run is stopped."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

import numpy as np
import torch
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import Logger

from ..core.sharding import whole
from ..saving.bundle import capture, read_extra
from ..saving.checkpoints import Checkpoints
from .signal_watch import SignalWatch

__all__ = ["CheckpointCallback"]

logger = logging.getLogger(__name__)


class CheckpointCallback(BaseCallback):
    """Save checkpoints between rollouts, stop on SIGTERM and SIGINT, and save what it can when training fails.

    A run can go on exactly from a *boundary*, the moment before a rollout. The weights do not change during a rollout.
    The few things that do change (environments, generators, counters) are copied at its start, so the boundary can be
    written at any time until the next gradient step. On a signal the callback therefore gives up the rollout, and the
    run goes on from the rollout's start. If a reward hangs then, and also at a second signal, the boundary is saved and
    `learn` is left by SystemExit (SIGTERM) or KeyboardInterrupt (SIGINT), see `stopping`. If it hangs in a call outside
    Python, the process ends with the signal's exit code once the boundary is saved (see `SignalWatch`).

    A signal during an update waits for its end. The second one ends the process at once if there is a checkpoint.

    A policy with shards (`agents.core.sharding`) is saved by all ranks together, once they have agreed on the end
    (`Together`). One rank alone cannot save it: not at a second signal, in a call that hangs, or after an error. The
    newest checkpoint then counts.

    Args:
        checkpoints: where checkpoints are written.
        save_freq: tokens between checkpoints. Each is written at the first boundary after that many. 0 writes
            checkpoints only on signals and errors.
        callbacks: callbacks with `get_state` and `set_state` whose state is saved with the run.
        signals: handle signals. This works in the main thread only.
        until_closed: handle signals after training too, until `close` is called, so that the caller can save the agent.

    Attributes:
        interrupted: the signal that came, or None.
        told: whether it came to another rank of a data-parallel run.
        gave_up: whether a rollout was given up. It is not when the signal comes during the last update.
        saved: the last checkpoint written.
        restored: the `state` of the bundle that was restored; empty once training has started.
    """

    def __init__(
        self,
        checkpoints: Checkpoints,
        save_freq: int = 0,
        callbacks: Sequence[Any] = (),
        signals: bool = True,
        verbose: int = 0,
        until_closed: bool = False,
    ) -> None:
        super().__init__(verbose)
        self.checkpoints, self.save_freq, self.callbacks = checkpoints, save_freq, callbacks
        self.interrupted: signal.Signals | None = None
        self.gave_up = self.told = False
        self.saved: Path | None = None
        self._signals, self._until_closed = signals, until_closed
        self._handlers: dict[signal.Signals, Any] = {}
        self._boundary: dict[str, Any] | None = None
        self._weights: list[tuple[int, int, torch.Tensor]] = []  # at the boundary, see `_weights_now`
        self._stepped = False  # whether the optimizer has made a step since the boundary
        self.restored: dict[str, Any] = {}
        self._last = 0
        self._in_rollout = False
        self._saving = threading.RLock()  # the thread of `SignalWatch` may save too
        self._watch: SignalWatch | None = None

    def restore(self, bundle: Path) -> None:
        """Restore the callbacks, and when training starts the logger, from `bundle`."""
        self.restored = read_extra(bundle)
        for callback in self.callbacks:
            self._restore_callback(callback)

    def add(self, callback: Any) -> None:
        """Save the state of one more callback too. If a bundle was restored, restore the callback from it."""
        self.callbacks = (*self.callbacks, callback)
        self._restore_callback(callback)

    def _restore_callback(self, callback: Any) -> None:
        states = self.restored.get("callbacks", {})
        if type(callback).__name__ in states:
            callback.set_state(states[type(callback).__name__])

    def state(self) -> dict[str, Any]:
        """Return what a bundle of the run holds in addition to the agent: the state of the callbacks and the logger."""
        states = {type(callback).__name__: callback.get_state() for callback in self.callbacks}
        return {"callbacks": states, "logger": pending_metrics(self.logger)}

    def _on_training_start(self) -> None:
        self.close()  # a training before this one may have left handlers
        self.checkpoints.directory.mkdir(parents=True, exist_ok=True)
        self._last = self.model.num_timesteps
        self._boundary, self.interrupted, self.gave_up, self.told = None, None, False, False
        if "logger" in self.restored:
            restore_metrics(self.logger, self.restored["logger"])
        self.restored = {}
        self._hook = self.model.policy.optimizer.register_step_post_hook(self._note_step)
        if self._signals and threading.current_thread() is threading.main_thread():
            self._handlers = {s: signal.signal(s, self._request) for s in (signal.SIGTERM, signal.SIGINT)}
            self._watch = SignalWatch(self._handlers, lambda: self._in_rollout and not self.gave_up, self._leave)

    def _note_step(self, *_: object) -> None:
        self._stepped = True

    def _weights_now(self) -> list[tuple[int, int, torch.Tensor]]:
        """Return address, version and data of each parameter. Holding the data keeps its address from being reused."""
        return [(p.data_ptr(), p._version, p.data) for p in self.model.policy.parameters()]

    @property
    def _saves_alone(self) -> bool:
        return getattr(self.model.policy, "shards", None) is None

    def _has_moved(self) -> bool:
        """Return whether the weights differ from the boundary's. A line search changes them without the optimizer."""
        now = [mark[:2] for mark in self._weights_now()]
        return self._stepped or now != [mark[:2] for mark in self._weights]

    def _request(self, number: int, frame: FrameType | None) -> None:
        """Note a signal. At the second one save the boundary and leave the rollout, or at once an update."""
        if self.interrupted is None:
            self.interrupted = signal.Signals(number)
        elif self.gave_up:  # and is being saved
            return
        elif self._in_rollout and self._saves_alone:
            self.leave(number)
        elif not self._saves_alone or self.checkpoints.latest() is not None:
            signal.signal(number, self._handlers[signal.Signals(number)])
            signal.raise_signal(number)

    def _give_up(self) -> None:
        with self._saving:
            self.gave_up = True
            self.save_boundary()

    def interrupt(self, number: int) -> None:
        """Give up the rollout for a signal that came to this or another rank of a data-parallel run."""
        self.tell(number)
        if not self.gave_up:
            self._give_up()

    def tell(self, number: int) -> None:
        """Note a signal that came to this or another rank of a data-parallel run."""
        if self.interrupted is None:
            self.interrupted, self.told = signal.Signals(number), True

    def leave(self, number: int) -> NoReturn:
        """Save the boundary and leave the rollout by the exception of a signal, see `stopping`."""
        self._give_up()
        self.close()
        raise SystemExit(128 + number) if number == signal.SIGTERM else KeyboardInterrupt

    def _leave(self, number: int) -> None:
        """Save the boundary while the main thread hangs, and end the process."""
        with self._saving:
            if self._in_rollout and not self.gave_up:
                name = signal.Signals(number).name
                saved = self.save_boundary() if self._saves_alone else self.checkpoints.latest()
                print(f"{name}: a call did not return; the run is saved in {saved}", file=sys.stderr, flush=True)
                os._exit(128 + number)

    @contextmanager
    def stopping(self) -> Iterator[None]:
        """Catch the exception by which a signal leaves a `learn` in the `with`: the training has then ended."""
        try:
            yield
        except (KeyboardInterrupt, SystemExit):
            if not self.gave_up:
                raise

    def _on_rollout_start(self) -> None:
        if not self.checkpoints.directory.is_dir():
            raise FileNotFoundError(
                f"the folder {self.checkpoints.directory} was deleted under the run: put it back, or start another run"
            )
        self._boundary, self._stepped = capture(self.model, self.state()), False
        self._weights = self._weights_now() if self._saves_alone else []  # it would keep whole weights in memory
        if self._is_due() or self.interrupted:
            self._save(self._boundary)
        self._in_rollout = True

    def _on_rollout_end(self) -> None:
        with self._saving:
            self._in_rollout = False

    def _on_step(self) -> bool:
        if self.interrupted is None:
            return True
        if self._saves_alone:
            self._give_up()
        return False

    def _on_training_end(self) -> None:
        if not self.gave_up and (self.interrupted or self._is_due()):
            self._save(capture(self.model, self.state()))
        if not self._until_closed:
            self.close()

    def _is_due(self) -> bool:
        return self.save_freq > 0 and self.model.num_timesteps // self.save_freq > self._last // self.save_freq

    def save_boundary(self) -> Path | None:
        """Save the last boundary, unless it is saved already. The weights must be unchanged, as during a rollout."""
        assert self._boundary is not None
        tokens = str(self._boundary["attributes"]["num_timesteps"])
        if self.saved is None or self.saved.name != tokens or not self.saved.is_dir():
            self._save(self._boundary)
        return self.saved

    def _save(self, captured: Mapping[str, Any]) -> None:
        with whole(self.model.policy):
            self.saved = self.checkpoints.write(captured, self.model)
        self._last = captured["attributes"]["num_timesteps"]
        if self.verbose:
            print(f"checkpoint: {self.saved}")

    def rescue(self) -> Path | None:
        """Return the checkpoint to go on from after training has failed, or None if there is none.

        If the weights have not changed since the last boundary, this saves the boundary. Otherwise it is the newest
        checkpoint; if there is none, the agent is saved as it is, in the middle of an update.
        """
        try:
            if getattr(self, "model", None) is None or not self._saves_alone:  # it failed before `learn` gave the agent
                return self.checkpoints.latest()
            if self._boundary is not None and not self._has_moved():
                return self.save_boundary()
            if (latest := self.checkpoints.latest()) is None and self._boundary is not None:
                self._save(capture(self.model, self.state()))
                return self.saved
            return latest
        except Exception as error:  # no error here may hide the one that ended the training
            logger.error("no checkpoint of the last boundary: %s", str(error) or type(error).__name__)
        finally:
            self.close()
        try:
            return self.checkpoints.latest()
        except OSError as error:
            logger.error("no checkpoint can be read: %s", error)
            return None

    def close(self) -> None:
        """Put back the signal handlers, and remove the hook from the optimizer."""
        self._in_rollout = False
        if self._watch is not None:
            self._watch.close()
            self._watch = None
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        self._handlers = {}
        if hasattr(self, "_hook"):
            self._hook.remove()
        self._weights = []


def pending_metrics(logger: Logger) -> dict[str, Any]:
    """Return the metrics that are recorded and not yet written. Pictures and tables are left out."""
    plain = {n: v for n, v in logger.name_to_value.items() if isinstance(v, str | int | float | np.generic)}
    return {
        "values": plain,
        "counts": {name: logger.name_to_count[name] for name in plain if name in logger.name_to_count},
        "excluded": {name: logger.name_to_excluded[name] for name in plain if name in logger.name_to_excluded},
    }


def restore_metrics(logger: Logger, saved: Mapping[str, Any]) -> None:
    """Put back the metrics that `pending_metrics` returned."""
    logger.name_to_value.update(saved["values"])
    logger.name_to_count.update(saved["counts"])
    logger.name_to_excluded.update(saved["excluded"])
