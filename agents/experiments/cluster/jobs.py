"""Do jobs on a Ray cluster, in the place of processes of this machine.

A job gets a `Runner` of its own, a Ray actor with the CPUs that it asks for: Ray queues it until a node has them free.
The runner does the job in a process and in a folder of its node. Every few seconds what has changed there comes back
through Ray, in pieces, into the experiment's folder on this machine. So nodes share no disk with it, and of a run whose
node is lost everything up to the last parcel is here: another runner goes on from it.
"""

from __future__ import annotations

import io
import json
import logging
import os
import signal
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rlhf_envs.files import replace_json

from ...saving.provenance import versions
from ...scale.cluster import connected, explain_store, import_ray, is_lost, why_lost
from ..processes import INTERRUPTED, LOOK, Job
from . import parcels
from .runner import PIECE, Runner, describe_node

__all__ = ["RayJobs", "check_ray", "on_cluster"]

logger = logging.getLogger(__name__)

RETRIES = 3
# Where trackers log and what they may use: what a node needs to know of this machine's environment.
VARIABLES = ("MLFLOW_TRACKING_URI", "TRACKIO_DIR", "WANDB_MODE", "WANDB_PROJECT", "WANDB_ENTITY", "HF_HUB_OFFLINE")
OWN_FILES = {"mlflow": "MLFLOW_TRACKING_URI", "trackio": "TRACKIO_DIR"}  # trackers, and what names a common place


class VersionsDifferError(RuntimeError):
    """Say that a node has other versions than this machine."""


def check_ray(trackers: Sequence[str] = ()) -> None:
    """Check that Ray is installed, and that trackers log to a place that all nodes share.

    Raises:
        ModuleNotFoundError: it is not installed.
        ValueError: a tracker would write files on each node, where nobody finds them.
    """
    try:
        import_ray()
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(f"--ray needs Ray ({error.__cause__}): pip install 'rlhf-envs[ray]'") from error
    for name in trackers:
        if (variable := OWN_FILES.get(name)) is not None and variable not in os.environ:
            raise ValueError(
                f"--tracker {name} with --ray: each node would write files of its own; set {variable} to a place that "
                "all nodes reach"
            )
    if "wandb" in trackers and os.environ.get("WANDB_MODE") == "offline":
        raise ValueError("--tracker wandb with --ray and WANDB_MODE=offline: each node would write files of its own")


@contextmanager
def on_cluster(address: str | None, cpus: int = 1, gpus: int = 0) -> Iterator[Any]:
    """Be connected to a Ray cluster whose nodes have this machine's versions, see `agents.scale.cluster.connected`.

    Args:
        address: of the cluster, such as "10.0.0.1:6379"; RAY_ADDRESS, or else a cluster of this machine, by default.
        cpus: that one job needs; `gpus` likewise.

    Raises:
        ValueError: no cluster answers, or a node differs; the message names node, package and versions.
    """
    check_ray()
    with connected(address, cpus) as ray:
        _check_nodes(ray)
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        if not any(node.get("CPU", 0) >= cpus and node.get("GPU", 0) >= gpus for node in nodes):
            need = f"{cpus} CPUs" + (f" and {gpus} GPU" if gpus else "")
            logger.warning("no node of the Ray cluster has %s now: runs wait until one joins", need)
        yield ray


def _check_nodes(ray: Any) -> None:
    """Raise ValueError, with its name, for a node that has other versions, or has not this package."""
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    probe = ray.remote(num_cpus=0, max_retries=0)(describe_node)
    nodes = [node for node in ray.nodes() if node["Alive"]]
    asked = [
        probe.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)).remote()
        for node in nodes
    ]
    for node, answer in zip(nodes, asked, strict=True):
        try:
            name, there = ray.get(answer)
        except (ray.exceptions.RayTaskError, ray.exceptions.RuntimeEnvSetupError) as error:
            last = str(error).strip().splitlines()[-1]
            raise ValueError(
                f"the Ray node {node['NodeManagerAddress']} cannot run rlhf-envs ({last}): install there what is "
                "installed here"
            ) from error
        except ray.exceptions.RayError:  # it has just left the cluster
            continue
        if problem := _differs(name, there):
            raise ValueError(problem)


def _differs(node: str, there: Mapping[str, str]) -> str | None:
    """Return how a node's versions differ from this machine's; None if they do not. Only what both know is compared."""
    here = versions()
    found = [
        f"{package} {there[package]} instead of {version}"
        for package, version in here.items()
        if "not installed" not in (version, there.get(package, "not installed")) and there[package] != version
    ]
    return f"the Ray node {node} has {', '.join(found)}: all nodes need the same versions" if found else None


@dataclass(frozen=True)
class RayJobs:
    """Start jobs on the cluster that this process is connected to.

    Attributes:
        root: the experiment's folder, in which the jobs' folders are.
        cpus: CPUs of each, which its process has as many threads as; `gpus` likewise.
        arrived: called with a job and its process whenever files of it have arrived.
        retries: how often a job whose node or process was killed is done again.
        every: seconds between two parcels.
    """

    root: Path
    cpus: int = 1
    gpus: int = 0
    arrived: Callable[[Job, RayProcess], None] = lambda job, process: None
    retries: int = RETRIES
    every: float = 5.0

    def start(self, job: Job) -> RayProcess:
        """Return what stands for a job's process, see `agents.experiments.processes.run_jobs`."""
        return RayProcess(self, job)


