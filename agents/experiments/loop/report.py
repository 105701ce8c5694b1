"""Write the report of a loop: the metrics of its rounds in TensorBoard, `report.json`, `report.md` and `loop.png`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from torch.utils.tensorboard import SummaryWriter

from rlhf_envs.datasets.messages import kept_prompt
from rlhf_envs.files import replace_file, replace_json
from rlhf_envs.rendering import as_markdown, markdown_table

from ...core.samples import sample_markdown
from ...saving.folders import read_config
from ...saving.run_paths import as_typed
from .aspects.report import aspect_metrics, aspect_scalars, aspect_section
from .state import PROXY, Loop, Metrics
from .steps import ROUND, START

__all__ = ["log_round", "markdown", "plot_rounds", "round_cells", "round_metrics", "summary", "write_report"]

# The columns of the report: metric, heading, digits after the point.
COLUMNS = {
    "reward": ("proxy", 2),
    "kl": ("KL", 2),
    "perplexity": ("perplexity", 1),
    "distinct_bigrams": ("distinct", 2),
    "accuracy_fresh": ("accuracy, fresh", 2),
    "accuracy_held_out": ("accuracy, held out", 2),
    "labels_right": ("labels right", 2),
    "agreement": ("alpha", 2),
    "judgements": ("judgements", 0),
}
REPORT = """\
# {algo} on {env}, {n_rounds} rounds, seed {seed}

{judgements} judgements, {tokens} tokens of RL, {seconds:.0f} s.{fitted_to}

{table}

- **{judges}**: {prompts}, mean ± standard error. {labellers}
- **proxy**: the round's own reward model; mean 0 and deviation 1 over what the first policy wrote.
- **KL** to the first policy, nats per episode; **perplexity** of the completions under it; share of **distinct**
  bigrams.
- **accuracy, fresh**: the *last* round's reward model on this round's pairs, before any was fitted to them; **held
  out**: this round's model on pairs of all rounds that it was not fitted to. Both against the annotators' joint labels.
  Where --query is uncertainty or disagreement, fresh pairs are the hard ones of many, and this is lower than on random
  ones.
- **labels right**: how often the joint labels of simulated annotators agree with their preference without noise.
- **alpha**: Krippendorff's alpha of the round's judgements. **judgements**: the cost of the round, without skips.

![the rounds](loop.png)
{aspects}
## Annotators

{annotators}

## The same {prompts} before and after

{samples}

The agent is the bundle `{agent}`, its model `model`; the last reward model is `{reward_model}`.
"""


def round_metrics(loop: Loop, number: int) -> Metrics:
    """Return the metrics of all steps of a round."""
    of = {step: loop.read(number, step) for step in (ROUND if number else START)}
    seconds = {step: metrics.pop("seconds") for step, metrics in of.items()}
    shared = {"round": number, "tokens": of["learn"]["tokens"], "seconds": seconds}
    own = {name: value for step in ("generate", "ask", "fit") for name, value in of.get(step, {}).items()}
    aspects = {"aspects": aspect_metrics(loop, number, of)} if number and loop.aspects else {}
    return {**shared, **own, **aspects, **{name: of["evaluate"][name] for name in ("estimates", "samples")}}


def log_round(loop: Loop, number: int, is_new: bool = True) -> None:
    """Write the metrics of a round to TensorBoard, at the tokens where its RL ends. A second call changes nothing.

    Trackers get those of a new round only.
    """
    metrics = round_metrics(loop, number)
    found = {f"loop/{name}": value for name, value in _scalars(metrics).items()}
    with SummaryWriter(log_dir=str(loop.folder)) as writer:
        for tag, value in found.items():
            writer.add_scalar(tag, value, metrics["tokens"])
    for tracker in loop.trackers if is_new else ():
        if not tracker.follows_tensorboard:
            tracker.log(found, metrics["tokens"])


def summary(loop: Loop, number: int) -> str:
    """Return a line on a round."""
    metrics = _scalars(round_metrics(loop, number))
    of_aspects = [name for name in loop.aspects if f"aspect_{name}" in metrics]
    headings = {**{judge: judge for judge in loop.judges}, "reward": "proxy", "kl": "KL"}
    shown = [f"{heading} {metrics[name]:.3f}" for name, heading in headings.items() if name in metrics]
    shown += [
        f"{name} {metrics[f'aspect_{name}_before']:.3f} to {metrics[f'aspect_{name}']:.3f}" for name in of_aspects
    ]
    if number:
        shown.append(f"{metrics['judgements']} judgements, alpha {_shown(metrics.get('agreement'), 2)}")
    if number > 1 and not loop.aspects:
        shown.append(f"accuracy on fresh pairs {_shown(metrics.get('accuracy_fresh'), 2)}")
    return f"round {number}: {', '.join(shown)}"


def write_report(loop: Loop) -> dict[str, Any]:
    """Write `report.json`, `report.md` and `loop.png` into the run's folder. Return the content of the first."""
    config = loop.config
    named = as_typed({"scorer": config.scorer, "by": config.by}, read_config(loop.folder), loop.folder)
    rounds = [round_metrics(loop, number) for number in range(config.rounds + 1)]
    report = {
        "env": config.env_id,
        "algo": config.algo,
        "seed": config.seed,
        "scorer": named["scorer"] if config.annotators else None,
        "people": config.people,
        "criterion": config.criterion,
        "aspects": [name for name, aspect in loop.aspects.items() if aspect.reward is None],
        "by": named["by"] if config.annotators else {},
        "judges": list(loop.judges),
        "judgements": sum(metrics["judgements"] for metrics in rounds[1:]),
        "tokens": rounds[-1]["tokens"],
        "seconds": round(sum(sum(metrics["seconds"].values()) for metrics in rounds), 1),
        "agent": str(loop.agent(config.rounds).relative_to(loop.folder)),
        "reward_model": f"round_{config.rounds}/fit/{PROXY}",
        "prompts": loop.read(config.rounds, "evaluate").get("prompts", f"prompts of the {config.test_split} split"),
        "rounds": rounds,
    }
    replace_json(loop.folder / "report.json", report)
    plot_rounds(report, loop.folder / "loop.png")
    replace_file(loop.folder / "report.md", markdown(report).encode("utf-8"))
    return report


