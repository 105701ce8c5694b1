"""Measure a token's cost as environments, length, vocabulary, depth or trained blocks grow, beside the bare model.

`python -m benchmarks.scaling` measures the rollout (with reward and the reference's pass) and the update (one epoch,
minibatches of `MINIBATCH` completions) separately, of `ours` and of `floor` (see `benchmarks.throughput`) in turns,
prints a table per panel and the ratios that we ask for, and draws `docs/images/scaling.png`. Models are fresh and
GPT-2-shaped: 3 blocks of width 256 and 2,048 tokens, except for the size that a panel varies. In the panel "trained"
the last k of 16 blocks learn (0 is `train="head"`): an epoch's cost should be a straight line in k.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from .throughput import describe
from .work import FreshModel, Work
from .worker import interleave

__all__ = ["PANELS", "Panel", "main", "measure"]

MINIBATCH = 8
Costs = dict[tuple[str, str], float]  # by contender and part, microseconds per token


@dataclass(frozen=True)
class Panel:
    """Describe one size that grows: its label, its values and the work at each value."""

    label: str
    values: tuple[int, ...]
    toy: tuple[int, ...]
    make: Callable[[int], Work]
    linear: bool = False  # the axes of its plot


def _work(model: FreshModel, n_envs: int = 32, new_tokens: int = 32) -> Work:
    return Work(model, n_envs=n_envs, new_tokens=new_tokens, minibatches=max(1, n_envs // MINIBATCH))


PANELS = {
    "envs": Panel("environments", (4, 8, 16, 32, 64, 128, 256), (2, 4), lambda n: _work(FreshModel(), n_envs=n)),
    "length": Panel(
        "new tokens per completion",
        (32, 64, 128, 256, 512, 1024),
        (2, 4),
        lambda n: _work(FreshModel(), n_envs=MINIBATCH, new_tokens=n),
    ),
    "vocabulary": Panel(
        "tokens in the vocabulary",
        (2048, 8192, 32768, 131072),
        (64, 128),
        lambda n: _work(FreshModel(vocab_size=n), n_envs=MINIBATCH),
    ),
    "depth": Panel("blocks", (1, 2, 4, 8, 16), (1, 2), lambda n: _work(FreshModel(n_layer=n), n_envs=MINIBATCH)),
    "trained": Panel(
        "blocks trained, of 16",
        (0, 1, 2, 4, 8),
        (0, 1),
        lambda k: replace(_work(FreshModel(n_layer=16), n_envs=MINIBATCH), train=k or "head"),
        linear=True,
    ),
}


def measure(work: Work, repeats: int) -> Costs:
    """Return the median microseconds per token of rollout and update, of both contenders."""
    jobs: dict[str, tuple[str, Work, dict[str, Any]]] = {
        "ours": ("benchmarks.contenders:Ours", work, {}),
        "bare": ("benchmarks.contenders.floor:Floor", work, {}),
    }
    results = interleave(jobs, repeats, ["rollout", "update"])
    return {
        (name, part): 1e6 * statistics.median(m.seconds for m in measurements) / work.tokens
        for name, by_part in results.items()
        for part, measurements in by_part.items()
    }


def growth(costs: dict[int, Costs], contender: str, start: int, end: int) -> float:
    """Return the cost of a token at `end` divided by that at `start`, rollout and update together."""
    whole = {n: sum(cost for (name, _), cost in costs[n].items() if name == contender) for n in (start, end)}
    return whole[end] / whole[start]


def print_ratios(costs: dict[str, dict[int, Costs]]) -> None:
    """Print the ratios that we ask for, as far as their panels were measured."""
    envs, length = costs.get("envs", {}), costs.get("length", {})
    if len(envs) > 1:
        start, end = (32, 256) if {32, 256} <= envs.keys() else (min(envs), max(envs))
        ratio = growth(envs, "ours", start, end)
        print(f"from {start} to {end} environments: x {ratio:.2f} per token (asked: at most 1.10, from 32 to 256)")
    if len(length) > 1:
        start, end = (32, 512) if {32, 512} <= length.keys() else (min(length), max(length))
        ours, bare = (growth(length, name, start, end) for name in ("ours", "bare"))
        print(f"from {start} to {end} new tokens: x {ours:.2f} per token, the bare model x {bare:.2f} (asked: no more)")
    if len(trained := costs.get("trained", {})) > 1:
        for who in ("ours", "bare"):
            print(f"an epoch with k blocks trained, {who}: {_line({k: c[who, 'update'] for k, c in trained.items()})}")


def _line(costs: dict[int, float]) -> str:
    """Fit a line to an epoch's costs against the blocks trained, and return it in words with the largest deviation."""
    slope, head = np.polyfit(list(costs), list(costs.values()), 1)
    off = max(abs(cost / (head + slope * k) - 1) for k, cost in costs.items())
    return f"{head:.0f} + {slope:.0f} k microseconds per token, every one within {off:.0%} of it (asked: in proportion)"


