"""Wrap the batched environment as a Stable-Baselines3 `VecEnv`."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import VecEnv, VecMonitor
from stable_baselines3.common.vec_env.base_vec_env import VecEnvIndices, VecEnvObs, VecEnvStepReturn

from rlhf_envs.dialogs import total_reward
from rlhf_envs.vector_env import TextGenerationVectorEnv, row_seeds

__all__ = ["TextVecEnv", "make_vec_env"]


class TextVecEnv(VecEnv):
    """Wrap a `TextGenerationVectorEnv` for SB3: a step costs one array operation over all rows, not one call per row.

    It does what `DummyVecEnv` over `Monitor`ed `TextGenerationEnv`s does. The info of an ended episode carries
    `terminal_observation`, `TimeLimit.truncated` (always False), Monitor's `episode` (`r`, `l`, `t`) and the keys of
    the environment (`prompt`, `completion`, `finish_reason`, `reward_components`, `index`). Other infos are empty. The
    `r` of an episode is the sum of its rewards, those of turns too.
    Every observation is a new array.
    """

    def __init__(self, env: TextGenerationVectorEnv) -> None:
        self.env = env
        self._actions: np.ndarray | None = None
        self._t_start = time.time()
        super().__init__(env.num_envs, env.single_observation_space, env.single_action_space)

    @property
    def spec(self) -> Any:
        """Return the specification that the environment was made from, or None."""
        return self.env.spec

    def seed(self, seed: int | None = None) -> Sequence[int | None]:
        """Keep the rows' seeds for the next reset, derived from one seed (a random one if it is None); return them."""
        drawn = int(np.random.randint(2**32, dtype=np.uint32)) if seed is None else seed
        self._seeds = [*row_seeds(drawn, self.num_envs)]
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
        return self.env.episodes.observe()

    def step_async(self, actions: np.ndarray) -> None:
        """Keep the actions, `(n,)` token ids, for `step_wait`."""
        self._actions = actions

    def step_wait(self) -> VecEnvStepReturn:
        """Step all rows; return observations `(n, L)`, rewards `(n,)` float32, dones `(n,)` bool and infos."""
        steps = self.env.episodes.steps.copy()
        rewards, dones, ended, restarted = self.env.step_rows(np.asarray(self._actions))
        seconds = round(time.time() - self._t_start, 6)
        infos: list[dict[str, Any]] = [{} for _ in range(self.num_envs)]
        for row, (final_obs, final_info) in ended.items():
            episode = {"r": round(total_reward(rewards[row], final_info), 6), "l": int(steps[row]) + 1, "t": seconds}
            added = {"terminal_observation": final_obs, "TimeLimit.truncated": False, "episode": episode}
            infos[row] = final_info | added
            self.reset_infos[row] = restarted[row]
        return self.env.episodes.observe(), rewards.astype(np.float32), dones, infos

    def get_state(self) -> dict[str, Any]:
        """Return all that the next steps depend on, as new arrays and plain values; call it between two steps."""
        return {
            "env": self.env.get_state(),
            "reset_infos": [dict(info) for info in self.reset_infos],
            "seeds": list(self._seeds),
            "options": [dict(options) for options in self._options],
            "seconds": time.time() - self._t_start,
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
    env: str | gym.envs.registration.EnvSpec | Callable[..., TextGenerationVectorEnv],
    n_envs: int = 1,
    seed: int | None = None,
    **env_kwargs: Any,
) -> TextVecEnv:
    """Make an environment for SB3.

    Args:
        env: an id such as "rlhf/Sentiment-v0", its `EnvSpec`, or a callable that makes the batched environment from
            `num_envs=n_envs` and the keyword arguments.
        seed: seeds all rows at the first reset, see `rlhf_envs.vector_env.row_seeds`.
        **env_kwargs: the environment's keyword arguments.

    Raises:
        TypeError: the environment is not a `TextGenerationVectorEnv`.
    """
    if callable(env):
        made: Any = env(num_envs=n_envs, **env_kwargs)
    else:
        made = gym.make_vec(env, num_envs=n_envs, vectorization_mode="vector_entry_point", **env_kwargs)
    if not isinstance(made, TextGenerationVectorEnv):
        raise TypeError(f"{env!r} makes {type(made).__name__}, not a TextGenerationVectorEnv: use SB3's make_vec_env")
    vec_env = TextVecEnv(made)
    if seed is not None:
        vec_env.seed(seed)
    return vec_env
