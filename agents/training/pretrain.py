"""Train a small Hugging Face causal language model on plain texts.

The loop is in `transformers.Trainer`. This module adds the corpus, the tokenizer and the way texts are packed:

- A document is cut into *passages* of whole sentences. Each ends with EOS, so that the model learns to finish a thought
  within the few dozen tokens of an episode.
- A row of `block_size` tokens starts with a passage and holds as many of the following passages as fit, also of the
  next documents. So position 0 is the start of a sentence, as in a prompt, and there is little padding. Only a passage
  longer than a row goes on in the next one; the log says how many do.
"""

from __future__ import annotations

import importlib.util
import json
import logging
import math
import os
import re
from collections.abc import Callable, Iterable, Sequence
from functools import wraps
from pathlib import Path
from pickle import UnpicklingError
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from torch.utils.data import Dataset
from transformers import PreTrainedTokenizerFast

from rlhf_envs.datasets.corpora import CORPORA, load_corpus, split_of
from rlhf_envs.files import replace_json
from rlhf_envs.models import load_causal_lm, load_tokenizer, model_positions, no_progress_bars
from rlhf_envs.tokens import encode_texts, keep_start
from rlhf_envs.words import join_sentences, split_sentences, split_words

from ..core.models import build_model
from ..saving.folders import LOCK
from ..saving.locks import locked
from ..saving.provenance import MADE, provenance

if TYPE_CHECKING:  # transformers loads its Trainer only when it is used
    from transformers import PreTrainedModel, PreTrainedTokenizerBase, Trainer

__all__ = [
    "PackedTexts",
    "alone",
    "find_checkpoint",
    "make_trainer",
    "pretrain",
    "read_texts",
    "run_trainer",
    "split_passages",
    "train_tokenizer",
]

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")
# How the names begin of what a run writes before its first checkpoint: TensorBoard's folder, tokenizer, processor.
BEGUN = ("runs", "tokenizer", "special_tokens_map", "added_tokens", "vocab", "merges", "chat_template", "processor")
EOS, PAD = "<|eos|>", "<|pad|>"
TENSORS_ONLY = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"  # an environment variable of torch.load
logger = logging.getLogger(__name__)

Rows = Dataset[dict[str, torch.Tensor]]


def read_texts(source: str) -> tuple[list[str], list[str]]:
    """Read the training and validation texts of a named corpus, a text file or a folder of `.txt` files.

    Blank lines separate the documents of a file.

    Returns:
        `(train, validation)`, lists of documents.

    Raises:
        FileNotFoundError: `source` is neither a corpus nor a path.
        ValueError: there is no text in it.
    """
    if source in CORPORA:
        documents = load_corpus(source)
        return [d.text for d in documents if d.split == "train"], [d.text for d in documents if d.split == "validation"]
    path = Path(source)
    if not path.exists():
        raise FileNotFoundError(f"{source!r} is neither a file, a folder nor a corpus ({', '.join(sorted(CORPORA))})")
    paths = sorted(path.glob("**/*.txt")) if path.is_dir() else [path]
    texts = [" ".join(part.split()) for p in paths for part in re.split(r"\n\s*\n", p.read_text(encoding="utf-8"))]
    texts = [text for text in texts if text]
    if not texts:
        raise ValueError(f"{source!r} holds no text: documents are separated by blank lines in .txt files")
    validation = [text for text in texts if split_of(text) == "validation"] or texts[-1:]
    held_out = set(validation)
    return [text for text in texts if text not in held_out] or texts, validation


def split_passages(text: str, max_words: int = 40) -> list[str]:
    """Cut a document into passages of whole sentences with at most about `max_words` words per passage."""
    passages: list[str] = []
    words = 0
    for sentence in split_sentences(text):
        length = len(split_words(sentence))
        if passages and words + length <= max_words:
            passages[-1] = join_sentences(passages[-1], sentence)
            words += length
        else:
            passages.append(sentence)
            words = length
    return passages


