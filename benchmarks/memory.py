"""Measure the memory that an update takes above the model, its gradients and its optimiser: ours and the bare model's.

`python -m benchmarks.memory` runs rollouts and updates of `ours` and of `floor` (see `benchmarks.throughput`) in
processes of their own and reads each one's peak during the update, less what the process held when it was built (model,
reference, libraries), less the gradients, less the optimiser's state. What is kept from the rollout counts. A second
part trains a model with a vocabulary of 131,072 on 4,096 tokens in one minibatch and prints the peak of the process.
"""

from __future__ import annotations

import argparse
import os
import statistics
from dataclasses import replace
from typing import Any

from .throughput import describe
from .work import FreshModel, Work
from .worker import Worker, interleave

__all__ = ["main"]

UPDATES = {
    "vocabulary 3,072, 16+112 tokens": Work(FreshModel(vocab_size=3072), n_envs=64, new_tokens=112),
    "vocabulary 32,768, 16+112 tokens": Work(FreshModel(vocab_size=32768), n_envs=32, new_tokens=112),
    "vocabulary 3,072, 16+496 tokens": Work(FreshModel(vocab_size=3072), n_envs=16, new_tokens=496),
}
LARGE = Work(FreshModel(vocab_size=131072, n_layer=2), n_envs=32, new_tokens=128, minibatches=1)
TOY = Work(FreshModel(vocab_size=64, n_layer=1, n_embd=16, n_head=2), n_envs=4, prompt_tokens=2, new_tokens=4)
MAX_RATIO, MAX_GIGABYTES = 2.0, 12.0


def compare_updates(name: str, work: Work, repeats: int) -> float:
    """Print both peaks and return ours / floor."""
    jobs: dict[str, tuple[str, Work, dict[str, Any]]] = {
        "ours": ("benchmarks.contenders:Ours", work, {}),
        "floor": ("benchmarks.contenders.floor:Floor", work, {}),
    }
    results = interleave(jobs, repeats, ["rollout", "update"])
    above = {who: statistics.median(m.above for m in by_part["update"]) for who, by_part in results.items()}
    ratio = above["ours"] / above["floor"]
    print(f"{name:>34} | {above['ours'] / 1e6:8.0f} | {above['floor'] / 1e6:8.0f} | {ratio:.2f}", flush=True)
    return ratio


def large_vocabulary(work: Work) -> float:
    """Train one iteration and return the peak of the process in GB (1e9 bytes)."""
    worker = Worker("benchmarks.contenders:Ours", work)
    try:
        peak = worker.run("iterate").peak / 1e9
    finally:
        worker.close()
    print(f"{work.tokens} tokens in one minibatch, vocabulary {work.model.vocab_size:,}: {peak:.2f} GB at the peak")  # type: ignore[union-attr]
    return peak


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--skip-large", action="store_true", help="leave out the vocabulary of 131,072")
    parser.add_argument("--toy", action="store_true", help="tiny sizes, only to see that it runs")
    args = parser.parse_args(arguments)
    # glibc keeps what is freed in heaps of its own, and how much is chance: have it map large blocks one by one.
    os.environ.setdefault("MALLOC_MMAP_THRESHOLD_", str(2**16))
    print(f"{describe()}, {args.threads} threads, {args.device}, medians of {args.repeats}")
    print(f"\n{'MB above model and optimiser':>34} | {'ours':>8} | {'floor':>8} | ours / floor (at most {MAX_RATIO})")
    for name, work in ({"toy": TOY} if args.toy else UPDATES).items():
        compare_updates(name, replace(work, threads=args.threads, device=args.device), args.repeats)
    if not args.skip_large:
        print()
        large_vocabulary(replace(TOY if args.toy else LARGE, threads=args.threads, device=args.device))
        print(f"(asked: less than {MAX_GIGABYTES:.0f} GB for 4,096 tokens and 131,072)")


if __name__ == "__main__":
    main()
