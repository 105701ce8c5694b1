"""Text generation as Gymnasium environments whose reward comes from models, people or rules.

Importing the package registers the environments `rlhf/<Task>-v0` and imports neither torch nor transformers.
"""

from __future__ import annotations

from rlhf_envs.dialogs import Dialog, Reply
from rlhf_envs.registration import register_all, register_task
from rlhf_envs.rewards import Reward, RewardFunction, evaluate_reward, get_reward, list_rewards, register_reward
from rlhf_envs.tasks import Task
from rlhf_envs.text_env import TextGenerationEnv
from rlhf_envs.vector_env import TextGenerationVectorEnv

__all__ = [
    "Dialog",
    "Reply",
    "Reward",
    "RewardFunction",
    "Task",
    "TextGenerationEnv",
    "TextGenerationVectorEnv",
    "evaluate_reward",
    "get_reward",
    "list_rewards",
    "register_reward",
    "register_task",
]

__version__ = "0.1.0"

register_all()
