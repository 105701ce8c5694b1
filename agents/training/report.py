"""Write what a finished run leaves to look at: `report.json`, `samples.md` and `curves.png` in its folder."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from rlhf_envs.files import replace_json
from rlhf_envs.rendering import html_table

from ..core.samples import sample_markdown
from ..evaluation.evaluate import Evaluation
from ..evaluation.statistics import Estimate
from .config import TrainConfig
from .logger import STEP

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = [
    "REPORT",
    "Picture",
    "TrainResult",
    "draw_curves",
    "plot_curves",
    "read_progress",
    "samples_markdown",
    "write_report",
]

Curves = dict[str, tuple[np.ndarray, np.ndarray]]  # tag: tokens (n,) and values (n,)
REPORT = "report.json"
PANELS = {  # tag: title; the judges' panels come after the reward's
    "rlhf/reward": "reward per episode",
    "rlhf/kl": "KL to the reference, nats per episode",
    "rlhf/entropy": "entropy, nats per token",
    "rlhf/length": "length, tokens",
    "rlhf/distinct_bigrams": "distinct bigrams among 32 completions, share",
}
TRAINING, HELD_OUT, TARGET = "#2463a6", "#c4501b", "#767676"


@dataclass(frozen=True, repr=False)
class TrainResult:
    """Hold a finished run: its folder, the agent, and the held-out completions before and after training.

    Attributes:
        before: the evaluation at 0 tokens, also of a run that was resumed.
        seconds: the wall time since it was begun or, for the last time, resumed.
        resumed_at: the tokens that it was resumed at; 0 if it was not.
        early_stopping: where early stopping found the best agent, which `after` is of, see `EarlyStopping.summary`.
        alarm: whether the alarm rang, and why, see `HackingAlarm.summary`.
        kept_timesteps: the tokens of the agent that a callback kept, which `after` is of; None: `after` is of the last.
    """

    config: TrainConfig
    folder: Path
    agent: Any
    before: Evaluation
    after: Evaluation
    seconds: float
    resumed_at: int = 0
    early_stopping: Mapping[str, Any] | None = None
    alarm: Mapping[str, Any] | None = None
    kept_timesteps: int | None = None

    @property
    def tokens_of_after(self) -> int:
        """Return the tokens that the agent of `after` was trained for: all of the run, or fewer if one was kept."""
        return int(self.agent.num_timesteps if self.kept_timesteps is None else self.kept_timesteps)

    def __repr__(self) -> str:
        """Return what was trained, how far, and the rewards before and after."""
        before, after = (evaluation.reward.mean() for evaluation in (self.before, self.after))
        return (
            f"TrainResult({self.config.algo} on {self.config.env_id}, {self.agent.num_timesteps:,} tokens: reward "
            f"{before:.3f} -> {after:.3f} on {self.after.counted}, {str(self.folder)!r})"
        )

    def _repr_html_(self) -> str:
        """Return every metric before and after, and some completions of the same prompts, as notebooks show them."""
        before, after = self.before.estimates(), self.after.estimates()
        change = self.after.change_from(self.before)
        rows = [(n, str(before[n]), str(after[n]), str(change.get(n, ""))) for n in after if n in before]
        pairs = zip(self.before.samples(4), self.after.samples(4), strict=True)
        samples = [(a.prompt, b.completion, a.completion) for b, a in pairs]
        table = html_table(("", "before", "after", "change"), rows, repr(self))
        return table + html_table(("prompt", "before", "after"), samples)


class Picture(Figure):
    """Be a figure that a notebook shows without any backend of matplotlib."""

    def _repr_png_(self) -> bytes:
        file = io.BytesIO()
        self.savefig(file, format="png", dpi=110)
        return file.getvalue()


def write_report(result: TrainResult) -> None:
    """Write `samples.md`, `curves.png` and last `report.json`, the mark of a finished run, into its folder."""
    config, before, after = result.config, result.before, result.after
    tokens = int(result.agent.num_timesteps)
    report = {
        "algo": config.algo,
        "env": config.env_id,
        "seed": config.seed,
        "n_timesteps": tokens,
        **({} if result.early_stopping is None else {"early_stopping": dict(result.early_stopping)}),
        **({} if result.alarm is None else {"alarm": dict(result.alarm)}),
        "seconds": round(result.seconds, 2),
        "before": before.to_dict(),
        "after": after.to_dict(),
        "change": {name: estimate.to_dict() for name, estimate in after.change_from(before).items()},
    }
    (result.folder / "samples.md").write_text(samples_markdown(before, after), encoding="utf-8")
    plot_curves(
        read_progress(result.folder / "progress.csv"),
        result.folder / "curves.png",
        title=f"{config.algo} on {config.env_id}, seed {config.seed}",
        judges=(*after.judges, *after.metrics),
        prompts=after.prompts,
        kl_target=config.kl_target,
        held_out={0: before.estimates(), result.tokens_of_after: after.estimates()},
    )
    replace_json(result.folder / REPORT, report, indent=2)


def samples_markdown(before: Evaluation, after: Evaluation, n: int = 16) -> str:
    """Return the first `n` completions before and after as Markdown. What models wrote is escaped."""
    lines = [f"# The same {after.prompts} before and after", ""]
    for pair in zip(before.samples(n), after.samples(n), strict=True):
        for name, sample in zip(("before", "after"), pair, strict=True):
            lines.append(f"- {name} ({sample.reward:.2f}): {sample_markdown(sample.asked, sample.completion)}")
        lines.append("")
    return "\n".join(lines)


def read_progress(path: str | Path) -> Curves:
    """Return the metrics of an SB3 `progress.csv` by tag: tokens (n,) and values (n,) of the rows that have the metric.

    Raises:
        FileNotFoundError: there is no such file.
    """
    with Path(path).open(newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row.get(STEP)]
    curves: dict[str, list[tuple[float, float]]] = {}
    for row in rows:
        for tag, text in row.items():
            if text and tag != STEP and (value := _number(text)) is not None:
                curves.setdefault(tag, []).append((float(row[STEP]), value))
    return {tag: (np.array(points)[:, 0], np.array(points)[:, 1]) for tag, points in curves.items()}


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def plot_curves(
    curves: Curves,
    path: str | Path,
    title: str = "",
    judges: tuple[str, ...] = (),
    kl_target: float | None = None,
    held_out: Mapping[float, Mapping[str, Estimate]] | None = None,
    prompts: str = "held-out prompts",
) -> Path:
    """Write what `draw_curves` draws, and return the path. Its extension decides the format."""
    draw_curves(curves, title, judges, kl_target, held_out, prompts).savefig(path, dpi=110)
    return Path(path)


def draw_curves(
    curves: Curves,
    title: str = "",
    judges: tuple[str, ...] = (),
    kl_target: float | None = None,
    held_out: Mapping[float, Mapping[str, Estimate]] | None = None,
    prompts: str = "held-out prompts",
) -> Picture:
    """Draw reward, judges, KL with its target, entropy, length and diversity against tokens.

    Args:
        curves: from `read_progress`.
        title: what stands above the panels.
        judges: names of judges and of metrics of the task; each gets a panel.
        kl_target: drawn into the panel of the KL.
        held_out: estimates on held-out prompts by tokens trained (0 for before), drawn with their 95% intervals.
        prompts: what these prompts are, for the legend.
    """
    first, *others = PANELS.items()
    names = dict([first, *((f"rlhf/{judge}", f"{judge} score") for judge in judges), *others])
    tags = [tag for tag in names if tag in curves] or ["rlhf/reward"]
    columns = min(3, len(tags))
    rows = -(-len(tags) // columns)
    figure = Picture(figsize=(4.2 * columns, 2.9 * rows + 0.4), layout="constrained")
    FigureCanvasAgg(figure)
    grid: Any = figure.subplots(rows, columns, squeeze=False, sharex=True)
    axes = list(grid.flat)
    for axis, tag in zip(axes, tags, strict=False):
        _draw_panel(axis, names[tag], curves.get(tag), _points(tag, held_out or {}), prompts)
        if tag == "rlhf/kl" and kl_target is not None:
            axis.axhline(kl_target, color=TARGET, linestyle="--", linewidth=1.2, label=f"target {kl_target:g}")
    for axis in axes[len(tags) :]:
        axis.remove()
    for axis in axes[max(0, len(tags) - columns) : len(tags)]:  # the lowest panel of each column
        axis.set_xlabel("tokens")
        axis.tick_params(labelbottom=True)
    entries = {
        label: line for axis in figure.axes for line, label in zip(*axis.get_legend_handles_labels(), strict=True)
    }
    figure.legend(entries.values(), entries.keys(), loc="outside upper right", ncols=3, frameon=False, fontsize=9)
    figure.suptitle(title, x=0.01, ha="left", fontsize=11, fontweight="bold")
    return figure


def _draw_panel(
    axis: Axes,
    title: str,
    curve: tuple[np.ndarray, np.ndarray] | None,
    points: list[tuple[float, Estimate]],
    prompts: str,
) -> None:
    axis.set_title(title, fontsize=10, loc="left")
    axis.grid(alpha=0.25, linewidth=0.6)
    axis.spines[["top", "right"]].set_visible(False)
    axis.xaxis.set_major_formatter(lambda x, _: f"{x / 1000:g}k" if x >= 1000 else f"{x:g}")
    if curve is not None:
        axis.plot(*curve, color=TRAINING, linewidth=1.6, label="training rollouts")
    if points:
        x = [step for step, _ in points]
        mean, low, high = (np.array([getattr(e, name) for _, e in points]) for name in ("mean", "low", "high"))
        errors = np.maximum([mean - low, high - mean], 0.0)
        axis.errorbar(x, mean, yerr=errors, fmt="o", color=HELD_OUT, capsize=3, markersize=5, label=f"{prompts}, 95%")


def _points(tag: str, held_out: Mapping[float, Mapping[str, Estimate]]) -> list[tuple[float, Estimate]]:
    name = tag.removeprefix("rlhf/")
    if name == "distinct_bigrams":  # it depends on the number of texts, and a rollout has another
        return []
    return [(step, estimates[name]) for step, estimates in held_out.items() if name in estimates]
