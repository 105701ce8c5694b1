"""Tell reward functions how far a training is."""

from __future__ import annotations

from stable_baselines3.common.callbacks import BaseCallback

from rlhf_envs.rewards import TrainerState

from . import ranks

__all__ = ["TellTrainerState"]


class TellTrainerState(BaseCallback):
    """Give reward functions that declare `trainer_state` the present `TrainerState`, before every rollout.

    Agents of this package have it. Add it to the callbacks of a stock Stable-Baselines3 agent. Environments without
    `set_trainer_state` are left alone.
    """

    def _on_step(self) -> bool:
        return True

    def _on_rollout_start(self) -> None:
        env = self.training_env
        if not env.has_attr("set_trainer_state"):
            return
        n_envs = getattr(env, "total_envs", env.num_envs * ranks.size())
        tokens = n_envs * getattr(self.model, "n_steps", 1) if hasattr(self.model, "rollout_buffer") else 1
        done, total = self.model.num_timesteps, -(-self.model._total_timesteps // tokens)
        env.env_method("set_trainer_state", TrainerState(done // tokens, total, done))
