"""Measure what pairs alone teach on `rlhf/Sentiment-v0`: DPO and KTO against SFT on the chosen texts and the start.

`python -m benchmarks.offline_preferences --seeds 3` does per seed: the untrained "tiny" completes training prompts
twice each, seven simulated annotators (one of them clicks at random) judge the pairs, three a pair, by the judge "gold"
with noise, and Dawid-Skene makes rows of the judgements. DPO learns the pairs, KTO their texts as good and bad ones,
SFT the chosen texts, each for as many passes. Then each completes held-out prompts, the same for all, and "gold" judges
them. Nobody learns from a reward function. The settings were chosen with `--split validation` and other `--arms`.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

import agents
from agents.algorithms.kto import as_labels
from agents.cli.tables import make_table
from agents.core.episodes import open_batch
from agents.evaluation.evaluate import Evaluation, evaluate
from agents.evaluation.generate import generate_in
from agents.evaluation.source import Source
from rlhf_envs.feedback import FeedbackStore, NewItem
from rlhf_envs.feedback.simulated import annotate, simulated_crowd
from rlhf_envs.preferences.crowd import aggregate_pairs
from rlhf_envs.rewards import get_reward

__all__ = ["ARMS", "judged_pairs", "main", "train"]

ENV = "rlhf/Sentiment-v0"
TEMPERATURE = 0.7
ARMS: dict[str, dict[str, Any]] = {  # chosen on the validation prompts, seed 100
    "sft": {"learning_rate": 2e-4},
    "dpo": {"learning_rate": 1e-4, "beta": 0.3},
    "kto": {"learning_rate": 2e-4, "beta": 0.3},
}
Row = dict[str, Any]


def judged_pairs(n: int, seed: int) -> list[Row]:
    """Return pairs of the untrained model's completions of training prompts, as simulated annotators judge them."""
    batch = open_batch(ENV, 1, split="train", reward="tiny-reward")
    untrained = agents.make("reinforce", ENV, n_envs=1, temperature=TEMPERATURE, device="cpu")
    policy = Source.of(untrained).build_policy(batch)
    prompts = np.random.default_rng(seed).permutation(len(batch.rows))[:n]
    done = generate_in(batch, policy, np.repeat(prompts, 2), seed=1000 + seed)
    both = [(a.prompt, a.completion, b.completion) for a, b in zip(done[::2], done[1::2], strict=True)]
    items = [NewItem("pairwise", prompt, (a, b), overlap=3, max_overlap=3) for prompt, a, b in both if a != b]
    crowd = simulated_crowd(get_reward("gold"), 7, 1 / 7, seed=seed, temperature=0.1)
    with tempfile.TemporaryDirectory() as folder, FeedbackStore(Path(folder) / "feedback.db") as store:
        ids = store.add_items(items)
        annotate(store, crowd)
        return aggregate_pairs(store.items(ids), store.judgements(item_ids=ids), "dawid_skene")


def train(name: str, rows: Sequence[Row], passes: float, seed: int, **settings: Any) -> Any:
    """Train an algorithm on judged pairs, for so many passes over their tokens."""
    kwargs: Row = {"temperature": TEMPERATURE, "device": "cpu", "seed": seed} | settings
    if name == "sft":
        data = [{"prompt": row["prompt"], "completion": row["chosen"], "split": "train"} for row in rows]
        agent = agents.make("sft", agents.make_vec_env(ENV, 32, seed=seed, data=data), source="references", **kwargs)
        return agent.learn(int(passes * sum(len(episode.actions) for episode in agent._references)))
    data = list(rows) if name == "dpo" else as_labels(rows)
    agent = agents.make(name, agents.make_vec_env(ENV, 32, seed=seed), data=data, **kwargs)
    return agent.learn(int(passes * sum(row.n_tokens for row in agent._logged)))


def measure(source: Any, split: str, episodes: int) -> Evaluation:
    """Return how "gold" judges completions of held-out prompts."""
    return evaluate(source, ENV, episodes, split, ["gold"], seed=0, temperature=TEMPERATURE)


def run_seed(args: argparse.Namespace, seed: int, start: Evaluation) -> dict[str, list[float]]:
    """Train every arm with one seed. Return gain, its standard error, the gold score, the KL and seconds of CPU."""
    began = time.process_time()
    pairs = judged_pairs(args.pairs, seed)
    print(f"seed {seed}: {len(pairs)} pairs, {time.process_time() - began:.0f} s of CPU", flush=True)
    figures = {}
    for arm in args.arms:
        began = time.process_time()
        name, _, given = arm.partition(":")
        settings = ARMS[name] | {
            key: float(value) for key, value in (one.split("=") for one in given.split(",") if one)
        }
        agent = train(name, pairs, settings.pop("passes", args.passes), seed, **settings)
        seconds, found = time.process_time() - began, measure(agent, args.split, args.episodes)
        gold, change = found.judges["gold"], found.judges["gold"] - start.judges["gold"]
        assert found.kl is not None
        error = float(change.std(ddof=1)) / len(change) ** 0.5
        figures[arm] = [float(change.mean()), error, float(gold.mean()), float(found.kl.mean()), seconds]
        print(f"{arm}: gain {figures[arm][0]:.3f} ± {error:.3f}, KL {figures[arm][3]:.2f}", flush=True)
    return figures


def main(arguments: list[str] | None = None) -> None:
    """Run the benchmark and print its table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--pairs", type=int, default=800)
    parser.add_argument("--passes", type=float, default=1.0)
    parser.add_argument("--arms", nargs="+", default=list(ARMS), help="sft, dpo, kto, or dpo:beta=0.3,passes=2")
    parser.add_argument("--split", default="test", choices=("validation", "test"))
    parser.add_argument("--episodes", type=int, default=256)
    args = parser.parse_args(arguments)
    start = measure("tiny", args.split, args.episodes)
    print(f"the start: gold {start.judges['gold'].mean():.3f}", flush=True)
    seeds = {seed: run_seed(args, seed, start) for seed in range(args.first_seed, args.first_seed + args.seeds)}
    head = ["seed", "arm", "gold gain", "its sem", "gold", "KL", "s of CPU"]
    rows = [
        [str(seed), arm, *(f"{value:.3f}" for value in row[:-1]), f"{row[-1]:.0f}"]
        for seed, found in seeds.items()
        for arm, row in found.items()
    ]
    Console(width=120).print(make_table(head, rows, left=2))
    for arm in args.arms:
        gains = [found[arm][0] for found in seeds.values()]
        error = statistics.stdev(gains) / len(gains) ** 0.5 if len(gains) > 1 else float("nan")
        print(f"{arm}: gain {statistics.fmean(gains):.3f} ± {error:.3f} (standard error of {len(gains)} seeds)")


if __name__ == "__main__":
    main()
