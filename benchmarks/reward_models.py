"""What reward models learn from people: the rated film snippets, where each has 15 to 29 raters.

`python -m benchmarks.reward_models` fits them to pairs of the training split whose mean ratings differ by more than 1
and measures them on such pairs of the test split, over several seeds: backbones, which part of them learns, ratings in
the place of pairs, calibration (the temperature comes from the validation split), accuracy by how far people agree, and
pseudo-labels. The part "choice" compares what of minilm may learn, and at which rate, on pairs of the validation split.
`--parts` chooses; `--toy` runs everything in a minute, with figures that mean nothing.
"""

from __future__ import annotations

import argparse
import random
import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from rlhf_envs.datasets import load_rows
from rlhf_envs.preferences import (
    fit_bradley_terry,
    fit_ensemble,
    fit_ratings,
    load_backbone,
    pseudo_label,
)
from rlhf_envs.preferences.bradley_terry import evaluate_pairs, measure_differences
from rlhf_envs.preferences.calibration import accuracy_by_agreement, best_temperature, calibration_error, reliability
from rlhf_envs.rewards.reward_model import score_texts

MIN_GAP = 1.0
PARTS = ("raters", "choice", "backbones", "variants", "pseudo")
EDGES = (0.5, 0.6, 0.7, 0.8, 0.9, 1.0)


class Size(NamedTuple):
    """Hold the number of pairs, seeds and labels."""

    tiny_pairs: int = 2000
    minilm_pairs: int = 1000
    choice_pairs: int = 600  # to fit to, and as many to choose by
    held_out: int = 1000
    validation: int = 400
    seeds: int = 3
    labels: tuple[int, ...] = (100, 300)
    pool: int = 800
    cap: int = 400
    examples: int = 600  # that labels alone are fitted with, over all epochs


TOY = Size(24, 8, 8, 20, 12, 2, (16,), 16, 8, 32)


class Setting(NamedTuple):
    """Describe one way to fit."""

    name: str
    model: str
    loss: str = "bt"
    train: str | int = "full"
    learning_rate: float = 5e-4
    batch_size: int = 32


# What "choice" chooses among; minilm has 6 blocks.
CHOICES = (
    Setting("minilm, all blocks, 1e-4", "minilm", learning_rate=1e-4, batch_size=16),
    Setting("minilm, all blocks, 2e-4", "minilm", learning_rate=2e-4, batch_size=16),
    Setting("minilm, last 3 blocks, 3e-4", "minilm", train=3, learning_rate=3e-4, batch_size=16),
)
BACKBONES = (
    Setting("tiny", "tiny"),
    Setting("minilm", "minilm", train=3, learning_rate=3e-4, batch_size=16),
)
VARIANTS = (
    Setting("tiny, last block", "tiny", train=1),
    Setting("tiny, LoRA", "tiny", train="lora", learning_rate=2e-3),
    Setting("tiny, head only", "tiny", train="head", learning_rate=1e-2),
    Setting("tiny, ratings, least squares", "tiny", loss="mse"),
    Setting("tiny, ratings, ordinal", "tiny", loss="ordinal"),
    Setting("minilm, all blocks", "minilm", learning_rate=2e-4, batch_size=16),
    Setting("minilm, LoRA", "minilm", train="lora", learning_rate=2e-3, batch_size=16),
    Setting("minilm, head only", "minilm", train="head", learning_rate=5e-3, batch_size=16),
)


@lru_cache
def snippets(split: str) -> list[dict[str, Any]]:
    return load_rows("rated_snippets", split, required=("text",))


def agreement(first: Sequence[float], second: Sequence[float]) -> float:
    """Return how often a random rater of the first text is above one of the second. A tie counts half."""
    difference = np.array(first)[:, None] - np.array(second)[None, :]
    return float(np.mean((difference > 0) + 0.5 * (difference == 0)))


def human_pairs(split: str, n: int, seed: int, min_gap: float = MIN_GAP) -> list[dict[str, Any]]:
    """Draw pairs of snippets whose means differ by more than `min_gap`. Snippets are in about equally many pairs."""
    generator = random.Random(seed)
    pairs: list[dict[str, Any]] = []
    while len(pairs) < n:
        order = generator.sample(snippets(split), len(snippets(split)))
        for first, second in zip(order[::2], order[1::2], strict=False):
            low, high = sorted((first, second), key=lambda row: float(row["mean"]))
            if high["mean"] - low["mean"] > min_gap:
                texts = {"prompt": "", "chosen": high["text"], "rejected": low["text"]}
                pairs.append({**texts, "rows": (high, low)})
    return pairs[:n]


def raters_accuracy(pairs: Iterable[dict[str, Any]]) -> float:
    """Return how often one rater of each text orders a pair as the other raters' means do. A tie counts half."""
    shares = []
    for pair in pairs:
        high, low = (np.array(row["ratings"], dtype=float) for row in pair["rows"])
        others_high, others_low = ((r.sum() - r) / (len(r) - 1) for r in (high, low))
        one = np.sign(high[:, None] - low[None, :])  # (raters of the higher, raters of the lower)
        others = np.sign(others_high[:, None] - others_low[None, :])
        shares.append(np.mean((one == others) + 0.5 * ((one == 0) != (others == 0))))
    return float(np.mean(shares))


