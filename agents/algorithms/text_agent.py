"""What every agent of this package adds to its SB3 class: the text metrics under one set of tags."""

from __future__ import annotations

from typing import Any

from stable_baselines3.common.callbacks import BaseCallback, CallbackList, ConvertCallback
from stable_baselines3.common.type_aliases import MaybeCallback

from ..callbacks import TextMetrics

__all__ = ["TextAgent", "beside"]


class TextAgent:
    """Mixin, to the left of an SB3 algorithm: `learn` logs `TextMetrics` beside SB3's own figures."""

    def _init_callback(self, callback: MaybeCallback, progress_bar: bool = False) -> BaseCallback:
        return super()._init_callback(beside(callback, TextMetrics), progress_bar)  # type: ignore[misc]


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
