"""Define `SequenceRolloutBuffer`: an SB3 rollout buffer that charges the KL penalty and hands out whole sequences."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from typing import Any

import numpy as np
import torch
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.type_aliases import DictRolloutBufferSamples

from . import ranks
from .kl_penalty import charge, k3
from .last_values import LastValues
from .segment_buffer import SegmentBuffer

__all__ = ["SequenceRolloutBuffer"]


class SequenceRolloutBuffer(SegmentBuffer):
    """Store rollouts of token environments: the `rollout_buffer_class` of a stock PPO or A2C with `TokenPolicy`.

    `get` yields minibatches of whole segments: flat transitions as SB3's `train` expects them, and observations with
    one row per segment and the `rows` and `columns` of every action. `TokenPolicy.evaluate_actions` turns them into one
    forward pass.

    `compute_returns_and_advantage` first takes the KL penalty `kl_coef * (log pi(a|s) - log pi_ref(a|s))` off every
    reward: the k1 estimate per token, as in Ziegler et al. 2019, https://arxiv.org/abs/1909.08593, section 2.2. The
    score of the environment stays on the last token. A segment that the end of the rollout cuts is bootstrapped with
    the value, as everywhere in SB3, and its episode goes on in the next rollout.

    With `value_shaping` (alpha) or `probability_shaping` (beta), `alpha * Q(s, a) + beta * P(a|s)` is added to every
    token's reward. That changes which policy is optimal: only a shaping that is the difference of a potential,
    `gamma * Phi(s') - Phi(s)`, does not (Ng et al. 1999, "Policy invariance under reward transformations"), and this is
    none. Alpha pays for staying in contexts that the critic likes; beta pays for being sure, against the entropy.
    `rlhf/reward` stays the environment's own. What is added is logged as `rlhf/shaping_value` and
    `rlhf/shaping_probability`, means per token.

    Args:
        whiten_rewards: divide the penalised rewards by their standard deviation over the rollout; their mean stays.
        value_shaping: alpha. Q is the critic's value of the context that the token makes, since a token does nothing
            else here; after the last token it is 0, because the score has been given. The critic learns returns that
            include the shaping: keep alpha well below one over the tokens per episode, or values grow with every
            rollout.
        probability_shaping: beta. P is the probability that the policy gave the token when it chose it.

    The other arguments are `SegmentBuffer`'s.
    """

    def __init__(
        self,
        *args: Any,
        whiten_rewards: bool = False,
        value_shaping: float = 0.0,
        probability_shaping: float = 0.0,
        **kwargs: Any,
    ) -> None:
        for name, weight in (("value_shaping", value_shaping), ("probability_shaping", probability_shaping)):
            if not np.isfinite(weight):
                raise ValueError(f"{name}={weight}: expected a finite number, 0 for none")
        self.whiten_rewards = whiten_rewards
        self.value_shaping, self.probability_shaping = value_shaping, probability_shaping
        self._checked = False
        super().__init__(*args, **kwargs)
        self._running_kl = np.zeros((2, self.n_envs))  # k1 and k3 so far of the episodes that go on

    def reset(self) -> None:
        """Empty the buffer; the KL controller and the KL of episodes that go on keep their state."""
        if self.stopped:
            self._running_kl[:] = 0
        super().reset()

    def get_state(self) -> dict[str, Any]:
        """Return what outlives a rollout, for `set_state` of another buffer of the same shape."""
        return super().get_state() | {"running_kl": self._running_kl.copy(), "checked": np.array(self._checked)}

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Go on from where `get_state` was called."""
        super().set_state(state)
        self._running_kl = state["running_kl"].copy()
        self._checked = bool(state["checked"])

    # Returns

    def _finish_rollout(self, policy: Any, last_values: torch.Tensor, dones: np.ndarray) -> None:
        """Charge the KL penalty and add the shaping, then let SB3 compute GAE."""
        if isinstance(last_values, LastValues):
            last_values = last_values.where_going_on(dones)
        if not last_values.isfinite().all():
            raise FloatingPointError("the values after the rollout are not finite: lower learning_rate")
        kl = self.log_probs - self.reference_log_probs_of(policy)  # (n_steps, n_envs) k1
        shaping = self._shaping(last_values, dones)
        self.rewards = charge(self.rewards, kl, self.controller.value, shaping.values(), self.whiten_rewards)
        self._record(kl, dones)
        self.stats |= {name: float(added.mean()) for name, added in shaping.items()}
        RolloutBuffer.compute_returns_and_advantage(self, last_values, dones)

    def _shaping(self, last_values: torch.Tensor, dones: np.ndarray) -> dict[str, np.ndarray]:
        """Return what shaping adds to the rewards, arrays `(n_steps, n_envs)` by the name of their metric."""
        shaping: dict[str, np.ndarray] = {}
        if self.value_shaping:
            following = np.vstack([self.values[1:], last_values.detach().cpu().numpy().reshape(1, -1)])
            q = np.where(self._ends(dones), np.float32(0), following)
            shaping["shaping_value"] = np.float32(self.value_shaping) * q
        if self.probability_shaping:
            shaping["shaping_probability"] = np.float32(self.probability_shaping) * np.exp(self.log_probs)
        return shaping

    def _record(self, kl: np.ndarray, dones: np.ndarray) -> None:
        """Keep the rollout's metrics, and move the controller by the KL of the episodes that ended."""
        self._running_kl[:, self.episode_starts[0].astype(bool)] = 0  # environments reset between rollouts
        ends = self._ends(dones)
        estimates = np.stack([kl, k3(kl)])  # (2, n_steps, n_envs)
        finished: list[np.ndarray] = []
        for step in range(self.buffer_size):
            self._running_kl += estimates[:, step]
            finished.append(self._running_kl[:, ends[step]])
            self._running_kl = np.where(ends[step], 0.0, self._running_kl)
        episodes = np.concatenate(finished, axis=1)  # (2, episodes)
        self.stats = {"kl_coef": self.controller.value, "entropy": -ranks.mean(self.log_probs)}
        if self.report_kl and (n_episodes := ranks.total(episodes.shape[1])):
            self.stats["kl"], self.stats["kl_k3"] = (ranks.mean(one) for one in episodes)
            self.controller.update(self.stats["kl"], n_episodes)

    # Minibatches

    def get(self, batch_size: int | None = None) -> Generator[DictRolloutBufferSamples, None, None]:  # type: ignore[override]
        """Yield minibatches of whole segments, of about `batch_size` tokens each, every segment once, in random order.

        In a data-parallel run a minibatch has so many tokens on all ranks together, and its advantages are `AllRanks`.

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
        for chosen in self._batches(batch_size, np.random.permutation(self.n_segments)[:, None], over_ranks=True):
            samples = self._segment_samples(chosen)
            yield DictRolloutBufferSamples(
                observations=samples.observations,
                actions=samples.actions[:, None],
                old_values=self.to_torch(self.values[samples.steps]),
                old_log_prob=self.to_torch(self.log_probs[samples.steps]),
                advantages=ranks.parts(self.to_torch(self.advantages[samples.steps]), counted=True),
                returns=self.to_torch(self.returns[samples.steps]),
            )
