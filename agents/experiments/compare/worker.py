"""A process of a comparison: `python -m agents.experiments.compare.worker` runs one run after the other.

It reads a task a line from its standard input, as JSON, and answers each with a line, as JSON, whose `status` is
"finished", "failed" (with an `error`), or "interrupted". When its input ends, as it does when the process of the
comparison dies, it ends at once; what it was running goes on later from its last checkpoint.
"""

from __future__ import annotations

import faulthandler
import json
import os
import queue
import shutil
import sys
import threading
import time
import traceback
from pathlib import Path
from typing import Any

__all__ = ["execute", "main"]


def main() -> None:
    """Serve tasks until the input ends."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # whatever libraries print is no answer
    faulthandler.enable()
    tasks: queue.Queue[str] = queue.Queue()
    threading.Thread(target=_read, args=(tasks,), daemon=True).start()
    while True:
        task = json.loads(tasks.get())
        with Path(task["log"]).open("a", encoding="utf-8") as log:
            for stream in (1, 2):
                os.dup2(log.fileno(), stream)
        answers.write(json.dumps(_guarded(task)) + "\n")
        answers.flush()


def _read(tasks: queue.Queue[str]) -> None:
    for line in sys.stdin:
        tasks.put(line)
    os._exit(1)  # nobody waits for what is running


def _guarded(task: dict[str, Any]) -> dict[str, Any]:
    """Run a task, and tell how it ended."""
    started = time.perf_counter()
    try:
        from ...training.run import RunInterrupted

        try:
            execute(task)
        except (RunInterrupted, KeyboardInterrupt) as error:
            return {"status": "interrupted", "error": str(error)}
    except Exception as error:
        traceback.print_exc()
        sys.stderr.flush()
        cause = error.__cause__ if type(error).__name__ == "RunStopped" and error.__cause__ is not None else error
        return {
            "status": "failed",
            "error": f"{type(cause).__name__}: {error}",
            "traceback": traceback.format_exc(),
            "seconds": round(time.perf_counter() - started, 3),
        }
    return {"status": "finished"}


def execute(task: dict[str, Any]) -> None:
    """Run a run of a comparison from where it is, and write its `result.json`.

    Args:
        task: `config` of the run, `label` of its algorithm, `steps` of evaluations, `keep_agents`, and `registered`,
            the algorithms that the comparison's process has registered.
    """
    from ... import registry
    from ...training.run import train
    from .plan import RunConfig
    from .tracking import HeldOutEvaluations, Tracker

    for name, target in task["registered"].items():
        registry.register(name, target)
    config = RunConfig(**task["config"])
    run = _prepare(config)
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
    tokens = int(result.agent.num_timesteps)
    seconds = evaluations.seconds or time.perf_counter() - started - result.after.seconds
    tracker.finish(result.before, result.after, tokens, seconds)
    _write_result(run, tracker, result, tokens, seconds)
    if not task["keep_agents"]:
        shutil.rmtree(run.folder / "checkpoints", ignore_errors=True)
        if (run.folder / "model").is_dir():  # else the agent alone says how it acts
            shutil.rmtree(run.folder / "agent", ignore_errors=True)


def _prepare(config: Any) -> Any:
    """The run where its checkpoints left it; else a new one, in place of what there is."""
    from rlhf_envs.files import find_folder

    from ...saving.checkpoints import Checkpoints
    from ...saving.folders import AGENT, CHECKPOINTS, CONFIG, is_bundle
    from ...training.resume import find_run, prepare_resumed
    from ...training.run import prepare

    folder = config.folder()
    left = is_bundle(find_folder(folder / AGENT)) or Checkpoints(folder / CHECKPOINTS).latest() is not None
    if (folder / CONFIG).is_file() and left:
        return prepare_resumed(folder, find_run(folder))
    if folder.exists():
        shutil.rmtree(folder)
    return prepare(config)


def _write_result(run: Any, tracker: Any, result: Any, tokens: int, seconds: float) -> None:
    import hashlib

    from rlhf_envs.files import replace_file

    prompts = [(c.index, c.prompt) for c in result.after.completions]
    text = {
        "tokens": tokens,
        "seconds": round(seconds, 3),
        "judges": list(result.after.judges),
        "reference": getattr(result.agent.policy, "model_name", None),
        "prompts": hashlib.sha256(json.dumps(prompts).encode()).hexdigest(),
        "config": json.loads(run.config.model_dump_json()),
        "evaluations": sorted(tracker.records, key=lambda record: record["step"]),
    }
    replace_file(run.folder / "result.json", (json.dumps(text, indent=1) + "\n").encode("utf-8"))


if __name__ == "__main__":
    main()
