"""The command line `rlhf <verb>`. Every verb imports what it needs when it runs, so that `rlhf --help` is quick."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import typer
from pydantic import BaseModel, ConfigDict, Field, field_validator

from ..training.config import TrainConfig, parse_pairs
from .attack import add_attack
from .compare import add_compare
from .feedback import feedback_app
from .loop import add_loop
from .options import add_command, user_errors
from .reward import reward_app
from .tune import add_tune

__all__ = ["EvaluateConfig", "PretrainConfig", "app"]

app = typer.Typer(
    help="RLHF as Gymnasium environments: ask people, fit rewards, train and evaluate language models.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_show_locals=False,
)


@app.callback()
def main() -> None:
    """RLHF as Gymnasium environments: ask people, fit rewards, train and evaluate language models."""


class TrainFlags(TrainConfig):
    """The flags of `rlhf train`: the configuration of a run, or the folder of one to go on with."""

    resume: str | None = Field(None, description="Folder of a run to go on with, from its newest whole checkpoint.")


@add_command(app, TrainFlags, "train")
def train(flags: TrainFlags) -> None:
    """Train an agent, and show what its completions were and have become.

    The run's folder <log-folder>/<algo>/<Env>_<k> gets config.json, TensorBoard events, progress.csv, curves.png,
    evaluations.npz, samples.md, report.json, model/ (a Hugging Face folder), agent/ (a bundle of safetensors and JSON,
    agents.load reads it) and, with --save-freq, checkpoints/ (bundles too). SIGTERM and Ctrl-C end a run with a
    checkpoint; --resume goes on from it.
    """
    import time

    from rich.console import Console

    from rlhf_envs.registration import check_environment

    from ..registry import check_name

    started = time.perf_counter()
    console = Console()
    with user_errors():
        config = TrainConfig(**flags.model_dump(exclude={"resume"}, exclude_unset=True))
        if flags.resume is not None:
            from ..training.resume import find_run, is_finished, prepare_resumed

            config = find_run(flags.resume, config)
            if is_finished(flags.resume):
                console.print(f"nothing to do: the run in {flags.resume} is finished, see its report.json")
                return
        check_name(config.algo)
        check_environment(config.env)
        if flags.resume is None:
            config.folder()
    with console.status("loading"), user_errors():
        from ..training.run import RunInterrupted, prepare
        from ..training.run import train as run
        from . import tables

        prepared = prepare(config) if flags.resume is None else prepare_resumed(flags.resume, config)
    config = prepared.config
    done = f", {prepared.agent.num_timesteps:,} of them done" if flags.resume is not None else ""
    console.print(
        f"[bold]{config.algo}[/bold] on [bold]{config.env_id}[/bold]: {config.n_timesteps:,} tokens{done}, "
        f"{prepared.folder}"
    )
    try:
        with user_errors():
            result = run(prepared)
    except RunInterrupted as interrupted:
        console.print(str(interrupted), soft_wrap=True)
        return
    console.print(tables.samples_table(result.before, result.after))
    console.print(tables.change_table(result))
    seconds = time.perf_counter() - started
    console.print(f"{result.agent.num_timesteps:,} tokens, {seconds:.0f} s in all. Everything is in {result.folder}")
    console.print(f"[dim]curves: {result.folder / 'curves.png'}   live: tensorboard --logdir {config.log_folder}[/dim]")


class EvaluateConfig(BaseModel):
    """The configuration of `rlhf evaluate`."""

    model_config = ConfigDict(extra="forbid")

    source: str = Field(
        description="Run folder, bundle, model name or folder, hub id, or SB3 zip.",
        json_schema_extra={"argument": True},
    )
    env: str | None = Field(None, description="Environment id. The run's own, or rlhf/Sentiment-v0.")
    n_episodes: int = Field(
        256, ge=2, description="Held-out prompts.", json_schema_extra={"flags": ["-n", "--n-episodes"]}
    )
    split: str = Field("test", description="Split of the task's data.")
    judge: list[str] | None = Field(
        None, description="Registered reward that scores too; repeat. The task's by default."
    )
    reference: str | None = Field(None, description="Model that KL and perplexity are measured against.")
    seed: int = Field(0, ge=0, description="Seeds the sampling.")
    deterministic: bool = Field(False, description="Take the most probable token.")
    temperature: float | None = Field(None, gt=0, description="Divides the logits. The run's own, or 1.")
    top_k: int | None = Field(None, ge=1, description="Draw from the k most probable tokens.")
    top_p: float | None = Field(None, gt=0, le=1, description="Draw from the smallest set of this probability.")
    env_kwargs: dict[str, Any] = Field({}, description="Arguments of the environment; repeat the flag.")
    trust: bool = Field(False, description="Load an SB3 zip: it holds pickles, which can run code.")
    samples: int = Field(4, ge=0, description="Completions to show.")
    output: str | None = Field(
        None, description="JSON file to write the figures to.", json_schema_extra={"flags": ["-o", "--output"]}
    )

    @field_validator("env_kwargs", mode="before")
    @classmethod
    def _pairs(cls, value: Any) -> Any:
        return parse_pairs(value)


@add_command(app, EvaluateConfig, "evaluate")
def evaluate(config: EvaluateConfig) -> None:
    """Complete held-out prompts: reward, judges, KL, perplexity, length and diversity, with bootstrap intervals."""
    from rich.console import Console

    from rlhf_envs.registration import check_environment

    from ..saving.folders import run_environment

    with user_errors():
        env = check_environment(config.env or run_environment(config.source) or "rlhf/Sentiment-v0")
        if config.output is not None and not Path(config.output).parent.is_dir():
            raise ValueError(f"--output {config.output}: there is no folder {Path(config.output).parent}")
    from transformers.utils import logging

    from ..evaluation.evaluate import evaluate as run
    from . import tables

    logging.disable_progress_bar()
    with user_errors():
        evaluation = run(
            config.source,
            env,
            n_episodes=config.n_episodes,
            split=config.split,
            judges=config.judge,
            reference=config.reference,
            seed=config.seed,
            deterministic=config.deterministic,
            env_kwargs=config.env_kwargs,
            trust=config.trust,
            decoding={
                name: value
                for name in ("temperature", "top_k", "top_p")
                if (value := getattr(config, name)) is not None
            },
        )
    console = Console()
    console.print(tables.evaluation_table(evaluation))
    for completion in evaluation.completions[: config.samples]:
        console.print(tables.shown(completion))
    if config.output is not None:
        Path(config.output).write_text(json.dumps(evaluation.to_dict(), indent=2) + "\n", encoding="utf-8")


@app.command()
def envs() -> None:
    """List the environments."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    from rlhf_envs.registration import describe, text_environments

    table = Table(box=box.SIMPLE, pad_edge=False)
    table.add_column("id", no_wrap=True)
    for heading in ("reward", "model"):
        table.add_column(heading, overflow="fold")
    for heading in ("vocab", "prompt", "new"):
        table.add_column(heading, justify="right", no_wrap=True)
    for env_id in text_environments():
        d = describe(env_id)
        size = "" if d.vocab_size is None else str(d.vocab_size)
        table.add_row(env_id, d.reward, d.model or "none", size, str(d.max_prompt_tokens), str(d.max_new_tokens))
    console = Console()
    console.print(table)
    console.print("prompt, new: the most tokens of each; change with --env-kwargs max_new_tokens:24")


