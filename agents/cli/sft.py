"""Run the command `rlhf sft`: fine-tune a language model on completions that people wrote or chose."""

from __future__ import annotations

from typing import Literal

import typer

from ..training.data_flags import ChatOptions
from ..training.fields import Pairs, option
from .options import Flags, argument, read_standard_input

__all__ = ["SFTConfig", "sft"]


class SFTConfig(ChatOptions, Flags):
    """Hold the flags of `rlhf sft`."""

    data: str = argument(
        "File of rows {prompt, completion} or {messages}, or an environment's id; - reads standard input."
    )
    output: str = argument("Folder to write.")
    model: str | None = option(None, "Model to start from; by default the environment's, else tiny.")
    column: Pairs = option({}, "Column to rename: completion:answer takes `answer` as the completion; repeat.")
    env_kwargs: Pairs = option({}, "Argument of the environment's task, such as dataset:chain_sum; repeat the flag.")
    max_length: int | None = option(None, "Tokens per row; by default the model's positions, up to 1024.", gt=1)
    on_long_completion: Literal["drop", "cut", "error"] = option(
        "drop", "What happens to a completion that does not fit: drop, cut or error."
    )
    epochs: float = option(1.0, "How often each example is learned.", "-n", "--epochs", gt=0)
    batch_size: int = option(8, "Rows per step.", gt=0)
    learning_rate: float = option(2e-4, "Highest learning rate.", gt=0)
    hold_out: bool = option(
        True, "Leave out the rows of other splits than train, and validate on theirs.", "--hold-out/--no-hold-out"
    )
    packing: bool = option(True, "Put several short examples into a row.", "--packing/--no-packing")
    save_freq: int = option(200, "Steps between checkpoints and validations.", gt=0)
    seed: int = option(0, "Seeds the order of the rows.", ge=0)
    bf16: bool = option(False, "Compute in bfloat16.")
    lora: bool = option(False, "Learn LoRA adapters alone, and write a folder of adapters.")
    merge: bool = option(False, "With --lora, write a plain model with the adapters merged into it.")
    resume: bool = option(False, "Go on from the last checkpoint in OUTPUT.")


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
