"""What every agent of this package adds to its SB3 class: text metrics under one set of tags, and two checks."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any, ClassVar

from stable_baselines3.common.callbacks import BaseCallback, CallbackList, ConvertCallback
from stable_baselines3.common.type_aliases import MaybeCallback

from ...core.text_metrics import TextMetrics

__all__ = ["NO_CRITIC", "NO_KL", "TextAgent", "beside"]

NO_CRITIC = {"vf_coef": 0.0, "value": "shared"}
NO_KL = {"kl_coef": 0.0, "kl_target": None}


class TextAgent:
    """Mixin, to the left of an SB3 algorithm: `learn` logs `TextMetrics` beside SB3's own figures.

    An argument that the algorithm makes no use of is refused, and `learn` warns where it made no update.

    Attributes:
        kl_argument: the argument that weighs the KL to the reference; None where nothing does.
        unused: arguments, of the algorithm or of its policy or buffer, that change nothing, and the value that says so.
            Another value is an error.
        trains: whether `learn` is meant to change anything.
    """

    kl_argument: ClassVar[str | None] = "kl_coef"
    unused: ClassVar[dict[str, Any]] = {}
    trains: ClassVar[bool] = True

    def _setup_model(self) -> None:
        self.refuse_unused(vars(self) | vars(self)["policy_kwargs"] | (vars(self).get("rollout_buffer_kwargs") or {}))
        super()._setup_model()  # type: ignore[misc]

    @classmethod
    def refuse_unused(cls, arguments: Mapping[str, Any]) -> None:
        """Refuse arguments in `unused`.

        Raises:
            ValueError: one of them says something.
        """
        for name, value in cls.unused.items():
            if name in arguments and arguments[name] != value:
                leash = f" (its leash is {cls.kl_argument})" if name in NO_KL and cls.kl_argument else ""
                raise ValueError(f"{name}={arguments[name]!r}: {cls.__name__} makes no use of it{leash}; leave it out")

    def _init_callback(self, callback: MaybeCallback, progress_bar: bool = False) -> BaseCallback:
        callback = beside(beside(callback, TextMetrics), _Updates)
        return super()._init_callback(callback, progress_bar)  # type: ignore[misc]


class _Updates(BaseCallback):
    """A warning at the end of a training that was too short for an update."""

    def _on_training_start(self) -> None:
        self.before = self.model.num_timesteps, self.model._n_updates

    def _on_step(self) -> bool:
        return True

    def _on_training_end(self) -> None:
        model = self.model
        tokens, updates = self.before
        went_through = model.num_timesteps >= model._total_timesteps and model.num_timesteps > tokens
        if getattr(model, "trains", True) and went_through and model._n_updates == updates:
            warnings.warn(
                f"{type(model).__name__} has learned nothing in {model.num_timesteps} tokens: no episode, or group of "
                "episodes, had ended, or learning_starts was not reached; give learn more",
                stacklevel=2,
            )


def beside(callback: MaybeCallback, kind: type[BaseCallback], **arguments: Any) -> MaybeCallback:
    """The callbacks that were given, and before them one of a kind, unless there is one among them."""
    given = callback if isinstance(callback, list) else [callback]
    if any(_contains(one, kind) for one in given):
        return callback
    return [
        kind(**arguments),
        *(one if isinstance(one, BaseCallback) else ConvertCallback(one) for one in given if one),
    ]


def _contains(callback: object, kind: type[BaseCallback]) -> bool:
    if isinstance(callback, CallbackList):
        return any(_contains(child, kind) for child in callback.callbacks)
    return isinstance(callback, kind)
