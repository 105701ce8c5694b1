"""Run one run of a comparison, in a process of its own: see `agents.experiments.processes`."""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rlhf_envs.files import find_folder, replace_json

from ... import registry
from ...saving.checkpoints import Checkpoints
from ...saving.folders import AGENT, CHECKPOINTS, CONFIG, MODEL, is_bundle
from ...training.config import TrainConfig
from ...training.resume import prepare_resumed
from ...training.run import Prepared, TrainResult, prepare, train
from ...training.trackers import finish_trackers
from ..cluster.jobs import RayJobs
from ..processes import Job, run_jobs, serve
from .config import CompareConfig
from .plan import Run, RunConfig
from .tracking import HeldOutEvaluations, Tracker

__all__ = ["as_task", "execute", "main", "prepare_run", "run_all", "tidy"]

WORKER = "agents.experiments.compare.worker"
MOST = 512  # runs side by side: a thread here watches each


def run_all(
    runs: Sequence[Run], config: CompareConfig, ended: Callable[[Run, str], None], look: Callable[[], None]
) -> None:
    """Run runs side by side, in processes of this machine or on the Ray cluster that this one is connected to."""
    of = {run.name: run for run in runs}
    jobs = [Job(run.name, WORKER, as_task(run, config), run.folder, run.result, run.error, run.log) for run in runs]

    def end(name: str, how: str) -> None:
        ended(of[name], how)

    if not config.uses_ray:
        run_jobs(jobs, config.jobs or 2, end, look)
        return
    cluster = RayJobs(config.path.absolute(), gpus=int(config.device.startswith("cuda")))
    run_jobs(jobs, min(config.jobs or len(jobs), MOST) or 1, end, look, cluster.start)


def as_task(run: Run, config: CompareConfig) -> dict[str, Any]:
    """Return a run as JSON for its process, see `execute`."""
    return {
        "config": json.loads(run.config.model_dump_json()),
        "label": run.arm.label,
        "steps": config.steps,
        "keep_agents": config.keep_agents,
        "registered": registry.registered(),
    }


def main() -> int:
    """Run the task on standard input, and return the exit code."""
    return serve(execute)


def execute(task: dict[str, Any]) -> None:
    """Run a run of a comparison from where it stands, and write its `result.json`.

    Args:
        task: the `config` of the run, the `label` of its algorithm, the `steps` of evaluations, `keep_agents`, and
            `registered`, the algorithms that the comparison's process has registered.
    """
    for name, target in task["registered"].items():
        registry.register(name, target)
    run = replace(prepare_run(RunConfig(**task["config"])), logs_held_out=False)  # the tracker logs them
    tracker = Tracker(run.folder, task["label"], run.config, run.trackers)
    tracker.restore(run.agent.num_timesteps if run.generators is not None else 0)
    evaluations = HeldOutEvaluations(tracker, run.before, task["steps"])
    guard = run.checkpoints
    if guard is None:
        run.callbacks.append(evaluations)
    else:
        run.callbacks.insert(run.callbacks.index(guard), evaluations)  # before a checkpoint of the same tokens
        guard.add(evaluations)
    started = time.perf_counter()
    failure: BaseException | None = None
    try:
        result = train(run)
        seconds = evaluations.seconds or time.perf_counter() - started - result.after.seconds
        tracker.finish(result.before, result.after, int(result.agent.num_timesteps), seconds)
    except BaseException as error:
        failure = error
        raise
    finally:
        finish_trackers(run.trackers, failure)
    _write_result(tracker, result, seconds)
    if not task["keep_agents"]:
        tidy(run.folder)


def tidy(folder: Path) -> None:
    """Remove what a finished run has beside its model: checkpoints, and the agent with its optimizer."""
    shutil.rmtree(folder / CHECKPOINTS, ignore_errors=True)
    if (folder / MODEL).is_dir():  # else the agent alone says how it acts
        shutil.rmtree(folder / AGENT, ignore_errors=True)


def prepare_run(config: RunConfig) -> Prepared:
    """Return the run as its checkpoints left it. Without any, return a new one, in place of what the folder has."""
    folder = config.folder()
    left = is_bundle(find_folder(folder / AGENT)) or Checkpoints(folder / CHECKPOINTS).latest() is not None
    if (folder / CONFIG).is_file() and left:
        own = TrainConfig(env=config.env, env_kwargs=config.env_kwargs)  # from the comparison: a file imports nothing
        return prepare_resumed(folder, RunConfig.of_folder(folder, own))
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
    replace_json(result.folder / "result.json", content, exact=True)


if __name__ == "__main__":
    sys.exit(main())
