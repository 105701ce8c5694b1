"""Run this project, and the same with one row per token: stock PPO on the same environment."""

from __future__ import annotations

from typing import Any

from stable_baselines3 import PPO
from stable_baselines3.common.buffers import DictRolloutBuffer

from agents import SequenceRolloutBuffer, TokenPolicy, make_vec_env
from rlhf_envs.vector_env import TextGenerationVectorEnv

from ..work import KL_COEF, LEARNING_RATE, MAX_GRAD_NORM, FixedLength, Work
from ..worker import Session

__all__ = ["Ours", "Rows"]


class Ours:
    """Run stock PPO with `TokenPolicy` and `SequenceRolloutBuffer`. An iteration is one call of `learn`."""

    buffer: type = SequenceRolloutBuffer
    buffer_kwargs: dict[str, Any] = {"kl_coef": KL_COEF}
    policy: type = TokenPolicy

    def __init__(self, work: Work, session: Session) -> None:
        self.work, self.session = work, session
        model, tokenizer = work.load()
        self.task = FixedLength(tokenizer, ends=work.ragged)
        rows = [{"prompt": prompt, "split": "train"} for prompt in work.prompts(tokenizer)]

        def make(num_envs: int) -> TextGenerationVectorEnv:
            return TextGenerationVectorEnv(
                num_envs,
                self.task,
                data=rows,
                reward_fn=work.reward_fn(),
                max_prompt_tokens=work.prompt_tokens,
                max_new_tokens=work.new_tokens,
            )

        self.agent = PPO(
            self.policy,
            make_vec_env(make, work.n_envs, seed=work.seed),
            learning_rate=LEARNING_RATE,
            n_steps=work.new_tokens,
            batch_size=work.tokens // work.minibatches,
            n_epochs=work.epochs,
            gamma=1.0,
            vf_coef=0.1,
            max_grad_norm=MAX_GRAD_NORM,
            seed=work.seed,
            rollout_buffer_class=self.buffer,
            rollout_buffer_kwargs=self.buffer_kwargs,
            policy_kwargs={"model": model, "train": work.train, **(work.policy_kwargs or {})},
            device=work.device,
        )

    def drive(self) -> None:
        """Run the session's commands until there is none left."""
        while command := self.session.next():
            getattr(self, command)()

    def iterate(self) -> None:
        """Do a whole iteration: rollout, reward, KL to the reference, epochs of updates."""
        before = self.agent.num_timesteps
        self.agent.learn(self.work.tokens, reset_num_timesteps=False)
        self.session.tokens += self.agent.num_timesteps - before

    def rollout(self) -> None:
        """Do the first part alone: rollout, reward and KL to the reference."""
        before = self.agent.num_timesteps
        _, callback = self.agent._setup_learn(self.work.tokens, reset_num_timesteps=False)
        assert self.agent.env is not None
        self.agent.collect_rollouts(self.agent.env, callback, self.agent.rollout_buffer, self.agent.n_steps)
        self.session.tokens += self.agent.num_timesteps - before

    def update(self) -> None:
        """Do the epochs of updates on the last rollout."""
        self.agent.train()


class Rows(Ours):
    """Run the same with SB3's own buffer, one row per token. It computes no KL, which makes it faster."""

    buffer = DictRolloutBuffer
    buffer_kwargs = {}
