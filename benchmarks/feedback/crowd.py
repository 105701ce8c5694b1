"""Measure whether weighing annotators beats counting votes: real raters of film snippets, and planted spammers.

`python -m benchmarks.feedback.crowd` takes the bundled rated snippets. The raters are anonymous, but they came in
batches: within each batch of 30 snippets (the last has 15) the k-th rating is always the same person's, see
`check_identity`. So there are 6,635 real annotators with 30 ratings each. Every seed has 30 batches of its own, all
from the half of them that is kept for the figures (`--part development` is the other half, for choosing constants), and
draws a panel of real raters for each; the planted ones rate like nobody in particular: each rating is drawn from all
ratings of the seed's batches. Everyone's answer to a pair of the batch is the order (or tie) of their own two ratings.
The clean order is that of the means of the real raters who are *not* on the panel. Printed are means and standard
deviations over the seeds of

- pairs: the share ordered as in the clean order (a tie counts half) by the majority and by Dawid-Skene;
- ranks: Kendall's tau with the clean order, by Bradley-Terry, noisy Bradley-Terry, the mean rating, and the mean of
  standardised ratings without the spammers found;
- found: the share of planted raters found by their votes and by their ratings, and of real ones called spammers; how
  these go with the clean scores, and how the other real ones do (correlations);

and the gains over the simpler way, seed by seed, as means and standard errors.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise
from typing import Any, Literal

import numpy as np
from scipy.stats import kendalltau

from rlhf_envs.datasets import load_rows
from rlhf_envs.preferences.crowd import (
    TIE,
    PairVote,
    Rating,
    Vote,
    bradley_terry,
    dawid_skene,
    find_spammers,
    majority_vote,
    noisy_bradley_terry,
)
from rlhf_envs.preferences.ratings import mean_ratings, standardise_ratings

__all__ = ["Panel", "check_identity", "load_batches", "main", "measure", "part_of"]

BATCH = 30


@dataclass(frozen=True)
class Panel:
    """Describe who answers about a batch."""

    real: int | None  # drawn from the batch's raters; None for half of them
    planted: int
    span: int = 1  # batches that a planted spammer rates

    def __str__(self) -> str:
        span = f", over {self.span} batches" if self.span > 1 else ""
        return f"{'half' if self.real is None else self.real} real + {self.planted} clicking{span}"


PANELS = (Panel(5, 0), Panel(5, 1), Panel(5, 2), Panel(5, 2, span=3), Panel(5, 4), Panel(None, 1), Panel(None, 5))
CLAIMS = (
    ("pairs: Dawid-Skene", "pairs: majority"),
    ("ranks: noisy B.-T.", "ranks: Bradley-Terry"),
    ("ranks: cleaned rating", "ranks: mean rating"),
)


def load_batches() -> list[np.ndarray]:
    """Return the ratings of each batch, (raters, snippets)."""
    rows = load_rows("rated_snippets", required=("text", "ratings"))
    ratings: list[Any] = [row["ratings"] for row in rows]
    return [np.array(ratings[start : start + BATCH], float).T for start in range(0, len(ratings), BATCH)]


def part_of(batches: Sequence[np.ndarray], part: Literal["development", "test"]) -> list[np.ndarray]:
    """Return every other batch, shuffled, because the file is in no random order."""
    chosen = batches[0::2] if part == "development" else batches[1::2]
    return [chosen[b] for b in np.random.default_rng(0).permutation(len(chosen))]


def check_identity(batches: Sequence[np.ndarray]) -> tuple[float, float]:
    """Correlate how the k-th ratings of neighbouring snippets deviate from the snippets' means.

    Returns:
        The correlation for neighbours within a batch, and for the last of one batch and the first of the next: if the
        k-th rater is one person within a batch and another in the next, the first is well above 0 and the second is 0.
    """
    residuals = [batch - batch.mean(axis=0) for batch in batches]
    within = np.concatenate([np.stack([r[:, :-1].ravel(), r[:, 1:].ravel()]) for r in residuals], axis=1)
    across = [np.stack([a[:, -1], b[:, 0]]) for a, b in pairwise(residuals) if len(a) == len(b)]
    return float(np.corrcoef(within)[0, 1]), float(np.corrcoef(np.concatenate(across, axis=1))[0, 1])


def answers(
    batches: Sequence[np.ndarray], panel: Panel, n_pairs: int, seed: int
) -> tuple[list[Rating], list[Vote], dict[Any, float]]:
    """Return the panels' ratings and votes, and the clean score of every snippet by raters outside the panel."""
    generator = np.random.default_rng(seed)
    everything = np.concatenate([batch.ravel() for batch in batches])
    ratings: list[Rating] = []
    votes: list[Vote] = []
    clean: dict[Any, float] = {}
    for b, batch in enumerate(batches):
        raters = generator.permutation(len(batch))
        size = len(batch) // 2 if panel.real is None else panel.real
        chosen, others = raters[:size], raters[size:]
        clicks = generator.choice(everything, (panel.planted, batch.shape[1]))
        names = [f"real-{b}-{k}" for k in chosen] + [f"planted-{b // panel.span}-{k}" for k in range(panel.planted)]
        values = np.concatenate([batch[chosen], clicks])  # (panel, snippets)
        clean |= {(b, i): float(mean) for i, mean in enumerate(batch[others].mean(axis=0))}
        ratings += [
            Rating(n, (b, i), float(v)) for n, row in zip(names, values, strict=True) for i, v in enumerate(row)
        ]
        pairs = list(combinations(range(batch.shape[1]), 2))
        for p in generator.choice(len(pairs), min(n_pairs, len(pairs)), replace=False):
            i, j = pairs[p]
            for name, row in zip(names, values, strict=True):
                label = TIE if row[i] == row[j] else int(row[j] > row[i])
                votes.append(Vote(((b, i), (b, j)), name, label))
    return ratings, votes, clean


