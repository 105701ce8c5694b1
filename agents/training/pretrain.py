"""Pre-training: plain texts in, a small Hugging Face causal language model out.

The loop is `transformers.Trainer`'s; ours are the corpus, the tokenizer and the way texts are packed:

- A document is cut into *passages* of whole sentences, each ended by EOS, so that the model learns to finish a thought
  within the few dozen tokens that an episode lasts.
- A row of `block_size` tokens starts with a passage and holds as many of the following passages as fit, those of the
  next documents too, so that position 0 is always the start of a sentence, as it is in a prompt, and little is padding.
"""

from __future__ import annotations

import importlib.util
import logging
import math
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch.utils.data import Dataset

from ..core.models import build_model

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast, Trainer

__all__ = ["PackedTexts", "pretrain", "read_texts", "split_passages", "train_tokenizer"]

EOS, PAD = "<|eos|>", "<|pad|>"
logger = logging.getLogger(__name__)


def read_texts(source: str) -> tuple[list[str], list[str]]:
    """Read the training and validation texts of a named corpus, or of a text file or a folder of `.txt` files.

    In a file, documents are separated by blank lines.

    Returns:
        `(train, validation)`, lists of documents.

    Raises:
        FileNotFoundError: `source` is neither a corpus nor a path.
        ValueError: there is no text in it.
    """
    from rlhf_envs.datasets.corpora import CORPORA, load_corpus, split_of

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
    """Cut a document into passages of whole sentences, of at most about `max_words` words each."""
    passages: list[str] = []
    words = 0
    for sentence in re.split(r"(?<=[.!?])\s+", text):
        length = len(sentence.split())
        if passages and words + length <= max_words:
            passages[-1] += " " + sentence
            words += length
        else:
            passages.append(sentence)
            words = length
    return passages


def train_tokenizer(texts: Iterable[str], vocab_size: int, max_length: int) -> PreTrainedTokenizerFast:
    """Train an uncased byte-level BPE tokenizer with distinct pad and EOS tokens."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

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


class PackedTexts(Dataset[dict[str, torch.Tensor]]):
    """Rows of `block_size` token ids, each starting with a passage; the rest of a row is padding, outside the loss."""

    def __init__(self, texts: Sequence[str], tokenizer: PreTrainedTokenizerBase, block_size: int) -> None:
        passages = [passage for text in texts for passage in split_passages(text)]
        rows: list[list[int]] = [[]]
        for encoded in tokenizer(passages, add_special_tokens=False)["input_ids"]:
            ids = [*encoded, tokenizer.eos_token_id][:block_size]
            if len(rows[-1]) + len(ids) > block_size:
                rows.append([])
            rows[-1].extend(ids)
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
        labels[0] = -100  # nothing predicts it, and the Trainer would count it among what is predicted
        return {"input_ids": ids, "attention_mask": mask.long(), "labels": labels}


def _trainer(**kwargs: Any) -> Trainer:
    """A `Trainer` that logs the validation perplexity beside the loss."""
    from transformers import Trainer

    class PerplexityTrainer(Trainer):
        def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
            if "eval_loss" in logs:
                logs["eval_perplexity"] = math.exp(logs["eval_loss"])
            super().log(logs, *args, **kwargs)

    return PerplexityTrainer(**kwargs)


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
    """Pre-train a causal language model (and its tokenizer) and save both as a Hugging Face folder.

    Args:
        source: a named corpus, a text file or a folder of text files (see `read_texts`).
        output: the folder to write; TensorBoard events and resumable checkpoints go below it.
        model: a model to go on from (a name that `rlhf_envs.models.resolve` knows); by default a fresh GPT-2-shaped
            one of `n_layer` blocks of width `n_embd` is built, with a BPE tokenizer of `vocab_size` tokens.
        block_size: tokens a row; also the positions of a fresh model.
        steps: optimiser steps in all; the learning rate falls on a cosine to zero at the last.
        save_freq: steps between checkpoints and validations.
        resume: go on from the last checkpoint below `output`.

    Returns:
        The held-out figures: `loss` (nats a token) and `perplexity`.

    Raises:
        FileExistsError: `output` holds a run and `resume` is False.
        FileNotFoundError: `resume` is True and `output` holds no checkpoint.
    """
    from transformers import PreTrainedTokenizerFast, TrainingArguments
    from transformers.trainer_utils import get_last_checkpoint

    if importlib.util.find_spec("accelerate") is None:
        raise ModuleNotFoundError(
            "pre-training runs in transformers' Trainer, which needs accelerate: pip install 'rlhf-envs[train]'"
        )
    output = Path(output)
    checkpoint = get_last_checkpoint(str(output)) if output.is_dir() else None
    if not resume and output.exists() and any(output.iterdir()):
        raise FileExistsError(f"{output} is not empty: pass --resume to go on, or choose another folder")
    if resume and checkpoint is None:
        raise FileNotFoundError(f"nothing to resume: {output} holds no checkpoint")
    train, validation = read_texts(source)
    torch.manual_seed(seed)
    if model is not None:
        from rlhf_envs.models import load_causal_lm, load_tokenizer, model_positions

        tokenizer, network = load_tokenizer(model), load_causal_lm(model)
        positions = model_positions(model)
        if positions is not None and block_size > positions:
            raise ValueError(f"block_size={block_size} is more than the {positions} positions of {model!r}")
    else:
        if checkpoint is not None:
            tokenizer = PreTrainedTokenizerFast.from_pretrained(output)
        else:
            tokenizer = train_tokenizer(train, vocab_size, block_size)
        network = build_model(len(tokenizer), block_size, n_layer, n_embd, n_head)
    tokenizer.save_pretrained(output)
    data, held_out = (PackedTexts(texts, tokenizer, block_size) for texts in (train, validation))
    logger.info("%d rows of up to %d tokens (%.1fM tokens)", len(data), block_size, int(data.lengths.sum()) / 1e6)
    arguments = TrainingArguments(
        output_dir=str(output),
        max_steps=steps,
        per_device_train_batch_size=batch_size,
        per_device_eval_batch_size=batch_size,
        learning_rate=learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=min(200, steps // 10),
        weight_decay=0.1,
        adam_beta2=0.95,
        max_grad_norm=1.0,
        bf16=bf16,
        use_cpu=not torch.cuda.is_available(),
        eval_strategy="steps",
        eval_steps=save_freq,
        save_steps=save_freq,
        save_total_limit=2,
        logging_steps=min(20, save_freq),
        report_to=["tensorboard"],
        seed=seed,
    )
    trainer = _trainer(model=network, args=arguments, train_dataset=data, eval_dataset=held_out)
    trainer.train(resume_from_checkpoint=checkpoint)
    loss = trainer.evaluate()["eval_loss"]
    from rlhf_envs.models import no_progress_bars

    with no_progress_bars():
        network.save_pretrained(output)
    return {"loss": loss, "perplexity": math.exp(loss)}
