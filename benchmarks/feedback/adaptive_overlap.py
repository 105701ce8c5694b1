"""Measure how many labels an overlap that adapts saves, and what it costs, with the answers of real raters.

`python -m benchmarks.feedback.adaptive_overlap` draws pairs of rated snippets that the same people rated. An annotator
is one of these raters, drawn at random: their answer is the order of their own two ratings, or a tie. The truth is the
order of the means of the raters who are not asked. Each pair is asked in the same order of raters by every policy: two
or three votes fixed, or two first and more while `rlhf_envs.feedback.deciding` says so, up to a maximum. The vote's
winner is right (1), wrong (0), or nobody (1/2). Intervals (95%) are bootstraps over the batches of raters; accuracies
are compared pair by pair with three votes.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.stats import bootstrap

from rlhf_envs.feedback.deciding import FIRST, judgements_needed

from .crowd import load_batches

__all__ = ["ask", "main", "measure"]

MOST = 7  # raters of a pair who may be asked
POLICIES: dict[str, tuple[int, int]] = {  # (first, most)
    "two votes": (2, 2),
    "three votes": (3, 3),
    "adaptive, up to 3": (FIRST, 3),
    "adaptive, up to 4": (FIRST, 4),
    "adaptive, up to 5": (FIRST, 5),
}


def ask(votes: Sequence[int], first: int, most: int) -> tuple[float, int]:
    """Return (how right the winner is, labels) if votes (1 right, 0 tie, -1 wrong) are asked for one after another."""
    values: list[dict[str, Any]] = []
    while judgements_needed("pairwise", values, first, most) > 0:
        vote = votes[len(values)]
        values.append({"choice": None if vote == 0 else int(vote < 0)})
    return 0.5 + 0.5 * float(np.sign(sum(votes[: len(values)]))), len(values)


def draw(batches: Sequence[np.ndarray], n: int, min_gap: float, seed: int) -> list[tuple[int, list[int]]]:
    """Return n pairs as (batch, votes of `MOST` of its raters in random order)."""
    generator = np.random.default_rng(seed)
    large = [b for b, batch in enumerate(batches) if len(batch) >= MOST + 3]
    pairs: list[tuple[int, list[int]]] = []
    while len(pairs) < n:
        b = int(generator.choice(large))
        batch = batches[b]
        i, j = generator.choice(batch.shape[1], 2, replace=False)
        asked = generator.permutation(len(batch))[:MOST]
        means = np.delete(batch, asked, axis=0).mean(axis=0)
        if abs(means[i] - means[j]) > min_gap:
            votes = np.sign(batch[asked, i] - batch[asked, j]) * np.sign(means[i] - means[j])
            pairs.append((b, [int(vote) for vote in votes]))
    return pairs


def measure(pairs: Sequence[tuple[int, list[int]]]) -> dict[str, dict[str, tuple[float, float, float]]]:
    """Return by policy the accuracy, its gain over three votes, and the labels as a share of three, with intervals."""
    base = [ask(votes, 3, 3)[0] for _, votes in pairs]
    table: dict[str, dict[str, tuple[float, float, float]]] = {}
    for name, (first, most) in POLICIES.items():
        found = [ask(votes, first, most) for _, votes in pairs]
        columns = {
            "accuracy": [right for right, _ in found],
            "gain over three votes": [right - other for (right, _), other in zip(found, base, strict=True)],
            "labels, of three": [labels / 3 for _, labels in found],
        }
        table[name] = {what: _interval([b for b, _ in pairs], values) for what, values in columns.items()}
    return table


def _interval(batches: Sequence[int], values: Sequence[float]) -> tuple[float, float, float]:
    """Return (mean, low, high), by a bootstrap over batches."""
    mean = float(np.mean(values))
    sums: dict[int, list[float]] = {}
    for b, value in zip(batches, values, strict=True):
        total = sums.setdefault(b, [0.0, 0.0])
        total[0] += value
        total[1] += 1
    totals, counts = np.array(list(sums.values())).T
    if np.ptp(values) == 0:
        return mean, mean, mean

    def ratio(total: np.ndarray, count: np.ndarray, axis: int = -1) -> np.ndarray:
        return np.asarray(total.sum(axis=axis) / count.sum(axis=axis))

    found = bootstrap((totals, counts), ratio, paired=True, n_resamples=999, method="percentile", rng=0)
    return mean, float(found.confidence_interval.low), float(found.confidence_interval.high)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=2000, help="for each seed")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--gaps", type=float, nargs="+", default=[0.0, 1.0], help="least difference of the means")
    args = parser.parse_args(arguments)
    start = time.perf_counter()
    batches = load_batches()
    for gap in args.gaps:
        pairs = [pair for seed in range(args.seeds) for pair in draw(batches, args.pairs, gap, seed)]
        table = measure(pairs)
        what = f"more than {gap:g} apart" if gap else "that differ"
        print(f"{len(pairs):,} pairs of {args.seeds} seeds, means {what}\n")
        columns = list(table["two votes"])
        print("| | " + " | ".join(columns) + " |\n|" + "---|" * (len(columns) + 1))
        for name, cells in table.items():
            print(f"| {name} | " + " | ".join(_cell(what, *cell) for what, cell in cells.items()) + " |")
        adaptive = table["adaptive, up to 3"]
        (gain, low, high), share = adaptive["gain over three votes"], adaptive["labels, of three"]
        reached = low <= 0 <= high or gain > 0
        verdict = "no clear difference from three votes" if low <= 0 <= high else "better" if gain > 0 else "worse"
        print(f"\nadaptive, up to 3: {verdict}, with {share[0]:.3f} of the labels", end=" ")
        print(f"({'reached' if reached and share[2] <= 0.75 else 'MISSED'}: at most 0.75)\n")
    print(f"{time.perf_counter() - start:.0f} s")


def _cell(what: str, mean: float, low: float, high: float) -> str:
    sign = "+" if what.startswith("gain") else ""
    return f"{mean:{sign}.4f}" if low == high else f"{mean:{sign}.4f} ({low:{sign}.4f} to {high:{sign}.4f})"


if __name__ == "__main__":
    main()
