"""Run the commands `rlhf reward fit` and `rlhf reward eval`: fit reward models to judgements, and measure them."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import typer
from pydantic import field_validator
from rich.console import Console

from rlhf_envs.models import resolve, split_label

from ..saving.provenance import provenance
from ..training.config import option
from .options import Flags, add_command, argument, fail
from .tables import make_table

__all__ = ["EvalConfig", "FitConfig", "reward_app"]
MAX_PROBED = 500  # texts

reward_app = typer.Typer(help="Fit reward models to people's judgements, and measure them.", no_args_is_help=True)


class FitConfig(Flags):
    """Hold the flags of `rlhf reward fit`."""

    pairs: str = argument(
        "File of rows (jsonl, csv, json): prompt, chosen, rejected; or prompt, completion, label. Or a feedback store, "
        "or what rlhf feedback export --format items wrote."
    )
    output: str = argument("Folder to write.")
    model: str = option("tiny", "Backbone: tiny, minilm, tiny-reward, smollm2, a folder or a hub id.")
    loss: Literal["bt", "mse", "ordinal"] = option("bt", "bt for pairs, mse or ordinal for ratings.")
    members: int = option(1, "Members of an ensemble; 1 is a single model.", ge=1)
    independent: bool = option(False, "Members are models of their own, not heads of one model.")
    train: str = option("full", "What learns: full, head, lora, or a number of last blocks.")
    epochs: int = option(1, "Passes over the rows.", ge=1)
    batch_size: int = option(16, "Rows per step.", ge=1)
    learning_rate: float | None = option(None, "Highest learning rate. 2e-4; lora 2e-3; head 1e-2 by default.", gt=0)
    held_out: str | None = option(
        None, "File of rows to measure on. A tenth of the rows, of other prompts and texts, by default."
    )
    standardise: bool = option(
        False, "Bring each annotator's ratings onto one scale first; rows need an annotator. With --loss mse."
    )
    pseudo_label: str | None = option(
        None, "File of unjudged pairs (prompt, completions): the ensemble is fitted again, also to pairs it is sure of."
    )
    criterion: str | None = option(
        None, "One of a feedback project's own questions, whose answers are fitted; for stores and their items."
    )
    version: int | None = option(None, "Version of the questions whose meaning counts. The newest by default.", ge=1)
    max_length: int | None = option(None, "How many of a text's last tokens are read. All by default.", ge=1)
    no_calibration: bool = option(False, "Do not scale the head so that score differences are log-odds.")
    seed: int = option(0, "Seeds the split, the heads and the order of the rows.", ge=0)
    device: str = option("cpu", "auto, cpu or cuda.")

    @field_validator("train")
    @classmethod
    def _known(cls, value: str) -> str:
        if value not in ("full", "head", "lora") and not value.isdigit():
            raise ValueError("choose full, head, lora, or a number of last blocks")
        return value


@add_command(reward_app, FitConfig, "fit")
def fit(config: FitConfig) -> None:
    """Fit a reward model, or an ensemble of them, into a folder that --env-kwargs reward:FOLDER takes.

    Rows are pairs (prompt, chosen, rejected; optionally margin, probability, weight) or, with --loss mse or ordinal,
    ratings (prompt, completion, label). The folder is a plain Hugging Face sequence classifier with one label. The
    metrics and the temperature come from rows that are held out; they are in its held_out.jsonl.
    """
    from rlhf_envs.preferences.fitting import HELD_OUT, fit_reward, load_judgements

    console = Console()

    def show(step: int, steps: int, loss: float) -> None:
        if step == steps or step % 50 == 0:
            console.print(f"step {step}/{steps}  loss {loss:.3f}", highlight=False)

    if config.version is not None and config.criterion is None:
        fail("--version is for the project's own questions: give --criterion too")
    if config.standardise and config.loss != "mse":
        fail(f"--standardise is for ratings (--loss mse), not for --loss {config.loss}")
    same = {"model", "loss", "members", "max_length", "device", "epochs", "batch_size", "learning_rate", "seed"}
    fitted = fit_reward(
        _load(config, config.pairs),
        config.output,
        shared_trunk=not config.independent,
        held_out=None if config.held_out is None else _load(config, config.held_out),
        unjudged=() if config.pseudo_label is None else load_judgements(config.pseudo_label, ("completions",)),
        calibrate=not config.no_calibration,
        train=int(config.train) if config.train.isdigit() else config.train,
        on_step=show,
        made=provenance(),
        **config.model_dump(include=same),
    )
    _show(console, fitted.metrics)
    for line in (
        f"written to {config.output}",
        f"measure it on what it has not seen: rlhf reward eval {config.output} {Path(config.output, HELD_OUT)}",
        f"use it: rlhf train --env-kwargs reward:{config.output}",
    ):
        console.print(line, soft_wrap=True, highlight=False, markup=False)


def _load(config: FitConfig, path: str) -> list[dict[str, Any]]:
    """Load rows with the columns that the loss needs, standardised if asked for."""
    from rlhf_envs.preferences.fitting import PAIR, RATING, load_judgements
    from rlhf_envs.preferences.ratings import standardise_rows

    columns = PAIR if config.loss == "bt" else RATING
    if _is_stored(config, path):
        rows = _stored(config, path)
        return standardise_rows(rows) if config.standardise else rows
    if not config.standardise:
        return load_judgements(path, columns)
    return standardise_rows(load_judgements(path, (*RATING, "annotator")))


def _is_stored(config: FitConfig, path: str) -> bool:
    """Return whether rows come from a feedback store or from all its items. Only they have answers to a criterion."""
    if "://" not in path and not Path(path).is_file():
        return False  # `load_judgements` says so
    try:
        from rlhf_envs.feedback.formats.stored_rows import has_judgements, is_store
    except ImportError:
        if config.criterion is not None:
            raise
        return False
    if is_store(path) or (config.criterion is not None and has_judgements(path)):
        return True
    if config.criterion is not None and path == config.pairs:
        fail(
            f"--criterion {config.criterion}: {path} has rows without answers to a project's questions: give the store "
            "(feedback.db), or a file of rlhf feedback export --format items"
        )
    return False


def _stored(config: FitConfig, path: str) -> list[dict[str, Any]]:
    """Return the rows of a feedback store, and say what is left out of them."""
    from rlhf_envs.feedback.formats.stored_rows import stored_rows

    format = "preference" if config.loss == "bt" else "ratings"
    rows, export = stored_rows(path, format, criterion=config.criterion, version=config.version)
    what = f" to {config.criterion}" if config.criterion else ""
    typer.echo(f"{path}: {len(rows)} {'pairs' if config.loss == 'bt' else 'ratings'} from answers{what}")
    for reason, n in sorted(export.dropped.items()):
        typer.echo(f"left out: {n} {reason}")
    return rows


class EvalConfig(Flags):
    """Hold the flags of `rlhf reward eval`."""

    model: str = argument("Reward model: a name, folder or hub id.")
    pairs: str = argument("File of pairs or ratings.")
    bins: int = option(10, "Bins of the reliability table.", ge=1)


@add_command(reward_app, EvalConfig, "eval")
def evaluate(config: EvalConfig) -> None:
    """Measure a reward model on pairs (accuracy, loss, calibration, accuracy by agreement) or on ratings.

    The last table shows what fools it: how often the preferred texts score higher than their garbled versions.
    """
    from rlhf_envs.preferences.fitting import as_texts, load_judgements, measure_reward

    console = Console()
    rows = as_texts(load_judgements(config.pairs), config.model)
    report = measure_reward(config.model, rows, config.bins)
    _show(console, report.metrics)
    for title, table in report.tables.items():
        console.print(make_table(list(table[0]), _cells(table), title=title, left=0))
    _show_probes(console, config.model, rows)


def _show_probes(console: Console, model: str, rows: Sequence[Mapping[str, Any]]) -> None:
    """Print what `probe_reward` finds with the preferred texts: the chosen ones, or those rated above average."""
    from rlhf_envs.rewards.ensemble import load_reward
    from rlhf_envs.rewards.probes import probe_reward

    if "chosen" in rows[0]:
        preferred = [(str(row.get("prompt") or ""), str(row["chosen"])) for row in rows]
    else:
        mean = statistics.mean(float(row["label"]) for row in rows)
        preferred = [(str(row.get("prompt") or ""), str(row["completion"])) for row in rows if row["label"] >= mean]
    prompts, completions = zip(*preferred[:MAX_PROBED], strict=True)
    name, label = split_label(model)
    reward = load_reward(f"{resolve(name)}@{label}" if label else resolve(name))
    report = probe_reward(reward, prompts, completions)
    _show(console, {"correlation with length": report.length_correlation})
    table = [result._asdict() for result in report.results]
    title = f"what fools it: {len(prompts)} preferred texts, garbled"
    console.print(make_table(list(table[0]), _cells(table), title=title, left=1))


def _cells(table: Sequence[Mapping[str, float | str]]) -> list[list[str]]:
    return [[_cell(value, 3) for value in row.values()] for row in table]


def _show(console: Console, metrics: Mapping[str, float | str]) -> None:
    for name, value in metrics.items():
        console.print(f"{name:<28} {_cell(value, 4)}", highlight=False, soft_wrap=True)


def _cell(value: float | str, digits: int) -> str:
    return value if isinstance(value, str) else f"{value:,}" if isinstance(value, int) else f"{value:.{digits}f}"