def markdown(report: Mapping[str, Any]) -> str:
    """Return the report as Markdown. What models wrote is escaped."""
    rounds = report["rounds"]
    head, rows = round_cells(report)
    parts = {
        "n_rounds": len(rounds) - 1,
        "table": markdown_table(head, rows, ["---:"] * len(head)),
        "judges": ", ".join(report["judges"]),
        "fitted_to": _fitted_to(report),
        "labellers": _labellers(report),
        "aspects": aspect_section(report),
        "annotators": _annotators(rounds[-1]),
        "samples": _samples(rounds[0]["samples"], rounds[-1]["samples"]),
    }
    return REPORT.format(**{**report, **parts})


def _fitted_to(report: Mapping[str, Any]) -> str:
    """Say which aspects, or which of the project's own questions, the reward models read."""
    if report["aspects"]:
        return f" One reward model each is fitted to {', '.join(report['aspects'])}."
    if report["criterion"] is None:
        return ""
    return f" The reward models are fitted to the answers to `{report['criterion']}`, a question of the study."


def _labellers(report: Mapping[str, Any]) -> str:
    """Say who labelled, and how simulated annotators judged."""
    if report["scorer"] is None:
        return "People labelled."
    others = f" People labelled too, {report['people']} pairs a round." if report["people"] else ""
    scorers = ", ".join([report["scorer"], *(f"{name} by {reward}" for name, reward in report["by"].items())])
    return f"Simulated annotators judge by {scorers}, with noise; the agent never meets it.{others}"


