"""`rlhf feedback`: ask people about completions, and take what they said in and out. Imports what a verb needs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import typer
from pydantic import BaseModel, ConfigDict, Field, field_validator

from ..training.config import parse_pairs
from .options import add_command, user_errors

if TYPE_CHECKING:
    from rlhf_envs.feedback import FeedbackStore
    from rlhf_envs.feedback.formats.importing import Import

__all__ = [
    "AddConfig",
    "ExportConfig",
    "ImportConfig",
    "InviteConfig",
    "LabelConfig",
    "ServeConfig",
    "SimulateConfig",
    "StatusConfig",
    "feedback_app",
]

HELP = "Ask people about completions: put questions in, label at a web page or here, and take the answers out."
Kind = Literal["pairwise", "ranking", "rating", "thumbs", "correction", "flags"]

feedback_app = typer.Typer(help=HELP, no_args_is_help=True)


@feedback_app.callback(help=HELP)
def main() -> None:
    """Hold the verbs."""


class _StoreConfig(BaseModel):
    """What every verb has."""

    model_config = ConfigDict(extra="forbid")

    store: str = Field("feedback.db", description="SQLite file, or postgresql://user@host/name.")


class AddConfig(_StoreConfig):
    """The configuration of `rlhf feedback add`."""

    source: str = Field(
        description="File of prompts and completions; or what completes the environment's prompts: a run folder, a "
        "bundle, or a model's name or folder.",
        json_schema_extra={"argument": True},
    )
    kind: Kind | None = Field(
        None,
        description="What to ask. By default the file says, or the number of completions: rating, pairwise, ranking.",
    )
    overlap: int = Field(1, ge=1, description="Judgements an item wants, each of another annotator.")
    gold: bool = Field(False, description="The file's judgements are the expected answers of gold questions.")
    env: str | None = Field(None, description="Environment whose prompts are completed. The run's own, or Sentiment.")
    n_prompts: int = Field(
        64, ge=1, description="Prompts to complete.", json_schema_extra={"flags": ["-n", "--n-prompts"]}
    )
    n_completions: int = Field(2, ge=1, description="Completions a prompt.")
    against: str | None = Field(None, description="Second model: every other completion is its.")
    split: str = Field("train", description="Split of the task's data.")
    seed: int = Field(0, ge=0, description="Chooses the prompts and seeds the sampling.")
    env_kwargs: dict[str, Any] = Field({}, description="Arguments of the environment; repeat the flag.")

    @field_validator("env_kwargs", mode="before")
    @classmethod
    def _pairs(cls, value: Any) -> Any:
        return parse_pairs(value)


@add_command(feedback_app, AddConfig, "add")
def add(config: AddConfig) -> None:
    """Put questions into the store: from a file, or completions that a model writes now.

    A file has rows {prompt, completions} or {prompt, completion}, or any format that `rlhf feedback import` reads.
    """
    with user_errors():
        if Path(config.source).is_file():
            with _open(config.store, create=True) as store:
                from rlhf_envs.feedback.formats.importing import import_file

                done = import_file(
                    store, config.source, kind=config.kind, overlap=config.overlap, gold=config.gold, annotator="import"
                )
            _report_import(done)
            return
        if config.gold:
            raise ValueError("--gold: the expected answers come from a file; there is none of that name")
        from ..evaluation.items import generate_items

        items, same = generate_items(
            config.source,
            config.env,
            n_prompts=config.n_prompts,
            n_completions=config.n_completions,
            kind=config.kind,
            overlap=config.overlap,
            against=config.against,
            split=config.split,
            seed=config.seed,
            env_kwargs=config.env_kwargs,
        )
        with _open(config.store, create=True) as store:
            store.add_items(items)
    left_out = f"; {same} prompts left out, whose completions are all the same" if same else ""
    typer.echo(f"{config.store}: {len(items)} questions added{left_out}")


class ServeConfig(_StoreConfig):
    """The configuration of `rlhf feedback serve`."""

    host: str = Field("127.0.0.1", description="Address to listen on; 0.0.0.0 for other machines and phones.")
    port: int = Field(8000, ge=0, le=65535, description="Port to listen on; 0 takes a free one.")
    secure_cookies: bool = Field(False, description="Send cookies over HTTPS only: set it behind a TLS proxy.")


@add_command(feedback_app, ServeConfig, "serve")
def serve(config: ServeConfig) -> None:
    """Serve the annotation page until Ctrl-C. At the first start it prints the link that makes the admin's account."""
    with user_errors():
        from rlhf_envs.feedback.web import serve as run

        run(config.store, config.host, config.port, secure_cookies=config.secure_cookies)


class LabelConfig(_StoreConfig):
    """The configuration of `rlhf feedback label`."""

    name: str | None = Field(None, description="Who judges, annotator or admin. The user's name by default.")
    limit: int | None = Field(None, ge=1, description="The most answers.")


