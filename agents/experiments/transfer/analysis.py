"""Compute what training on one environment did to the others, from the evaluations of a transfer experiment."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ...evaluation.prompt_counts import count_prompts
from ...evaluation.statistics import Estimate
from ...training.report import REPORT
from .cells import Cell, estimate, over_prompts, resample
from .config import TransferConfig
from .notes import write_notes
from .plan import Column, Plan, Run

__all__ = ["TransferReport", "analyse"]


@dataclass(frozen=True)
class TransferReport:
    """Hold the report of a transfer experiment.

    Attributes:
        algo, start: of all runs.
        sequence: whether the agents were trained one after another: then row i is the agent after i environments.
        columns: the environments; `rows` are the names of the agents' rows.
        homes: the environment that a row was trained on, last.
        tokens: what a row was trained for, the most over seeds; in a sequence at that step.
        seeds: the most seeds of a row.
        before: the start's metric on each environment, with its bootstrap interval over prompts.
        cells: by row and environment; without those whose runs have no result.
        forgetting: of a sequence and each environment but the last: the best value after a step before the last one,
            less the value at the end (Chaudhry et al., 2018, https://arxiv.org/abs/1801.10112). Its interval is as in
            `Cell.change`. Negative: the later environments helped.
        mean_forgetting: their mean, per seed, if all environments have one metric.
        prompts: what was completed on each environment.
        failed, unfinished: the errors of failed runs by the names of the runs, and the names of the runs still to do.
        made: versions, commit, machine and command of the report, see `agents.saving.provenance`.
    """

    algo: str
    start: str
    sequence: bool
    columns: list[Column]
    rows: list[str]
    homes: dict[str, str]
    tokens: dict[str, int]
    seeds: int
    before: dict[str, Estimate]
    cells: dict[str, dict[str, Cell]]
    forgetting: dict[str, Estimate]
    mean_forgetting: Estimate | None
    prompts: dict[str, str]
    notes: list[str]
    failed: dict[str, str]
    unfinished: list[str]
    samples: list[dict[str, Any]]
    config: dict[str, Any]
    made: dict[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Return the content of `report.json`."""
        return vars(self) | {
            "columns": [
                {"name": c.name, "env": c.id, "kwargs": c.kwargs, "metric": c.metric, "decoding": c.decoding}
                for c in self.columns
            ],
            "before": {name: estimate.over_runs() for name, estimate in self.before.items()},
            "cells": {row: {name: cell.to_json() for name, cell in own.items()} for row, own in self.cells.items()},
            "forgetting": {name: estimate.over_runs() for name, estimate in self.forgetting.items()},
            "mean_forgetting": None if self.mean_forgetting is None else self.mean_forgetting.over_runs(),
            "failed": [{"run": run, "error": error} for run, error in self.failed.items()],
        }


def analyse(config: TransferConfig, found: Plan) -> TransferReport:
    """Return the report of what has been evaluated by now. Raise ValueError if an evaluation lacks its metric."""
    first = {column.name: found.first.read(column.name) for column in found.columns}
    records = {run.name: {c.name: run.read(c.name) for c in found.columns} for run in found.runs}
    starts = {c.name: resample(first[c.name] or {}, c.metric) for c in found.columns if first[c.name] is not None}
    ends = {  # of each run on each environment, (1 + r,)
        run.name: {c.name: resample(r, c.metric) for c in found.columns if (r := records[run.name][c.name]) is not None}
        for run in found.runs
    }
    cells = {
        row: {
            c.name: cell
            for c in found.columns
            if c.name in starts
            and (cell := _cell(c.name, [run for run in found.runs if run.row == row], starts, ends, records))
        }
        for row in found.rows
    }
    forgetting, mean = _forgetting(found, ends) if config.sequence else ({}, None)
    every = [found.first, *found.runs]
    failed = {run.name: str(_read(run.error).get("error")) for run in every if run.error.is_file()}
    done = {run.name: all(run.read(column.name) is not None for column in found.columns) for run in every}
    prompts = {
        name: count_prompts(record["episodes"], record["different_prompts"], record["described"])
        for name, record in first.items()
        if record is not None
    }
    seeds = [sum(run.row == row for run in found.runs) for row in found.rows]
    return TransferReport(
        algo=found.algo,
        start=found.start,
        sequence=config.sequence,
        columns=found.columns,
        rows=found.rows,
        homes={run.row: run.home for run in found.runs},
        tokens={row: max(_tokens(run) for run in found.runs if run.row == row) for row in found.rows},
        seeds=max(seeds),
        before={name: over_prompts(values) for name, values in starts.items()},
        cells=cells,
        forgetting=forgetting,
        mean_forgetting=mean,
        prompts=prompts,
        notes=write_notes(config, found, first, records, cells, list(failed), done),
        failed=failed,
        unfinished=[name for name, finished in done.items() if not finished and name not in failed],
        samples=_samples(found, first, records),
        config=json.loads(config.model_dump_json()),
    )


def _cell(
    column: str,
    runs: Sequence[Run],
    starts: Mapping[str, np.ndarray],
    ends: Mapping[str, Mapping[str, np.ndarray]],
    records: Mapping[str, Mapping[str, Any]],
) -> Cell | None:
    """Return the cell of a row on an environment; None if no run of it has a value there."""
    done = [run for run in runs if column in ends[run.name] and np.isfinite(ends[run.name][column][0])]
    if not done or not np.isfinite(starts[column][0]):
        return None
    values = [ends[run.name][column] for run in done]
    changes = [value - starts[column] for value in values]
    own = [records[run.name][column] for run in done]
    nats = [np.nanmean(np.array(record["values"]["kl"], dtype=float)) for record in own if "kl" in record["values"]]
    return Cell(
        value=float(np.mean([value[0] for value in values])),
        change=estimate(changes),
        per_seed={run.seed: float(change[0]) for run, change in zip(done, changes, strict=True)},
        kl=float(np.mean(nats)) if nats else None,
        prompts=", ".join(dict.fromkeys(record["described"] for record in own)),
    )


def _forgetting(
    found: Plan, ends: Mapping[str, Mapping[str, np.ndarray]]
) -> tuple[dict[str, Estimate], Estimate | None]:
    """Return `TransferReport.forgetting` and `mean_forgetting`, from the seeds whose sequence is finished."""
    learned = [run.home for run in found.runs if run.seed == found.runs[0].seed]  # in their order
    lost: dict[str, list[np.ndarray]] = {name: [] for name in learned[:-1]}
    for seed in sorted({run.seed for run in found.runs}):
        steps = [ends[run.name] for run in found.runs if run.seed == seed]
        if all(name in step for step in steps for name in lost):
            for name, values in lost.items():
                values.append(np.max([step[name] for step in steps[:-1]], axis=0) - steps[-1][name])
    there = {name: values for name, values in lost.items() if values}
    metrics = {column.metric for column in found.columns if column.name in there}
    mean = None
    if len(metrics) == 1 and all(len(values[0]) == len(next(iter(there.values()))[0]) for values in there.values()):
        mean = estimate([np.mean(per_seed, axis=0) for per_seed in zip(*there.values(), strict=True)])
    return {name: estimate(values) for name, values in there.items()}, mean


def _samples(
    found: Plan, first: Mapping[str, Any], records: Mapping[str, Mapping[str, Any]], n: int = 2
) -> list[dict[str, Any]]:
    """Return completions of the same prompts: by the start, and by the first run of each row."""
    shown = []
    for column in found.columns:
        sources = {"start": first[column.name]}
        for run in found.runs:
            sources.setdefault(run.row, records[run.name][column.name])
        for row, record in sources.items():
            taken = record["samples"][:n] if record is not None else []
            shown += [{"environment": column.name, "row": row, **sample} for sample in taken]
    return shown


def _read(file: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return content


def _tokens(run: Run) -> int:
    """Return the tokens that a finished run has trained for; 0 of another."""
    file = Path(run.source) / REPORT
    return int(_read(file)["n_timesteps"]) if file.is_file() else 0
