"""Measure how often `agents.serving.drift` raises a false alarm, and how often it sees a drift that was planted.

    python -m benchmarks.drift [--windows 1000] [--reference 1000] [--window 200] [--false-alarms 0.01 0.05]

Traffic is simulated: prompts of words with Zipf's frequencies in topics, lengths that depend on them, refusals (3%),
and scores of a tenth of the answers, which depend on the length and on refusals. For false alarms every window has a
reference of its own, so that the windows are independent and the binomial error holds. Then drifts are planted. The
last line has streams: 50 windows per reference, with a chance of one false alarm in all of them together.
"""

from __future__ import annotations

import argparse
import math
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from scipy.stats import binomtest

from agents.serving.drift import DriftTest, Row, Window, hash_words

FEATURES = ("prompt length", "completion length", "score", "refusal")
VOCABULARY, TOPICS = 2000, 8


@dataclass(frozen=True)
class Traffic:
    """Hold what traffic is like.

    Attributes:
        topic: how much more often the first topic is asked about: 0 for as often as others.
        longer: factor of the completions' lengths.
        refused: share of refusals.
        worse: what scores are lower, in standard deviations of an answer's score.
        scored: share of answers that are scored.
    """

    topic: float = 0.0
    longer: float = 1.0
    refused: float = 0.03
    worse: float = 0.0
    scored: float = 0.1

    def draw(self, n: int, rng: np.random.Generator) -> Window:
        """Draw a window of n answers."""
        return Window.of([self._row(rng) for _ in range(n)], FEATURES)

    def _row(self, rng: np.random.Generator) -> Row:
        topic = 0 if rng.random() < self.topic else int(rng.integers(TOPICS))
        n_words = 1 + int(rng.geometric(0.1))
        ranks = np.minimum(rng.zipf(1.4, n_words), VOCABULARY)
        of_topic = rng.random(n_words) < 0.3
        prompt = " ".join(f"t{topic}w{r % 50}" if t else f"w{r}" for r, t in zip(ranks, of_topic, strict=True))
        refused = rng.random() < self.refused
        length = 60 if refused else round(float(rng.lognormal(5 + 0.02 * n_words, 0.6)) * self.longer)
        values = {"prompt length": len(prompt), "completion length": length, "refusal": float(refused)}
        score = 0.3 * math.log(length) - 2 * refused - self.worse + float(rng.normal())
        if rng.random() < self.scored:
            values["score"] = score
        return Row(hash_words(prompt), values)


def alarms(usual: Traffic, now: Traffic, sizes: tuple[int, int], rate: float, n: int, seed: int) -> dict[str, int]:
    """Return how many of n windows raised an alarm, each against a reference of its own: "any", and by feature."""
    rng, found = np.random.default_rng(seed), dict.fromkeys(("any", "prompts", *FEATURES), 0)
    for _ in range(n):
        test = DriftTest(usual.draw(sizes[0], rng), rate, seed=int(rng.integers(2**32)))
        drifted = test.test(now.draw(sizes[1], rng)).drifted
        found["any"] += bool(drifted)
        for name in drifted:
            found[name] += 1
    return found


def streams(sizes: tuple[int, int], rate: float, n: int, windows: int, seed: int) -> int:
    """Return how many of n streams, each of one reference and several windows, raised any alarm."""
    rng, traffic, found = np.random.default_rng(seed), Traffic(), 0
    for _ in range(n):
        test = DriftTest(traffic.draw(sizes[0], rng), rate, windows, seed=int(rng.integers(2**32)))
        found += any(bool(test.test(traffic.draw(sizes[1], rng)).drifted) for _ in range(windows))
    return found


def planted() -> dict[str, Traffic]:
    """Return the traffic of each drift that is planted."""
    usual = Traffic()
    return {
        "a fifth more of one topic": replace(usual, topic=0.2),
        "half of all in one topic": replace(usual, topic=0.5),
        "completions 20% longer": replace(usual, longer=1.2),
        "completions 50% longer": replace(usual, longer=1.5),
        "refusals 10% instead of 3%": replace(usual, refused=0.1),
        "scores lower by 1 sd, 10% scored": replace(usual, worse=1.0),
        "the same, all scored, by 0.5 sd": replace(usual, worse=0.5, scored=1.0),
    }


def main() -> None:
    """Print the three tables."""
    show = partial(print, flush=True)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--windows", type=int, default=1000)
    parser.add_argument("--power", type=int, default=50, help="windows per planted drift")
    parser.add_argument("--streams", type=int, default=40)
    parser.add_argument("--reference", type=int, default=1000)
    parser.add_argument("--window", type=int, default=200)
    parser.add_argument("--false-alarms", type=float, nargs="+", default=[0.01, 0.05])
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    sizes, usual = (args.reference, args.window), Traffic()
    for rate in args.false_alarms:
        found = alarms(usual, usual, sizes, rate, args.windows, args.seed)
        low, high = binomtest(found["any"], args.windows).proportion_ci(0.95)
        p = binomtest(found["any"], args.windows, rate).pvalue
        share = found["any"] / args.windows
        show(f"stated {rate}: {share:.4f} of {args.windows} windows, 95% interval {low:.4f} to {high:.4f}, p = {p:.2f}")
    for name, now in planted().items():
        usual_here = replace(usual, scored=now.scored)
        found = alarms(usual_here, now, sizes, 0.01, args.power, args.seed + 2)
        features = ", ".join(f"{feature} {n}" for feature, n in found.items() if feature != "any" and n)
        show(f"{name}: {found['any']} of {args.power} windows ({features})")
    if args.streams:
        n = streams(sizes, 0.1, args.streams, 50, args.seed + 1)
        low, high = binomtest(n, args.streams).proportion_ci(0.95)
        share = n / args.streams
        show(f"stated 0.1 per 50 windows: {share:.3f} of {args.streams} streams, 95% interval {low:.3f} to {high:.3f}")


if __name__ == "__main__":
    main()