def round_cells(report: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Return the headings and the rows of the table of rounds. Judges come with their standard errors."""
    rounds = report["rounds"]
    columns = {**{judge: (judge, 3) for judge in report["judges"]}, **COLUMNS}
    columns = {name: of for name, of in columns.items() if any(_value(metrics, name) is not None for metrics in rounds)}
    rows = []
    for metrics in rounds:
        row = [str(metrics["round"]), f"{metrics['tokens']:,}"]
        for name, (_, digits) in columns.items():
            error = f" ± {metrics['estimates'][name]['sem']:.{digits}f}" if name in report["judges"] else ""
            row.append(_shown(_value(metrics, name), digits) + error)
        rows.append(row)
    return ["round", "tokens", *(heading for heading, _ in columns.values())], rows


def _annotators(last: Metrics) -> str:
    """Say who was reliable and who seems a spammer. For simulated annotators, say also who is one."""
    found, planted = set(last["spammers"]), set(last.get("planted", ()))
    marked = {"found to click at random": found} | ({"planted": planted} if "planted" in last else {})
    rows = [
        [as_markdown(name), _shown(value, 2), *("yes" if name in names else "" for names in marked.values())]
        for name, value in last["reliability"].items()
    ]
    table = markdown_table(["annotator", "reliability", *marked], rows, ["---", "---:", *("---" for _ in marked)])
    if "planted" not in last:
        return table
    right = len(found & planted)
    return f"{table}\n\n{right} of {len(planted)} planted spammers found, {len(found) - right} others."


def _samples(before: Sequence[Mapping[str, Any]], after: Sequence[Mapping[str, Any]]) -> str:
    def line(when: str, sample: Mapping[str, Any]) -> str:
        return f"- {when}: {sample_markdown(kept_prompt(sample['prompt'], sample), sample['completion'])}"

    pairs = list(zip(before, after, strict=True))[:8]
    return "\n\n".join(f"{line('before', first)}\n{line('after', last)}" for first, last in pairs)


def plot_rounds(report: Mapping[str, Any], path: Path) -> None:
    """Draw judges, KL, accuracy and agreement, and the cost, round by round."""
    costs = accumulate(metrics.get("judgements", 0) for metrics in report["rounds"])
    rounds = [{**metrics, "cost": cost} for metrics, cost in zip(report["rounds"], costs, strict=True)]
    figure = Figure(figsize=(12.6, 6.2), layout="constrained")
    accuracies = {"accuracy_fresh": "fresh pairs", "accuracy_held_out": "held out", "labels_right": "labels right"}
    panels: list[tuple[str, dict[str, str]]] = [
        *((f"{judge}, {report['prompts']}", {judge: judge}) for judge in report["judges"][:2]),
        ("proxy (this round's reward model)", {"reward": "proxy"}),
        ("KL to the first policy, nats", {"kl": "KL"}),
        ("accuracy and agreement", {**accuracies, "agreement": "alpha"}),
        ("judgements so far", {"cost": "judgements"}),
    ]
    axes: list[Any] = list(figure.subplots(2, 3, sharex=True).flat)
    for axis, (title, names) in zip(axes, panels, strict=False):
        _draw_panel(axis, title, names, rounds)
    for axis in axes[len(panels) :]:
        axis.remove()
    figure.supxlabel("round", fontsize=10)
    title = f"{report['algo']} on {report['env']}, seed {report['seed']}; bars: 95% intervals over {report['prompts']}"
    figure.suptitle(title, x=0.01, ha="left", fontsize=11, fontweight="bold")
    figure.savefig(path, dpi=110)


def _draw_panel(axis: Any, title: str, names: Mapping[str, str], rounds: Sequence[Metrics]) -> None:
    """Draw metrics against rounds; `names` has their labels."""
    axis.set_title(title, fontsize=10, loc="left")
    axis.grid(alpha=0.25, linewidth=0.6)
    axis.spines[["top", "right"]].set_visible(False)
    axis.set_xticks(range(len(rounds)))
    for (name, label), color in zip(names.items(), ("#2463a6", "#c4501b", "#3b8a4b", "#767676"), strict=False):
        there = [metrics for metrics in rounds if _value(metrics, name) is not None]
        x, y = [metrics["round"] for metrics in there], [_value(metrics, name) for metrics in there]
        errors = [1.96 * metrics["estimates"].get(name, {"sem": 0.0})["sem"] for metrics in there]
        axis.errorbar(x, y, yerr=errors, fmt="o-", color=color, capsize=3, markersize=5, linewidth=1.6, label=label)
    if len(names) > 1:
        axis.legend(frameon=False, fontsize=8)


def _value(metrics: Metrics, name: str) -> Any:
    """Return a metric of a round by name; the mean if it is an estimate. None if the round has none."""
    estimate = metrics["estimates"].get(name)
    return metrics.get(name) if estimate is None else estimate["mean"]


def _scalars(metrics: Metrics) -> dict[str, Any]:
    """Return all metrics of a round that are one number."""
    numbers = {name: value for name, value in metrics.items() if isinstance(value, int | float)}
    estimates = {name: estimate["mean"] for name, estimate in metrics["estimates"].items()}
    return numbers | estimates | aspect_scalars(metrics)


def _shown(value: float | None, digits: int) -> str:
    return "–" if value is None else f"{value:.{digits}f}"
