"""Score chats by "dialogue-reward", a reward model of turns and chats that people rated."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from rlhf_envs.datasets.messages import Prompt
from rlhf_envs.rewards.base import Reward
from rlhf_envs.rewards.reward_model import RewardModel
from rlhf_envs.tasks.dialogue.partners import is_sensible

__all__ = ["FOLDER", "DialogueReward"]

FOLDER = "dialogue-reward"


class DialogueReward(Reward):
    """Return how good the agent's last turn is after the chat before it, in [0, 1]: the sigmoid of the model's score.

    A turn that nobody would answer scores 0, see `is_sensible`.

    Args:
        model: the embedded "dialogue-reward", or the folder or hub id of another reward model.
    """

    name = "dialogue-reward"
    reads_messages = True

    def __init__(self, model: str = FOLDER) -> None:
        self.model = RewardModel(model)

    def parts(self) -> tuple[Reward, ...]:
        """Return the reward model."""
        return (self.model,)

    def score(self, prompts: Sequence[Prompt], completions: Sequence[Prompt], **columns: list[object]) -> np.ndarray:
        """Return (n,) float64."""
        scores = 1 / (1 + np.exp(-self.model.score(prompts, completions)))
        sensible = [is_sensible(_texts(*pair)) for pair in zip(prompts, completions, strict=True)]
        return np.where(sensible, scores, 0.0)


def _texts(prompt: Prompt, completion: Prompt) -> list[str]:
    """Return what was said in a chat, in order."""
    parts = (
        [part] if isinstance(part, str) else [message["content"] for message in part] for part in (prompt, completion)
    )
    return [text for part in parts for text in part]
