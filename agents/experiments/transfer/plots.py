"""Draw the matrix of a transfer experiment as a heat map."""

from __future__ import annotations

import math
from typing import Any

from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from .analysis import TransferReport
from .cells import Cell

__all__ = ["column_scale", "draw_matrix", "label", "row_title"]

COLOURS = "PuOr"  # ColorBrewer's: orange and violet, which the colour-blind tell apart, with white between
DARK = 0.62  # colours beyond this share of the scale have white numbers


def draw_matrix(report: TransferReport) -> Figure:
    """Return the heat map: a row per agent, a column per environment, in each cell the change and its interval.

    Each column has a scale of its own, because the environments' metrics have other units: full colour is the interval
    bound that lies farthest from 0. A number is bold if its interval excludes 0. A frame marks the environment that the
    row was trained on.
    """
    n_columns, n_rows = len(report.columns), len(report.rows)
    size = (2.6 + 1.55 * n_columns, 1.9 + 0.75 * n_rows)
    figure = Figure(figsize=size, layout="constrained")
    axis: Any = figure.subplots()
    shades = [[_shade(report, row, column.name) for column in report.columns] for row in report.rows]
    picture = axis.imshow(shades, cmap=COLOURS, norm=Normalize(-1, 1), aspect="auto")
    for i, row in enumerate(report.rows):
        for j, column in enumerate(report.columns):
            cell = report.cells[row].get(column.name)
            if cell is None:
                axis.text(j, i, "no result", ha="center", va="center", fontsize=9, color="#555555")
            else:
                _write(axis, j, i, cell, shades[i][j])
            if report.homes.get(row) == column.name:
                frame = Rectangle((j - 0.47, i - 0.46), 0.94, 0.92, fill=False, edgecolor="black", linewidth=1.4)
                axis.add_patch(frame)
    axis.set_xticks(range(n_columns), [_heading(report, column.name, column.metric) for column in report.columns])
    axis.set_yticks(range(n_rows), [row_title(report, row) for row in report.rows])
    axis.xaxis.tick_top()
    axis.tick_params(length=0, labelsize=9)
    axis.set_xticks([j + 0.5 for j in range(n_columns - 1)], minor=True)
    axis.set_yticks([i + 0.5 for i in range(n_rows - 1)], minor=True)
    axis.grid(which="minor", color="white", linewidth=2)
    axis.tick_params(which="minor", length=0)
    axis.spines[:].set_visible(False)
    axis.set_title(_title(report), fontsize=11, loc="left", fontweight="bold", pad=12)
    caption = f"change from the start, 95% interval {label(report)}; bold: it excludes 0; a colour scale per column"
    axis.set_xlabel(caption, fontsize=8.5)
    axis.set_ylabel("trained on", fontsize=9)
    bar = figure.colorbar(picture, ax=axis, ticks=[-1, 0, 1], shrink=0.8, pad=0.02)
    bar.ax.set_yticklabels(["lower", "same", "higher"], fontsize=8.5)
    bar.outline.set_visible(False)
    return figure


def label(report: TransferReport) -> str:
    """Return what the intervals are over."""
    return "over seeds" if report.seeds > 1 else "over prompts"


def row_title(report: TransferReport, row: str) -> str:
    """Return what a row is called."""
    return f"{report.rows.index(row) + 1}. then {report.homes[row]}" if report.sequence else row


def column_scale(report: TransferReport, column: str) -> float:
    """Return the change that has full colour in a column: the interval bound that lies farthest from 0."""
    changes = [own[column].change for own in report.cells.values() if column in own]
    bounds = [abs(b) for c in changes for b in (c.mean, c.low, c.high) if not math.isnan(b)]
    return max(bounds, default=0.0)


def _shade(report: TransferReport, row: str, column: str) -> float:
    """Return the place of a cell on the colour scale, -1 to 1."""
    cell, scale = report.cells[row].get(column), column_scale(report, column)
    return 0.0 if cell is None or scale == 0 else cell.change.mean / scale


def _title(report: TransferReport) -> str:
    if report.sequence:
        return "Trained on one environment after another"
    return "Trained on the row's environment, measured on the column's"


def _heading(report: TransferReport, column: str, metric: str) -> str:
    start = report.before.get(column)
    return f"{column}\n{metric}" + ("" if start is None else f"\nstart {round(start.mean, 3) + 0.0:.3f}")


def _write(axis: Any, x: int, y: int, cell: Cell, shade: float) -> None:
    colour = "white" if abs(shade) > DARK else "black"
    weight = "bold" if cell.sign else "normal"
    mean, low, high = (round(value, 3) + 0.0 for value in cell.change[:1] + cell.change[2:4])  # + 0.0: no -0.000
    options = {"ha": "center", "color": colour}
    axis.text(x, y - 0.04, f"{mean:+.3f}", va="bottom", fontsize=11, fontweight=weight, **options)
    if not math.isnan(low):
        axis.text(x, y + 0.06, f"{low:+.3f} to {high:+.3f}", va="top", fontsize=7.5, **options)
