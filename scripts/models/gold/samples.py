"""Draw texts of language models and of agents that were trained without a KL penalty, for `gold/judge.py`.

    python -m scripts.models.gold.samples samples.jsonl

`judge.py` draws them by itself; a file lets several fits share them. Each line has a text (a prompt and
its completion), its kind and its split: prompts of a split are completed for that split only. The judge is fitted to
some kinds and tested on all of them. Takes about 20 minutes on one core.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from agents import generate, make
from agents.evaluation.source import Source
from agents.training.hyperparams import default_hyperparams
from rlhf_envs.files import replace_file

ENV = "rlhf/Sentiment-v0"
HACKING: dict[str, Any] = dict(kl_coef=0.0, learning_rate=5e-4)  # as in examples/hacking_without_kl_penalty.py


@dataclass(frozen=True)
class Plan:
    """Hold what is drawn.

    Attributes:
        sizes: texts per kind, by split.
        temperatures: those at which "tiny" writes.
        agents: algorithms, with their arguments and the tokens after which they write.
    """

    sizes: Mapping[str, int]
    temperatures: tuple[float, ...]
    agents: Mapping[str, tuple[dict[str, Any], tuple[int, ...]]]

    @property
    def seen(self) -> tuple[str, str]:
        """Return the kinds that the judge is fitted to: "tiny" at 1.3, and PPO at its end."""
        return "tiny at 1.3", agent_kind("ppo", self.agents["ppo"][1][-1])


FULL = Plan(
    {"train": 1200, "validation": 400, "test": 500},
    (0.7, 1.0, 1.3, 1.6),
    {
        "ppo": (HACKING, (8192, 16_384, 32_768)),
        "grpo": (HACKING, (16_384, 32_768)),
        "dqn": ({}, (24_576,)),  # without a KL penalty by default
    },
)
SMALL = Plan(
    dict.fromkeys(FULL.sizes, 8), (1.3,), {"ppo": ({**HACKING, "n_envs": 4, "n_steps": 8, "batch_size": 32}, (32,))}
)


def agent_kind(name: str, tokens: int) -> str:
    """Return what the texts of an agent are called after that many tokens of training."""
    return f"{name} without KL penalty, {tokens:,} tokens"


def draw(kind: str, source: Any, sizes: Mapping[str, int]) -> Iterator[dict[str, str]]:
    """Complete prompts of every split."""
    for split, size in sizes.items():
        indices = np.arange(size) if split != "train" else np.arange(0, 4000)[:: 4000 // size][:size]
        for done in generate(source, ENV, indices=indices, split=split):
            yield {"kind": kind, "split": split, "text": done.prompt + done.completion}


def texts(plan: Plan) -> Iterator[dict[str, str]]:
    """Yield the samples of the models, then of each agent along its training."""
    for temperature in plan.temperatures:
        source = Source.of("tiny").with_decoding({"temperature": temperature})
        yield from draw(f"tiny at {temperature:g}", source, plan.sizes)
    for name, (changed, moments) in plan.agents.items():
        settings = default_hyperparams(ENV, name) | changed
        settings.pop("n_timesteps")
        if changed:
            settings = {key: value for key, value in settings.items() if key not in ("kl_target", "kl_horizon")}
        agent = make(name, ENV, n_envs=settings.pop("n_envs"), seed=0, device="cpu", **settings)
        for tokens in moments:
            agent.learn(tokens - agent.num_timesteps, reset_num_timesteps=False)
            yield from draw(agent_kind(name, tokens), agent, plan.sizes)


def write_samples(path: Path, plan: Plan) -> None:
    """Draw the samples and write them, all or none, with the first of each kind on the screen."""
    rows: list[dict[str, str]] = []
    for row in texts(plan):
        if not rows or row["kind"] != rows[-1]["kind"]:
            print(f"{row['kind']}: {row['text']}", flush=True)
        rows.append(row)
    replace_file(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode("utf-8"))


def main() -> None:
    """Write the samples."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path)
    write_samples(parser.parse_args().output, FULL)


if __name__ == "__main__":
    main()
