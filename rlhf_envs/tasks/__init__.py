"""Define the tasks, one small file each. A task is its data, its default reward and little else."""

from __future__ import annotations

from rlhf_envs.tasks.base import Task, WordTask

__all__ = ["Task", "WordTask"]
