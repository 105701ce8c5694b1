"""Define the token bandit: so few completions that enumeration gives the KL-regularised optimum."""

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
    """Answer a context letter with up to three tokens, which a fixed table scores.

    ## Description
    There are 4 prompts (a to d) and 400 completions. `optimum` computes the policy that maximises the reward minus the
    KL penalty, so that an algorithm's result can be compared with the best there is. All splits are the same.

    ## Observation space
    `input_ids` and `attention_mask`, (4,) each: a prompt of one token and up to 3 new ones.

    ## Action space
    `Discrete(8)`: pad (0), EOS (1) and the letters a to f.

    ## Reward
    At the end of an episode the score of `TokenBanditReward`, a fixed function of the prompt and the letters.

    ## Episode end
    EOS, or 3 new tokens.

    ## Arguments
    `gymnasium.make("rlhf/TokenBandit-v0")` needs none. It takes the arguments of `TextGenerationEnv` except `model`,
    because the task has its own vocabulary.

    ## Version history
    v0: the first version.
    """

    name = "token-bandit"
    default_reward = "token-bandit"
    words = tuple(LETTERS)
    prompts = tuple(CONTEXTS)
    max_prompt_tokens = 1
    max_new_tokens = HORIZON

    def reward(self, max_new_tokens: int) -> Callable[..., Any]:
        """Return the fixed reward over this many tokens."""
        return TokenBanditReward(max_new_tokens)


def enumerate_completions(
    vocab_size: int = 2 + len(LETTERS), eos_token_id: int = 1, horizon: int = HORIZON
) -> list[tuple[int, ...]]:
    """Return all possible completions: tuples of token ids that end with the first EOS or after `horizon` tokens.

    Their probabilities under any policy sum to 1. By default there are 1 + 7 + 7 * 7 * 8 = 400.
    """
    others = [token for token in range(vocab_size) if token != eos_token_id]
    ended = [(*start, eos_token_id) for k in range(horizon) for start in product(others, repeat=k)]
    return ended + list(product(others, repeat=horizon))


def completion_rewards(prompt: str, completions: Sequence[Sequence[int]], horizon: int = HORIZON) -> np.ndarray:
    """Return the task's reward of each completion, (S,), scored by its text as in the environment."""
    texts = TokenBandit().tokenizer(None).batch_decode([list(ids) for ids in completions], skip_special_tokens=True)
    return TokenBanditReward(horizon).score([prompt] * len(texts), texts)


def optimum(log_ref: np.ndarray, rewards: np.ndarray, kl_coef: float) -> dict[str, Any]:
    """Return the policy that maximises `E[r] - kl_coef * KL(policy || reference)`: pi* = pi_ref exp(r / kl_coef) / Z.

    Ziegler et al. 2019, "Fine-Tuning Language Models from Human Preferences", section 2; Korbak et al. 2022, "RL with
    KL penalties is better viewed as Bayesian inference".

    Args:
        log_ref: (S,) log-probabilities of all completions under the reference. The probabilities sum to 1.
        rewards: (S,) the rewards of the completions.
        kl_coef: the weight of the KL penalty, above 0.

    Returns:
        a dict with `policy`, (S,) probabilities, and the floats `expected_reward`, `kl` (in nats per episode) and
        `objective`, which equals `kl_coef * log Z`.

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
