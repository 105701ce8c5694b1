"""Jobs on a Ray cluster of two nodes: what comes back, what a killed process, worker or node costs, and who is refused.

The worker imports no torch.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from threading import Timer
from typing import Any

import pytest

from agents.cli import app
from agents.experiments.cluster import jobs as cluster_jobs
from agents.experiments.cluster.jobs import RayJobs, check_ray, on_cluster
from agents.experiments.processes import Job, run_jobs

# Ray leaves sockets and files to the garbage collector.
pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")

WORKER = """
import json, os, signal, sys, time
from pathlib import Path
from agents.experiments.processes import serve
from agents.training.errors import RunInterrupted


def execute(task):
    folder, shared = Path(task["folder"]), Path(task["shared"])
    saves = folder / "checkpoints"
    saves.mkdir(parents=True, exist_ok=True)
    begun = max((int(path.name) for path in saves.iterdir()), default=0)
    print("goes on from", begun, flush=True)
    with (shared / f"{task['name']}.begun").open("a") as file:
        file.write(f"{os.getpid()} {begun} {os.environ.get('RAY_NODE_ID', '')} {os.environ['OMP_NUM_THREADS']}\\n")
    if task["do"] == "raise":
        raise ValueError("a | banana")
    stopped = []
    signal.signal(signal.SIGTERM, lambda *_: stopped.append(1))
    (folder / "config.json").write_text(json.dumps({"log_folder": str(folder.parent), "data": task["data"]}))
    for step in range(begun + 1, task["steps"] + 1):
        time.sleep(0.1)
        (saves / str(step)).mkdir()
        (saves / str(step) / "agent.json").write_text(str(step))
        for old in sorted(saves.iterdir(), key=lambda path: int(path.name))[:-1]:
            (old / "agent.json").unlink()
            old.rmdir()
        if stopped:
            raise RunInterrupted("saved")
        if task["do"] == "die" or (task["do"] == "die once" and begun == 0 and step == 10):
            os.kill(os.getpid(), signal.SIGKILL)
    (folder / "result.json").write_text(json.dumps({"steps": task["steps"], "begun": begun}))


if __name__ == "__main__":
    sys.exit(serve(execute))
