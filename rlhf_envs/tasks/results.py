"""Read what agents were measured to learn on the tasks, by `python -m benchmarks.tasks ENV --write`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

__all__ = ["MIN_SEMS", "RESULTS", "describe_result", "gain_of", "improved", "read_results", "results_table"]

RESULTS = Path(__file__).parent / "results.json"
MIN_SEMS = 3  # standard errors that a gain has to reach
# By language: the table's heading, how a result was made, and which value of a metric is best.
WORDS = {
    "en": (
        "| environment | metric, which is not the reward | start | trained | gain ± standard error | how |",
        "{algo}, {model}, {n_timesteps:,} tokens, {seeds} seeds",
        " ({best} is best)",
    ),
    "zh": (
        "| 环境 | 指标（不是奖励） | 起点 | 训练后 | 提升 ± 标准误 | 方法 |",
        "{algo}，{model}，{n_timesteps:,} 个 token，{seeds} 个种子",
        "（{best} 为最佳）",
    ),
}


def read_results() -> dict[str, dict[str, Any]]:
    """Return the measured results by environment id: metric, start, before, after, gain, its standard error, seeds.

    `best` is the best value of a metric whose highest one is not, as 0 for a bias score. `kept` has before, after, gain
    and standard error of the metrics that training must not lower. `flags` are those that `rlhf train` needs for the
    gain beside `--algo` and `--model`.
    """
    return dict(json.loads(RESULTS.read_text(encoding="utf-8")))


def gain_of(found: dict[str, Any]) -> str:
    """Return a result's gain with its standard error, such as "+0.119 ± 0.009"; one seed has no error."""
    return f"{found['gain']:+.3f}" + ("" if found["sem"] is None else f" ± {found['sem']:.3f}")


def improved(found: dict[str, Any]) -> bool:
    """Return whether a result came nearer to its best value by `MIN_SEMS` standard errors or more over the seeds."""
    if found["sem"] is None:
        return False
    best = found.get("best")
    came_nearer = found["gain"] if best is None else abs(found["before"] - best) - abs(found["after"] - best)
    return bool(came_nearer >= MIN_SEMS * found["sem"])


def describe_result(env_id: str) -> str:
    """Return the metric before and after, such as "brier 0.210 -> 0.120, -0.090 ± 0.004"; "" if not measured."""
    found = read_results().get(env_id)
    if found is None:
        return ""
    best = WORDS["en"][2].format(best=found["best"]) if "best" in found else ""
    told = [(f"{found['metric']}{best}", found), *found.get("kept", {}).items()]
    return "; ".join(f"{name} {one['before']:.3f} -> {one['after']:.3f}, {gain_of(one)}" for name, one in told)


def results_table(language: Literal["en", "zh"] = "en") -> str:
    """Return a Markdown table of all results: id, metric, before and after training, the gain, algorithm and model.

    A gain of `MIN_SEMS` standard errors or more is in bold. Metrics that training must not lower follow it.
    """
    heading, how_it_was_run, which_is_best = WORDS[language]
    lines = [heading, "|---|---|---|---|---|---|"]
    for env_id, found in sorted(read_results().items()):
        metric = found["metric"] + (which_is_best.format(**found) if "best" in found else "")
        start = f"{found['before']:.3f}{' (SFT)' if found['start'] == 'sft' else ''}"
        gain = f"**{gain_of(found)}**" if improved(found) else gain_of(found)
        kept = [f"{name} {gain_of(one)}" for name, one in found.get("kept", {}).items()]
        cells = (f"`{env_id}`", metric, start, f"{found['after']:.3f}", "; ".join([gain, *kept]))
        lines.append("| " + " | ".join([*cells, how_it_was_run.format(**found)]) + " |")
    return "\n".join(lines)
