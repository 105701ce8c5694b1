"""Run the runs of a comparison, each in a process of its own: `python -m agents.experiments.compare.worker`.

The process reads its task from standard input, as one line of JSON. The input stays open: when it ends, the process of
the comparison has died, and the run ends at once. It goes on later from its last checkpoint. What the process prints
goes to the run's log. A failure is written to the run's error file.
"""

from __future__ import annotations

import faulthandler
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from rlhf_envs.files import find_folder, replace_json

from ... import registry
from ...saving.checkpoints import Checkpoints
from ...saving.folders import AGENT, CHECKPOINTS, CONFIG, MODEL, is_bundle
from ...training.config import TrainConfig
from ...training.resume import prepare_resumed
from ...training.run import Prepared, RunInterrupted, RunStopped, TrainResult, prepare, train
from .config import CompareConfig
from .plan import Run, RunConfig
from .tracking import HeldOutEvaluations, Tracker

__all__ = ["as_task", "execute", "main", "run_all"]

PATIENCE = 60.0  # seconds that runs get to be saved
LOOK = 2.0  # seconds between two looks at the runs under way
INTERRUPTED = 3  # an exit code


def run_all(
    runs: Sequence[Run], config: CompareConfig, ended: Callable[[Run, str], None], look: Callable[[], None]
) -> None:
    """Run runs, `config.jobs` at a time. A failed one leaves its error file.

    `ended` is called with each run and how it ended: "finished", "interrupted" or "FAILED, <error>"; `look` every few
    seconds.

    Raises:
        KeyboardInterrupt: after the runs under way have had time to be saved.
    """
    processes: list[subprocess.Popen[str]] = []
    lock, stopping = threading.Lock(), threading.Event()

    def run_one(run: Run) -> str:
        with lock:
            if stopping.is_set():
                return "interrupted"
            process = _start(run)
            processes.append(process)
        with process:
            with suppress(OSError):  # a broken pipe: the process has died
                assert process.stdin is not None
                process.stdin.write(json.dumps(as_task(run, config)) + "\n")
                process.stdin.flush()
            return _outcome(run, process.wait())

    with ThreadPoolExecutor(config.jobs) as pool:
        futures = {pool.submit(run_one, run): run for run in runs}
        try:
            left = {*futures}
            while left:
                done, left = wait(left, LOOK, FIRST_COMPLETED)
                for future in done:
                    ended(futures[future], future.result())
                look()
        finally:
            with lock:
                stopping.set()
            for process in processes:
                process.terminate()  # the run is saved, and its process ends
            try:
                wait(futures, PATIENCE)
            finally:  # also after a second Ctrl-C
                for process in processes:
                    process.kill()


def as_task(run: Run, config: CompareConfig) -> dict[str, Any]:
    """Return a run as JSON for its process, see `execute`."""
    return {
        "config": json.loads(run.config.model_dump_json()),
        "label": run.arm.label,
        "steps": config.steps,
        "keep_agents": config.keep_agents,
        "registered": registry.registered(),
        "error": str(run.error.absolute()),
    }


def _start(run: Run) -> subprocess.Popen[str]:
    threads = {name: "1" for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")}
    paths = os.pathsep.join(path or os.getcwd() for path in sys.path)  # plugins are where they are here
    with run.log.open("a", encoding="utf-8") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "agents.experiments.compare.worker"],
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            env={**os.environ, **threads, "PYTHONPATH": paths, "TOKENIZERS_PARALLELISM": "false"},
            start_new_session=True,  # Ctrl-C reaches the comparison alone, which then has its runs saved
        )


def _outcome(run: Run, code: int) -> str:
    """Return how a run ended. Write its error file if the process died before it could."""
    if run.result.is_file():
        return "finished"
    if code in (INTERRUPTED, 128 + signal.SIGTERM):  # the latter if a reward hangs, see `CheckpointCallback`
        return "interrupted"
    if not run.error.is_file():
        how = f"the signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        printed = run.log.read_text(encoding="utf-8", errors="replace")[-600:].strip()
        last = f"; it printed last: {printed}" if printed else ""
        replace_json(run.error, {"status": "died", "error": f"its process ended with {how}{last}"})
    return f"FAILED, {json.loads(run.error.read_text(encoding='utf-8'))['error']}"


