"""Check that two commits train every algorithm to the same numbers and texts, to the last digit.

    git worktree add ../before COMMIT
    python -m benchmarks.same_numbers ../before . -f /tmp/same_numbers

Each algorithm runs once per checkout: seed 0, one thread, `rlhf/TokenBandit-v0` at that environment's settings. It
compares all columns of `progress.csv` but times, `report.json` but times and bootstrapped values, the sample
completions and the trained weights. (Bounds of intervals, and the standard error of the perplexity, are bootstrapped:
older commits drew their resamples without SciPy.) Then the second checkout loads the bundles of the first and completes
prompts: the texts must be the same too.
Runs that are there already are kept, so that the first checkout runs once. `--params packing:False` gives the second
checkout alone a hyperparameter: a default that an older commit does not know.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from safetensors.numpy import load_file

ALGORITHMS = (
    "ppo a2c trpo maskable_ppo nlpo ppo_lagrangian reinforce rloo grpo online_dpo awr dqn qrdqn ilql sft best_of_n "
    "random"
)
TIMES = ("time/", "rlhf/tokens_per_second")
LOAD = """
import json, sys
import agents
agent = agents.load(sys.argv[1])
done = agents.generate(agent, sys.argv[2], n_prompts=16, seed=1)
print(json.dumps([[c.prompt, c.completion, c.reward, [float(x) for x in c.log_probs]] for c in done]))
"""


def run(checkout: Path, *arguments: str) -> str:
    """Run Python with the packages of a checkout, and return what it prints."""
    env = os.environ | {"PYTHONPATH": str(checkout), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, *arguments], env=env, cwd=checkout, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(f"{checkout}: {' '.join(arguments)[:200]} ended with {done.returncode}\n{done.stderr[-2000:]}")
    return done.stdout


def train(checkout: Path, folder: Path, algo: str, env: str, n: int | None, params: Sequence[str] = ()) -> Path:
    """Train once, unless that run is there, and return the run's folder."""
    place = folder / algo / "run"
    if not (place / "report.json").is_file():
        given = ["--algo", algo, "--env", env, "--seed", "0", "--threads", "1", "--no-progress", "--run-name", "run"]
        given += [part for param in params for part in ("--hyperparams", param)]
        run(checkout, "-m", "agents.cli", "train", *given, *(["-n", str(n)] if n else []), "-f", str(folder))
    return place


def progress(place: Path) -> list[dict[str, str]]:
    """Return the rows of `progress.csv` without the columns that hold times."""
    with (place / "progress.csv").open(newline="") as file:
        return [{k: v for k, v in row.items() if not k.startswith(TIMES)} for row in csv.DictReader(file)]


def reproducible(value: Any) -> Any:
    """Return a report without times and without what is bootstrapped: all bounds, and the error of the perplexity."""
    if not isinstance(value, dict):
        return value
    skipped = {"seconds", "low", "high"}
    kept = {key: reproducible(inner) for key, inner in value.items() if key not in skipped}
    return kept | ({"perplexity": {"mean": kept["perplexity"]["mean"]}} if "perplexity" in kept else {})


def differences(old: Path, new: Path) -> list[str]:
    """Name what differs between two runs' folders."""
    found = []
    before, after = progress(old), progress(new)
    if before != after:
        columns = {
            name for a, b in zip(before, after, strict=False) for name in a.keys() | b if a.get(name) != b.get(name)
        }
        found.append(f"progress.csv: {', '.join(sorted(columns)) or 'number of rows'}")
    reports = [reproducible(json.loads((place / "report.json").read_text())) for place in (old, new)]
    if reports[0] != reports[1]:
        found.append("report.json")
    if (old / "samples.md").read_text() != (new / "samples.md").read_text():
        found.append("samples.md")
    weights = [load_file(place / "agent" / "policy.safetensors") for place in (old, new)]
    names = sorted({*weights[0], *weights[1]})
    unequal = [
        n
        for n in names
        if n not in weights[0] or n not in weights[1] or weights[0][n].tobytes() != weights[1][n].tobytes()
    ]
    return found + ([f"weights: {', '.join(unequal[:3])} ..."] if unequal else [])


def main() -> None:
    """Run and compare; exits with 1 if anything differs."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("old", type=Path)
    parser.add_argument("new", type=Path)
    parser.add_argument("-f", "--folder", type=Path, required=True)
    parser.add_argument("--algos", default=ALGORITHMS.replace(" ", ","))
    parser.add_argument("--env", default="rlhf/TokenBandit-v0")
    parser.add_argument("--params", action="append", default=[], help="KEY:VALUE, hyperparameter of the new checkout")
    parser.add_argument("-n", type=int, help="tokens; by default those of the environment's settings")
    given = parser.parse_args()
    failed = False
    for algo in given.algos.split(","):
        name = given.env.split("/")[-1]
        places = [
            train(checkout.resolve(), given.folder.resolve() / side / name, algo, given.env, given.n, params)
            for side, checkout, params in (("old", given.old, []), ("new", given.new, given.params))
        ]
        found = differences(*places)
        texts = [
            run(checkout.resolve(), "-c", LOAD, str(places[0] / "agent"), given.env)
            for checkout in (given.old, given.new)
        ]
        if texts[0] != texts[1]:
            found.append("completions of the old bundle")
        failed |= bool(found)
        print(f"{algo:15} {'DIFFERS: ' + '; '.join(found) if found else 'the same'}", flush=True)
    sys.exit(failed)


if __name__ == "__main__":
    main()
