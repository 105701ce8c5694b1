"""Train an agent of a transfer experiment, and evaluate it on all environments, in a process of its own.

See `agents.experiments.processes`. Training is that of `rlhf train`, and goes on from its last checkpoint. What has
been evaluated stays.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rlhf_envs.files import replace_json
from rlhf_envs.registration import check_environment

from ... import registry
from ...core.episodes import open_batch
from ...evaluation.evaluate import Evaluation, evaluate
from ...evaluation.source import Source
from ...training.config import TrainConfig
from ...training.resume import is_finished
from ...training.run import train
from ..compare.plan import RunConfig
from ..compare.worker import prepare_run, tidy
from ..processes import Job, serve
from .config import TransferConfig
from .plan import Column, Plan, Run, source_mark

__all__ = ["execute", "main", "make_job"]

WORKER = "agents.experiments.transfer.worker"
N_SAMPLES = 4


def make_job(run: Run, found: Plan, config: TransferConfig) -> Job:
    """Return the job of a run: its training, unless that is finished, and the evaluations that are missing."""
    missing = [column for column in found.columns if run.read(column.name) is None]
    task = {
        "train": None if run.config is None else json.loads(run.config.model_dump_json()),
        "source": run.source,
        "is_start": run == found.first,
        "reads_masks": found.reads_masks,
        "reference": found.reference,
        "n_episodes": config.test_episodes,
        "split": config.test_split,
        "evaluations": [_as_json(column, run.evaluation(column.name)) for column in missing],
        "registered": registry.registered(),
        "environments": [column.env for column in found.columns],
    }
    for column in missing:
        run.evaluation(column.name).unlink(missing_ok=True)  # one of an earlier result of that folder
    return Job(run.name, WORKER, task, run.place, run.evaluation(missing[-1].name), run.error, run.log)


def _as_json(column: Column, file: Path) -> dict[str, Any]:
    return {"env": column.env, "kwargs": column.kwargs, "decoding": column.decoding, "file": str(file)}


def main() -> int:
    """Run the task on standard input, and return the exit code."""
    return serve(execute)


def execute(task: dict[str, Any]) -> None:
    """Do what `make_job` describes."""
    for name, target in task["registered"].items():
        registry.register(name, target)
    for env in task["environments"]:
        check_environment(env)  # one's module may register others
    if task["train"] is not None:
        _train(RunConfig(**task["train"]))
    source = Source.of(task["source"])
    if task["is_start"]:  # it acts under masks where the agents do
        source = replace(source, masked=task["reads_masks"])
    for one in task["evaluations"]:
        env_id = one["env"].rpartition(":")[2]
        batch = open_batch(env_id, 1, **{**one["kwargs"], "split": task["split"]})
        evaluation = evaluate(
            replace(source, decoding=one["decoding"]),
            batch,
            task["n_episodes"],
            task["split"],
            reference=task["reference"],
        )
        Path(one["file"]).parent.mkdir(parents=True, exist_ok=True)
        replace_json(Path(one["file"]), _record(evaluation, source_mark(task["source"])))


def _train(config: RunConfig) -> None:
    """Train a run that is not finished, from where it stands."""
    folder = config.folder()
    if (folder / "config.json").is_file():
        own = TrainConfig(env=config.env, env_kwargs=config.env_kwargs)  # from the experiment: a file imports nothing
        if is_finished(folder, TrainConfig.of_folder(folder, own)):
            return
    train(prepare_run(config))
    tidy(folder)


def _record(evaluation: Evaluation, mark: str) -> dict[str, Any]:
    """Return what the matrix is computed from: every metric per prompt, or over bootstrap samples of the prompts."""
    prompts = [(c.index, c.prompt) for c in evaluation.completions]
    samples: Sequence[Any] = evaluation.samples(N_SAMPLES)
    return {
        "of": mark,
        "source": evaluation.source,
        "episodes": len(evaluation.reward),
        "described": evaluation.prompts,
        "different_prompts": evaluation.different_prompts,
        "prompts": hashlib.sha256(json.dumps(prompts, default=str).encode()).hexdigest(),
        "values": {name: [_plain(value) for value in values] for name, values in evaluation.values().items()},
        "corpus": {name: [_plain(value) for value in values] for name, values in evaluation.corpus.items()},
        "samples": [sample.to_dict() for sample in samples],
    }


def _plain(value: float) -> float | None:
    """Return a number for JSON, which has no NaN."""
    return float(value) if value == value else None


if __name__ == "__main__":
    sys.exit(main())
