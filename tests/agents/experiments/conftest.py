"""What tests of experiments share that run several agents."""

from __future__ import annotations

import importlib
import io
import json
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr
from typing import Any

import pytest

from agents.experiments import pages, processes
from agents.experiments.processes import Job


class _Here:
    """Stand for the process of a job: do the job in this process, without the seconds in which another starts."""

    def __init__(self, job: Job) -> None:
        self.job, self.stdin = job, io.StringIO()

    def __enter__(self) -> _Here:
        return self

    def __exit__(self, *error: object) -> None: ...

    def wait(self) -> int:
        execute = importlib.import_module(self.job.worker).execute
        with self.job.log.open("a", encoding="utf-8") as log, redirect_stderr(log):
            return processes.attempt(execute, json.loads(self.stdin.getvalue()))

    def terminate(self) -> None: ...

    def kill(self) -> None: ...


@pytest.fixture
def jobs_here(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[str]]:
    """Call it, and jobs are done in this process, one at a time. A job whose name is given gets one of its own.

    It returns a list, to which the names of the jobs in processes of their own come.
    """
    start, started = processes._start, list[str]()

    def use(apart: str | None = None) -> list[str]:
        def start_job(job: Job) -> Any:
            if job.name != apart:
                return _Here(job)
            started.append(job.name)
            return start(job)

        monkeypatch.setattr(processes, "_start", start_job)
        return started

    return use


@pytest.fixture(autouse=True, scope="module")
def _pictures_are_coarse(request: pytest.FixtureRequest) -> Iterator[None]:
    """Draw reports' PNGs in few dots and no PDF, which took a tenth of these tests' time; test_pages draws them all."""
    with pytest.MonkeyPatch.context() as patch:
        if request.path.stem != "test_pages":
            save = pages._save

            def save_coarse(figure: Any, kind: str, **options: Any) -> bytes:
                return b"%PDF" if kind == "pdf" else save(figure, kind, **{**options, "dpi": 40})

            patch.setattr(pages, "_save", save_coarse)
        yield
