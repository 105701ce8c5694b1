"""Run the steps of self-training (`.run`). A step fills a folder, and returns its metrics."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rlhf_envs.chat_format import choose_template
from rlhf_envs.datasets import load_rows
from rlhf_envs.files import find_folder, replace_file, replace_folder
from rlhf_envs.models import load_tokenizer, model_positions
from rlhf_envs.rewards import get_reward

from ...core.episodes import open_batch
from ...core.text_metrics import distinct_ngrams
from ...evaluation.evaluate import evaluate
from ...evaluation.generate import generate_in
from ...evaluation.source import Source
from ...saving.folders import LOCK, MODEL, START
from ...saving.run_paths import named_judges
from ...training.errors import RunStopped
from ...training.sft import fine_tune
from ..stepping import METRICS
from .choosing import as_row, choose
from .config import SelfTrainConfig

__all__ = ["ANSWERS", "ROUND", "START_STEPS", "Metrics", "SelfTraining", "save_model"]

Metrics = dict[str, Any]
ANSWERS = "best.jsonl"  # the rows that a round learns
TRAINING = "training"  # an unfinished fine-tuning, with its checkpoints
N_SAMPLES = 16
SPARE = 8  # tokens that an answer may have more when its text is encoded again


@dataclass(frozen=True)
class SelfTraining:
    """Hold a run of self-training, in an absolute `folder` and with the defaults of `config` filled in."""

    config: SelfTrainConfig
    folder: Path

    def place(self, number: int, step: str) -> Path:
        """Return the folder of a step of a round. Round 0 is what there is before the first round."""
        return self.folder / f"round_{number}" / step

    @property
    def judges(self) -> dict[str, str]:
        """Return the judges of the evaluations, by name."""
        return named_judges(self.folder, self.config.judge)

    def read(self, number: int, step: str) -> Metrics:
        """Return the metrics of a step."""
        content: Metrics = json.loads((find_folder(self.place(number, step)) / METRICS).read_text(encoding="utf-8"))
        return content

    @property
    def start(self) -> str:
        """Return the model before the first round."""
        saved = self.folder / START
        return str(saved) if saved.is_dir() else str(self.config.model)

    def model(self, number: int) -> str:
        """Return the model at the end of a round."""
        return str(find_folder(self.place(number, "learn")) / MODEL) if number else self.start

    def source(self, number: int) -> Source:
        """Return what writes the answers of the model at the end of a round."""
        decoding = {name: value for name, value in self.config.decoding.items() if value is not None}
        return Source(f"round {number}", model=self.model(number), start=self.start, decoding=decoding)


def draw(run: SelfTraining, number: int, into: Path) -> Metrics:
    """Let the model of the last round answer training prompts, and write the answers to learn.

    Raises:
        ValueError: no answer is good enough.
    """
    config = run.config
    source = run.source(number - 1)
    batch = source.open_episodes(config.env_id, "train", config.env_kwargs)
    n = min(config.prompts, len(batch.rows))
    order = np.random.default_rng(config.seed).permutation(len(batch.rows))
    indices = order.take(range((number - 1) * n, number * n), mode="wrap")
    with source.acting(batch) as policy:
        drawn = generate_in(batch, policy, np.repeat(indices, config.n), seed=1_000_003 * (config.seed + 1) + number)
    kept, counts = choose(drawn, config.n, config.share, config.min_score)
    scores = np.array([done.reward for done in drawn])
    if not kept:
        why = "all are empty" if counts["empty"] == len(drawn) - counts["duplicates"] else "the scores are too low"
        raise RunStopped(  # --resume would draw the same answers
            f"self-training stopped: round {number}: nothing to learn of {len(drawn)} answers, {why}: "
            f"min_score={config.min_score}, and the best score is {scores.max():.4g}; begin another run with a lower "
            "--min-score, more answers (-n) or another --seed"
        )
    lines = (json.dumps(as_row(done), ensure_ascii=False) + "\n" for done in kept)
    replace_file(into / ANSWERS, "".join(lines).encode())
    texts = [done.completion for done in drawn]
    return {
        **counts,
        "score_drawn": float(scores.mean()),
        "score_kept": float(np.mean([done.reward for done in kept])),
        "distinct_drawn": distinct_ngrams(texts, 2),
    }


def learn(run: SelfTraining, number: int, into: Path) -> Metrics:
    """Fine-tune on the answers of this round. What was cut short goes on from its last checkpoint."""
    config, work = run.config, run.place(number, TRAINING)
    given = config.env_kwargs
    base = run.model(number - 1) if config.train_from == "last" else run.start
    batch = open_batch(config.env_id, 1, **{**given, "model": base, "split": "train"})
    room = batch.max_prompt_tokens + batch.max_new_tokens + SPARE
    resume = any(work.glob("checkpoint-*"))
    if not resume:
        shutil.rmtree(work, ignore_errors=True)
    rows = load_rows(find_folder(run.place(number, "draw")) / ANSWERS, required=())
    metrics = fine_tune(
        rows,
        work,
        model=base,
        max_length=min(room, model_positions(base) or room),
        hold_out=False,  # they are all of training prompts
        packing=False,  # so that a batch is so many answers, however short they are
        epochs=config.epochs,
        batch_size=config.batch_size,
        learning_rate=config.learning_rate or 2e-4,
        seed=config.seed + number,
        bf16=config.bf16,
        lora=config.lora,
        resume=resume,
        chat_template=choose_template(load_tokenizer(base), given.get("chat_template"), batch.task),
        chat_template_kwargs=given.get("chat_template_kwargs"),
    )
    (into / MODEL).mkdir()
    for path in work.iterdir():
        if path.name != LOCK and not path.name.startswith("checkpoint-"):
            shutil.move(path, into / MODEL / path.name)
    shutil.rmtree(work)
    return {"steps": int(metrics["steps"]), "examples": int(metrics["examples"])}


def measure(run: SelfTraining, number: int, into: Path) -> Metrics:
    """Answer held-out prompts, the same ones every round, and measure them with judges and against the start."""
    config = run.config
    evaluation = evaluate(
        run.source(number),
        config.env_id,
        config.test_episodes,
        config.test_split,
        {name: get_reward(judge) for name, judge in run.judges.items()},
        reference=run.start,
        seed=config.seed,
        env_kwargs=config.env_kwargs,
    )
    report = evaluation.to_dict(N_SAMPLES)
    del report["source"], report["seconds"]
    texts = [done.completion for done in evaluation.completions]
    return report | {f"distinct_{n}": distinct_ngrams(texts, n) for n in (1, 2, 3)}


def save_model(run: SelfTraining) -> None:
    """Write the model of the last round as the run's model."""
    with replace_folder(run.folder / MODEL) as folder:
        shutil.copytree(run.model(run.config.rounds), folder, dirs_exist_ok=True)


Step = Callable[[SelfTraining, int, Path], Metrics]
START_STEPS: dict[str, Step] = {"evaluate": measure}
ROUND: dict[str, Step] = {"draw": draw, "learn": learn, "evaluate": measure}
