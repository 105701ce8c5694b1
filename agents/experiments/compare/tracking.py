"""Record the evaluations of a comparison's runs at equal steps, in files and in TensorBoard."""

from __future__ import annotations

import io
import json
import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from PIL import Image
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import HParam
from torch.utils.tensorboard import SummaryWriter
from torch.utils.tensorboard.summary import hparams

from rlhf_envs.datasets.messages import kept_prompt
from rlhf_envs.files import replace_json

from ...core.random_state import isolated_generators
from ...core.samples import sample_markdown
from ...core.text_metrics import TEXT_ONLY
from ...evaluation.evaluate import Evaluation
from ...training.config import TrainConfig
from ...training.logger import HELD_OUT
from ...training.run import evaluate_held_out
from ...training.trackers import RunTracker
from ..pages import to_png

__all__ = ["EVALUATIONS", "LAYOUT_RUN", "HeldOutEvaluations", "Tracker", "write_board"]

EVALUATIONS = "evaluations.json"
N_SAMPLES = 4
LAYOUT_RUN = "_report"  # a run of its own: TensorBoard adds up the layouts of all runs
HELD_OUT_CHARTS = ("reward", "kl", "length", "eos_share", "distinct_bigrams", "perplexity")
TRAINING_CHARTS = ("reward", "kl", "entropy", "tokens_per_second")


class Tracker:
    """Keep the evaluations of a run, by step. `label` is the algorithm's on TensorBoard's page of hyperparameters.

    Attributes:
        trackers: get the metrics too.
        records: one dict per evaluation: `step` (of the comparison), `tokens` trained for (at the first end of an
            update at or after the step), `seconds` of training, `estimates` by name, `samples`.
    """

    def __init__(self, folder: Path, label: str, config: TrainConfig, trackers: Sequence[RunTracker] = ()) -> None:
        self.folder, self.label, self.config, self.trackers = folder, label, config, trackers
        self.records: list[dict[str, Any]] = []

    def restore(self, tokens: int) -> None:
        """Read back the evaluations up to so many tokens, for a run that goes on from there."""
        path = self.folder / EVALUATIONS
        if path.is_file():
            saved = json.loads(path.read_text(encoding="utf-8"))
            self.records = [record for record in saved if record["tokens"] <= tokens]

    def add(self, step: int, tokens: int, seconds: float, evaluation: Evaluation, writer: SummaryWriter | None) -> None:
        """Add an evaluation to the file and to TensorBoard: metrics at the tokens trained for, texts at the step."""
        content = evaluation.to_dict(N_SAMPLES)
        record = {"step": step, "tokens": tokens, "seconds": round(seconds, 3)}
        record |= {name: content[name] for name in ("estimates", "samples")}
        self.records = [kept for kept in self.records if kept["step"] != step] + [record]
        replace_json(self.folder / EVALUATIONS, self.records, exact=True)
        found = {f"{HELD_OUT}/{name}": float(estimate["mean"]) for name, estimate in content["estimates"].items()}
        for tracker in self.trackers:
            tracker.log(found, max(step, tokens))  # untrained: no tokens
        if writer is None:
            return
        for tag, mean in found.items():
            writer.add_scalar(tag, mean, max(step, tokens))
        writer.add_text(f"{HELD_OUT}/samples", _samples(content["samples"]), step)
        writer.flush()

    def hyperparameters(self, evaluation: Evaluation) -> HParam:
        """Return the run's row on TensorBoard's HPARAMS page: its hyperparameters, and the held-out metrics."""
        config = self.config
        fields = ("seed", "kl_coef", "kl_target", "learning_rate", "n_envs", "train", "sft_coef", "sft_data")
        chosen = {"algorithm": self.label, **{name: getattr(config, name) for name in fields}, **config.hyperparams}
        plain = {name: value for name, value in chosen.items() if isinstance(value, bool | int | float | str)}
        metrics = {f"{HELD_OUT}/{name}": estimate.mean for name, estimate in evaluation.estimates().items()}
        return HParam(plain, metrics)

    def finish(self, before: Evaluation, after: Evaluation, tokens: int, seconds: float) -> None:
        """Add the last evaluation. If the algorithm calls no callbacks, add the first and the hyperparameters too."""
        assert self.config.n_timesteps is not None
        with SummaryWriter(str(self.folder)) as writer:
            if not self.records:
                self.add(0, 0, 0.0, before, writer)
                row = self.hyperparameters(after)
                assert writer.file_writer is not None
                for summary in hparams(row.hparam_dict, row.metric_dict):
                    writer.file_writer.add_summary(summary)
            self.add(self.config.n_timesteps, tokens, seconds, after, writer)


