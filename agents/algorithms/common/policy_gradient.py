"""Hold what REINFORCE, RLOO, GRPO, AWR, SFT, DPO and KTO share: they learn from whole episodes, with a loss."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.type_aliases import MaybeCallback, Schedule

from ...core.engine.rollouts import EngineRollouts
from ...core.policy import TokenPolicy
from ...core.ratios import ratio_of
from .episode_buffer import EpisodeRolloutBuffer, EpisodeSamples
from .importance import ImportanceMode, correct
from .text_agent import NO_CRITIC, NO_KL, ON_POLICY, TextAgent

__all__ = ["NO_CRITIC", "NO_KL", "PolicyGradient", "check_clip_range", "clip_metrics", "clipped", "spread"]

logger = logging.getLogger(__name__)


class PolicyGradient(TextAgent, OnPolicyAlgorithm):
    """Learn from whole episodes. The base of algorithms with a loss of their own.

    A subclass writes two methods: `_advantages` gives the advantages of the episodes in a rollout, `_loss` the loss of
    a minibatch. The rollout is Stable-Baselines3's own.

    Args:
        n_steps: tokens per environment in a rollout. Episodes that its end cuts go on in the next rollout.
        batch_size: about how many tokens a minibatch has; None takes the whole rollout. Groups stay together.
        n_epochs: passes over a rollout.
        group_size: completions of one row of the data that are compared. The environment is told to make them.
        engine: the address of a server that draws the completions, such as "http://localhost:8000"; None draws them
            here. Its samples are weighted, see `agents.algorithms.common.importance`.
        engine_kwargs: arguments of `agents.core.engine.rollouts.EngineRollouts`: `sync`, `folder` and others.

    Attributes:
        importance: what is weighted where an engine draws: tokens, whole completions, or None for nothing.

    Defaults: `learning_rate=1e-4`, `n_steps=32`, `batch_size=None`, `n_epochs=1`, `gamma=1.0`, `group_size=1`,
    `ent_coef=0.0`, `vf_coef=0.0`, `max_grad_norm=1.0`. All other arguments are SB3's.

    Raises:
        ValueError: an argument is out of range, or the groups do not fit: they are smaller than `min_group_size`, or do
            not divide the environments.
        TypeError: the environment cannot make groups.
    """

    defaults = ON_POLICY | {
        "rollout_buffer_class": EpisodeRolloutBuffer,
        "gae_lambda": 1.0,
        "ent_coef": 0.0,
        "vf_coef": 0.0,
        "max_grad_norm": 1.0,
        "use_sde": False,
        "sde_sample_freq": -1,
        "supported_action_spaces": (spaces.Discrete,),
    }
    min_group_size = 1
    data_parallel = True
    unused: ClassVar[dict[str, Any]] = {"gae_lambda": 1.0}
    importance: ClassVar[ImportanceMode | None] = "token_truncate"
    policy: TokenPolicy
    rollout_buffer: EpisodeRolloutBuffer

    def __init__(
        self,
        policy: Any = None,
        env: Any = None,
        learning_rate: float | Schedule | None = None,
        batch_size: int | None = None,
        n_epochs: int = 1,
        group_size: int = 1,
        engine: str | None = None,
        engine_kwargs: Mapping[str, Any] | None = None,
        _init_setup_model: bool = True,
        **kwargs: Any,
    ) -> None:
        if n_epochs < 1:
            raise ValueError(f"n_epochs={n_epochs}: expected at least one pass over a rollout")
        if (gamma := kwargs.get("gamma", 1.0)) != 1.0:
            raise ValueError(f"gamma={gamma}: a completion is judged as a whole, without a discount; take ppo for one")
        if batch_size is not None and batch_size < 1:
            raise ValueError(f"batch_size={batch_size}: expected a number of tokens, or None for the whole rollout")
        super().__init__(policy, env, learning_rate, _init_setup_model=False, **kwargs)
        self.batch_size, self.n_epochs, self.group_size = batch_size, n_epochs, group_size
        self.set_engine(engine, **(engine_kwargs or {}))
        if _init_setup_model:
            self._setup_model()

    @classmethod
    def check_groups(cls, size: int, n_envs: int) -> None:
        """Raise ValueError if groups are smaller than `min_group_size`, or do not divide the environments."""
        if size < cls.min_group_size:
            raise ValueError(
                f"group_size={size}: {cls.__name__} compares completions of one prompt and needs at least "
                f"{cls.min_group_size}"
            )
        if size > 1 and n_envs % size and size % n_envs:
            raise ValueError(
                f"group_size={size} with {n_envs} environments: groups have to divide the batch; take n_envs as a "
                f"multiple of {size}, such as {(n_envs // size + 1) * size}"
            )

    def _setup_model(self) -> None:
        if isinstance(url := vars(self).get("engine"), str):  # both `load`s set arguments as they were given
            self.set_engine(url, **(vars(self).pop("engine_kwargs", None) or {}))
        size = self.group_size
        self.check_groups(size, self.n_envs)
        super()._setup_model()
        self.rollout_buffer.group_size = size
        if size > 1:
            self._make_groups(size)

    def _make_groups(self, size: int) -> None:
        assert self.env is not None
        try:
            if set(self.env.get_attr("group_size")) != {size}:
                self.env.env_method("set_group_size", size)
        except AttributeError as error:
            raise TypeError(
                f"{type(self).__name__} needs completions of one prompt side by side, and this environment has no "
                "set_group_size: use a text environment of rlhf_envs, or write that method"
            ) from error

    def _update_info_buffer(self, infos: list[dict[str, Any]], dones: np.ndarray | None = None) -> None:
        """Note the row of the data that each episode is of. SB3 calls this in every step before the buffer's `add`."""
        super()._update_info_buffer(infos, dones)
        self.rollout_buffer.note_rows(infos)

    def set_engine(self, url: str | None, **engine_kwargs: Any) -> None:
        """Let the server at `url` draw the completions from the next rollout on; with None the policy draws them.

        A saved agent does not keep its engine.

        Raises:
            ValueError, TypeError: an argument is wrong.
        """
        self.engine = None if url is None else EngineRollouts(url, **engine_kwargs)

    def _excluded_save_params(self) -> list[str]:
        return [*super()._excluded_save_params(), "engine"]

    def collect_rollouts(self, env: Any, callback: Any, rollout_buffer: Any, n_rollout_steps: int) -> bool:
        """Collect a rollout as SB3 does, with the tokens that the engine draws if there is one."""
        if self.engine is None:
            return super().collect_rollouts(env, callback, rollout_buffer, n_rollout_steps)
        with self.engine.instead_of(self.policy, env, n_rollout_steps):
            return super().collect_rollouts(env, callback, rollout_buffer, n_rollout_steps)

    def _setup_learn(
        self,
        total_timesteps: int,
        callback: MaybeCallback = None,
        reset_num_timesteps: bool = True,
        *args: Any,
        **kwargs: Any,
    ) -> tuple[int, Any]:
        if reset_num_timesteps or self._last_obs is None:
            if dropped := self.rollout_buffer.forget():
                logger.info("%d episodes were under way or waiting for their group: the environments restart", dropped)
            if self.group_size > 1:
                assert self.env is not None
                self.env.env_method("set_group_size", self.group_size)  # a new group begins
        return super()._setup_learn(total_timesteps, callback, reset_num_timesteps, *args, **kwargs)

    def train(self) -> None:
        """Update the policy with the groups of episodes that are complete. Without any, do nothing."""
        buffer = self.rollout_buffer
        self.policy.set_training_mode(True)
        self._update_learning_rate(self.policy.optimizer)
        self.logger.record("train/episodes", buffer.n_segments)
        if not buffer.n_segments:
            return
        source = self.engine or self.collector
        clip_max = None if source is None else source.clip_max
        weights = 1.0 if clip_max is None else self._correct(buffer, clip_max)
        advantages, returns = self._advantages(buffer)
        buffer.advantages = (weights * advantages).astype(np.float32)
        buffer.returns = returns.astype(np.float32)
        metrics: dict[str, list[float]] = {}
        for _ in range(self.n_epochs):
            for samples in buffer.get(self.batch_size):
                loss, found = self._loss(samples)
                self.policy.optimizer.zero_grad()
                loss.backward()
                torch.nn.utils.clip_grad_norm_(self.policy.parameters(), self.max_grad_norm)
                self.policy.optimizer.step()
                for name, value in {"loss": loss, **found}.items():
                    metrics.setdefault(name, []).append(value.item())
            self._n_updates += 1
        for name, values in metrics.items():
            self.logger.record(name if "/" in name else f"train/{name}", float(np.mean(values)))
        self.logger.record("train/n_updates", self._n_updates, exclude="tensorboard")

    def _correct(self, buffer: EpisodeRolloutBuffer, clip_max: float) -> np.ndarray:
        """Return the weights of samples of an engine, or of older weights, `(n, 1)`."""
        weights, metrics = correct(buffer, self.policy, self.importance, clip_max, of_engine=self.engine is not None)
        for name, value in metrics.items():
            self.logger.record(f"train/{name}", value)
        return weights

    def _advantages(self, buffer: EpisodeRolloutBuffer) -> tuple[np.ndarray, np.ndarray]:
        """Return advantages and returns, `(n, 1)` each, of the buffer's n actions."""
        raise NotImplementedError

    def _loss(self, samples: EpisodeSamples) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Return the loss of a minibatch, and metrics for the log; a name without "/" goes under "train/"."""
        raise NotImplementedError


def check_clip_range(clip_range: float | None) -> float | None:
    """Return a clip range that is above 0 or None; raise ValueError for another."""
    if clip_range is not None and not clip_range > 0:
        raise ValueError(f"clip_range={clip_range}: expected a number above 0, or None for no clipping")
    return clip_range


def clipped(ratio: torch.Tensor, advantages: torch.Tensor, clip_range: float | None) -> torch.Tensor:
    """Return PPO's pessimistic surrogate, to be maximised: `min(ratio A, clip(ratio) A)`; without a range `ratio A`."""
    if clip_range is None:
        return ratio * advantages
    return torch.minimum(ratio * advantages, ratio.clamp(1 - clip_range, 1 + clip_range) * advantages)


def clip_metrics(log_ratio: torch.Tensor, clip_range: float | None) -> dict[str, torch.Tensor]:
    """Return the approximate KL to the policy of the rollout, and the share of ratios outside the clip range."""
    ratio = ratio_of(log_ratio)
    metrics = {"approx_kl": (ratio - 1 - log_ratio).mean()}
    if clip_range is not None:
        metrics["clip_fraction"] = ((ratio - 1).abs() > clip_range).float().mean()
    return metrics


def spread(per_episode: np.ndarray, buffer: EpisodeRolloutBuffer) -> np.ndarray:
    """Give each action the value of its episode: from `(episodes,)` to `(n, 1)`."""
    return np.asarray(per_episode[buffer.segments[:, 0]])[:, None]
