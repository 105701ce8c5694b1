"""Define the tutor: hints that let a simulated student solve a word problem, without the answer."""

from __future__ import annotations

from rlhf_envs.tasks.tutor.task import Tutor

__all__ = ["Tutor"]
