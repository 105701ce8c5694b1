"""`SequenceReplayBuffer` holds what SB3's `DictReplayBuffer` holds, a sequence once."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3.common.buffers import DictReplayBuffer

import agents
from agents.algorithms.common.replay_buffer import STATE, SequenceReplayBuffer
from agents.core.observations import check_appended, last_columns, same_until

LENGTH, VOCAB = 7, 9
SPACE = spaces.Dict(
    input_ids=spaces.Box(0, VOCAB - 1, (LENGTH,), np.int64), attention_mask=spaces.Box(0, 1, (LENGTH,), np.int8)
)
ACTIONS = spaces.Discrete(VOCAB)


class Episodes:
    """Random episodes of 1 to 4 actions after prompts of 1 to 3 tokens, as a `VecEnv` steps them."""

    def __init__(self, n: int, seed: int = 0) -> None:
        self.rng = np.random.default_rng(seed)
        self.ids, self.mask = np.zeros((n, LENGTH), np.int64), np.zeros((n, LENGTH), np.int8)
        self.left = np.zeros(n, int)
        for row in range(n):
            self.begin(row)

    def begin(self, row: int) -> None:
        k = self.rng.integers(1, 4)
        self.ids[row], self.mask[row] = 0, 0
        self.ids[row, :k], self.mask[row, :k] = self.rng.integers(1, VOCAB, k), 1
        self.left[row] = self.rng.integers(1, 5)

    def observe(self) -> dict[str, np.ndarray]:
        return {"input_ids": self.ids.copy(), "attention_mask": self.mask.copy()}

    def step(self) -> tuple[Any, ...]:
        """The arguments of `add`; a third of the episodes is cut by a time limit."""
        before, n = self.observe(), len(self.ids)
        actions, rewards = self.rng.integers(1, VOCAB, n), self.rng.normal(size=n).astype(np.float32)
        lengths = self.mask.sum(1)
        self.ids[np.arange(n), lengths], self.mask[np.arange(n), lengths] = actions, 1
        self.left -= 1
        after, done = self.observe(), self.left == 0
        infos = [{"TimeLimit.truncated": bool(ended and self.rng.random() < 0.3)} for ended in done]
        for row in np.flatnonzero(done):
            self.begin(row)
        return before, after, actions, rewards, done, infos


def filled(n_envs: int = 3, steps: int = 40, buffer_size: int = 600, **kwargs: Any) -> tuple[Any, list[Any]]:
    buffer = SequenceReplayBuffer(buffer_size, SPACE, ACTIONS, "cpu", n_envs=n_envs, **kwargs)
    episodes = Episodes(n_envs)
    stored = [episodes.step() for _ in range(steps)]
    for step in stored:
        buffer.add(*step)
    return buffer, stored


def transitions(batch: Any, terminal: bool = True) -> list[tuple[Any, ...]]:
    """Each transition as plain values: context, action, reward, done, and the next context where it goes on."""

    def context(obs: dict[str, torch.Tensor], i: int) -> tuple[int, ...]:
        if "rows" in obs:
            return tuple(obs["input_ids"][obs["rows"][i], : obs["columns"][i] + 1].tolist())
        return tuple(obs["input_ids"][i, : int(obs["attention_mask"][i].sum())].tolist())

    return sorted(
        (
            context(batch.observations, i),
            int(batch.actions[i]),
            float(batch.rewards[i]),
            done := float(batch.dones[i]),
            () if done else context(batch.next_observations, i),
        )
        for i in range(len(batch.actions))
    )


def test_every_transition_is_the_one_that_sb3_stores() -> None:
    buffer, stored = filled()
    theirs = DictReplayBuffer(600, SPACE, ACTIONS, "cpu", n_envs=3, handle_timeout_termination=True)
    for step in stored:
        theirs.add(*step)
    everything = np.repeat(np.arange(40), 3), np.tile(np.arange(3), 40)
    expected = []
    for step, env in zip(*everything, strict=True):
        before, after, actions, rewards, done, infos = stored[step]
        over = float(done[env] and not infos[env]["TimeLimit.truncated"])
        ids = [tuple(obs["input_ids"][env, : obs["attention_mask"][env].sum()].tolist()) for obs in (before, after)]
        expected.append((ids[0], int(actions[env]), float(rewards[env]), over, () if over else ids[1]))
    assert buffer.size() == 120 == theirs.size() * 3
    assert transitions(buffer.sample(120)) == sorted(expected)
    drawn = transitions(theirs.sample(50))
    assert set(drawn) <= set(expected), "SB3's own samples are of the same form"


def test_a_sample_has_exactly_its_size_and_whole_episodes() -> None:
    np.random.seed(0)
    buffer, _ = filled()
    for size in (1, 2, 17, 64, 120, 300):
        batch = buffer.sample(size)
        rows = batch.observations["rows"]
        assert len(batch.actions) == len(rows) == size
        counts = rows.bincount()
        whole = buffer.counts[buffer.counts > 0]
        assert len(counts) == len(batch.observations["input_ids"]) <= -(-size // whole.min()) + 1  # two are cut
    assert len(buffer.sample(64).observations["input_ids"]) < 64


@pytest.mark.parametrize(("batch_size", "n_samples"), [(20, 1500), (3, 10_000)])
def test_transitions_are_drawn_uniformly(batch_size: int, n_samples: int) -> None:
    """Long episodes and short ones, first tokens and last ones, of 120; and where a sample is less than an episode."""
    np.random.seed(0)
    buffer, _ = filled()
    count = np.zeros((buffer.n_rows, LENGTH))
    original = buffer._samples

    def spy(chosen: Any, rows: Any, steps: Any, env: Any) -> Any:
        np.add.at(count, (chosen[rows], steps), 1)
        return original(chosen, rows, steps, env)

    buffer._samples = spy  # type: ignore[method-assign]
    for _ in range(n_samples):
        buffer.sample(batch_size)
    drawn = count[count > 0]
    assert len(drawn) == 120
    assert drawn.min() > 0.8 * drawn.mean()
    assert drawn.max() < 1.2 * drawn.mean()


@pytest.mark.parametrize("n_steps", [2, 3, 9])
def test_n_step_returns_equal_a_loop(n_steps: int) -> None:
    gamma = 0.9
    buffer, _ = filled(n_steps=n_steps, gamma=gamma)
    rows = np.flatnonzero(buffer.counts)
    at, steps = (np.array(a) for a in zip(*[(r, t) for r in rows for t in range(buffer.counts[r])], strict=True))
    chosen, inverse = np.unique(at, return_inverse=True)
    batch = buffer._samples(chosen, inverse, steps, None)
    for i, (row, t) in enumerate(zip(at, steps, strict=True)):
        total, k = 0.0, 0
        while k < n_steps and t + k < buffer.counts[row]:
            total += gamma**k * buffer.rewards[row, t + k]
            k += 1
        ends = t + k == buffer.counts[row]
        assert float(batch.rewards[i]) == pytest.approx(total, abs=1e-5)
        assert float(batch.discounts[i]) == pytest.approx(gamma**k)
        assert float(batch.dones[i]) == float(ends and buffer.ended[row])
        after = buffer.last_columns[row] if ends else buffer.columns[row, t + k]
        assert int(batch.next_observations["columns"][i]) == after


def test_the_oldest_episodes_go_first() -> None:
    buffer, stored = filled(buffer_size=30, steps=200)
    assert buffer.n_rows == max(30 // 6, 6)
    newest = transitions(buffer.sample(buffer.size()))
    last = {(int(actions[env]), float(rewards[env])) for _, _, actions, rewards, *_ in stored[-20:] for env in range(3)}
    assert {(action, reward) for _, action, reward, *_ in newest} <= last


def test_a_reset_between_rollouts_begins_a_new_row() -> None:
    buffer = SequenceReplayBuffer(100, SPACE, ACTIONS, "cpu", n_envs=1)
    one, other = Episodes(1, seed=1), Episodes(1, seed=2)
    one.left[:], other.left[:] = 3, 3
    buffer.add(*one.step())
    buffer.add(*other.step())  # another episode, though the first has not ended
    assert (buffer.counts > 0).sum() == 2
    assert not buffer.ended.any(), "the first was cut: its last state still has a value"


def test_a_context_that_does_not_grow_is_an_error() -> None:
    buffer = SequenceReplayBuffer(100, SPACE, ACTIONS, "cpu", n_envs=2)
    before, after, *rest = Episodes(2).step()
    after["input_ids"][1, 0] += 1
    with pytest.raises(ValueError, match="environment 1 changed its context in the middle of an episode"):
        buffer.add(before, after, *rest)


def test_its_state_is_all_of_it() -> None:
    buffer, _ = filled(buffer_size=60)
    other = SequenceReplayBuffer(60, SPACE, ACTIONS, "cpu", n_envs=3)
    other.set_state(buffer.get_state())
    more = Episodes(3, seed=5)
    for step in [more.step() for _ in range(5)]:
        for one in (buffer, other):
            one.add(*step)
    for one in (buffer, other):
        np.random.seed(3)
        one.drawn = one.sample(40)
    assert transitions(buffer.drawn) == transitions(other.drawn)
    with pytest.raises(ValueError, match="keep buffer_size as it was"):
        SequenceReplayBuffer(1000, SPACE, ACTIONS, "cpu", n_envs=3).set_state(buffer.get_state())


def test_wrong_arguments_are_named() -> None:
    with pytest.raises(ValueError, match="n_steps=0"):
        SequenceReplayBuffer(100, SPACE, ACTIONS, n_steps=0)
    with pytest.raises(ValueError, match="needs a token environment's Dict observations"):
        SequenceReplayBuffer(100, spaces.Box(0, 1), ACTIONS)
    with pytest.raises(ValueError, match="the replay buffer is empty"):
        SequenceReplayBuffer(100, SPACE, ACTIONS).sample(4)


class WholeContexts(SequenceReplayBuffer):
    """Store and compare whole contexts at every step, as the class did at first."""

    def add(self, obs: Any, next_obs: Any, action: Any, reward: Any, done: Any, infos: Any) -> None:
        before, after = last_columns(obs["attention_mask"]), last_columns(next_obs["attention_mask"])
        ids = obs["input_ids"]
        check_appended(ids, next_obs["input_ids"], before, np.arange(self.n_envs), "another")
        held = self.observations["input_ids"][self._rows]
        self._open &= (self.last_columns[self._rows] == before) & same_until(held, ids, before)
        self._allocate(np.flatnonzero(~self._open))
        rows = self._rows
        t = self.counts[rows]
        for key, stored in self.observations.items():
            stored[rows] = next_obs[key]
        self.actions[rows, t] = action
        self.rewards[rows, t], self.columns[rows, t] = reward, before
        self.counts[rows] += 1
        cut = np.array([info["TimeLimit.truncated"] for info in infos])
        self.ended[rows] = done & ~cut
        self.last_columns[rows] = np.where(done & ~cut, before, after)
        self._open = ~done


class Replies(Episodes):
    """Episodes in which the environment now and then appends a second token, as a reply of a dialog does."""

    def step(self) -> tuple[Any, ...]:
        before, after, actions, rewards, done, infos = super().step()
        for row in np.flatnonzero(~done):
            n = int(after["attention_mask"][row].sum())
            if self.rng.random() < 0.3 and n < LENGTH and n + self.left[row] < LENGTH:
                for ids, mask in ((self.ids, self.mask), (after["input_ids"], after["attention_mask"])):
                    ids[row, n], mask[row, n] = 8, 1
        return before, after, actions, rewards, done, infos


@pytest.mark.parametrize("buffer_size", [600, 30])
@pytest.mark.parametrize("goes_on", [True, False])
@pytest.mark.parametrize("kind", [Episodes, Replies])
def test_it_holds_and_draws_what_whole_contexts_would(kind: Any, goes_on: bool, buffer_size: int) -> None:
    """To the bit, also when the ring goes round under episodes, after resets, and beside logged episodes."""
    buffers = [made(buffer_size, SPACE, ACTIONS, "cpu", n_envs=3) for made in (SequenceReplayBuffer, WholeContexts)]
    for part in range(4):  # a reset before each
        episodes = kind(3, seed=part)
        for step in range(25):
            transition = episodes.step()
            if goes_on and step:
                buffers[0].go_on()
            for buffer in buffers:
                if step % 7 == 3:
                    buffer.add_episodes([np.arange(1, 6)], [2], [1.0])
                buffer.add(*copy.deepcopy(transition))
    states = [buffer.get_state() for buffer in buffers]
    for name in (*STATE, "rows"):
        np.testing.assert_array_equal(states[0][name], states[1][name], err_msg=name)
    for row, count in enumerate(states[0]["counts"]):  # an emptied row keeps what nobody reads
        for key, stored in states[0]["observations"].items():
            if count:
                np.testing.assert_array_equal(stored[row], states[1]["observations"][key][row], err_msg=key)
    for size in (1, 17, 64):
        np.random.seed(size)
        ours = buffers[0].sample(size)
        np.random.seed(size)
        theirs = buffers[1].sample(size)
        for key, value in theirs.observations.items():
            assert torch.equal(ours.observations[key], value), key
        for name in ("actions", "rewards", "dones"):
            assert torch.equal(getattr(ours, name), getattr(theirs, name)), name
        assert torch.equal(ours.next_observations["columns"], theirs.next_observations["columns"])


def test_an_agents_own_rollout_goes_on_and_a_stranger_is_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    env = agents.make_vec_env("rlhf/TokenBandit-v0", 4, seed=0)
    agent = agents.make("dqn", env, seed=0, learning_starts=0)
    compared: list[bool] = []
    begin = SequenceReplayBuffer._begin

    def spy(self: Any, obs: Any) -> Any:
        compared.append(not self._goes_on)
        return begin(self, obs)

    monkeypatch.setattr(SequenceReplayBuffer, "_begin", spy)
    agent.learn(200)
    assert compared[0], "nothing is known of the first contexts"
    assert not any(compared[1:])
    compared.clear()
    agent.learn(40, reset_num_timesteps=False)
    assert not any(compared), "the rollout goes on in the contexts where the last one ended"
    compared.clear()
    agent._last_obs = {key: array.copy() for key, array in agent._last_obs.items()}
    agent.learn(4, reset_num_timesteps=False)
    assert compared[0], "other contexts are not taken on trust"


def test_a_rewritten_context_is_found_where_only_the_new_token_is_stored() -> None:
    buffer = SequenceReplayBuffer(100, SPACE, ACTIONS, "cpu", n_envs=2)
    episodes = Episodes(2)
    episodes.left[:] = 4
    buffer.add(*episodes.step())
    before, after, *rest = episodes.step()
    after["input_ids"][1, 0] += 1
    buffer.go_on()
    with pytest.raises(ValueError, match="environment 1 changed its context in the middle of an episode"):
        buffer.add(before, after, *rest)
