"""What a run of a comparison leaves along the way: evaluations at equal steps, in a file and in TensorBoard."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import HParam

from rlhf_envs.files import replace_file

from ...core.random_state import isolated_generators
from ...core.text_metrics import TEXT_ONLY

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

    from ...evaluation.evaluate import Evaluation
    from ...training.config import TrainConfig

__all__ = ["HeldOutEvaluations", "Tracker"]

EVALUATIONS = "evaluations.json"
PREFIX = "held_out"
N_SAMPLES = 4


class Tracker:
    """The evaluations of a run, by step.

    Args:
        folder: the run's.
        label: of the algorithm, for the page of hyperparameters.
        config: of the run, resolved.

    Attributes:
        records: one dict an evaluation: `step` (of the comparison), `tokens` trained for (at the first end of an
            update at or after the step), `seconds` of training, `estimates` by name, `samples`.
        announced: whether TensorBoard has the hyperparameters.
    """

    def __init__(self, folder: Path, label: str, config: TrainConfig) -> None:
        self.folder, self.label, self.config = folder, label, config
        self.records: list[dict[str, Any]] = []
        self.announced = False

    def restore(self, tokens: int) -> None:
        """Take back what the file says of the first so many tokens, for a run that goes on there."""
        path = self.folder / EVALUATIONS
        if path.is_file():
            saved = json.loads(path.read_text(encoding="utf-8"))
            self.records = [record for record in saved if record["tokens"] <= tokens]
            self.announced = bool(self.records)

    def add(self, step: int, tokens: int, seconds: float, evaluation: Evaluation, writer: SummaryWriter | None) -> None:
        """Keep an evaluation in the file and in TensorBoard: figures at the tokens trained for, texts at the step."""
        record = {
            "step": step,
            "tokens": tokens,
            "seconds": round(seconds, 3),
            **{
                name: value for name, value in evaluation.to_dict(N_SAMPLES).items() if name in ("estimates", "samples")
            },
        }
        self.records = [kept for kept in self.records if kept["step"] != step] + [record]
        replace_file(self.folder / EVALUATIONS, (json.dumps(self.records, indent=1) + "\n").encode("utf-8"))
        if writer is None:
            return
        for name, estimate in record["estimates"].items():
            writer.add_scalar(f"{PREFIX}/{name}", estimate["mean"], max(step, tokens))  # untrained: no tokens
        writer.add_text(f"{PREFIX}/samples", _samples(record["samples"]), step)
        writer.flush()

    def hyperparameters(self, evaluation: Evaluation) -> HParam:
        """A row of TensorBoard's HPARAMS page: what tells the runs apart, and the held-out figures as its metrics."""
        config = self.config
        own = {"kl_coef": config.kl_coef, "kl_target": config.kl_target, "learning_rate": config.learning_rate}
        own |= {"n_envs": config.n_envs, "train": config.train} | config.hyperparams
        chosen = {"algorithm": self.label, "seed": config.seed, **own}
        plain = {name: value for name, value in chosen.items() if isinstance(value, bool | int | float | str)}
        metrics = {f"{PREFIX}/{name}": estimate.mean for name, estimate in evaluation.estimates().items()}
        return HParam(plain, metrics)

    def finish(self, before: Evaluation, after: Evaluation, tokens: int, seconds: float) -> None:
        """Add the last evaluation; for an algorithm that calls no callbacks, the first and the hyperparameters too."""
        from torch.utils.tensorboard import SummaryWriter
        from torch.utils.tensorboard.summary import hparams

        assert self.config.n_timesteps is not None
        writer = SummaryWriter(str(self.folder))
        try:
            if not any(record["step"] == 0 for record in self.records):
                self.add(0, 0, 0.0, before, writer)
            self.add(self.config.n_timesteps, tokens, seconds, after, writer)
            if not self.announced:
                row = self.hyperparameters(after)
                assert writer.file_writer is not None
                for summary in hparams(row.hparam_dict, row.metric_dict):
                    writer.file_writer.add_summary(summary)
        finally:
            writer.close()


class HeldOutEvaluations(BaseCallback):
    """Evaluate a run at the steps of a comparison, on the held-out prompts it is evaluated on at the end.

    It is evaluated between an update and the next rollout, at the first such moment at or after each step (of steps
    that one rollout passes together, the last), with generators of their own and with the training environment's
    rewards untouched: a run learns what it learns without.

    Args:
        tracker: takes the evaluations.
        before: the evaluation of the untrained agent.
        steps: tokens; the last is left to the end of the run.

    Attributes:
        seconds: of training, without evaluations, when they were last counted: at an evaluation and at the end.
    """

    def __init__(self, tracker: Tracker, before: Evaluation, steps: Sequence[int]) -> None:
        super().__init__()
        self.tracker, self.before, self.steps = tracker, before, sorted(steps)[:-1]
        self.seconds = 0.0
        self._clock = time.perf_counter()

    def get_state(self) -> dict[str, Any]:
        """What `set_state` needs to go on counting: the seconds of training so far."""
        return {"seconds": self.seconds + time.perf_counter() - self._clock}

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Go on from a state of `get_state`."""
        self.seconds = state["seconds"]

    def _on_training_start(self) -> None:
        self.tracker.restore(self.num_timesteps)
        self.seconds = max([self.seconds, *(record["seconds"] for record in self.tracker.records)])
        self.logger.record("hparams", self.tracker.hyperparameters(self.before), exclude=TEXT_ONLY)
        self.tracker.announced = True
        if self.num_timesteps == 0:
            self.tracker.add(0, 0, 0.0, self.before, self._writer())
        self._clock = time.perf_counter()

    def _on_rollout_start(self) -> None:
        done = {record["step"] for record in self.tracker.records}
        due = [step for step in self.steps if step <= self.num_timesteps and step > max(done, default=-1)]
        if not due:
            return
        self._count()
        from ...training.run import evaluate_held_out

        with isolated_generators():
            evaluation = evaluate_held_out(self.tracker.config, self.model)
        self.tracker.add(due[-1], self.num_timesteps, self.seconds, evaluation, self._writer())
        self._clock = time.perf_counter()

    def _on_step(self) -> bool:
        return True

    def _on_training_end(self) -> None:
        self._count()

    def _count(self) -> None:
        """Count the seconds since the last evaluation, or the start."""
        self.seconds += time.perf_counter() - self._clock
        self._clock = time.perf_counter()

    def _writer(self) -> Any:
        """The run's own TensorBoard writer: TensorBoard reads a second file of a run only when the first has ended."""
        writers = [getattr(output, "writer", None) for output in self.logger.output_formats]
        return next((writer for writer in writers if writer is not None), None)


def _samples(samples: Sequence[dict[str, Any]]) -> str:
    """Completions of the same prompts, as Markdown, with what models wrote escaped."""
    from rlhf_envs.rendering import as_markdown

    return "\n".join(
        f"- `{s['reward']:.2f}` {as_markdown(s['prompt'])} **{as_markdown(s['completion'].strip())}**" for s in samples
    )
