"""Measure what two people who click at random cost where people are the reward, with and without weighing them.

`python -m benchmarks.feedback.human_weights` takes the bundled rated snippets (see `benchmarks.feedback.crowd`). Seven
people judge each batch of 30 snippets: five real raters of the batch, and two who draw each rating from all ratings.
Their ratings become rewards as in `rlhf_envs.rewards.human.HumanReward`, by the functions that it calls. The clean
order is that of the means of the real raters who are not asked. Printed are the correlations of the reward with the
clean means, averaged over the batches, as means and standard deviations over the seeds; of the same five people alone
and of seven real people for comparison; and the cost of the clickers: the correlation of the five alone less that of
the seven. Constants were chosen on the other half of the batches (`--part development`).
"""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np
from rich.console import Console

from agents.cli.tables import make_table
from benchmarks.feedback.crowd import load_batches, part_of
from rlhf_envs.rewards.human.weighing import weighed_mean, weights_of

__all__ = ["main", "rewards_of"]

REAL, CLICKING = 5, 2
ARMS = ("5 real", "5 real + 2 clicking, mean", "5 real + 2 clicking, weighed", "7 real, mean", "7 real, weighed")


def rewards_of(ratings: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the human reward of each snippet, the plain mean and weighed, from ratings (people, snippets)."""
    rows: list[dict[str, Any]] = [
        {"annotator": f"person-{person}", "item_id": item, "label": float(rating)}
        for person, given in enumerate(ratings)
        for item, rating in enumerate(given)
    ]
    found = []
    for weights in ({}, weights_of(rows)):
        labels = [
            [(row["annotator"], row["label"]) for row in rows if row["item_id"] == i] for i in range(len(ratings.T))
        ]
        found.append(np.array([weighed_mean(one, weights) for one in labels]))
    return found[0], found[1]


def measure(batches: list[np.ndarray], seed: int) -> list[float]:
    """Return the mean correlation over the batches of each arm."""
    draw, everything = np.random.default_rng(seed), np.concatenate([batch.ravel() for batch in batches])
    rows = []
    for batch in batches:
        people = draw.permutation(len(batch))
        clean = batch[people[REAL + CLICKING :]].mean(axis=0)
        clicks = draw.choice(everything, (CLICKING, batch.shape[1]))
        five = batch[people[:REAL]]
        of_arms = [five.mean(axis=0), *rewards_of(np.concatenate([five, clicks]))]
        of_arms += rewards_of(batch[people[: REAL + CLICKING]])
        rows.append([np.corrcoef(scores, clean)[0, 1] for scores in of_arms])
    return [float(value) for value in np.mean(rows, axis=0)]


def main(arguments: list[str] | None = None) -> None:
    """Run the benchmark and print its table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--batches", type=int, default=30, help="batches of 30 snippets per seed")
    parser.add_argument("--part", default="test", choices=("development", "test"), help="of the batches")
    args = parser.parse_args(arguments)
    part = [batch for batch in part_of(load_batches(), args.part) if batch.shape[1] == 30]
    if args.seeds * args.batches > len(part):
        parser.error(f"{args.seeds} seeds of {args.batches} batches are more than the {len(part)} {args.part} batches")
    own = [part[seed * args.batches : (seed + 1) * args.batches] for seed in range(args.seeds)]
    found = np.array([measure(batches, seed) for seed, batches in enumerate(own)])  # (seeds, arms)
    rows = [
        [arm, f"{values.mean():.3f} ± {values.std(ddof=1):.3f}", " ".join(f"{value:.3f}" for value in values)]
        for arm, values in zip(ARMS, found.T, strict=True)
    ]
    Console(width=110).print(make_table(["people", "correlation", "by seed"], rows, left=1))
    for name, arm in (("the mean", 1), ("weighed", 2)):
        costs = found[:, 0] - found[:, arm]
        print(f"what the clickers cost, {name}: {costs.mean():.4f}, largest of a seed {costs.max():.4f}")


if __name__ == "__main__":
    main()
