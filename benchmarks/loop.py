"""Measure whether the loop closes: three rounds of labels and RL against one round with as many labels and as much RL.

`python -m benchmarks.loop --seeds 3` runs `rlhf loop` in processes of their own, `--jobs` of them at a time with one
thread each, and reads their reports. Annotators are simulated: they judge by "gold" with noise, and a tenth of them are
spammers, who answer at random. Both arms get as many judgements, tokens of RL and held-out prompts, and the same
settings and seeds; the arm of one round asks for all labels at the start. The annotators want "gold", so its rise shows
that the loop has learned what they want. "tiny-reward" neither labels nor trains anything here. Further arguments go to
`rlhf loop`, such as `--noise 0.2`.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from scipy.stats import t as student

MAX_SECONDS = 600
# A weaker KL penalty than that of `rlhf train`: with it three rounds are enough to see a trend.
SETTINGS = ["--annotators", "10", "--random-share", "0.1", "--kl-coef", "0.1", "--learning-rate", "3e-4"]
METRICS = {"reward": "proxy", "kl": "KL", "perplexity": "perplexity", "distinct_bigrams": "distinct"}
PLAIN = {
    "accuracy_fresh": "accuracy, fresh",
    "labels_right": "labels right",
    "agreement": "alpha",
    "judgements": "cost",
}

Report = dict[str, Any]


@dataclass(frozen=True)
class Outcome:
    """Hold what the runs came to.

    Attributes:
        rises: for each round, how much gold rose in it, one number per seed.
        better: how much more gold the loop has at its end than one round with as many labels, one number per seed.
        planted: the spammers among the loop's annotators, over all seeds.
        found: the planted spammers that the loop found.
        wrong: annotators that the loop took for spammers, and that are none.
        checks: what was hoped for, and whether it came.
    """

    rises: list[list[float]]
    better: list[float]
    planted: int
    found: int
    wrong: int
    checks: dict[str, bool]


def sizes(rounds: int, labels: int, tokens: int) -> dict[str, tuple[int, int, int]]:
    """Return the rounds, and the labels and tokens per round, of both arms: the totals are the same."""
    return {"loop": (rounds, labels, tokens), "one round": (1, rounds * labels, rounds * tokens)}


def command(name: str, seed: int, size: tuple[int, int, int], folder: Path, further: Sequence[str]) -> list[str]:
    """Return the command line of one `rlhf loop`."""
    start = [sys.executable, "-m", "agents.cli", "loop", "-f", str(folder), "--run-name", f"{name}_{seed}"]
    rounds, labels, tokens = size
    flags = ["--rounds", rounds, "--labels", labels, "-n", tokens, "--seed", seed]
    return [*start, *map(str, flags), *SETTINGS, "--threads", "1", "--no-progress", *further]


def run(name: str, seed: int, size: tuple[int, int, int], folder: Path, further: Sequence[str]) -> Report:
    """Run one `rlhf loop` in a process of its own, and return its report with its seconds as `wall`."""
    start = time.perf_counter()
    done = subprocess.run(command(name, seed, size, folder, further), capture_output=True, text=True)
    seconds = time.perf_counter() - start
    if done.returncode:
        sys.exit(f"{name}, seed {seed} failed:\n{done.stdout}\n{done.stderr}")
    report: Report = json.loads((folder / "loop" / f"{name}_{seed}" / "report.json").read_text(encoding="utf-8"))
    print(f"{name}, seed {seed}: {seconds:.0f} s", file=sys.stderr, flush=True)
    return {**report, "wall": seconds}


def values(reports: Sequence[Report], number: int, metric: str) -> list[float]:
    """Return a metric of a round, one number per seed."""
    rounds = [report["rounds"][number] for report in reports]
    found = [r["estimates"][metric]["mean"] if metric in r["estimates"] else r.get(metric) for r in rounds]
    return [value for value in found if value is not None]


def shown(numbers: Sequence[float], digits: int = 3) -> str:
    """Return the mean and the standard error over the seeds."""
    if not numbers:
        return "–"
    error = f" ± {sem(numbers):.{digits}f}" if len(numbers) > 1 else ""
    return f"{statistics.mean(numbers):.{digits}f}{error}"


def sem(numbers: Sequence[float]) -> float:
    """Return the standard error of the mean; NaN for a single number."""
    return statistics.stdev(numbers) / len(numbers) ** 0.5 if len(numbers) > 1 else float("nan")


def is_clear(numbers: Sequence[float]) -> bool:
    """Return whether the mean is above 0 by a 95% t interval."""
    return len(numbers) > 1 and statistics.mean(numbers) > student.ppf(0.975, len(numbers) - 1) * sem(numbers)


def count_spammers(reports: Sequence[Report]) -> tuple[int, int, int]:
    """Count the planted spammers, those that were found, and annotators that were taken for spammers and are none."""
    last = [(set(report["rounds"][-1]["planted"]), set(report["rounds"][-1]["spammers"])) for report in reports]
    return (
        sum(len(planted) for planted, _ in last),
        sum(len(planted & found) for planted, found in last),
        sum(len(found - planted) for planted, found in last),
    )


def judge(arms: dict[str, list[Report]], seconds: float) -> Outcome:
    """Return what the reports of both arms came to, and whether it is what was hoped for."""
    gold, rounds = arms["loop"][0]["scorer"], len(arms["loop"][0]["rounds"])
    loop = [values(arms["loop"], number, gold) for number in range(rounds)]
    rises = [[new - old for old, new in zip(before, after, strict=True)] for before, after in pairwise(loop)]
    better = [many - once for many, once in zip(loop[-1], values(arms["one round"], 1, gold), strict=True)]
    checks = {
        f"{gold} rises every round on average": all(statistics.mean(rise) > 0 for rise in rises),
        f"{gold} beats one round with as many labels on average": statistics.mean(better) > 0,
        "clearly, by a 95% t interval over the seeds": is_clear(better),
        f"all runs of all seeds within {MAX_SECONDS} s": seconds <= MAX_SECONDS,
    }
    return Outcome(rises, better, *count_spammers(arms["loop"]), checks)


def print_table(arms: dict[str, list[Report]]) -> None:
    """Print one row per round of every arm: means over the seeds with their standard errors."""
    judges = next(iter(arms.values()))[0]["judges"]
    columns = {**{judge: judge for judge in judges}, **METRICS, **PLAIN}
    print("| arm | round | tokens | " + " | ".join(columns.values()) + " |\n|---|" + "---:|" * (len(columns) + 2))
    for name, reports in arms.items():
        for number, metrics in enumerate(reports[0]["rounds"]):
            cells = [shown(values(reports, number, metric), 3 if metric in judges else 2) for metric in columns]
            print(f"| {name} | {number} | {metrics['tokens']:,} | " + " | ".join(cells) + " |")


def print_outcome(outcome: Outcome, gold: str) -> None:
    """Print the differences, the spammers and the checks."""
    print(f"\n{gold} rises by " + ", ".join(map(shown, outcome.rises)) + " in the rounds (paired by seed).")
    print(f"After the last it is {shown(outcome.better)} above one round with as many labels (paired by seed).")
    print(f"Random spammers: {outcome.planted} planted, {outcome.found} found, {outcome.wrong} others suspected.\n")
    for name, met in outcome.checks.items():
        print(f"- {name}: {'yes' if met else 'NO'}")


def main(arguments: Sequence[str] | None = None) -> Outcome:
    """Run both arms, print their table and the outcome, and return the outcome."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--labels", type=int, default=200, help="pairs per round")
    parser.add_argument("--tokens", type=int, default=8192, help="tokens of RL per round")
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time")
    parser.add_argument("--folder", help="keep the runs here; a temporary folder by default")
    args, further = parser.parse_known_args(arguments)
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as temporary, ThreadPoolExecutor(args.jobs) as pool:
        folder = Path(args.folder or temporary)
        jobs = {
            name: [pool.submit(run, name.replace(" ", "_"), s, size, folder, further) for s in range(args.seeds)]
            for name, size in sizes(args.rounds, args.labels, args.tokens).items()
        }
        arms = {name: [job.result() for job in submitted] for name, submitted in jobs.items()}
    seconds = time.perf_counter() - started
    print(f"{args.seeds} seeds, mean ± standard error over them", *further, "\n")
    print_table(arms)
    outcome = judge(arms, seconds)
    print_outcome(outcome, arms["loop"][0]["scorer"])
    each = [sum(report["wall"] for report in reports) / args.seeds for reports in arms.values()]
    print(
        f"\n{seconds:.0f} s in all, {args.jobs} runs at a time; a loop takes {each[0]:.0f} s, one round {each[1]:.0f} s"
    )
    return outcome


if __name__ == "__main__":
    main()