def train_tokenizer(texts: Iterable[str], vocab_size: int, max_length: int) -> PreTrainedTokenizerFast:
    """Train an uncased byte-level BPE tokenizer with distinct pad and EOS tokens."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[PAD, EOS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        eos_token=EOS,
        model_max_length=max_length,
        clean_up_tokenization_spaces=False,
    )


def alone(run: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
    """Let one process at a time write to the folder `output`, the second argument of a function that trains."""

    @wraps(run)
    def locking(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
        output: Any = kwargs["output"] if "output" in kwargs else args[1]
        with locked(Path(output), "training"):
            return run(*args, **kwargs)

    return locking


class PackedTexts(Dataset[dict[str, torch.Tensor]]):
    """Hold rows of `block_size` token ids. Each starts with a passage; padding does not count in the loss."""

    def __init__(self, texts: Sequence[str], tokenizer: PreTrainedTokenizerBase, block_size: int) -> None:
        passages = [passage for text in texts for passage in split_passages(text)]
        rows: list[list[int]] = [[]]
        n_long = 0
        for encoded in encode_texts(tokenizer, passages):
            ids = [*encoded, tokenizer.eos_token_id]
            n_long += len(ids) > block_size
            if rows[-1] and len(rows[-1]) + len(ids) > block_size:
                rows.append([])
            while len(ids) > block_size:
                part = keep_start(tokenizer, ids[: 2 * block_size], block_size)
                ids = ids[len(part) :]
                rows[-1].extend(part)
                rows.append([])
            rows[-1].extend(ids)
        if n_long:
            logger.warning("%d of %d passages are longer than a row of %d tokens", n_long, len(passages), block_size)
        self.ids = torch.full((len(rows), block_size), tokenizer.pad_token_id or 0, dtype=torch.int32)  # (rows, block)
        self.lengths = torch.tensor([len(row) for row in rows])
        for i, row in enumerate(rows):
            self.ids[i, : len(row)] = torch.tensor(row, dtype=torch.int32)

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        ids = self.ids[index].long()
        mask = torch.arange(len(ids)) < self.lengths[index]
        labels = ids.masked_fill(~mask, -100)
        labels[0] = -100  # nothing predicts the first token, but the Trainer would count it
        return {"input_ids": ids, "attention_mask": mask.long(), "labels": labels}


@alone
def pretrain(
    source: str,
    output: str | Path,
    *,
    model: str | None = None,
    vocab_size: int = 3072,
    n_layer: int = 3,
    n_embd: int = 256,
    n_head: int = 4,
    block_size: int = 256,
    steps: int = 1000,
    batch_size: int = 16,
    learning_rate: float = 2e-3,
    save_freq: int = 200,
    seed: int = 0,
    bf16: bool = False,
    resume: bool = False,
) -> dict[str, float]:
    """Train a causal language model from plain text (and its tokenizer), and save both as a Hugging Face folder.

    Args:
        source: a named corpus, a text file or a folder of text files (see `read_texts`).
        output: the folder to write; TensorBoard events and checkpoints go below it.
        model: a model to go on from, by a name that `rlhf_envs.models.resolve` knows. By default a fresh model of
            GPT-2's shape, `n_layer` blocks of width `n_embd`, with a BPE tokenizer of `vocab_size` tokens.
        block_size: tokens per row; also the positions of a fresh model.
        steps: optimiser steps in all. The learning rate falls along a cosine to zero at the last step.
        save_freq: steps between checkpoints and validations.
        resume: go on from the last checkpoint below `output`; start over if there is none yet.

    Returns:
        The metrics on held-out texts: `loss` (nats per token) and `perplexity`. They are also in `pretrain.json`.

    Raises:
        FileExistsError: `output` holds a run and `resume` is False.
        FileNotFoundError: `resume` is True and `output` holds no run.
        ValueError: another process is at work in `output`.
    """
    checkpoint = find_checkpoint(Path(output), resume)
    train, validation = read_texts(source)
    torch.manual_seed(seed)
    tokenizer: PreTrainedTokenizerBase
    if model is not None:
        tokenizer, network = _load_model(model, block_size)
    else:
        if checkpoint is not None:
            tokenizer = PreTrainedTokenizerFast.from_pretrained(output)
        else:
            tokenizer = train_tokenizer(train, vocab_size, block_size)
        network = build_model(len(tokenizer), block_size, n_layer, n_embd, n_head)
    tokenizer.save_pretrained(output)
    data, held_out = (PackedTexts(texts, tokenizer, block_size) for texts in (train, validation))
    logger.info("%d rows of up to %d tokens (%.1fM tokens)", len(data), block_size, int(data.lengths.sum()) / 1e6)
    trainer = make_trainer(
        network,
        data,
        held_out,
        output,
        steps=steps,
        warmup_steps=min(200, steps // 10),
        batch_size=batch_size,
        learning_rate=learning_rate,
        save_freq=save_freq,
        seed=seed,
        bf16=bf16,
    )
    run_trainer(trainer, checkpoint)
    loss = trainer.evaluate()["eval_loss"]
    with no_progress_bars():
        network.save_pretrained(output)
    metrics = {"loss": loss, "perplexity": math.exp(loss)}
    settings = {"source": source, "model": model, "block_size": block_size, "steps": steps, "seed": seed}
    replace_json(Path(output) / "pretrain.json", {**settings, **metrics, MADE: provenance()})
    return metrics


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


def _load_model(model: str, block_size: int) -> tuple[PreTrainedTokenizerBase, PreTrainedModel]:
    positions = model_positions(model)
    if positions is not None and block_size > positions:
        raise ValueError(f"block_size={block_size} is more than the {positions} positions of {model!r}")
    return load_tokenizer(model), load_causal_lm(model)


def make_trainer(
    network: PreTrainedModel,
    data: Rows,
    held_out: Rows | None,
    output: str | Path,
    *,
    steps: int,
    batch_size: int,
    save_freq: int,
    **arguments: Any,
) -> Trainer:
    """Return a `Trainer` that logs the validation perplexity too. `arguments` go to its `TrainingArguments`."""
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
    return PerplexityTrainer(model=network, args=settings, train_dataset=data, eval_dataset=held_out)
