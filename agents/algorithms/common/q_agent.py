"""What the Q-learning agents share: exploring by the language model, and rollouts between which all that learns moves.

The loops are SB3's own. Ours are its hooks, with these departures:

- A random action is drawn from the reference language model (read with `temperature`, `top_k`, `top_p`), or uniformly
  with `exploration="uniform"`. Of thousands of tokens next to none makes sense after a given context, so that uniform
  noise never sees a sentence; noise from the model is a model's sentence. Each environment throws its own coin.
- `predict` never explores: exploring is a matter of collecting.
- The target network and the exploration rate move between rollouts: nothing reads either network's change before the
  next update, and a run that is stopped within a rollout can begin it again.
- `log_interval` counts rollouts, and a rollout is logged once. `rlhf/kl` is the KL of what acted, noise included, to
  the base: the k1 estimate, in nats an episode; infinite where uniform noise drew a token that the base does not have.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import torch
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.type_aliases import RolloutReturn

from ...core.distribution import TokenDistribution
from .text_agent import TextAgent

__all__ = ["Exploration", "QAgent"]

Exploration = Literal["reference", "uniform"]


class QAgent(TextAgent, OffPolicyAlgorithm):
    """Mixin, to the left of an SB3 algorithm with a replay buffer."""

    policy: Any  # a `QPolicy`; SB3's classes say another type each
    replay_buffer: Any
    kl_argument = None
    resumable = True  # see `agents.saving.bundle.holds`
    exploration: Exploration = "reference"
    exploration_rate: float = 0.0
    _steps_due = 0
    _n_calls: int
    exploration_initial_eps: float

    def _choose_exploration(self, exploration: Exploration) -> None:
        if exploration not in ("reference", "uniform"):
            raise ValueError(f"exploration={exploration!r}: expected 'reference' or 'uniform'")
        self.exploration = exploration
        self._running_kl = np.zeros(0)  # of the episodes that are going on

    def _setup_model(self) -> None:
        super()._setup_model()
        if hasattr(self, "exploration_initial_eps") and self._n_calls == 0:
            self.exploration_rate = self.exploration_initial_eps  # SB3 sets it after the first step

    def _setup_learn(
        self, total_timesteps: int, callback: Any = None, reset_num_timesteps: bool = True, *args: Any, **kwargs: Any
    ) -> tuple[int, Any]:
        if reset_num_timesteps or self._last_obs is None:
            self._running_kl = np.zeros(0)  # the environments restart
        return super()._setup_learn(total_timesteps, callback, reset_num_timesteps, *args, **kwargs)

    @torch.no_grad()
    def _sample_action(
        self, learning_starts: int, action_noise: Any = None, n_envs: int = 1
    ) -> tuple[np.ndarray, np.ndarray]:
        """A token an environment, `(n_envs,)`, twice: of the policy, or at random with the exploration rate."""
        rate = 1.0 if self.num_timesteps < learning_starts else self.exploration_rate
        assert self._last_obs is not None
        obs, _ = self.policy.obs_to_tensor(self._last_obs)
        acting, base = self.policy.acting_and_base(obs)
        random = torch.full_like(base, -np.log(base.shape[1])) if self.exploration == "uniform" else base
        explores = torch.as_tensor(np.random.rand(n_envs) < rate, device=base.device)
        logits = torch.where(explores[:, None], random, acting)
        actions = TokenDistribution(base.shape[1]).proba_distribution(logits).sample()
        behaviour = torch.log(rate * random.exp() + (1 - rate) * acting.exp())
        ratio = (behaviour - base).gather(1, actions[:, None]).squeeze(1)
        self._log_ratio = ratio.double().cpu().numpy()
        chosen = actions.cpu().numpy()
        return chosen, chosen

    def predict(
        self,
        observation: Any,
        state: Any = None,
        episode_start: np.ndarray | None = None,
        deterministic: bool = False,
    ) -> tuple[np.ndarray, Any]:
        """The policy's tokens `(n,)`, without exploration."""
        return self.policy.predict(observation, state, episode_start, deterministic)

    def _store_transition(
        self,
        replay_buffer: Any,
        buffer_action: np.ndarray,
        new_obs: Any,
        reward: np.ndarray,
        dones: np.ndarray,
        infos: list[dict[str, Any]],
    ) -> None:
        super()._store_transition(replay_buffer, buffer_action, new_obs, reward, dones, infos)
        if len(self._running_kl) != len(dones):
            self._running_kl = np.zeros(len(dones))
        self._running_kl += self._log_ratio
        self._finished_kl += self._running_kl[dones].tolist()
        self._running_kl[dones] = 0.0
        if self._finished_kl and hasattr(replay_buffer, "stats"):
            replay_buffer.stats["kl"] = float(np.mean(self._finished_kl))

    def _on_step(self) -> None:
        """Wait for the end of the rollout."""
        self._steps_due += 1

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
        """As SB3's; then what it does after every step, once for each of them, and the log."""
        self._steps_due = 0
        self._finished_kl: list[float] = []
        rollout = super().collect_rollouts(
            env, callback, train_freq, replay_buffer, action_noise, learning_starts, None
        )
        if rollout.continue_training:
            for _ in range(self._steps_due):
                super()._on_step()
            self._rollouts = getattr(self, "_rollouts", 0) + 1
            if log_interval is not None and self._rollouts % log_interval == 0:
                self.dump_logs()
        self._steps_due = 0
        return rollout

    def _excluded_save_params(self) -> list[str]:
        return [*super()._excluded_save_params(), "_log_ratio", "_finished_kl", "_steps_due"]
