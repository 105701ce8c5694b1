"""Read what agents were measured to learn on the tasks, by `python -m benchmarks.tasks ENV --write`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

__all__ = ["MIN_SEMS", "RESULTS", "describe_result", "gain_of", "read_results", "results_table"]

RESULTS = Path(__file__).parent / "results.json"
MIN_SEMS = 3  # standard errors that a gain has to reach
# By language: the table's heading, and how a result was made.
WORDS = {
    "en": (
        "| environment | metric, which is not the reward | start | trained | gain ± standard error | how |",
        "{algo}, {model}, {n_timesteps:,} tokens, {seeds} seeds",
    ),
    "zh": (
        "| 环境 | 指标（不是奖励） | 起点 | 训练后 | 提升 ± 标准误 | 方法 |",
        "{algo}，{model}，{n_timesteps:,} 个 token，{seeds} 个种子",
    ),
}


def read_results() -> dict[str, dict[str, Any]]:
    """Return the measured results by environment id: metric, start, before, after, gain, its standard error, seeds."""
    return dict(json.loads(RESULTS.read_text(encoding="utf-8")))


def gain_of(found: dict[str, Any]) -> str:
    """Return a result's gain with its standard error, such as "+0.119 ± 0.009"; one seed has no error."""
    return f"{found['gain']:+.3f}" + ("" if found["sem"] is None else f" ± {found['sem']:.3f}")


def describe_result(env_id: str) -> str:
    """Return the metric before and after, such as "brier 0.210 -> 0.120, -0.090 ± 0.004"; "" if not measured."""
    found = read_results().get(env_id)
    if found is None:
        return ""
    return f"{found['metric']} {found['before']:.3f} -> {found['after']:.3f}, {gain_of(found)}"


def results_table(language: Literal["en", "zh"] = "en") -> str:
    """Return a Markdown table of all results: id, metric, before and after training, the gain, algorithm and model.

    A gain of `MIN_SEMS` standard errors or more is in bold.
    """
    heading, how_it_was_run = WORDS[language]
    lines = [heading, "|---|---|---|---|---|---|"]
    for env_id, found in sorted(read_results().items()):
        how = how_it_was_run.format(**found)
        start = f"{found['before']:.3f}{' (SFT)' if found['start'] == 'sft' else ''}"
        shown = found["sem"] is not None and found["gain"] >= MIN_SEMS * found["sem"]
        gain = f"**{gain_of(found)}**" if shown else gain_of(found)
        lines.append(f"| `{env_id}` | {found['metric']} | {start} | {found['after']:.3f} | {gain} | {how} |")
    return "\n".join(lines)
