"""Evaluate during training, without any effect on the training."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
from stable_baselines3.common.callbacks import EvalCallback
from stable_baselines3.common.vec_env import VecEnv

from rlhf_envs.files import replace_file

from ..core.random_state import isolated_generators
from ..core.text_metrics import TEXT_ONLY, list_episodes
from ..evaluation.generate import generate_in, held_out_indices
from ..evaluation.source import Source

__all__ = ["PeriodicEvaluation"]


class PeriodicEvaluation(EvalCallback):
    """Evaluate as SB3's `EvalCallback` does, but at the end of rollouts and without any effect on the training.

    Each evaluation completes the same prompts with the same random numbers, as `agents.evaluate` does, and logs the
    first `n_samples` with their completions as `eval/samples`, so that TensorBoard shows how these change. A run learns
    the same with and without evaluations. The metrics go into the rollout's row of the log.

    Args:
        env: the environment whose task, data and reward the evaluations take.
        n_eval_episodes: episodes per evaluation.
        eval_freq: tokens between evaluations. Each takes place at the end of the first rollout after that many.
        folder: where `evaluations.npz` goes.
        seed: the seed of the sampling.
        n_samples: completions logged per evaluation.
    """

    STATE = (
        "evaluations_timesteps",
        "evaluations_results",
        "evaluations_length",
        "best_mean_reward",
        "last_mean_reward",
        "_last",
    )

    def __init__(
        self,
        env: VecEnv,
        n_eval_episodes: int,
        eval_freq: int,
        folder: Path,
        seed: int,
        verbose: int = 0,
        n_samples: int = 4,
    ) -> None:
        super().__init__(
            env, n_eval_episodes=n_eval_episodes, eval_freq=eval_freq, log_path=str(folder), verbose=verbose
        )
        self.seed, self.n_samples = seed, n_samples
        self.around: Callable[[], AbstractContextManager[None]] = nullcontext  # what shows the progress sets it
        self._last = 0

    def get_state(self) -> dict[str, Any]:
        """Return the state that `set_state` goes on from exactly."""
        return {name: getattr(self, name) for name in self.STATE}

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Go on from a state that `get_state` returned."""
        for name in self.STATE:
            setattr(self, name, state[name])

    def _on_step(self) -> bool:
        return True

    def _on_rollout_end(self) -> None:
        if self.num_timesteps // self.eval_freq == self._last // self.eval_freq:
            return
        self._last = self.num_timesteps
        with self.around(), isolated_generators(self.num_timesteps):
            source = Source.of(self.model)
            batch = source.open_episodes(self.eval_env, "its own")
            indices = held_out_indices(batch, self.n_eval_episodes)
            with source.acting(batch) as policy:
                done = generate_in(batch, policy, indices, self.seed, best_of=source.best_of)
        rewards, lengths = [c.reward for c in done], [len(c.columns) for c in done]
        self.evaluations_timesteps.append(self.num_timesteps)
        self.evaluations_results.append(rewards)
        self.evaluations_length.append(lengths)
        self._write()
        self.last_mean_reward = float(np.mean(rewards))
        self.best_mean_reward = max(self.best_mean_reward, self.last_mean_reward)
        self.logger.record("eval/mean_reward", self.last_mean_reward)
        self.logger.record("eval/mean_ep_length", float(np.mean(lengths)))
        samples = [
            {"episode": {"r": c.reward}, "prompt": c.asked, "completion": c.answered, "extra": c.extra}
            for c in done[: self.n_samples]
        ]
        self.logger.record("eval/samples", list_episodes(samples), exclude=TEXT_ONLY)

    def _write(self) -> None:
        """Replace `evaluations.npz`, in SB3's format."""
        file = io.BytesIO()
        arrays: dict[str, Any] = {"timesteps": self.evaluations_timesteps, "results": self.evaluations_results}
        np.savez(file, **arrays, ep_lengths=self.evaluations_length)
        replace_file(Path(f"{self.log_path}.npz"), file.getvalue())
