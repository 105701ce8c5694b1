"""Let the callbacks of all ranks of a data-parallel run agree on how far training is, and on when it ends."""

from __future__ import annotations

import random
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from stable_baselines3.common.callbacks import BaseCallback, CallbackList

from rlhf_envs.rewards.shaping import Whitened
from rlhf_envs.rewards.state import walk

from . import ranks
from .sharding import Shards

__all__ = [
    "Together",
    "same_everywhere",
    "seed_of_episodes",
    "seed_process",
    "seed_rank",
    "set_sums",
    "sums_of",
    "whitened_rewards",
]

STOP = 1  # what a rank says that ends the training without a signal; a signal is said by its number
OWN = ("sft_state",)  # buffers of a policy that differ from rank to rank


class Together(CallbackList):
    """Call the callbacks of one rank so that all ranks do the same.

    - When training starts, all ranks take the first rank's weights and optimizer state, and each rank gets random
      numbers of its own.
    - `num_timesteps` counts the tokens of all ranks.
    - Where a callback of any rank ends the training, by a signal too, it ends on all ranks, in the same step or at the
      end of the rollout.
    - A `Whitened` reward goes on with the statistics of all ranks' scores after each rollout.
    """

    def __init__(self, callbacks: Iterable[BaseCallback]) -> None:
        super().__init__([*callbacks])
        self._statistics: list[np.ndarray] = []

    def _on_training_start(self) -> None:
        policy = self.model.policy
        ranks.broadcast([*same_everywhere(policy).values()])
        if self._shards is None:
            ranks.broadcast(_optimizer_tensors(policy))
        else:
            self._shards.start()
        if not ranks.first():
            seed_rank(self.model)
        self._statistics = [sums_of(reward) for reward in whitened_rewards(self.training_env)]
        super()._on_training_start()

    def _on_rollout_start(self) -> None:
        if self._shards is not None:
            self._shards.end_update()
            self._share_signal()
        super()._on_rollout_start()

    def _on_step(self) -> bool:
        elsewhere = (ranks.size() - 1) * self.training_env.num_envs
        self.model.num_timesteps += self.locals.get("tokens_elsewhere", elsewhere)  # of rows that are no rollout
        said = 0 if super()._on_step() else self._signal() or STOP
        step = self.locals["n_steps"]
        if said or step == 0 or step + 1 == self.locals["n_rollout_steps"]:
            said = ranks.largest(said)
        if said > STOP:
            for callback in self.callbacks:
                if hasattr(callback, "interrupt"):
                    callback.interrupt(said)
        return not said

    def _on_rollout_end(self) -> None:
        super()._on_rollout_end()
        self._share_scores()
        if self._shards is not None:
            self._shards.begin_update()

    def _on_training_end(self) -> None:
        if self._shards is not None:
            self._shards.finish()
            self._share_signal()
        super()._on_training_end()

    def _share_scores(self) -> None:
        rewards = whitened_rewards(self.training_env)
        if not rewards:
            return
        added = [sums_of(reward) - before for reward, before in zip(rewards, self._statistics, strict=True)]
        by_reward = zip(*ranks.everywhere(added), strict=True)
        self._statistics = [before + sum(found) for before, found in zip(self._statistics, by_reward, strict=True)]
        for reward, sums in zip(rewards, self._statistics, strict=True):
            set_sums(reward, sums)

    @property
    def _shards(self) -> Shards | None:
        shards: Shards | None = getattr(self.model.policy, "shards", None)
        return shards

    def _share_signal(self) -> None:
        """Let the callbacks of all ranks know of a signal to one of them: they save a policy with shards together."""
        said = ranks.largest(self._signal())
        for callback in self.callbacks if said else ():
            if hasattr(callback, "tell"):
                callback.tell(said)

    def _signal(self) -> int:
        """Return the number of the signal that a callback of this rank was interrupted by; 0 if there was none."""
        return max((int(getattr(callback, "interrupted", None) or 0) for callback in self.callbacks), default=0)


def whitened_rewards(env: Any) -> list[Whitened]:
    """Return the rewards of an environment that learn a mean and a deviation, each once."""
    if not env.has_attr("reward_fn"):
        return []
    found = {id(reward): reward for _, reward in walk(env.get_attr("reward_fn", 0)[0])}
    return [reward for reward in found.values() if isinstance(reward, Whitened)]


def set_sums(reward: Whitened, sums: np.ndarray) -> None:
    """Let a reward go on with the statistics of these sums, see `sums_of`."""
    count, scores, squares = sums
    mean = scores / max(count, 1)
    reward.set_state({"count": count, "mean": mean, "squares": max(squares - count * mean**2, 0.0)})


def sums_of(reward: Whitened) -> np.ndarray:
    """Return the number of scores so far, their sum and the sum of their squares, `(3,)` float64."""
    state = reward.get_state()
    count, mean = state["count"], state["mean"]
    return np.array([count, count * mean, state["squares"] + count * mean**2])


def same_everywhere(policy: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Return the parameters and buffers of a policy that are the same on every rank, by name."""
    skipped = OWN if getattr(policy, "shards", None) is None else (*OWN, "reference.")  # the first rank's is shared out
    return {name: tensor for name, tensor in policy.state_dict().items() if not name.startswith(skipped)}


def _optimizer_tensors(policy: Any) -> list[torch.Tensor]:
    states = policy.optimizer.state_dict()["state"].values()
    return [value for state in states for value in state.values() if isinstance(value, torch.Tensor)]


def seed_process(model: Any, number: int) -> None:
    """Seed the global generators by the agent's seed, how far it is and the number of the process."""
    sequence = np.random.SeedSequence([model.seed or 0, model.num_timesteps, number])
    first, second, third = sequence.generate_state(3).tolist()
    random.seed(first)
    np.random.seed(second)
    torch.manual_seed(third)


def seed_of_episodes(seed: int, num_timesteps: int) -> int:
    """Return the seed of environments that begin new episodes in a run which is that far."""
    return int(np.random.SeedSequence([seed, num_timesteps]).generate_state(1)[0])


def seed_rank(model: Any) -> None:
    """Seed the global generators of a rank, and the data of a supervised loss."""
    seed_process(model, ranks.rank())
    if getattr(model.policy, "sft", None) is not None:
        model.policy.sft_state[0] += ranks.rank()
