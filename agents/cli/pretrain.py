"""Run the command `rlhf pretrain`: train a small language model from plain text."""

from __future__ import annotations

import typer
from pydantic import Field

from .options import Flags, argument, option

__all__ = ["PretrainConfig", "pretrain"]


class PretrainConfig(Flags):
    """Hold the flags of `rlhf pretrain`."""

    source: str = argument("Named corpus, text file, or folder of text files.")
    output: str = argument("Folder to write.")
    model: str | None = Field(None, description="Model to go on from; a fresh one by default.")
    vocab_size: int = Field(3072, gt=258, description="Tokens of a fresh tokenizer.")
    n_layer: int = Field(3, gt=0, description="Blocks of a fresh model.")
    n_embd: int = Field(256, gt=0, description="Width of a fresh model.")
    n_head: int = Field(4, gt=0, description="Heads of a fresh model.")
    block_size: int = Field(256, gt=1, description="Tokens per row, and positions of a fresh model.")
    steps: int = option(1000, "Optimiser steps in all.", "-n", "--steps", gt=0)
    batch_size: int = Field(16, gt=0, description="Rows per step.")
    learning_rate: float = Field(2e-3, gt=0, description="Highest learning rate.")
    save_freq: int = Field(200, gt=0, description="Steps between checkpoints and validations.")
    seed: int = Field(0, ge=0, description="Seeds the weights and the order of the rows.")
    bf16: bool = Field(False, description="Compute in bfloat16.")
    resume: bool = Field(False, description="Go on from the last checkpoint in OUTPUT.")


def pretrain(config: PretrainConfig) -> None:
    """Pre-train a small language model and its tokenizer on plain text, into a Hugging Face folder."""
    from ..training.pretrain import pretrain as run

    metrics = run(**config.model_dump())
    typer.echo(f"{config.output}: validation loss {metrics['loss']:.3f}, perplexity {metrics['perplexity']:.1f}")
