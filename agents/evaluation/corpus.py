"""Compute metrics of all episodes together, such as macro-F1 or BLEU, and their bootstrap intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from rlhf_envs.datasets.messages import said, shown
from rlhf_envs.tasks import Task

from ..core.text_metrics import check_metric_names
from .generate import Completion
from .statistics import Estimate

__all__ = ["corpus_estimate", "corpus_metrics"]

N_RESAMPLES = 200  # each computes the metrics anew


def corpus_metrics(task: Task, completions: Sequence[Completion], seed: int = 0) -> dict[str, np.ndarray]:
    """Return the task's `corpus_metrics` of n episodes and of bootstrap samples of these, (1 + 200,) each.

    Two calls with the same n and seed draw the same samples, so that their differences are paired. Metrics of a
    mixture's tasks are named "task/metric" and computed over the episodes of that task.

    Raises:
        ValueError: a metric has a taken name.
    """
    if not any(one.has_corpus_metrics for one in (task, *task.subtasks.values())):
        return {}
    draws = np.random.default_rng(seed).integers(len(completions), size=(N_RESAMPLES, len(completions)))
    samples = [np.arange(len(completions)), *draws]
    if not task.subtasks:
        found = _measure(task, completions, samples)
    else:
        of = np.array([done.row["task"] for done in completions])
        found = {
            f"{name}/{key}": values
            for name, one in task.subtasks.items()
            for key, values in _measure(one, completions, [sample[of[sample] == name] for sample in samples]).items()
        }
    check_metric_names(found)
    if twice := sorted(found.keys() & {name for done in completions for name in done.metrics}):
        raise ValueError(f"Task.metrics and Task.corpus_metrics both give {twice[0]!r}: rename one")
    return found


def _measure(task: Task, completions: Sequence[Completion], samples: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
    """Return the metrics of every sample of the completions, by name; NaN where a sample has none of that name."""
    if not len(samples[0]) or not task.has_corpus_metrics:
        return {}
    prompts, texts = [shown(done.asked) for done in completions], [said(done.answered) for done in completions]
    names = sorted({name for i in samples[0] for name in completions[i].row} - {"prompt"})
    columns: dict[str, list[Any]] = {name: [done.row.get(name) for done in completions] for name in names}
    columns["log_probs"] = [float(done.log_probs.sum(dtype=float)) for done in completions]
    measured: list[Mapping[str, float]] = []
    for sample in samples:
        own = {name: [values[i] for i in sample] for name, values in columns.items()}
        metrics = (
            task.corpus_metrics([prompts[i] for i in sample], [texts[i] for i in sample], own) if len(sample) else {}
        )
        measured.append(metrics)
    return {name: np.array([metrics.get(name, np.nan) for metrics in measured], dtype=float) for name in measured[0]}


def corpus_estimate(values: np.ndarray, n: int) -> Estimate:
    """Return the estimate of a metric from its (1 + r,) values: of all n episodes, then of r bootstrap samples."""
    drawn = values[1:][~np.isnan(values[1:])]
    if len(drawn) < 2:
        return Estimate(float(values[0]), np.nan, np.nan, np.nan, n)
    low, high = np.percentile(drawn, [2.5, 97.5])
    return Estimate(float(values[0]), float(drawn.std(ddof=1)), float(low), float(high), n)