def measure(batches: Sequence[np.ndarray], panel: Panel, n_pairs: int, seed: int) -> dict[str, float]:
    """Return the metrics of one seed."""
    ratings, votes, clean = answers(batches, panel, n_pairs, seed)
    figures: dict[str, float] = {}
    for name, aggregate in (("majority", majority_vote(votes)), ("Dawid-Skene", dawid_skene(votes, symmetric=True))):
        figures[f"pairs: {name}"] = _order_accuracy(aggregate.probabilities, clean)
    by_votes, by_ratings = find_spammers(votes).spammers, find_spammers(ratings).spammers
    comparisons = [PairVote(v.annotator, *v.item, v.item[v.label]) for v in votes if v.label != TIE]  # type: ignore[call-arg, misc, index]
    kept = [rating for rating in ratings if rating.annotator not in by_ratings]
    scores = {
        "Bradley-Terry": _by_batch(bradley_terry, comparisons),
        "noisy B.-T.": _by_batch(noisy_bradley_terry, comparisons),
        "mean rating": mean_ratings(ratings),
        "cleaned rating": mean_ratings(standardise_ratings(kept)),
    }
    for name, by_item in scores.items():
        figures[f"ranks: {name}"] = _rank_correlation(by_item, clean)
    names = {rating.annotator for rating in ratings}
    planted = {name for name in names if name.startswith("planted")}
    for how, found in (("votes", by_votes), ("ratings", by_ratings)):
        figures[f"found by {how}"] = len(found & planted) / len(planted) if planted else float("nan")
        figures[f"real called so by {how}"] = len(found - planted) / len(names - planted)
    goes_along = {name: _correlation([r for r in ratings if r.annotator == name], clean) for name in names - planted}
    for what, group in (("those", by_ratings - planted), ("the other real", names - planted - by_ratings)):
        figures[f"correlation of {what}"] = float(np.mean([goes_along[name] for name in group])) if group else np.nan
    return figures


