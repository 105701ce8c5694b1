"""Run the command `rlhf sft`: fine-tune a language model on completions that people wrote or chose."""

from __future__ import annotations

from typing import Literal

import typer
from pydantic import Field

from ..training.config import Pairs
from .options import Flags, argument, option, read_standard_input

__all__ = ["SFTConfig", "sft"]


class SFTConfig(Flags):
    """Hold the flags of `rlhf sft`."""

    data: str = argument("File of rows {prompt, completion} or {messages}; - reads JSON lines from standard input.")
    output: str = argument("Folder to write.")
    model: str = Field("tiny", description="Model to start from.")
    column: Pairs = Field({}, description="Read a column under another name, such as completion:answer.")
    max_length: int | None = Field(None, gt=1, description="Tokens per row; by default the model's positions, up to 1024.")
    on_long_completion: Literal["drop", "cut", "error"] = Field(
        "drop", description="What happens to a completion that does not fit: drop, cut or error."
    )
    epochs: float = option(1.0, "How often each example is learned.", "-n", "--epochs", gt=0)
    batch_size: int = Field(8, gt=0, description="Rows per step.")
    learning_rate: float = Field(2e-4, gt=0, description="Highest learning rate.")
    packing: bool = Field(True, description="Put several short examples into a row.")
    save_freq: int = Field(200, gt=0, description="Steps between checkpoints and validations.")
    seed: int = Field(0, ge=0, description="Seeds the order of the rows.")
    bf16: bool = Field(False, description="Compute in bfloat16.")
    resume: bool = Field(False, description="Go on from the last checkpoint in OUTPUT.")


def sft(config: SFTConfig) -> None:
    """Fine-tune a language model on completions, into a Hugging Face folder (supervised fine-tuning)."""
    from ..training.sft import fine_tune

    data = read_standard_input() if config.data == "-" else config.data
    metrics = fine_tune(data, columns=config.column, **config.model_dump(exclude={"data", "column"}))
    if "loss" in metrics:
        measured = f"validation loss {metrics['loss']:.3f}, perplexity {metrics['perplexity']:.1f}"
    else:
        measured = "no validation loss, for there are too few prompts"
    typer.echo(f"{config.output}: {metrics['examples']} examples, {measured}")
