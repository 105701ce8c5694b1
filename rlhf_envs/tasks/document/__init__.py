"""Define the document task: templates, facts, the score and the task."""

from __future__ import annotations

from rlhf_envs.tasks.document.task import Document

__all__ = ["Document"]
