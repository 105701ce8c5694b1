"""Fine-tune a causal language model on completions that people wrote or chose (SFT).

The loop is that of `transformers.Trainer`.

- `agents.core.examples` says what of a row is learned.
- Short examples share a row of `max_length` tokens, see `agents.training.packing`.
- An example with a picture has a row of its own, see `agents.training.picture_examples`.
- What does not fit is counted: a long prompt loses its beginning; a completion that does not fit is left out, since
  cut short it would teach the model not to stop.
"""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import torch

from rlhf_envs.chat_format import ChatFormat, check_system_prompt, choose_template
from rlhf_envs.datasets import MissingSplitError, load_rows
from rlhf_envs.datasets.loading import Data, check_new_names
from rlhf_envs.datasets.pictures import COLUMN
from rlhf_envs.datasets.rows import PROMPTS, SYSTEMS
from rlhf_envs.datasets.splits import take_split
from rlhf_envs.files import replace_json
from rlhf_envs.models import load_tokenizer, model_positions
from rlhf_envs.models.vision import is_vision_model, save_processor
from rlhf_envs.pictures import Pictures, find_pictures
from rlhf_envs.tasks import Task
from rlhf_envs.tasks.lookup import demonstrations, find_task
from rlhf_envs.tokens import end_ids

from ..core.completions import log_counts
from ..core.examples import Example, encode_rows, number_rows
from ..core.packing import keeps_apart
from ..saving.provenance import MADE, provenance
from .networks import check_flags, load_network, save_network
from .packing import PackedExamples
from .picture_examples import PictureExamples
from .trainer import alone, find_checkpoint, make_trainer, mean_loss, run_trainer

if TYPE_CHECKING:
    from transformers import PreTrainedModel

__all__ = ["fine_tune"]

READ = ("prompt", "completion", "messages", *PROMPTS, *SYSTEMS, COLUMN, "split")
logger = logging.getLogger(__name__)


class _Part(NamedTuple):
    """Hold the examples of a split, and the pictures of its rows if the model reads any."""

    examples: list[Example]
    pictures: Pictures | None


