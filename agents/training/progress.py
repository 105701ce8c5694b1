"""Show what a run does: a progress bar on a terminal or in a notebook, and a line per rollout anywhere else."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from stable_baselines3.common.callbacks import BaseCallback

from ..core import ranks
from ..registry import describe, get_algorithm
from .callbacks import PeriodicEvaluation
from .config import TrainConfig
from .held_out_callback import HeldOutCallback
from .phases import error_console

__all__ = ["ProgressDisplay", "format_duration", "planned_tokens", "rollout_of"]

METRICS = {"reward": "rlhf/reward", "KL": "rlhf/kl"}


def planned_tokens(agent: Any, n_timesteps: int) -> tuple[int, int]:
    """Return the tokens that training for `n_timesteps` takes, and the tokens of a rollout.

    An agent trains for whole rollouts, so the tokens are rounded up to them. Those of a Q-learner are the steps between
    its updates.
    """
    steps = _frequency(agent.train_freq) if hasattr(agent, "replay_buffer") else getattr(agent, "n_steps", 1)
    rollout = steps * agent.n_envs * (1 if hasattr(agent, "replay_buffer") else ranks.size())
    return rollout * math.ceil(n_timesteps / rollout), rollout


def _frequency(train_freq: Any) -> int:
    """Return the steps of all environments between two updates of a Q-learner; 1 if it counts episodes.

    SB3 takes them as 3 or as (3, "step"), and holds a `TrainFreq`.
    """
    if not isinstance(train_freq, tuple | list):
        return int(train_freq)
    frequency, unit = train_freq
    return int(frequency) if getattr(unit, "value", unit) == "step" else 1


def rollout_of(config: TrainConfig, horizon: int) -> int:
    """Return the tokens of a rollout of a resolved configuration, without building its agent.

    Args:
        config: the run.
        horizon: the most tokens of an episode, the default of `n_steps`.
    """
    algorithm = describe(get_algorithm(config.algo))
    if "rollout_buffer_class" in algorithm.parts:
        steps = int(config.hyperparams.get("n_steps") or horizon)
    else:
        steps = _frequency(config.hyperparams.get("train_freq", algorithm.defaults.get("train_freq", 1)))
    return (config.n_envs or 1) * steps


class ProgressDisplay(BaseCallback):
    """Show phase, tokens, tokens per second over rollouts and updates, reward, KL and the time that is left.

    Put it after `TextMetrics`, whose metrics it shows. It draws no random numbers and changes nothing.

    Args:
        console: where it is shown; stderr by default.
        min_seconds: the least time between two lines where there is no terminal. The last rollout always has one.
    """

    def __init__(self, console: Console | None = None, min_seconds: float = 1.0) -> None:
        super().__init__()
        self.console = console or error_console()
        self.min_seconds = min_seconds
        self._bar: Progress | None = None
        self._evaluating = 0.0  # seconds, which do not count as training

    def watch(self, callbacks: list[Any]) -> list[Any]:
        """Return the callbacks with this one, which is told when the evaluations among them begin and end."""
        for callback in callbacks:
            if isinstance(callback, PeriodicEvaluation | HeldOutCallback):
                callback.around = self.evaluation
        return [*callbacks, self]

    @contextmanager
    def evaluation(self) -> Iterator[None]:
        """Show the phase of evaluation, and leave its time out of the tokens per second."""
        self._show("evaluation")
        started = time.perf_counter()
        yield
        self._evaluating += time.perf_counter() - started

    def close(self) -> None:
        """Stop the bar, also after an error."""
        if self._bar is not None:
            self._bar.stop()
        self._bar = None

    def _on_training_start(self) -> None:
        self.close()
        start = self.model.num_timesteps
        self._first, self._started, self._evaluating, self._line = start, time.perf_counter(), 0.0, -math.inf
        left = planned_tokens(self.model, self.locals["total_timesteps"] - start)[0]
        self._total, self._values = start + left, dict[str, float]()
        if self.console.is_terminal or (self.console.is_jupyter and find_spec("ipywidgets") is not None):
            columns = [TextColumn("{task.description:<10}"), BarColumn(None), MofNCompleteColumn()]
            columns.append(TextColumn("{task.fields[facts]}"))
            self._bar = Progress(*columns, console=self.console, expand=True)
            self._task = self._bar.add_task("rollout", total=self._total, completed=start, facts="")
            self._bar.start()

    def _on_rollout_start(self) -> None:
        self._show("rollout")

    def _on_step(self) -> bool:
        if self._bar is not None:
            self._bar.update(self._task, completed=self.num_timesteps)
        return True

    def _on_rollout_end(self) -> None:
        logged = self.logger.name_to_value
        self._values |= {name: round(float(logged[tag]), 2) + 0.0 for name, tag in METRICS.items() if tag in logged}
        self._show("update")
        now = time.perf_counter()
        due = now - self._line >= self.min_seconds or self.num_timesteps >= self._total
        if self._bar is None and due:
            self._line = now
            self.console.print(f"{self.num_timesteps:,}/{self._total:,} tokens  {self._facts()}", markup=False)

    def _on_training_end(self) -> None:
        self._show("done")
        self.close()

    def _show(self, phase: str) -> None:
        if self._bar is not None:
            self._bar.update(self._task, description=phase, completed=self.num_timesteps, facts=self._facts())

    def _facts(self) -> str:
        """Return the speed, the metrics of the last rollout and the time left."""
        seconds = time.perf_counter() - self._started - self._evaluating
        done = self.num_timesteps - self._first
        if not done:
            return ""
        speed = done / max(seconds, 1e-9)
        values = [f"{name} {value:.2f}" for name, value in self._values.items()]
        left = format_duration((self._total - self.num_timesteps) / speed)
        return "  ".join([f"{speed:,.0f} tokens/s", *values, f"{left} left"])


def format_duration(seconds: float) -> str:
    """Return seconds as "1:02:03" or "2:03"."""
    minutes, seconds = divmod(round(max(seconds, 0)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
