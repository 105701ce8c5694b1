"""Define the tasks of reasoning-gym: generated questions with verifiers, and levels of difficulty."""

from __future__ import annotations

from rlhf_envs.tasks.reasoning.task import ReasoningGym

__all__ = ["ReasoningGym"]