def _tells_examples_apart(network: PreTrainedModel) -> bool:
    """Return whether a model computes two examples in one row as it computes them alone."""

    def run(ids: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = network(input_ids=ids, position_ids=positions, use_cache=False).logits
        return logits

    return keeps_apart(run, network.config.get_text_config(), next(network.parameters()))


@alone
def fine_tune(
    data: Data,
    output: str | Path,
    *,
    model: str | None = None,
    columns: Mapping[str, str] | None = None,
    max_length: int | None = None,
    on_long_completion: Literal["drop", "cut", "error"] = "drop",
    epochs: float = 1.0,
    batch_size: int = 8,
    learning_rate: float = 2e-4,
    packing: bool = True,
    save_freq: int = 200,
    hold_out: bool = True,
    seed: int = 0,
    bf16: bool = False,
    lora: bool = False,
    merge: bool = False,
    resume: bool = False,
    system_prompt: str | None = None,
    chat: bool = False,
    chat_template: str | None = None,
    chat_template_kwargs: Mapping[str, Any] | None = None,
    env_kwargs: Mapping[str, Any] | None = None,
) -> dict[str, float]:
    """Fine-tune a causal language model on completions, and save it with its tokenizer as a Hugging Face folder.

    Only the training split is learned, see `rlhf_envs.datasets.splits.take_split`, unless `hold_out` is False.

    Args:
        data: a file (.jsonl, .csv, .tsv, .json, .parquet, each also .gz), rows, or a `datasets.Dataset`. A row is
            `{"prompt", "completion"}`, texts or messages, or `{"messages"}`. So are TRL's rows and those that
            `rlhf feedback export --format sft` writes. Or the id of an environment whose task has demonstrations. A
            vision-language model reads the column `image` too.
        output: the folder to write; TensorBoard events and resumable checkpoints go below it.
        model: the model to start from, by a name that `rlhf_envs.models.resolve` knows. By default that of the
            environment, else "tiny".
        columns: new names of columns, such as `{"completion": "answer"}` for the column "answer".
        max_length: tokens per row; by default the model's positions, at most 1024.
        on_long_completion: see `encode_rows`.
        epochs: how often each example is learned. The learning rate falls along a cosine to zero.
        batch_size: rows per optimiser step.
        packing: put several short examples into a row, if the model tells them apart.
        save_freq: steps between checkpoints and validations.
        hold_out: leave the other splits out, and validate on theirs. If False, every row is learned.
        lora: learn LoRA adapters alone, see `rlhf_envs.models.adapters`; a folder of adapters is trained on. `output`
            is then a folder of adapters.
        merge: with `lora`, write a plain model with the adapters merged into its weights.
        resume: go on from the last checkpoint below `output`; start over if there is none yet.
        system_prompt: the system message of conversations that have none.
        chat: whether a prompt that is a string is what the user says, in the chat template.
        chat_template: the text of a chat template or its file, instead of the tokenizer's, which is saved with the
            model; "roles" for lines such as "User: Hello".
        chat_template_kwargs: further variables of the chat template. All four are as in an environment, so that the
            model learns the form in which it is trained afterwards.
        env_kwargs: arguments of the task whose demonstrations are learned, such as `{"dataset": "chain_sum"}`.

    Returns:
        `loss` (nats per token of the validation split's completions) and `perplexity`, which are missing if there are
        too few prompts for a validation split; `steps`, `examples`, and the counts of what was cut or left out. They
        are also in `sft.json`.

    Raises:
        FileExistsError: `output` holds a run and `resume` is False.
        FileNotFoundError: there is no such file, or `resume` is True and `output` holds no run.
        ValueError: another process is at work in `output`; or the data has a wrong row, or nothing of it fits. The
            message has the row and the fix.
    """
    source = str(data) if isinstance(data, str | Path) else "the data"
    task = _find_task(data, source, env_kwargs or {})
    model = model or (task and task.default_model) or "tiny"
    checkpoint = find_checkpoint(Path(output), resume)
    check_flags(checkpoint, lora, merge)
    if task is not None:
        chat_template = choose_template(load_tokenizer(model), chat_template, task)
    form = ChatFormat(load_tokenizer(model), system_prompt, chat, chat_template, chat_template_kwargs)
    max_length = _row_length(model, max_length)
    given = data if task is None else demonstrations(task)
    check_new_names(columns or {}, READ, "fine-tuning")
    rows, places = number_rows(load_rows(given, required=(), columns=columns), source)
    talks = any(isinstance(row.get(name), list | dict) for row in rows for name in ("messages", "prompt", "completion"))
    check_system_prompt(system_prompt, chat or talks, source)

    def encode(part: list[dict[str, Any]]) -> tuple[_Part, Counter[str]]:
        pictures, ends = find_pictures(model, part, source, is_vision_model(model)), end_ids(form.tokenizer, model)
        options = max_length, ends, on_long_completion, lambda i: places[id(part[i])], form, pictures
        examples, counted = encode_rows(form.tokenizer, part, *options)
        return _Part(examples, pictures), counted

    parts, counts = _encode_splits(rows, source, max_length, encode, hold_out)
    torch.manual_seed(seed)
    network = load_network(model, lora)
    sets = _lay_out(parts, model, network, max_length, form.tokenizer.pad_token_id or 0, packing)
    steps = max(round(epochs * len(sets["train"]) / batch_size), 1)
    n_examples = len(parts["train"].examples)
    logger.info("%d examples in %d rows, %d steps", n_examples, len(sets["train"]), steps)
    _save_reader(form, model, output)
    options = {"learning_rate": learning_rate, "save_freq": save_freq, "seed": seed, "bf16": bf16}
    metrics = _train(network, sets, output, checkpoint, steps=steps, batch_size=batch_size, **options)
    metrics |= {"steps": steps, "examples": n_examples, **counts}
    save_network(network, output, model, merge)
    settings = {"model": model, "data": source, "max_length": max_length, "lora": lora, **form.options}
    replace_json(Path(output) / "sft.json", {**settings, **metrics, MADE: provenance()})
    return metrics


def _find_task(data: Data, source: str, env_kwargs: Mapping[str, Any]) -> Task | None:
    """Return the task whose demonstrations are learned; None if the data is no environment's id."""
    task = find_task(data, **env_kwargs) if isinstance(data, str) else None
    if task is None and env_kwargs:
        raise ValueError(f"env_kwargs={dict(env_kwargs)!r} are of an environment, and {source} is none: leave them out")
    return task


def _save_reader(form: ChatFormat, model: str, output: str | Path) -> None:
    """Save the model's processor, if it reads pictures, and its tokenizer, with the template that was learned."""
    save_processor(model, output)  # before the tokenizer: it brings the template that the model had
    (form.tokenizer if form.has_own_template else load_tokenizer(model)).save_pretrained(output)


def _row_length(model: str, given: int | None) -> int:
    """Return how many tokens a row has: those given, or the model's positions, at most 1024."""
    positions = model_positions(model) or 1024
    length = given or min(positions, 1024)
    if not 2 <= length <= positions:
        raise ValueError(f"max_length={length}: {model!r} reads 2 to {positions} tokens")
    return length


def _encode_splits(
    rows: list[dict[str, Any]],
    source: str,
    max_length: int,
    encode: Callable[[list[dict[str, Any]]], tuple[_Part, Counter[str]]],
    hold_out: bool,
) -> tuple[dict[str, _Part], Counter[str]]:
    """Return the examples of training, and of validation if there are rows for it, and the counts of `encode_rows`."""
    parts: dict[str, _Part] = {}
    counts = Counter[str]()
    for split in ("train", "validation") if hold_out else ("train",):
        try:
            part = take_split(rows, split, source) if hold_out else rows
        except MissingSplitError as error:
            if split == "train":
                raise
            logger.warning("%s; there is no validation loss", error)
            continue
        parts[split], counted = encode(part)
        counts += counted
    log_counts(logger, counts, len(rows), f"max_length={max_length}")
    if not parts["train"].examples:
        raise ValueError(
            f"{source}: no completion is left to learn, all are empty or do not fit into max_length={max_length}: "
            "raise that, or cut completions"
        )
    return {split: part for split, part in parts.items() if part.examples}, counts


def _lay_out(
    parts: dict[str, _Part], model: str, network: PreTrainedModel, max_length: int, pad: int, packing: bool
) -> dict[str, PackedExamples | PictureExamples]:
    """Return the rows of each split: with a picture each, or with several examples where the model tells them apart."""
    shown = parts["train"].pictures is not None
    packed = packing and not shown and _tells_examples_apart(network)
    if packing and not packed and not shown:
        logger.warning("%r does not tell packed examples apart: each gets a row of its own", model)
    return {
        split: PackedExamples(part.examples, max_length, pad, packed)
        if part.pictures is None
        else PictureExamples(part.examples, part.pictures, pad, network)
        for split, part in parts.items()
    }


def _train(
    network: PreTrainedModel,
    sets: Mapping[str, PackedExamples | PictureExamples],
    output: str | Path,
    checkpoint: str | None,
    *,
    steps: int,
    batch_size: int,
    **options: Any,
) -> dict[str, float]:
    """Learn the rows of the training split. Return the loss and perplexity of the validation split, if there is one."""
    held_out, config = sets.get("validation"), network.config.get_text_config()
    use_cache, config.use_cache = config.use_cache, False  # with a cache, packing is not seen
    options = {"steps": steps, "warmup_steps": steps // 10, "batch_size": batch_size, **options}
    run_trainer(make_trainer(network, sets["train"], held_out, output, **options), checkpoint)
    loss = None if held_out is None else mean_loss(network, held_out, batch_size)
    config.use_cache = use_cache
    return {} if loss is None else {"loss": loss, "perplexity": math.exp(loss)}
