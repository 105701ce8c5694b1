"""Export what people said as rows for trainers and other tools. What is left out is counted by reason."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, get_args

from ...files import replace_file
from ..criteria import derive, find_criterion, form_for
from ..records import Adjudication, Item, Judgement
from ..settings import Settings
from .item_rows import add_fixes, item_rows
from .label_studio import label_studio_config
from .names import ExportFormat
from .table_rows import argilla_rows, label_studio_rows, label_studio_tasks, potato_rows
from .trainer_rows import HOW as VOTES
from .trainer_rows import Export, flag_rows, kto_rows, preference_rows, rating_rows, sft_rows, with_ties_both_ways
from .writing import WRITERS, without_surrogates

if TYPE_CHECKING:
    from ..store.store import FeedbackStore

__all__ = [
    "FORMATS",
    "HOW",
    "Export",
    "argilla_rows",
    "export_file",
    "flag_rows",
    "item_rows",
    "kto_rows",
    "label_studio_rows",
    "label_studio_tasks",
    "labeling_interface",
    "potato_rows",
    "preference_rows",
    "rating_rows",
    "sft_rows",
]

Row = dict[str, Any]
Aggregate = Callable[[Sequence[Item], Sequence[Judgement]], Mapping[tuple[int, str, str], float]]

HOW = (*VOTES, "adjudicated")
FORMATS: tuple[str, ...] = get_args(ExportFormat)
# These hold all answers, or count what they cannot hold themselves: our own format, and tables of other programs.
_IN_FULL = ("items", "argilla", "label-studio", "potato")
_EXTENSIONS = {"argilla": (".csv",), "label-studio": (".csv", ".json")}  # of the others: .jsonl


def export_file(
    store: FeedbackStore,
    path: str | Path,
    format: str,
    *,
    how: str = "each",
    kind: str | None = None,
    conversational: bool | None = None,
    min_judgements: int = 1,
    strength_margin: float = 0.0,
    without: Collection[str] = (),
    aggregate: Aggregate | None = None,
    criterion: str | None = None,
    version: int | None = None,
    take_finals: bool = False,
) -> Export:
    """Write what a store holds to a file: a CSV for "argilla" and "label-studio", JSON lines for the other formats.

    A .json for "label-studio" holds tasks for its import, and a file of the same name with .xml the labeling interface
    that shows them.

    Texts are written to a CSV unchanged. To a spreadsheet, a text that begins with "=", "+", "-" or "@" is a formula,
    and texts by models are not to be trusted: import the columns of such a file as text. (A quote before each text
    would come back as part of it.)

    Args:
        store: the store to read.
        path: ends in .jsonl; for "argilla" in .csv, for "label-studio" in .csv or .json. With .gz too it is compressed.
        format: one of `FORMATS`. The functions of this module describe them.
        how: see `preference_rows` and `rating_rows`. "adjudicated" is "majority" with the final answer in place of the
            votes where an item has one, in all formats but "items" and the tables. A tie under "soft" is written both
            ways: `with_ties_both_ways`.
        kind: export only items of this kind.
        conversational: write messages (True) or strings (False), if the format has prompts and completions. By default
            messages, if all items that were judged are conversations.
        min_judgements: see `preference_rows` and `rating_rows`.
        strength_margin: see `preference_rows`.
        without: leave out the judgements of these annotators, and count them.
        aggregate: for "preference": makes the `shares` of `preference_rows` from the items and judgements. It lets
            other packages weigh annotators.
        criterion: export the answers to this question of the project's own, for "preference", "ratings" and "kto". See
            `rlhf_envs.feedback.criteria`.
        version: the version of the settings whose meaning of the criterion counts; by default its newest one.
        take_finals: take the final answer in place of the votes as "adjudicated" does, with any `how`. With a criterion
            that are the final answers that answer it.

    Returns:
        The rows, and the counts of what was left out. Judgements that were taken back count as "undone". `fixed` counts
        the judgements that an admin has changed; rows of "items" have what they were.

    Raises:
        ValueError: the format is unknown, the file name has the extension of another format, there is no such
            criterion, or its answers have no such form.
        OSError: the file cannot be written.
    """
    extension = _check_request(path, format, how, min_judgements)
    items = [item for item in store.items() if kind in (None, item.kind)]
    everything = store.judgements(include_skips=True)
    if how == "adjudicated":
        how, take_finals = "majority", True
    judgements = [judgement for judgement in everything if judgement.annotator not in without]
    chosen = _choose(store, format, items, judgements, take_finals, criterion, version)
    if format in _IN_FULL:
        export = _rows_in_full(store, format, extension, chosen)
    else:
        votes = {"how": how, "min_judgements": min_judgements, "strength_margin": strength_margin}
        export = _rows_for_trainers(format, chosen, votes, conversational, aggregate)
    export.dropped.update(chosen.not_read)
    export.dropped.update(_not_exported(format, chosen.items, everything, without))
    export = _with_changes(store, export, chosen)
    if extension == ".csv":
        export = without_surrogates(export)
    replace_file(Path(path), WRITERS[extension](export.rows))
    if extension == ".json" and export.rows:
        _write_interface(path, export.rows, chosen.judgements, chosen.settings)
    return export


class _Chosen(NamedTuple):
    """Hold what of a store is exported, once final answers and the criterion have taken their places."""

    items: Sequence[Item]
    judgements: Sequence[Judgement]
    finals: Mapping[int, Adjudication]  # by item id
    settings: Settings
    scale: tuple[int, int]  # of the ratings
    not_read: Mapping[str, int]  # how many answers are not exported, by reason


def _choose(
    store: FeedbackStore,
    format: str,
    items: Sequence[Item],
    judgements: Sequence[Judgement],
    take_finals: bool,
    criterion: str | None,
    version: int | None,
) -> _Chosen:
    """Return what is exported of these items and judgements. The arguments are those of `export_file`."""
    ids, settings = {item.id for item in items}, store.settings
    finals = {item_id: final for item_id, final in store.adjudications().items() if item_id in ids}
    if take_finals and format not in _IN_FULL:
        if criterion is not None:
            finals = {item_id: final for item_id, final in finals.items() if criterion in final.answers}
        judgements = _with_finals(items, judgements, finals)
    if criterion is not None:
        found = find_criterion(store.versions(), criterion, version)
        derived = derive(items, judgements, found, form_for(found, format))
        return _Chosen(derived.items, derived.judgements, finals, settings, found.question.scale, derived.dropped)
    more = 0 if format in _IN_FULL else sum(bool(entry.answers) for entry in judgements if entry.item_id in ids)
    reason = "answers to the project's own questions (--criterion NAME, or --format items)"
    return _Chosen(items, judgements, finals, settings, settings.scale, {reason: more} if more else {})


def _rows_in_full(store: FeedbackStore, format: str, extension: str, chosen: _Chosen) -> Export:
    """Return the rows of our own format, or of a table of another program."""
    items, judgements, settings = chosen.items, chosen.judgements, chosen.settings
    if format == "items":
        kept = (store.versions(), store.withdrawn_items(), chosen.finals, store.suggestions())
        return item_rows(items, judgements, settings, store.picture, *kept)
    if format == "argilla":
        return argilla_rows(items, judgements, settings)
    if format == "potato":
        return potato_rows(items, judgements)
    if extension == ".json":
        return label_studio_tasks(items, judgements, settings)
    return label_studio_rows(items, judgements)


def _rows_for_trainers(
    format: str,
    chosen: _Chosen,
    votes: Mapping[str, Any],
    conversational: bool | None,
    aggregate: Aggregate | None,
) -> Export:
    """Return the rows of a format of TRL's. `votes` are `how`, `min_judgements` and `strength_margin`."""
    items, judgements = chosen.items, chosen.judgements
    if conversational is None:
        conversational = _all_conversations(items, judgements)
    if format == "preference":
        shares = None if aggregate is None else aggregate(items, judgements)
        return with_ties_both_ways(
            preference_rows(items, judgements, **votes, conversational=conversational, shares=shares)
        )
    if format == "kto":
        return kto_rows(items, judgements, scale=chosen.scale, conversational=conversational)
    if format == "flags":
        return flag_rows(items, judgements, conversational=conversational)
    if format == "sft":
        return sft_rows(items, judgements, conversational=conversational)
    rated = {name: value for name, value in votes.items() if name != "strength_margin"}
    return rating_rows(items, judgements, **rated, conversational=conversational)


