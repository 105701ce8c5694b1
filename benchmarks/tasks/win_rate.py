"""Say how often one model's episodes have a higher metric than another's on the same held-out prompts.

    python -m benchmarks.tasks.win_rate rlhf/Dialogue-v0 judged_human start logs/ppo/Dialogue-v0_1 -n 300

The metric is one of the task, such as what a judge says that no agent trains against. Episodes of one prompt have the
same random numbers. A tie counts half; episodes without the metric are left out, and counted. The interval is that of
a t test over prompts.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence

import numpy as np
from scipy.stats import t

from agents import generate


def count_wins(first: Sequence[float], second: Sequence[float]) -> tuple[float, float, int]:
    """Return the share of pairs that the second wins, half of its 95% interval, and the number of pairs without NaN."""
    lead = np.asarray(second, dtype=float) - np.asarray(first, dtype=float)
    wins = ((lead > 0) + 0.5 * (lead == 0))[~np.isnan(lead)]
    n = len(wins)
    if n < 2:
        return (float(wins.mean()) if n else math.nan), math.nan, n
    return float(wins.mean()), float(t.ppf(0.975, n - 1) * wins.std(ddof=1) / n**0.5), n


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("env")
    parser.add_argument("metric")
    parser.add_argument("first", help="a run, a bundle, a folder or a model's name")
    parser.add_argument("second", help="the one whose wins are counted")
    parser.add_argument("-n", type=int, default=300, help="prompts")
    parser.add_argument("--split", default="test")
    parser.add_argument("--temperature", type=float, help="of both; by default each has its own")
    args = parser.parse_args()
    found = [
        generate(source, args.env, args.n, split=args.split, temperature=args.temperature)
        for source in (args.first, args.second)
    ]
    if args.metric not in found[0][0].metrics:
        parser.error(f"{args.env} has no metric {args.metric!r}: there are {', '.join(found[0][0].metrics)}")
    values = [[one.metrics[args.metric] for one in episodes] for episodes in found]
    share, half, n = count_wins(*values)
    means = " -> ".join(f"{np.nanmean(one):.3f}" for one in values)
    print(f"{args.metric} {means}; the second wins {share:.3f} ± {half:.3f} of {n} prompts", end="")
    print(f" ({args.n - n} without the metric)" if n < args.n else "")


if __name__ == "__main__":
    main()
