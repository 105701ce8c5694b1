"""Does the loop close? Three rounds of labels and RL against one round with as many labels and as much RL.

`python -m benchmarks.loop --seeds 3` runs `rlhf loop` in processes of their own, `--jobs` of them at a time with one
thread each, and reads their reports. Annotators are simulated: they judge by "gold" with noise, and a tenth of them
clicks at random. Both arms get as many judgements, tokens of RL and held-out prompts, the same settings and seeds; the
arm of one round asks for all labels at the start. "gold" is what the annotators want, so its rise says that this has
arrived; "tiny-reward" neither labels nor trains anything here. Further arguments go to `rlhf loop`, such as
`--noise 0.2`.
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
from itertools import pairwise
from pathlib import Path
from typing import Any

from scipy.stats import t as student

MAX_SECONDS = 600
# A looser leash than `rlhf train` has: with it three rounds are enough to see where they lead.
SETTINGS = ["--annotators", "10", "--random-share", "0.1", "--kl-coef", "0.1", "--learning-rate", "3e-4"]
FIGURES = {"reward": "proxy", "kl": "KL", "perplexity": "perplexity", "distinct_bigrams": "distinct"}
PLAIN = {
    "accuracy_fresh": "accuracy, fresh",
    "labels_right": "labels right",
    "agreement": "alpha",
    "judgements": "cost",
}

Report = dict[str, Any]


def run(name: str, seed: int, rounds: int, labels: int, tokens: int, folder: Path, further: Sequence[str]) -> Report:
    """One `rlhf loop` from the start of its process to its end."""
    command = [sys.executable, "-m", "agents.cli", "loop", "-f", str(folder), "--run-name", f"{name}_{seed}"]
    sizes = ["--rounds", rounds, "--labels", labels, "-n", tokens, "--seed", seed]
    flags = [*map(str, sizes), *SETTINGS, "--threads", "1", "--no-progress", *further]
    start = time.perf_counter()
    done = subprocess.run([*command, *flags], capture_output=True, text=True)
    seconds = time.perf_counter() - start
    if done.returncode:
        sys.exit(f"{name}, seed {seed} failed:\n{done.stdout}\n{done.stderr}")
    report: Report = json.loads((folder / "loop" / f"{name}_{seed}" / "report.json").read_text(encoding="utf-8"))
    print(f"{name}, seed {seed}: {seconds:.0f} s", file=sys.stderr, flush=True)
    return {**report, "wall": seconds}


def values(reports: Sequence[Report], number: int, figure: str) -> list[float]:
    """A figure of a round, seed by seed."""
    rounds = [report["rounds"][number] for report in reports]
    found = [r["estimates"][figure]["mean"] if figure in r["estimates"] else r.get(figure) for r in rounds]
    return [value for value in found if value is not None]


def shown(numbers: Sequence[float], digits: int = 3) -> str:
    """Mean and standard error over the seeds."""
    if not numbers:
        return "–"
    error = f" ± {sem(numbers):.{digits}f}" if len(numbers) > 1 else ""
    return f"{statistics.mean(numbers):.{digits}f}{error}"


def sem(numbers: Sequence[float]) -> float:
    return statistics.stdev(numbers) / len(numbers) ** 0.5 if len(numbers) > 1 else float("nan")


def is_clear(numbers: Sequence[float]) -> bool:
    """Whether the mean is above 0 by a 95% t interval."""
    return len(numbers) > 1 and statistics.mean(numbers) > student.ppf(0.975, len(numbers) - 1) * sem(numbers)


def print_table(arms: dict[str, list[Report]]) -> None:
    """A row for every round of every arm: means over the seeds with their standard errors."""
    judges = next(iter(arms.values()))[0]["judges"]
    columns = {**{judge: judge for judge in judges}, **FIGURES, **PLAIN}
    print("| arm | round | tokens | " + " | ".join(columns.values()) + " |\n|---|" + "---:|" * (len(columns) + 2))
    for name, reports in arms.items():
        for number, figures in enumerate(reports[0]["rounds"]):
            cells = [shown(values(reports, number, figure), 3 if figure in judges else 2) for figure in columns]
            print(f"| {name} | {number} | {figures['tokens']:,} | " + " | ".join(cells) + " |")


def found_clickers(reports: Sequence[Report]) -> tuple[int, int, int]:
    """Planted clickers, those of them that were found, and annotators who were found and are none."""
    last = [(set(report["rounds"][-1]["planted"]), set(report["rounds"][-1]["spammers"])) for report in reports]
    return (
        sum(len(planted) for planted, _ in last),
        sum(len(planted & found) for planted, found in last),
        sum(len(found - planted) for planted, found in last),
    )


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--labels", type=int, default=200, help="pairs a round")
    parser.add_argument("--tokens", type=int, default=8192, help="tokens of RL a round")
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time")
    parser.add_argument("--folder", help="keep the runs here; a temporary folder by default")
    args, further = parser.parse_known_args(arguments)
    rounds, labels, tokens = args.rounds, args.labels, args.tokens
    sizes = {"loop": (rounds, labels, tokens), "one round": (1, rounds * labels, rounds * tokens)}
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as temporary, ThreadPoolExecutor(args.jobs) as pool:
        folder = Path(args.folder or temporary)
        jobs = {
            name: [pool.submit(run, name.replace(" ", "_"), s, *size, folder, further) for s in range(args.seeds)]
            for name, size in sizes.items()
        }
        arms = {name: [job.result() for job in of] for name, of in jobs.items()}
    seconds = time.perf_counter() - started
    gold = arms["loop"][0]["scorer"]
    loop = [values(arms["loop"], number, gold) for number in range(rounds + 1)]
    print(f"{args.seeds} seeds, mean ± standard error over them", *further, "\n")
    print_table(arms)
    risen = [[new - old for old, new in zip(before, after, strict=True)] for before, after in pairwise(loop)]
    one = values(arms["one round"], 1, gold)
    better = [many - once for many, once in zip(loop[-1], one, strict=True)]
    print(f"\n{gold} rises by " + ", ".join(map(shown, risen)) + " in the rounds (paired by seed);")
    print(f"after the last it is {shown(better)} above one round with as many labels (paired by seed)")
    planted, found, wrong = found_clickers(arms["loop"])
    print(f"random clickers: {planted} planted, {found} found, {wrong} others suspected\n")
    each = [sum(report["wall"] for report in reports) / args.seeds for reports in arms.values()]
    print(f"{seconds:.0f} s in all, {args.jobs} at a time; a loop takes {each[0]:.0f} s, the one round {each[1]:.0f} s")
    checks = {
        f"{gold} rises every round on average": all(statistics.mean(rises) > 0 for rises in risen),
        f"{gold} beats one round with as many labels on average": statistics.mean(better) > 0,
        "clearly, by a 95% t interval over the seeds": is_clear(better),
        f"all runs of all seeds within {MAX_SECONDS} s": seconds <= MAX_SECONDS,
    }
    for name, met in checks.items():
        print(f"- {name}: {'yes' if met else 'NO'}")


if __name__ == "__main__":
    main()
