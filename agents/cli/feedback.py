"""Run the commands `rlhf feedback ...`: ask people about completions, and import and export what they said.

The extra `web` (SQLAlchemy and others) is imported only when a verb needs it.
"""

from __future__ import annotations

import base64
import getpass
import json
import re
import secrets
import sys
from collections import Counter
from dataclasses import asdict
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Literal

import typer
from pydantic import Field
from rich.console import Console

from rlhf_envs import feedback, preferences
from rlhf_envs.datasets.messages import answer_to, is_role_lines, kept_prompt
from rlhf_envs.feedback import web
from rlhf_envs.feedback.web.store_names import name_stores
from rlhf_envs.rewards import get_reward

from ..training.config import Pairs, option
from ..training.data_flags import ChatFlags, ChatOptions
from .options import Flags, add_command, argument, fail
from .tables import status_parts

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rlhf_envs.feedback import FeedbackStore, Judgement

__all__ = ["feedback_app"]

HELP = "Ask people about completions: put questions in, label at a web page or here, and take the answers out."
Kind = Literal["pairwise", "ranking", "rating", "thumbs", "correction", "flags", "questions"]

feedback_app = typer.Typer(help=HELP, no_args_is_help=True)


class _StoreConfig(Flags):
    """Hold the flag that every verb has."""

    store: str = option("feedback.db", "SQLite file, or postgresql://user@host/name.")


class AddConfig(ChatFlags, _StoreConfig):
    """Hold the flags of `rlhf feedback add`."""

    source: str = argument(
        "File of prompts and completions; or what completes the environment's prompts: a run folder, a bundle, or a "
        "model's name or folder."
    )
    kind: Kind | None = option(
        None, "What to ask. By default the file says, or the number of completions: rating, pairwise, ranking."
    )
    overlap: int = option(1, "Judgements per item, each by another annotator.", ge=1)
    gold: bool = option(False, "The file's judgements are the expected answers of gold questions.")
    env: str | None = option(None, "Environment whose prompts are completed. The run's own, or Sentiment.")
    n_prompts: int = option(64, "Prompts to complete.", "-n", "--n-prompts", ge=1)
    n_completions: int = option(2, "Completions per prompt.", ge=1)
    against: str | None = option(None, "Second model, which writes every other completion.")
    split: str = option("train", "Split of the task's data.")
    seed: int = option(0, "Chooses the prompts and seeds the sampling.", ge=0)
    env_kwargs: Pairs = option({}, "Arguments of the environment; repeat the flag.")


@add_command(feedback_app, AddConfig, "add")
def add(config: AddConfig) -> None:
    """Put questions into the store: from a file, or completions that a model writes now.

    A file has rows {prompt, completions} or {prompt, completion}, or any format that `rlhf feedback import` reads.
    """
    if Path(config.source).is_file():
        if config.env_kwargs:
            fail(
                f"{config.source} has its prompts: --env-kwargs, --chat and the like are for prompts of an environment"
            )
        settings = config.model_dump(include={"kind", "overlap", "gold"})
        _import_file(config.store, config.source, annotator="import", **settings)
        return
    if config.gold:
        fail("--gold: the expected answers come from a file; there is none of that name")
    from ..evaluation.items import generate_items

    items, same = generate_items(**config.model_dump(exclude={"store", "gold", *ChatOptions.model_fields}))
    with _open(config.store, create=True) as store:
        store.add_items(items)
    left_out = f"; {same} prompts left out, whose completions are all the same" if same else ""
    typer.echo(f"{config.store}: {len(items)} questions added{left_out}")


class ServeConfig(Flags):
    """Hold the flags of `rlhf feedback serve`."""

    store: list[str] = option(
        ["feedback.db"],
        "SQLite file, or postgresql://user@host/name. Several projects: NAME=STORE, and repeat the flag.",
    )

    host: str = option("127.0.0.1", "Address to listen on; 0.0.0.0 for other machines and phones.")
    port: int = option(8000, "Port to listen on; 0 takes a free one.", ge=0, le=65535)
    url: str | None = option(
        None, "Address under which people reach the page, for invitations: https://label.example.org"
    )
    proxy: list[str] = option([], "Address or network of a proxy in front of the page, whose X-Forwarded-For counts.")
    secure_cookies: bool = option(False, "Send cookies over HTTPS only. On by itself with --url https://...")


