"""List the rows of a served environment as tasks."""

from __future__ import annotations

from collections.abc import Iterator

import verifiers.v1 as vf

from rlhf_served.client import count_tasks

__all__ = ["ServedConfig", "ServedData", "ServedTaskset"]


class ServedData(vf.TaskData):
    base_url: str
    split: str
    index: int


class ServedConfig(vf.TasksetConfig):
    base_url: str = "http://127.0.0.1:8000"
    """The address that `rlhf serve-env` prints."""
    split: str = "test"
    """The split that the prompts come from."""


class ServedTask(vf.Task[ServedData]):
    """Hold a row's place. The server gives its prompt, and the reward."""


class ServedTaskset(vf.Taskset[ServedTask, ServedConfig]):
    def load(self) -> Iterator[ServedTask]:
        """Yield a task for each row of the split."""
        base_url, split = self.config.base_url.rstrip("/"), self.config.split
        for index in range(count_tasks(base_url, split)):
            name = f"{split}-{index}"
            data = ServedData(id=name, name=name, base_url=base_url, split=split, index=index)
            yield ServedTask(data, self.config.task)
