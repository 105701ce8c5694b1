"""Evaluate held-out prompts during a run without any effect on it: what callbacks that may stop the run share."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
from stable_baselines3.common.callbacks import BaseCallback

from rlhf_envs.episode_options import EpisodeOptions
from rlhf_envs.names import nearest

from ..core.random_state import isolated_generators
from ..evaluation.evaluate import Evaluation, evaluate
from ..saving.bundle import save
from ..saving.loading import load_weights

__all__ = ["HeldOutCallback"]

logger = logging.getLogger(__name__)

# Arguments of the training environment that an evaluation's environment gets too. It gets the reward as an object.
HELD_OUT = set(EpisodeOptions.__annotations__) - {"split", "reward", "reward_kwargs"}


class HeldOutCallback(BaseCallback):
    """Evaluate the agent before training, and then between an update and the next rollout; a base class.

    Each evaluation completes the same held-out prompts and draws from its own random generators, so until the callback
    stops the run, the run learns the same as without it. A subclass defines the hooks `_take`, `_is_over` and
    `_explain`; its `_take` may call `_keep`.

    Args:
        metric: a metric of `Evaluation.values()` that the evaluations must have, or of `Evaluation.corpus`, if the
            subclass takes these.
        folder: where the agent to keep is saved; `agents.load(folder)` loads it. None saves no agent.
        env: the environment to evaluate in: an id, a text environment, or a `VecEnv` over one (such as
            `PeriodicEvaluation.eval_env`). By default it is made like the training environment, with the split
            "validation" and the reward in use: with a constraint, that has the cost's price in it.
        eval_freq: tokens between evaluations. Each takes place before the first rollout after that many.
        n_episodes, seed: prompts per evaluation, and the seed of the sampling.
        judges: as in `agents.evaluate`; the task's own by default.

    Attributes:
        stopped: whether this callback ended the run.

    Raises:
        ValueError: an argument is wrong, there is no such metric (the message lists the metrics), or no prompt has it.
    """

    takes_corpus_metrics = True  # False: it needs a value per episode

    def __init__(
        self,
        metric: str,
        folder: str | Path | None,
        env: Any,
        eval_freq: int,
        n_episodes: int,
        judges: Sequence[str] | Mapping[str, Any] | None,
        seed: int,
        verbose: int,
    ) -> None:
        super().__init__(verbose)
        if eval_freq < 1:
            raise ValueError(f"eval_freq={eval_freq}: expected at least 1")
        self.metric, self.folder, self.env = metric, None if folder is None else Path(folder), env
        self.eval_freq, self.n_episodes, self.judges, self.seed = eval_freq, n_episodes, judges, seed
        self.stopped = False
        self.twin: HeldOutCallback | None = None  # one before this in the list that makes equal evaluations
        self._evaluation: Evaluation | None = None  # the last one, at `_last` tokens
        self.around: Callable[[], AbstractContextManager[None]] = nullcontext  # what shows the progress sets it
        self._last: int | None = None
        self._in_rollout = False

    @property
    def kept_timesteps(self) -> int | None:
        """Return the tokens of the agent in `folder` if it is the run's result; None: the last agent is."""
        raise NotImplementedError

    def _take(self, evaluation: Evaluation) -> None:
        """Look at an evaluation of the agent as it is."""
        raise NotImplementedError

    def _is_over(self) -> bool:
        """Return whether the run should end."""
        raise NotImplementedError

    def _explain(self) -> str:
        """Return why the run ends, in one sentence."""
        raise NotImplementedError

    def check_metric(self, agent: Any) -> None:
        """Raise ValueError, with the nearest name, if evaluations of an agent in `env` have no such metric."""
        with isolated_generators():
            found = evaluate(agent, self.env, min(2, self.n_episodes), "validation", self.judges)
        task, rows = (agent.get_env().get_attr(name, 0)[0] for name in ("task", "rows"))
        mixed = task.metric_names(rows) if task.subtasks else ()  # two prompts may miss a task's own
        if self.metric not in (known := [*found.values(), *self._corpus(found), *mixed]):
            raise ValueError(f"there is no metric {self.metric!r} to go by; {nearest(self.metric, known)}")

    def load_best(self, policy: Any) -> None:
        """Give a policy the weights of the agent in `folder`."""
        assert self.folder is not None
        load_weights(policy, self.folder)

    def _keep(self, value: float) -> None:
        """Save the agent as it is in `folder`, if there is one, with the metric's value."""
        if self.folder is not None:
            save(self.model, self.folder, {"metric": self.metric, "value": value})

    def _on_training_start(self) -> None:
        self.stopped = False

    def _on_rollout_start(self) -> None:
        self._in_rollout = True
        if self._last is None or self.num_timesteps // self.eval_freq > self._last // self.eval_freq:
            self._evaluate()

    def _on_step(self) -> bool:
        if not self._is_over():
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

    def _evaluate(self) -> None:
        if self.twin is not None and self.twin._last == self.num_timesteps and self.twin._evaluation is not None:
            evaluation = self.twin._evaluation
        else:
            with self.around(), isolated_generators():
                evaluation = evaluate(
                    self.model, n_episodes=self.n_episodes, judges=self.judges, seed=self.seed, **self._environment()
                )
        self._evaluation = evaluation
        if self.metric not in (known := evaluation.values() | self._corpus(evaluation)):
            raise ValueError(f"there is no metric {self.metric!r} to go by; there are {', '.join(known)}")
        if self.metric not in evaluation.estimates():
            raise ValueError(
                f"none of {self.n_episodes} held-out prompts has the metric {self.metric!r}: take more, n_episodes (of "
                "rlhf train --n-eval-episodes), until every task of the mixture is among them"
            )
        self._last = self.num_timesteps
        self._take(evaluation)

    def _corpus(self, evaluation: Evaluation) -> dict[str, np.ndarray]:
        """Return the metrics of all episodes together, which have no value per episode."""
        return evaluation.corpus if self.takes_corpus_metrics else {}

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
