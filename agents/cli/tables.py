"""Lay out what the command line prints as tables."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.table import Table
    from rich.text import Text

    from ..evaluation.evaluate import Evaluation
    from ..evaluation.generate import Completion
    from ..evaluation.statistics import Estimate
    from ..training.run import TrainResult
if TYPE_CHECKING:
    from rich.console import RenderableType

    from rlhf_envs.feedback.web.summary import Summary
    from rlhf_envs.preferences.spam import Figures

__all__ = ["change_table", "evaluation_table", "samples_table", "shown", "status_tables"]


def status_tables(summary: Summary, clickers: Mapping[str, Figures] | None) -> list[RenderableType]:
    """Progress, agreement, annotators and who seems to click at random (None: cannot be told), for the terminal."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    from rlhf_envs.preferences.crowd import CANNOT_TELL

    lines = [f"{summary.finished} of {summary.items} items are done", f"{summary.judgements} judgements"]
    lines += [f"{summary.skips} skips", f"{summary.last_hour} in the last hour"]
    parts: list[RenderableType] = [Text(", ".join(lines) + (" (paused)" if summary.paused else ""))]
    for kind, alpha in sorted(summary.alpha.items()):
        shown = "undefined (nobody shares an item, or all say the same)" if alpha is None else f"{alpha:.3f}"
        parts.append(Text(f"Krippendorff's alpha, {kind}: {shown}"))
    if summary.alpha_problem:
        parts.append(Text(summary.alpha_problem))
    table = Table(box=box.SIMPLE, pad_edge=False)
    table.add_column("annotator", overflow="fold")
    for heading in ("judged", "skips", "seconds", "agreement", "gold right"):
        table.add_column(heading, justify="right")
    for person in summary.annotators:
        table.add_row(
            Text(person.name),
            str(person.judged),
            str(person.skips),
            "" if person.median_seconds is None else f"{person.median_seconds:.1f}",
            "" if person.agreement is None else f"{person.agreement:.2f}",
            f"{person.gold_right}/{person.gold_asked}" if person.gold_asked else "",
        )
    if summary.annotators:
        parts.append(table)
    for name, figures in (clickers or {}).items():
        words = f"{name} seems to click at random (probability {figures.probability:.2f}): agrees with the others on "
        parts.append(Text(f"{words}{figures.agreement:.0%} of {figures.n} comparisons that they made too"))
    if clickers is None:
        parts.append(Text(f"who clicks at random {CANNOT_TELL}"))
    elif not clickers:
        parts.append(Text("nobody seems to click at random"))
    return parts


LABELS = {
    "reward": "reward (proxy)",
    "kl": "KL to the reference, nats",
    "perplexity": "perplexity under the reference",
    "distinct_bigrams": "distinct bigrams",
    "length": "length, tokens",
    "eos_share": "ended by EOS",
}


HIDDEN = ("distinct_within",)


def samples_table(before: Evaluation, after: Evaluation, n: int = 8) -> Table:
    """The same held-out prompts completed before and after training."""
    from rich import box
    from rich.table import Table

    table = Table(
        "before", "after", title="held-out prompts, completed before and after", box=box.SIMPLE, show_lines=True
    )
    for first, second in list(zip(before.completions, after.completions, strict=True))[:n]:
        table.add_row(shown(first), shown(second))
    return table


def change_table(result: TrainResult) -> Table:
    """Every figure before and after, and the mean change a prompt with its standard error."""
    from rich import box
    from rich.table import Table

    before, after = result.before.estimates(), result.after.estimates()
    change = result.after.change_from(result.before)
    title = f"{len(result.after.reward)} held-out prompts, mean ± standard error"
    table = Table("", title=title, box=box.SIMPLE)
    for heading in ("before", "after", "change"):
        table.add_column(heading, justify="right")
    for name in _ordered(after):
        changed = (
            f"{round(change[name].mean, 3) + 0.0:+.3f} ± {change[name].sem:.3f}"
            if name in change
            else _ratio(before, after, name)
        )
        table.add_row(LABELS.get(name, name), str(before[name]), str(after[name]), changed)
    return table


def evaluation_table(evaluation: Evaluation) -> Table:
    """Every figure of an evaluation with its standard error and 95% interval."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    title = Text(
        f"{evaluation.source} on {evaluation.env_id}: {len(evaluation.reward)} prompts of the {evaluation.split} "
        f"split, {evaluation.seconds:.1f} s"
    )
    drawn = evaluation.completions_per_prompt
    chosen = f"; the best of {drawn} completions a prompt" if drawn > 1 else ""
    caption = Text(f"reference: {evaluation.reference or 'none'}{chosen}")
    table = Table("", title=title, box=box.SIMPLE, caption=caption)
    for heading in ("mean", "standard error", "95% interval"):
        table.add_column(heading, justify="right")
    estimates = evaluation.estimates()
    for name in _ordered(estimates):
        mean, sem, low, high = (f"{round(figure, 3) + 0.0:.3f}" for figure in estimates[name][:4])
        table.add_row(LABELS.get(name, name), mean, sem, f"{low} to {high}")
    return table


def shown(c: Completion) -> Text:
    """Prompt dim, completion bold; as `Text`, so that nothing a model writes is taken for markup or control codes."""
    from rich.text import Text

    from rlhf_envs.rendering import printable

    return Text.assemble(
        (f"{c.reward:+.2f}  ", "cyan"), (printable(c.prompt), "dim"), (printable(c.completion), "bold")
    )


def _ordered(estimates: dict[str, Estimate]) -> list[str]:
    """Rewards and judges first, then the rest in the order of `LABELS`."""
    rest = [name for name in LABELS if name in estimates and name != "reward"]
    return [name for name in estimates if name not in (*rest, *HIDDEN)] + rest


def _ratio(before: dict[str, Estimate], after: dict[str, Estimate], name: str) -> str:
    return f"x {after[name].mean / before[name].mean:.2f}" if before[name].mean else ""
