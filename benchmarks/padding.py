"""Measure how much of an update is padding, and what packing several sequences into a row saves of its time.

    python -m benchmarks.padding

For each task an agent collects a rollout at its defaults. Then it is updated with `packing` off and on, in turns, each
time with the same minibatches. Printed are the positions that a pass over the minibatches has beside the tokens, and
seconds of CPU.
"""

from __future__ import annotations

import argparse
import logging
import statistics
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch

import agents
from agents.core.packing import pack
from agents.core.vec_env import make_vec_env
from rlhf_envs.datasets import load_rows

__all__ = ["CASES", "main", "measure"]


def prompts(n: int = 256, seed: int = 0) -> list[str]:
    """Return openings of reviews of 1 to 60 words: many short ones, some long ones."""
    rng = np.random.default_rng(seed)
    words = [f"{row['prompt']} {row['reference']}".split() for row in load_rows("sentiment", split="train")[:n]]
    lengths = np.exp(rng.uniform(0, np.log(60), n)).astype(int)
    return [" ".join(text[:length]) for text, length in zip(words, lengths, strict=True)]


def short(completions: Sequence[Any], **columns: Any) -> list[float]:
    """Return a reward that costs nothing: short completions are good."""
    texts = (text if isinstance(text, str) else text[-1]["content"] for text in completions)
    return [-len(text) / 100 for text in texts]


def agent(env: str, algo: str = "ppo", n_envs: int = 32, n_steps: int | None = None, **kwargs: Any) -> Any:
    """Return an agent on an environment. Arguments that the environment does not know are the policy's."""
    policy = {name: kwargs.pop(name) for name in ("model", "train") if name in kwargs}
    made = make_vec_env(
        env, n_envs, seed=0, score="rollout", **({"model": policy["model"]} if policy else {}), **kwargs
    )
    settings: dict[str, Any] = {"policy_kwargs": policy} if policy else {}
    return agents.make(algo, made, seed=0, **settings, **({"n_steps": n_steps} if n_steps else {}))


def mixed(**kwargs: Any) -> Any:
    """Return an agent on prompts of many lengths."""
    env: dict[str, Any] = dict(
        data=[{"prompt": text} for text in prompts()], reward_fn=short, max_prompt_tokens=96, max_new_tokens=32
    )
    return agent("rlhf/Prompts-v0", **env, **kwargs)


CASES: dict[str, Callable[[], Any]] = {
    "Sentiment, ppo": partial(agent, "rlhf/Sentiment-v0"),
    "Sentiment, rloo": partial(agent, "rlhf/Sentiment-v0", "rloo"),
    "Sentiment, ppo, train=2": partial(agent, "rlhf/Sentiment-v0", model="tiny", train=2),
    "DialogBandit, ppo": partial(agent, "rlhf/DialogBandit-v0"),
    "Prompts of 1 to 60 words, ppo": mixed,
    "the same, rloo": partial(mixed, algo="rloo"),
    "the same as chats, SmolLM2 with LoRA, ppo": partial(
        mixed, model="smollm2", train="lora", chat=True, n_envs=16, n_steps=16
    ),
}


def measure(made: Any, repeats: int) -> tuple[float, float, float, float]:
    """Return the shares of padding in minibatches, without and with packing, and the seconds of an update for each."""
    made.learn(made.n_steps * made.n_envs if hasattr(made, "n_steps") else 1)
    tokens = padded = packed = 0
    seconds: dict[bool, list[float]] = {False: [], True: []}
    get = made.rollout_buffer.get

    def counting(*args: Any) -> Any:
        nonlocal tokens, padded, packed
        for samples in get(*args):
            lengths = samples.observations["attention_mask"].sum(dim=1)
            packing = pack(lengths, int(lengths.max()))
            cells = len(lengths) * int(lengths.max())
            tokens, padded = tokens + int(lengths.sum()), padded + cells
            packed += cells if packing is None else packing.positions.numel()
            yield samples

    made.rollout_buffer.get = counting
    for repeat in range(repeats + 1):
        for packs in (False, True) if repeat % 2 else (True, False):
            made.policy._actor.packs = packs
            np.random.seed(repeat)
            start = time.process_time()
            made.train()
            if repeat:  # the first warms up
                seconds[packs].append(time.process_time() - start)
    slow, fast = (statistics.median(seconds[packs]) for packs in (False, True))
    return 1 - tokens / padded, 1 - tokens / packed, slow, fast


def main(arguments: Sequence[str] | None = None) -> None:
    """Print a row per task."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--only", help="a part of the tasks' names")
    given = parser.parse_args(arguments)
    torch.set_num_threads(1)
    logging.disable(logging.WARNING)
    print("| task | padding | packed | update, s | packed | ratio |\n|---|---|---|---|---|---|")
    for name, make in CASES.items():
        if given.only is None or given.only in name:
            before, after, slow, fast = measure(make(), given.repeats)
            print(f"| {name} | {before:.2f} | {after:.2f} | {slow:.2f} | {fast:.2f} | {fast / slow:.2f} |", flush=True)


if __name__ == "__main__":
    main()
