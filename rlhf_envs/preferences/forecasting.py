"""Forecast how many labelled pairs a reward model needs for an accuracy, from fits to parts of the given pairs.

Source: Figueroa, Zeng-Treitler, Kandula and Ngo, 2012, Predicting sample size required for classification performance
(https://doi.org/10.1186/1472-6947-12-8): an inverse power law, accuracy(n) = a - b n^-c, fitted to a learning curve.
Our own: the interval comes from resampling the held-out pairs and the repeats, and an answer is refused where the curve
does not rise, or where too many resamples never reach the target.
"""

from __future__ import annotations

import math
import random
import warnings
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from rlhf_envs.feedback.forecasts import Forecast, LabelForecast

from .bradley_terry import Pair, fit_bradley_terry, pair_differences
from .splitting import split_rows
from .training import load_backbone

if TYPE_CHECKING:
    from rlhf_envs.feedback.records import Item, Judgement

__all__ = ["CurvePoint", "Forecast", "LabelForecast", "forecast", "forecast_labels", "learning_curve"]

SHARES = (1 / 8, 1 / 4, 1 / 2, 1.0)
FEWEST = 80  # pairs to fit, and a fifth of that held out: below them a curve says nothing
_FARTHEST = 100.0  # times the pairs that there are: nothing is forecast beyond


class CurvePoint(NamedTuple):
    """Hold one fit: to how many pairs, which repeat, and which held-out pairs came out right (0.5: no difference)."""

    n: int
    repeat: int
    right: NDArray[np.float64]  # (held_out,)


def learning_curve(
    pairs: Sequence[Pair],
    model: str = "tiny",
    *,
    repeats: int = 5,
    share: float = 0.2,
    seed: int = 0,
    on_fit: Callable[[int, int], None] | None = None,
    **options: Any,
) -> list[CurvePoint]:
    """Fit reward models to an eighth, a quarter, a half and all of the pairs, `repeats` times each, and measure them.

    Args:
        pairs: as in `fit_bradley_terry`. Pairs with a probability of 0.5 are fitted, but not measured on.
        model: the backbone, see `load_backbone`.
        repeats: fits per size, each to another random part of the pairs.
        share: the share of the pairs that is held out from all fits, with prompts and texts kept apart.
        seed: chooses the held-out pairs and the parts.
        on_fit: called before each fit with its number, from 1, and how many there are.
        **options: of `fit_bradley_terry`. By default the head alone is trained.

    Raises:
        ValueError: there are fewer than 80 pairs to fit, or fewer than 16 to measure on.
    """
    split = split_rows(list(pairs), share, seed)
    held_out = [pair for pair in split.held_out if pair.get("probability", 1.0) != 0.5]
    fitted = split.fitted
    if len(fitted) < FEWEST or len(held_out) < FEWEST // 5:
        raise ValueError(
            f"{len(pairs)} pairs ({len(fitted)} to fit, {len(held_out)} held out) are too few for a forecast: label at "
            f"least {FEWEST * 5 // 4 + 1}"
        )
    sizes = [round(len(fitted) * part) for part in SHARES]
    points: list[CurvePoint] = []
    for size in sizes:
        for repeat in range(repeats):
            if on_fit is not None:
                on_fit(len(points) + 1, len(sizes) * repeats)
            part = random.Random(f"{seed} {repeat}").sample(list(fitted), len(fitted))[:size]
            network, tokenizer = load_backbone(model, repeat)
            fit_bradley_terry(network, tokenizer, part, held_out, **{"train": "head", "seed": repeat, **options})
            ahead = pair_differences(network, tokenizer, held_out)
            points.append(CurvePoint(size, repeat, np.where(ahead == 0, 0.5, (ahead > 0).astype(float))))
    return points


