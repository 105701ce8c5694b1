"""Offer reward functions with one batched signature: rules, learned models, people, and their composition."""

from __future__ import annotations

from rlhf_envs.rewards.base import Composed, FunctionReward, Reward, RewardFunction, evaluate_reward
from rlhf_envs.rewards.calling import TrainerState
from rlhf_envs.rewards.constraints import Constrained
from rlhf_envs.rewards.diversity import DistinctNgrams, Novelty, SelfBleuDiversity
from rlhf_envs.rewards.guard import Guarded, RewardError
from rlhf_envs.rewards.pessimism import Pessimistic
from rlhf_envs.rewards.registry import get_reward, list_rewards, register_reward
from rlhf_envs.rewards.scores import ScoreError, Scores
from rlhf_envs.rewards.shaping import Clipped, LengthPenalty, RepetitionPenalty, Whitened
from rlhf_envs.rewards.signature import MissingColumnError, check_signature
from rlhf_envs.rewards.state import frozen_rewards

__all__ = [
    "Clipped",
    "Composed",
    "Constrained",
    "DistinctNgrams",
    "FunctionReward",
    "Guarded",
    "LengthPenalty",
    "MissingColumnError",
    "Novelty",
    "Pessimistic",
    "RepetitionPenalty",
    "Reward",
    "RewardError",
    "RewardFunction",
    "ScoreError",
    "Scores",
    "SelfBleuDiversity",
    "TrainerState",
    "Whitened",
    "check_signature",
    "evaluate_reward",
    "frozen_rewards",
    "get_reward",
    "list_rewards",
    "register_reward",
]
