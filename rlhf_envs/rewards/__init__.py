"""Reward functions: one batched signature, rules, learned models, and their composition."""

from __future__ import annotations

from rlhf_envs.rewards.base import Composed, FunctionReward, Reward, RewardFunction, ScoreError, evaluate_reward
from rlhf_envs.rewards.guard import Guarded, RewardError
from rlhf_envs.rewards.registry import get_reward, list_rewards, register_reward

__all__ = [
    "Composed",
    "FunctionReward",
    "Guarded",
    "Reward",
    "RewardError",
    "RewardFunction",
    "ScoreError",
    "evaluate_reward",
    "get_reward",
    "list_rewards",
    "register_reward",
]