def _correlation(ratings: Sequence[Rating], clean: dict[Any, float]) -> float:
    """Correlate one rater's ratings with the clean scores. Return 0 if all are alike."""
    own, others = [rating.value for rating in ratings], [clean[rating.item] for rating in ratings]
    return float(np.corrcoef(own, others)[0, 1]) if len(set(own)) > 1 else 0.0


def _order_accuracy(probabilities: dict[Any, np.ndarray], clean: dict[Any, float]) -> float:
    right = []
    for (i, j), p in probabilities.items():
        if clean[i] != clean[j]:
            lead = round(float(p[0] - p[1]), 9)
            right.append(0.5 + 0.5 * np.sign(lead) * np.sign(clean[i] - clean[j]))
    return float(np.mean(right))


def _by_batch(rank: Any, comparisons: Sequence[PairVote]) -> dict[Any, float]:
    by_batch: dict[Any, list[PairVote]] = {}
    for comparison in comparisons:
        by_batch.setdefault(comparison.left[0], []).append(comparison)  # type: ignore[index]
    return {item: score for some in by_batch.values() for item, score in rank(some).scores.items()}


def _rank_correlation(scores: dict[Any, float], clean: dict[Any, float]) -> float:
    batches: dict[Any, list[Any]] = {}
    for item in scores:
        batches.setdefault(item[0], []).append(item)
    taus = [kendalltau([scores[i] for i in items], [clean[i] for i in items]).statistic for items in batches.values()]
    return float(np.mean(taus))


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--batches", type=int, default=30, help="batches of 30 snippets per seed")
    parser.add_argument("--pairs", type=int, default=60, help="pairs per batch")
    parser.add_argument("--panels", type=int, default=len(PANELS), help="take only the first ones")
    parser.add_argument("--part", default="test", choices=("development", "test"), help="of the batches")
    args = parser.parse_args(arguments)
    panels = PANELS[: args.panels]
    start = time.perf_counter()
    batches = load_batches()
    part = part_of(batches, args.part)
    if args.seeds * args.batches > len(part):
        parser.error(f"{args.seeds} seeds of {args.batches} batches are more than the {len(part)} {args.part} batches")
    within, across = check_identity(batches)
    print(
        f"{len(batches)} batches, {sum(map(len, batches)):,} raters; the k-th ratings of neighbouring snippets deviate"
    )
    print(f"alike: correlation {within:.3f} within a batch, {across:.3f} from one batch to the next")
    print(f"{args.batches} {args.part} batches per seed, {args.pairs} pairs of each; ", end="")
    print(f"means ± standard deviations over {args.seeds} seeds")
    results: dict[Panel, list[dict[str, float]]] = {}
    for panel in panels:
        results[panel] = [
            measure(part[seed * args.batches : (seed + 1) * args.batches], panel, args.pairs, seed)
            for seed in range(args.seeds)
        ]
    print("\n| | " + " | ".join(map(str, panels)) + " |\n|" + "---|" * (len(panels) + 1))
    for name in results[panels[0]][0]:
        cells = [_spread([figures[name] for figures in results[panel]]) for panel in panels]
        print(f"| {name} | " + " | ".join(cells) + " |")
    print()
    for ours, theirs in CLAIMS:
        for panel in panels:
            gains = [figures[ours] - figures[theirs] for figures in results[panel]]
            error = statistics.stdev(gains) / len(gains) ** 0.5 if len(gains) > 1 else float("nan")
            gain = f"{statistics.mean(gains):+.3f} ± {error:.3f} (standard error)"
            verdict = f"better in {sum(gain > 0 for gain in gains)} of {len(gains)} seeds"
            print(f"- {panel}: {ours} over {theirs.split(': ')[1]}: {gain}, {verdict}")
    print(f"\n{time.perf_counter() - start:.0f} s")


def _spread(values: Sequence[float]) -> str:
    values = [value for value in values if not np.isnan(value)]  # a share of nobody
    if not values:
        return ""
    deviation = statistics.stdev(values) if len(values) > 1 else float("nan")
    return f"{statistics.mean(values):.3f} ± {deviation:.3f}"


if __name__ == "__main__":
    main()
