"""Learn offline with implicit language Q-learning (ILQL): the algorithm and its policy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.type_aliases import DictReplayBufferSamples, PyTorchObs, RolloutReturn, Schedule
from stable_baselines3.common.utils import polyak_update

from ..core.distribution import log_probs_and_entropies
from .common.logged_data import read_log
from .common.q_agent import QAgent
from .common.q_policy import QPolicy
from .common.replay_buffer import SequenceReplayBuffer

__all__ = ["ILQL", "ILQLPolicy"]


class ILQLPolicy(QPolicy):
    """Act as `QPolicy` for `ILQL`, with two Q heads, whose smaller value counts, and a value head.

    It draws from `base(a) exp(beta (Q(s, a) - V(s)))`, normalised: V is the same for all tokens and drops out.

    Args:
        beta: how much a unit of Q counts against a nat of the base, as in `QPolicy`; None takes the best token.
        imitates: let the language model's own head learn too, from the logged tokens, and be the base instead of the
            reference. For data that the reference did not write.
        **kwargs: arguments of `QPolicy`.
    """

    n_heads = 2
    learns_value = True

    def __init__(
        self,
        observation_space: Any,
        action_space: Any,
        lr_schedule: Schedule,
        *,
        beta: float | None = 4.0,
        imitates: bool = False,
        **kwargs: Any,
    ) -> None:
        self.imitates = imitates
        super().__init__(observation_space, action_space, lr_schedule, beta=beta, **kwargs)

    def _freeze_what_has_no_part(self) -> None:
        if not self.imitates:
            super()._freeze_what_has_no_part()

    def _heads_of(self, values: torch.Tensor) -> torch.Tensor:
        return values

    def acting_values(self, obs: PyTorchObs) -> torch.Tensor:
        """Return the smaller of the two heads' Q values, `(n, n_actions)`."""
        values: torch.Tensor = self.q_head(self.hidden(obs).float())
        return values.amin(dim=1)

    @torch.no_grad()
    def base_log_probs(self, obs: PyTorchObs) -> torch.Tensor:
        """Return what `QPolicy` does, or log-probabilities under the language model as it is now, if that learns."""
        if not self.imitates:
            return super().base_log_probs(obs)
        with self.autocast():
            logits = self.language_model.head(self.hidden(obs))
        return self.decoding_logits(logits).log_softmax(dim=-1)

    @torch.no_grad()
    def predict_values(self, obs: PyTorchObs) -> torch.Tensor:
        """Return the value head's values `(n, 1)`."""
        values: torch.Tensor = self.value_net(self.hidden(obs).float())
        return values


