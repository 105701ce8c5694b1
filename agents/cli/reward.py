"""Run the commands `rlhf reward fit` and `rlhf reward eval`: fit reward models to judgements, and measure them."""

from __future__ import annotations

import shlex
import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import typer
from pydantic import field_validator
from rich.console import Console

from rlhf_envs import preferences
from rlhf_envs.models import resolve, split_label
from rlhf_envs.rewards.aspects import FILE as ASPECTS_FILE
from rlhf_envs.rewards.aspects import named_aspects

from ..saving.provenance import provenance
from ..training.fields import option
from .options import Flags, add_command, argument, fail
from .tables import make_table

__all__ = ["EvalConfig", "FitConfig", "reward_app"]
MAX_PROBED = 500  # texts
KINDS_OF_ROWS = {"bt": "pairs", "mse": "ratings", "ordinal": "ratings", "flags": "flags"}

reward_app = typer.Typer(help="Fit reward models to people's judgements, and measure them.", no_args_is_help=True)


class FitConfig(Flags):
    """Hold the flags of `rlhf reward fit`."""

    pairs: str = argument(
        "File of rows (jsonl, csv, json): prompt, chosen, rejected; or prompt, completion, label; or, with --cost, "
        "prompt, completion, flag. Or a feedback store, "
        "or what rlhf feedback export --format items wrote."
    )
    output: str = argument("Folder to write.")
    model: str = option("tiny", "Backbone: tiny, minilm, tiny-reward, smollm2, a folder or a hub id.")
    loss: Literal["bt", "mse", "ordinal"] = option("bt", "bt for pairs, mse or ordinal for ratings.")
    cost: bool = option(False, "Fit a cost to flags: the chance that a text is flagged, for rlhf train --constraint.")
    harm: str | None = option(None, "With --cost: the harm whose flags count, of the column harms. Any by default.")
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
    aspects: str | None = option(
        None,
        "Fit one reward model per aspect of an answer: names of the project's questions, harms, flags, pairwise or "
        "rating, with commas between; or a YAML file of aspects.",
    )
    weigh: bool = option(
        True, "With --aspects: count judgements by how reliable their annotator is.", "--weigh/--no-weigh"
    )
    max_length: int | None = option(None, "How many of a text's last tokens are read. All by default.", ge=1)
    no_calibration: bool = option(False, "Do not scale the head so that score differences are log-odds.")
    seed: int = option(0, "Seeds the split, the heads and the order of the rows.", ge=0)
    device: str = option("cpu", "auto, cpu or cuda.")

    @field_validator("train")
    @classmethod
    def _known(cls, value: str) -> str:
        if value not in ("full", "head", "lora") and not value.isdecimal():
            raise ValueError("choose full, head, lora, or a number of last blocks")
        return value


