"""Have trials done on a Ray cluster. The study stays with the process of the search, which asks and tells."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from ... import registry
from ..cluster.jobs import RayJobs, RayProcess
from ..processes import INTERRUPTED, Job
from .config import FREE, TuneConfig

__all__ = ["REPORTS", "RESULT", "TRIALS", "Remote"]

WORKER = "agents.experiments.tune.trial"
# What a trial is told of the search. The flags of data that a command has beside are in `env_kwargs`.
TOLD = (TuneConfig.model_fields.keys() - FREE) | {"threads", "tracker", "project"}
TRIALS, REPORTS, RESULT = "trials", "reports.json", "result.json"  # a folder, and files of each trial in it


class Remote:
    """Have trainings done on the cluster that this process is connected to. Each is a job of its own.

    Args:
        config: the search's.
    """

    def __init__(self, config: TuneConfig) -> None:
        self._config, self._root = config, config.folder().absolute()
        self._jobs = RayJobs(self._root, config.threads or 1, int(config.device.startswith("cuda")), self._arrived)
        self._lock, self._stopping = threading.Lock(), False
        self._watched: dict[str, tuple[RayProcess, Callable[[list[list[float]]], bool]]] = {}

    def run(
        self,
        name: str,
        chosen: dict[str, Any],
        seeds: Sequence[int],
        splits: Sequence[str],
        reports: Callable[[list[list[float]]], bool] | None = None,
    ) -> list[dict[str, list[Any]]] | None:
        """Train with chosen settings, once per seed, evaluate, and return what `_measure` says by split, per seed.

        Args:
            name: of the job's folder, beside which its log stands.
            chosen: the settings.
            seeds: of the trainings.
            splits: whose prompts are evaluated on after training.
            reports: gets the evaluations during training so far, `[step, metric, KL]` each, whenever there are more.
                If it returns True, the job is ended, and the result is None. Without it nothing is evaluated meanwhile.

        Raises:
            RuntimeError: it failed; the message says why.
            KeyboardInterrupt: `stop` was called.
        """
        folder = self._root / TRIALS / name
        job = Job(
            name,
            WORKER,
            self._task(folder, chosen, seeds, splits, reports is not None),
            folder,
            folder / RESULT,
            folder.with_suffix(".error.json"),
            folder.with_suffix(".log"),
        )
        self._clear(job)
        process = self._jobs.start(job)
        with self._lock:
            if self._stopping:
                raise KeyboardInterrupt
            self._watched[name] = process, reports or (lambda found: False)
        process.stdin.write(json.dumps({**job.task, "error": str(job.error)}))
        try:
            code = process.wait()
        finally:
            with self._lock:
                del self._watched[name]
        if reports is not None and reports(_read(folder / REPORTS)):
            return None
        if job.result.is_file():
            found: list[dict[str, list[Any]]] = _read(job.result)
            return found
        if self._stopping or code == INTERRUPTED:
            raise KeyboardInterrupt
        error = _read(job.error).get("error") if job.error.is_file() else f"its process ended with exit code {code}"
        raise RuntimeError(f"{error} (see {job.log})")

    def run_each(self, jobs: dict[str, tuple[dict[str, Any], Sequence[int], Sequence[str]]]) -> list[dict[str, Any]]:
        """Do jobs side by side, by their names: settings, seeds and splits of each. Return what came of all seeds."""
        with ThreadPoolExecutor(len(jobs)) as pool:
            futures = [pool.submit(self.run, name, *job) for name, job in jobs.items()]
            try:
                return [row for future in futures for row in future.result() or []]
            except BaseException:
                self.stop()
                raise

    def stop(self) -> None:
        """End all jobs."""
        with self._lock:
            self._stopping = True
            processes = [process for process, _ in self._watched.values()]
        for process in processes:
            process.terminate()

    def _arrived(self, job: Job, process: RayProcess) -> None:
        """End a job whose evaluations so far say that it need not go on."""
        with self._lock:
            found = self._watched.get(job.name)
        file = job.folder / REPORTS
        if found is not None and file.is_file() and found[1](_read(file)):
            process.terminate()

    def _task(
        self, folder: Path, chosen: dict[str, Any], seeds: Sequence[int], splits: Sequence[str], reports: bool
    ) -> dict[str, Any]:
        return {
            "config": self._config.model_dump(mode="json", include=TOLD) | {"log_folder": str(self._root)},
            "name": folder.name,
            "chosen": chosen,
            "seeds": [*seeds],
            "splits": [*splits],
            "reports": reports,
            "folder": str(folder),
            "registered": registry.registered(),
        }

    def _clear(self, job: Job) -> None:
        """Remove what an earlier job of this name left: a training of a search begins anew."""
        shutil.rmtree(job.folder, ignore_errors=True)
        job.folder.parent.mkdir(parents=True, exist_ok=True)
        for file in (job.error, job.log):
            file.unlink(missing_ok=True)


def _read(file: Path) -> Any:
    return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else []