def labeling_interface(path: str | Path) -> Path:
    """Return where the labeling interface of Label Studio's tasks in `path` is written."""
    return Path(str(path).removesuffix(".gz")).with_suffix(".xml")


def _check_request(path: str | Path, format: str, how: str, min_judgements: int) -> str:
    """Return the extension of an export's file. Raise a ValueError for what cannot be exported."""
    if format not in FORMATS:
        raise ValueError(f"unknown format {format!r}: choose {', '.join(FORMATS)}")
    if how == "adjudicated" and min_judgements > 1:
        raise ValueError("min_judgements counts annotators, and a final answer is one person's: leave it at 1")
    extension = Path(str(path).removesuffix(".gz")).suffix
    if extension not in (allowed := _EXTENSIONS.get(format, (".jsonl",))):
        named = " or ".join(allowed)
        raise ValueError(f"{path}: {format} is written as {named} (or {allowed[0]}.gz): give it such a name")
    return extension


def _not_exported(
    format: str, items: Sequence[Item], judgements: Sequence[Judgement], without: Collection[str]
) -> dict[str, int]:
    """Count what no row has: left-out annotators, and pictures."""
    ids = {item.id for item in items}
    counts = {
        "of an annotator who was left out": sum(
            j.annotator in without and j.item_id in ids and j.value is not None for j in judgements
        ),
        "picture: only --format items has them (item)": sum(
            format != "items" and bool(item.meta.get("images")) for item in items
        ),
    }
    return {reason: n for reason, n in counts.items() if n}


