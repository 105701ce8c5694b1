"""Measure self-training on the best of a model's own answers, against learning answers that were drawn at random.

`python -m benchmarks.self_train`: "tiny" on rlhf/Sentiment-v0, three seeds, two rounds. The reward "tiny-reward"
chooses; the judge "gold", which nothing is trained against, measures. The control learns as many answers, the first
that is drawn to each prompt: its reward is the same for all, so that nothing but the choice differs.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from typing import Any

import numpy as np

import agents

JUDGE, REWARD = "gold", "tiny-reward"


def run(seed: int, chooses: bool, folder: str, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Return the metrics of the rounds of one run."""
    reward = REWARD if chooses else "length-penalty"  # 0 for all: nothing is longer than 10,000 words
    config = agents.SelfTrainConfig(
        model="tiny",
        env_kwargs={"reward": reward, **({} if chooses else {"reward_kwargs": {"longest": 10_000}})},
        judge=[JUDGE] if chooses else [JUDGE, REWARD],
        seed=seed,
        rounds=options.rounds,
        prompts=options.prompts,
        n=options.n,
        epochs=options.epochs,
        learning_rate=options.learning_rate,
        test_episodes=options.test_episodes,
        log_folder=folder,
    )
    rounds: list[dict[str, Any]] = agents.self_train(config, say=lambda _: None).report["rounds"]
    return rounds


def main() -> None:
    """Print a table with a row per arm and round: means over the seeds, with the standard error of the difference."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--prompts", type=int, default=96)
    parser.add_argument("--n", type=int, default=8)
    parser.add_argument("--epochs", type=float, default=1)
    parser.add_argument("--learning-rate", type=float, default=5e-4)
    parser.add_argument("--test-episodes", type=int, default=96)
    options = parser.parse_args()
    print("| learned | round | reward | gold | gold, change per seed | KL | distinct-2 | duplicates |")
    print("|---|---:|---:|---:|---|---:|---:|---:|")
    for name, chooses in (("the best of 8", True), ("the first of 8", False)):
        with tempfile.TemporaryDirectory() as folder:
            runs = [run(seed, chooses, folder, options) for seed in range(options.seeds)]
        score = "reward" if chooses else REWARD
        for number in range(options.rounds + 1):
            now = [rounds[number] for rounds in runs]
            mean = {key: np.array([found["estimates"][key]["mean"] for found in now]) for key in (score, JUDGE, "kl")}
            change = mean[JUDGE] - [rounds[0]["estimates"][JUDGE]["mean"] for rounds in runs]
            distinct = np.mean([found["distinct_2"] for found in now])
            cells = [name, number, f"{mean[score].mean():.2f}", f"{mean[JUDGE].mean():.3f}"]
            cells += [", ".join(f"{value:+.3f}" for value in change), f"{mean['kl'].mean() + 0.0:.2f}"]
            cells += [f"{distinct:.2f}", sum(found.get("duplicates", 0) for found in now)]
            print("| " + " | ".join(map(str, cells)) + " |", flush=True)
    print(f"\n{sum(os.times()[:2]):.0f} s of CPU")


if __name__ == "__main__":
    main()