class PretrainConfig(BaseModel):
    """The configuration of `rlhf pretrain`."""

    model_config = ConfigDict(extra="forbid", protected_namespaces=())

    source: str = Field(
        description="Named corpus, text file, or folder of text files.", json_schema_extra={"argument": True}
    )
    output: str = Field(description="Folder to write.", json_schema_extra={"argument": True})
    model: str | None = Field(None, description="Model to go on from; a fresh one by default.")
    vocab_size: int = Field(3072, gt=258, description="Tokens of a fresh tokenizer.")
    n_layer: int = Field(3, gt=0, description="Blocks of a fresh model.")
    n_embd: int = Field(256, gt=0, description="Width of a fresh model.")
    n_head: int = Field(4, gt=0, description="Heads of a fresh model.")
    block_size: int = Field(256, gt=1, description="Tokens a row, and positions of a fresh model.")
    steps: int = Field(
        1000, gt=0, description="Optimiser steps in all.", json_schema_extra={"flags": ["-n", "--steps"]}
    )
    batch_size: int = Field(16, gt=0, description="Rows a step.")
    learning_rate: float = Field(2e-3, gt=0, description="Highest learning rate.")
    save_freq: int = Field(200, gt=0, description="Steps between checkpoints and validations.")
    seed: int = Field(0, ge=0, description="Seeds the weights and the order of the rows.")
    bf16: bool = Field(False, description="Compute in bfloat16.")
    resume: bool = Field(False, description="Go on from the last checkpoint in OUTPUT.")


@add_command(app, PretrainConfig, "pretrain")
def pretrain(config: PretrainConfig) -> None:
    """Pre-train a small language model and its tokenizer on plain text, into a Hugging Face folder."""
    from ..training.pretrain import pretrain as run

    with user_errors():
        figures = run(**config.model_dump())
    typer.echo(f"{config.output}: validation loss {figures['loss']:.3f}, perplexity {figures['perplexity']:.1f}")


app.add_typer(feedback_app, name="feedback")
add_compare(app)
add_loop(app)
add_attack(app)
app.add_typer(reward_app, name="reward")
add_tune(app)
