"""What every agent of this package adds to its SB3 class: the text metrics under one set of tags."""

from __future__ import annotations

from typing import Any

from stable_baselines3.common.callbacks import BaseCallback, CallbackList
from stable_baselines3.common.type_aliases import MaybeCallback

from ..callbacks import TextMetrics

__all__ = ["TextAgent"]


class TextAgent:
    """Mixin, to the left of an SB3 algorithm: `learn` logs `TextMetrics` beside SB3's own figures."""

    def _init_callback(self, callback: MaybeCallback, progress_bar: bool = False) -> BaseCallback:
        chosen: Any = super()._init_callback(callback, progress_bar)  # type: ignore[misc]
        if _contains(chosen, TextMetrics):
            return chosen
        both = CallbackList([TextMetrics(), chosen])
        both.init_callback(self)  # type: ignore[arg-type]
        return both


def _contains(callback: BaseCallback, kind: type[BaseCallback]) -> bool:
    if isinstance(callback, CallbackList):
        return any(_contains(child, kind) for child in callback.callbacks)
    return isinstance(callback, kind)
