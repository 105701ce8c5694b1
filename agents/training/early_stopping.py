"""Stopping while a held-out judge still likes what the agent writes."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from stable_baselines3.common.callbacks import BaseCallback

from rlhf_envs.episodes import EpisodeOptions

from ..core.random_state import isolated_generators
from ..evaluation.evaluate import evaluate
from ..saving.bundle import save

__all__ = ["EarlyStopping", "stopping_point"]

logger = logging.getLogger(__name__)

# Arguments of the training environment that go for held-out prompts too; the reward is the one in use.
HELD_OUT = set(EpisodeOptions.__annotations__) - {"split", "reward", "reward_kwargs"}


def stopping_point(values: Sequence[float], patience: int, min_delta: float = 0.0) -> tuple[int, int | None]:
    """Where early stopping would have stopped a series of evaluations.

    Returns:
        The index of the best value (kept by the run) and that of the evaluation after which the run stops, None where
        it does not: `patience` evaluations in a row no more than `min_delta` above the best before them.
    """
    best = 0
    for i, value in enumerate(values):
        if i and value > values[best] + min_delta:
            best = i
        elif i - best >= patience:
            return best, i
    return best, None


class EarlyStopping(BaseCallback):
    """Stop a run when a held-out metric has not risen for a while, and keep the agent that had the best.

    A reward model that is optimised for long enough is fooled (Gao et al. 2022, https://arxiv.org/abs/2210.10760): its
    score goes on rising while a judge that the agent never meets turns away. The agent completes the same held-out
    prompts each time, with generators of their own, so that up to its end the run learns what it learns without. It is
    evaluated between an update and the next rollout; the first time before training.

    Logged: `eval/<metric>` and `eval/best_<metric>`.

    Args:
        metric: what is to rise: a judge's name such as "gold", "reward", or another of `Evaluation.values()`.
        patience: evaluations in a row without a rise after which the run stops.
        min_delta: what counts as a rise must exceed this.
        folder: of the best agent's bundle, `agents.load(folder)`; None keeps none.
        env: the environment to evaluate in: an id, a text environment or a `VecEnv` over one (such as that of
            `PeriodicEvaluation`); by default one like the training environment's, on the split "validation".
        eval_freq: tokens between evaluations; at the first boundary after that many.
        n_episodes: prompts of an evaluation.
        judges: as in `agents.evaluate`; the task's own by default.
        seed: of the sampling.

    Attributes:
        history: (tokens, value) of every evaluation.
        best, best_timesteps: the highest value and the tokens it came after.
        stopped: whether this ended the run.

    Raises:
        ValueError: an argument is wrong, or there is no such metric (the message lists those there are).
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
        self._last: int | None = None

    @property
    def best(self) -> float:
        """The highest value, -inf before the first evaluation."""
        return self.history[self._stop()[0]][1] if self.history else -math.inf

    @property
    def best_timesteps(self) -> int:
        """The tokens that the agent with the highest value was trained for."""
        return self.history[self._stop()[0]][0] if self.history else 0

    def get_state(self) -> dict[str, Any]:
        """What `set_state` needs to go on exactly."""
        return {"history": [list(entry) for entry in self.history], "last": self._last}

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Go on from a state of `get_state`."""
        self.history, self._last = [(int(n), float(value)) for n, value in state["history"]], state["last"]

    def _stop(self) -> tuple[int, int | None]:
        return stopping_point([value for _, value in self.history], self.patience, self.min_delta)

    def _on_training_start(self) -> None:
        self.stopped = False

    def _on_rollout_start(self) -> None:
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

    def _on_training_end(self) -> None:
        if not self.stopped and self._last != self.num_timesteps:
            self._evaluate()  # what the last update made of it may be the best

    def _explain(self) -> str:
        kept = f", kept in {self.folder}" if self.folder is not None else ""
        return (
            f"stopped: {self.patience} evaluations in a row without a rise of {self.metric}, which was best "
            f"({self.best:.4g}) after {self.best_timesteps} tokens{kept}"
        )

    def _evaluate(self) -> None:
        with isolated_generators():
            evaluation = evaluate(
                self.model, n_episodes=self.n_episodes, judges=self.judges, seed=self.seed, **self._environment()
            )
        values = evaluation.values()
        if self.metric not in values:
            raise ValueError(f"there is no metric {self.metric!r} to stop by; there are {', '.join(values)}")
        self._last = self.num_timesteps
        self.history.append((self.num_timesteps, float(values[self.metric].mean())))
        if self.folder is not None and self._stop()[0] == len(self.history) - 1:
            save(self.model, self.folder, {"metric": self.metric, "value": self.best})
        self.logger.record(f"eval/{self.metric}", self.history[-1][1])
        self.logger.record(f"eval/best_{self.metric}", self.best)

    def _environment(self) -> dict[str, Any]:
        """Where, as arguments of `evaluate`: what was given, or what the agent trains in, with held-out prompts."""
        if self.env is not None:
            return {"env_id": self.env}
        spec = self.training_env.get_attr("spec", 0)[0]
        if spec is None:
            raise ValueError("the training environment was not made from an id: say where to evaluate, env=...")
        kwargs = {name: value for name, value in spec.kwargs.items() if name in HELD_OUT}
        kwargs["reward_fn"] = self.training_env.get_attr("reward_fn", 0)[0]
        return {"env_id": spec.id, "split": "validation", "env_kwargs": kwargs}
