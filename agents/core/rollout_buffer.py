"""`SequenceRolloutBuffer`: an SB3 rollout buffer that hands out whole sequences and charges the KL to a reference."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any, NamedTuple

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.type_aliases import DictRolloutBufferSamples

from .kl_controller import KLController

__all__ = ["SequenceRolloutBuffer"]

TOKENS_AT_ONCE = 2**11  # tokens of contexts in a pass without gradients


class SequenceRolloutBuffer(RolloutBuffer):
    """A rollout buffer for token environments, as `rollout_buffer_class` of a stock PPO or A2C with `TokenPolicy`.

    Transitions are stored as SB3 stores them, `(n_steps, n_envs)`; contexts are stored once an *episode segment* (the
    part of an episode inside this rollout) and not once a token. `get` yields minibatches of whole segments: flat
    transitions as SB3's `train` expects them, and observations with one row a segment and the `rows` and `columns` of
    every action, which `TokenPolicy.evaluate_actions` turns into one forward pass.

    `compute_returns_and_advantage` first takes the penalty `kl_coef * (log pi(a|s) - log pi_ref(a|s))` off every reward
    (the k1 estimate a token, as in Ziegler et al. 2019, https://arxiv.org/abs/1909.08593, section 2.2); the score of
    the environment stays on the last token. A segment cut by the end of the rollout is bootstrapped with the value, as
    everywhere in SB3, and its episode goes on in the next rollout.

    Where the policy has a frozen part, its output for the rollout is kept here, `(segments, length, hidden_size)`, so
    that the reference and every epoch of updates run the blocks that learn and nothing else.

    With `value_shaping` (alpha) or `probability_shaping` (beta), `alpha * Q(s, a) + beta * P(a|s)` is added to every
    token's reward. That changes what is optimal: only a shaping that is the difference of a potential, `gamma * Phi(s')
    - Phi(s)`, does not (Ng et al. 1999, "Policy invariance under reward transformations"), and this is none. Alpha pays
    for staying in contexts that the critic likes, beta for being sure, against the entropy. `rlhf/reward` stays the
    environment's own; what is added is logged beside it, `rlhf/shaping_value` and `rlhf/shaping_probability`, means a
    token.

    Args:
        kl_coef: coefficient of the penalty; with `kl_target`, its first value.
        kl_target: the KL an episode, in nats, that an adaptive controller steers to (see `KLController`); None keeps
            the coefficient fixed.
        kl_horizon: episodes over which the controller adapts.
        whiten_rewards: divide the penalised rewards by their standard deviation over the rollout; their mean stays.
        value_shaping: alpha. Q is the critic's value of the context that the token makes, which is all that a token
            does here; after the last token it is 0, since the score has been given. The critic learns returns that hold
            the shaping: keep alpha well below one over the tokens of an episode, or values grow with every rollout.
        probability_shaping: beta. P is the probability that the policy gave the token when it chose it.

    The other arguments are SB3's. After a rollout, `stats` holds its figures for the logger.
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
        whiten_rewards: bool = False,
        value_shaping: float = 0.0,
        probability_shaping: float = 0.0,
    ) -> None:
        if not isinstance(observation_space, spaces.Dict) or "input_ids" not in observation_space.spaces:
            raise ValueError(
                f"SequenceRolloutBuffer needs a token environment's Dict observations, got {observation_space}"
            )
        self.controller = KLController(kl_coef, kl_target, kl_horizon)
        self.whiten_rewards = whiten_rewards
        for name, weight in (("value_shaping", value_shaping), ("probability_shaping", probability_shaping)):
            if not np.isfinite(weight):
                raise ValueError(f"{name}={weight}: expected a finite number, 0 for none")
        self.value_shaping, self.probability_shaping = value_shaping, probability_shaping
        self.stats: dict[str, float] = {}
        self._running_kl = np.zeros((2, n_envs))  # k1 and k3 so far of the episodes that are going on
        self._checked = False
        self.pos = 0
        super().__init__(buffer_size, observation_space, action_space, device, gae_lambda, gamma, n_envs)

    def reset(self) -> None:
        """Empty the buffer; the KL controller keeps its state."""
        if 0 < self.pos < self.buffer_size:  # the rollout was stopped: where its episodes stand is not known
            self._running_kl[:] = 0
        self.observations = {}
        shape = (self.buffer_size, self.n_envs)
        self.actions = np.zeros((*shape, self.action_dim), dtype=np.int64)
        self.rewards, self.returns, self.advantages = (np.zeros(shape, dtype=np.float32) for _ in range(3))
        self.values, self.log_probs = (np.zeros(shape, dtype=np.float32) for _ in range(2))
        self.episode_starts = np.zeros(shape, dtype=np.float32)
        self.segments = np.zeros(shape, dtype=np.int64)  # (n_steps, n_envs) the segment of a transition
        self.columns = np.zeros(shape, dtype=np.int64)  # (n_steps, n_envs) where in it the action is chosen
        self.n_segments = 0
        self.trunk_states: torch.Tensor | None = None  # (n_segments, length, hidden_size)
        self.pos, self.full = 0, False

    def get_state(self) -> dict[str, np.ndarray]:
        """What outlives a rollout, for `set_state` of another buffer of the same shape."""
        return {
            "running_kl": self._running_kl.copy(),
            "kl_coef": np.array(self.controller.value),
            "checked": np.array(self._checked),
        }

    def set_state(self, state: dict[str, np.ndarray]) -> None:
        """Go on from where `get_state` was called."""
        self._running_kl = state["running_kl"].copy()
        self.controller.value = float(state["kl_coef"])
        self._checked = bool(state["checked"])

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
        lengths = np.maximum(obs["attention_mask"].astype(np.int64).sum(axis=1), 1)
        starts = np.ones(self.n_envs, bool) if self.pos == 0 else np.asarray(episode_start, bool)
        new = self.n_segments + np.cumsum(starts) - 1
        segments = new if self.pos == 0 else np.where(starts, new, self.segments[self.pos - 1])
        self._check_appended(obs["input_ids"], segments, starts)
        if self.pos == 0:
            self._running_kl[:, np.asarray(episode_start, bool)] = 0  # environments that were reset between rollouts
        self.n_segments += int(starts.sum())
        for key, array in obs.items():
            self._reserve(key, array)
            self.observations[key][segments] = array
        self.segments[self.pos], self.columns[self.pos] = segments, lengths - 1
        self.actions[self.pos] = action.reshape(self.n_envs, self.action_dim)
        self.rewards[self.pos] = reward
        self.episode_starts[self.pos] = episode_start
        self.values[self.pos] = value.cpu().numpy().reshape(-1)
        self.log_probs[self.pos] = log_prob.cpu().numpy().reshape(-1)
        self.pos += 1
        self.full = self.pos == self.buffer_size

    def _check_appended(self, input_ids: np.ndarray, segments: np.ndarray, starts: np.ndarray) -> None:
        if self.pos == 0:
            return
        going_on = np.flatnonzero(~starts)
        before = self.observations["input_ids"][segments[going_on]]
        columns = np.arange(input_ids.shape[1])
        changed = (before != input_ids[going_on]) & (columns <= self.columns[self.pos - 1, going_on, None])
        if changed.any():
            row = going_on[changed.any(axis=1)][0]
            raise ValueError(
                f"environment {row} changed its context in the middle of an episode: contexts may only grow. "
                "Remove the wrapper that rewrites observations, or use SB3's DictRolloutBuffer"
            )

    def _reserve(self, key: str, like: np.ndarray) -> None:
        """Make room for `n_segments` rows of an observation array, doubling as a list does."""
        held = self.observations.get(key)
        if held is None or len(held) < self.n_segments:
            grown = np.zeros((2 * self.n_segments, *like.shape[1:]), dtype=like.dtype)
            if held is not None:
                grown[: len(held)] = held
            self.observations[key] = grown

    # Returns

    def compute_returns_and_advantage(self, last_values: torch.Tensor, dones: np.ndarray) -> None:
        """Charge the KL penalty and add the shaping, then let SB3 compute GAE.

        Raises:
            TypeError: the values do not come from a `TokenPolicy`, which holds the reference.
            FloatingPointError: a reward, a value or a log-probability is not finite.
        """
        policy = getattr(last_values, "policy", None)
        if policy is None:
            raise TypeError("SequenceRolloutBuffer takes its reference from TokenPolicy: use it with that policy")
        self._check_finite(policy)
        self.controller.restore(policy.kl_coef)
        reference = self._reference_log_probs(policy)
        if not (np.isfinite(reference).all() and last_values.isfinite().all()):
            raise FloatingPointError(
                "the reference's log-probabilities or the values after the rollout are not finite: lower learning_rate"
            )
        kl = self.log_probs - reference  # (n_steps, n_envs) k1
        shaping = self._shaping(last_values, np.asarray(dones, bool))
        self.rewards = self.rewards - np.float32(self.controller.value) * kl
        for added in shaping.values():
            self.rewards = self.rewards + added
        if self.whiten_rewards:
            mean = self.rewards.mean()
            self.rewards = (self.rewards - mean) / (self.rewards.std() + 1e-8) + mean
        self._record(kl, np.asarray(dones, bool))
        self.stats |= {name: float(added.mean()) for name, added in shaping.items()}
        policy.kl_coef.fill_(self.controller.value)
        super().compute_returns_and_advantage(last_values, dones)

    def _shaping(self, last_values: torch.Tensor, dones: np.ndarray) -> dict[str, np.ndarray]:
        """What is added to the rewards beside the penalty, (n_steps, n_envs) each, by the name of its figure."""
        shaping: dict[str, np.ndarray] = {}
        if self.value_shaping:
            following = np.vstack([self.values[1:], last_values.detach().cpu().numpy().reshape(1, -1)])
            ends = np.vstack([self.episode_starts[1:], dones[None]]).astype(bool)
            shaping["shaping_value"] = np.float32(self.value_shaping) * np.where(ends, np.float32(0), following)
        if self.probability_shaping:
            shaping["shaping_probability"] = np.float32(self.probability_shaping) * np.exp(self.log_probs)
        return shaping

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

    def _reference_log_probs(self, policy: Any) -> np.ndarray:
        """Log-probabilities `(n_steps, n_envs)` of the actions under the reference, some segments at a time.

        On the way the output of the policy's frozen part is kept.
        """
        reference = np.zeros_like(self.log_probs)
        lengths = self.observations["attention_mask"][: self.n_segments].sum(axis=1, dtype=np.int64)
        order = np.argsort(lengths, kind="stable")  # segments of a length go together, so little is padding
        at_once = max(1, TOKENS_AT_ONCE // max(int(lengths.max()), 1))
        for start in range(0, self.n_segments, at_once):
            chosen = np.sort(order[start : start + at_once])
            samples = self._segment_samples(chosen)
            self._keep_trunk_states(policy.trunk_states(samples.observations), chosen, int(lengths.max()))
            if self.trunk_states is not None:
                samples = self._segment_samples(chosen)
            reference[samples.steps] = policy.reference_log_prob(samples.observations, samples.actions).cpu().numpy()
        return reference

    def _keep_trunk_states(self, states: torch.Tensor | None, chosen: np.ndarray, length: int) -> None:
        if states is None:
            return
        if self.trunk_states is None:
            self.trunk_states = states.new_zeros((self.n_segments, length, states.shape[2]))
        self.trunk_states[torch.as_tensor(chosen, device=states.device), : states.shape[1]] = states

    def _record(self, kl: np.ndarray, dones: np.ndarray) -> None:
        """Keep the rollout's figures, and move the controller by the KL of the episodes that ended."""
        ends = np.vstack([self.episode_starts[1:].astype(bool), dones[None]])
        estimates = np.stack([kl, np.exp(-kl) - 1 + kl])  # (2, n_steps, n_envs) k1 and k3
        finished: list[np.ndarray] = []
        for step in range(self.buffer_size):
            self._running_kl += estimates[:, step]
            finished.append(self._running_kl[:, ends[step]])
            self._running_kl = np.where(ends[step], 0.0, self._running_kl)
        episodes = np.concatenate(finished, axis=1)  # (2, episodes)
        self.stats = {"kl_coef": self.controller.value, "entropy": float(-self.log_probs.mean())}
        if episodes.size:
            self.stats["kl"], self.stats["kl_k3"] = episodes.mean(axis=1).tolist()
            self.controller.update(self.stats["kl"], episodes.shape[1])

    # Minibatches

    def get(self, batch_size: int | None = None) -> Generator[DictRolloutBufferSamples, None, None]:  # type: ignore[override]
        """Yield minibatches of whole segments, of about `batch_size` tokens each, every segment once, in random order.

        Raises:
            ValueError: `batch_size` is smaller than the longest segment of the first rollout.
        """
        assert self.full, "the rollout is not finished"
        longest = int(np.bincount(self.segments.reshape(-1)).max())
        if batch_size is not None and batch_size < longest and not self._checked:
            raise ValueError(
                f"batch_size={batch_size} is smaller than one episode of {longest} tokens: minibatches are made of "
                "whole episodes, so raise batch_size to several times the environment's max_new_tokens"
            )
        self._checked = True  # what comes later is trained as it is: an error then would lose the run
        for chosen in self._batches(batch_size, np.random.permutation(self.n_segments)):
            samples = self._segment_samples(chosen)
            yield DictRolloutBufferSamples(
                observations=samples.observations,
                actions=samples.actions[:, None],
                old_values=self.to_torch(self.values[samples.steps]),
                old_log_prob=self.to_torch(self.log_probs[samples.steps]),
                advantages=self.to_torch(self.advantages[samples.steps]),
                returns=self.to_torch(self.returns[samples.steps]),
            )

    def _batches(self, batch_size: int | None, order: np.ndarray) -> Generator[np.ndarray, None, None]:
        """Cut segments, in the given order, into batches of nearly equal numbers of actions, about `batch_size`."""
        lengths = np.bincount(self.segments.reshape(-1), minlength=self.n_segments)[order]
        total = int(lengths.sum())
        n_batches = 1 if batch_size is None else max(1, round(total / batch_size))
        middle = np.cumsum(lengths) - lengths / 2
        number = np.minimum((middle * n_batches / total).astype(int), n_batches - 1)
        for i in np.unique(number):
            yield order[number == i]

    def _segment_samples(self, chosen: np.ndarray) -> _SegmentSamples:
        row_of = np.full(self.n_segments, -1)
        row_of[chosen] = np.arange(len(chosen))
        rows = row_of[self.segments]  # (n_steps, n_envs)
        steps = np.nonzero(rows >= 0)
        length = int(self.observations["attention_mask"][chosen].astype(np.int64).sum(axis=1).max())
        observations = {key: self.to_torch(array[chosen]) for key, array in self.observations.items()}
        for key in ("input_ids", "attention_mask"):
            observations[key] = observations[key][:, : max(length, 1)].long()
        if self.trunk_states is not None:
            index = torch.as_tensor(chosen, device=self.trunk_states.device)
            observations["trunk_states"] = self.trunk_states[index, : max(length, 1)]
        observations["rows"], observations["columns"] = self.to_torch(rows[steps]), self.to_torch(self.columns[steps])
        return _SegmentSamples(steps, observations, self.to_torch(self.actions[steps].reshape(-1)))


class _SegmentSamples(NamedTuple):
    """Some segments as tensors: `steps` indexes `(n_steps, n_envs)` arrays, the tensors are flat in its order."""

    steps: tuple[np.ndarray, ...]
    observations: dict[str, torch.Tensor]
    actions: torch.Tensor