@dataclass
class RayProcess:
    """Stand for the process of a job that a node of the cluster does.

    Attributes:
        stdin: takes the job's task.
    """

    of: RayJobs
    job: Job
    stdin: io.StringIO = field(default_factory=io.StringIO)
    _stopping: threading.Event = field(default_factory=threading.Event)
    _runner: Any = None
    _is_open: bool = False

    def __enter__(self) -> RayProcess:
        return self

    def __exit__(self, *error: object) -> None: ...

    def wait(self) -> int:
        """Do the job, again if its node or its process is killed, and return its exit code."""
        task, causes = json.loads(self.stdin.getvalue()), list[str]()
        while len(causes) <= self.of.retries:
            if self._stopping.is_set():
                return INTERRUPTED
            try:
                code = self._do(task)
            except Exception as error:
                if self._stopping.is_set():
                    return INTERRUPTED
                if not is_lost(error):
                    return self._give_up(explain_store(error) or f"{type(error).__name__}: {error}")
                causes.append(why_lost(error))
            else:
                if code != -signal.SIGKILL or self._stopping.is_set():
                    return code
                causes.append("it was killed by SIGKILL")
            finally:
                self.kill()
            self._note(causes)
        return self._give_up(f"lost {len(causes)} times: {', '.join(causes)}")

    def terminate(self) -> None:
        """Have the run saved. What it has then comes back, and `wait` returns."""
        self._stopping.set()
        if self._is_open:
            with suppress(Exception):  # it has ended
                self._runner.stop.remote()
        else:
            self.kill()

    def kill(self) -> None:
        """End the job at once, or take it from the queue."""
        runner, self._runner, self._is_open = self._runner, None, False
        if runner is not None:
            with suppress(Exception):  # it has ended
                import_ray().kill(runner)

    def _do(self, task: Mapping[str, Any]) -> int:
        ray, of, job = import_ray(), self.of, self.job
        kind = ray.remote(Runner).options(num_cpus=of.cpus, num_gpus=of.gpus, max_restarts=0, max_task_retries=0)
        runner = self._runner = kind.remote(of.every)
        if self._stopping.is_set():  # between its start and now
            return INTERRUPTED
        there, node, found = ray.get(runner.open.remote())
        self._is_open = True
        if problem := _differs(node, found):
            raise VersionsDifferError(problem)
        moved = _Moved(str(of.root.absolute()), there, job)
        self._send(ray, runner)
        names = {key: moved.there(getattr(job, key)) for key in ("folder", "result", "error")}
        ray.get(
            runner.start.remote(
                job.worker,
                moved.task(task),
                names | {"moved": json.dumps({moved.root: there})},
                cpus=of.cpus,
                paths=[path or os.getcwd() for path in sys.path],
                place=os.getcwd(),
                variables={name: os.environ[name] for name in VARIABLES if name in os.environ},
            )
        )
        if self._stopping.is_set():  # `terminate` came before there was a process
            runner.stop.remote()
        while True:
            news = ray.get(runner.poll.remote(LOOK))
            self._take(ray, runner, news, moved)
            if news["code"] is not None:
                ray.get(runner.close.remote())
                return int(news["code"])

    def _send(self, ray: Any, runner: Any) -> None:
        """Send what the run's folder has, if it was begun."""
        if not self.job.folder.is_dir():
            return
        with tempfile.TemporaryDirectory(dir=self.of.root, prefix=".parcel-") as folder:
            archive = Path(folder) / "parcel.tar"
            parcels.pack(self.job.folder, list(parcels.scan(self.job.folder)), archive)
            with archive.open("rb") as pieces:
                while piece := pieces.read(PIECE):
                    ray.get(runner.receive.remote(piece))

    def _take(self, ray: Any, runner: Any, news: Mapping[str, Any], moved: _Moved) -> None:
        """Put in the experiment's folder what has come back of a run."""
        if news["log"]:
            with self.job.log.open("ab") as log:
                log.write(moved.back(news["log"].decode("utf-8", "replace")).encode())
        if news["pieces"] is not None:
            with tempfile.TemporaryDirectory(dir=self.of.root, prefix=".parcel-") as folder:
                archive = Path(folder) / "parcel.tar"
                with archive.open("wb") as file:
                    for index in range(news["pieces"]):
                        file.write(ray.get(runner.piece.remote(index)))
                parcels.unpack(archive, self.job.folder, news["names"])
            parcels.move_paths(self.job.folder, {moved.node: moved.root})
            self.of.arrived(self.job, self)
        if news["error"] is not None:
            replace_json(self.job.error, json.loads(moved.back(news["error"])))

    def _note(self, causes: Sequence[str]) -> None:
        tries = f"try {len(causes)} of {self.of.retries}"
        if len(causes) <= self.of.retries:
            logger.warning("%s: %s; it goes on from what has come back, %s", self.job.name, causes[-1], tries)

    def _give_up(self, why: str) -> int:
        replace_json(self.job.error, {"status": "died", "error": why})
        return 1


@dataclass(frozen=True)
class _Moved:
    """Turn paths of the experiment's folder into those of the folder that stands for it on a node, and back."""

    root: str
    node: str
    job: Job

    def there(self, path: Path) -> str:
        return str(Path(self.node) / Path(path).absolute().relative_to(self.root))

    def back(self, text: str) -> str:
        return text.replace(self.node, self.root)

    def task(self, value: Any) -> Any:
        """Return a task with the paths of its run moved: its folder, folders around it, and what is inside."""
        if isinstance(value, Mapping):
            return {key: self.task(one) for key, one in value.items()}
        if isinstance(value, list):
            return [self.task(one) for one in value]
        return self.there(Path(value)) if isinstance(value, str) and self._is_moved(value) else value

    def _is_moved(self, text: str) -> bool:
        if not text.startswith(self.root):
            return False
        path, folder, root = Path(text), self.job.folder.absolute(), Path(self.root)
        around = root in (path, *path.parents) and path in (folder, *folder.parents)
        return around or folder in path.parents or path == self.job.error.absolute()