def options_of(setting: Setting, seed: int) -> Any:
    return {
        "train": setting.train,
        "learning_rate": setting.learning_rate,
        "batch_size": setting.batch_size,
        "seed": seed,
    }


def choose(settings: Sequence[Setting], size: Size) -> None:
    """Fit each setting once and print its accuracy on pairs of the validation split. The test split is not read."""
    validation = human_pairs("validation", size.choice_pairs, 4)
    print(f"{size.choice_pairs} pairs to fit to, {len(validation)} of the validation split to choose by, seed 0\n")
    print("| reward model | validation accuracy | loss | seconds |\n|---|---|---|---|")
    accuracies: dict[str, float] = {}
    for setting in settings:
        model, tokenizer = load_backbone(setting.model)
        pairs, start = human_pairs("train", size.choice_pairs, 0), time.perf_counter()
        fit_bradley_terry(model, tokenizer, pairs, validation[:8], **options_of(setting, 0))
        seconds = time.perf_counter() - start
        measured = evaluate_pairs(model, tokenizer, validation)
        accuracies[setting.name] = measured.accuracy
        print(f"| {setting.name} | {measured.accuracy:.3f} | {measured.loss:.3f} | {seconds:.0f} |", flush=True)
    print(f"\nthe best accuracy: {max(accuracies, key=lambda name: accuracies[name])}")


def fit(setting: Setting, size: Size, seed: int) -> dict[str, Any]:
    """Fit one reward model and return its metrics on the held-out pairs, which are the same for all."""
    n = size.tiny_pairs if setting.model == "tiny" else size.minilm_pairs
    pairs, held_out = human_pairs("train", n, seed), human_pairs("test", size.held_out, 1)
    model, tokenizer = load_backbone(setting.model, seed)
    options = options_of(setting, seed)
    start = time.perf_counter()
    if setting.loss == "bt":
        fit_bradley_terry(model, tokenizer, pairs, held_out[:8], **options)
    else:
        rows = [row for pair in pairs for row in pair["rows"]]
        ratings = [{"completion": r["text"], "label": _label(setting, r)} for r in rows]
        fit_ratings(model, tokenizer, ratings, ratings[:8], loss=setting.loss, **options)  # type: ignore[arg-type]
    seconds = time.perf_counter() - start
    scores = score_snippets(lambda texts: score_texts(model, tokenizer, texts))
    differences, validation = (
        lead(scores, pairs) for pairs in (held_out, human_pairs("validation", size.validation, 2))
    )
    temperature = best_temperature(validation)
    tests = snippets("test")
    any_gap = human_pairs("test", size.held_out, 3, min_gap=0.0)
    return {
        "accuracy": measure_differences(differences, held_out).accuracy,
        "loss": measure_differences(differences / temperature, held_out).loss,
        "correlation": float(np.corrcoef([scores[r["text"]] for r in tests], [r["mean"] for r in tests])[0, 1]),
        "temperature": temperature,
        "ECE before": calibration_error(differences),
        "ECE after": calibration_error(differences / temperature),
        "seconds": seconds,
        "reliability": reliability(differences / temperature, bins=5),
        "agreement": _by_agreement(lead(scores, any_gap), any_gap),
    }


def score_snippets(score: Callable[[list[str]], np.ndarray]) -> dict[str, float]:
    """Return the score of every snippet that is not trained on: few snippets make up all the pairs."""
    texts = [row["text"] for split in ("validation", "test") for row in snippets(split)]
    return dict(zip(texts, score(texts), strict=True))


def lead(scores: dict[str, float], pairs: Sequence[dict[str, Any]]) -> np.ndarray:
    return np.array([scores[pair["chosen"]] - scores[pair["rejected"]] for pair in pairs])


def _label(setting: Setting, row: dict[str, Any]) -> float:
    return float(row["mean"] if setting.loss == "mse" else round(row["mean"]))


def _by_agreement(differences: np.ndarray, pairs: Sequence[dict[str, Any]]) -> list[Any]:
    """Return the accuracy against most raters' preference, by their share. Pairs without a majority are left out."""
    share = np.array([agreement(*(row["ratings"] for row in pair["rows"])) for pair in pairs])
    side = np.where(share > 0.5, 1.0, -1.0)  # the higher mean is not always what most prefer
    decided = share != 0.5
    return accuracy_by_agreement((differences * side)[decided], np.maximum(share, 1 - share)[decided], EDGES)


FIGURES = ("accuracy", "loss", "correlation", "temperature", "ECE before", "ECE after", "seconds")