@add_command(reward_app, FitConfig, "fit")
def fit(config: FitConfig) -> None:
    """Fit a reward model, or an ensemble of them, into a folder that rlhf train --env-kwargs reward:FOLDER takes.

    Rows are pairs (prompt, chosen, rejected; optionally margin, probability, weight), with --loss mse or ordinal
    ratings (prompt, completion, label), or with --cost people's flags of harm (prompt, completion, flag: true or
    false). A cost is a calibrated probability, which rlhf train --constraint FOLDER --limit 0.1 takes. The folder is a
    plain Hugging Face sequence classifier with one label. The metrics and the calibration come from rows that are held
    out; they are in its held_out.jsonl.

    With --aspects the folder has one such folder per aspect, and aspects.yml with a weight or a limit each, which rlhf
    train --aspects takes.
    """
    from rlhf_envs.preferences.fitting import HELD_OUT, fit_reward, load_judgements

    console = Console()

    def show(step: int, steps: int, loss: float) -> None:
        if step == steps or step % 50 == 0:
            console.print(f"step {step}/{steps}  loss {loss:.3f}", highlight=False)

    if config.aspects is not None:
        _fit_aspects(console, config, show)
        return
    if not config.weigh:
        fail("--no-weigh is for --aspects: without it judgements are not weighed")
    if config.version is not None and config.criterion is None:
        fail("--version is for the project's own questions: give --criterion too")
    if config.cost and config.loss != "bt":
        fail(f"--cost with --loss {config.loss}: a cost is fitted to flags, leave --loss out")
    if config.harm is not None and not config.cost:
        fail("--harm chooses among flags of harm: give --cost too")
    if config.standardise and config.loss != "mse":
        fail(f"--standardise is for ratings (--loss mse), not for --loss {config.loss}")
    fitted = fit_reward(
        _load(config, config.pairs),
        config.output,
        shared_trunk=not config.independent,
        held_out=None if config.held_out is None else _load(config, config.held_out),
        unjudged=() if config.pseudo_label is None else load_judgements(config.pseudo_label, ("completions",)),
        members=config.members,
        loss=_loss(config),
        on_step=show,
        **_settings(config),
    )
    _show(console, fitted.metrics)
    folder, rows = shlex.quote(config.output), shlex.quote(str(Path(config.output, HELD_OUT)))
    for line in (
        f"written to {config.output}",
        f"measure it on what it has not seen: rlhf reward eval {folder} {rows}",
        f"use it: rlhf train --constraint {folder} --limit 0.1 --multiplier-step 2"
        if config.cost
        else f"use it: rlhf train --env-kwargs {shlex.quote(f'reward:{config.output}')}",
    ):
        console.print(line, soft_wrap=True, highlight=False, markup=False)


def _fit_aspects(console: Console, config: FitConfig, show: Callable[[int, int, float], None]) -> None:
    """Fit one reward model per aspect, and print how good each is and how far they go together."""
    one_model = ("criterion", "cost", "harm", "loss", "members", "independent", "held_out", "standardise")
    for name in (*one_model, "pseudo_label"):
        if name in config.model_fields_set:
            flag = f"--{name.replace('_', '-')}"
            fail(f"{flag} with --aspects: it is for one reward model; a file of aspects has criterion, harm and loss")
    assert config.aspects is not None
    given = named_aspects(config.aspects)
    beside = {name: aspect for name, aspect in given.items() if aspect.reward is not None}
    to_fit = {name: aspect for name, aspect in given.items() if name not in beside}
    if not to_fit:
        fail(f"--aspects {config.aspects}: all its aspects have a reward of their own, so none is to be fitted")
    judged = preferences.judged_aspects(
        config.pairs, to_fit, lambda path: _is_stored(config, path, answers=True), config.version
    )
    for one in judged:
        typer.echo(f"{one.aspect.name}: {len(one.rows)} {KINDS_OF_ROWS[one.loss]}")
        for reason, n in sorted(one.dropped.items()):
            typer.echo(f"left out: {n} {reason}")
    report = preferences.fit_aspects(
        judged, config.output, weigh=config.weigh, beside=beside, on_step=show, **_settings(config)
    )
    for name, metrics in report.metrics.items():
        console.print(f"\n{name}", style="bold", highlight=False)
        _show(console, metrics)
        if weights := report.weights[name]:
            low = min(weights, key=lambda annotator: weights[annotator])
            _show(console, {"annotators": len(weights), "lowest weight": f"{weights[low]:.2f} ({low})"})
    rows = [[f"{c.first}, {c.second}", _number_or(c.people), _number_or(c.models)] for c in report.correlations]
    if rows:
        heads = ["aspects", "what people said", "reward models"]
        console.print(make_table(heads, rows, title="how far the aspects go together (correlation)", left=1))
    if report.warning:
        _show(console, {"warning": report.warning})
    if report.kept:
        files = Path(config.output, ASPECTS_FILE)
        typer.echo(f"kept as they were: {', '.join(report.kept)}; to drop one, delete its line in {files}")
    for line in (
        f"written to {config.output}; change weights and limits in {Path(config.output, ASPECTS_FILE)}",
        f"use it: rlhf train --aspects {shlex.quote(config.output)}",
    ):
        console.print(line, soft_wrap=True, highlight=False, markup=False)


