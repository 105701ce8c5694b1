"""Measure that explanations of scores name tokens that matter: the deletion test, on held-out texts.

`python -m benchmarks.explain` lets "tiny" complete held-out prompts of `rlhf/Sentiment-v0` (the test split), and
explains the score of each by the environment's reward model ("tiny-reward"), by integrated gradients and by
leave-one-out. Then the tenth of the tokens with the largest values is deleted, and as many at random (the mean of 8
draws). Prints per method and seed how far the score falls, and by how many standard errors the named tokens cost more
than random ones. Every seed has other texts and other draws. Ends with an error below 3 standard errors.
"""

from __future__ import annotations

import argparse
import sys
import time

import numpy as np
import torch

from agents import generate
from agents.evaluation.explain.attribution import METHODS, Text
from agents.evaluation.explain.deletion import deletion_test
from rlhf_envs.rewards import get_reward

LEAST = 3.0  # standard errors


def texts_of(seed: int, n: int, tokens: int) -> list[Text]:
    """Return n held-out prompts with what "tiny" writes after them: other prompts for every seed."""
    indices = np.arange(seed * n, (seed + 1) * n)
    done = generate("tiny", "rlhf/Sentiment-v0", indices=indices, seed=seed, split="test", max_new_tokens=tokens)
    return [Text(c.asked, c.completion, {"finish_reasons": c.finish_reason}) for c in done]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--reward", default="tiny-reward", help="the reward that is explained")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=METHODS)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--texts", type=int, default=64, help="texts per seed")
    parser.add_argument("--tokens", type=int, default=32, help="tokens of a completion, at most")
    parser.add_argument("--share", type=float, default=0.1, help="share of the tokens that is deleted")
    args = parser.parse_args()
    torch.set_num_threads(1)
    reward, failed = get_reward(args.reward), []
    print(f"reward {args.reward}: {args.texts} texts per seed, {args.share:.0%} of the tokens deleted\n")
    print("| method | seed | named | at random | difference | standard errors | CPU s |\n|---|---|---|---|---|---|---|")
    for method in args.methods:
        for seed in range(args.seeds):
            texts, started = texts_of(seed, args.texts, args.tokens), time.process_time()
            found = deletion_test(reward, texts, method, args.share, seed=seed)
            cells = f"{found.named.mean():.3f} | {found.at_random.mean():.3f} | {found.gain} | {found.errors:.1f}"
            print(f"| {method} | {seed} | {cells} | {time.process_time() - started:.0f} |", flush=True)
            failed += [f"{method}, seed {seed}"] if found.errors < LEAST else []
    if failed:
        sys.exit(f"below {LEAST} standard errors: {', '.join(failed)}")


if __name__ == "__main__":
    main()
