"""What carries a run to a node and back, without Ray: parcels, and a runner that is called here."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from agents.experiments.cluster import jobs as cluster_jobs
from agents.experiments.cluster import parcels, runner
from agents.experiments.cluster.jobs import RayJobs
from agents.experiments.processes import Job, run_jobs

WORKER = """
import json, os, sys
from pathlib import Path
from agents.experiments.processes import serve


def execute(task):
    folder = Path(task["folder"])
    (folder / "checkpoints").mkdir(parents=True, exist_ok=True)
    print("sees", sorted(path.name for path in folder.rglob("*") if path.is_file()), flush=True)
    if task["do"] == "raise":
        raise ValueError(f"no {folder}")
    (folder / "checkpoints" / "2").write_text("x" * 100)
    (folder / "checkpoints" / "1").unlink(missing_ok=True)
    (folder / "config.json").write_text(json.dumps({"log_folder": str(folder.parent)}))
    (folder / "result.json").write_text("{}")


if __name__ == "__main__":
    sys.exit(serve(execute))
"""


class Here:
    """Stand for Ray: actors are objects of this process, and die if they are told to."""

    def __init__(self, deaths: int = 0) -> None:
        self.deaths = deaths

    def remote(self, kind: Any) -> Any:
        def make(*arguments: Any) -> Any:
            made = kind(*arguments)

            class Handle:
                def __getattr__(self, name: str) -> Any:
                    return SimpleNamespace(remote=lambda *given, **named: (getattr(made, name), given, named))

            return Handle()

        return SimpleNamespace(options=lambda **_: SimpleNamespace(remote=make))

    def get(self, call: Any) -> Any:
        method, given, named = call
        if method.__name__ == "poll" and self.deaths:
            self.deaths -= 1
            method.__self__.close()
            raise RayActorError("its node died")
        return method(*given, **named)

    def kill(self, handle: Any) -> None: ...


class RayActorError(Exception):
    """Named as Ray's, by which a lost actor is known."""

    __module__ = "ray.exceptions"


def job(folder: Path, do: str = "") -> Job:
    run = folder / "experiment" / "a"
    files = run / "result.json", run.with_suffix(".error.json"), run.with_suffix(".log")
    return Job("a", "parcels_worker", {"folder": str(run), "do": do}, run, *files)


def run(folder: Path, ray: Here, monkeypatch: pytest.MonkeyPatch, do: str = "", **options: Any) -> str:
    (folder / "parcels_worker.py").write_text(WORKER)
    monkeypatch.syspath_prepend(folder)
    monkeypatch.setattr(cluster_jobs, "import_ray", lambda: ray)
    monkeypatch.setattr(runner, "PIECE", 64)  # so that there are many
    monkeypatch.setattr(cluster_jobs, "PIECE", 64)
    monkeypatch.setattr(runner.tempfile, "tempdir", str(folder))
    (folder / "experiment").mkdir(exist_ok=True)
    ended: dict[str, str] = {}
    run_jobs([job(folder, do)], 1, ended.__setitem__, lambda: None, RayJobs(folder / "experiment", **options).start)
    assert not [*folder.glob("rlhf-run-*")], "nothing stays on the node"
    return ended["a"]


def test_a_run_goes_on_from_what_is_here_and_comes_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "experiment" / "a"
    (folder / "checkpoints").mkdir(parents=True)
    (folder / "checkpoints" / "1").write_text("one")
    assert run(tmp_path, Here(), monkeypatch) == "finished"
    assert (tmp_path / "experiment" / "a.log").read_text() == "sees ['1']\n"
    assert sorted(path.name for path in folder.rglob("*") if path.is_file()) == ["2", "config.json", "result.json"]
    assert (folder / "checkpoints" / "2").read_text() == "x" * 100
    assert json.loads((folder / "config.json").read_text()) == {"log_folder": str(folder.parent)}


def test_a_failed_runs_error_names_folders_of_this_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run(tmp_path, Here(), monkeypatch, "raise") == f"FAILED, ValueError: no {tmp_path / 'experiment' / 'a'}"


def test_a_lost_run_is_done_again_with_a_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    assert run(tmp_path, Here(deaths=1), monkeypatch) == "finished"
    assert "a: its node has died; it goes on from what has come back, try 1 of 3" in caplog.text
    (tmp_path / "experiment" / "a" / "result.json").unlink()
    ended = run(tmp_path, Here(deaths=2), monkeypatch, retries=1)
    assert ended == "FAILED, lost 2 times: its node has died, its node has died"


def test_locks_and_unfinished_saves_stay_where_they_are(tmp_path: Path) -> None:
    for name in ("z.txt", ".lock", ".384.tmp-1/agent.json", "checkpoints/384/agent.json", "a/.lock"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    assert list(parcels.scan(tmp_path)) == ["checkpoints/384/agent.json", "z.txt"]


def test_a_checkpoint_that_goes_while_files_are_listed_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a.txt", "checkpoints/384/agent.json", "checkpoints/768/agent.json"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    scandir = os.scandir

    def remove_first(path: Any) -> Any:
        if Path(path).name == "384" and Path(path).is_dir():
            Path(path).rename(tmp_path.with_suffix(".gone"))
        return scandir(path)

    with monkeypatch.context() as patch:
        patch.setattr(os, "scandir", remove_first)
        found = list(parcels.scan(tmp_path))
    assert found == ["checkpoints/768/agent.json", "a.txt"]


def test_a_file_that_goes_while_it_is_packed_is_told(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("a")
    assert parcels.pack(tmp_path, ["a"], tmp_path / "one.tar")
    assert not parcels.pack(tmp_path, ["a", "gone"], tmp_path / "two.tar")


def test_only_what_changed_is_packed_and_the_result_comes_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner.tempfile, "tempdir", str(tmp_path))
    held = runner.Runner(0.0)
    held._folder = tmp_path / "run"
    held._result = held._folder / "result.json"
    held._folder.mkdir()
    for name in ("a", "b", "result.json"):
        (held._folder / name).write_text(name)
    _, names = held._pack(False)
    assert names == ["a", "b"]
    assert held._pack(False) == (None, None)
    time.sleep(0.01)
    (held._folder / "b").write_text("other")
    os.remove(held._folder / "a")
    _, names = held._pack(True)
    assert names == ["b", "result.json"]
    parcels.unpack(held._archive, tmp_path / "here", names)
    assert sorted(path.name for path in (tmp_path / "here").iterdir()) == ["b", "result.json"]
    held.close()


def test_the_folder_of_a_node_that_was_lost_is_swept_and_one_at_work_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner.tempfile, "tempdir", str(tmp_path))
    working = runner.Runner()
    (tmp_path / "rlhf-run-lost").mkdir()
    (tmp_path / "rlhf-run-lost" / ".held").touch()
    other = runner.Runner()
    assert sorted(tmp_path.iterdir()) == sorted([working._root, other._root])
    working.close()
    other.close()
    assert not [*tmp_path.iterdir()]
