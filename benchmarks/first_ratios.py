"""Measure in bfloat16 how far the first ratios of PPO are from 1, before any update.

    python -m benchmarks.first_ratios

One rollout of Sentiment, in turn with `dtype="bfloat16"` and attention by SDPA and "eager", with `bf16=True`, and with
`packing=True`. An update's pass over the whole rollout and over minibatches gives new log-probabilities; a ratio is the
exponential of their difference to the rollout's. "decoding" is how far the log-probabilities of decoding are from a
pass over whole sequences: the first ratios, if the rollout buffer did not compute them again.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from agents import make, make_vec_env

__all__ = ["SETTINGS", "main", "measure"]

SETTINGS: dict[str, dict[str, Any]] = {
    "dtype bfloat16, sdpa": {"dtype": "bfloat16", "attn_implementation": "sdpa"},
    "dtype bfloat16, eager": {"dtype": "bfloat16", "attn_implementation": "eager"},
    "bf16, sdpa": {"bf16": True, "attn_implementation": "sdpa"},
    "bf16, sdpa, packing": {"bf16": True, "attn_implementation": "sdpa", "packing": True},
    "bf16, eager, packing": {"bf16": True, "attn_implementation": "eager", "packing": True},
}
MAX_ERROR = 0.02


def measure(
    model: str, n_envs: int, new_tokens: int, batch_size: int, seed: int, **policy: Any
) -> tuple[float, np.ndarray, np.ndarray]:
    """Return the error of decoding, and |ratio - 1| per token with all of the rollout in one batch and in minibatches.

    The error of decoding is the mean of the differences of log-probabilities.
    """
    env = make_vec_env("rlhf/Sentiment-v0", n_envs, seed=seed, model=model, max_new_tokens=new_tokens)
    agent = make("ppo", env, model=model, n_steps=new_tokens, batch_size=batch_size, seed=seed, device="cpu", **policy)
    _, callback = agent._setup_learn(n_envs * new_tokens)
    callback.on_training_start({}, {})
    buffer = agent.rollout_buffer
    agent.collect_rollouts(agent.env, callback, buffer, new_tokens)
    errors = [
        np.concatenate([_ratio_errors(agent.policy, samples) for samples in buffer.get(size)])
        for size in (n_envs * new_tokens, batch_size)
    ]
    return buffer.stats["sampling_logp_difference"], errors[0], errors[1]


@torch.no_grad()
def _ratio_errors(policy: Any, samples: Any) -> np.ndarray:
    log_probs = policy.evaluate_actions(samples.observations, samples.actions)[1]
    return np.abs(np.expm1((log_probs - samples.old_log_prob).double().numpy()))


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--train", type=lambda text: int(text) if text.isdecimal() else text, default="lora")
    for name, default in (("n_envs", 8), ("new_tokens", 24), ("batch_size", 48), ("seed", 0)):
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, default=default)
    given = parser.parse_args(arguments)
    print(f"{given.model}, train {given.train}: {given.n_envs} episodes x {given.new_tokens} tokens, |ratio - 1|\n")
    print(f"| | decoding, mean | one batch, max | minibatches of {given.batch_size}: mean | 99% | max |")
    print("|---|---|---|---|---|---|")
    for name, options in SETTINGS.items():
        decoding, whole, parts = measure(**vars(given), **options)
        found = (decoding, whole.max(), parts.mean(), np.quantile(parts, 0.99), parts.max())
        print(f"| {name} | {' | '.join(f'{100 * value:.2f}%' for value in found)} |", flush=True)
    print(f"\nasked: at most {100 * MAX_ERROR:g}%")


if __name__ == "__main__":
    main()
