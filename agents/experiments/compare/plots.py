"""The plots of a comparison."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import SymmetricalLogLocator

__all__ = ["draw_plots", "to_png", "to_svg"]

# Okabe and Ito's colours, told apart by the colour-blind too; beyond them dashes tell apart.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#7A5C00")
DASHES = ("-", "--", ":", "-.")
MARKERS = "osD^vP*X"
FAR = 10  # times the median KL


def draw_plots(report: Mapping[str, Any]) -> dict[str, Figure]:
    """The figures of a report, by name: final scores, sample efficiency, and reward against KL where there is KL."""
    rows = [row for row in report["arms"] if row["figures"]]
    if not rows:
        return {}
    styles = _styles(rows)
    plots = {
        "final": _final(report, rows, styles),
        "efficiency": _efficiency(report, rows, styles),
    }
    if any("kl" in row["figures"] for row in rows):
        plots["frontier"] = _frontier(report, rows, styles)
    return plots


def _styles(rows: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """A colour a label, and of a label's several coefficients another dash each."""
    labels = sorted({row["label"] for row in rows})
    styles = {}
    for row in rows:
        place = labels.index(row["label"])
        coefficients = sorted({r["kl_coef"] for r in rows if r["label"] == row["label"] and r["kl_coef"] is not None})
        turn = place // len(COLOURS)
        dash = coefficients.index(row["kl_coef"]) if row["kl_coef"] is not None else turn
        styles[row["name"]] = {
            "color": COLOURS[place % len(COLOURS)],
            "linestyle": DASHES[dash % len(DASHES)],
            "marker": MARKERS[turn % len(MARKERS)],
        }
    return styles


def _open(width: float, height: float, title: str) -> tuple[Figure, Any]:
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    axis = figure.subplots()
    axis.set_title(title, fontsize=11, loc="left", fontweight="bold")
    axis.spines[["top", "right"]].set_visible(False)
    axis.grid(alpha=0.25, linewidth=0.6)
    return figure, axis


def _errors(figure: Mapping[str, Any]) -> list[list[float]] | None:
    if figure["low"] is None:
        return None
    return [[max(figure["value"] - figure["low"], 0.0)], [max(figure["high"] - figure["value"], 0.0)]]


def _over(report: Mapping[str, Any]) -> str:
    return "interquartile mean, 95% interval" if report["seeds"] > 1 else "one run each, no interval"


def _final(report: Mapping[str, Any], rows: Sequence[Mapping[str, Any]], styles: Mapping[str, Any]) -> Figure:
    """The metric at the end, the best on top: every run a dot, the interquartile mean with its interval a bar."""
    metric = report["metric"]
    figure, axis = _open(7.2, 1.3 + 0.36 * len(rows), f"{metric} after {report['tokens']:,} tokens")
    for place, row in enumerate(reversed(rows)):
        colour, value = styles[row["name"]]["color"], row["figures"][metric]
        scores = list(row["per_seed"].values())
        axis.plot(scores, [place] * len(scores), "o", color=colour, markersize=4, alpha=0.35, markeredgewidth=0)
        axis.errorbar(
            [value["value"]], [place], xerr=_errors(value), fmt="|", color=colour, markersize=15, markeredgewidth=2.4,
            elinewidth=2.4, capsize=3,
        )  # fmt: skip
    axis.set_yticks(range(len(rows)), [row["name"] for row in reversed(rows)])
    axis.set_ylim(-0.6, len(rows) - 0.4)
    axis.set_xlabel(f"{metric}; {_over(report)}; dots are runs", fontsize=9)
    return figure


def _efficiency(report: Mapping[str, Any], rows: Sequence[Mapping[str, Any]], styles: Mapping[str, Any]) -> Figure:
    """The metric against the tokens trained for."""
    figure, axis = _open(8.4, 4.4, f"{report['metric']} along the training, on the same held-out prompts")
    for row in rows:
        style, curve = styles[row["name"]], row["curve"]
        tokens, values = ([point[name] for point in curve] for name in ("tokens", "value"))
        axis.plot(tokens, values, label=row["name"], markersize=3.5, linewidth=1.7, **style)
        if all(point["low"] is not None for point in curve):
            low, high = ([point[bound] for point in curve] for bound in ("low", "high"))
            axis.fill_between(tokens, low, high, color=style["color"], alpha=0.13, linewidth=0)
    text = f"threshold {report['threshold']:.3g}"
    axis.axhline(report["threshold"], color="#767676", linestyle="--", linewidth=1, label=text)
    axis.xaxis.set_major_formatter(lambda x, _: f"{x / 1000:g}k" if x >= 1000 else f"{x:g}")
    axis.set_xlabel(f"tokens; {_over(report)}", fontsize=9)
    axis.set_ylabel(report["metric"])
    figure.legend(loc="outside right upper", frameon=False, fontsize=9)
    return figure


def _frontier(report: Mapping[str, Any], rows: Sequence[Mapping[str, Any]], styles: Mapping[str, Any]) -> Figure:
    """The metric against the KL at the end; the coefficients of an algorithm are joined."""
    metric = report["metric"]
    figure, axis = _open(7.8, 4.6, f"{metric} against KL to the reference, at the end")
    rows = [row for row in rows if "kl" in row["figures"]]
    for label in dict.fromkeys(row["label"] for row in rows):
        mine = sorted((row for row in rows if row["label"] == label), key=lambda row: row["kl_coef"] or 0.0)
        style = styles[mine[0]["name"]]
        points = [(row["figures"]["kl"], row["figures"][metric]) for row in mine]
        axis.plot(
            [kl["value"] for kl, _ in points], [value["value"] for _, value in points],
            color=style["color"], marker=style["marker"], linewidth=1.3, markersize=6, label=label,
        )  # fmt: skip
        for row, (kl, value) in zip(mine, points, strict=True):
            axis.errorbar(
                [kl["value"]], [value["value"]], xerr=_errors(kl), yerr=_errors(value), fmt="none",
                color=style["color"], elinewidth=1, alpha=0.6,
            )  # fmt: skip
            if row["kl_coef"] is not None:
                place = (kl["value"], value["value"])
                text = f"{row['kl_coef']:g}"
                axis.annotate(
                    text, place, textcoords="offset points", xytext=(5, -11), fontsize=8, color=style["color"]
                )
    reached = [abs(row["figures"]["kl"]["value"]) for row in rows]
    scale = ""
    if max(reached) > FAR * np.median(reached):  # one that is far off would push the others into a corner
        axis.set_xscale("symlog", linthresh=1.0)
        axis.xaxis.set_major_locator(SymmetricalLogLocator(base=10, linthresh=1.0, subs=(1, 2, 5)))
        axis.xaxis.set_major_formatter("{x:g}")
        scale = ", logarithmic from 1 on"
    axis.set_xlabel(f"KL to the reference, nats an episode{scale}; {_over(report)}", fontsize=9)
    axis.set_ylabel(metric)
    figure.legend(loc="outside right upper", frameon=False, fontsize=9)
    return figure


def to_png(figure: Figure) -> bytes:
    """The figure as a picture."""
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=110)
    return file.getvalue()


def to_svg(figure: Figure) -> str:
    """The figure as an SVG element, for a page."""
    file = io.BytesIO()
    figure.savefig(file, format="svg", metadata={"Date": None})
    text = file.getvalue().decode("utf-8")
    return text[text.index("<svg") :]
