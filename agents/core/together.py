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

__all__ = ["Together", "same_everywhere", "seed_rank"]

STOP = 1  # what a rank says that ends the training without a signal; a signal is said by its number
OWN = ("sft_state",)  # buffers of a policy that differ from rank to rank


class Together(CallbackList):
    """Call the callbacks of one rank so that all ranks do the same.

    - Weights and the optimizer's state are those of the first rank when training starts, and each rank gets random
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
        ranks.broadcast([*same_everywhere(self.model.policy).values(), *_optimizer_tensors(self.model.policy)])
        if not ranks.first():
            seed_rank(self.model)
        self._statistics = [_sums(reward) for reward in self._whitened()]
        super()._on_training_start()

    def _on_step(self) -> bool:
        self.model.num_timesteps += (ranks.size() - 1) * self.training_env.num_envs
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
        rewards = self._whitened()
        if not rewards:
            return
        added = [_sums(reward) - before for reward, before in zip(rewards, self._statistics, strict=True)]
        by_reward = zip(*ranks.everywhere(added), strict=True)
        self._statistics = [before + sum(found) for before, found in zip(self._statistics, by_reward, strict=True)]
        for reward, (count, scores, squares) in zip(rewards, self._statistics, strict=True):
            mean = scores / max(count, 1)
            reward.set_state({"count": count, "mean": mean, "squares": max(squares - count * mean**2, 0.0)})

    def _signal(self) -> int:
        """Return the number of the signal that a callback of this rank was interrupted by; 0 if there was none."""
        return max((int(getattr(callback, "interrupted", None) or 0) for callback in self.callbacks), default=0)

    def _whitened(self) -> list[Whitened]:
        """Return the rewards of the environment that learn a mean and a deviation, each once."""
        if not self.training_env.has_attr("reward_fn"):
            return []
        found = {id(reward): reward for _, reward in walk(self.training_env.get_attr("reward_fn", 0)[0])}
        return [reward for reward in found.values() if isinstance(reward, Whitened)]


def _sums(reward: Whitened) -> np.ndarray:
    """Return the number of scores so far, their sum and the sum of their squares, `(3,)` float64."""
    state = reward.get_state()
    count, mean = state["count"], state["mean"]
    return np.array([count, count * mean, state["squares"] + count * mean**2])


def same_everywhere(policy: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Return the parameters and buffers of a policy that are the same on every rank, by name."""
    return {name: tensor for name, tensor in policy.state_dict().items() if name not in OWN}


def _optimizer_tensors(policy: Any) -> list[torch.Tensor]:
    states = policy.optimizer.state_dict()["state"].values()
    return [value for state in states for value in state.values() if isinstance(value, torch.Tensor)]


def seed_rank(model: Any) -> None:
    """Seed the global generators by the agent's seed, how far it is and the rank, and the data of a supervised loss."""
    sequence = np.random.SeedSequence([model.seed or 0, model.num_timesteps, ranks.rank()])
    first, second, third = sequence.generate_state(3).tolist()
    random.seed(first)
    np.random.seed(second)
    torch.manual_seed(third)
    if getattr(model.policy, "sft", None) is not None:
        model.policy.sft_state[0] += ranks.rank()