@add_command(feedback_app, ServeConfig, "serve")
def serve(config: ServeConfig) -> None:
    """Serve the annotation page until Ctrl-C. At the first start it prints the link that makes the admin's account."""
    try:
        stores = name_stores(config.store)
    except ValueError as error:
        fail(str(error))
    web.serve(
        stores,
        config.host,
        config.port,
        url=config.url,
        proxies=config.proxy,
        secure_cookies=config.secure_cookies,
        analyse=preferences.crowd_figures,
    )


class LabelConfig(_StoreConfig):
    """Hold the flags of `rlhf feedback label`."""

    name: str | None = option(None, "Who judges, annotator or admin. The user's name by default.")
    limit: int | None = option(None, "The most answers.", ge=1)


@add_command(feedback_app, LabelConfig, "label")
def label(config: LabelConfig) -> None:
    """Judge here, in the terminal, with one key per answer. Corrections open in $EDITOR."""
    with _open(config.store) as store:
        from rlhf_envs.feedback.terminal.label import label as run

        run(store, config.name or getpass.getuser(), limit=config.limit)


class SimulateConfig(_StoreConfig):
    """Hold the flags of `rlhf feedback simulate`."""

    scorer: str = option("gold", "Reward that says what is better: a name, module:attribute, or a folder.")
    n_annotators: int = option(10, "Annotators.", "-n", "--n-annotators", ge=1)
    random_share: float = option(0.1, "Share of them that click at random, rounded.", ge=0, le=1)
    by: list[str] = option([], "Reward that answers one of the project's questions, NAME:REWARD; repeat the flag.")
    temperature: float = option(1.0, "Noise: the better one is chosen with sigmoid(difference / temperature).", ge=0)
    bias: float = option(0.0, "Added to the score of the completion shown first.")
    length_bias: float = option(0.0, "Added to a score for every 100 characters.")
    tie_margin: float = option(0.0, "Scores that differ by less are a tie.", ge=0)
    skip_rate: float = option(0.0, "Share of tasks that are skipped.", ge=0, le=1)
    name: str = option("simulated", "They are called <name>-1, <name>-2, ...")
    limit: int | None = option(None, "The most answers.", ge=1)
    seed: int = option(0, "Seeds them.", ge=0)
    yes: bool = option(False, "Put simulated answers among those of people, too.", "--yes", "-y")


@add_command(feedback_app, SimulateConfig, "simulate")
def simulate(config: SimulateConfig) -> None:
    """Let simulated annotators, who judge by a reward, answer what is open."""
    reward = get_reward(config.scorer)
    with _open(config.store) as store:
        from rlhf_envs.feedback.simulated import annotate, simulated_crowd

        _check_nobody_labelled(store, config)
        settings = config.model_dump(exclude={"store", "scorer", "n_annotators", "limit", "by", "yes"})
        settings["scorers"] = _scorers(config.by, [question.name for question in store.settings.questions])
        items = store.items()
        if rated := [item for item in items if item.kind in ("rating", "thumbs")]:
            settings["reference"] = _scores(reward, rated)  # they spread the ratings over the scale
        settings["references"] = {
            question.name: _scores(settings["scorers"].get(question.name, reward), asked)
            for question in store.settings.questions
            if question.type == "rating"
            and (asked := [item for item in items if not question.kinds or item.kind in question.kinds])
        }
        crowd = simulated_crowd(
            reward, config.n_annotators, scale=store.settings.scale, harms=store.settings.harms, **settings
        )
        done = annotate(store, crowd, config.limit)
        progress = store.progress()
    spammers = [annotator.name for annotator in crowd if annotator.clicks_at_random]
    typer.echo(f"{done} answers, {progress.finished} of {progress.items} items are done")
    typer.echo(f"who clicks at random: {', '.join(spammers) or 'nobody'}")


def _check_nobody_labelled(store: FeedbackStore, config: SimulateConfig) -> None:
    """Fail if anyone but these simulated annotators has answered, since answers of both would stand together."""
    simulated = re.compile(rf"{re.escape(config.name)}-\d+")
    given = Counter(j.annotator for j in store.judgements(include_skips=True) if not simulated.fullmatch(j.annotator))
    if given and not config.yes:
        who = ", ".join(sorted(given)[:3]) + (" and others" if len(given) > 3 else "")
        fail(
            f"{config.store} has {given.total()} answers by {who}: simulated ones would stand among them. Simulate in "
            "another store (--store), or give --yes"
        )


def _scores(reward: Any, items: list[Any]) -> list[float]:
    """Return the scores of all completions of some items."""
    prompts = [kept_prompt(item.prompt, item.meta) for item in items for _ in item.completions]
    texts = [text for item in items for text in item.completions]
    return [float(score) for score in reward(prompts, [answer_to(*both) for both in zip(prompts, texts, strict=True)])]


