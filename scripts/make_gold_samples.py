"""Draw texts of language models and of agents that were trained without a KL penalty, for `scripts/make_gold.py`.

    python scripts/make_gold_samples.py samples.jsonl

Each line has a text (a prompt and its completion), its kind and its split: prompts of a split are completed for that
split only. The judge is fitted to some kinds and tested on all of them. Takes about 20 minutes on one core.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from agents import generate, make
from agents.evaluation.source import Source
from agents.training.hyperparams import default_hyperparams

ENV = "rlhf/Sentiment-v0"
SIZES = {"train": 1200, "validation": 400, "test": 500}
TEMPERATURES = (0.7, 1.0, 1.3, 1.6)
HACKING = dict(kl_coef=0.0, learning_rate=5e-4)  # as in examples/hacking_without_kl_penalty.py
AGENTS: dict[str, tuple[dict[str, Any], tuple[int, ...]]] = {
    "ppo": (HACKING, (8192, 16_384, 32_768)),
    "grpo": (HACKING, (16_384, 32_768)),
    "dqn": ({}, (24_576,)),  # without a KL penalty by default
}


def draw(kind: str, source: Any) -> Iterator[dict[str, str]]:
    """Complete prompts of every split."""
    for split, size in SIZES.items():
        indices = np.arange(size) if split != "train" else np.arange(0, 4000)[:: 4000 // size][:size]
        for done in generate(source, ENV, indices=indices, split=split):
            yield {"kind": kind, "split": split, "text": done.prompt + done.completion}


def texts() -> Iterator[dict[str, str]]:
    """Yield the samples of the models, then of each agent along its training."""
    for temperature in TEMPERATURES:
        yield from draw(f"tiny at {temperature:g}", Source.of("tiny").with_decoding({"temperature": temperature}))
    for name, (changed, moments) in AGENTS.items():
        settings = default_hyperparams(ENV, name) | changed
        settings.pop("n_timesteps")
        if changed:
            settings = {key: value for key, value in settings.items() if key not in ("kl_target", "kl_horizon")}
        agent = make(name, ENV, n_envs=settings.pop("n_envs"), seed=0, device="cpu", **settings)
        for tokens in moments:
            agent.learn(tokens - agent.num_timesteps, reset_num_timesteps=False)
            yield from draw(f"{name} without KL penalty, {tokens:,} tokens", agent)


def main() -> None:
    """Write the samples as they come."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path)
    arguments = parser.parse_args()
    kind = ""
    with arguments.output.open("w", encoding="utf-8") as file:
        for row in texts():
            if row["kind"] != kind:
                kind = row["kind"]
                print(f"{kind}: {row['text']}", flush=True)
            file.write(json.dumps(row, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
