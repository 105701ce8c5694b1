"""Run the command `rlhf pretrain`: train a small language model from plain text."""

from __future__ import annotations

import typer

from ..training.config import option
from .options import Flags, argument

__all__ = ["PretrainConfig", "pretrain"]


class PretrainConfig(Flags):
    """Hold the flags of `rlhf pretrain`."""

    source: str = argument("Named corpus, text file, or folder of text files.")
    output: str = argument("Folder to write.")
    model: str | None = option(None, "Model to go on from; a fresh one by default.")
    vocab_size: int = option(3072, "Tokens of a fresh tokenizer.", gt=258)
    n_layer: int = option(3, "Blocks of a fresh model.", gt=0)
    n_embd: int = option(256, "Width of a fresh model.", gt=0)
    n_head: int = option(4, "Heads of a fresh model.", gt=0)
    block_size: int = option(256, "Tokens per row, and positions of a fresh model.", gt=1)
    steps: int = option(1000, "Optimiser steps in all.", "-n", "--steps", gt=0)
    batch_size: int = option(16, "Rows per step.", gt=0)
    learning_rate: float = option(2e-3, "Highest learning rate.", gt=0)
    save_freq: int = option(200, "Steps between checkpoints and validations.", gt=0)
    seed: int = option(0, "Seeds the weights and the order of the rows.", ge=0)
    bf16: bool = option(False, "Compute in bfloat16.")
    resume: bool = option(False, "Go on from the last checkpoint in OUTPUT.")


def pretrain(config: PretrainConfig) -> None:
    """Pre-train a small language model and its tokenizer on plain text, into a Hugging Face folder."""
    from ..training.pretrain import pretrain as run

    metrics = run(**config.model_dump())
    typer.echo(f"{config.output}: validation loss {metrics['loss']:.3f}, perplexity {metrics['perplexity']:.1f}")
