"""Write the notes of a transfer report: what a reader has to know before its numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ...evaluation.prompt_counts import FEW, describe_few
from .cells import Cell
from .config import TransferConfig
from .plan import Plan

__all__ = ["write_notes"]

HELD_OUT, TRAINING = "held-out prompts", "training prompts"


def write_notes(
    config: TransferConfig,
    found: Plan,
    first: Mapping[str, Any],
    records: Mapping[str, Mapping[str, Any]],
    cells: Mapping[str, Mapping[str, Cell]],
    failed: Sequence[str],
    done: Mapping[str, bool],
) -> list[str]:
    """Return what a reader has to know before the numbers."""
    notes, per_row = [], {row: sum(run.row == row for run in found.runs) for row in found.rows}
    if single := [row for row, n in per_row.items() if n == 1]:
        whose = "One seed" if len(single) == len(per_row) else f"One seed of {', '.join(single)}"
        notes.append(
            f"{whose}: the intervals are over prompts, and say nothing of how runs with other seeds would end."
        )
    elif min(per_row.values()) == 2:
        notes.append(
            "Two seeds: intervals are wide, since two runs say little of how runs differ. Take --seeds 3 or more."
        )
    if failed or not all(done.values()):
        missing = sum(not finished for name, finished in done.items() if name not in failed)
        notes.append(
            f"{len(failed)} of {len(done)} runs failed and {missing} are not finished: the cells are of the others."
        )
    if rewarded := [column.name for column in found.columns if column.metric == "reward"]:
        notes.append(
            f"On {', '.join(rewarded)} the metric is the reward, for which its own agents train: a judge or a metric "
            f"of the task tells more of what they learned (--metric {rewarded[0]}:NAME)."
        )
    for column in found.columns:
        if (record := first[column.name]) is None:
            continue
        if record["different_prompts"] < min(FEW, config.test_episodes) and record["described"] != TRAINING:
            text = describe_few(record["different_prompts"], repr(config.test_split))
            notes.append(f"{column.name}: {text}.")
        if any(run[column.name] and run[column.name]["prompts"] != record["prompts"] for run in records.values()):
            notes.append(f"The prompts of {column.name} differ between evaluations: its data has changed under them.")
    trained: dict[str, list[str]] = {}
    for row, own in cells.items():
        for name, cell in own.items():
            trained.setdefault(cell.prompts, []).append(f"{row} on {name}")
    for prompts, where in trained.items():
        if prompts != HELD_OUT:
            notes.append(f"Not on held-out prompts, but on {prompts}: {', '.join(where)}.")
    missing_cells = [f"{row} on {c.name}" for row in found.rows for c in found.columns if c.name not in cells[row]]
    if missing_cells and all(done.values()):
        notes.append(f"Without a value, because no completed prompt has one: {', '.join(missing_cells)}.")
    return notes