def forecast(points: Sequence[CurvePoint], target: float, *, n_resamples: int = 200, seed: int = 0) -> Forecast:
    """Return how many pairs the target needs, by an inverse power law through the learning curve, with its interval.

    Held-out pairs and repeats are resampled together, and the curve is fitted anew each time. No answer is given where
    the accuracy at all pairs is not surely above that at an eighth, or where more than a fifth of the resamples never
    reach the target within 100 times the pairs that there are. Where more than 2.5% do not, the interval has no upper
    end.

    Args:
        points: from `learning_curve`.
        target: an accuracy, above 0.5 and below 1.
        n_resamples: how often the curve is resampled.
        seed: seeds the resampling.

    Raises:
        ValueError: the target is not between 0.5 and 1.
    """
    _check_target(target)
    sizes = sorted({point.n for point in points})
    right = np.array([[p.right for p in points if p.n == size] for size in sizes])  # (sizes, repeats, held_out)
    accuracy = right.mean(axis=(1, 2))
    generator = np.random.default_rng(seed)
    n_repeats, n_pairs = right.shape[1:]
    drawn = np.empty((n_resamples, len(sizes)))
    for row in drawn:
        repeats, pairs = generator.integers(n_repeats, size=n_repeats), generator.integers(n_pairs, size=n_pairs)
        row[:] = right[:, repeats][:, :, pairs].mean(axis=(1, 2))
    low, high = np.percentile(drawn, [2.5, 97.5], axis=0)
    shown = (sizes, accuracy.tolist(), list(zip(low.tolist(), high.tolist(), strict=True)))
    if accuracy[-1] >= target:
        return Forecast(*shown, float(sizes[-1]), None, None, "")
    if np.percentile(drawn[:, -1] - drawn[:, 0], 2.5) <= 0:
        return Forecast(*shown, None, None, None, "the accuracy does not surely rise with the number of pairs yet")
    curves = [_fit_curve(sizes, row) for row in (accuracy, *drawn)]
    reached = np.array([_reach(curve, target, sizes[-1]) for curve in curves])
    lost = np.isinf(reached[1:]).mean()
    if np.isinf(reached[0]) or lost > 0.2:
        reason = (
            f"{100 * lost:.0f}% of the resampled curves never reach {target:g}: it may be out of this model's reach"
        )
        return Forecast(*shown, None, None, float(curves[0][0]), reason)
    ends = np.quantile(reached[1:], [0.025, 0.975], method="higher")
    return Forecast(*shown, float(reached[0]), (float(ends[0]), float(ends[1])), float(curves[0][0]), "")


def forecast_labels(
    items: Sequence[Item],
    judgements: Sequence[Judgement],
    target: float,
    model: str = "tiny",
    **options: Any,
) -> LabelForecast:
    """Return how many more labels a reward model needs for a held-out accuracy, of comparisons and rankings.

    Args:
        items: of a feedback store.
        judgements: their answers. Several answers to a pair count by the majority.
        target: an accuracy, above 0.5 and below 1.
        model: the backbone, see `load_backbone`.
        **options: of `learning_curve`.

    Raises:
        ValueError: the target is not between 0.5 and 1, or the pairs are too few.
    """
    from .crowd import COMPARES, aggregate_pairs

    _check_target(target)
    compared = [judgement for judgement in judgements if judgement.kind in COMPARES and judgement.value is not None]
    curve = learning_curve(aggregate_pairs(items, compared, "majority"), model, **options)
    found = forecast(curve, target)
    if found.needed is None:
        return LabelForecast(target, found, None, None)
    # Of all pairs a part is held out, and a pair may have several labels.
    of_pairs = lambda n: (n - found.sizes[-1]) * len(compared) / found.sizes[-1]  # noqa: E731
    if found.needed_interval is None:
        return LabelForecast(target, found, 0.0, None)
    low, high = (max(0.0, of_pairs(end)) for end in found.needed_interval)
    return LabelForecast(target, found, of_pairs(found.needed), (low, high))


def _check_target(target: float) -> None:
    if not 0.5 < target < 1:
        raise ValueError(f"target must be an accuracy above 0.5 and below 1, got {target!r}")


def _fit_curve(sizes: Sequence[int], accuracy: NDArray[np.float64]) -> tuple[float, float, float]:
    """Return (a, b, c) of a - b (n / largest n)^-c, by least squares."""
    from scipy.optimize import curve_fit

    x = np.array(sizes) / max(sizes)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # on the covariance, which is not used
        (a, b, c), _ = curve_fit(
            lambda n, a, b, c: a - b * n**-c,
            x,
            accuracy,
            p0=(min(0.99, accuracy[-1] + 0.05), 0.05, 0.5),
            bounds=((0.5, 0.0, 0.1), (1.0, 1.0, 1.5)),
            max_nfev=2000,
        )
    return float(a), float(b), float(c)


def _reach(curve: tuple[float, float, float], target: float, largest: int) -> float:
    """Return the number of pairs at which a curve reaches the target; infinite beyond 100 times the largest size."""
    a, b, c = curve
    if a <= target:
        return math.inf
    times = (b / (a - target)) ** (1 / c)
    return largest * max(times, 1.0) if times <= _FARTHEST else math.inf