class HeldOutEvaluations(BaseCallback):
    """Evaluate a run at the steps of a comparison, on the held-out prompts that it is evaluated on at the end.

    An evaluation takes place between an update and the next rollout, at the first such moment at or after a step. If
    one rollout passes several steps, it stands for the last of them. It has random generators of its own and leaves the
    training environment's rewards alone: a run learns what it learns without evaluations.

    Args:
        tracker: takes the evaluations, also the evaluation `before` training.
        steps: tokens. The last step is left to the end of the run.

    Attributes:
        seconds: the seconds of training without evaluations, counted at each evaluation and at the end.
    """

    def __init__(self, tracker: Tracker, before: Evaluation, steps: Sequence[int]) -> None:
        super().__init__()
        self.tracker, self.before, self.steps = tracker, before, sorted(steps)[:-1]
        self.seconds = 0.0
        self._clock = time.perf_counter()

    def get_state(self) -> dict[str, Any]:
        return {"seconds": self.seconds + time.perf_counter() - self._clock}

    def set_state(self, state: Mapping[str, Any]) -> None:
        self.seconds = state["seconds"]

    def _on_training_start(self) -> None:
        self.tracker.restore(self.num_timesteps)
        self.seconds = max([self.seconds, *(record["seconds"] for record in self.tracker.records)])
        self.logger.record("hparams", self.tracker.hyperparameters(self.before), exclude=TEXT_ONLY)
        if self.num_timesteps == 0:
            self.tracker.add(0, 0, 0.0, self.before, self._writer())
        self._clock = time.perf_counter()

    def _on_rollout_start(self) -> None:
        last = max((record["step"] for record in self.tracker.records), default=-1)
        due = [step for step in self.steps if last < step <= self.num_timesteps]
        if not due:
            return
        self._on_training_end()
        with isolated_generators():
            evaluation = evaluate_held_out(self.tracker.config, self.model, self.tracker.folder)
        self.tracker.add(due[-1], self.num_timesteps, self.seconds, evaluation, self._writer())
        self._clock = time.perf_counter()

    def _on_step(self) -> bool:
        return True

    def _on_training_end(self) -> None:
        """Count the seconds since the last evaluation or the start."""
        self.seconds += time.perf_counter() - self._clock
        self._clock = time.perf_counter()

    def _writer(self) -> SummaryWriter | None:
        """Return the run's own writer: TensorBoard reads a run's second file only when its first has ended."""
        writers = [getattr(output, "writer", None) for output in self.logger.output_formats]
        return next((writer for writer in writers if writer is not None), None)


def _samples(samples: Sequence[Mapping[str, Any]]) -> str:
    """Return completions as Markdown, with what models wrote escaped."""
    return "\n".join(
        f"- `{s['reward']:.2f}` {sample_markdown(kept_prompt(s['prompt'], s), s['completion'])}" for s in samples
    )


def write_board(folder: Path, judges: Sequence[str], markdown: str = "", plots: Mapping[str, Figure] = {}) -> None:
    """Write what TensorBoard shows of a comparison next to its runs, in place of what there was.

    It is a chart for each judge of the task, and the report with its plots once there is one.
    """
    layout = {  # the page of custom scalars: one chart per metric, with the curves of all runs
        "Evaluations": {name: ["Multiline", [f"^{HELD_OUT}/{name}$"]] for name in (*judges, *HELD_OUT_CHARTS)},
        "Training rollouts": {name: ["Multiline", [f"^rlhf/{name}$"]] for name in TRAINING_CHARTS},
    }
    shutil.rmtree(folder / LAYOUT_RUN, ignore_errors=True)
    with SummaryWriter(str(folder / LAYOUT_RUN)) as writer:
        writer.add_custom_scalars(layout)
        if markdown:
            lines = markdown.splitlines()  # the pictures stand on a page of their own
            writer.add_text("report", "\n".join(line for line in lines if not line.startswith("![")))
        for name, figure in plots.items():
            picture = Image.open(io.BytesIO(to_png(figure))).convert("RGB")
            writer.add_image(f"report/{name}", np.asarray(picture), dataformats="HWC")