def main() -> int:
    """Run the task on standard input, and return the exit code."""
    faulthandler.enable()
    task = json.loads(sys.stdin.readline())
    threading.Thread(target=_end_with_input, daemon=True).start()
    started = time.perf_counter()
    try:
        execute(task)
    except (RunInterrupted, KeyboardInterrupt):
        return INTERRUPTED
    except Exception as error:
        traceback.print_exc()
        cause = error.__cause__ if isinstance(error, RunStopped) and error.__cause__ is not None else error
        failure = {"status": "failed", "error": f"{type(cause).__name__}: {error}", "traceback": traceback.format_exc()}
        replace_json(Path(task["error"]), failure | {"seconds": round(time.perf_counter() - started, 3)})
        return 1
    return 0


def _end_with_input() -> None:
    while os.read(0, 1):  # not sys.stdin, whose lock a thread may not hold when the interpreter ends
        pass
    os._exit(1)  # nobody waits for what is running


def execute(task: dict[str, Any]) -> None:
    """Run a run of a comparison from where it stands, and write its `result.json`.

    Args:
        task: the `config` of the run, the `label` of its algorithm, the `steps` of evaluations, `keep_agents`, and
            `registered`, the algorithms that the comparison's process has registered.
    """
    for name, target in task["registered"].items():
        registry.register(name, target)
    run = replace(_prepare(RunConfig(**task["config"])), logs_held_out=False)  # the tracker logs them
    tracker = Tracker(run.folder, task["label"], run.config)
    tracker.restore(run.agent.num_timesteps if run.generators is not None else 0)
    evaluations = HeldOutEvaluations(tracker, run.before, task["steps"])
    guard = run.checkpoints
    if guard is None:
        run.callbacks.append(evaluations)
    else:
        run.callbacks.insert(run.callbacks.index(guard), evaluations)  # before a checkpoint of the same tokens
        guard.add(evaluations)
    started = time.perf_counter()
    result = train(run)
    seconds = evaluations.seconds or time.perf_counter() - started - result.after.seconds
    tracker.finish(result.before, result.after, int(result.agent.num_timesteps), seconds)
    _write_result(tracker, result, seconds)
    if not task["keep_agents"]:
        shutil.rmtree(run.folder / CHECKPOINTS, ignore_errors=True)
        if (run.folder / MODEL).is_dir():  # else the agent alone says how it acts
            shutil.rmtree(run.folder / AGENT, ignore_errors=True)


def _prepare(config: RunConfig) -> Prepared:
    """Return the run as its checkpoints left it. Without any, return a new one, in place of what the folder has."""
    folder = config.folder()
    left = is_bundle(find_folder(folder / AGENT)) or Checkpoints(folder / CHECKPOINTS).latest() is not None
    if (folder / CONFIG).is_file() and left:
        own = TrainConfig(env=config.env, env_kwargs=config.env_kwargs)  # from the comparison: a file imports nothing
        return prepare_resumed(folder, TrainConfig.of_folder(folder, own))
    if folder.exists():
        shutil.rmtree(folder)
    return prepare(config)


def _write_result(tracker: Tracker, result: TrainResult, seconds: float) -> None:
    prompts = [(c.index, c.prompt) for c in result.after.completions]
    content = {
        "tokens": int(result.agent.num_timesteps),
        "seconds": round(seconds, 3),
        "judges": list(result.after.judges),
        "described": result.after.prompts,
        "different_prompts": result.after.different_prompts,
        "reference": getattr(result.agent.policy, "model_name", None),
        "prompts": hashlib.sha256(json.dumps(prompts).encode()).hexdigest(),
        "config": json.loads(result.config.model_dump_json()),
        "defaults": registry.plain_defaults(type(result.agent)),
        "evaluations": sorted(tracker.records, key=lambda record: record["step"]),
    }
    replace_json(result.folder / "result.json", content)


if __name__ == "__main__":
    sys.exit(main())
