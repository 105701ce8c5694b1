"""Token bandit: a space of completions so small that the KL-regularised optimum is computed by enumeration."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import product
from typing import Any

import numpy as np

from rlhf_envs.rewards.rules import TokenBanditReward
from rlhf_envs.tasks.base import WordTask

__all__ = ["TokenBandit", "completion_rewards", "enumerate_completions", "optimum"]

LETTERS = "abcdef"
CONTEXTS = "abcd"
HORIZON = 3


class TokenBandit(WordTask):
    """A context letter is the prompt, up to three tokens follow, and `TokenBanditReward` scores them.

    The vocabulary has 8 tokens: pad, EOS and the letters a to f. It needs no data and no model; all splits are
    the same.
    """

    name = "token-bandit"
    default_reward = "token-bandit"
    words = tuple(LETTERS)
    prompts = tuple(CONTEXTS)
    max_prompt_tokens = 1
    max_new_tokens = HORIZON

    def reward(self, max_new_tokens: int) -> Callable[..., Any]:
        """The fixed reward over that many tokens."""
        return TokenBanditReward(max_new_tokens)


def enumerate_completions(
    vocab_size: int = 2 + len(LETTERS), eos_token_id: int = 1, horizon: int = HORIZON
) -> list[tuple[int, ...]]:
    """Every completion there is: token ids that end with the first EOS or after `horizon` tokens.

    Their probabilities under any policy sum to 1. By default there are 1 + 7 + 7 * 7 * 8 = 400.
    """
    others = [token for token in range(vocab_size) if token != eos_token_id]
    ended = [(*start, eos_token_id) for k in range(horizon) for start in product(others, repeat=k)]
    return ended + list(product(others, repeat=horizon))


def completion_rewards(prompt: str, completions: Sequence[Sequence[int]], horizon: int = HORIZON) -> np.ndarray:
    """The task's reward of each completion, (S,), through its text as in the environment."""
    texts = TokenBandit().tokenizer(None).batch_decode([list(ids) for ids in completions], skip_special_tokens=True)
    return TokenBanditReward(horizon).score([prompt] * len(texts), texts)


def optimum(log_ref: np.ndarray, rewards: np.ndarray, kl_coef: float) -> dict[str, Any]:
    """The policy that maximises `E[r] - kl_coef * KL(policy || reference)`: pi* = pi_ref exp(r / kl_coef) / Z.

    Ziegler et al. 2019, "Fine-Tuning Language Models from Human Preferences", section 2; Korbak et al. 2022, "RL with
    KL penalties is better viewed as Bayesian inference".

    Args:
        log_ref: (S,) log-probabilities of all completions under the reference; they sum to 1.
        rewards: (S,) their rewards.
        kl_coef: the weight of the KL, above 0.

    Returns:
        `policy` (S,) probabilities, and the floats `expected_reward`, `kl` (in nats) and `objective`, which is
        `kl_coef * log Z`.

    Raises:
        ValueError: the shapes differ, the reference does not sum to 1, or `kl_coef` is not above 0.
    """
    log_ref, rewards = np.asarray(log_ref, dtype=np.float64), np.asarray(rewards, dtype=np.float64)
    if log_ref.ndim != 1 or log_ref.shape != rewards.shape:
        raise ValueError(f"log_ref and rewards must be of one shape (S,), got {log_ref.shape} and {rewards.shape}")
    if not kl_coef > 0:
        raise ValueError(f"kl_coef must be above 0, got {kl_coef}")
    total = float(np.exp(log_ref).sum())
    if abs(total - 1) > 1e-3:
        raise ValueError(f"the reference's probabilities sum to {total:.6g}, not to 1: pass every completion once")
    scaled = log_ref + rewards / kl_coef
    log_z = np.logaddexp.reduce(scaled)
    log_policy = scaled - log_z
    policy = np.exp(log_policy)
    expected_reward = float(policy @ rewards)
    kept = policy > 0  # 0 log 0 is 0
    kl = float(policy[kept] @ (log_policy[kept] - log_ref[kept]))
    return {
        "policy": policy,
        "expected_reward": expected_reward,
        "kl": kl,
        "objective": expected_reward - kl_coef * kl,
    }