"""


@pytest.fixture(autouse=True)
def worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "ray_jobs_worker.py").write_text(WORKER)
    monkeypatch.syspath_prepend(tmp_path)


def make_job(folder: Path, name: str, do: str = "", steps: int = 3) -> Job:
    run = folder / "experiment" / name
    run.parent.mkdir(exist_ok=True)
    task = {"name": name, "do": do, "steps": steps, "folder": str(run), "shared": str(folder)}
    task["data"] = str(folder / "experiment" / "data.jsonl")
    return Job(
        name, "ray_jobs_worker", task, run, run / "result.json", run.with_suffix(".error.json"), run.with_suffix(".log")
    )


def do(folder: Path, *jobs: Job, look: Callable[[], None] = lambda: None, **options: Any) -> dict[str, str]:
    ended: dict[str, str] = {}
    run_jobs(jobs, len(jobs), ended.__setitem__, look, RayJobs(folder / "experiment", every=0.2, **options).start)
    return ended


def begun(folder: Path, name: str) -> list[list[str]]:
    """Of each start of a job: the process, the checkpoint that it went on from, the node, the threads."""
    file = folder / f"{name}.begun"
    return [line.split(" ") for line in file.read_text().splitlines()] if file.is_file() else []


def once(condition: Callable[[], Any], action: Callable[[Any], None]) -> Callable[[], None]:
    """Do something, in a thread, as soon as a condition holds."""

    def look() -> None:
        found = condition()
        if found:
            action(found)
        else:
            Timer(0.1, look).start()

    return look


def test_runs_of_two_nodes_come_back_with_their_logs_and_errors(ray: Any, tmp_path: Path) -> None:
    ended = do(tmp_path, make_job(tmp_path, "a"), make_job(tmp_path, "b"), make_job(tmp_path, "c", "raise"))
    assert ended == {"a": "finished", "b": "finished", "c": "FAILED, ValueError: a | banana"}
    folder = tmp_path / "experiment"
    assert {begun(tmp_path, name)[0][3] for name in "abc"} == {"1"}
    assert json.loads((folder / "a" / "result.json").read_text()) == {"steps": 3, "begun": 0}
    assert [path.name for path in (folder / "a" / "checkpoints").iterdir()] == ["3"], "what a run removes is gone"
    assert json.loads((folder / "a" / "config.json").read_text()) == {
        "log_folder": str(folder),
        "data": str(folder / "data.jsonl"),
    }
    assert (folder / "a.log").read_text() == "goes on from 0\n"
    failure = json.loads((folder / "c.error.json").read_text())
    assert failure["status"] == "failed" and "Traceback" in failure["traceback"]
    assert sorted(path.name for path in folder.iterdir()) == ["a", "a.log", "b", "b.log", "c.error.json", "c.log"]


def test_a_killed_process_goes_on_from_what_came_back(
    ray: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert do(tmp_path, make_job(tmp_path, "a", "die once", 20)) == {"a": "finished"}
    starts = [int(start[1]) for start in begun(tmp_path, "a")]
    assert len(starts) == 2 and 0 < starts[1] <= 10
    assert json.loads((tmp_path / "experiment" / "a" / "result.json").read_text()) == {"steps": 20, "begun": starts[1]}
    assert "a: it was killed by SIGKILL; it goes on from what has come back, try 1 of 3" in caplog.text
    assert (tmp_path / "experiment" / "a.log").read_text() == f"goes on from 0\ngoes on from {starts[1]}\n"


def test_a_process_that_dies_each_time_is_a_failed_run(ray: Any, tmp_path: Path) -> None:
    ended = do(tmp_path, make_job(tmp_path, "a", "die", 20), retries=1)
    assert ended == {"a": "FAILED, lost 2 times: it was killed by SIGKILL, it was killed by SIGKILL"}
    assert len(begun(tmp_path, "a")) == 2


def test_a_killed_worker_takes_its_process_with_it_and_the_run_goes_on(ray: Any, tmp_path: Path) -> None:
    import psutil

    killed: list[int] = []

    def kill(starts: list[list[str]]) -> None:
        process = psutil.Process(int(starts[0][0]))
        killed.append(process.pid)
        process.parent().kill()

    once(lambda: (tmp_path / "experiment" / "a" / "checkpoints").is_dir() and begun(tmp_path, "a"), kill)()
    assert do(tmp_path, make_job(tmp_path, "a", steps=60)) == {"a": "finished"}
    _, second = begun(tmp_path, "a")
    assert int(second[1]) > 0
    assert not psutil.pid_exists(killed[0])


def test_a_killed_node_costs_its_runs_what_had_not_come_back(nodes: Any, ray: Any, tmp_path: Path) -> None:
    node = nodes.add_node(num_cpus=2)
    begins = ["a", "b", "c"]

    def all_begun() -> bool:
        return all((tmp_path / "experiment" / name / "checkpoints").is_dir() for name in begins)

    once(all_begun, lambda _: nodes.remove_node(node, allow_graceful=False))()
    ended = do(tmp_path, *(make_job(tmp_path, name, steps=30) for name in begins))
    assert ended == dict.fromkeys(begins, "finished")
    starts = [begun(tmp_path, name) for name in begins]
    again = [found for found in starts if len(found) > 1]
    assert 1 <= len(again) <= 2 and all(int(found[1][1]) > 0 for found in again)
    for name in begins:
        assert json.loads((tmp_path / "experiment" / name / "result.json").read_text())["steps"] == 30


def test_stopped_runs_are_saved_and_come_back_and_go_on_later(ray: Any, tmp_path: Path) -> None:
    jobs = [make_job(tmp_path, name, steps=40) for name in "abc"]  # one waits for a free CPU

    def stop() -> None:
        if len([*(tmp_path / "experiment").glob("*/checkpoints/*")]) >= 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        do(tmp_path, *jobs, look=stop)
    saved = {name: [int(p.name) for p in (tmp_path / "experiment" / name / "checkpoints").glob("*")] for name in "abc"}
    assert sum(len(steps) == 1 for steps in saved.values()) == 2
    first = next(name for name in "abc" if saved[name])
    assert do(tmp_path, next(job for job in jobs if job.name == first)) == {first: "finished"}
    assert [int(start[1]) for start in begun(tmp_path, first)] == [0, *saved[first]]
    assert not [*(tmp_path / "experiment").glob(".parcel*")]


def test_a_node_with_other_versions_is_named(nodes: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(cluster_jobs, "versions", lambda: {"torch": "0.1", "gymnasium": "not installed"})
    message = r"the Ray node \S+ has torch \S+ instead of 0\.1: all nodes need the same versions"
    with pytest.raises(ValueError, match=message), on_cluster(nodes.address):
        pass
    monkeypatch.undo()
    with on_cluster(nodes.address):  # a node that comes later is looked at too
        monkeypatch.setattr(cluster_jobs, "versions", lambda: {"torch": "0.1"})
        (how,) = do(tmp_path, make_job(tmp_path, "a")).values()
    assert how.startswith("FAILED, VersionsDifferError: the Ray node ")


def test_an_address_that_nobody_answers_at_is_named_at_once() -> None:
    pytest.importorskip("ray", reason="needs the extra ray")
    with pytest.raises(ValueError, match=r"no Ray cluster answers at 127\.0\.0\.1:9 "), on_cluster("127.0.0.1:9"):
        pass


@pytest.mark.parametrize("verb", ["compare", "tune"])
def test_without_ray_the_command_says_how_to_install_it(
    verb: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from typer.testing import CliRunner

    monkeypatch.setitem(__import__("sys").modules, "ray", None)
    flags = ["--env", "rlhf/TokenBandit-v0", "-f", str(tmp_path / "logs"), "--ray"]
    found = CliRunner().invoke(app, [verb, *flags, *(["--algos", "ppo"] if verb == "compare" else [])])
    assert found.exit_code == 2
    assert "--ray needs Ray" in found.stderr and "pip install 'rlhf-envs[ray]'" in found.stderr
    assert not (tmp_path / "logs").exists()


def test_a_tracker_that_would_write_files_on_each_node_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("ray", reason="needs the extra ray")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with pytest.raises(ValueError, match=r"--tracker mlflow with --ray: .*set MLFLOW_TRACKING_URI"):
        check_ray(["mlflow"])
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://mlflow:5000")
    check_ray(["mlflow", "wandb"])
    monkeypatch.setenv("WANDB_MODE", "offline")
    with pytest.raises(ValueError, match="WANDB_MODE=offline"):
        check_ray(["wandb"])
