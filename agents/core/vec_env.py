"""Wrap the batched environment as a Stable-Baselines3 `VecEnv`."""

from __future__ import annotations

import logging
import math
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, get_args

import gymnasium as gym
import numpy as np
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import VecEnv, VecMonitor
from stable_baselines3.common.vec_env.base_vec_env import VecEnvIndices, VecEnvObs, VecEnvStepReturn

from rlhf_envs.dialogs import total_reward
from rlhf_envs.finished import FinishedEpisode
from rlhf_envs.rewards.shaping import whole_number
from rlhf_envs.vector_env import TextGenerationVectorEnv, row_seeds

from . import ranks
from .step_rewards import StepRewards

__all__ = ["TextVecEnv", "make_vec_env", "score_by_rollout"]

logger = logging.getLogger(__name__)

Scoring = Literal["step", "rollout"]


class TextVecEnv(VecEnv):
    """Wrap a `TextGenerationVectorEnv` for SB3: a step costs one array operation over all rows, not one call per row.

    It does what `DummyVecEnv` over `Monitor`ed `TextGenerationEnv`s does. The info of an ended episode carries
    `terminal_observation`, `TimeLimit.truncated` (always False), Monitor's `episode` (`r`, `l`, `t`) and the keys of
    the environment (`prompt`, `completion`, `finish_reason`, `reward_components`, `index`). Other infos are empty. The
    `r` of an episode is the sum of its rewards, those of turns too.
    Every observation is a new array.

    With `score="rollout"` the episodes that end in a rollout are scored in one reward call after it, when a rollout
    buffer of this package computes the returns. Until then their rewards are 0, `episode["r"]` is NaN, and their infos
    lack `reward_components` and `metrics`. Then the scores are in the buffer and these very infos are completed, before
    callbacks get `on_rollout_end`. A step is scored at once if the step before it was not taken by such a buffer: after
    a `reset`, in evaluations, with other buffers, and if something computed with that step's rewards before: a wrapper
    that changes rewards, `VecMonitor`, a callback that sums them.

    Args:
        env: the batched environment.
        score: when episodes are scored: in the "step" in which they end, or after the "rollout". None leaves it to
            `agents.make` and `agents.load`, which take "rollout"; otherwise it is "step".
        score_batch: the most episodes in one reward call after a rollout; None for all.

    Raises:
        ValueError: `score` or `score_batch` is wrong.

    Attributes:
        is_collected: whether a rollout buffer that scores episodes took the last step, and nothing else computed with
            its rewards; None before the first.
        n_left: the episodes that ended in the last step, were not scored, and reached no such buffer.
        share: which part of a run's rows these are, from 0, and how many parts there are, where other processes have
            the others; set it before the seeds.
    """

    def __init__(
        self, env: TextGenerationVectorEnv, score: Scoring | None = None, score_batch: int | None = None
    ) -> None:
        _check_scoring(score, score_batch)
        self.env = env
        self.score, self.score_batch = score, score_batch
        self.is_collected: bool | None = None
        self.n_left = 0
        self.share = (0, 1)
        self._warns = score == "rollout"  # of steps that no buffer takes
        self._actions: np.ndarray | None = None
        self._t_start = time.time()
        super().__init__(env.num_envs, env.single_observation_space, env.single_action_space)

    @property
    def spec(self) -> Any:
        """Return the specification that the environment was made from, or None."""
        return self.env.spec

    @property
    def total_envs(self) -> int:
        """Return the number of rows that the ranks, or the workers, of a run have together."""
        return self.num_envs * ranks.size() * self.share[1]

    def seed(self, seed: int | None = None) -> Sequence[int | None]:
        """Keep the rows' seeds for the next reset, derived from one seed (a random one if it is None); return them.

        The ranks or workers of a run share the seeds that one process with all rows would have.
        """
        drawn = int(np.random.randint(2**32, dtype=np.uint32)) if seed is None else seed
        begin = (ranks.rank() + self.share[0]) * self.num_envs
        self._seeds = [*row_seeds(drawn, self.total_envs)[begin : begin + self.num_envs]]
        return self._seeds

    def reset(self) -> VecEnvObs:
        """Begin an episode in every row, with the seeds and options set since the last reset."""
        for options in self._options:
            if unknown := options.keys() - {"index"}:
                raise ValueError(
                    f"unknown reset options {', '.join(sorted(unknown))}; there is index, the row of the data"
                )
        index = [options.get("index") for options in self._options]
        infos = self.env.reset_rows(self._seeds, {"index": index})
        self.reset_infos = [infos[row] for row in range(self.num_envs)]
        self._reset_seeds()
        self._reset_options()
        self.is_collected, self.n_left = None, 0
        return self.env.episodes.observe()

    def step_async(self, actions: np.ndarray) -> None:
        """Keep the actions, `(n,)` token ids, for `step_wait`."""
        self._actions = actions

    def step_wait(self) -> VecEnvStepReturn:
        """Step all rows; return observations `(n, L)`, rewards `(n,)` float32, dones `(n,)` bool and infos."""
        self._warn_if_lost()
        steps = self.env.episodes.steps.copy()
        unscored: list[FinishedEpisode] | None = [] if self.score == "rollout" and self.is_collected else None
        rewards, dones, ended, restarted = self.env.step_rows(np.asarray(self._actions), unscored)
        seconds = round(time.time() - self._t_start, 6)
        infos: list[dict[str, Any]] = [{} for _ in range(self.num_envs)]
        later = {episode.row for episode in unscored or ()}
        for row, (final_obs, info) in ended.items():
            total = math.nan if row in later else round(total_reward(rewards[row], info), 6)
            episode = {"r": total, "l": int(steps[row]) + 1, "t": seconds}
            info |= {"terminal_observation": final_obs, "TimeLimit.truncated": False, "episode": episode}
            infos[row] = info
            self.reset_infos[row] = restarted[row]
        rewards = rewards.astype(np.float32)
        if self.score == "rollout":
            self._warn_if_ignored(bool(ended))
            rewards = carrier = rewards.view(StepRewards)
            carrier.env, carrier.episodes = self, unscored or ()
        self.is_collected, self.n_left = False, len(later)
        return self.env.episodes.observe(), rewards, dones, infos

    def _warn_if_ignored(self, ended: bool) -> None:
        """Warn once if scores after the rollout were asked for, and no buffer takes the steps."""
        if self._warns and ended and self.is_collected is False:
            logger.warning(
                "score='rollout': episodes are scored in every step, because no buffer took the rewards of the last "
                "one as they were. What scores episodes after a rollout is this package's buffers, PPO(..., "
                "rollout_buffer_class=SequenceRolloutBuffer), without a wrapper that computes with rewards"
            )
            self._warns = False
        self._warns = self._warns and not self.is_collected

    def _warn_if_lost(self) -> None:
        """Warn if episodes of the last step never get a score."""
        if self.n_left:
            logger.warning(
                "%d episodes that ended in the last step have no score: its rewards did not reach the rollout buffer "
                "as they were. If this is no rollout that was stopped, make the environment with score='step'",
                self.n_left,
            )

    def score_episodes(self, episodes: Sequence[FinishedEpisode]) -> np.ndarray:
        """Score k episodes that have no score yet, complete their infos, and return the scores `(k,)` float64.

        Raises:
            RewardError, ScoreError: the reward failed.
        """
        size = self.score_batch or len(episodes)
        parts = [self.env.episodes.score(episodes[i : i + size]) for i in range(0, len(episodes), size)]
        scores = np.concatenate(parts)
        for episode, score in zip(episodes, scores, strict=True):
            episode.info["episode"]["r"] = round(total_reward(episode.turn_reward + score, episode.info), 6)
        return scores

    def get_state(self) -> dict[str, Any]:
        """Return all that the next steps depend on, as new arrays and plain values; call it between two steps."""
        return {
            "env": self.env.get_state(),
            "reset_infos": [dict(info) for info in self.reset_infos],
            "seeds": list(self._seeds),
            "options": [dict(options) for options in self._options],
            "seconds": time.time() - self._t_start,
            "score": self.score or "step",
            "score_batch": self.score_batch,
            "is_collected": self.is_collected,
        }

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Go on from a state of `get_state`.

        Raises:
            ValueError: the state does not fit this environment.
        """
        self.env.set_state(state["env"])
        self.reset_infos = [dict(info) for info in state["reset_infos"]]
        self._seeds, self._options = list(state["seeds"]), [dict(options) for options in state["options"]]
        self._t_start = time.time() - state["seconds"]
        if self.score is None and "score" in state:  # older releases did not save it
            _check_scoring(state["score"], state["score_batch"])
            self.score, self.score_batch = state["score"], state["score_batch"]
        self.is_collected, self.n_left = state.get("is_collected"), 0

    def set_learned(self, state: Mapping[str, Any]) -> None:
        """Take what rewards, mixtures and curricula have learned from a state of `get_state`, of any number of rows.

        Raises:
            ValueError: the state belongs to other tasks or levels.
        """
        self.env.episodes.set_learned(state["env"]["episodes"])

    def close(self) -> None:
        """Close the environment."""
        self.env.close()

    def get_attr(self, attr_name: str, indices: VecEnvIndices = None) -> list[Any]:
        """Return an attribute once per row asked for. Of a tuple with a value per row, each row gets its own."""
        return self._per_row(getattr(self.env, attr_name), indices)

    def set_attr(self, attr_name: str, value: Any, indices: VecEnvIndices = None) -> None:
        """Set an attribute of the environment, for all rows: they share it.

        Raises:
            ValueError: only some rows are given.
        """
        if set(self._get_indices(indices)) != set(range(self.num_envs)):
            raise ValueError(f"the rows share {attr_name!r}: set it for all of them, without indices")
        setattr(self.env, attr_name, value)

    def env_method(
        self, method_name: str, *method_args: Any, indices: VecEnvIndices = None, **method_kwargs: Any
    ) -> list[Any]:
        """Call a method of the environment once, and return its result for every row asked for, as `get_attr` does."""
        result = getattr(self.env, method_name)(*method_args, **method_kwargs)
        if method_name == "action_masks":  # (n, V), and sb3-contrib asks for one row's
            result = tuple(result)
        return self._per_row(result, indices)

    def env_is_wrapped(self, wrapper_class: type[gym.Wrapper], indices: VecEnvIndices = None) -> list[bool]:
        """Return True for `Monitor`, whose statistics are in the infos, and False for any other wrapper.

        `VecMonitor` is told False. It would warn that it overwrites the statistics, and it writes the same ones.
        """
        if sys._getframe(1).f_code is VecMonitor.__init__.__code__:
            return [False for _ in self._get_indices(indices)]
        return [issubclass(wrapper_class, Monitor) for _ in self._get_indices(indices)]

    def get_images(self) -> Sequence[np.ndarray | None]:
        """Return one picture per row in render mode "rgb_array", else None per row."""
        if self.render_mode != "rgb_array":
            return [None] * self.num_envs
        return list(self.env.render() or ())

    def _per_row(self, value: Any, indices: VecEnvIndices) -> list[Any]:
        rows = self._get_indices(indices)
        if isinstance(value, tuple) and len(value) == self.num_envs:
            return [value[row] for row in rows]
        return [value for _ in rows]


def make_vec_env(
    env: str
    | gym.envs.registration.EnvSpec
    | Callable[..., TextGenerationVectorEnv]
    | Sequence[Any]
    | Mapping[str, float],
    n_envs: int = 1,
    seed: int | None = None,
    score: Scoring | None = None,
    score_batch: int | None = None,
    **env_kwargs: Any,
) -> TextVecEnv:
    """Make an environment for SB3.

    Args:
        env: an id such as "rlhf/Sentiment-v0", its `EnvSpec`, or a callable that makes the batched environment from
            `num_envs=n_envs` and the keyword arguments. Several ids, or weights by id, are the `tasks` of a
            "rlhf/Mixture-v0".
        seed: seeds all rows at the first reset, see `rlhf_envs.vector_env.row_seeds`.
        score: when episodes are scored, in the "step" in which they end or once after the "rollout", see `TextVecEnv`.
        score_batch: the most episodes in one reward call after a rollout; None for all.
        **env_kwargs: the environment's keyword arguments.

    Raises:
        ValueError: `score` or `score_batch` is wrong.
        TypeError: the environment is not a `TextGenerationVectorEnv`.
    """
    if isinstance(env, Sequence | Mapping) and not isinstance(env, str):
        env, env_kwargs["tasks"] = "rlhf/Mixture-v0", env
    if callable(env):
        made: Any = env(num_envs=n_envs, **env_kwargs)
    else:
        made = gym.make_vec(env, num_envs=n_envs, vectorization_mode="vector_entry_point", **env_kwargs)
    if not isinstance(made, TextGenerationVectorEnv):
        raise TypeError(f"{env!r} makes {type(made).__name__}, not a TextGenerationVectorEnv: use SB3's make_vec_env")
    vec_env = TextVecEnv(made, score, score_batch)
    if seed is not None:
        vec_env.seed(seed)
    return vec_env


def _check_scoring(score: str | None, score_batch: int | None) -> None:
    """Raise ValueError if one of these arguments of `TextVecEnv` is wrong."""
    if score is not None and score not in get_args(Scoring):
        raise ValueError(f"score={score!r}: choose 'step' or 'rollout', or leave it out")
    if score_batch is not None:
        whole_number("score_batch", score_batch)


def score_by_rollout(env: Any) -> None:
    """Let an environment score episodes after the rollout, unless it was made with another `score`."""
    if isinstance(env, TextVecEnv) and env.score is None:
        env.score = "rollout"
