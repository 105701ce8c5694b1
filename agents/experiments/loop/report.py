"""What a loop leaves to look at: figures of the rounds in TensorBoard, `report.json`, `report.md` and `loop.png`."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlhf_envs.files import replace_file

from .state import PROXY, Figures, Loop

if TYPE_CHECKING:
    from rich.table import Table

__all__ = ["log_round", "markdown", "plot_rounds", "report_table", "round_figures", "summary", "write_report"]

# The columns of the report: figure, heading, digits after the point.
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
LEGEND = """\
- **{judges}**: held-out prompts, mean ± standard error. {scorer}
- **proxy**: the round's own reward model; mean 0 and deviation 1 over what the first policy wrote.
- **KL** to the first policy, nats an episode; **perplexity** of the completions under it; **distinct** bigrams, share.
- **accuracy, fresh**: the *last* round's reward model on this round's pairs, before any was fitted to them; **held
  out**: this round's on pairs of all rounds that it was not fitted to. Both against the annotators' joint labels. Where
  --query is uncertainty or disagreement, fresh pairs are the hard ones of many, and this is lower than on random ones.
- **labels right**: how often the joint labels of simulated annotators are those of their preference without noise.
- **alpha**: Krippendorff's, of the round's judgements. **judgements**: what the round cost, skips aside.
"""


def round_figures(loop: Loop, number: int) -> Figures:
    """All figures of a round, of all its steps."""
    evaluation = loop.read(number, "evaluate")
    figures: Figures = {"round": number, "tokens": loop.read(number, "learn")["tokens"], "seconds": {}}
    for step in ("generate", "ask", "fit", "learn", "evaluate") if number else ("learn", "evaluate"):
        own = loop.read(number, step)
        figures["seconds"][step] = own.pop("seconds")
        if step in ("generate", "ask", "fit"):
            figures |= own
    return figures | {"estimates": evaluation["estimates"], "samples": evaluation["samples"]}


def log_round(loop: Loop, number: int) -> None:
    """Write the figures of a round to TensorBoard, as `loop/...`, where its RL ends; twice is as good as once."""
    from torch.utils.tensorboard import SummaryWriter

    figures = round_figures(loop, number)
    with SummaryWriter(log_dir=str(loop.folder)) as writer:
        for name, value in {"round": number, **_scalars(figures)}.items():
            if value is not None:
                writer.add_scalar(f"loop/{name}", value, figures["tokens"])


def summary(loop: Loop, number: int) -> str:
    """A line on a round."""
    figures = _scalars(round_figures(loop, number))
    headings = {**{judge: judge for judge in loop.config.judge or ()}, "reward": "proxy", "kl": "KL"}
    shown = [f"{heading} {figures[name]:.3f}" for name, heading in headings.items() if name in figures]
    if number:
        shown.append(f"{figures['judgements']} judgements, alpha {_shown(figures.get('agreement'), 2)}")
    if number > 1:
        shown.append(f"accuracy on fresh pairs {_shown(figures.get('accuracy_fresh'), 2)}")
    return f"round {number}: {', '.join(shown)}"


def write_report(loop: Loop) -> dict[str, Any]:
    """Write `report.json`, `report.md` and `loop.png` into the run's folder; returns what is in the first."""
    config = loop.config
    rounds = [round_figures(loop, number) for number in range(config.rounds + 1)]
    last = rounds[-1]
    report = {
        "env": config.env_id,
        "algo": config.algo,
        "seed": config.seed,
        "scorer": config.scorer if config.annotators else None,
        "people": config.people,
        "judges": config.judge,
        "judgements": sum(figures["judgements"] for figures in rounds[1:]),
        "tokens": last["tokens"],
        "seconds": round(sum(sum(figures["seconds"].values()) for figures in rounds), 1),
        "agent": str(loop.agent(config.rounds).relative_to(loop.folder)),
        "reward_model": f"round_{config.rounds}/fit/{PROXY}",
        "rounds": rounds,
    }
    replace_file(loop.folder / "report.json", (json.dumps(report, indent=1) + "\n").encode("utf-8"))
    plot_rounds(report, loop.folder / "loop.png")
    replace_file(loop.folder / "report.md", markdown(report).encode("utf-8"))
    return report


def markdown(report: Mapping[str, Any]) -> str:
    """The report as Markdown; what models wrote is escaped."""
    rounds = report["rounds"]
    lines = [
        f"# {report['algo']} on {report['env']}, {len(rounds) - 1} rounds, seed {report['seed']}",
        "",
        f"{report['judgements']} judgements, {report['tokens']} tokens of RL, {report['seconds']:.0f} s.",
        "",
        *_markdown_table(report),
        "",
        LEGEND.format(
            judges=", ".join(report["judges"]),
            scorer=_labellers(report),
        ),
        "![the rounds](loop.png)",
        "",
        "## Annotators",
        "",
        *_annotators(rounds[-1]),
        "",
        "## The same held-out prompts before and after",
        "",
        *_samples(rounds[0]["samples"], rounds[-1]["samples"]),
        "",
        f"The agent is the bundle `{report['agent']}`, its model `model`; the last reward model is "
        f"`{report['reward_model']}`.",
    ]
    return "\n".join(lines) + "\n"


def _labellers(report: Mapping[str, Any]) -> str:
    """Who labelled, and what simulated annotators among them went by."""
    if report["scorer"] is None:
        return "People labelled."
    others = f" People labelled too, {report['people']} pairs a round." if report["people"] else ""
    return f"Simulated annotators judge by {report['scorer']}, with noise; the agent never meets it.{others}"


