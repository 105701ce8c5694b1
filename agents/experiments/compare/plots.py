"""Draw the plots of a comparison."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import SymmetricalLogLocator

from ...evaluation.statistics import Estimate
from ...registry import available
from .analysis import ArmReport, ComparisonReport

__all__ = ["draw_plots"]

# Okabe and Ito's colours, which the colour-blind tell apart too. With more arms, dashes tell them apart.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#7A5C00")
DASHES = ("-", "--", ":", "-.")
MARKERS = "osD^vP*X"
FAR = 10  # times the median KL
Styles = Mapping[str, Mapping[str, Any]]


def draw_plots(report: ComparisonReport) -> dict[str, Figure]:
    """Return the plots of a report by name: `final`, `efficiency` and, if there is a KL, `frontier`."""
    arms = [arm for arm in report.arms if arm.metrics]
    if not arms:
        return {}
    styles = _styles(arms)
    plots = {"final": _final(report, arms, styles), "efficiency": _efficiency(report, arms, styles)}
    if with_kl := [arm for arm in arms if "kl" in arm.metrics]:
        plots["frontier"] = _frontier(report, with_kl, styles)
    return plots


def _styles(arms: Sequence[ArmReport]) -> dict[str, dict[str, Any]]:
    """Return a style per arm: one colour per label, and another dash for each coefficient of a label."""
    places = _places({arm.label: arm.algo for arm in arms})
    styles = {}
    for arm in arms:
        place = places[arm.label]
        coefficients = sorted({a.kl_coef for a in arms if a.label == arm.label and a.kl_coef is not None})
        turn = place // len(COLOURS)
        dash = coefficients.index(arm.kl_coef) if arm.kl_coef is not None else turn
        styles[arm.name] = {
            "color": COLOURS[place % len(COLOURS)],
            "linestyle": DASHES[dash % len(DASHES)],
            "marker": MARKERS[turn % len(MARKERS)],
        }
    return styles


def _places(labels: Mapping[str, str]) -> dict[str, int]:
    """Return a place in `COLOURS` and `MARKERS` per label of an algorithm.

    An algorithm has the same colour in every report, unless another one in the report has it too.
    """
    home = {algo: place % len(COLOURS) for place, algo in enumerate(sorted(available()))}
    places: dict[str, int] = {}
    for label, algo in sorted(labels.items()):
        if home.get(algo) not in (None, *places.values()):
            places[label] = home[algo]
    free = (place for place in range(len(labels) + len(COLOURS)) if place not in places.values())
    return places | {label: next(free) for label in sorted(labels) if label not in places}


def _open(width: float, height: float, title: str) -> tuple[Figure, Any]:
    figure = Figure(figsize=(width, height), layout="constrained")
    axis = figure.subplots()
    axis.set_title(title, fontsize=11, loc="left", fontweight="bold")
    axis.spines[["top", "right"]].set_visible(False)
    axis.grid(alpha=0.25, linewidth=0.6)
    return figure, axis


def _bars(estimate: Estimate) -> list[list[float]] | None:
    """Return the lengths of the two error bars; None if there is no interval."""
    if np.isnan(estimate.low):
        return None
    return [[max(estimate.mean - estimate.low, 0.0)], [max(estimate.high - estimate.mean, 0.0)]]


def _over(report: ComparisonReport) -> str:
    return "interquartile mean, 95% interval" if report.seeds > 1 else "one run each, no interval"


def _final(report: ComparisonReport, arms: Sequence[ArmReport], styles: Styles) -> Figure:
    """Draw the metric at the end, the best arm on top: every run a ring, seed by seed, the interquartile mean a bar."""
    metric = report.metric
    figure, axis = _open(7.2, 1.3 + 0.36 * len(arms), f"{metric} after {report.tokens:,} tokens")
    for place, arm in enumerate(reversed(arms)):
        colour, mean = styles[arm.name]["color"], arm.metrics[metric]
        scores = list((arm.per_seed or {}).values())
        axis.errorbar(
            [mean.mean], [place], xerr=_bars(mean), fmt="|", color=colour, markersize=15, markeredgewidth=2.4,
            elinewidth=2.4, capsize=3, alpha=0.6,
        )  # fmt: skip
        heights = place + np.linspace(-0.2, 0.2, len(scores)) if len(scores) > 1 else [place]
        axis.plot(scores, heights, "o", color="white", markersize=5, markeredgecolor=colour, zorder=3)
    axis.set_yticks(range(len(arms)), [arm.title for arm in reversed(arms)])
    axis.set_ylim(-0.6, len(arms) - 0.4)
    axis.set_xlabel(f"{metric}; {_over(report)}; rings are runs", fontsize=9)
    return figure


def _efficiency(report: ComparisonReport, arms: Sequence[ArmReport], styles: Styles) -> Figure:
    """Draw the metric against the tokens trained for."""
    figure, axis = _open(8.4, 4.4, f"{report.metric} along the training, on the same {report.prompts}")
    for arm in arms:
        style = styles[arm.name]
        tokens = [point.tokens for point in arm.curve]
        values, low, high = ([getattr(point.metric, name) for point in arm.curve] for name in ("mean", "low", "high"))
        axis.plot(tokens, values, label=arm.title, markersize=3.5, linewidth=1.7, **style)
        if not np.isnan(low).any():
            axis.fill_between(tokens, low, high, color=style["color"], alpha=0.13, linewidth=0)
    text = f"threshold {report.threshold:.3g}"
    axis.axhline(report.threshold, color="#767676", linestyle="--", linewidth=1, label=text)
    axis.xaxis.set_major_formatter(lambda x, _: f"{x / 1000:g}k" if x >= 1000 else f"{x:g}")
    axis.set_xlabel(f"tokens; {_over(report)}", fontsize=9)
    axis.set_ylabel(report.metric)
    figure.legend(loc="outside right upper", frameon=False, fontsize=9)
    return figure


def _frontier(report: ComparisonReport, arms: Sequence[ArmReport], styles: Styles) -> Figure:
    """Draw the metric against the KL at the end. A line joins the coefficients of an algorithm."""
    metric = report.metric
    figure, axis = _open(7.8, 4.6, f"{metric} against KL to the reference, at the end")
    for label in dict.fromkeys(arm.label for arm in arms):
        mine = sorted((arm for arm in arms if arm.label == label), key=lambda arm: arm.kl_coef or 0.0)
        style = styles[mine[0].name]
        points = [(arm.metrics["kl"], arm.metrics[metric], _remark(arm)) for arm in mine]
        axis.plot(
            [kl.mean for kl, *_ in points], [mean.mean for _, mean, _ in points],
            color=style["color"], marker=style["marker"], linewidth=1.3, markersize=6, label=label,
        )  # fmt: skip
        for kl, mean, remark in points:
            axis.errorbar(
                [kl.mean], [mean.mean], xerr=_bars(kl), yerr=_bars(mean), fmt="none",
                color=style["color"], elinewidth=1, alpha=0.6,
            )  # fmt: skip
            if remark:
                options = {"textcoords": "offset points", "xytext": (5, -11), "fontsize": 8, "color": style["color"]}
                axis.annotate(remark, (kl.mean, mean.mean), **options)
    reached = [abs(arm.metrics["kl"].mean) for arm in arms]
    scale = ""
    if max(reached) > FAR * np.median(reached):  # an arm that is far off would push the others into a corner
        axis.set_xscale("symlog", linthresh=1.0)
        axis.xaxis.set_major_locator(SymmetricalLogLocator(base=10, linthresh=1.0, subs=(1, 2, 5)))
        axis.xaxis.set_major_formatter("{x:g}")
        scale = ", logarithmic from 1 on"
    axis.set_xlabel(f"KL to the reference, nats an episode{scale}; {_over(report)}", fontsize=9)
    axis.set_ylabel(metric)
    figure.legend(loc="outside right upper", frameon=False, fontsize=9)
    return figure


def _remark(arm: ArmReport) -> str:
    """Return what stands beside an arm's point: its KL coefficient, and whether it was pruned."""
    coefficient = [] if arm.kl_coef is None else [f"{arm.kl_coef:g}"]
    return ", ".join(coefficient + ["pruned"] * (arm.pruned is not None))
