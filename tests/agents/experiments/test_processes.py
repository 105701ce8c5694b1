"""Jobs in processes of their own: side by side, failed, killed and stopped. Their worker imports no torch."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from agents.experiments.processes import Job, run_jobs

WORKER = """
import os, signal, sys, time
from pathlib import Path
from agents.experiments.processes import serve
from agents.training.errors import RunInterrupted


def execute(task):
    print("begins", flush=True)
    if task["do"] == "raise":
        raise ValueError("a | banana")
    if task["do"] == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    if task["do"] == "stop":
        raise RunInterrupted("saved")
    folder = Path(task["folder"])
    (folder / f"{task['name']}.begun").touch()
    end = time.monotonic() + 60
    while len([*folder.glob("*.begun")]) < task["together"]:
        if time.monotonic() > end:
            raise TimeoutError("the others have not begun")
        time.sleep(0.01)
    (folder / f"{task['name']}.json").write_text("{}")


if __name__ == "__main__":
    sys.exit(serve(execute))
"""


@pytest.fixture
def worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "jobs_worker.py").write_text(WORKER)
    monkeypatch.syspath_prepend(tmp_path)
    return "jobs_worker"


def make_job(folder: Path, worker: str, name: str, do: str = "", together: int = 1) -> Job:
    task = {"name": name, "do": do, "folder": str(folder), "together": together}
    return Job(
        name, worker, task, folder, folder / f"{name}.json", folder / f"{name}-error.json", folder / f"{name}.log"
    )


def test_jobs_run_side_by_side(tmp_path: Path, worker: str) -> None:
    """Each waits for the other to begin."""
    ended: dict[str, str] = {}
    jobs = [make_job(tmp_path, worker, name, together=2) for name in ("a", "b")]
    run_jobs(jobs, 2, ended.__setitem__, lambda: None)
    assert ended == {"a": "finished", "b": "finished"}


def test_each_way_to_end_is_told(tmp_path: Path, worker: str) -> None:
    ended: dict[str, str] = {}
    jobs = [make_job(tmp_path, worker, do, do) for do in ("raise", "die", "stop")]
    run_jobs(jobs, 1, ended.__setitem__, lambda: None)
    died = "its process ended with the signal SIGKILL; it printed last: begins"
    assert ended == {"raise": "FAILED, ValueError: a | banana", "die": f"FAILED, {died}", "stop": "interrupted"}
    assert json.loads((tmp_path / "die-error.json").read_text()) == {"status": "died", "error": died}
    failure = json.loads((tmp_path / "raise-error.json").read_text())
    assert failure["status"] == "failed" and "Traceback" in failure["traceback"]
    assert "Traceback" in (tmp_path / "raise.log").read_text()
    assert not (tmp_path / "stop-error.json").exists()
