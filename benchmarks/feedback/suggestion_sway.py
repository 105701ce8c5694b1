"""Measure how much a suggestion that annotators see before they answer sways their labels and the reward model.

`python -m benchmarks.feedback.suggestion_sway` asks about pairs of rated snippets as `benchmarks.feedback.next_item`
does: one of the people who rated both answers. A model suggests an answer to each pair. It knows the mean ratings, with
some noise (`--noise`), but likes long texts (`--length-bias`: so many standard deviations of rating for one of length).
Annotators who see it before they answer follow it with the probability `anchoring` where their own answer differs; 0 is
a suggestion that is shown after. Swept, because what is known is not about this task: in Jacowitz and Kahneman, 1995
(https://doi.org/10.1177/01461672952111004) estimates moved by 0.49 of the way to an anchor. Printed for each anchoring,
as means and 95% intervals (bootstraps over the seeds) of the change from 0: how often labels agree with the suggestion;
how often they are right; how often the longer text wins; the accuracy of the reward model that is fitted to them on
held-out pairs of people, and its leaning to length (the correlation of its scores with the texts' lengths, on the
held-out texts).
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import bootstrap

from rlhf_envs.preferences.next_item import fit_head

from .next_item import load_embedded
from .queries import BATCH

__all__ = ["COLUMNS", "main", "measure"]

COLUMNS = ("agrees with the model", "right", "longer wins", "reward model right", "reward model, r with length")
DECAY = 3.0


def measure(
    rows: Sequence[dict[str, Any]],
    embeddings: np.ndarray,
    anchorings: Sequence[float],
    pairs: int,
    length_bias: float,
    noise: float,
    seed: int,
) -> np.ndarray:
    """Return one seed's figures, (anchorings, `COLUMNS`). All anchorings share pairs, answers and draws."""
    generator = np.random.default_rng(seed)
    means = np.array([row["mean"] for row in rows], float)
    lengths = np.log([len(row["text"]) for row in rows])
    lengths = (lengths - lengths.mean()) / lengths.std()
    likes = (means - means.mean()) / means.std() + length_bias * lengths  # what the suggesting model sees
    training = np.array([row["split"] == "train" for row in rows])
    left, right, own = [], [], []
    while len(own) < pairs:
        i = int(generator.integers(len(rows)))
        j = i // BATCH * BATCH + int(generator.integers(BATCH))
        if i == j or j >= len(rows) or not (training[i] and training[j]) or means[i] == means[j]:
            continue
        gaps = np.subtract(rows[i]["ratings"], rows[j]["ratings"])
        if gaps.any():
            left.append(i)
            right.append(j)
            own.append(generator.choice(gaps[gaps != 0]) > 0)
    a, b, answers = np.array(left), np.array(right), np.array(own)
    suggested = likes[a] - likes[b] + noise * generator.logistic(size=pairs) > 0
    follows = generator.random(pairs)  # the same for every anchoring
    held = np.flatnonzero([row["split"] == "test" for row in rows])
    x, y = generator.choice(held, (2, 20_000))
    clear = np.abs(means[x] - means[y]) > 1
    x, y = x[clear], y[clear]
    figures = []
    for anchoring in anchorings:
        labels = np.where(follows < anchoring, suggested, answers)
        head = fit_head(embeddings[a] - embeddings[b], labels.astype(float), np.ones(pairs), DECAY)
        scores = embeddings @ head
        figures.append(
            [
                np.mean(labels == suggested),
                np.mean(labels == (means[a] > means[b])),
                np.mean(labels == (lengths[a] > lengths[b])),
                np.mean((scores[x] > scores[y]) == (means[x] > means[y])),
                np.corrcoef(scores[held], lengths[held])[0, 1],
            ]
        )
    return np.array(figures)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--pairs", type=int, default=1000)
    parser.add_argument("--anchoring", type=float, nargs="+", default=[0.0, 0.1, 0.25, 0.5, 1.0])
    parser.add_argument("--length-bias", type=float, default=1.0)
    parser.add_argument("--noise", type=float, default=0.3, help="of the suggesting model")
    parser.add_argument("--dimensions", type=int, default=64)
    parser.add_argument("--model", default="minilm", help="whose embeddings")
    parser.add_argument("--snippets", type=int, help="take only the first ones, to try it out")
    parser.add_argument("--embeddings", type=Path, help="file to keep them in, or to read them from (.npy)")
    args = parser.parse_args(arguments)
    if args.anchoring[0] != 0 or args.seeds < 3:
        parser.error("the changes are from --anchoring 0, which comes first; an interval needs 3 seeds or more")
    start = time.perf_counter()
    rows, embeddings = load_embedded(args.snippets, args.model, args.embeddings, args.dimensions)
    found = np.stack(
        [
            measure(rows, embeddings, args.anchoring, args.pairs, args.length_bias, args.noise, seed)
            for seed in range(args.seeds)
        ]
    )  # (seeds, anchorings, columns)
    print(
        f"{args.pairs:,} pairs, {args.seeds} seeds; the mean, and the change from no anchoring with its 95% interval\n"
    )
    print("| anchoring | " + " | ".join(COLUMNS) + " |\n|" + "---|" * (len(COLUMNS) + 1))
    for k, anchoring in enumerate(args.anchoring):
        cells = []
        for column in range(len(COLUMNS)):
            cell = f"{found[:, k, column].mean():.3f}"
            change = found[:, k, column] - found[:, 0, column]
            if change.any():
                low, high = bootstrap((change,), np.mean, n_resamples=9999, rng=0).confidence_interval
                cell += f"; {change.mean():+.3f} ({low:+.3f} to {high:+.3f})"
            cells.append(cell)
        print(f"| {anchoring:g} | " + " | ".join(cells) + " |")
    print(f"\n{time.perf_counter() - start:.0f} s")


if __name__ == "__main__":
    main()