def report_table(report: Mapping[str, Any]) -> Table:
    """The table of rounds for the terminal."""
    from rich import box
    from rich.table import Table

    headings, rows = _cells(report)
    table = Table(box=box.SIMPLE, pad_edge=False)
    for heading in headings:
        table.add_column(heading, justify="right")
    for row in rows:
        table.add_row(*row)
    return table


def _markdown_table(report: Mapping[str, Any]) -> list[str]:
    headings, rows = _cells(report)
    lines = [headings, ["---:"] * len(headings), *rows]
    return [f"| {' | '.join(cells)} |" for cells in lines]


def _cells(report: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """The headings and the rows of the table of rounds; judges come with their standard errors."""
    rounds = report["rounds"]
    columns = {**{judge: (judge, 3) for judge in report["judges"]}, **COLUMNS}
    columns = {name: of for name, of in columns.items() if any(_value(figures, name) is not None for figures in rounds)}
    rows = []
    for figures in rounds:
        row = [str(figures["round"]), f"{figures['tokens']:,}"]
        for name, (_, digits) in columns.items():
            error = f" ± {figures['estimates'][name]['sem']:.{digits}f}" if name in report["judges"] else ""
            row.append(_shown(_value(figures, name), digits) + error)
        rows.append(row)
    return ["round", "tokens", *(heading for heading, _ in columns.values())], rows


def _annotators(last: Figures) -> list[str]:
    """Who was reliable, who was found to click at random, and who really does where that is known."""
    from rlhf_envs.rendering import as_markdown

    found, planted = set(last["spammers"]), set(last.get("planted", ()))
    lines = ["| annotator | reliability | found to click at random |" + (" planted |" if "planted" in last else "")]
    lines.append("|---|---:|---|" + ("---|" if "planted" in last else ""))
    for name, value in last["reliability"].items():
        row = f"| {as_markdown(name)} | {_shown(value, 2)} | {'yes' if name in found else ''} |"
        lines.append(row + (f" {'yes' if name in planted else ''} |" if "planted" in last else ""))
    if "planted" in last:
        lines += [
            "",
            f"{len(found & planted)} of {len(planted)} planted clickers found, {len(found - planted)} others.",
        ]
    return lines


def _samples(before: Sequence[Mapping[str, Any]], after: Sequence[Mapping[str, Any]]) -> list[str]:
    from rlhf_envs.rendering import as_markdown

    lines = []
    for first, second in list(zip(before, after, strict=True))[:8]:
        for when, sample in (("before", first), ("after", second)):
            completion = as_markdown(sample["completion"].strip())
            lines.append(f"- {when}: {as_markdown(sample['prompt'])}" + (f" **{completion}**" if completion else ""))
        lines.append("")
    return lines


def plot_rounds(report: Mapping[str, Any], path: Path) -> None:
    """Draw judges, KL, accuracy and agreement, and the cost, round by round."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rounds = report["rounds"]
    figure = Figure(figsize=(12.6, 6.2), layout="constrained")
    FigureCanvasAgg(figure)
    judges = {judge: f"{judge}, held-out prompts" for judge in report["judges"][:2]}
    panels: list[tuple[str, dict[str, str]]] = [(title, {name: name}) for name, title in judges.items()]
    panels += [
        ("proxy (this round's reward model)", {"reward": "proxy"}),
        ("KL to the first policy, nats", {"kl": "KL"}),
    ]
    accuracies = {"accuracy_fresh": "fresh pairs", "accuracy_held_out": "held out", "labels_right": "labels right"}
    panels += [("accuracy and agreement", {**accuracies, "agreement": "alpha"})]
    panels += [("judgements so far", {"cost": "judgements"})]
    axes: list[Any] = list(figure.subplots(2, 3, sharex=True).flat)
    cost = 0
    for figures in rounds:
        figures["cost"] = cost = cost + figures.get("judgements", 0)
    for axis, (title, names) in zip(axes, panels, strict=False):
        axis.set_title(title, fontsize=10, loc="left")
        axis.grid(alpha=0.25, linewidth=0.6)
        axis.spines[["top", "right"]].set_visible(False)
        axis.set_xticks(range(len(rounds)))
        for (name, label), color in zip(names.items(), ("#2463a6", "#c4501b", "#3b8a4b", "#767676"), strict=False):
            points = [(f["round"], _value(f, name), f["estimates"].get(name)) for f in rounds]
            points = [point for point in points if point[1] is not None]
            x, y = [point[0] for point in points], [point[1] for point in points]
            errors = [1.96 * (point[2]["sem"] if point[2] else 0.0) for point in points]
            axis.errorbar(x, y, yerr=errors, fmt="o-", color=color, capsize=3, markersize=5, linewidth=1.6, label=label)
        if len(names) > 1:
            axis.legend(frameon=False, fontsize=8)
    for axis in axes[len(panels) :]:
        axis.remove()
    for figures in rounds:
        del figures["cost"]
    figure.supxlabel("round", fontsize=10)
    title = f"{report['algo']} on {report['env']}, seed {report['seed']}; bars: 95% intervals over held-out prompts"
    figure.suptitle(title, x=0.01, ha="left", fontsize=11, fontweight="bold")
    figure.savefig(path, dpi=110)


def _value(figures: Figures, name: str) -> Any:
    """A figure of a round by name; the mean, where it is an estimate. None where the round has none."""
    estimate = figures["estimates"].get(name)
    return figures.get(name) if estimate is None else estimate["mean"]


def _scalars(figures: Figures) -> dict[str, Any]:
    """All figures of a round that are one number."""
    numbers = {name: value for name, value in figures.items() if isinstance(value, int | float)}
    return numbers | {name: estimate["mean"] for name, estimate in figures["estimates"].items()}


def _shown(value: float | None, digits: int) -> str:
    return "–" if value is None else f"{value:.{digits}f}"
