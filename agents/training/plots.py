"""The curves of a run as a picture."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from ..evaluation.statistics import Estimate

__all__ = ["plot_curves", "read_progress"]

Curves = dict[str, tuple[np.ndarray, np.ndarray]]
STEP = "time/total_timesteps"
PANELS = {  # tag: title; judges come after the reward
    "rlhf/reward": "reward an episode",
    "rlhf/kl": "KL to the reference, nats an episode",
    "rlhf/entropy": "entropy, nats a token",
    "rlhf/length": "length, tokens",
    "rlhf/distinct_bigrams": "distinct bigrams, share",
}
TRAINING, HELD_OUT, TARGET = "#2463a6", "#c4501b", "#767676"


def read_progress(path: str | Path) -> Curves:
    """The figures of an SB3 `progress.csv`: tag to tokens (n,) and values (n,), rows without the figure left out.

    Raises:
        FileNotFoundError: there is no such file.
    """
    with Path(path).open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    curves: dict[str, list[tuple[float, float]]] = {}
    for row in rows:
        if not row.get(STEP):
            continue
        for tag, text in row.items():
            if text and tag != STEP and (value := _number(text)) is not None:
                curves.setdefault(tag, []).append((float(row[STEP]), value))
    return {tag: (np.array(points)[:, 0], np.array(points)[:, 1]) for tag, points in curves.items()}


def plot_curves(
    curves: Curves,
    path: str | Path,
    title: str = "",
    judges: tuple[str, ...] = (),
    kl_target: float | None = None,
    held_out: Mapping[float, Mapping[str, Estimate]] | None = None,
) -> Path:
    """Draw reward, judges, KL with its target, entropy, length and diversity against tokens.

    Args:
        curves: from `read_progress`.
        path: the picture to write; its extension says the format.
        title: above all panels.
        judges: names of judges, each a panel.
        kl_target: drawn into the panel of the KL.
        held_out: the estimates on held-out prompts by tokens trained (0 for before), drawn with their 95% intervals.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    first, *others = PANELS.items()
    names = dict([first, *((f"rlhf/{judge}", f"{judge} score") for judge in judges), *others])
    tags = [tag for tag in names if tag in curves] or ["rlhf/reward"]
    columns = min(3, len(tags))
    rows = -(-len(tags) // columns)
    figure = Figure(figsize=(4.2 * columns, 2.9 * rows + 0.4), layout="constrained")
    FigureCanvasAgg(figure)
    axes: Any = figure.subplots(rows, columns, squeeze=False, sharex=True)
    for axis, tag in zip(axes.flat, tags, strict=False):
        _panel(axis, names[tag], curves.get(tag), _points(tag, held_out or {}))
        if tag == "rlhf/kl" and kl_target is not None:
            axis.axhline(kl_target, color=TARGET, linestyle="--", linewidth=1.2, label=f"target {kl_target:g}")
    for axis in list(axes.flat)[len(tags) :]:
        axis.remove()
    for axis in list(axes.flat)[max(0, len(tags) - columns) : len(tags)]:
        axis.set_xlabel("tokens")
        axis.tick_params(labelbottom=True)
    entries = {
        label: line for axis in figure.axes for line, label in zip(*axis.get_legend_handles_labels(), strict=True)
    }
    figure.legend(entries.values(), entries.keys(), loc="outside upper right", ncols=3, frameon=False, fontsize=9)
    figure.suptitle(title, x=0.01, ha="left", fontsize=11, fontweight="bold")
    figure.savefig(path, dpi=110)
    return Path(path)


def _panel(
    axis: Axes,
    title: str,
    curve: tuple[np.ndarray, np.ndarray] | None,
    points: list[tuple[float, Estimate]],
) -> None:
    axis.set_title(title, fontsize=10, loc="left")
    axis.grid(alpha=0.25, linewidth=0.6)
    axis.spines[["top", "right"]].set_visible(False)
    axis.xaxis.set_major_formatter(lambda x, _: f"{x / 1000:g}k" if x >= 1000 else f"{x:g}")
    if curve is not None:
        axis.plot(*curve, color=TRAINING, linewidth=1.6, label="training rollouts")
    if points:
        x = [step for step, _ in points]
        means = np.array([estimate.mean for _, estimate in points])
        low, high = ([getattr(estimate, name) for _, estimate in points] for name in ("low", "high"))
        errors = np.maximum([means - low, high - means], 0.0)
        axis.errorbar(
            x, means, yerr=errors, fmt="o", color=HELD_OUT, capsize=3, markersize=5, label="held-out prompts, 95%"
        )


def _points(tag: str, held_out: Mapping[float, Mapping[str, Estimate]]) -> list[tuple[float, Estimate]]:
    name = tag.removeprefix("rlhf/")
    if name == "distinct_bigrams":  # depends on how many texts are counted, which differs from a rollout's
        return []
    return [(step, estimates[name]) for step, estimates in held_out.items() if name in estimates]


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None