def _settings(config: FitConfig) -> dict[str, Any]:
    """Return how reward models are fitted, whether one or one per aspect."""
    same = {"model", "max_length", "device", "epochs", "batch_size", "learning_rate", "seed"}
    train = int(config.train) if config.train.isdecimal() else config.train
    return {
        "calibrate": not config.no_calibration,
        "train": train,
        "made": provenance(),
        **config.model_dump(include=same),
    }


def _number_or(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _loss(config: FitConfig) -> Literal["bt", "mse", "ordinal", "flags"]:
    return "flags" if config.cost else config.loss


def _load(config: FitConfig, path: str) -> list[dict[str, Any]]:
    """Load rows with the columns that the loss needs, standardised if asked for."""
    from rlhf_envs.preferences.fitting import FLAG, PAIR, RATING, load_judgements
    from rlhf_envs.preferences.ratings import standardise_rows

    columns = FLAG if config.cost else PAIR if config.loss == "bt" else RATING
    if _is_stored(config, path):
        rows = _of_harm(config, _stored(config, path))
        return standardise_rows(rows) if config.standardise else rows
    if not config.standardise:
        return _of_harm(config, load_judgements(path, columns))
    return standardise_rows(load_judgements(path, (*RATING, "annotator")))


def _of_harm(config: FitConfig, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return flags of the harm that was asked for; without one the rows."""
    if config.harm is None:
        return rows
    if any(isinstance(row.get("harms"), str) for row in rows):
        fail(f"--harm {config.harm}: {config.pairs} has texts in 'harms' where lists belong, as CSV has: give jsonl")
    known = sorted({harm for row in rows for harm in row.get("harms") or ()})
    if config.harm not in known:
        fail(f"--harm {config.harm}: no row of {config.pairs} has it among its 'harms': {', '.join(known) or 'none'}")
    return [{**row, "flag": config.harm in (row.get("harms") or ())} for row in rows]


def _is_stored(config: FitConfig, path: str, answers: bool = False) -> bool:
    """Return whether rows come from a feedback store or from all its items. Only they have answers to a criterion.

    Args:
        answers: whether answers to the project's own questions are wanted, as with a criterion.
    """
    if "://" not in path and not Path(path).is_file():
        return False  # `load_judgements` says so
    try:
        from rlhf_envs.feedback.formats.stored_rows import has_judgements, is_store
    except ImportError:
        if config.criterion is not None:
            raise
        return False
    if is_store(path) or ((answers or config.criterion is not None) and has_judgements(path)):
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

    format, name = {"flags": ("flags", "flags"), "bt": ("preference", "pairs")}.get(
        _loss(config), ("ratings", "ratings")
    )
    rows, export = stored_rows(path, format, criterion=config.criterion, version=config.version)
    what = f" to {config.criterion}" if config.criterion else ""
    typer.echo(f"{path}: {len(rows)} {name} from answers{what}")
    for reason, n in sorted(export.dropped.items()):
        typer.echo(f"left out: {n} {reason}")
    return rows


class EvalConfig(Flags):
    """Hold the flags of `rlhf reward eval`."""

    model: str = argument("Reward model: a name, folder or hub id.")
    pairs: str = argument("File of pairs, ratings or flags.")
    bins: int = option(10, "Bins of the reliability table.", ge=1)


@add_command(reward_app, EvalConfig, "eval")
def evaluate(config: EvalConfig) -> None:
    """Measure a reward model on pairs (accuracy, loss, calibration, accuracy by agreement), on ratings or on flags.

    The last table shows what fools it: how often the preferred texts score higher than their garbled versions.
    """
    from rlhf_envs.preferences.fitting import as_texts, load_judgements, measure_reward

    console = Console()
    rows = as_texts(load_judgements(config.pairs), config.model)
    report = measure_reward(config.model, rows, config.bins)
    _show(console, report.metrics)
    for title, table in report.tables.items():
        console.print(make_table(list(table[0]), _cells(table), title=title, left=0))
    if "flag" not in rows[0]:
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
