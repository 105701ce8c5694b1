"""Stop a run while a held-out judge still likes what the agent writes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..evaluation.evaluate import Evaluation
from .held_out_callback import HeldOutCallback

__all__ = ["EarlyStopping", "stopping_point"]


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


class EarlyStopping(HeldOutCallback):
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
            "validation" and the reward in use: with a constraint, that has the cost's price in it.
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
        super().__init__(metric, folder, env, eval_freq, n_episodes, judges, seed, verbose)
        if patience < 1:
            raise ValueError(f"patience={patience}: expected at least 1")
        if not (math.isfinite(min_delta) and min_delta >= 0):
            raise ValueError(f"min_delta={min_delta}: expected a number of at least 0")
        self.patience, self.min_delta = patience, min_delta
        self.history: list[tuple[int, float]] = []

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
            "stopped": self._is_over(),
        }

    @property
    def kept_timesteps(self) -> int:
        """Return the tokens of the best agent, which is the run's result, also of a run that does not stop."""
        return self.best_timesteps

    def _stop(self) -> tuple[int, int | None]:
        return stopping_point([value for _, value in self.history], self.patience, self.min_delta)

    def _is_over(self) -> bool:
        return self._stop()[1] is not None

    def _explain(self) -> str:
        kept = f", kept in {self.folder}" if self.folder is not None else ""
        return (
            f"stopped: {self.patience} evaluations in a row without a rise of {self.metric}, which was best "
            f"({self.best:.4g}) after {self.best_timesteps} tokens{kept}"
        )

    def _take(self, evaluation: Evaluation) -> None:
        self.history.append((self.num_timesteps, evaluation.estimates()[self.metric].mean))
        if self._stop()[0] == len(self.history) - 1:
            self._keep(self.best)
        self.logger.record(f"eval/{self.metric}", self.history[-1][1])
        self.logger.record(f"eval/best_{self.metric}", self.best)