def _write_interface(
    path: str | Path, tasks: Sequence[Row], judgements: Sequence[Judgement], settings: Settings
) -> None:
    """Write the labeling interface that shows Label Studio's tasks."""
    numbers = sorted({name for j in judgements for name in ("margin", "probability") if name in (j.value or {})})
    config = label_studio_config(tasks[0]["data"]["kind"], settings, numbers)
    replace_file(labeling_interface(path), config.encode())


def _with_changes(store: FeedbackStore, export: Export, chosen: _Chosen) -> Export:
    """Count what people took back and admins changed. Rows of items, which have their judgements, tell it in full."""
    if undone := store.count_undone():
        export.dropped["undone"] = undone
    if dropped := store.count_dropped():
        export.dropped["dropped by an admin"] = dropped
    ids = {item.id for item in chosen.items}
    fixes = [entry for entry in store.audit(action="fix") if entry.item_id in ids]
    if any("judgements" in row for row in export.rows):
        add_fixes(export.rows, chosen.judgements, fixes)
    return replace(export, fixed=len({entry.judgement_id for entry in fixes}), finals=len(chosen.finals))


def _with_finals(
    items: Sequence[Item], judgements: Sequence[Judgement], finals: Mapping[int, Adjudication]
) -> list[Judgement]:
    """Return the judgements with an item's final answer, if it has one, in place of its other judgements."""
    kept = [judgement for judgement in judgements if judgement.item_id not in finals]
    kinds = {item.id: (item.kind, tuple(range(len(item.completions)))) for item in items}
    for final in finals.values():
        kind, sides = kinds[final.item_id]
        about = (kind, final.value, 0.0, final.comment, sides, f"final-{final.item_id}", final.created)
        asked = (final.answers, final.version)
        kept.append(Judgement(-final.item_id, final.item_id, final.by, *about, *asked))
    return kept


def _all_conversations(items: Sequence[Item], judgements: Sequence[Judgement]) -> bool:
    """Return whether all items that were judged keep the messages of their prompt. Gold questions do not count."""
    judged = {judgement.item_id for judgement in judgements if judgement.value is not None}
    kept = [bool(item.meta.get("messages")) for item in items if item.id in judged and item.gold is None]
    return bool(kept) and all(kept)
