"""Define `SegmentBuffer`, the base of the rollout buffers: it stores episode segments and asks the reference."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.buffers import RolloutBuffer

from rlhf_envs.finished import FinishedEpisode

from . import ranks
from .checks import check_token_space
from .frozen_states import RolloutStates
from .kl_penalty import KLController
from .observations import PIXELS, check_appended, last_columns
from .step_rewards import StepRewards

__all__ = ["SegmentBuffer", "SegmentSamples"]

TOKENS_AT_ONCE = 2**11  # tokens of contexts in one pass without gradients


class SegmentSamples(NamedTuple):
    """Hold some segments as tensors, with their actions `(n,)` in the order of the transitions `steps`."""

    steps: tuple[np.ndarray, ...]  # the transitions, as an index into arrays (n_steps, n_envs)
    observations: dict[str, torch.Tensor]  # one row per segment, and the row and column of every action
    actions: torch.Tensor


class SegmentBuffer(RolloutBuffer):
    """Store a rollout by episode segments, and find the log-probabilities of the reference.

    Transitions are stored as SB3 stores them, `(n_steps, n_envs)`. Contexts are stored once per *episode segment* (the
    part of an episode inside this rollout) and not once per token, with one picture where there are some. A minibatch
    is made of whole segments: its observations have one row per segment, and `rows` and `columns` say where each action
    was chosen.

    Episodes that a `TextVecEnv` with `score="rollout"` leaves without a score are scored after the rollout, all in one
    reward call. Each score falls on the last token of its episode.

    If the policy has a frozen part, that part's output for the rollout is kept here (`trunk_states`), as decoding found
    it. The reference and every epoch of updates then run only the blocks that learn.

    A subclass says in `_finish_rollout` what becomes of a rollout, and in `get` what a minibatch is.

    Args:
        kl_coef: coefficient of the KL penalty; with `kl_target`, its first value.
        kl_target: the KL in nats per episode that an adaptive controller steers to (see `KLController`); None keeps the
            coefficient fixed.
        kl_horizon: episodes over which the controller adapts.
        report_kl: False, with `kl_coef=0`, asks no reference, which saves a pass over every rollout: the KL is not
            logged, and wherever it is read it is 0.

    The other arguments are SB3's.

    Raises:
        ValueError: an argument is out of range, or `report_kl=False` with a penalty, which needs the KL.

    Attributes:
        controller: the owner of the KL coefficient.
        stats: metrics of the last rollout for the logger.
        known_reference: the reference's log-probabilities, in the shape of `log_probs`, where another process found
            them; None where this one asks the reference.
    """

    observation_space: spaces.Dict
    observations: dict[str, np.ndarray]  # type: ignore[assignment]

    def __init__(
        self,
        buffer_size: int,
        observation_space: spaces.Space[Any],
        action_space: spaces.Space[Any],
        device: torch.device | str = "auto",
        gae_lambda: float = 0.95,
        gamma: float = 1.0,
        n_envs: int = 1,
        kl_coef: float = 0.05,
        kl_target: float | None = None,
        kl_horizon: int = 1000,
        report_kl: bool = True,
    ) -> None:
        check_token_space(observation_space, type(self).__name__)
        if not report_kl and kl_coef:
            raise ValueError(f"report_kl=False with kl_coef={kl_coef}: a penalty needs the KL; take kl_coef=0")
        self.report_kl = report_kl
        self.controller = KLController(kl_coef, kl_target, kl_horizon)
        self.stats: dict[str, float] = {}
        self.pos = 0
        super().__init__(buffer_size, observation_space, action_space, device, gae_lambda, gamma, n_envs)

    @property
    def stopped(self) -> bool:
        """Return whether the rollout was stopped before its end: where its episodes stand is not known then."""
        return 0 < self.pos < self.buffer_size

    def reset(self) -> None:
        """Empty the buffer; the KL controller keeps its state."""
        self.observations = {}
        shape = (self.buffer_size, self.n_envs)
        self.actions = np.zeros((*shape, self.action_dim), dtype=np.int64)
        self.rewards, self.returns, self.advantages = (np.zeros(shape, dtype=np.float32) for _ in range(3))
        self.values, self.log_probs, self.episode_starts = (np.zeros(shape, dtype=np.float32) for _ in range(3))
        self.segments = np.zeros(shape, dtype=np.int64)  # (n_steps, n_envs) the segment of a transition
        self.columns = np.zeros(shape, dtype=np.int64)  # (n_steps, n_envs) where in it the action is chosen
        self.n_segments = 0
        self._latest = np.zeros((0, 0), dtype=np.int64)  # (n_envs, length) the contexts of the last step
        self.trunk_states = RolloutStates()
        self._unscored: list[tuple[int, Any, FinishedEpisode]] = []  # the step, the environment, the episode
        self.known_reference: np.ndarray | None = None
        self.pos, self.full = 0, False

    def get_state(self) -> dict[str, Any]:
        """Return what outlives a rollout, for `set_state` of another buffer of the same shape."""
        return {"kl_coef": np.array(self.controller.value)}

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Go on from where `get_state` was called."""
        self.controller.value = float(state["kl_coef"])

    # Storing

    def add(  # type: ignore[override]
        self,
        obs: dict[str, np.ndarray],
        action: np.ndarray,
        reward: np.ndarray,
        episode_start: np.ndarray,
        value: torch.Tensor,
        log_prob: torch.Tensor,
    ) -> None:
        """Store one step of all environments.

        Raises:
            ValueError: a context does not extend the one before it, so its segment cannot be one sequence.
        """
        starts = np.ones(self.n_envs, bool) if self.pos == 0 else np.asarray(episode_start, bool)
        seen = np.where(starts, 0, self.columns[self.pos - 1] + 1)  # tokens of each segment that are stored
        segments = self.n_segments + np.cumsum(starts) - 1
        if self.pos:
            segments = np.where(starts, segments, self.segments[self.pos - 1])
        self.n_segments += int(starts.sum())
        self.columns[self.pos] = self._store(obs, segments, starts)
        self.segments[self.pos] = segments
        self.trunk_states.add(getattr(value, "last_call", None), segments, seen, self.columns[self.pos])
        self.actions[self.pos] = action.reshape(self.n_envs, self.action_dim)
        self.rewards[self.pos] = reward
        if isinstance(reward, StepRewards):
            self._unscored += [(self.pos, reward.env, episode) for episode in reward.collect()]
        self.episode_starts[self.pos] = episode_start
        self.values[self.pos] = value.cpu().numpy().reshape(-1)
        self.log_probs[self.pos] = log_prob.cpu().numpy().reshape(-1)
        self.pos += 1
        self.full = self.pos == self.buffer_size
        if self.full and (policy := getattr(value, "policy", None)) is not None:
            policy.await_last_values()

    def _store(self, obs: dict[str, np.ndarray], segments: np.ndarray, starts: np.ndarray) -> np.ndarray:
        """Store the contexts of a step in their segments, and return the columns of their last tokens, `(n_envs,)`.

        Of a context that grew by one token, only that token is stored. The rest is compared.

        Args:
            segments: `(n_envs,)` the segment of each environment.
            starts: `(n_envs,)` bool, whether it begins here.
        """
        for key, array in obs.items():
            self._reserve(key, array)
        ids, mask = obs["input_ids"], obs["attention_mask"]
        if not self.pos:
            self._latest = np.zeros_like(ids)
        last, before = last_columns(mask), self.columns[self.pos - 1]
        grown = ~starts & (last == before + 1)
        rows, columns = np.flatnonzero(grown), last[grown]
        self._latest[rows, columns] = self.observations["input_ids"][segments[rows], columns] = ids[rows, columns]
        self.observations["attention_mask"][segments[rows], columns] = 1
        others = ~grown | (self._latest != ids).any(axis=1)
        if others.any():
            going_on = np.flatnonzero(others & ~starts)
            held, given = self._latest[going_on], ids[going_on]
            check_appended(held, given, before[going_on], going_on, "SB3's DictRolloutBuffer")
            self._latest[others] = ids[others]
        for key, array in obs.items():
            chosen = starts if key == PIXELS else others if key in ("input_ids", "attention_mask") else slice(None)
            self.observations[key][segments[chosen]] = array[chosen]
        return last

    def _reserve(self, key: str, like: np.ndarray) -> None:
        """Make room for `n_segments` rows of an observation array, doubling as a list does."""
        held = self.observations.get(key)
        if held is None or len(held) < self.n_segments:
            grown = np.zeros((2 * self.n_segments, *like.shape[1:]), dtype=like.dtype)
            if held is not None:
                grown[: len(held)] = held
            self.observations[key] = grown

    # After a rollout

    def compute_returns_and_advantage(self, last_values: torch.Tensor, dones: np.ndarray) -> None:
        """Score the episodes that have no score yet, and let `_finish_rollout` do the rest.

        Raises:
            RewardError, ScoreError: the reward failed.
            TypeError: the values do not come from a `TokenPolicy`, which holds the reference.
            FloatingPointError: a reward, a value or a log-probability is not finite.
        """
        policy = getattr(last_values, "policy", None)
        if policy is None:
            raise TypeError(f"{type(self).__name__} takes its reference from TokenPolicy: use it with that policy")
        self.finish(policy, last_values, dones, self.complete(policy))

    def complete(self, policy: Any) -> dict[str, float]:
        """Score the episodes that have no score yet, and check all numbers of the rollout. Return metrics for `finish`.

        Raises:
            RewardError, ScoreError, FloatingPointError: as `compute_returns_and_advantage`.
        """
        self._score_episodes()
        # An engine's log-probabilities are replaced where its samples are weighted.
        rounding = self.compute_again(policy) if policy.bf16 and policy.draw_instead is None else {}
        self._check_finite(policy)
        return rounding

    def finish(
        self, policy: Any, last_values: torch.Tensor, dones: np.ndarray, metrics: Mapping[str, float] | None = None
    ) -> None:
        """Make a rollout ready for the update that has passed `complete`, here or in the process that collected it."""
        self.controller.restore(policy.kl_coef)
        self.stats = {}
        self._finish_rollout(policy, last_values, np.asarray(dones, bool))
        self.stats |= metrics or {}
        policy.kl_coef.fill_(self.controller.value)

    def _finish_rollout(self, policy: Any, last_values: torch.Tensor, dones: np.ndarray) -> None:
        raise NotImplementedError

    def _score_episodes(self) -> None:
        """Score the episodes that have no score yet, all at once, and add the scores to the rewards of their tokens."""
        if not self._unscored:
            return
        steps, envs, episodes = zip(*self._unscored, strict=True)
        self._unscored = []
        for step, episode, score in zip(steps, episodes, envs[0].score_episodes(episodes), strict=True):
            if episode.token_rewards is None:
                self.rewards[step, episode.row] = episode.turn_reward + score  # before it is rounded to float32
            else:
                self._add_token_rewards(step, episode)

    def _add_token_rewards(self, last: int, episode: FinishedEpisode) -> None:
        """Add each token reward of the episode that ended in the step `last` to the action that wrote the token.

        The reward of a reply's token goes to the action before it, that of a token of an earlier rollout to the
        episode's first action in this one: the sum stays.
        """
        row, n = episode.row, len(episode.completion_ids)
        steps = np.flatnonzero(self.segments[:, row] == self.segments[last, row])
        written = self.columns[steps, row] - self.columns[last, row] + n - 1  # the actions' places in the completion
        action = np.maximum(np.searchsorted(written, np.arange(n), side="right") - 1, 0)
        self.rewards[:, row] += np.bincount(steps[action], episode.token_rewards, minlength=self.buffer_size)

    def _ends(self, dones: np.ndarray) -> np.ndarray:
        """Return whether each transition is the last of its episode, bool `(n_steps, n_envs)`."""
        return np.vstack([self.episode_starts[1:], dones[None]]).astype(bool)

    def _check_finite(self, policy: Any) -> None:
        for name in ("rewards", "values", "log_probs"):
            bad = np.argwhere(~np.isfinite(getattr(self, name)))
            if len(bad):
                step, env = bad[0]
                segment, column = self.segments[step, env], self.columns[step, env]
                context = policy.decode(self.observations["input_ids"][segment, : column + 1])
                raise FloatingPointError(
                    f"{name}[{step}, {env}] of the rollout is {getattr(self, name)[step, env]} (step, environment), "
                    f"after {context!r}: lower learning_rate, or look at the reward function"
                )

    def compute_again(self, policy: Any) -> dict[str, float]:
        """Replace the log-probabilities by those of a pass over whole sequences, as the update and the reference make.

        In bfloat16 decoding rounds otherwise than such a pass, by percents of a probability.

        Returns:
            the mean difference, as a metric.
        """
        decoded, self.log_probs = self.log_probs, self._passes(policy, policy.log_prob)
        return {"sampling_logp_difference": float(np.abs(self.log_probs - decoded).mean())}

    def reference_log_probs_of(self, policy: Any) -> np.ndarray:
        """Return the log-probabilities of the actions under the reference, in the shape of `log_probs`.

        Without `report_kl` they are the policy's own.
        """
        self._complete_states(policy)
        if not self.report_kl:
            return self.log_probs.copy()
        if self.known_reference is not None:
            return self.known_reference
        with policy.at_reference():
            reference = self._passes(policy, policy.reference_log_prob)
        if not np.isfinite(reference).all():
            raise FloatingPointError("the reference's log-probabilities are not finite: lower learning_rate")
        return reference

    def _passes(self, policy: Any, log_prob: Callable[..., torch.Tensor]) -> np.ndarray:
        """Return what `log_prob(observations, actions)` returns for the actions, in the shape of `log_probs`.

        The output of the policy's frozen part is completed first, and kept.
        """
        self._complete_states(policy)
        log_probs = np.zeros_like(self.log_probs)
        for chosen in self._some_at_a_time(np.arange(self.n_segments)):
            samples = self._segment_samples(chosen)
            log_probs[samples.steps] = log_prob(samples.observations, samples.actions).cpu().numpy()
        return log_probs

    def _complete_states(self, policy: Any) -> None:
        """Keep the output of the policy's frozen part for all segments: compute it where decoding has not left it."""
        if self.trunk_states:
            return
        lengths = last_columns(self.observations["attention_mask"][: self.n_segments]) + 1
        for chosen in self._some_at_a_time(self.trunk_states.lay_out(lengths, self._sources())):
            states = policy.trunk_states(self._sequences(chosen))
            if states is None:  # the policy has no frozen part
                return
            self.trunk_states.fill(chosen, states)

    def _sources(self) -> np.ndarray:
        """Return the number that each segment had in the rollout, `(n_segments,)`; -1 for one of an earlier rollout."""
        return np.arange(self.n_segments)

    def _some_at_a_time(self, segments: np.ndarray) -> Iterator[np.ndarray]:
        """Cut numbers of segments into parts for passes without gradients."""
        if not len(segments):
            return
        lengths = last_columns(self.observations["attention_mask"][segments]) + 1
        order = np.argsort(lengths, kind="stable")  # segments of a length go together, so little is padding
        at_once = max(1, TOKENS_AT_ONCE // int(lengths.max()))
        for start in range(0, len(segments), at_once):
            yield np.sort(segments[order[start : start + at_once]])

    # Minibatches

    def _batches(
        self, batch_size: int | None, order: np.ndarray, over_ranks: bool = False
    ) -> Generator[np.ndarray, None, None]:
        """Cut segments into batches with nearly equal numbers of actions, about `batch_size`.

        Args:
            batch_size: None for one batch.
            order: `(groups, size)` numbers of segments, in the order they are taken; a group stays together.
            over_ranks: `batch_size` counts the actions of all ranks, which yield equal numbers of batches.
        """
        lengths = np.bincount(self.segments.reshape(-1), minlength=self.n_segments)[order].sum(axis=1)
        total = int(lengths.sum())
        of_all = ranks.total(total) if over_ranks else total
        n_batches = 1 if batch_size is None else max(1, round(of_all / batch_size))
        middle = np.cumsum(lengths) - lengths / 2
        number = np.unique(np.minimum((middle * n_batches / total).astype(int), n_batches - 1), return_inverse=True)[1]
        own = int(number[-1]) + 1  # a batch that no group falls into is none
        if over_ranks and (least := ranks.least(own)) < own:
            number = number * least // own
        for i in range(int(number[-1]) + 1):
            yield order[number == i].reshape(-1)

    def _segment_samples(self, chosen: np.ndarray) -> SegmentSamples:
        """Return the segments with these numbers as tensors: segment `chosen[i]` is row i of the observations."""
        row_of = np.full(self.n_segments, -1)
        row_of[chosen] = np.arange(len(chosen))
        rows = row_of[self.segments]  # (n_steps, n_envs)
        steps = np.nonzero(rows >= 0)
        observations = self._sequences(chosen)
        if self.trunk_states:
            observations["trunk_states"] = self.trunk_states.read(chosen, observations["input_ids"].shape[1])
        observations["rows"], observations["columns"] = self.to_torch(rows[steps]), self.to_torch(self.columns[steps])
        return SegmentSamples(steps, observations, self.to_torch(self.actions[steps].reshape(-1)))

    def _sequences(self, chosen: np.ndarray) -> dict[str, torch.Tensor]:
        """Return the observations of segments as tensors, cut to the longest of them."""
        length = int(last_columns(self.observations["attention_mask"][chosen]).max()) + 1
        observations = {key: self.to_torch(array[chosen]) for key, array in self.observations.items()}
        for key in ("input_ids", "attention_mask"):
            observations[key] = observations[key][:, :length].long()
        return observations