def plot(costs: dict[str, dict[int, Costs]], path: Path) -> None:
    """Draw a panel for each size that grows."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(15, 8), layout="constrained")
    colors, styles = {"rollout": "tab:blue", "update": "tab:orange"}, {"ours": "o-", "bare": "s--"}
    grid = figure.subplots(2, 3).flatten()
    for axes, (name, by_value) in zip(grid, costs.items(), strict=False):
        values = sorted(by_value)
        for contender, style in styles.items():
            for part, color in colors.items():
                label = f"{part}, {'ours' if contender == 'ours' else 'bare model'}"
                ys = [by_value[n][contender, part] for n in values]
                axes.plot(values, ys, style, color=color, label=label, alpha=1.0 if contender == "ours" else 0.7)
        if PANELS[name].linear:
            axes.set_ylim(bottom=0)
        else:
            _log_axes(axes, lowest=min(min(c.values()) for c in by_value.values()))
        axes.set_xticks(values, [f"{n:,}" for n in values])
        axes.set_xlabel(PANELS[name].label)
        axes.set_ylabel("microseconds per token")
        axes.grid(which="both", alpha=0.25)
    for axes in grid[len(costs) :]:
        axes.set_axis_off()
    figure.axes[0].legend()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


def _log_axes(axes: Any, lowest: float) -> None:
    from matplotlib.ticker import FuncFormatter, NullFormatter

    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:,.0f}"))
    axes.yaxis.set_minor_formatter(FuncFormatter(lambda y, _: f"{y:,.0f}" if f"{y:e}"[0] in "25" else ""))
    axes.set_ylim(bottom=max(1.0, 0.7 * lowest))


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--panels", nargs="+", choices=PANELS, default=list(PANELS))
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--output", type=Path, default=Path("docs/images/scaling.png"))
    parser.add_argument("--toy", action="store_true", help="tiny sizes, only to see that it runs")
    args = parser.parse_args(arguments)
    print(f"{describe()}, {args.threads} threads, {args.device}, medians of {args.repeats}", flush=True)
    costs: dict[str, dict[int, Costs]] = {}
    for name in args.panels:
        panel = PANELS[name]
        print(
            f"\nmicroseconds per token\n{panel.label:>24} | rollout: ours |   bare | update: ours |  bare | ours / bare"
        )
        costs[name] = {}
        for n in panel.toy if args.toy else panel.values:
            work = replace(panel.make(n), threads=args.threads, device=args.device)
            if args.toy:
                work = _toy(work)
            costs[name][n] = c = measure(work, args.repeats)
            own, bare = (c[who, "rollout"] + c[who, "update"] for who in ("ours", "bare"))
            rollout, update = (f"{c['ours', p]:6.0f} | {c['bare', p]:6.0f}" for p in ("rollout", "update"))
            print(f"{n:>24,} | {rollout:>21} | {update:>20} | {own / bare:.2f}", flush=True)
    print()
    print_ratios(costs)
    plot(costs, args.output)
    print(f"drawn: {args.output}")


def _toy(work: Work) -> Work:
    assert isinstance(work.model, FreshModel)
    vocab_size = min(work.model.vocab_size, 128)
    model = replace(work.model, n_embd=16, n_head=2, n_layer=min(work.model.n_layer, 2), vocab_size=vocab_size)
    n_envs = min(work.n_envs, 4)
    return replace(work, model=model, n_envs=n_envs, new_tokens=min(work.new_tokens, 4), prompt_tokens=2, minibatches=1)


if __name__ == "__main__":
    main()
