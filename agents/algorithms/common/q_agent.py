"""Hold what the Q-learning agents share: exploration by the language model, and updates between rollouts only."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import torch
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.type_aliases import RolloutReturn, Schedule

from ...core.distribution import TokenDistribution
from .replay_buffer import SequenceReplayBuffer
from .text_agent import TextAgent

__all__ = ["DEEP_Q", "Exploration", "QAgent"]

Exploration = Literal["reference", "uniform"]


DEEP_Q: dict[str, Any] = {  # the defaults that DQN and QR-DQN share
    "learning_rate": 1e-4,
    "buffer_size": 100_000,
    "learning_starts": 2048,
    "batch_size": 512,
    "tau": 1.0,
    "gamma": 1.0,
    "train_freq": 32,
    "gradient_steps": 8,
    "replay_buffer_class": SequenceReplayBuffer,
    "target_update_interval": 4096,
    "exploration_fraction": 0.5,
    "exploration_initial_eps": 1.0,
    "exploration_final_eps": 0.05,
    "max_grad_norm": 1.0,
}


class QAgent(TextAgent, OffPolicyAlgorithm):
    """Let an SB3 algorithm with a replay buffer learn from text. A mixin, to the left of the SB3 class.

    The loops are SB3's own. This class overrides their hooks, with these departures:

    - A random action is drawn from the reference language model, read with `temperature`, `top_k` and `top_p`; or
      uniformly with `exploration="uniform"`. Of thousands of tokens hardly any makes sense after a given context, so
      uniform noise never writes a sentence, and noise from the model does. Each environment explores independently.
    - `predict` never explores: exploration belongs to collecting.
    - The target network and the exploration rate move between rollouts. Nothing reads a change of either before the
      next update, and a run that is stopped within a rollout can begin it again.
    - `log_interval` counts rollouts, and a rollout is logged once. `rlhf/kl` is the KL of what acted, noise included,
      to the base: the k1 estimate, in nats per episode. It is infinite if uniform noise drew a token to which the base
      gives no probability.

    Args:
        n_steps: rewards in a return, see `SequenceReplayBuffer`.
        exploration: "reference" draws random tokens from the reference language model, "uniform" from the vocabulary.
        replay_buffer_kwargs: arguments of the replay buffer.

    Raises:
        ValueError: `exploration` is neither of the two.
    """

    policy: Any  # a `QPolicy`; SB3's classes say another type each
    replay_buffer: Any
    kl_argument = None
    resumable = True  # see `agents.saving.bundle.holds`
    exploration_rate: float = 0.0
    exploration_initial_eps: float
    _steps_due = 0
    _rollouts = 0
    _n_calls: int

    def __init__(
        self,
        policy: Any = None,
        env: Any = None,
        learning_rate: float | Schedule | None = None,
        n_steps: int = 1,
        exploration: Exploration = "reference",
        replay_buffer_kwargs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        if exploration not in ("reference", "uniform"):
            raise ValueError(f"exploration={exploration!r}: expected 'reference' or 'uniform'")
        self.exploration = exploration
        self._running_kl = np.zeros(0)  # of the episodes that are under way
        self._stored: tuple[Any, Any] = (
            None,
            None,
        )  # the contexts after the last transition, and the buffer that has it
        gamma = kwargs.get("gamma", self.defaults.get("gamma", 1.0))
        replay_buffer_kwargs = {"n_steps": n_steps, "gamma": gamma, **(replay_buffer_kwargs or {})}
        super().__init__(policy, env, learning_rate, replay_buffer_kwargs=replay_buffer_kwargs, **kwargs)

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
        """Sample tokens `(n_envs,)`, from the policy or at random; twice, as SB3 expects: to act and to store."""
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
        self, observation: Any, state: Any = None, episode_start: np.ndarray | None = None, deterministic: bool = False
    ) -> tuple[np.ndarray, Any]:
        """Return the policy's tokens `(n,)`, without exploration."""
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
        obs, buffer = self._stored
        if obs is self._last_obs and buffer is replay_buffer and isinstance(buffer, SequenceReplayBuffer):
            buffer.go_on()
        super()._store_transition(replay_buffer, buffer_action, new_obs, reward, dones, infos)
        self._stored = new_obs, replay_buffer
        if len(self._running_kl) != len(dones):
            self._running_kl = np.zeros(len(dones))
        self._running_kl += self._log_ratio
        self._finished_kl += self._running_kl[dones].tolist()
        self._running_kl[dones] = 0.0
        if self._finished_kl and hasattr(replay_buffer, "stats"):
            replay_buffer.stats["kl"] = float(np.mean(self._finished_kl))

    def _on_step(self) -> None:
        """Count a step; what SB3 does after a step waits for the end of the rollout."""
        self._steps_due += 1

    def collect_rollouts(
        self, env: Any, callback: BaseCallback, *args: Any, log_interval: int | None = None, **kwargs: Any
    ) -> RolloutReturn:
        """Collect a rollout as SB3 does; then do what SB3 does after each step, once per step, and log."""
        self._steps_due = 0
        self._finished_kl: list[float] = []
        rollout = super().collect_rollouts(env, callback, *args, **kwargs)
        if rollout.continue_training:
            for _ in range(self._steps_due):
                super()._on_step()
            self._log_rollout(log_interval)
        self._steps_due = 0
        return rollout

    def _log_rollout(self, log_interval: int | None) -> None:
        self._rollouts += 1
        if log_interval is not None and self._rollouts % log_interval == 0:
            self.dump_logs()

    def _excluded_save_params(self) -> list[str]:
        return [*super()._excluded_save_params(), "_log_ratio", "_finished_kl", "_steps_due", "_stored"]
