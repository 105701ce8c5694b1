"""Write the report of a comparison as Markdown, and from it one page of HTML that needs no other file.

For a paper there are the plots as PDF and SVG, and the table of results in LaTeX, see `exports`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.figure import Figure

from rlhf_envs.rendering import as_markdown, markdown_table

from ...evaluation.prompt_counts import count_prompts
from ...evaluation.statistics import Estimate
from ..pages import PLOTS, cell, opening, plain, reproduce, table, write_page
from .analysis import ArmReport, ComparisonReport
from .pruning import RULE

__all__ = ["evaluations", "headline", "metrics_table", "summary_table", "to_markdown", "write_report"]

MAIN = ("reward", "kl")  # metrics of the first table, beside the compared one
CAPTIONS = {  # for those who do not see the plots, which have titles of their own
    "final": "at the end, by algorithm",
    "efficiency": "against tokens trained for",
    "frontier": "against KL to the reference",
}


def write_report(folder: Path, report: ComparisonReport, plots: Mapping[str, Figure]) -> str:
    """Write `report.md` with its pictures in `plots/` (PNG, SVG, PDF), and `report.html`. Return the Markdown."""
    markdown = to_markdown(report, tuple(plots))
    write_page(folder, markdown, plots)
    return markdown


def headline(report: ComparisonReport) -> str:
    """Return the comparison in a sentence."""
    labels = {arm.label for arm in report.arms}
    algorithms = "1 algorithm" if len(labels) == 1 else f"{len(labels)} algorithms"
    if len(report.arms) > len(labels):
        algorithms += f" in {len(report.arms)} settings"
    up_to = "up to " if any(arm.pruned for arm in report.arms) else ""
    seeds = "one seed" if report.seeds == 1 else f"{up_to}{report.seeds} seeds"
    least, most = report.trained if report.trained[1] else (report.tokens, report.tokens)
    return f"{algorithms}, {seeds}, {'up to ' * (least < most)}{most:,} tokens per run, on {report.env}"


def evaluations(report: ComparisonReport) -> str:
    """Return how often runs were evaluated, and on what."""
    times = _from_to(*report.evaluated)
    return f"before training and {times} {'time' if times == '1' else 'times'} from there on, on {_prompts(report)}"


def to_markdown(report: ComparisonReport, plots: Sequence[str]) -> str:
    """Return the report as Markdown, with the named plots in `plots/`. What models and errors say is escaped."""
    parts = opening(f"Comparison on {report.env}", headline(report), report.notes, report.failed)
    if pruned := [arm for arm in report.arms if arm.pruned]:
        parts += ["## Pruned", RULE, table(["algorithm", "why"], [_pruned_row(arm, report.metric) for arm in pruned])]
    if report.unfinished:
        parts += ["## Runs that are not finished", plain(", ".join(report.unfinished))]
    if any(arm.metrics for arm in report.arms):
        parts += [*_results(report, plots), *_equal(report)]
    seeds = "seed 0" if report.seeds == 1 else f"seeds 0 to {report.seeds - 1}"
    return "\n\n".join([*parts, *reproduce(report.made, "rlhf compare", ["seeds", seeds])]) + "\n"


def _results(report: ComparisonReport, plots: Sequence[str]) -> list[str]:
    metric = plain(report.metric)
    over = "the interquartile mean over seeds with its 95% bootstrap interval" if report.seeds > 1 else "the one run"
    pictures = {
        name: [f"![{report.metric} {caption}]({PLOTS}/{name}.png)"] if name in plots else []
        for name, caption in CAPTIONS.items()
    }
    parts = [
        f"## At the end: {metric}",
        table(*summary_table(report, MAIN)),
        f"Each metric is {over}, on {_prompts(report)}. Gained is the {metric} at the end less "
        "that before training: the mean over seeds ± its standard error. Seconds are of training alone.",
        *pictures["final"],
    ]
    head, rows = metrics_table(report)
    if len(head) > 1:
        parts += ["## Other metrics at the end", table(head, rows)]
    if "distinct_bigrams" in head:
        parts.append(f"distinct\\_bigrams is of {report.config['test_episodes']} completions; of more it is lower.")
    if report.improvement:
        rows = [[better, than, _probability(found)] for better, than, found in report.improvement]
        parts += [
            "## Probability of improvement",
            table(["better", "than", "probability"], rows),
            "How likely a run of the first ends better than a run of the second; ties count half."
            + " –: no interval, which takes 3 runs of both." * any("–" in row[2] for row in rows),
        ]
    parts += [
        "## Sample efficiency",
        *pictures["efficiency"],
        f"To reach a {metric} of {report.threshold:.3f}:",
        table(["algorithm", "reached", "by tokens", "by seconds"], map(_reached_row, report.arms)),
        f"A run reaches it at its first evaluation with at least that {metric}. The last columns say by when half of "
        "the runs that reached it had done so.",
    ]
    if "frontier" in plots:
        head = ["algorithm", "KL coefficient", "KL, nats", report.metric, "on the frontier"]
        parts += [
            f"## Against KL: {metric}",
            *pictures["frontier"],
            table(head, _frontier_rows(report)),
            f"On the frontier (Pareto-optimal): no other row has as high a {metric} with as low a KL.",
        ]
    rows = [
        [s["run"], f"{s['step']:,}", f"{s['reward']:.2f}", s["prompt"], s["completion"].strip()] for s in report.samples
    ]
    return [*parts, "## What they write", table(["run", "tokens", "reward", "prompt", "completion"], rows)]


def _prompts(report: ComparisonReport) -> str:
    """Return what was evaluated on; that no run trains on the prompts is said only where it is so."""
    n = report.config["test_episodes"]
    counted = count_prompts(n, report.different_prompts or n, report.prompts)
    return counted + (" that no run trains on" if report.prompts == "held-out prompts" else "")


def _from_to(least: int, most: int) -> str:
    return f"{most:,}" if least == most else f"{least:,} to {most:,}"


def _probability(found: Estimate) -> str:
    return f"{found} –" if math.isnan(found.low) else str(found)


def summary_table(report: ComparisonReport, names: Sequence[str] | None = None) -> tuple[list[str], list[list[str]]]:
    """Return the headings and one row per arm, the best first, with the metrics in `names` only; all by default."""
    found = dict.fromkeys(name for arm in report.arms for name in arm.metrics if names is None or name in names)
    others = [name for name in found if name not in (report.metric, "distinct_within")]
    head = ["algorithm", "runs", report.metric, "gained", *others, "tokens", "seconds"]
    return head, [_summary_row(arm, report.metric, others) for arm in report.arms]


def metrics_table(report: ComparisonReport) -> tuple[list[str], list[list[str]]]:
    """Return the headings and one row per arm of the metrics that the summary does not show."""
    found = dict.fromkeys(name for arm in report.arms for name in arm.metrics)
    names = [name for name in found if name not in (report.metric, *MAIN, "distinct_within")]
    rows = [[arm.title, *(str(arm.metrics.get(name, "")) for name in names)] for arm in report.arms if arm.metrics]
    return ["algorithm", *names], rows


def _summary_row(arm: ArmReport, metric: str, others: Sequence[str]) -> list[str]:
    runs = f"{arm.finished} of {arm.runs}" + (f", {arm.failed} failed" if arm.failed else "")
    runs += ", pruned" if arm.pruned else ""
    if arm.gain is None or arm.tokens is None or arm.seconds is None:
        return [arm.name, runs, "", "", *("" for _ in others), "", ""]
    error = arm.gain["standard_error"]
    gained = f"{arm.gain['mean']:+.3f}" + ("" if error is None else f" ± {error:.3f}")
    value, *shown = (str(arm.metrics[name]) if name in arm.metrics else "" for name in (metric, *others))
    return [arm.name, runs, value, gained, *shown, f"{arm.tokens.mean:,.0f}", f"{arm.seconds.mean:,.1f}"]


def _reached_row(arm: ArmReport) -> list[str]:
    found = arm.reached
    when = ["never", ""] if found.tokens is None else [f"{found.tokens:,.0f}", f"{found.seconds:.1f}"]
    return [arm.title, f"{found.reached} of {found.n}", *when]


def _pruned_row(arm: ArmReport, metric: str) -> list[str]:
    return [arm.name, "" if arm.pruned is None else arm.pruned.describe(metric)]


def _frontier_rows(report: ComparisonReport) -> list[list[str]]:
    """Return a row per arm with a KL, in the order of labels and coefficients."""
    rows = []
    with_kl = [arm for arm in report.arms if "kl" in arm.metrics]
    for arm in sorted(with_kl, key=lambda arm: (arm.label, arm.kl_coef or 0.0)):
        coefficient = arm.kl_coef if arm.kl_coef is not None else (arm.settings or {}).get("kl_coef")
        shown = f"{coefficient:g}" if coefficient is not None else ""
        kl, value = (str(arm.metrics[name]) for name in ("kl", report.metric))
        label = arm.label + (" (pruned)" if arm.pruned else "")
        rows.append([label, shown, kl, value, "yes" if arm.on_frontier else ""])
    return rows


def _equal(report: ComparisonReport) -> list[str]:
    """Return the section on what was equal, and what was each algorithm's own."""
    config = report.config
    model = config["model"] or "the environment's own"
    asked = "" if report.trained == (report.tokens, report.tokens) else f" ({report.tokens:,} asked for)"
    fewer = report.evaluated[0] < config["evaluations"]
    skipped = f" ({config['evaluations']} asked for; steps that one rollout passes share one)" if fewer else ""
    parts = [
        "## What was equal, and what was not",
        plain(
            f"Each run trained for {_from_to(*report.trained)} tokens{asked}, in the same environment ({report.env}), "
            f"on its training prompts, from the same model, which is the reference too ({model}), with equal decoding "
            f"where no note says otherwise. It was evaluated {evaluations(report)}{skipped}: the same prompts of the "
            f"{config['test_split']} split with the same random numbers, at equal steps, each at the end of the first "
            "update at or after its step. Run k of every algorithm has the seed k."
        ),
        "Algorithms differ in the hyperparameters below, which are rlhf train's own unless the comparison says "
        "otherwise. A ranking is one of these settings, on this environment.",
    ]
    rows = [[cell(arm.name), _settings(arm)] for arm in report.arms if arm.settings is not None]
    settings = markdown_table(["algorithm", "settings (bold: not the class's own default)"], rows)
    return [*parts, settings] if rows else parts


def _settings(arm: ArmReport) -> str:
    """Return all settings of an arm in Markdown, in bold where they are not the defaults of its algorithm."""
    given = dict(arm.settings or {})
    given |= given.pop("hyperparams", {})
    defaults = arm.defaults or {}
    own = {name for name, value in given.items() if name not in defaults or defaults[name] != value}
    shown = {name: as_markdown(f"{name}={value}") for name, value in ({**given, **defaults} | given).items()}
    return ", ".join(f"**{text}**" if name in own else text for name, text in shown.items())
