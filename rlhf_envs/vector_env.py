"""Step n episodes of `TextGenerationEnv` at once.

One array operation per step serves all rows, and one reward call scores all episodes that end in it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import gymnasium as gym
import numpy as np
from gymnasium.utils import seeding
from gymnasium.vector import AutoresetMode
from gymnasium.vector.utils import batch_space

from rlhf_envs.episode_options import EpisodeOptions
from rlhf_envs.episodes import EpisodeBatch
from rlhf_envs.finished import FinishedEpisode
from rlhf_envs.names import check_arguments
from rlhf_envs.tasks.base import Task
from rlhf_envs.tasks.lookup import own_arguments
from rlhf_envs.text_env import HasEpisodes, TextGenerationEnv, check_render_mode, render_row

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = ["TextGenerationVectorEnv", "row_seeds"]

Observation = dict[str, np.ndarray]
RowInfos = dict[int, dict[str, Any]]


class TextGenerationVectorEnv(HasEpisodes, gym.vector.VectorEnv[Observation, np.ndarray, np.ndarray]):
    """Run `num_envs` episodes side by side, with the results of as many `TextGenerationEnv`s in a `SyncVectorEnv`.

    ## Description
    It is the batched form of `TextGenerationEnv`, and faster than `SyncVectorEnv`: all rows share one array and one
    reward call. Every row has its own generator, seeded with `seed + row`, as in `SyncVectorEnv`. Neighbouring seeds
    share rows then: for runs that are to be independent pass `row_seeds(seed, num_envs)`.

    ## Observation space
    That of `TextGenerationEnv`, batched: `input_ids` (num_envs, L) int64, `attention_mask` (num_envs, L) int8.

    ## Action space
    `MultiDiscrete([V] * num_envs)`: one token id per row.

    ## Reward
    (num_envs,) float64: 0 where an episode continues, else the score of its completion.

    ## Episode end
    An episode that ends restarts in the same step (`AutoresetMode.SAME_STEP`). The last observation and info of the old
    episode are in `infos["final_obs"]` and `infos["final_info"]`.

    ## Version history
    v0: the first version.

    ## Arguments

    Args:
        num_envs: the number of rows.
        task: a `Task`, its class, or "module:Class".
        render_mode: as in `TextGenerationEnv`.
        **options: see `EpisodeBatch`.
    """

    metadata: ClassVar[dict[str, Any]] = {  # type: ignore[misc]
        **TextGenerationEnv.metadata,
        "autoreset_mode": AutoresetMode.SAME_STEP,
    }

    def __init__(
        self,
        num_envs: int,
        task: str | type[Task] | Task,
        *,
        render_mode: str | None = None,
        **options: Unpack[EpisodeOptions],
    ) -> None:
        if num_envs < 1:
            raise ValueError(f"num_envs must be at least 1, got {num_envs}")
        check_render_mode(render_mode)
        self.num_envs = num_envs
        self.render_mode = render_mode
        check_arguments(options, [*EpisodeOptions.__annotations__, *own_arguments(task)], "the environment")
        self.episodes = EpisodeBatch(num_envs, task, **options)
        self.single_observation_space = self.episodes.observation_space
        self.single_action_space = self.episodes.action_space
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self._rngs: list[np.random.Generator | None] = [None] * num_envs
        self._seeds: list[int | None] = [None] * num_envs

    def reset(
        self, *, seed: int | Sequence[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Begin an episode in every row.

        Args:
            seed: an int, which seeds each row with `seed + row`, or one seed per row.
            options: `index` is one row of the data for all, or one per row (None draws one); `reset_mask` (n,) bool
                resets only the rows where it is True.
        """
        infos: dict[str, Any] = {}
        for row, info in self.reset_rows(seed, options).items():
            infos = self._add_info(infos, info, row)
        return self.episodes.observe(), infos

    def reset_rows(self, seed: int | Sequence[int | None] | None, options: dict[str, Any] | None) -> RowInfos:
        """Begin episodes as `reset` does, and return the info of each row that was reset."""
        options = options or {}
        if unknown := options.keys() - {"index", "reset_mask"}:
            raise ValueError(f"unknown reset options {', '.join(sorted(unknown))}; there are index and reset_mask")
        n = self.num_envs
        seeds = [None if seed is None else seed + i for i in range(n)] if _is_one(seed) else list(seed)  # type: ignore[arg-type,operator]
        index = options.get("index")
        indices = [index] * n if _is_one(index) else list(index)  # type: ignore[arg-type]
        for name, values in (("seed", seeds), ("options['index']", indices)):
            if len(values) != n:
                raise ValueError(f"{name} has {len(values)} values for {n} environments: give one, or one each")
        infos: RowInfos = {}
        rows = _masked_rows(options.get("reset_mask"), n)
        if len(rows) == n:
            self.episodes.sampler.begin_group()
        for row in rows:
            if seeds[row] is not None:
                self._rngs[row], self._seeds[row] = seeding.np_random(seeds[row])
            infos[row] = self._restart(row, indices[row])
        return infos

    def step(self, actions: np.ndarray) -> tuple[Observation, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """Append one token per row. Reward and restart the episodes that end.

        Args:
            actions: (n,) token ids.
        """
        rewards, terminated, ended, restarted = self.step_rows(actions)
        infos: dict[str, Any] = {}
        for row, (final_obs, final_info) in ended.items():
            infos = self._add_info(infos, {"final_obs": final_obs, "final_info": final_info}, row)
            infos = self._add_info(infos, restarted[row], row)
        return self.episodes.observe(), rewards, terminated, np.zeros_like(terminated), infos

    def step_rows(
        self, actions: np.ndarray, unscored: list[FinishedEpisode] | None = None
    ) -> tuple[np.ndarray, np.ndarray, dict[int, tuple[Observation, dict[str, Any]]], RowInfos]:
        """Step as `step` does, but return infos as Python objects per row instead of arrays.

        Args:
            actions: (n,) token ids.
            unscored: where to put the episodes that end instead of scoring them, see `EpisodeBatch.step`.

        Returns:
            rewards (n,) float64; terminated (n,) bool; by row, the last observation and info of each episode that
            ended; by row, the reset info of the episode that took its place.
        """
        rewards, terminated, final_infos = self.episodes.step(actions, unscored)
        ended = {row: (self.episodes.observe_row(row), info) for row, info in final_infos.items()}
        restarted = {row: self._restart(row) for row in ended}
        return rewards, terminated, ended, restarted

    def action_masks(self) -> np.ndarray:
        """Return which tokens may come next, (n, V) bool; see `EpisodeBatch`."""
        return self.episodes.action_masks()

    def render(self) -> tuple[Any, ...] | None:
        """Return the texts or images of all rows. Mode "human" prints the texts and returns None."""
        if self.render_mode is None:
            gym.logger.warn("render() does nothing without a render_mode: make the environment with render_mode='ansi'")
            return None
        mode = "ansi" if self.render_mode == "human" else self.render_mode
        frames = tuple(render_row(self.episodes, row, mode) for row in range(self.num_envs))
        if self.render_mode == "human":
            print(*frames, sep="\n")
            return None
        return frames

    def get_state(self) -> dict[str, Any]:
        """Return the episodes, generators and seeds of all rows, as new arrays and plain values, large integers too."""
        generators = [None if rng is None else rng.bit_generator.state for rng in self._rngs]
        return {"episodes": self.episodes.get_state(), "generators": generators, "seeds": list(self._seeds)}

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Continue from a state of `get_state`: the same actions lead to the same episodes.

        Raises:
            ValueError: the state does not fit this environment.
        """
        self.episodes.set_state(state["episodes"])
        self._rngs = [None if saved is None else _generator(saved) for saved in state["generators"]]
        self._seeds = list(state["seeds"])

    @property  # type: ignore[misc]  # as in SyncVectorEnv: one generator per row, read-only
    def np_random(self) -> tuple[np.random.Generator, ...]:  # type: ignore[override]
        """Return the generators, one per row."""
        return tuple(self._rng(row) for row in range(self.num_envs))

    @property
    def np_random_seed(self) -> tuple[int | None, ...]:  # type: ignore[override]
        """Return the seeds, one per row."""
        for row in range(self.num_envs):
            self._rng(row)
        return tuple(self._seeds)

    def _rng(self, row: int) -> np.random.Generator:
        """Return the generator of a row, made without a seed if there is none yet."""
        rng = self._rngs[row]
        if rng is None:
            rng, self._seeds[row] = seeding.np_random()
            self._rngs[row] = rng
        return rng

    def _restart(self, row: int, index: object = None) -> dict[str, Any]:
        """Begin an episode in a row and return its reset info."""
        return self.episodes.draw(row, self._rng(row), index)


def row_seeds(seed: int, n: int) -> list[int]:
    """Return seeds for n rows, derived from the seed of a run.

    With `seed + row`, runs with the seeds 0 and 1 share all rows but one, and with them their prompts: the spread over
    such runs leaves out the prompts' part.
    """
    seeds: list[int] = np.random.SeedSequence(seed).generate_state(n).tolist()
    return seeds


def _generator(state: Mapping[str, Any]) -> np.random.Generator:
    """Return a generator in a saved state, of the kind that `seeding.np_random` makes."""
    rng, _ = seeding.np_random(0)
    rng.bit_generator.state = dict(state)
    return rng


def _is_one(value: object) -> bool:
    """Return whether this is one value for all rows, not one per row."""
    return value is None or np.ndim(value) == 0  # type: ignore[arg-type]


def _masked_rows(mask: Any, n: int) -> list[int]:
    """Return the rows where a `reset_mask` is True, after the checks of Gymnasium's own vector environments."""
    if mask is None:
        return list(range(n))
    if not isinstance(mask, np.ndarray) or mask.dtype != np.bool_ or mask.shape != (n,) or not mask.any():
        raise ValueError(
            f"options['reset_mask'] must be a numpy array of {n} bools with at least one True, got {mask!r}"
        )
    return np.flatnonzero(mask).tolist()
