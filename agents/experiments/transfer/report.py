"""Write the report of a transfer experiment as Markdown, as one page of HTML, and as rows for other programs."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from ...evaluation.statistics import Estimate
from ..pages import PLOTS, opening, plain, reproduce, table, write_page
from .analysis import TransferReport
from .cells import Cell
from .plan import START
from .plots import row_title

__all__ = ["forgetting_rows", "headline", "matrix_table", "to_csv", "to_markdown", "write_report"]

CHAUDHRY = "[Chaudhry et al., 2018](https://arxiv.org/abs/1801.10112)"
KEYS = ("row", "trained_on", "seed", "environment", "metric", "start", "change", "kl", "prompts")


def write_report(folder: Path, report: TransferReport, plots: Mapping[str, Figure]) -> None:
    """Write `report.md` with its picture in `plots/` (PNG, SVG, PDF), and `report.html`."""
    write_page(folder, to_markdown(report, has_plot="matrix" in plots), plots)


def headline(report: TransferReport) -> str:
    """Return the experiment in a sentence."""
    seeds = "one seed" if report.seeds == 1 else f"up to {report.seeds} seeds"
    if len({sum(cell is not None for cell in own.values()) for own in report.cells.values()}) == 1 and report.seeds > 1:
        seeds = f"{report.seeds} seeds"
    how = "one after another" if report.sequence else "one agent each"
    start = Path(report.start)
    from_where = "a fresh model" if start.name == START and start.parent.is_absolute() else start.name
    return f"{len(report.columns)} environments, {how}, {report.algo}, {seeds}, from {from_where}"


def to_markdown(report: TransferReport, has_plot: bool = True) -> str:
    """Return the report as Markdown. What models and errors say is escaped."""
    names = " → ".join(report.homes[row] for row in report.rows) if report.sequence else ", ".join(report.rows)
    parts = opening(f"Transfer: {names}", headline(report), report.notes, report.failed)
    if report.unfinished:
        parts += ["## Runs that are not finished", plain(", ".join(report.unfinished))]
    if any(report.cells.values()):
        parts += _matrix(report, has_plot)
    if report.forgetting:
        parts += _forgetting(report)
    if report.samples:
        rows = [[s["environment"], s["row"], f"{s['reward']:.2f}", _text(s["prompt"]), _text(s["completion"])]
                for s in report.samples]  # fmt: skip
        parts += ["## What they write", table(["environment", "agent", "reward", "prompt", "completion"], rows)]
    return "\n\n".join([*parts, *reproduce(report.made, "rlhf transfer", ["start", report.start])]) + "\n"


def _text(said: object) -> str:
    return said.strip() if isinstance(said, str) else str(said)


def _matrix(report: TransferReport, has_plot: bool) -> list[str]:
    over = "seeds (Student's t)" if report.seeds > 1 else "prompts (bootstrap)"
    trained = "after so many steps of the sequence" if report.sequence else "trained on the row's environment"
    prompts = "; ".join(f"{name}: {counted}" for name, counted in report.prompts.items())
    picture = [f"![change on each environment, by what was trained on]({PLOTS}/matrix.png)"] if has_plot else []
    return [
        "## The matrix",
        *picture,
        table(*matrix_table(report)),
        plain(
            f"Change of the column's metric from the start, for the agent {trained}: the same prompts and random "
            f"numbers, paired by prompt, with the 95% interval over {over}. ▲ and ▼: the interval excludes 0. The "
            "start is shown with its bootstrap interval over prompts. On an environment all decode as the agents that "
            f"train there. {prompts}."
        ),
        *_reading(report),
    ]


def matrix_table(report: TransferReport) -> tuple[list[str], list[list[str]]]:
    """Return the headings and a row for the start and each agent."""
    head = ["trained on", "tokens", *(f"{column.name}: {column.metric}" for column in report.columns)]
    start = [str(report.before[c.name]) if c.name in report.before else "–" for c in report.columns]
    rows = [
        [row_title(report, row), f"{report.tokens[row]:,}", *(_cell(own.get(c.name)) for c in report.columns)]
        for row, own in report.cells.items()
    ]
    return head, [["start, as it is", "0", *start], *rows]


def _cell(cell: Cell | None) -> str:
    return "–" if cell is None else change_text(cell.change) + {1: " ▲", -1: " ▼", 0: ""}[cell.sign]


def change_text(change: Estimate) -> str:
    """Return a change with its sign and its interval."""
    mean, low, high = (f"{round(value, 3) + 0.0:+.3f}" for value in (change.mean, change.low, change.high))
    return mean if math.isnan(change.low) else f"{mean} [{low}, {high}]"


def _reading(report: TransferReport) -> list[str]:
    """Return which environments an agent changed that it was not trained on, in so many words."""
    if report.sequence:
        return []
    found: dict[int, list[str]] = {1: [], -1: [], 0: []}
    for row, own in report.cells.items():
        for name, cell in own.items():
            if report.homes[row] != name:
                found[cell.sign].append(f"{row} on {name}")
    n = sum(map(len, found.values()))
    if not n:
        return []
    up, down, neither = found[1], found[-1], found[0]
    lines = [f"Of {n} transfers {len(up)} raised the metric, {len(down)} lowered it, and {len(neither)} show neither."]
    lines += [f"{verb}: {', '.join(names)}." for verb, names in (("Raised", up), ("Lowered", down)) if names]
    return [plain(" ".join(lines))]


def _forgetting(report: TransferReport) -> list[str]:
    over = "seeds (Student's t)" if report.seeds > 1 else "prompts (bootstrap, which leans up, as a maximum does)"
    return [
        "## Forgetting",
        table(["environment", "forgotten"], forgetting_rows(report)),
        f"The best value on an environment after a step before the last one, less the value at the end ({CHAUDHRY}), "
        f"in units of its metric, with the 95% interval over {over}. Below 0: the later environments helped."
        + ("" if report.mean_forgetting else " There is no mean, because the environments have different metrics."),
    ]


def forgetting_rows(report: TransferReport) -> list[list[str]]:
    """Return a row per environment but the last, and the mean if they have one metric."""
    rows = [[name, change_text(estimate)] for name, estimate in report.forgetting.items()]
    return rows + ([["mean", change_text(report.mean_forgetting)]] if report.mean_forgetting else [])


def to_csv(report: TransferReport) -> str:
    """Return one row per agent, seed and environment: `KEYS`."""
    file = io.StringIO()
    writer = csv.DictWriter(file, KEYS, lineterminator="\n")
    writer.writeheader()
    for row, own in report.cells.items():
        for column in report.columns:
            if (cell := own.get(column.name)) is None:
                continue
            shared: dict[str, Any] = {
                "row": row,
                "trained_on": report.homes[row],
                "environment": column.name,
                "metric": column.metric,
            }
            shared |= {"start": report.before[column.name].mean, "kl": cell.kl, "prompts": cell.prompts}
            writer.writerows({**shared, "seed": seed, "change": change} for seed, change in cell.per_seed.items())
    return file.getvalue()
