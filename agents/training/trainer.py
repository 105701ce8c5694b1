"""Run `transformers.Trainer` for `rlhf pretrain` and `rlhf sft`: checkpoints, resuming, and exact held-out losses."""

from __future__ import annotations

import importlib.util
import json
import logging
import math
import os
import re
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from pickle import UnpicklingError
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

import torch
from torch.utils.data import DataLoader, Dataset

from ..core.examples import IGNORED
from ..saving.folders import LOCK
from ..saving.locks import locked

if TYPE_CHECKING:  # transformers loads its Trainer only when it is used
    from transformers import PreTrainedModel, Trainer

__all__ = ["Collate", "Rows", "alone", "find_checkpoint", "make_trainer", "mean_loss", "run_trainer"]

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")
Rows = Dataset[dict[str, torch.Tensor]]
Collate = Callable[[list[dict[str, torch.Tensor]]], dict[str, torch.Tensor]]
# How the names begin of what a run writes before its first checkpoint: TensorBoard's folder, tokenizer, processor.
BEGUN = ("runs", "tokenizer", "special_tokens_map", "added_tokens", "vocab", "merges", "chat_template", "processor")
TENSORS_ONLY = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"  # an environment variable of torch.load
logger = logging.getLogger(__name__)


def alone(run: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
    """Let one process at a time write to the folder `output`, the second argument of a function that trains."""

    @wraps(run)
    def locking(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
        output: Any = kwargs["output"] if "output" in kwargs else args[1]
        with locked(Path(output), "training"):
            return run(*args, **kwargs)

    return locking


def find_checkpoint(output: Path, resume: bool) -> str | None:
    """Return the checkpoint to resume from, or None for a new run. Check that `output` is as `resume` says.

    A checkpoint whose save did not finish is skipped. A run that ended before its first checkpoint starts over.
    """
    if importlib.util.find_spec("accelerate") is None:
        raise ModuleNotFoundError(
            "training on texts runs in transformers' Trainer, which needs accelerate: pip install 'rlhf-envs[train]'"
        )
    found = [path for path in output.iterdir() if path.name != LOCK] if output.is_dir() else []
    if not resume:
        if found:
            raise FileExistsError(f"{output} is not empty: pass --resume to go on, or choose another folder")
        return None
    checkpoints = [path for path in found if re.fullmatch(r"checkpoint-\d+", path.name)]
    for checkpoint in sorted(checkpoints, key=lambda path: -int(path.name.partition("-")[2])):
        if _is_whole(checkpoint):
            return str(checkpoint)
        logger.warning("skipping %s: its save did not finish", checkpoint)
    if not found or any(path not in checkpoints and not path.name.startswith(BEGUN) for path in found):
        raise FileNotFoundError(f"nothing to resume: {output} holds no checkpoint")
    logger.warning("the run in %s ended before its first checkpoint: it starts over", output)
    return None


def _is_whole(checkpoint: Path) -> bool:
    """Return whether a checkpoint has the file that the `Trainer` writes last, and all of it."""
    try:
        return "global_step" in json.loads((checkpoint / "trainer_state.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False


def run_trainer(trainer: Trainer, checkpoint: str | None) -> None:
    """Train, from a checkpoint if there is one. Its pickles are read as tensors and numbers alone: no code runs.

    Raises:
        ValueError: a file of the checkpoint holds something else.
    """
    before = os.environ.get(TENSORS_ONLY)
    os.environ[TENSORS_ONLY] = "1"  # transformers asks for the same at every call; this holds for every release of it
    try:
        trainer.train(resume_from_checkpoint=checkpoint)
    except UnpicklingError as error:
        reason = str(error).strip().splitlines()[0]
        raise ValueError(
            f"{checkpoint} is not gone on from: a file there holds more than tensors and numbers, and could run code "
            f"({reason}): take a checkpoint of your own"
        ) from error
    finally:
        if before is None:
            del os.environ[TENSORS_ONLY]
        else:
            os.environ[TENSORS_ONLY] = before


def make_trainer(
    network: PreTrainedModel,
    data: Rows,
    held_out: Rows | None,
    output: str | Path,
    *,
    steps: int,
    batch_size: int,
    save_freq: int,
    collate: Collate | None = None,
    **arguments: Any,
) -> Trainer:
    """Return a `Trainer` that logs the validation perplexity too. `arguments` go to its `TrainingArguments`.

    `collate` makes a batch of rows; without it they are stacked.
    """
    from transformers import Trainer, TrainingArguments

    class PerplexityTrainer(Trainer):
        def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
            if "eval_loss" in logs:
                logs["eval_perplexity"] = math.exp(logs["eval_loss"])
            super().log(logs, *args, **kwargs)

    settings = TrainingArguments(
        output_dir=str(output),
        max_steps=steps,
        per_device_train_batch_size=batch_size,
        per_device_eval_batch_size=batch_size,
        eval_strategy="no" if held_out is None else "steps",
        eval_steps=save_freq,
        save_steps=save_freq,
        logging_steps=min(20, save_freq),
        lr_scheduler_type="cosine",
        weight_decay=0.1,
        adam_beta2=0.95,
        max_grad_norm=1.0,
        use_cpu=not torch.cuda.is_available(),
        save_total_limit=2,
        report_to=["tensorboard"],
        **arguments,
    )
    return PerplexityTrainer(
        model=network, args=settings, data_collator=collate, train_dataset=data, eval_dataset=held_out
    )


def mean_loss(
    network: PreTrainedModel, data: Rows, batch_size: int, collate: Collate | None = None, masked: bool = False
) -> float:
    """Return the cross-entropy per token that has a label, in nats. The Trainer's own is a mean of batches' means.

    With `masked` a label is of the token at its place, else it is of the token that comes next.
    """
    total, n_tokens = 0.0, 0
    training = network.training
    network.eval()
    options = {} if masked else {"use_cache": False}
    for batch in DataLoader(data, batch_size, collate_fn=collate, generator=torch.Generator()):
        labels = batch["labels"][:, 0 if masked else 1 :].to(network.device)
        batch = {key: value.to(network.device) for key, value in batch.items() if key != "labels"}
        with torch.no_grad():
            logits = network(**batch, **options).logits
        logits = (logits if masked else logits[:, :-1]).float()
        total += float(torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="sum"))
        n_tokens += int((labels != IGNORED).sum())
    network.train(training)
    return total / n_tokens
