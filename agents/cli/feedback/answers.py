"""Run `rlhf feedback status`, `export` and `forecast`: what people have said so far."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Literal

import typer
from rich.console import Console

from rlhf_envs import preferences
from rlhf_envs.cards import write_card
from rlhf_envs.datasets.messages import is_role_lines
from rlhf_envs.feedback import web
from rlhf_envs.feedback.criteria import read_criterion
from rlhf_envs.feedback.formats.card import dataset_card
from rlhf_envs.feedback.formats.exporting import Export, export_file, labeling_interface
from rlhf_envs.feedback.formats.names import ExportFormat
from rlhf_envs.feedback.quality import CANNOT_TELL, find_suspects
from rlhf_envs.files import to_json

from ...training.fields import Part, option
from ..options import argument, fail
from ..tables import status_parts
from .common import Kind, StoreConfig, open_store

if TYPE_CHECKING:
    from rlhf_envs.feedback import FeedbackStore, Judgement
    from rlhf_envs.feedback.forecasts import Forecast

__all__ = ["ExportConfig", "ForecastConfig", "StatusConfig", "export", "forecast", "status"]


class StatusConfig(StoreConfig):
    """Hold the flags of `rlhf feedback status`."""

    version: int | None = option(
        None, "Version of the project's own questions whose answers count. The newest by default.", ge=1
    )

    output: str | None = option(None, "JSON file to write the metrics to.", "-o", "--output")


def status(config: StatusConfig) -> None:
    """Show progress, agreement (Krippendorff's alpha), every annotator's work and who seems to click at random."""
    with open_store(config.store) as store:
        summary = web.summarise(store, version=config.version)
        suspects = find_suspects(store.judgements())
    if config.output is not None:
        found = None if suspects is None else {name: asdict(check) for name, check in suspects.items()}
        metrics = summary.model_dump(mode="json") | {"clickers": found}
        Path(config.output).write_text(to_json(metrics, indent=2) + "\n", encoding="utf-8")
    console = Console()
    for part in status_parts(summary):
        console.print(part, crop=False)


class ExportConfig(StoreConfig):
    """Hold the flags of `rlhf feedback export`."""

    file: str = argument(
        "File to write: .jsonl, for Argilla and Label Studio .csv, for tasks of Label Studio .json; .gz too. - writes "
        "to standard output."
    )
    format: ExportFormat = option(
        "preference", "Format: preference, kto, ratings, sft, items (everything), argilla, label-studio, potato."
    )
    how: Literal["each", "majority", "soft", "adjudicated", "dawid_skene"] = option(
        "each",
        "Preferences and ratings: one row per judgement (each) or per item (majority, soft). adjudicated: majority, "
        "and the final answer where an item has one, also in kto and sft. dawid_skene: soft, with annotators weighed "
        "by their reliability; preferences only.",
    )
    without_spammers: bool = option(
        False, "Preferences: leave out annotators who seem to click at random (see status)."
    )
    kind: Kind | None = option(None, "Only items of this kind.")
    conversational: bool | None = option(
        None,
        "Messages, or strings, in TRL's formats. Messages by default if all that was judged is conversations.",
        "--conversational/--no-conversational",
    )
    min_judgements: int = option(1, "Leave out what fewer have judged.", ge=1)
    strength_margin: float = option(0.0, "Margin for every step of strength above the first.", ge=0)
    criterion: str | None = option(
        None, "One of the project's own questions, whose answers are exported as preference, ratings or kto."
    )
    version: int | None = option(None, "Version of the questions whose meaning counts. The newest by default.", ge=1)
    card: bool = option(
        False, "Write a dataset card too: README.md beside the file, unless there is one of yours.", "--card/--no-card"
    )


def export(config: ExportConfig) -> None:
    """Write what people said to a file, and say what was left out and why.

    Texts stand in a .csv as they are: a spreadsheet takes one that begins with =, +, - or @ for a formula, so import
    its columns as text.
    """
    if config.format != "preference" and (config.how == "dawid_skene" or config.without_spammers):
        which = "--how dawid_skene" if config.how == "dawid_skene" else "--without-spammers"
        fail(f"{which} is for --format preference, where annotators are compared; not {config.format}")
    if config.version is not None and config.criterion is None:
        fail("--version is for the project's own questions: give --criterion too")
    piped = config.file == "-"
    if config.card and piped:
        fail("--card writes a README.md beside the file: give a file, not -")
    with open_store(config.store) as store:
        given = config.model_dump(exclude={"store", "file", "without_spammers", "card"})
        if config.how == "dawid_skene":
            given |= {"how": "soft", "aggregate": preferences.dawid_skene_shares}
        spammers = find_suspects(_compared(store, config)) if config.without_spammers else {}
        with TemporaryDirectory() as folder:
            table = config.format in ("argilla", "label-studio")
            path = Path(folder, "rows.csv" if table else "rows.jsonl") if piped else Path(config.file)
            done = export_file(store, path, without=spammers or (), **given)
            if piped:
                sys.stdout.buffer.write(path.read_bytes())
        card = dataset_card(done, path, config.format, config.how, store.judgements()) if config.card else None
    echo: Callable[[str], None] = partial(typer.echo, err=piped)  # standard output has the rows
    echo(f"{config.file}: {len(done.rows)} rows")
    if config.format == "label-studio" and not piped and labeling_interface(config.file).is_file():
        xml = labeling_interface(config.file)
        echo(f"{xml}: the labeling interface; give it to the project (Settings, Labeling Interface, Code), then import")
    if config.without_spammers:
        who = f"that {CANNOT_TELL}" if spammers is None else ", ".join(spammers) or "nobody"
        echo(f"who seems to click at random: {who}")
    _echo_export(done, config, echo)
    if card is not None and (written := write_card(Path(config.file).parent, card, "dataset")) is not None:
        echo(f"{written}: the dataset card; it states no licence, which is yours to say")


def _echo_export(done: Export, config: ExportConfig, echo: Callable[[str], None]) -> None:
    """Say what an export has written in another form than it was said, and what it left out."""
    if done.doubled:
        echo(f"written twice, once each way round, since TRL reads no probability: {done.doubled} ties")
    if lines := sum(is_role_lines(row.get("prompt")) for row in done.rows):
        mixed = ", for other prompts are strings" if config.conversational is None else ""
        echo(
            f"conversations in role lines: {lines} of {len(done.rows)} rows{mixed}; a model with a chat template needs "
            "messages: --conversational"
        )
    elif config.conversational is None and (n := sum(isinstance(row.get("prompt"), list) for row in done.rows)):
        echo(f"conversations as messages: {n} rows; --no-conversational writes strings")
    if done.finals:
        taken = "are taken" if config.how == "adjudicated" else "are not taken: --how adjudicated takes them"
        echo(f"final answers: {done.finals} {taken}")
    if done.fixed:
        echo(f"changed by an admin: {done.fixed} judgements; `rlhf feedback audit` shows what they were")
    for reason, n in sorted(done.dropped.items()):
        echo(f"left out: {n} {reason}")


def _compared(store: FeedbackStore, config: ExportConfig) -> Sequence[Judgement]:
    """Return the judgements by which spammers are found."""
    if config.criterion is None:
        return store.judgements()
    found = read_criterion(store, config.criterion, "pairs", config.version)
    return found.judgements


class ForecastConfig(StoreConfig):
    """Hold the flags of `rlhf feedback forecast`."""

    target: float = option(0.75, "Held-out accuracy that the reward model is to reach.", gt=0.5, lt=1)
    criterion: str | None = option(None, "Forecast of the answers to this question of the project's own.")
    model: str = option("tiny", "Backbone of the reward model.")
    train: Part = "head"
    epochs: int = option(3, "Epochs per fit.", ge=1)
    repeats: int = option(5, "Fits per size.", ge=2)
    seed: int = option(0, "Chooses the held-out pairs and the parts.", ge=0)


def forecast(config: ForecastConfig) -> None:
    """Forecast the labels, hours and money until a reward model reaches an accuracy, with an interval."""
    with open_store(config.store) as store:
        items, judgements = store.items(), store.judgements()
        if config.criterion is not None:
            read = read_criterion(store, config.criterion, "pairs")
            items, judgements = read.items, read.judgements
        summary, price = web.summarise(store), store.settings.cost
    options = config.model_dump(include={"model", "train", "epochs", "repeats", "seed"})
    with Console(stderr=True).status("") as status:
        say = lambda number, of: status.update(f"fit {number} of {of}")  # noqa: E731
        found = preferences.forecast_labels(items, judgements, config.target, on_fit=say, **options)
    _echo_forecast(found.curve, config.target)
    if not found.labels:
        return
    hours, money = summary.cost.of_labels(found.labels, summary.judgements, price)
    paid = "" if money is None else f", {money:,.2f} {price.currency}".rstrip()
    typer.echo(f"that is about {found.labels:.0f} labels more, {hours:.1f} hours at the mean time so far{paid}")


def _echo_forecast(found: Forecast, target: float) -> None:
    """Print a learning curve, and how many pairs the target needs."""
    for n, accuracy, (low, high) in zip(found.sizes, found.accuracy, found.interval, strict=True):
        typer.echo(f"{n:6} pairs: held-out accuracy {accuracy:.3f} ({low:.3f} to {high:.3f})")
    if found.needed is None:
        typer.echo(f"how many pairs {target:g} needs cannot be told: {found.why_not}")
    elif found.needed_interval is None:
        typer.echo(f"{target:g} is reached")
    else:
        low, high = found.needed_interval
        typer.echo(f"{target:g} needs about {found.needed:.0f} pairs to fit ({low:.0f} to {high:.0f}, 95% interval)")
