"""Measure whether adversarial training makes a policy robust, and its cost: PPO with and without, over several seeds.

`python -m benchmarks.robustness --seeds 3` runs `rlhf train --algo ppo` on `rlhf/Sentiment-v0` for every seed with and
without the regulariser of `agents.core.adversarial`, everything else as in `agents.training.hyperparams`, then attacks
the model that it started from and every trained one (`agents.evaluation.robustness`), on the same held-out prompts.
Runs that are finished in `--folder` are not run again. Further arguments go to `rlhf train`, such as `-n 20480`. Means
over the seeds come with the standard error of the seeds, those of one model with that of the prompts.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from agents.training.hyperparams import default_hyperparams

KINDS = ("plain", "adversarial")
POLICY_ROWS = ("embeddings", "random_embeddings", "tokens", "random_tokens")


def train(kind: str, seed: int, folder: Path, settings: list[str], further: list[str]) -> dict[str, Any]:
    """Return the report of one `rlhf train`. Run it first if there is none yet."""
    run = folder / "ppo" / f"{kind}_{seed}"
    if not (run / "report.json").is_file():
        command = [
            sys.executable,
            "-m",
            "agents.cli",
            "train",
            "--algo",
            "ppo",
            "--seed",
            str(seed),
            "--eval-freq",
            "0",
        ]
        command += ["-f", str(folder), "--run-name", run.name, "--no-progress"]
        done = subprocess.run([*command, *(settings if kind == "adversarial" else []), *further], capture_output=True)
        if done.returncode:
            sys.exit(f"{run.name} failed:\n{done.stdout.decode()}\n{done.stderr.decode()}")
    report: dict[str, Any] = json.loads((run / "report.json").read_text(encoding="utf-8"))
    return report


def attack(
    source: str, n_episodes: int, budget: dict[str, Any], cache: Path, decoding: dict[str, Any] | None = None
) -> dict[str, Any]:
    """Return the report of the attacks on one model. Attack it first if there is none yet."""
    from agents.evaluation.robustness import Budget, evaluate_robustness

    if cache.is_file():
        known: dict[str, Any] = json.loads(cache.read_text(encoding="utf-8"))
        if (known["episodes"], known["budget"]) == (n_episodes, budget):
            return known
    report = evaluate_robustness(source, "rlhf/Sentiment-v0", n_episodes, Budget(**budget), decoding=decoding).to_dict()
    cache.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    return report


def mean_and_error(reports: list[dict[str, Any]], *path: str) -> str:
    """Return the mean over the reports of the estimate at a path, with its standard error; one report has its own."""
    found = []
    for report in reports:
        estimate: Any = report
        for key in path:
            estimate = estimate.get(key, {})
        if estimate:
            found.append(estimate)
    if not found:
        return ""
    means = [estimate["mean"] for estimate in found]
    error = found[0]["sem"] if len(found) == 1 else float(np.std(means, ddof=1) / len(means) ** 0.5)
    return f"{np.mean(means):.3f} ± {error:.3f}"


def policy_table(columns: dict[str, list[dict[str, Any]]]) -> str:
    """Return the table of the attacks on the policy, in Markdown, one column per kind of training."""
    lines = ["| the policy under attack | " + " | ".join(columns) + " |", "|" + "---|" * (len(columns) + 1)]
    rows: list[tuple[str, str, str]] = [("gold, no attack", "clean", "gold"), ("reward, no attack", "clean", "reward")]
    labels = {"kl": "KL per token", "gold_change": "change of gold", "gold_success": "good completions made bad (gold)"}
    labels |= {"reward_change": "change of reward", "reward_success": "good completions made bad (reward)"}
    rows += [(f"{name.replace('_', ' ')}: {labels[key]}", name, key) for name in POLICY_ROWS for key in labels]
    for label, name, key in rows:
        cells = (mean_and_error(reports, "policy", name, key) for reports in columns.values())
        lines.append(f"| {label} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def reward_table(columns: dict[str, list[dict[str, Any]]]) -> str:
    """Return the table of the attacks on the reward model, which start from each policy's completions."""
    lines = ["| the reward model, from bad completions of | " + " | ".join(columns) + " |"]
    lines.append("|" + "---|" * (len(columns) + 1))
    for name in ("hotflip", "random_swaps"):
        for key in ("success", "reward_change", "judge_change"):
            cells = (mean_and_error(reports, "reward_model", name, key) for reports in columns.values())
            lines.append(f"| {name.replace('_', ' ')}: {key.replace('_', ' ')} | " + " | ".join(cells) + " |")
    counts = (
        ", ".join(str(r["attacked_completions"].get("hotflip", 0)) for r in reports) for reports in columns.values()
    )
    lines.append("| bad completions, per seed | " + " | ".join(counts) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--folder", help="keep the runs here, and go on from there; a temporary folder by default")
    parser.add_argument("--episodes", type=int, default=128, help="held-out prompts that are attacked")
    parser.add_argument("--coef", type=float, default=1.0, help="adversarial_coef")
    parser.add_argument("--train-epsilon", type=float, default=0.05, help="adversarial_epsilon")
    parser.add_argument("--epsilon", type=float, default=0.1, help="of the attack on embeddings")
    parser.add_argument("--steps", type=int, default=10, help="of the attack on embeddings")
    parser.add_argument("--swaps", type=int, default=2)
    parser.add_argument("--candidates", type=int, default=16)
    args, further = parser.parse_known_args()
    started = time.perf_counter()
    settings = ["-params", f"adversarial_coef:{args.coef}", "-params", f"adversarial_epsilon:{args.train_epsilon}"]
    budget = {name: getattr(args, name) for name in ("epsilon", "steps", "swaps", "candidates")}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(args.folder or temporary)
        runs = {kind: [train(kind, s, folder, settings, further) for s in range(args.seeds)] for kind in KINDS}
        decoding = {"temperature": default_hyperparams("rlhf/Sentiment-v0", "ppo")["temperature"]}  # as the runs decode
        columns = {"no training": [attack("tiny", args.episodes, budget, folder / "tiny.json", decoding)]}
        for kind in KINDS:
            found = [folder / "ppo" / f"{kind}_{seed}" for seed in range(args.seeds)]
            columns[kind] = [attack(str(run), args.episodes, budget, run / "attack.json") for run in found]
    tokens = runs["plain"][0]["n_timesteps"]
    print(f"PPO on rlhf/Sentiment-v0, {args.seeds} seeds of {tokens:,} tokens; adversarial: {' '.join(settings[1::2])}")
    print(f"attacks: {args.episodes} prompts, {json.dumps(budget)}; {time.perf_counter() - started:.0f} s in all\n")
    print("| training | plain | adversarial |\n|---|---|---|")
    for name in ("gold", "reward"):
        cells = (mean_and_error(runs[kind], "change", name) for kind in KINDS)
        print(f"| {name} gained, sampled | " + " | ".join(cells) + " |")
    cells = (mean_and_error(runs[kind], "after", "estimates", "kl") for kind in KINDS)
    print("| KL to the reference | " + " | ".join(cells) + " |")
    print(
        "| seconds per run | " + " | ".join(f"{np.mean([r['seconds'] for r in runs[k]]):.0f}" for k in KINDS) + " |\n"
    )
    print(policy_table(columns), "\n\n" + reward_table(columns), sep="")


if __name__ == "__main__":
    main()
