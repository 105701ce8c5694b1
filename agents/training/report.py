"""What a run leaves to look at: tables on the terminal, `report.json`, `samples.md` and `curves.png` in its folder."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from .plots import plot_curves, read_progress

if TYPE_CHECKING:
    from rich.table import Table
    from rich.text import Text

    from ..evaluation.evaluate import Evaluation
    from ..evaluation.generate import Completion
    from ..evaluation.statistics import Estimate
    from .run import TrainResult

__all__ = ["change_table", "evaluation_table", "samples_table", "shown", "write"]

LABELS = {
    "reward": "reward (proxy)",
    "kl": "KL to the reference, nats",
    "perplexity": "perplexity under the reference",
    "distinct_bigrams": "distinct bigrams",
    "length": "length, tokens",
    "eos_share": "ended by EOS",
}
HIDDEN = ("distinct_within",)


def write(result: TrainResult) -> None:
    """Write `report.json`, `samples.md` and `curves.png` into the folder of a run."""
    config, before, after = result.config, result.before, result.after
    tokens = int(result.agent.num_timesteps)
    report = {
        "algo": config.algo,
        "env": config.env_id,
        "seed": config.seed,
        "n_timesteps": tokens,
        "seconds": round(result.seconds, 2),
        "before": before.to_dict(),
        "after": after.to_dict(),
        "change": {name: estimate._asdict() for name, estimate in after.change_from(before).items()},
    }
    (result.folder / "report.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    (result.folder / "samples.md").write_text(samples_markdown(before, after), encoding="utf-8")
    plot_curves(
        read_progress(result.folder / "progress.csv"),
        result.folder / "curves.png",
        title=f"{config.algo} on {config.env_id}, seed {config.seed}",
        judges=tuple(after.judges),
        kl_target=config.kl_target,
        held_out={0: before.estimates(), tokens: after.estimates()},
    )


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
        mean, sem, low, high = (f"{round(figure, 3) + 0.0:.3f}" for figure in estimates[name])
        table.add_row(LABELS.get(name, name), mean, sem, f"{low} to {high}")
    return table


def samples_markdown(before: Evaluation, after: Evaluation, n: int = 16) -> str:
    """The completions as Markdown, with what models wrote escaped."""
    from rlhf_envs.rendering import as_markdown

    lines = ["# The same held-out prompts before and after", ""]
    for first, second in list(zip(before.completions, after.completions, strict=True))[:n]:
        for name, c in (("before", first), ("after", second)):
            prompt, completion = (as_markdown(text) for text in (c.prompt, c.completion.strip()))
            lines.append(
                f"- {name} ({c.reward:.2f}): {prompt} **{completion}**" if completion else f"- {name}: {prompt}"
            )
        lines.append("")
    return "\n".join(lines)


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