def compare(settings: Sequence[Setting], size: Size, detailed: bool) -> None:
    """Print one row per setting: means over the seeds and ranges. `detailed` adds tables of the last seed."""
    print("| reward model | pairs | " + " | ".join(FIGURES) + " |\n|" + "---|" * (len(FIGURES) + 2))
    tables = {}
    for setting in settings:
        runs = [fit(setting, size, seed) for seed in range(size.seeds)]
        n = size.tiny_pairs if setting.model == "tiny" else size.minilm_pairs
        print(
            f"| {setting.name} | {n:,} | " + " | ".join(_spread([r[f] for r in runs]) for f in FIGURES) + " |",
            flush=True,
        )
        tables[setting.name] = runs[-1]
    if not detailed:
        return
    for name, run in tables.items():
        print(f"\n{name}, after temperature scaling, seed {size.seeds - 1}: confidence, how often right, pairs")
        print("; ".join(f"{b.confidence:.2f}: {b.accuracy:.2f} ({b.n})" for b in run["reliability"]))
        print(f"{name}, pairs of any gap: raters who agree, accuracy, pairs")
        print("; ".join(f"{b.low:.0%}-{b.high:.0%}: {b.accuracy:.2f} ({b.n})" for b in run["agreement"]))


def _spread(values: Sequence[float]) -> str:
    digits = 0 if max(values) >= 10 else 3
    return f"{statistics.mean(values):.{digits}f} ({min(values):.{digits}f}-{max(values):.{digits}f})"


def unlabelled_pool(n: int, seed: int) -> list[dict[str, Any]]:
    """Draw pairs of any gap as pairs that nobody has judged: only labels tell that a gap is large.

    Pairs of equal means are left out, because no label is right for them.
    """
    return human_pairs("train", n, seed, min_gap=0.0)


def pseudo(size: Size, model: str, threshold: float, batch_size: int = 16) -> None:
    """Print accuracies of labels alone, labels with pseudo-labels, and labels alone for as many steps."""
    held_out = human_pairs("test", size.held_out, 1)
    setting = next(s for s in BACKBONES if s.model == model)._replace(batch_size=batch_size)
    columns = ("labels alone", "as many steps", "with pseudo-labels", "gain", "pseudo-labels", "of them right")
    print("| labels | " + " | ".join(columns) + " |\n|" + "---|" * (len(columns) + 1))
    for n in size.labels:
        runs = []
        for seed in range(size.seeds):
            labelled, pool = human_pairs("train", n, 100 + seed), unlabelled_pool(size.pool, 200 + seed)
            options = options_of(setting, seed)
            epochs = max(1, round(size.examples / n))
            alone = fit_ensemble(model, labelled, held_out[:8], epochs=epochs, **options)
            generator = random.Random(seed)
            unlabelled = [{"completions": generator.sample([p["chosen"], p["rejected"]], 2)} for p in pool]
            guessed = pseudo_label(alone, unlabelled, threshold=threshold, cap=size.cap)
            truth = {(pair["chosen"], pair["rejected"]) for pair in pool}
            right = [(row["chosen"], row["rejected"]) in truth for row in guessed]
            repeated = labelled * max(1, round(len(guessed) / n))  # so that people's labels have about half the weight
            both = fit_ensemble(model, [*repeated, *guessed], held_out[:8], epochs=2, **options)
            steps = 2 * (len(repeated) + len(guessed))
            longer = fit_ensemble(model, labelled, held_out[:8], epochs=max(1, round(steps / n)), **options)
            accuracies = [
                measure_differences(lead(score_snippets(mean), held_out), held_out).accuracy
                for mean in (lambda texts, e=e: e.raw_scores(texts).mean(axis=0) for e in (alone, longer, both))
            ]
            gain = accuracies[2] - max(accuracies[:2])
            runs.append([*accuracies, gain, len(guessed), float(np.mean(right)) if right else 0.0])
        print(f"| {n} | " + " | ".join(_spread(column) for column in zip(*runs, strict=True)) + " |", flush=True)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--seeds", type=int)
    parser.add_argument("--models", nargs="+", choices=("tiny", "minilm"), default=("tiny", "minilm"))
    parser.add_argument("--pseudo-model", default="tiny", choices=("tiny", "minilm"))
    parser.add_argument("--threshold", type=float, default=0.9, help="least confidence of a pseudo-label")
    parser.add_argument("--toy", action="store_true")
    args = parser.parse_args(arguments)
    size = TOY if args.toy else Size()
    size = size._replace(seeds=args.seeds) if args.seeds else size
    start = time.perf_counter()
    held_out = human_pairs("test", size.held_out, 1)
    print(f"{len(held_out):,} held-out pairs, gap above {MIN_GAP:g}; mean (least-greatest) of {size.seeds} seeds\n")
    if "raters" in args.parts:
        print(f"one rater against the mean of the others, on these pairs: {raters_accuracy(held_out):.3f}\n")
    if "choice" in args.parts and "minilm" in args.models:
        choose(CHOICES, size)
        print()
    for part, settings in (("backbones", BACKBONES), ("variants", VARIANTS)):
        if part in args.parts:
            compare([s for s in settings if s.model in args.models], size, detailed=part == "backbones")
            print()
    if "pseudo" in args.parts:
        print(f"pseudo-labels of an ensemble of 5 on {args.pseudo_model}, threshold {args.threshold:g}:\n")
        pseudo(size, args.pseudo_model, args.threshold)
    print(f"\n{time.perf_counter() - start:.0f} s in all")


if __name__ == "__main__":
    main()