def _scorers(pairs: list[str], questions: list[str]) -> dict[str, Any]:
    """Return the rewards in NAME:REWARD by the names of the questions."""
    scorers = {}
    for pair in pairs:
        name, colon, reward = pair.partition(":")
        if not colon or name not in questions:
            fail(f"--by {pair!r}: write NAME:REWARD; the project's questions are {', '.join(questions) or 'none'}")
        scorers[name] = get_reward(reward)
    return scorers


class ImportConfig(_StoreConfig):
    """Hold the flags of `rlhf feedback import`."""

    file: str = argument("File to read (jsonl, json, csv, tsv; .gz too).")
    format: Literal[
        "auto", "items", "preference", "kto", "ratings", "argilla", "label-studio", "shp", "ultrafeedback", "oasst"
    ] = option("auto", "Format. auto tells it by the columns.")
    kind: Kind | None = option(None, "What to ask about rows without judgements, or what --question asked.")
    question: str | None = option(None, "Question of Argilla's records to read, where they answer several.")
    annotator: str = option("import", "Who judged, where a row does not say.")
    overlap: int = option(1, "Judgements per item, where it does not say.", ge=1)
    column: list[str] = option([], "A column with another name, ours:theirs; repeat the flag.")
    quarantine: str | None = option(None, "File for bad rows. <file>.quarantine.jsonl by default.")


@add_command(feedback_app, ImportConfig, "import")
def import_(config: ImportConfig) -> None:
    """Take in questions and judgements: TRL's formats, ours, Argilla's, Label Studio's and published datasets'.

    Rows that cannot be used, duplicates and contradictions go to the quarantine file, with their line and the reason.
    """
    columns = {}
    for pair in config.column:
        ours, colon, theirs = pair.partition(":")
        if not colon or not ours or not theirs:
            fail(f"--column {pair!r}: write ours:theirs, such as prompt:instruction")
        columns[ours] = theirs
    settings = config.model_dump(exclude={"store", "file", "column"})
    _import_file(config.store, config.file, columns=columns, **settings)


def _import_file(url: str, file: str, **settings: Any) -> None:
    """Import a file into a store, and print what came of it."""
    with _open(url, create=True) as store:
        from rlhf_envs.feedback.formats.importing import import_file

        done = import_file(store, file, **settings)
    kinds = ", ".join(f"{n} {kind}" for kind, n in done.kinds.items())
    which = f" ({kinds})" if len(done.kinds) > 1 else ""
    typer.echo(f"{done.format}, {done.rows} rows: {done.items} new items{which}, {done.judgements} new judgements")
    if done.settings:
        typer.echo(f"the store took the file's {', '.join(done.settings)}")
    if done.bad:
        words = ("duplicate", "contradiction")
        which = ", ".join(f"{sum(row.reason.startswith(word) for row in done.bad)} {word}s" for word in words)
        typer.echo(f"not taken: {len(done.bad)} rows or judgements ({which}), see {done.quarantine}")
        typer.echo(f"the first: {done.bad[0].where}: {done.bad[0].reason}")


