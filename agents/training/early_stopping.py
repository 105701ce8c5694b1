"""Stop a run while a held-out judge still likes what the agent writes."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
from stable_baselines3.common.callbacks import BaseCallback

from rlhf_envs.episode_options import EpisodeOptions
from rlhf_envs.names import nearest

from ..core.random_state import isolated_generators
from ..evaluation.evaluate import evaluate
from ..saving.bundle import save
from ..saving.loading import load_weights

__all__ = ["EarlyStopping", "stopping_point"]

logger = logging.getLogger(__name__)

# Arguments of the training environment that an evaluation's environment gets too. It gets the reward as an object.
HELD_OUT = set(EpisodeOptions.__annotations__) - {"split", "reward", "reward_kwargs"}


def stopping_point(values: Sequence[float], patience: int, min_delta: float = 0.0) -> tuple[int, int | None]:
    """Return where early stopping stops a series of evaluations.

    It stops after `patience` evaluations in a row that are at most `min_delta` above the best value before them.

    Returns:
        The index of the best value, and the index of the evaluation after which the run stops (None: it does not).
    """
    best = 0
    for i, value in enumerate(values):
        if i and value > values[best] + min_delta:
            best = i
        elif i - best >= patience:
            return best, i
    return best, None


class EarlyStopping(BaseCallback):
    """Stop a run when a held-out metric has not risen for a while, and keep the best agent.

    If a reward model is optimised for long enough, the agent fools it (Gao et al. 2022,
    https://arxiv.org/abs/2210.10760): its score goes on rising while the score of a judge that the agent never meets
    falls. Each evaluation completes the same held-out prompts and draws from its own random generators, so until it
    stops the run learns the same as without early stopping. The agent is evaluated before training, and then between
    an update and the next rollout.

    It logs `eval/<metric>` and `eval/best_<metric>`.

    Args:
        metric: the metric that has to rise: a judge's name such as "gold", "reward", or another name of
            `Evaluation.values()`.
        patience, min_delta: stop after `patience` evaluations in a row without a rise of more than `min_delta`.
        folder: where the best agent is saved; `agents.load(folder)` loads it. None saves no agent.
        env: the environment to evaluate in: an id, a text environment, or a `VecEnv` over one (such as
            `PeriodicEvaluation.eval_env`). By default it is made like the training environment, with the split
            "validation".
        eval_freq: tokens between evaluations. Each takes place before the first rollout after that many.
        n_episodes, seed: prompts per evaluation, and the seed of the sampling.
        judges: as in `agents.evaluate`; the task's own by default.

    Attributes:
        history: (tokens, value) of every evaluation.
        best, best_timesteps: the highest value and the tokens trained at that point.
        stopped: whether this callback ended the run.

    Raises:
        ValueError: an argument is wrong, or there is no such metric (the message lists the metrics).
    """

    def __init__(
        self,
        metric: str = "gold",
        patience: int = 3,
        min_delta: float = 0.0,
        folder: str | Path | None = None,
        env: Any = None,
        eval_freq: int = 4096,
        n_episodes: int = 128,
        judges: Sequence[str] | Mapping[str, Any] | None = None,
        seed: int = 0,
        verbose: int = 0,
    ) -> None:
        super().__init__(verbose)
        for name, value in (("patience", patience), ("eval_freq", eval_freq)):
            if value < 1:
                raise ValueError(f"{name}={value}: expected at least 1")
        if not (math.isfinite(min_delta) and min_delta >= 0):
            raise ValueError(f"min_delta={min_delta}: expected a number of at least 0")
        self.metric, self.patience, self.min_delta = metric, patience, min_delta
        self.folder, self.env = None if folder is None else Path(folder), env
        self.eval_freq, self.n_episodes, self.judges, self.seed = eval_freq, n_episodes, judges, seed
        self.history: list[tuple[int, float]] = []
        self.stopped = False
        self.around: Callable[[], AbstractContextManager[None]] = nullcontext  # what shows the progress sets it
        self._last: int | None = None
        self._in_rollout = False

    @property
    def best(self) -> float:
        """Return the highest value; -inf before the first evaluation."""
        return self.history[self._stop()[0]][1] if self.history else -math.inf

    @property
    def best_timesteps(self) -> int:
        """Return how many tokens the agent with the highest value was trained for."""
        return self.history[self._stop()[0]][0] if self.history else 0

    def get_state(self) -> dict[str, Any]:
        """Return the state that `set_state` goes on from exactly."""
        return {"history": [list(entry) for entry in self.history], "last": self._last}

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Go on from a state that `get_state` returned."""
        self.history, self._last = [(int(n), float(value)) for n, value in state["history"]], state["last"]

    def summary(self) -> dict[str, Any]:
        """Return, for a report, the metric, its best value, the tokens trained by then, and whether the run stopped."""
        return {
            "metric": self.metric,
            "patience": self.patience,
            "best": self.best,
            "best_timesteps": self.best_timesteps,
            "stopped": self._stop()[1] is not None,
        }

    def check_metric(self, agent: Any) -> None:
        """Raise ValueError, with the nearest name, if evaluations of an agent in `env` have no such metric."""
        with isolated_generators():
            found = evaluate(agent, self.env, min(2, self.n_episodes), "validation", self.judges)
        if self.metric not in (known := found.values()):
            raise ValueError(f"there is no metric {self.metric!r} to stop by; {nearest(self.metric, known)}")

    def load_best(self, policy: Any) -> None:
        """Give a policy the weights that were best, from `folder`."""
        assert self.folder is not None
        load_weights(policy, self.folder)

    def _stop(self) -> tuple[int, int | None]:
        return stopping_point([value for _, value in self.history], self.patience, self.min_delta)

    def _on_training_start(self) -> None:
        self.stopped = False

    def _on_rollout_start(self) -> None:
        self._in_rollout = True
        if self._last is None or self.num_timesteps // self.eval_freq > self._last // self.eval_freq:
            self._evaluate()

    def _on_step(self) -> bool:
        if self._stop()[1] is None:
            return True
        if not self.stopped:
            self.stopped = True
            logger.info("%s", self._explain())
            if self.verbose:
                print(self._explain())
        return False

    def _on_rollout_end(self) -> None:
        self._in_rollout = False

    def _on_training_end(self) -> None:
        # A rollout that was given up, as a signal has it, begins anew when the run goes on: its end is no end.
        if not self._in_rollout and self._last != self.num_timesteps:
            self._evaluate()  # the last update may have made the best agent

    def _explain(self) -> str:
        kept = f", kept in {self.folder}" if self.folder is not None else ""
        return (
            f"stopped: {self.patience} evaluations in a row without a rise of {self.metric}, which was best "
            f"({self.best:.4g}) after {self.best_timesteps} tokens{kept}"
        )

    def _evaluate(self) -> None:
        with self.around(), isolated_generators():
            evaluation = evaluate(
                self.model, n_episodes=self.n_episodes, judges=self.judges, seed=self.seed, **self._environment()
            )
        values = evaluation.values()
        if self.metric not in values:
            raise ValueError(f"there is no metric {self.metric!r} to stop by; there are {', '.join(values)}")
        self._last = self.num_timesteps
        self.history.append((self.num_timesteps, float(np.nanmean(values[self.metric]))))
        if self.folder is not None and self._stop()[0] == len(self.history) - 1:
            save(self.model, self.folder, {"metric": self.metric, "value": self.best})
        self.logger.record(f"eval/{self.metric}", self.history[-1][1])
        self.logger.record(f"eval/best_{self.metric}", self.best)

    def _environment(self) -> dict[str, Any]:
        """Return arguments of `evaluate`: the given environment, or the training environment with held-out prompts."""
        if self.env is not None:
            return {"env_id": self.env}
        spec = self.training_env.get_attr("spec", 0)[0]
        if spec is None:
            raise ValueError("the training environment was not made from an id: say where to evaluate, env=...")
        kwargs = {name: value for name, value in spec.kwargs.items() if name in HELD_OUT}
        kwargs["reward_fn"] = self.training_env.get_attr("reward_fn", 0)[0]
        return {"env_id": spec.id, "split": "validation", "env_kwargs": kwargs}
