"""Define the dialogue: several turns of a chat with a partner."""

from __future__ import annotations

from rlhf_envs.tasks.dialogue.task import Dialogue

__all__ = ["Dialogue"]
