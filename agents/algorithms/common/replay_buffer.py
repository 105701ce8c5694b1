"""Define `SequenceReplayBuffer`: an SB3 replay buffer that stores each sequence once and hands out whole sequences."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from gymnasium import spaces
from stable_baselines3.common.buffers import BaseBuffer, ReplayBuffer
from stable_baselines3.common.type_aliases import DictReplayBufferSamples
from stable_baselines3.common.vec_env import VecNormalize

from ...core.checks import check_token_space
from ...core.observations import check_appended, last_columns, same_until

__all__ = ["SequenceReplayBuffer"]

STATE = ("actions", "rewards", "columns", "counts", "last_columns", "ended")  # arrays that are saved


class SequenceReplayBuffer(ReplayBuffer):
    """Store transitions of token environments: the `replay_buffer_class` of a stock DQN or QR-DQN with a `QPolicy`.

    SB3's `DictReplayBuffer` stores two whole contexts per token, and an update encodes each of them. Here an episode is
    one row of a ring, and its context is stored once, grown to its end. A sample is `batch_size` transitions of whole
    episodes. Its observations have one row per episode and the `rows` and `columns` of every action, and a `QPolicy`
    turns them into one pass. The state after an action is a later column of the same row, so `next_observations` are
    the same contexts with other columns.

    A sample takes rows in a random order, each with all its transitions. It starts at a random transition and goes
    round in a circle. So every transition is as likely as in SB3's buffer, and only the first and the last row of a
    sample are cut.

    Args:
        buffer_size: transitions that are kept. For contexts of up to L tokens the ring has `buffer_size / (L - 1)`
            rows, and at least 2 per environment. The oldest row goes first.
        n_steps: rewards that a target sums before it bootstraps (Sutton 1988); 1 is Q-learning. More steps carry the
            score of an episode back faster, but count the behaviour's tokens as the greedy policy's: no correction is
            made.
        gamma: discounts those rewards. It matters only with `n_steps` above 1; otherwise the algorithm's own counts.

    The other arguments are SB3's. `optimize_memory_usage` has to be off: contexts are never stored twice.

    Attributes:
        stats: metrics of the last rollout for the logger, filled by the algorithm.
    """

    observation_space: spaces.Dict
    observations: dict[str, np.ndarray]  # type: ignore[assignment]

    def __init__(
        self, *args: Any, optimize_memory_usage: bool = False, n_steps: int = 1, gamma: float = 1.0, **kwargs: Any
    ) -> None:
        if optimize_memory_usage:
            raise ValueError("optimize_memory_usage=True: contexts are stored once already, leave it out")
        if n_steps < 1:
            raise ValueError(f"n_steps={n_steps}: expected at least 1, the steps of a return before it bootstraps")
        BaseBuffer.__init__(self, *args, **kwargs)
        check_token_space(self.observation_space, type(self).__name__)
        self.optimize_memory_usage = optimize_memory_usage
        self.n_steps, self.gamma = n_steps, gamma
        self.length = int(self.observation_space["input_ids"].shape[0])  # type: ignore[index]
        self.n_rows = max(self.buffer_size // max(self.length - 1, 1), 2 * self.n_envs)
        self.stats: dict[str, float] = {}
        self.reset()

    def reset(self) -> None:
        """Empty the buffer."""
        n, length = self.n_rows, self.length
        self.observations = {
            key: np.zeros((n, *space.shape), dtype=space.dtype)  # type: ignore[misc]
            for key, space in self.observation_space.spaces.items()
        }
        self.actions = np.zeros((n, length), dtype=np.int64)  # transition t of a row
        self.rewards = np.zeros((n, length), dtype=np.float32)
        self.columns = np.zeros((n, length), dtype=np.int64)  # where in the context its action was chosen
        self.counts = np.zeros(n, dtype=np.int64)  # transitions of a row
        self.last_columns = np.zeros(n, dtype=np.int64)  # the state after its last transition
        self.ended = np.zeros(n, dtype=bool)  # whether that state is terminal
        self.pos, self.full = 0, False
        self._rows = np.zeros(self.n_envs, dtype=np.int64)  # the row that an environment's episode is in
        self._open = np.zeros(self.n_envs, dtype=bool)  # whether it goes on there
        self._latest = np.zeros((self.n_envs, length), dtype=self.observations["input_ids"].dtype)  # its context
        self._goes_on = False  # whether the next `add` is known to begin in those contexts

    def size(self) -> int:
        """Return the number of transitions."""
        return int(self.counts.sum())

    # Storing

    def add(  # type: ignore[override]
        self,
        obs: Mapping[str, np.ndarray],
        next_obs: Mapping[str, np.ndarray],
        action: np.ndarray,
        reward: np.ndarray,
        done: np.ndarray,
        infos: list[dict[str, Any]],
    ) -> None:
        """Store one step of all environments.

        Of a context that grew by one token only that token is stored, and the rest is compared with what is held.

        Raises:
            ValueError: a context does not grow out of the one before it, so an episode is not one sequence.
        """
        before = self._begin(obs)
        after = last_columns(next_obs["attention_mask"])
        others = self._grow(next_obs["input_ids"], before, after)
        self._allocate(np.flatnonzero(~self._open))
        rows = self._rows
        t = self.counts[rows]
        whole = others | (t == 0)
        envs = np.flatnonzero(~whole)
        for key, stored in self.observations.items():
            if key in ("input_ids", "attention_mask"):
                stored[rows[envs], after[envs]] = next_obs[key][envs, after[envs]]
                stored[rows[whole]] = next_obs[key][whole]
            else:
                stored[rows] = next_obs[key]
        self.actions[rows, t] = np.asarray(action).reshape(-1)
        self.rewards[rows, t], self.columns[rows, t] = reward, before
        self.counts[rows] += 1
        cut = np.array([bool(info.get("TimeLimit.truncated", False)) for info in infos])
        done = np.asarray(done, dtype=bool)
        self.ended[rows] = done & ~cut
        self.last_columns[rows] = np.where(done & ~cut, before, after)  # a terminal state needs no column
        self._open = ~done

    def go_on(self) -> None:
        """Say that the next `add` begins where the last one ended: in its contexts, or in new ones after an end.

        That `add` does not compare the contexts that it begins in. The agent whose rollout it is says so.
        """
        self._goes_on = True

    def _begin(self, obs: Mapping[str, np.ndarray]) -> np.ndarray:
        """Find the episodes that begin, and return the columns of the last tokens of all contexts, `(n_envs,)`."""
        ids, mask = obs["input_ids"], obs["attention_mask"]
        held = self.last_columns[self._rows]
        if not self._goes_on:
            # After a reset between two rollouts a context is not what its row holds.
            given = last_columns(mask)
            self._open &= (held == given) & same_until(self._latest, ids, given)
        self._goes_on = False
        began = np.flatnonzero(~self._open)
        self._latest[began], held[began] = ids[began], last_columns(mask[began])
        return held

    def _grow(self, ids: np.ndarray, before: np.ndarray, after: np.ndarray) -> np.ndarray:
        """Bring the latest contexts up to `ids`, and return which did not just grow by one token, `(n_envs,)` bool."""
        envs = np.flatnonzero(after == before + 1)
        self._latest[envs, after[envs]] = ids[envs, after[envs]]
        others = (after != before + 1) | (self._latest != ids).any(axis=1)
        if others.any():
            which = np.flatnonzero(others)
            check_appended(self._latest[which], ids[which], before[which], which, "SB3's DictReplayBuffer")
            self._latest[which] = ids[which]
        return others

    def add_episodes(self, contexts: list[np.ndarray], n_prompt: list[int], rewards: list[float]) -> None:
        """Store logged episodes: the ids of prompt and completion, the number of prompt tokens, and the score."""
        for ids, start, reward in zip(contexts, n_prompt, rewards, strict=True):
            row = int(self._take(1)[0])
            self._open &= self._rows != row  # an episode that goes on has lost its row
            for stored in self.observations.values():
                stored[row] = 0
            self.observations["input_ids"][row, : len(ids)] = ids
            self.observations["attention_mask"][row, : len(ids)] = 1
            n = len(ids) - start
            self.actions[row, :n] = ids[start:]
            self.rewards[row, :n] = 0
            self.rewards[row, n - 1] = reward
            self.columns[row, :n] = np.arange(start - 1, len(ids) - 1)
            self.counts[row], self.ended[row], self.last_columns[row] = n, True, len(ids) - 2

    def _allocate(self, envs: np.ndarray) -> None:
        """Give some environments new rows."""
        if not len(envs):
            return
        taken = self._take(len(envs))
        self._open[envs] = True
        self._rows[envs] = taken
        others = np.setdiff1d(np.arange(self.n_envs), envs)
        lost = others[np.isin(self._rows[others], taken)]  # the ring has gone round under an episode that goes on
        if len(lost):
            self._allocate(lost)

    def _take(self, n: int) -> np.ndarray:
        """Return the next n rows of the ring, emptied."""
        taken = (self.pos + np.arange(n)) % self.n_rows
        self.full = self.full or self.pos + n >= self.n_rows
        self.pos = (self.pos + n) % self.n_rows
        self.counts[taken], self.ended[taken] = 0, False
        return taken

    # Sampling

    def sample(self, batch_size: int, env: VecNormalize | None = None) -> DictReplayBufferSamples:  # type: ignore[override]
        """Draw `batch_size` transitions: observations as the class describes them, the rest `(batch_size, 1)`.

        Raise `ValueError` if the buffer is empty.
        """
        stored = np.flatnonzero(self.counts)
        if not len(stored):
            raise ValueError("the replay buffer is empty: raise learning_starts, or give it data")
        order = np.random.permutation(stored)
        ends = np.cumsum(self.counts[order])
        places = (np.random.randint(ends[-1]) + np.arange(batch_size)) % ends[-1]
        which = np.searchsorted(ends, places, side="right")
        steps = places - (ends - self.counts[order])[which]
        chosen, rows = np.unique(order[which], return_inverse=True)
        return self._samples(chosen, rows, steps, env)

    def _samples(
        self, chosen: np.ndarray, rows: np.ndarray, steps: np.ndarray, env: VecNormalize | None
    ) -> DictReplayBufferSamples:
        """Return the transitions `steps`, `(n,)`, of the rows `chosen[rows]`, as tensors."""
        at = chosen[rows]
        until = np.minimum(steps + self.n_steps, self.counts[at])
        last = until == self.counts[at]
        following = np.where(last, self.last_columns[at], self.columns[at, np.minimum(until, self.length - 1)])
        rewards = np.zeros(len(rows), dtype=np.float32)
        for k in range(self.n_steps):
            reward = self._normalize_reward(self.rewards[at, np.minimum(steps + k, self.length - 1)], env)
            rewards += np.where(steps + k < until, np.float32(self.gamma**k) * reward, 0).astype(np.float32)
        discounts = None
        if self.n_steps > 1:
            discounts = self.to_torch((self.gamma ** (until - steps)).astype(np.float32)[:, None])
        length = int(max(self.last_columns[chosen].max(), self.columns[at, steps].max())) + 1
        contexts = {key: self.to_torch(array[chosen]) for key, array in self.observations.items()}
        for key in ("input_ids", "attention_mask"):
            contexts[key] = contexts[key][:, :length].long()
        contexts["rows"] = self.to_torch(rows)
        return DictReplayBufferSamples(
            observations={**contexts, "columns": self.to_torch(self.columns[at, steps])},
            actions=self.to_torch(self.actions[at, steps][:, None]),
            next_observations={**contexts, "columns": self.to_torch(following)},
            dones=self.to_torch((last & self.ended[at]).astype(np.float32)[:, None]),
            rewards=self.to_torch(rewards[:, None]),
            discounts=discounts,
        )

    # Saving

    def get_state(self) -> dict[str, Any]:
        """Return all it holds, for `set_state` of a buffer with as many rows: new arrays, of the rows in use only."""
        used = self.n_rows if self.full else self.pos
        arrays = {name: getattr(self, name)[:used].copy() for name in STATE}
        contexts = {key: array[:used].copy() for key, array in self.observations.items()}
        going_on = {"rows": self._rows.copy(), "open": self._open.copy()}
        return {**arrays, **going_on, "observations": contexts, "pos": self.pos, "full": self.full}

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Go on from where `get_state` was called. With another number of environments, episodes begin new rows.

        Raises:
            ValueError: the state does not fit this buffer.
        """
        used = len(state["counts"])
        if used > self.n_rows or (state["full"] and used != self.n_rows):
            raise ValueError(
                f"the replay buffer that was saved has {used} rows and this one {self.n_rows}: keep buffer_size as it "
                "was"
            )
        self.reset()
        for name in STATE:
            getattr(self, name)[:used] = state[name]
        for key, array in state["observations"].items():
            self.observations[key][:used] = array
        self.pos, self.full = int(state["pos"]), bool(state["full"])
        if len(state["rows"]) == self.n_envs:
            self._rows, self._open = state["rows"].copy(), state["open"].copy()
            self._latest = self.observations["input_ids"][self._rows]
