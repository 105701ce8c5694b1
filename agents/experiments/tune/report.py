"""Write what a search leaves behind: the table of trials, the best settings in a YAML file, and the report."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

from rlhf_envs.files import replace_file
from rlhf_envs.rendering import markdown_table

from ...training.hyperparams import write_section
from .search import TuneResult
from .study import KL, VALUES, cause_of
from .workers import SURPLUS, counted

__all__ = ["metrics", "summary", "write"]


def write(result: TuneResult) -> Path:
    """Write trials.csv, report.md and the section of the YAML file. Return the path of the YAML file."""
    config = result.config
    folder = config.folder()
    folder.mkdir(parents=True, exist_ok=True)
    rows = trials(result)
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    replace_file(folder / "trials.csv", text.getvalue().encode("utf-8"))
    replace_file(folder / "report.md", report(result, rows).encode("utf-8"))
    file = config.settings_file()
    file.parent.mkdir(parents=True, exist_ok=True)
    write_section(file, config.algo, result.settings, summary(result))
    return file


def trials(result: TuneResult) -> list[dict[str, Any]]:
    """Return a row per trial, also for failed and pruned trials, not for those that other processes made needless."""
    return [
        {
            "trial": trial.number,
            "state": trial.state.name.lower(),
            result.config.metric: trial.value,
            "kl": trial.user_attrs.get(KL),
            "seconds": None if trial.duration is None else round(trial.duration.total_seconds(), 1),
            **{name: trial.params.get(name) for name in result.space},
            "figures": " ".join(f"{value:.6g}" for value in trial.user_attrs.get(VALUES, [])),
            "error": cause_of(trial),
        }
        for trial in result.study.trials
        if SURPLUS not in trial.user_attrs
    ]


def summary(result: TuneResult) -> str:
    """Return a line with the metric in the search and with new seeds."""
    config = result.config
    best, n_trials = result.best, len(counted(result.study))
    text = f"rlhf tune, trial {best.number} of {n_trials}: {config.metric} {best.value:.4f}"
    if result.confirmed is None:
        return f"{text}; not confirmed with new seeds"
    return f"{text}; {config.confirm_seeds} new seeds: {result.confirmed.estimate('validation')}"


def metrics(result: TuneResult) -> list[tuple[str, str, str]]:
    """Return the metrics of the best and of the default settings: name, best, default."""
    config = result.config
    rows = [(f"{config.metric}, the search's own seeds (validation)", f"{result.best.value:.3f}", "")]
    if result.confirmed is None or result.defaults is None:
        return rows
    for split in ("validation", "test"):
        best, default = (str(found.estimate(split)) for found in (result.confirmed, result.defaults))
        prompts = result.confirmed.prompts[split]
        on = split if prompts == "held-out prompts" else f"{split}: {prompts}"
        rows.append((f"{config.metric}, {config.confirm_seeds} new seeds ({on})", best, default))
    best, default = (f"{sum(found.kl) / len(found.kl):.2f}" for found in (result.confirmed, result.defaults))
    return [*rows, ("KL per episode, new seeds (test)", best, default)]


def report(result: TuneResult, rows: list[dict[str, Any]]) -> str:
    """Return the report as Markdown."""
    config = result.config
    states = [row["state"] for row in rows]
    counts = ", ".join(f"{states.count(state)} {state}" for state in sorted(set(states)))
    limit = f", KL at most {config.kl_limit} nats per episode" if config.kl_limit else ""
    parts = [
        f"# Settings of {config.algo} on {config.env}",
        f"{len(rows)} trials of {config.tokens} tokens ({counts}), sampler {config.sampler}, pruner {config.pruner}, "
        f"{config.seeds_per_trial} seeds per trial{limit}.",
        "The best of many trials looks better than it is: compare the metrics of new seeds. Trial 0 has the default "
        "settings, moved into the ranges where they lie outside.",
        markdown_table(["", "best", "default"], metrics(result)),
        "## Ranges",
        "\n".join(f"- `{name}`: {found}" for name, found in result.space.items()),
        "## Trials",
        markdown_table(list(rows[0]), [[_cell(value) for value in row.values()] for row in rows]),
    ]
    return "\n\n".join(parts) + "\n"


def _cell(value: Any) -> str:
    text = "" if value is None else f"{value:.5g}" if isinstance(value, float) else str(value)
    return " ".join(text.replace("|", "\\|").split())