class ExportConfig(_StoreConfig):
    """Hold the flags of `rlhf feedback export`."""

    file: str = argument(
        "File to write: .jsonl, for Argilla and Label Studio .csv, for tasks of Label Studio .json; .gz too. - writes "
        "to standard output."
    )
    format: Literal["preference", "kto", "ratings", "sft", "items", "argilla", "label-studio"] = option(
        "preference", "Format: preference, kto, ratings, sft, items (everything), argilla, label-studio."
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


@add_command(feedback_app, ExportConfig, "export")
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
    with _open(config.store) as store:
        from rlhf_envs.feedback.formats.exporting import export_file, labeling_interface
        from rlhf_envs.feedback.quality import CANNOT_TELL, find_suspects

        given = config.model_dump(exclude={"store", "file", "without_spammers"})
        if config.how == "dawid_skene":
            given |= {"how": "soft", "aggregate": preferences.dawid_skene_shares}
        spammers = find_suspects(_compared(store, config)) if config.without_spammers else {}
        with TemporaryDirectory() as folder:
            table = config.format in ("argilla", "label-studio")
            path = Path(folder, "rows.csv" if table else "rows.jsonl") if piped else Path(config.file)
            done = export_file(store, path, without=spammers or (), **given)
            if piped:
                sys.stdout.buffer.write(path.read_bytes())
    echo = partial(typer.echo, err=piped)  # standard output has the rows
    echo(f"{config.file}: {len(done.rows)} rows")
    if config.format == "label-studio" and not piped and labeling_interface(config.file).is_file():
        xml = labeling_interface(config.file)
        echo(f"{xml}: the labeling interface; give it to the project (Settings, Labeling Interface, Code), then import")
    if config.without_spammers:
        who = f"that {CANNOT_TELL}" if spammers is None else ", ".join(spammers) or "nobody"
        echo(f"who seems to click at random: {who}")
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
    from rlhf_envs.feedback.criteria import read_criterion

    found = read_criterion(store, config.criterion, "pairs", config.version)
    return found.judgements


class StatusConfig(_StoreConfig):
    """Hold the flags of `rlhf feedback status`."""

    version: int | None = option(
        None, "Version of the project's own questions whose answers count. The newest by default.", ge=1
    )

    output: str | None = option(None, "JSON file to write the metrics to.", "-o", "--output")


@add_command(feedback_app, StatusConfig, "status")
def status(config: StatusConfig) -> None:
    """Show progress, agreement (Krippendorff's alpha), every annotator's work and who seems to click at random."""
    with _open(config.store) as store:
        from rlhf_envs.feedback.quality import find_suspects

        summary = web.summarise(store, version=config.version)
        suspects = find_suspects(store.judgements())
    if config.output is not None:
        found = None if suspects is None else {name: asdict(check) for name, check in suspects.items()}
        metrics = summary.model_dump(mode="json") | {"clickers": found}
        Path(config.output).write_text(json.dumps(metrics, indent=2) + "\n", encoding="utf-8")
    console = Console()
    for part in status_parts(summary):
        console.print(part)


class SettingsConfig(_StoreConfig):
    """Hold the flags of `rlhf feedback settings`."""

    file: str | None = Field(
        None,
        description="TOML file to take the settings from. Without one the present settings are printed.",
        json_schema_extra={"argument": True},
    )


@add_command(feedback_app, SettingsConfig, "settings")
def settings(config: SettingsConfig) -> None:
    """Change the project's settings as a TOML file says, or print them as such a file.

    Settings that the file does not have stay as they are. If anything in it is wrong, nothing changes.
    """
    from rlhf_envs.feedback.settings_file import describe_changes, read_settings_file, settings_as_toml

    if config.file is None:
        if _is_missing(config.store) and config.store == SettingsConfig.model_fields["store"].default:
            typer.echo(f"there is no {config.store} yet; these are the defaults", err=True)
            typer.echo(settings_as_toml(feedback.Settings()), nl=False)
            return
        with _open(config.store) as store:
            typer.echo(settings_as_toml(store.settings), nl=False)
        return
    if not Path(config.file).exists():
        fail(f"there is no file {config.file}; `rlhf feedback settings > {config.file}` writes one to begin with")
    changes = read_settings_file(config.file)
    with _open(config.store, create=True) as store:
        before = store.settings
        after = store.update_settings(**changes)
        remarks = web.remark_on_settings(store)
    for line in describe_changes(before, after) or ["nothing has changed"]:
        typer.echo(f"{config.store}: {line}")
    for line in remarks:
        typer.echo(f"note: {line}")


class InviteConfig(_StoreConfig):
    """Hold the flags of `rlhf feedback invite`."""

    role: Literal["annotator", "admin"] = option("annotator", "annotator or admin.")
    n: int = option(1, "Invitations.", "-n", "--number", ge=1)
    url: str | None = option(None, "Where people reach the page. The address at which it was served last by default.")


@add_command(feedback_app, InviteConfig, "invite")
def invite(config: InviteConfig) -> None:
    """Print links with which people make an account, each once, within 7 days."""
    with _open(config.store, create=True) as store:
        address = _page_address(store, config.url)
        for _ in range(config.n):
            typer.echo(f"{address}/invite/{store.invite(config.role)}")


class AccountConfig(_StoreConfig):
    """Hold the flags of `rlhf feedback account`."""

    name: str = argument("Whose account.")
    action: Literal["reset", "off", "on", "admit", "withdraw"] = argument(
        "reset its password; switch it off, or on again; admit who failed the training; withdraw all its labels."
    )
    yes: bool = option(False, "Withdraw without asking again.")
    url: str | None = option(None, "Where people reach the page. The address at which it was served last by default.")


@add_command(feedback_app, AccountConfig, "account")
def account(config: AccountConfig) -> None:
    """Print a link that resets a password, once, within 7 days; or switch an account off or on, admit or withdraw it.

    Withdrawing takes a person's labels out of all exports and counts, and cannot be undone.
    """
    with _open(config.store) as store:
        from rlhf_envs.feedback.store.training import admit
        from rlhf_envs.feedback.store.withdrawing import withdraw_person

        actor = f"command line ({getpass.getuser()})"
        if config.action == "reset":
            typer.echo(f"{_page_address(store, config.url)}/invite/{store.invite_to_reset(config.name)}")
        elif config.action == "admit":
            admit(store, config.name, by=actor)
            typer.echo(f"{config.store}: {config.name!r} is let in without the training")
        elif config.action == "withdraw":
            if not config.yes:
                typer.confirm(f"Take out all labels of {config.name!r} and close the account for good?", abort=True)
            done = withdraw_person(store, config.name, by=actor)
            typer.echo(f"{config.store}: {done.judgements} answers and skips of {config.name!r} are out, {done.labels}")
        else:
            store.switch_account(config.name, active=config.action == "on")
            typer.echo(f"{config.store}: the account {config.name!r} is switched {config.action}")


class PanelConfig(_StoreConfig):
    """Hold the flags of `rlhf feedback panel`."""

    output: str = option("-", "CSV file to write; - is standard output.", "-o", "--output")


@add_command(feedback_app, PanelConfig, "panel")
def panel(config: PanelConfig) -> None:
    """Write who came from a panel: what the panel calls them, their account here, their state and their answers.

    That is personal data. No export has it: there people have the names of their accounts.
    """
    with _open(config.store) as store:
        from rlhf_envs.feedback.web.admin_participation import panel_csv

        table, n = panel_csv(store)
    if config.output == "-":
        sys.stdout.write(table)
    else:
        Path(config.output).write_text(table, encoding="utf-8", newline="")
        typer.echo(f"{config.output}: {n} people")


class ArchiveConfig(_StoreConfig):
    """Hold the flags of `rlhf feedback archive`."""

    file: str = argument("Zip to write.")


@add_command(feedback_app, ArchiveConfig, "archive")
def archive(config: ArchiveConfig) -> None:
    """Write everything of a project to one zip: items, all judgements, final answers, audit, annotators, settings."""
    if Path(config.file).suffix != ".zip":
        fail(f"{config.file}: give it a name that ends in .zip")
    with _open(config.store) as store:
        draft = Path(f"{config.file}.part")
        written = web.write_archive(store, draft)
        draft.replace(config.file)
    typer.echo(f"{config.file}: " + ", ".join(f"{n} rows in {name}" for name, n in written.items()))


class ForecastConfig(_StoreConfig):
    """Hold the flags of `rlhf feedback forecast`."""

    target: float = option(0.75, "Held-out accuracy that the reward model is to reach.", gt=0.5, lt=1)
    model: str = option("tiny", "Backbone of the reward model.")
    train: str = option("head", "What is trained: head, lora, all or a number of blocks.")
    epochs: int = option(3, "Epochs per fit.", ge=1)
    repeats: int = option(5, "Fits per size.", ge=2)
    seed: int = option(0, "Chooses the held-out pairs and the parts.", ge=0)


@add_command(feedback_app, ForecastConfig, "forecast")
def forecast(config: ForecastConfig) -> None:
    """Forecast the labels, hours and money until a reward model reaches an accuracy, with an interval."""
    with _open(config.store) as store:
        judgements = store.judgements()
        compared = [judgement for judgement in judgements if judgement.kind in ("pairwise", "ranking")]
        pairs = preferences.aggregate_pairs(store.items(), compared, "majority")
        cost, price = web.summarise(store).cost, store.settings.cost
    given = len(compared)
    options = config.model_dump(include={"train", "epochs", "repeats", "seed"})
    with Console(stderr=True).status("") as status:
        say = lambda number, of: status.update(f"fit {number} of {of}")  # noqa: E731
        curve = preferences.learning_curve(pairs, config.model, on_fit=say, **options)
        found = preferences.forecast(curve, config.target)
    for n, accuracy, (low, high) in zip(found.sizes, found.accuracy, found.interval, strict=True):
        typer.echo(f"{n:6} pairs: held-out accuracy {accuracy:.3f} ({low:.3f} to {high:.3f})")
    if found.needed is None:
        typer.echo(f"how many pairs {config.target:g} needs cannot be told: {found.why_not}")
        return
    if found.needed_interval is None:
        typer.echo(f"{config.target:g} is reached")
        return
    low, high = found.needed_interval
    typer.echo(f"{config.target:g} needs about {found.needed:.0f} pairs to fit ({low:.0f} to {high:.0f}, 95% interval)")
    # Of all pairs a part is held out, and a pair may have several labels.
    labels = (found.needed - found.sizes[-1]) * given / found.sizes[-1]
    hours = labels * cost.hours / max(1, len(judgements))
    money = labels * price.per_label + hours * price.per_hour
    paid = f", {money:,.2f} {price.currency}".rstrip() if money else ""
    typer.echo(f"that is about {labels:.0f} labels more, {hours:.1f} hours at the mean time so far{paid}")


class AuditConfig(_StoreConfig):
    """Hold the flags of `rlhf feedback audit`."""

    item: int | None = option(None, "Of this item only.", ge=1)
    limit: int | None = option(None, "The newest so many only.", "-n", "--limit", ge=1)


@add_command(feedback_app, AuditConfig, "audit")
def audit(config: AuditConfig) -> None:
    """Print what admins have changed, as JSON lines, the oldest first."""
    with _open(config.store) as store:
        entries = store.audit(item_id=config.item, limit=config.limit)
    for entry in reversed(entries):
        typer.echo(json.dumps({**asdict(entry), "created": entry.created.isoformat()}))


class DropConfig(_StoreConfig):
    """Hold the flags of `rlhf feedback drop`."""

    judgement: int = argument("Id of the judgement, from the admin's page or `export --format items`.")
    reason: str = option(..., "Why. The audit keeps it.")
    reopen: bool = option(True, "Ask somebody else in its place.", "--reopen/--no-reopen")
    restore: bool = option(False, "Let a judgement that was dropped stand again.")


@add_command(feedback_app, DropConfig, "drop")
def drop(config: DropConfig) -> None:
    """Drop a judgement, so that it leaves all counts and exports, or restore it. The audit keeps both."""
    with _open(config.store) as store:
        by = f"{getpass.getuser()} (command line)"
        if config.restore:
            store.restore_judgement(config.judgement, by=by, reason=config.reason)
        else:
            store.drop_judgement(config.judgement, by=by, reason=config.reason, reopen=config.reopen)
    typer.echo(f"{config.store}: judgement {config.judgement} {'stands again' if config.restore else 'is dropped'}")


@feedback_app.command("webhook-secret")
def webhook_secret() -> None:
    """Print a new secret for the settings' [webhooks], which signs what is sent."""
    typer.echo(f"whsec_{base64.b64encode(secrets.token_bytes(32)).decode()}")


def _page_address(store: FeedbackStore, given: str | None) -> str:
    """Return the address for links: the given one, else where the page was served last, else where it is by default."""
    served = given or store.served_at
    if served is None:
        typer.echo(
            "the page was not served yet: these links are for http://localhost:8000; --url changes that", err=True
        )
    return (served or "http://localhost:8000").rstrip("/")


class BackupConfig(_StoreConfig):
    """Hold the flags of `rlhf feedback backup`."""

    file: str = argument("File to write. It must not exist.")


@add_command(feedback_app, BackupConfig, "backup")
def backup(config: BackupConfig) -> None:
    """Copy the store to a file while people go on labelling. For PostgreSQL it names the command."""
    from rlhf_envs.feedback.store.backup import backup as run

    _echo_counts(config.file, run(config.store, config.file))


class RestoreConfig(_StoreConfig):
    """Hold the flags of `rlhf feedback restore`."""

    file: str = argument("File that `rlhf feedback backup` has written.")


@add_command(feedback_app, RestoreConfig, "restore")
def restore(config: RestoreConfig) -> None:
    """Make the store of a backup. End the server first, and move the old store away."""
    from rlhf_envs.feedback.store.backup import restore_backup

    _echo_counts(config.store, restore_backup(config.file, config.store))


def _echo_counts(place: str, counts: dict[str, int]) -> None:
    typer.echo(f"{place}: {', '.join(f'{n} {what}' for what, n in counts.items())}")


def _is_missing(url: str) -> bool:
    return "://" not in url and not Path(url).is_file()


def _open(url: str, create: bool = False) -> FeedbackStore:
    """Open a store. A file that is not there is an error, unless it may be created."""
    if not create and _is_missing(url):
        fail(f"--store {url}: there is no such file; `rlhf feedback add` makes one")
    return feedback.FeedbackStore(url)
