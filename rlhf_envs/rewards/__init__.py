"""Reward functions: one batched signature, rules, learned models, and their composition."""

from __future__ import annotations

from rlhf_envs.rewards.base import Composed, FunctionReward, Reward, RewardFunction, evaluate_reward
from rlhf_envs.rewards.registry import get_reward, list_rewards, register_reward

__all__ = [
    "Composed",
    "FunctionReward",
    "Reward",
    "RewardFunction",
    "evaluate_reward",
    "get_reward",
    "list_rewards",
    "register_reward",
]