@add_command(feedback_app, LabelConfig, "label")
def label(config: LabelConfig) -> None:
    """Judge here, in the terminal, a key an answer. Corrections open in $EDITOR."""
    import getpass

    with user_errors():
        from rlhf_envs.feedback.terminal.label import label as run

        with _open(config.store) as store:
            run(store, config.name or getpass.getuser(), limit=config.limit)


class SimulateConfig(_StoreConfig):
    """The configuration of `rlhf feedback simulate`."""

    scorer: str = Field("gold", description="Reward that says what is better: a name, module:attribute, or a folder.")
    n_annotators: int = Field(
        10, ge=1, description="Annotators.", json_schema_extra={"flags": ["-n", "--n-annotators"]}
    )
    random_share: float = Field(0.1, ge=0, le=1, description="Share of them that click at random, rounded.")
    temperature: float = Field(
        1.0, ge=0, description="Noise: the better one is chosen with sigmoid(difference / temperature)."
    )
    bias: float = Field(0.0, description="Added to the score of the completion shown first.")
    length_bias: float = Field(0.0, description="Added to a score for every 100 characters.")
    tie_margin: float = Field(0.0, ge=0, description="Scores that differ by less are a tie.")
    skip_rate: float = Field(0.0, ge=0, le=1, description="Share of tasks that are skipped.")
    name: str = Field("simulated", description="They are called <name>-1, <name>-2, ...")
    limit: int | None = Field(None, ge=1, description="The most answers.")
    seed: int = Field(0, ge=0, description="Seeds them.")


@add_command(feedback_app, SimulateConfig, "simulate")
def simulate(config: SimulateConfig) -> None:
    """Let simulated annotators, who judge by a reward, answer what is open."""
    with user_errors():
        from rlhf_envs.feedback.simulated import annotate, simulated_crowd
        from rlhf_envs.rewards.registry import get_reward

        reward = get_reward(config.scorer)
        with _open(config.store) as store:
            settings = config.model_dump(exclude={"store", "scorer", "n_annotators", "limit"})
            single = [item for item in store.items() if item.kind in ("rating", "thumbs")]
            if single:  # ratings are spread over the scale by what there is to rate
                settings["reference"] = list(reward([i.prompt for i in single], [i.completions[0] for i in single]))
            crowd = simulated_crowd(
                reward, config.n_annotators, scale=store.settings.scale, harms=store.settings.harms, **settings
            )
            done = annotate(store, crowd, config.limit)
            progress = store.progress()
    clickers = [annotator.name for annotator in crowd if annotator.clicks_at_random]
    typer.echo(f"{done} answers, {progress.finished} of {progress.items} items are done")
    typer.echo(f"who clicks at random: {', '.join(clickers) or 'nobody'}")


class ImportConfig(_StoreConfig):
    """The configuration of `rlhf feedback import`."""

    file: str = Field(description="File to read (jsonl, json, csv; .gz too).", json_schema_extra={"argument": True})
    format: Literal["auto", "items", "preference", "kto", "ratings", "argilla", "label-studio"] = Field(
        "auto", description="Format: auto, items, preference, kto, ratings, argilla, label-studio."
    )
    kind: Kind | None = Field(None, description="What to ask about rows without judgements.")
    annotator: str = Field("import", description="Who judged, where a row does not say.")
    overlap: int = Field(1, ge=1, description="Judgements an item wants, where it does not say.")
    column: list[str] = Field([], description="A column with another name, ours:theirs; repeat the flag.")
    quarantine: str | None = Field(None, description="File for bad rows. <file>.quarantine.jsonl by default.")


@add_command(feedback_app, ImportConfig, "import")
def import_(config: ImportConfig) -> None:
    """Take in questions and judgements: TRL's formats, ours, and the CSV of Argilla and Label Studio.

    Rows that cannot be used, duplicates and contradictions go to the quarantine file, with their line and the reason.
    """
    with user_errors():
        columns = {}
        for pair in config.column:
            ours, colon, theirs = pair.partition(":")
            if not colon or not ours or not theirs:
                raise ValueError(f"--column {pair!r}: write ours:theirs, such as prompt:instruction")
            columns[ours] = theirs
        with _open(config.store, create=True) as store:
            from rlhf_envs.feedback.formats.importing import import_file

            settings = config.model_dump(exclude={"store", "file", "column"})
            done = import_file(store, config.file, columns=columns, **settings)
    _report_import(done)


class ExportConfig(_StoreConfig):
    """The configuration of `rlhf feedback export`."""

    file: str = Field(
        description="File to write: .jsonl, for Argilla and Label Studio .csv; .gz too.",
        json_schema_extra={"argument": True},
    )
    format: Literal["preference", "kto", "ratings", "sft", "items", "argilla", "label-studio"] = Field(
        "preference", description="Format: preference, kto, ratings, sft, items (everything), argilla, label-studio."
    )
    how: Literal["each", "majority", "soft", "dawid_skene"] = Field(
        "each",
        description="Preferences and ratings: a row a judgement (each), or one an item (majority, soft). dawid_skene: "
        "soft, with annotators weighed by their reliability; of preferences.",
    )
    without_spammers: bool = Field(
        False, description="Preferences: leave out annotators who seem to click at random (see status)."
    )
    kind: Kind | None = Field(None, description="Only items of this kind.")
    conversational: bool = Field(False, description="Messages instead of strings, in TRL's formats.")
    min_judgements: int = Field(1, ge=1, description="Leave out what fewer have judged.")
    strength_margin: float = Field(0.0, ge=0, description="Margin for every step of strength above the first.")


