"""Hold what every agent of this package adds to its SB3 class: defaults for text, text metrics, and two checks."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from contextlib import nullcontext
from typing import Any, ClassVar, Self

from stable_baselines3.common.callbacks import BaseCallback, CallbackList, ConvertCallback
from stable_baselines3.common.type_aliases import MaybeCallback, Schedule

from ...core import ranks
from ...core.policy import TokenPolicy
from ...core.rollout_buffer import SequenceRolloutBuffer
from ...core.supervised import open_data
from ...core.text_metrics import TextMetrics
from ...core.together import Together
from ...core.trainer_state import TellTrainerState

__all__ = ["NO_CRITIC", "NO_DATA", "NO_KL", "ON_POLICY", "TextAgent", "with_callback"]

ON_POLICY: dict[str, Any] = {  # the defaults that actor-critic algorithms share
    "policy": TokenPolicy,
    "learning_rate": 1e-4,
    "n_steps": 32,
    "gamma": 1.0,
    "gae_lambda": 0.95,
    "rollout_buffer_class": SequenceRolloutBuffer,
}
NO_CRITIC = {"vf_coef": 0.0, "value": "shared"}
NO_KL = {"kl_coef": 0.0, "kl_target": None}
NO_DATA = {"sft_coef": None, "sft_data": None}


class TextAgent:
    """Give an SB3 algorithm defaults for text and `TextMetrics`. A mixin, to the left of the SB3 class.

    An argument that would change nothing is refused, and `learn` warns if it made no update.

    Attributes:
        defaults: the values of arguments of the SB3 class where none are given, with `policy` and the buffer's class.
        kl_argument: the argument that weighs the KL to the reference; None if no argument does.
        unused: arguments of the algorithm, its policy or its buffer that would change nothing, each with the one value
            that is accepted.
        trains: whether `learn` is meant to change the policy.
        data_parallel: whether the ranks of a data-parallel run can share its updates: their losses are means.
        has_rollouts: whether it learns from rollouts, which workers can collect, and not from rows of data.
        collector: what collects the rollouts in the place of this process, such as the workers of `agents.scale`; None
            collects them here. A saved agent does not keep it.
    """

    defaults: ClassVar[Mapping[str, Any]] = {}
    kl_argument: ClassVar[str | None] = "kl_coef"
    unused: ClassVar[dict[str, Any]] = {}
    trains: ClassVar[bool] = True
    data_parallel: ClassVar[bool] = False
    has_rollouts: ClassVar[bool] = True
    collector: Any = None

    def __init__(
        self, policy: Any = None, env: Any = None, learning_rate: float | Schedule | None = None, **kwargs: Any
    ) -> None:
        given = {"policy": policy, "learning_rate": learning_rate}
        given = {name: value for name, value in given.items() if value is not None}
        super().__init__(env=env, **{**self.defaults, **given, **kwargs})  # type: ignore[call-arg]

    def _setup_model(self) -> None:
        self.refuse_unused(vars(self) | vars(self)["policy_kwargs"] | (vars(self).get("rollout_buffer_kwargs") or {}))
        super()._setup_model()  # type: ignore[misc]
        env, device = vars(self).get("env"), vars(self).get("device")
        if env is not None and env.has_attr("set_reward_device"):
            env.env_method("set_reward_device", device)

    @classmethod
    def refuse_unused(cls, arguments: Mapping[str, Any]) -> None:
        """Raise ValueError if an argument in `unused` has another value than the accepted one."""
        for name, accepted in cls.unused.items():
            if (given := arguments.get(name, accepted)) != accepted:
                owner = cls.kl_argument if name in NO_KL else None
                instead = f" (its KL penalty is weighed by {owner})" if owner else ""
                raise ValueError(f"{name}={given!r}: {cls.__name__} makes no use of it{instead}; leave it out")

    def _excluded_save_params(self) -> list[str]:
        return [*super()._excluded_save_params(), "collector", "collect_rollouts"]  # type: ignore[misc]

    def set_collector(self, collector: Any) -> None:
        """Let `collector.collect(agent, callback)` collect the rollouts from now on; None lets the SB3 class again."""
        self.collector = collector
        vars(self).pop("collect_rollouts", None)
        if collector is not None:
            self.collect_rollouts = lambda env, callback, *_args, **_kwargs: collector.collect(self, callback)

    def learn(
        self,
        total_timesteps: int,
        callback: MaybeCallback = None,
        log_interval: int = 1,
        tb_log_name: str | None = None,
        reset_num_timesteps: bool = True,
        progress_bar: bool = False,
        **kwargs: Any,
    ) -> Self:
        """Train, and return the agent.

        Args:
            total_timesteps: tokens to train for; the rollout in which they are reached is finished.
            log_interval: rollouts between two logs. SB3's defaults of up to 100 are meant for rollouts of a few steps.
            tb_log_name: the run's name for TensorBoard; by default the class's.
            reset_num_timesteps: count tokens from 0 and restart the environments, instead of going on.
            **kwargs: other arguments of the SB3 class, such as `use_masking` of `MaskablePPO`.
        """
        name = type(self).__name__ if tb_log_name is None else tb_log_name
        sharded = getattr(vars(self).get("policy"), "shards", None) is not None  # passes are collectives then
        with ranks.answering(certain=False) if sharded else nullcontext():
            agent: Self = super().learn(  # type: ignore[misc]
                total_timesteps, callback, log_interval, name, reset_num_timesteps, progress_bar=progress_bar, **kwargs
            )
        return agent

    def _init_callback(self, callback: MaybeCallback, progress_bar: bool = False) -> BaseCallback:
        open_data(self)
        for kind in (TellTrainerState, TextMetrics, _WarnWithoutUpdate, _KeepLastObservation):
            callback = with_callback(callback, kind)
        if ranks.size() > 1:
            if not self.data_parallel:
                raise ValueError(
                    f"{type(self).__name__} trains in one process: take ppo, maskable_ppo, ppo_lagrangian, nlpo, a2c, "
                    "reinforce, awr, rloo, grpo, online_dpo, sft, dpo or kto on several ranks"
                )
            callback = Together(as_callbacks(callback))
        return super()._init_callback(callback, progress_bar)  # type: ignore[misc]


class _WarnWithoutUpdate(BaseCallback):
    """Warn at the end of a training that was too short for a single update."""

    def _on_training_start(self) -> None:
        self.before = self.model.num_timesteps, self.model._n_updates

    def _on_step(self) -> bool:
        return True

    def _on_training_end(self) -> None:
        model, (tokens, updates) = self.model, self.before
        finished = model.num_timesteps >= model._total_timesteps and model.num_timesteps > tokens
        if getattr(model, "trains", True) and finished and model._n_updates == updates:
            warnings.warn(
                f"{type(model).__name__} has learned nothing in {model.num_timesteps} tokens: no episode, or group of "
                "episodes, had ended, or learning_starts was not reached; give learn more",
                stacklevel=2,
            )


class _KeepLastObservation(BaseCallback):
    """Let training go on from the last step, also where a callback ended it in the middle of a rollout.

    SB3's on-policy algorithms then keep the observation before that step, which belongs to another episode if one has
    ended in it. Episodes of that rollout that have no score yet never get one, and leave SB3's statistics.
    """

    def _on_step(self) -> bool:
        return True

    def _on_training_end(self) -> None:
        if hasattr(self.model, "rollout_buffer") and "new_obs" in self.locals:
            self.model._last_obs, self.model._last_episode_starts = self.locals["new_obs"], self.locals["dones"]
            episodes: Any = self.model.ep_info_buffer
            scored = [episode for episode in episodes if not math.isnan(episode["r"])]
            episodes.clear()
            episodes.extend(scored)


def with_callback(callback: MaybeCallback, kind: type[BaseCallback], **arguments: Any) -> MaybeCallback:
    """Return the given callbacks with one of `kind` before them, unless there is one among them already."""
    given = callback if isinstance(callback, list) else [callback]
    if any(_contains(one, kind) for one in given):
        return callback
    return [kind(**arguments), *as_callbacks(callback)]


def as_callbacks(callback: MaybeCallback) -> list[BaseCallback]:
    """Return the given callbacks as a list, with functions as SB3 wraps them."""
    given = callback if isinstance(callback, list) else [callback]
    return [one if isinstance(one, BaseCallback) else ConvertCallback(one) for one in given if one]


def _contains(callback: object, kind: type[BaseCallback]) -> bool:
    if isinstance(callback, CallbackList):
        return any(_contains(child, kind) for child in callback.callbacks)
    return isinstance(callback, kind)
