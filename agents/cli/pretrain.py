"""Run the command `rlhf pretrain`: train a language model or an encoder on plain text."""

from __future__ import annotations

from typing import Literal

import typer

from ..training.fields import Pairs, option
from .options import Flags, argument

__all__ = ["PretrainConfig", "pretrain"]


class PretrainConfig(Flags):
    """Hold the flags of `rlhf pretrain`."""

    source: str = argument("Named corpus, text file, folder of text files, or file of rows with a column text.")
    output: str = argument("Folder to write.")
    model: str | None = option(None, "Causal model or encoder to go on from; a fresh one by default.")
    objective: Literal["clm", "mlm"] | None = option(
        None, "clm (causal models) or mlm (masked-LM, encoders); by default what the model is, clm for a fresh one."
    )
    column: Pairs = option({}, "Column of rows to rename: text:body takes `body` as the text.")
    vocab_size: int = option(3072, "Tokens of a fresh tokenizer.", gt=258)
    n_layer: int = option(3, "Blocks of a fresh model.", gt=0)
    n_embd: int = option(256, "Width of a fresh model.", gt=0)
    n_head: int = option(4, "Heads of a fresh model.", gt=0)
    block_size: int = option(256, "Tokens per row, and positions of a fresh model.", gt=1)
    steps: int = option(1000, "Optimiser steps in all.", "-n", "--steps", gt=0)
    batch_size: int = option(16, "Rows per step.", gt=0)
    learning_rate: float | None = option(
        None, "Highest learning rate; by default 2e-3 for a fresh model, 1e-4 to go on from one.", gt=0
    )
    save_freq: int = option(200, "Steps between checkpoints and validations.", gt=0)
    seed: int = option(0, "Seeds the weights and the order of the rows.", ge=0)
    bf16: bool = option(False, "Compute in bfloat16.")
    resume: bool = option(False, "Go on from the last checkpoint in OUTPUT.")


def pretrain(config: PretrainConfig) -> None:
    """Pre-train a language model on plain text, into a Hugging Face folder: a fresh one, or on from any model.

    A causal model learns to go on, an encoder to fill in masked tokens (for reward models: rlhf reward fit --model).
    """
    from ..training.pretrain import pretrain as run

    metrics = run(columns=config.column, **config.model_dump(exclude={"column"}))
    measured = f"validation loss {metrics['loss']:.3f}, perplexity {metrics['perplexity']:.1f}"
    typer.echo(f"{config.output}: {measured} ({metrics['perplexity_before']:.1f} before)")
    tokens = metrics["tokens"]
    left = "".join(f"; {n:,} left ({why})" for why, n in tokens["left"].items())
    typer.echo(f"{tokens['total']:,} tokens: {tokens['learned']:,} learned, {tokens['held_out']:,} held out{left}")