@add_command(feedback_app, ExportConfig, "export")
def export(config: ExportConfig) -> None:
    """Write what people said to a file, and say what was left out and why.

    Texts stand in a .csv as they are: a spreadsheet takes one that begins with =, +, - or @ for a formula, so import
    its columns as text.
    """
    with user_errors():
        from rlhf_envs.feedback.formats.exporting import export_file
        from rlhf_envs.preferences.crowd import CANNOT_TELL, dawid_skene_shares, find_pair_spammers

        if config.format != "preference" and (config.how == "dawid_skene" or config.without_spammers):
            which = "--how dawid_skene" if config.how == "dawid_skene" else "--without-spammers"
            raise ValueError(f"{which} is for --format preference, where annotators are compared; not {config.format}")
        given = config.model_dump(exclude={"store", "file", "without_spammers"})
        if config.how == "dawid_skene":
            given |= {"how": "soft", "aggregate": dawid_skene_shares}
        with _open(config.store) as store:
            clickers = find_pair_spammers(store.items(), store.judgements()) if config.without_spammers else {}
            done = export_file(store, config.file, without=clickers or (), **given)
    typer.echo(f"{config.file}: {len(done.rows)} rows")
    if config.without_spammers:
        who = f"that {CANNOT_TELL}" if clickers is None else ", ".join(clickers) or "nobody"
        typer.echo(f"who seems to click at random: {who}")
    for reason, n in sorted(done.dropped.items()):
        typer.echo(f"left out: {n} {reason}")


class StatusConfig(_StoreConfig):
    """The configuration of `rlhf feedback status`."""

    output: str | None = Field(
        None, description="JSON file to write the figures to.", json_schema_extra={"flags": ["-o", "--output"]}
    )


@add_command(feedback_app, StatusConfig, "status")
def status(config: StatusConfig) -> None:
    """Show progress, agreement (Krippendorff's alpha), every annotator's work and who seems to click at random."""
    from rich.console import Console

    with user_errors():
        with _open(config.store) as store:  # first: it says what to install
            from rlhf_envs.feedback.web.summary import summarise
            from rlhf_envs.preferences.crowd import suspected_spammers

            from .tables import status_tables

            summary = summarise(store)
            clickers = suspected_spammers(store.items(), store.judgements())
        if config.output is not None:
            found = None if clickers is None else {name: figures._asdict() for name, figures in clickers.items()}
            figures = summary.model_dump(mode="json") | {"clickers": found}
            Path(config.output).write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    console = Console()
    for part in status_tables(summary, clickers):
        console.print(part)


class InviteConfig(_StoreConfig):
    """The configuration of `rlhf feedback invite`."""

    role: Literal["annotator", "admin"] = Field("annotator", description="annotator or admin.")
    n: int = Field(1, ge=1, description="Invitations.", json_schema_extra={"flags": ["-n", "--number"]})
    url: str = Field("http://localhost:8000", description="Where the annotation page is served.")


@add_command(feedback_app, InviteConfig, "invite")
def invite(config: InviteConfig) -> None:
    """Print links with which people make an account, each once, within 7 days."""
    with user_errors(), _open(config.store, create=True) as store:
        for _ in range(config.n):
            typer.echo(f"{config.url.rstrip('/')}/invite/{store.invite(config.role)}")


def _open(url: str, create: bool = False) -> FeedbackStore:
    """The store; one that is to be read must be there."""
    from rlhf_envs.feedback import FeedbackStore

    if not create and "://" not in url and not Path(url).is_file():
        raise ValueError(f"--store {url}: there is no such file; `rlhf feedback add` makes one")
    return FeedbackStore(url)


def _report_import(done: Import) -> None:
    typer.echo(f"{done.format}, {done.rows} rows: {done.items} new items, {done.judgements} new judgements")
    if done.settings:
        typer.echo(f"the store took the file's {', '.join(done.settings)}")
    reasons: Sequence[str] = [row.reason for row in done.bad]
    if reasons:
        duplicates = sum(reason.startswith("duplicate") for reason in reasons)
        contradictions = sum(reason.startswith("contradiction") for reason in reasons)
        which = f"{duplicates} duplicates, {contradictions} contradictions"
        typer.echo(f"not taken: {len(reasons)} rows or judgements ({which}), see {done.quarantine}")
        first = done.bad[0]
        typer.echo(f"the first: {first.where}: {first.reason}")
