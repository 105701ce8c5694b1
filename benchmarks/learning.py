"""Measure whether an agent learns what people like and stays a language model: the quick start over several seeds.

`python -m benchmarks.learning --algo ppo --seeds 5` runs `rlhf train` in a process of its own for every seed, one after
the other, and reads their reports: completions of the same held-out prompts before and after, judged by "gold", which
the agent never trains against. Further arguments go to `rlhf train`, such as `-n 40000` or `--kl-coef 0`.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

MAX_SECONDS, MIN_GAIN, MIN_SEMS, MAX_PERPLEXITY, MIN_DISTINCT = 90, 0.15, 3, 1.5, 0.8


def run(algo: str, env: str, seed: int, folder: Path, further: list[str]) -> dict[str, Any]:
    """Run one `rlhf train` in a process of its own, and return its report with its seconds."""
    command = [sys.executable, "-m", "agents.cli", "train", "--algo", algo, "--env", env, "--seed", str(seed)]
    start = time.perf_counter()
    done = subprocess.run(
        [*command, "-f", str(folder), "--run-name", f"seed_{seed}", "--no-progress", *further],
        capture_output=True,
        text=True,
    )
    seconds = time.perf_counter() - start
    if done.returncode:
        sys.exit(f"seed {seed} failed:\n{done.stdout}\n{done.stderr}")
    report = json.loads((folder / algo / f"seed_{seed}" / "report.json").read_text(encoding="utf-8"))
    config = json.loads((folder / algo / f"seed_{seed}" / "config.json").read_text(encoding="utf-8"))
    return {"seconds": seconds, "kl_target": config["kl_target"], **report}


def row(report: dict[str, Any]) -> dict[str, float]:
    """Return the metrics of one seed."""
    before, after = report["before"]["estimates"], report["after"]["estimates"]
    return {
        "seconds": report["seconds"],
        "proxy before": before["reward"]["mean"],
        "proxy after": after["reward"]["mean"],
        "gold before": before["gold"]["mean"],
        "gold after": after["gold"]["mean"],
        "gold gain": report["change"]["gold"]["mean"],
        "its sem": report["change"]["gold"]["sem"],
        "KL": after["kl"]["mean"],
        "perplexity x": after["perplexity"]["mean"] / before["perplexity"]["mean"],
        "distinct x": after["distinct_bigrams"]["mean"] / before["distinct_bigrams"]["mean"],
        "length": after["length"]["mean"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--algo", default="ppo")
    parser.add_argument("--env", default="rlhf/Sentiment-v0")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--folder", help="keep the runs here; a temporary folder by default")
    parser.add_argument("--samples", type=int, default=4, help="completions to print per seed")
    args, further = parser.parse_known_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(args.folder or temporary)
        seeds = range(args.first_seed, args.first_seed + args.seeds)
        reports = [run(args.algo, args.env, seed, folder, further) for seed in seeds]
    rows = [row(report) for report in reports]
    what = f"{args.algo} on {args.env}, seeds {seeds[0]} to {seeds[-1]}, {reports[0]['n_timesteps']} tokens"
    print(what, *further, "\n")
    print("| seed | " + " | ".join(rows[0]) + " |\n|" + "---|" * (len(rows[0]) + 1))
    for seed, figures in zip(seeds, rows, strict=True):
        print(f"| {seed} | " + " | ".join(f"{value:.3f}" for value in figures.values()) + " |")
    gains = [figures["gold gain"] for figures in rows]
    gain = statistics.mean(gains)
    sem = statistics.stdev(gains) / len(gains) ** 0.5 if len(gains) > 1 else float("nan")
    target = reports[0]["kl_target"] or float("inf")
    print(f"\ngold gain over the seeds: {gain:.3f} ± {sem:.3f} (standard error of {len(gains)} seeds)")
    checks = {
        f"gain at least {MIN_SEMS} standard errors": gain >= MIN_SEMS * sem,
        f"gain at least {MIN_GAIN}": gain >= MIN_GAIN,
        f"every KL within its target of {target}": all(f["KL"] <= target for f in rows),
        f"every perplexity at most x {MAX_PERPLEXITY}": all(f["perplexity x"] <= MAX_PERPLEXITY for f in rows),
        f"every distinct-bigram share at least x {MIN_DISTINCT}": all(f["distinct x"] >= MIN_DISTINCT for f in rows),
        f"every run within {MAX_SECONDS} s": all(f["seconds"] <= MAX_SECONDS for f in rows),
    }
    for name, met in checks.items():
        print(f"- {name}: {'yes' if met else 'NO'}")
    for seed, report in zip(seeds, reports, strict=True):
        print(f"\nseed {seed}, the same prompts before and after:")
        pairs = zip(report["before"]["samples"], report["after"]["samples"], strict=True)
        for first, second in list(pairs)[: args.samples]:
            print(f"  - {first['prompt']!r}\n    {first['completion']!r}\n    {second['completion']!r}")
    if not all(checks.values()):
        sys.exit("a bar was not met, see above")


if __name__ == "__main__":
    main()