class ILQL(QAgent):
    """Learn offline from logged and rated completions with implicit language Q-learning (ILQL).

    Paper: Snell et al. 2022, "Offline RL for Natural Language Generation with Implicit Language Q Learning",
    https://arxiv.org/abs/2206.11871, after IQL, Kostrikov et al. 2021, https://arxiv.org/abs/2110.06169. It learns from
    tokens a in contexts s of the log, with the score r on the last token:

    - Two Q heads learn by regression on `r + gamma V(s')`.
    - V learns by expectile regression on the smaller of the two target Qs of the token that was taken. It tends to the
      best that the log holds, and never asks for the Q of a token that nobody took.
    - A CQL term, `logsumexp Q(s, .) - Q(s, a)`, is added with the weight `cql_coef`.
    - The agent draws from `base(a) exp(beta (Q(s, a) - V(s)))`.

    Departures: the heads are linear and start at 0 (see `QPolicy`). The target is a second trunk with its heads. The Q
    that acts is the learned network's and not the target's. The base is the frozen reference, which wrote the log
    unless `data` is given. The paper's base is a model trained on the log; so is ours with `nll_coef`, where the
    language model's head learns from the log together with the Q heads. The paper's CQL coefficient is larger.

    Without `data` the agent writes its log: the reference alone acts in the environment, whose reward is the score.
    What is learned never acts before training is over. The updates begin with the first rollout of the log.

    When to use it: where you have rated completions and no reward function, or where the trained model must not write
    anything during training. It rises early and then slowly, because a log of the starting model holds few good
    completions.

    `learn(total_timesteps)` counts the tokens of the log; with `data`, `gradient_steps * batch_size` per update.

    Args:
        buffer_size: tokens of the log that are kept.
        batch_size: tokens per gradient step.
        tau: how far the target network moves to the learned one after every gradient step.
        train_freq: steps of all environments in a rollout of the log.
        gradient_steps: gradient steps per update. There is one update after every rollout.
        expectile: expectile of V; 0.5 is the mean over the log, towards 1 its best.
        cql_coef: weight of the CQL term.
        nll_coef: weight of the log's likelihood under the language model. It requires
            `policy_kwargs=dict(imitates=True)`.
        data: rows `{prompt, completion, label}`, or the path of a file of them, instead of a log of its own. Labels are
            scores; true and false count as 1 and 0.

    Defaults: `learning_rate=3e-4`, `buffer_size=200_000`, `batch_size=512`, `tau=0.05`, `gamma=1.0`, `train_freq=32`,
    `gradient_steps=24`, `expectile=0.8`, `cql_coef=0.01`, `nll_coef=0.0`, `max_grad_norm=1.0`, `data=None`,
    `n_steps=1`. All other arguments are `QAgent`'s and SB3's.

    Raises:
        ValueError: an argument is out of range, or the data cannot be read; the message names the row.
    """

    defaults = {
        "policy": ILQLPolicy,
        "replay_buffer_class": SequenceReplayBuffer,
        "learning_rate": 3e-4,
        "buffer_size": 200_000,
        "learning_starts": 0,
        "batch_size": 512,
        "tau": 0.05,
        "gamma": 1.0,
        "train_freq": 32,
        "gradient_steps": 24,
        "sde_support": False,
        "support_multi_env": True,
        "supported_action_spaces": (spaces.Discrete,),
    }
    unused = {"exploration": "reference", "learning_starts": 0}
    policy: ILQLPolicy

    def __init__(
        self,
        policy: Any = None,
        env: Any = None,
        learning_rate: float | Schedule | None = None,
        expectile: float = 0.8,
        cql_coef: float = 0.01,
        nll_coef: float = 0.0,
        max_grad_norm: float = 1.0,
        data: str | Path | Sequence[Mapping[str, Any]] | None = None,
        _init_setup_model: bool = True,
        **kwargs: Any,
    ) -> None:
        if not 0 < expectile < 1:
            raise ValueError(f"expectile={expectile}: expected a number between 0 and 1; 0.5 is the mean")
        imitates = bool((kwargs.get("policy_kwargs") or {}).get("imitates", False))
        if (nll_coef > 0) != imitates:
            raise ValueError(
                f"nll_coef={nll_coef} with imitates={imitates}: they go together, the language model learns from the "
                "log or it does not"
            )
        self.expectile, self.cql_coef, self.nll_coef = expectile, cql_coef, nll_coef
        self.max_grad_norm, self.data = max_grad_norm, data
        super().__init__(policy, env, learning_rate, **kwargs)
        self.exploration_rate = 1.0  # what acts while the log is written is the reference
        self._read = False
        if _init_setup_model:
            self._setup_model()

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
        self, env: Any, callback: BaseCallback, *args: Any, log_interval: int | None = None, **kwargs: Any
    ) -> RolloutReturn:
        """Let the reference continue the log. With `data` write nothing, and count the tokens of an update."""
        if self.data is None:
            return super().collect_rollouts(env, callback, *args, log_interval=log_interval, **kwargs)
        self.policy.set_training_mode(False)
        callback.on_rollout_start()
        tokens = self.gradient_steps * self.batch_size
        self.num_timesteps += tokens
        nothing = np.zeros(env.num_envs)
        seen = dict(rewards=nothing, dones=nothing.astype(bool), infos=[{}] * env.num_envs)
        callback.update_locals({"self": self, "replay_buffer": self.replay_buffer, **seen})
        if not callback.on_step():
            return RolloutReturn(tokens, 0, continue_training=False)
        self._update_current_progress_remaining(self.num_timesteps, self._total_timesteps)
        callback.on_rollout_end()
        self._log_rollout(log_interval)
        return RolloutReturn(tokens, 0, continue_training=True)

    def train(self, gradient_steps: int, batch_size: int) -> None:
        """Take gradient steps on the log."""
        self.policy.set_training_mode(True)
        self._update_learning_rate(self.policy.optimizer)
        metrics: list[dict[str, float]] = []
        for _ in range(gradient_steps):
            losses = self.losses(self.replay_buffer.sample(batch_size, env=self._vec_normalize_env))
            self.policy.optimizer.zero_grad()
            losses["loss"].backward()
            torch.nn.utils.clip_grad_norm_(self.policy.parameters(), self.max_grad_norm)
            self.policy.optimizer.step()
            polyak_update(self.policy.q_net.parameters(), self.policy.q_net_target.parameters(), self.tau)
            metrics.append({name: value.item() for name, value in losses.items()})
        self._n_updates += gradient_steps
        self.logger.record("train/n_updates", self._n_updates, exclude="tensorboard")
        for name in metrics[0]:
            self.logger.record(f"train/{name}", np.mean([step[name] for step in metrics]))

    def losses(self, batch: DictReplayBufferSamples) -> dict[str, torch.Tensor]:
        """Return the loss of a batch and its terms before weighting: `loss`, `q_loss`, `value_loss`, `cql`, `nll`."""
        policy, actions = self.policy, batch.actions.long()
        obs, following = batch.observations, batch.next_observations
        both = obs | {key: torch.cat([obs[key], following[key]]) for key in ("rows", "columns")}  # one forward pass
        hidden, next_hidden = policy.hidden(both).float().chunk(2)
        q = policy.q_head(hidden)  # (n, 2, n_actions)
        taken = q.gather(2, actions[:, None].expand(-1, 2, 1)).squeeze(2)  # (n, 2)
        values, next_values = policy.value_net(hidden), policy.value_net(next_hidden)  # (n, 1)
        with torch.no_grad():
            discounts = self.gamma if batch.discounts is None else batch.discounts
            target = batch.rewards + (1 - batch.dones) * discounts * next_values
            target_q = policy.target_q(obs)
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
