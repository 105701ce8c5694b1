"""Make the tables and tasks of other annotation programs of what people said. What is left out is counted by reason."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

from ..records import Item, Judgement, Suggestion
from ..settings import Settings
from .argilla import argilla_row
from .label_studio import label_studio_row, label_studio_task
from .potato import SCHEMES, potato_row
from .trainer_rows import Export

__all__ = ["argilla_rows", "by_item", "label_studio_rows", "label_studio_tasks", "potato_rows"]

OfItem = TypeVar("OfItem", Judgement, Suggestion)

_OWN_ITEM = "asks the project's own questions alone: only --format items has them (item)"
_OWN = "answers to the project's own questions: only --format items has them (judgement)"


def argilla_rows(items: Sequence[Item], judgements: Sequence[Judgement], settings: Settings | None = None) -> Export:
    """Return Argilla's table, one row per item. See `rlhf_envs.feedback.formats.argilla`."""
    harms = () if settings is None else settings.harms
    return _tabulate(items, judgements, lambda item, given: [argilla_row(item, given, harms)])


def label_studio_rows(items: Sequence[Item], judgements: Sequence[Judgement]) -> Export:
    """Return Label Studio's table, one row per judgement, or per item without one. See `formats.label_studio`."""

    def rows_of(item: Item, given: list[Judgement]) -> list[dict[str, Any]]:
        return [label_studio_row(item, judgement) for judgement in given] or [label_studio_row(item, None)]

    return _tabulate(items, judgements, rows_of)


def label_studio_tasks(items: Sequence[Item], judgements: Sequence[Judgement], settings: Settings) -> Export:
    """Return tasks for Label Studio's import, one per item with its judgements.

    Raises:
        ValueError: the items are of several kinds, and a project of Label Studio asks one kind of question.
    """
    kinds = {item.kind for item in items if item.gold is None} - {"questions"}
    if len(kinds) > 1:
        raise ValueError(
            f"a project of Label Studio asks one kind of question, and the items are {', '.join(sorted(kinds))}: give "
            "--kind, one file for each"
        )
    return _tabulate(items, judgements, lambda item, given: [label_studio_task(item, given, settings)])


def potato_rows(items: Sequence[Item], judgements: Sequence[Judgement]) -> Export:
    """Return Potato's data file, one row per item. See `rlhf_envs.feedback.formats.potato`."""
    export = _tabulate(items, [], lambda item, _: [potato_row(item)] if item.kind in SCHEMES else [])
    ids = {item.id for item in items}
    left_out = {
        "judgement: Potato is given questions only": sum(judgement.item_id in ids for judgement in judgements),
        "ranking: no form for Potato (item)": sum(item.kind == "ranking" and item.gold is None for item in items),
    }
    export.dropped.update({reason: n for reason, n in left_out.items() if n})
    return export


def by_item(judgements: Iterable[OfItem]) -> dict[int, list[OfItem]]:
    """Return the judgements (or suggestions) of each item, by the item's id."""
    given: dict[int, list[OfItem]] = defaultdict(list)
    for judgement in judgements:
        given[judgement.item_id].append(judgement)
    return given


def _tabulate(
    items: Sequence[Item],
    judgements: Sequence[Judgement],
    rows_of: Callable[[Item, list[Judgement]], list[dict[str, Any]]],
) -> Export:
    """Return the rows of all items that another program can hold, and count the rest."""
    given, dropped = by_item(judgements), Counter[str]()
    rows: list[dict[str, Any]] = []
    for item in items:
        if item.gold is not None:
            dropped["gold question (item)"] += 1
        elif item.kind == "questions":
            dropped[_OWN_ITEM] += 1
        else:
            dropped[_OWN] += sum(bool(judgement.answers) for judgement in given[item.id])
            rows += rows_of(item, given[item.id])
    return Export(rows, {reason: n for reason, n in dropped.items() if n})
