"""What every agent of this package adds to its SB3 class: the text metrics under one set of tags."""

from __future__ import annotations

from stable_baselines3.common.callbacks import BaseCallback, CallbackList, ConvertCallback
from stable_baselines3.common.type_aliases import MaybeCallback

from ..callbacks import TextMetrics

__all__ = ["TextAgent"]


class TextAgent:
    """Mixin, to the left of an SB3 algorithm: `learn` logs `TextMetrics` beside SB3's own figures."""

    def _init_callback(self, callback: MaybeCallback, progress_bar: bool = False) -> BaseCallback:
        given = callback if isinstance(callback, list) else [callback]
        if not any(_contains(one, TextMetrics) for one in given):
            functions = [one if isinstance(one, BaseCallback) else ConvertCallback(one) for one in given if one]
            callback = [TextMetrics(), *functions]
        return super()._init_callback(callback, progress_bar)  # type: ignore[misc]


def _contains(callback: object, kind: type[BaseCallback]) -> bool:
    if isinstance(callback, CallbackList):
        return any(_contains(child, kind) for child in callback.callbacks)
    return isinstance(callback, kind)
