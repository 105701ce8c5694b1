"""Run `rlhf feedback add` and `rlhf feedback import`: put questions and judgements into the store."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, Literal

import typer

from rlhf_envs.feedback.formats.names import ImportFormat

from ...training.data_flags import ChatFlags, ChatOptions
from ...training.fields import Pairs, option
from ..options import argument, fail
from .common import Kind, StoreConfig, actor, open_store

__all__ = ["AddConfig", "ImportConfig", "add", "import_"]


class AddConfig(ChatFlags, StoreConfig):
    """Hold the flags of `rlhf feedback add`."""

    boxes: ClassVar[bool] = True  # it has the flags of an environment and of an agent, too

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
    from ...evaluation.items import generate_items

    items, same = generate_items(**config.model_dump(exclude={"store", "gold", *ChatOptions.model_fields}))
    with open_store(config.store, create=True) as store:
        store.add_items(items)
        store.log(actor(), "add", after={"source": config.source, "items": len(items)})
    left_out = f"; {same} prompts left out, whose completions are all the same" if same else ""
    typer.echo(f"{config.store}: {len(items)} questions added{left_out}")


class ImportConfig(StoreConfig):
    """Hold the flags of `rlhf feedback import`."""

    file: str = argument("File to read (jsonl, json, csv, tsv; .gz too).")
    format: Literal["auto", ImportFormat] = option("auto", "Format. auto tells it by the columns.")
    kind: Kind | None = option(None, "What to ask about rows without judgements, or what --question asked.")
    question: str | None = option(None, "Question of Argilla's records to read, where they answer several.")
    annotator: str = option("import", "Who judged, where a row does not say.")
    overlap: int = option(1, "Judgements per item, where it does not say.", ge=1)
    column: list[str] = option([], "A column with another name, ours:theirs; repeat the flag.")
    quarantine: str | None = option(None, "File for bad rows. <file>.quarantine.jsonl by default.")


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
    with open_store(url, create=True) as store:
        from rlhf_envs.feedback.formats.importing import import_file

        done = import_file(store, file, **settings)
        store.log(actor(), "import", after=done.in_audit(Path(file).name))
    kinds = ", ".join(f"{n} {kind}" for kind, n in done.kinds.items())
    which = f" ({kinds})" if len(done.kinds) > 1 else ""
    others = [f"{n} new {what}" for n, what in ((done.finals, "final answers"), (done.suggestions, "suggestions")) if n]
    counts = ", ".join([f"{done.items} new items{which}", f"{done.judgements} new judgements", *others])
    typer.echo(f"{done.format}, {done.rows} rows: {counts}")
    if done.settings:
        typer.echo(f"the store took the file's {', '.join(done.settings)}")
    if done.bad:
        words = ("duplicate", "contradiction")
        which = ", ".join(f"{sum(row.reason.startswith(word) for row in done.bad)} {word}s" for word in words)
        typer.echo(f"not taken: {len(done.bad)} rows or judgements ({which}), see {done.quarantine}")
        typer.echo(f"the first: {done.bad[0].where}: {done.bad[0].reason}")
