"""Train with people in the loop: show and save the run while it waits, and refit the reward model to their ratings.

The reward itself is `rlhf_envs.rewards.human.HumanReward`. This module is what the training adds to it.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import TensorBoardOutputFormat

from rlhf_envs.rewards.human import HumanReward, Refit, Waiting
from rlhf_envs.rewards.state import walk

from .checkpoint_callback import CheckpointCallback
from .refit import RatingRefit

__all__ = ["HumanFeedback", "RatingRefit", "human_rewards"]

logger = logging.getLogger(__name__)


def human_rewards(env: Any) -> list[HumanReward]:
    """Return the human rewards of an SB3 environment, each once. An environment without `reward_fn` has none."""
    functions = env.get_attr("reward_fn") if env.has_attr("reward_fn") else []
    found = {id(part): part for function in functions for _, part in walk(function) if isinstance(part, HumanReward)}
    return list(found.values())


class HumanFeedback(BaseCallback):
    """Show how long a run waits for people, save a checkpoint meanwhile, end the wait on a signal, refit the model.

    Logged per rollout: `rlhf/human_wait_s` (seconds waited), `rlhf/human_queue` (items that need judgements),
    `rlhf/human_labels` (judgements in the store), `rlhf/human_missed` (completions so far that people did not answer)
    and `rlhf/human_refits`. Logged at every heartbeat of a wait: `rlhf/human_waiting_s` and `rlhf/human_waiting_for`.

    The weights do not change during a wait, so a killed run can go on from the boundary before the rollout. The
    boundary is saved once the wait has lasted `checkpoint_after` seconds. Ratings given later are in the store.

    A `RatingRefit` fits in another process meanwhile, on one CPU thread. The model takes its place between rollouts, so
    that one model scores all episodes of a rollout. A run that goes on begins with the newest model in its folder.

    Args:
        guard: the callback that saves the run. On a signal the wait ends, and the guard gives up the rollout.
        refit: see `HumanReward.refit`. It goes to rewards in "async" mode that have no refit yet.
        heartbeat: seconds between two messages during a wait.
        checkpoint_after: seconds of waiting before the checkpoint.
        criterion: the name of one of the project's own questions, or several with weights (`{"helpful": 1, "kind":
            0.5}`), to whose answers rewards go that name none themselves, and the refits; see `HumanReward`. The
            training's start raises a ValueError if it is not asked.
    """

    def __init__(
        self,
        guard: CheckpointCallback | None = None,
        refit: Refit | None = None,
        heartbeat: float = 10.0,
        checkpoint_after: float = 30.0,
        verbose: int = 0,
        criterion: str | Mapping[str, float] | None = None,
    ) -> None:
        super().__init__(verbose)
        self.guard, self.refit, self.criterion = guard, refit, criterion
        self.heartbeat, self.checkpoint_after = heartbeat, checkpoint_after
        self.rewards: list[HumanReward] = []
        self._waited = 0.0
        self._last_sign = 0.0

    def _on_training_start(self) -> None:
        self.rewards = [reward for reward in human_rewards(self.training_env) if reward.store is not None]
        for reward in self.rewards:
            if (criterion := reward.criterion or self.criterion) is not None:
                reward.take_criterion(criterion)
            reward.on_wait = self._on_wait
            reward.refit = reward.refit or (self.refit.begin if isinstance(self.refit, RatingRefit) else self.refit)
            reward.swaps_by_itself = False
            goes_on = self.model.num_timesteps > 0 and reward.mode == "async" and not reward.refits
            if goes_on and isinstance(self.refit, RatingRefit) and (newest := self.refit.newest()) is not None:
                logger.info("the reward model of %d ratings goes on", newest[0])
                reward.set_model(newest[1], newest[0])

    def _on_rollout_start(self) -> None:
        for reward in self.rewards:
            reward.take_refit()
        self._waited = sum(reward.waited for reward in self.rewards)

    def _on_step(self) -> bool:
        return True

    def _on_wait(self, waiting: Waiting) -> bool:
        """Handle one look into the store, and return whether to go on waiting. The reward calls it."""
        if self.guard is not None and self.guard.interrupted is not None:
            if getattr(getattr(self.model, "rollout_buffer", None), "full", False):  # no `_on_step` comes to end it
                self.guard.leave(self.guard.interrupted)
            return False
        if waiting.seconds < self._last_sign:  # another wait
            self._last_sign = 0.0
        if waiting.seconds - self._last_sign >= self.heartbeat:
            self._last_sign = waiting.seconds
            self._give_sign(waiting)
        if self.guard is not None and waiting.seconds >= self.checkpoint_after:
            self.guard.save_boundary()
        return True

    def _give_sign(self, waiting: Waiting) -> None:
        logger.info("waiting for people: %d of %d after %.0f s", waiting.missing, waiting.asked, waiting.seconds)
        if self.verbose:
            print(f"waiting for {waiting.missing} of {waiting.asked} judgements, {waiting.seconds:.0f} s", flush=True)
        for output in self.logger.output_formats:  # at once: recorded metrics show only after the rollout
            if isinstance(output, TensorBoardOutputFormat):
                output.writer.add_scalar("rlhf/human_waiting_s", waiting.seconds, self.num_timesteps)
                output.writer.add_scalar("rlhf/human_waiting_for", waiting.missing, self.num_timesteps)
                output.writer.flush()

    def _on_rollout_end(self) -> None:
        for reward in self.rewards:
            for name, value in reward.metrics().items():
                self.logger.record(f"rlhf/{name}", value)
        if self.rewards:
            self.logger.record("rlhf/human_wait_s", sum(reward.waited for reward in self.rewards) - self._waited)

    def _on_training_end(self) -> None:
        for reward in self.rewards:
            reward.on_wait, reward.swaps_by_itself = None, True
