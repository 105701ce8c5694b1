"""Write the tables and draw the picture of `benchmarks.overoptimisation`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from agents.training.early_stopping import stopping_point

KINDS = ("single", "pessimistic")
FITTED = {"single": "one reward model", "pessimistic": "the ensemble's mean"}
INTRODUCTION = """# Over-optimisation

This page shows reward hacking, and two ways to limit it. It plots the proxy and the gold score against the KL to the
starting model, as Gao et al. 2022 (https://arxiv.org/abs/2210.10760) do. `python -m benchmarks.overoptimisation --docs
docs/guides` writes it; the docstring there says what differs from the paper.

Two proxies are fitted to the same comparisons: one reward model, and the pessimistic mean of an ensemble
(`rlhf_envs.rewards.Pessimistic`). PPO without a KL penalty and best-of-n optimise each. Gold is a judge that neither
meets. A star marks the agent that `agents.EarlyStopping` keeps.

`rlhf train --alarm warn` (`agents.HackingAlarm`) says when proxy and gold part: since gold was highest, the proxy has
gained on it by a paired test and the KL has risen. How often it rings in time, and how often falsely, stands in
[the results](https://github.com/rlhf-envs/rlhf-envs/blob/main/benchmarks/RESULTS.md#a-hacking-alarm).

![Proxy and gold against the square root of the KL](overoptimisation.png)
"""


def table(results: Sequence[dict[str, Any]], method: str, step: str, rows: Sequence[int]) -> list[str]:
    """Return a table of KL, proxy and gold by tokens or n: means over the seeds with standard errors."""
    names = [f"{figure}, {kind}" for kind in KINDS for figure in ("KL", "proxy", "gold")]
    lines = [f"| {step} | " + " | ".join(names) + " |", "|---:" * (1 + len(names)) + "|"]
    for row in rows:
        cells = []
        for kind in KINDS:
            for figure in ("kl", "proxy", "gold"):
                values = np.array([result[method][kind][row][figure] for result in results])
                error = values.std(ddof=1) / len(values) ** 0.5 if len(values) > 1 else float("nan")
                exact = method == "best-of-n" and figure == "kl"
                cells.append(f"{values.mean():.2f}" + ("" if exact else f" ± {error:.2f}"))
        lines.append(f"| {results[0][method]['single'][row][step]:,.0f} | " + " | ".join(cells) + " |")
    return lines


def stopped(results: Sequence[dict[str, Any]], patience: int) -> list[str]:
    """Return a table of where early stopping on validation gold would have stopped PPO, and of test gold there."""
    lines = ["| seed | proxy | stops after | keeps | KL there | gold there | gold at the end | highest gold |"]
    lines.append("|---:|---|---:|---:|---:|---:|---:|---:|")
    for seed, result in enumerate(results):
        for kind in KINDS:
            points = result["ppo"][kind]
            best, end = stopping_point([point["validation_gold"] for point in points], patience)
            golds, kept = [point["gold"] for point in points], points[best]
            after = "does not" if end is None else f"{points[end]['tokens']:,.0f}"
            figures = f"{kept['kl']:.1f} | {kept['gold']:.2f} | {golds[-1]:.2f} | {max(golds):.2f}"
            lines.append(f"| {seed} | {kind} | {after} | {kept['tokens']:,.0f} | {figures} |")
    return lines


def draw(results: Sequence[dict[str, Any]], patience: int, path: Path) -> None:
    """Draw proxy and gold against the square root of the KL, for PPO and best-of-n: every seed, and their mean."""
    from matplotlib.figure import Figure

    colours = dict(zip(KINDS, ("#c4501b", "#2463a6"), strict=True))
    labels = {"single": "one reward model", "pessimistic": "pessimistic ensemble"}
    figure = Figure(figsize=(9, 6), layout="constrained")
    axes = figure.subplots(2, 2, sharex="col", sharey="row")
    for column, (method, title) in enumerate((("ppo", "PPO without a KL penalty"), ("best-of-n", "best of n"))):
        for row, (name, unit) in enumerate((("proxy", "proxy, SDs of human text"), ("gold", "gold, from 0 to 1"))):
            axis = axes[row, column]
            for kind in KINDS:
                series = [
                    np.array([(max(p["kl"], 0) ** 0.5, p[name]) for p in result[method][kind]]) for result in results
                ]
                for points in series:
                    axis.plot(*points.T, color=colours[kind], alpha=0.25, linewidth=0.8)
                axis.plot(*np.mean(series, axis=0).T, color=colours[kind], linewidth=2, label=labels[kind])
                if (method, name) == ("ppo", "gold"):
                    kept = [
                        points[stopping_point([p["validation_gold"] for p in result["ppo"][kind]], patience)[0]]
                        for points, result in zip(series, results, strict=True)
                    ]
                    axis.scatter(*np.array(kept).T, color=colours[kind], marker="*", s=90, zorder=3, linewidths=0)
            axis.grid(alpha=0.25)
            axis.spines[["top", "right"]].set_visible(False)
            if row == 0:
                axis.set_title(title)
            else:
                axis.set_xlabel("square root of the KL to the starting model, nats")
            if column == 0:
                axis.set_ylabel(unit)
    axes[0, 0].legend(frameon=False)
    axes[1, 0].annotate("★ what early stopping keeps", (0.02, 0.03), xycoords="axes fraction", fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)


def report(results: Sequence[dict[str, Any]], settings: dict[str, Any]) -> list[str]:
    """Return the tables in Markdown, with their settings."""
    accuracy = {kind: np.mean([result["accuracy"][kind] for result in results]) for kind in KINDS}
    fitted = " and ".join(f"{accuracy[kind]:.1%} ({judge})" for kind, judge in FITTED.items())
    with_what = ", ".join(f"{name} {value:g}" for name, value in settings.items())
    return [
        f"{len(results)} seeds, means and their standard errors. The proxies order {fitted} of held-out comparisons as",
        f"people do. Settings: {with_what}.",
        "\n## PPO without a KL penalty\n",
        *table(results, "ppo", "tokens", range(len(results[0]["ppo"]["single"]))),
        "\n## Best of n\n",
        *table(results, "best-of-n", "n", range(len(results[0]["best-of-n"]["single"]))),
        "\n## Where early stopping stops PPO\n",
        f"By gold of validation prompts, with a patience of {settings['patience']}; the numbers are of test prompts.\n",
        *stopped(results, settings["patience"]),
    ]
