"""Define what a forecast of labels says. `rlhf_envs.preferences.forecasting` makes it, the admin's page shows it."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

__all__ = ["Forecast", "Forecaster", "LabelForecast"]


class Forecast(NamedTuple):
    """Hold what a learning curve says of a target.

    Attributes:
        sizes: the numbers of pairs that were fitted.
        accuracy: the mean held-out accuracy at each of them.
        interval: its 95% interval, at each of them.
        needed: pairs for the target, or None if it cannot be told.
        needed_interval: the 95% interval of `needed`; its end may be infinite.
        ceiling: the accuracy `a` that the fitted curve approaches, or None.
        why_not: why `needed` is None, in words. "" if it is not.
    """

    sizes: list[int]
    accuracy: list[float]
    interval: list[tuple[float, float]]
    needed: float | None
    needed_interval: tuple[float, float] | None
    ceiling: float | None
    why_not: str


class LabelForecast(NamedTuple):
    """Hold how many more labels a target takes.

    Attributes:
        target: the held-out accuracy of the reward model.
        curve: what the learning curve says of it.
        labels: labels that are still to be given. 0 if the target is reached, None if it cannot be told.
        labels_interval: the 95% interval of `labels`, at least 0; its end may be infinite. None where nothing is
            extrapolated.
    """

    target: float
    curve: Forecast
    labels: float | None
    labels_interval: tuple[float, float] | None


# Takes items, judgements and the target, and `on_fit`, which is called with the number of each fit and of all.
Forecaster = Callable[..., LabelForecast]
