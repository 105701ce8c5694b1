"""Implicit language Q-learning: offline, from completions that are logged and rated.

Paper: Snell et al. 2022, https://arxiv.org/abs/2206.11871 (after IQL, Kostrikov et al. 2021,
https://arxiv.org/abs/2110.06169). On tokens a in contexts s of the log, with the score r on the last token:

- two Q heads by regression on `r + gamma V(s')`;
- V by expectile regression on the smaller of the two target Qs of the token that was taken, so that it tends to the
  best that the log holds, and no Q of a token that nobody took is asked for;
- a CQL term, `logsumexp Q(s, .) - Q(s, a)`, times `cql_coef`;
- acting by `base(a) exp(beta (Q(s, a) - V(s)))`.

Departures: the heads are linear and start at 0 (see `QPolicy`); the target is a second trunk with its heads; the Q that
acts is the learned network's and not the target's; the base is the frozen reference, which wrote the log where it is
this agent's own. The paper's base is a model trained on the log; so is ours with `nll_coef`, where the language model's
head learns from the log beside the Q heads. The paper's CQL coefficient is larger.

Without `data` the agent has its log written: the reference alone acts in the environment, whose reward is the score,
and what is learned never acts before training is over. The updates begin with the first rollout of the log.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.type_aliases import (
    DictReplayBufferSamples,
    MaybeCallback,
    RolloutReturn,
    Schedule,
)
from stable_baselines3.common.utils import polyak_update

from ..core.distribution import log_probs_and_entropies
from .common.logged_data import read_log
from .common.q_agent import QAgent
from .common.replay_buffer import SequenceReplayBuffer
from .ilql_policy import ILQLPolicy

__all__ = ["ILQL"]


class ILQL(QAgent):
    """Offline Q-learning from a log.

    `learn(total_timesteps)` counts the tokens that the reference writes into the log, and with `data`, where nothing is
    written, `gradient_steps * batch_size` an update.

    Args:
        buffer_size: tokens of the log that are kept.
        batch_size: tokens a gradient step.
        tau: how far the target network moves to the learned one after every gradient step.
        train_freq: steps of all environments in a rollout of the log.
        gradient_steps: of an update, one after every rollout.
        expectile: of V; 0.5 is the mean over the log, towards 1 its best.
        cql_coef, nll_coef: weights of the CQL term and of the log's likelihood under the language model. `nll_coef`
            wants `policy_kwargs=dict(imitates=True)`.
        data: rows `{prompt, completion, label}` or the path of a file of them, instead of a log of its own. Labels are
            scores, true and false count as 1 and 0.

    All other arguments are those of SB3's `OffPolicyAlgorithm`.

    Raises:
        ValueError: an argument is out of range, or the data cannot be read; the message names the row.
    """

    policy: ILQLPolicy

    def __init__(
        self,
        policy: Any = ILQLPolicy,
        env: Any = None,
        learning_rate: float | Schedule = 3e-4,
        buffer_size: int = 200_000,
        batch_size: int = 512,
        tau: float = 0.05,
        gamma: float = 1.0,
        train_freq: int | tuple[int, str] = 32,
        gradient_steps: int = 24,
        replay_buffer_class: type[Any] | None = SequenceReplayBuffer,
        replay_buffer_kwargs: dict[str, Any] | None = None,
        expectile: float = 0.8,
        cql_coef: float = 0.01,
        nll_coef: float = 0.0,
        max_grad_norm: float = 1.0,
        data: str | Path | Sequence[Mapping[str, Any]] | None = None,
        policy_kwargs: dict[str, Any] | None = None,
        tensorboard_log: str | None = None,
        stats_window_size: int = 100,
        verbose: int = 0,
        seed: int | None = None,
        device: torch.device | str = "auto",
        _init_setup_model: bool = True,
    ) -> None:
        if not 0 < expectile < 1:
            raise ValueError(f"expectile={expectile}: expected a number between 0 and 1; 0.5 is the mean")
        imitates = bool((policy_kwargs or {}).get("imitates", False))
        if (nll_coef > 0) != imitates:
            raise ValueError(
                f"nll_coef={nll_coef} with imitates={imitates}: they go together, the language model learns from the "
                "log or it does not"
            )
        self._choose_exploration("reference")
        self.expectile, self.cql_coef, self.nll_coef = expectile, cql_coef, nll_coef
        self.max_grad_norm, self.data = max_grad_norm, data
        super().__init__(
            policy,
            env,
            learning_rate,
            buffer_size=buffer_size,
            learning_starts=0,
            batch_size=batch_size,
            tau=tau,
            gamma=gamma,
            train_freq=train_freq,
            gradient_steps=gradient_steps,
            replay_buffer_class=replay_buffer_class,
            replay_buffer_kwargs={"gamma": gamma, **(replay_buffer_kwargs or {})},
            policy_kwargs=policy_kwargs,
            tensorboard_log=tensorboard_log,
            stats_window_size=stats_window_size,
            verbose=verbose,
            seed=seed,
            device=device,
            support_multi_env=True,
            sde_support=False,
            supported_action_spaces=(spaces.Discrete,),
        )
        self.exploration_rate = 1.0  # what acts while the log is written is the reference
        self._read = False
        if _init_setup_model:
            self._setup_model()

    # The log

    def _setup_learn(self, *args: Any, **kwargs: Any) -> tuple[int, BaseCallback]:
        if self.data is not None and not self._read:
            contexts, n_prompt, scores = read_log(self.data, self.get_env())
            if len(contexts) > self.replay_buffer.n_rows:
                raise ValueError(
                    f"data has {len(contexts)} rated completions and buffer_size={self.buffer_size} keeps "
                    f"{self.replay_buffer.n_rows}: raise it to {len(contexts) * (self.replay_buffer.length - 1)}"
                )
            self.replay_buffer.add_episodes(contexts, n_prompt, scores)
            self._read = True
        return super()._setup_learn(*args, **kwargs)

    def collect_rollouts(
        self,
        env: Any,
        callback: BaseCallback,
        train_freq: Any,
        replay_buffer: Any,
        action_noise: Any = None,
        learning_starts: int = 0,
        log_interval: int | None = None,
    ) -> RolloutReturn:
        """Let the reference go on with the log; with `data` a rollout is no more than the tokens of an update."""
        if self.data is None:
            return super().collect_rollouts(
                env, callback, train_freq, replay_buffer, action_noise, learning_starts, log_interval
            )
        self.policy.set_training_mode(False)
        callback.on_rollout_start()
        tokens = self.gradient_steps * self.batch_size
        self.num_timesteps += tokens
        infos: list[dict[str, Any]] = [{} for _ in range(env.num_envs)]
        rewards, dones = np.zeros(env.num_envs), np.zeros(env.num_envs, dtype=bool)
        callback.update_locals(locals())
        if not callback.on_step():
            return RolloutReturn(tokens, 0, continue_training=False)
        self._update_current_progress_remaining(self.num_timesteps, self._total_timesteps)
        callback.on_rollout_end()
        self._rollouts = getattr(self, "_rollouts", 0) + 1
        if log_interval is not None and self._rollouts % log_interval == 0:
            self.dump_logs()
        return RolloutReturn(tokens, 0, continue_training=True)

    # Learning

    def train(self, gradient_steps: int, batch_size: int) -> None:
        """Gradient steps on the log."""
        self.policy.set_training_mode(True)
        self._update_learning_rate(self.policy.optimizer)
        figures: list[dict[str, float]] = []
        for _ in range(gradient_steps):
            losses = self.losses(self.replay_buffer.sample(batch_size, env=self._vec_normalize_env))
            self.policy.optimizer.zero_grad()
            losses["loss"].backward()
            torch.nn.utils.clip_grad_norm_(self.policy.parameters(), self.max_grad_norm)
            self.policy.optimizer.step()
            polyak_update(self.policy.q_net.parameters(), self.policy.q_net_target.parameters(), self.tau)
            figures.append({name: value.item() for name, value in losses.items()})
        self._n_updates += gradient_steps
        self.logger.record("train/n_updates", self._n_updates, exclude="tensorboard")
        for name in figures[0]:
            self.logger.record(f"train/{name}", np.mean([step[name] for step in figures]))

    def losses(self, batch: DictReplayBufferSamples) -> dict[str, torch.Tensor]:
        """The loss of a batch and its terms, before their weights: `loss`, `q_loss`, `value_loss`, `cql`, `nll`."""
        policy, actions = self.policy, batch.actions.long()
        states = policy.hidden(_both(batch.observations, batch.next_observations)).float()
        hidden, next_hidden = states.chunk(2)
        q = policy.q_head(hidden)  # (n, 2, n_actions)
        taken = q.gather(2, actions[:, None].expand(-1, 2, 1)).squeeze(2)  # (n, 2)
        values, next_values = policy.value_net(hidden), policy.value_net(next_hidden)  # (n, 1)
        with torch.no_grad():
            discounts = self.gamma if batch.discounts is None else batch.discounts
            target = batch.rewards + (1 - batch.dones) * discounts * next_values
            target_q = policy.target_q(batch.observations)
            target_taken = target_q.gather(2, actions[:, None].expand(-1, 2, 1)).squeeze(2).amin(1, keepdim=True)
        error = target_taken - values
        terms = {
            "q_loss": (taken - target).pow(2).mean(0).sum(),
            "value_loss": (torch.where(error < 0, 1 - self.expectile, self.expectile) * error.pow(2)).mean(),
            "cql": (q.logsumexp(dim=2) - taken).mean(0).sum(),
        }
        loss = terms["q_loss"] + terms["value_loss"] + self.cql_coef * terms["cql"]
        if self.nll_coef:
            head = policy.language_model
            terms["nll"] = -log_probs_and_entropies(
                lambda h, _: head.head(h)[:, : policy.n_actions], hidden, actions[:, 0], head.vocab_size
            )[0].mean()
            loss = loss + self.nll_coef * terms["nll"]
        return {"loss": loss, **terms}

    def learn(
        self,
        total_timesteps: int,
        callback: MaybeCallback = None,
        log_interval: int = 1,
        tb_log_name: str = "ILQL",
        reset_num_timesteps: bool = True,
        progress_bar: bool = False,
    ) -> ILQL:
        """As SB3's; `log_interval` counts rollouts."""
        return super().learn(total_timesteps, callback, log_interval, tb_log_name, reset_num_timesteps, progress_bar)


def _both(obs: dict[str, torch.Tensor], following: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The states of both, which are of the same sequences, for one pass."""
    twice = {key: torch.cat([obs[key], following[key]]) for key in ("rows", "columns")}
    return {**obs, **twice}
