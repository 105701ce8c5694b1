"""Keep which words a reward model's scores rest on, and who could look at it before they answered."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from ..kinds import check_value
from ..records import Explained, ItemExplanation, LeaseLost
from .database import Database
from .queue import annotator_named, items_in_parts, read_settings
from .schema import STANDS, explanations, items, judgements, tasks

__all__ = ["Explanations", "OpenedExplanation"]

_LONGEST = 200
_COLUMNS = ("item_id", "source", "version", "method", "scores", "marks", "value", "created")
_ALL = sa.select(*(explanations.c[name] for name in _COLUMNS)).order_by(explanations.c.id)
_NO_MARKS = sa.null().label("marks")
_WITHOUT_MARKS = sa.select(*(_NO_MARKS if name == "marks" else explanations.c[name] for name in _COLUMNS)).order_by(
    explanations.c.id
)


@dataclass(frozen=True)
class OpenedExplanation:
    """Hold an explanation with the item's completions, and the order in which the task shows them."""

    explanation: ItemExplanation
    completions: tuple[str, ...]
    sides: tuple[int, ...]


class Explanations:
    """Manage explanations. `FeedbackStore` inherits from this class."""

    _database: Database
    _clock: Callable[[], datetime]

    def explain(self, explained: Mapping[int, Explained], *, source: str, version: str = "", method: str = "") -> int:
        """Store by item id what a reward model's scores rest on, all or none.

        What the same source and version said of an item before is replaced.

        Args:
            explained: what is stored.
            source: the reward model, of 1 to 200 characters.
            version: tells this state of it from others, of at most 200 characters.
            method: how it was found, of at most 200 characters.

        Returns:
            How many were stored.

        Raises:
            ValueError: there is no such item, its texts do not suit what is said of them, or a name is too long.
        """
        if not 0 < len(source) <= _LONGEST or max(len(version), len(method)) > _LONGEST:
            raise ValueError(
                f"source must have 1 to {_LONGEST} characters, version and method at most {_LONGEST}: "
                f"{source!r}, {version!r}, {method!r}"
            )
        now = self._clock()
        with self._database.write() as connection:
            self._database.one_writer(connection)
            settings = read_settings(connection)
            for part, found in items_in_parts(connection, explained, self._database.place):
                rows = []
                for item_id in part:
                    row, one = found[item_id], explained[item_id]
                    try:
                        _check(one, row.completions)
                        value = check_value(row.kind, one.value, len(row.completions), settings)
                    except ValueError as error:
                        raise ValueError(f"item {item_id}: {error}") from error
                    marks = None if one.marks is None else [[list(mark) for mark in own] for own in one.marks]
                    said = {"scores": list(one.scores), "marks": marks, "value": value}
                    who = {"item_id": item_id, "source": source, "version": version, "method": method}
                    rows.append({**who, **said, "created": now})
                same = (explanations.c.source == source, explanations.c.version == version)
                connection.execute(sa.delete(explanations).where(explanations.c.item_id.in_(part), *same))
                connection.execute(sa.insert(explanations), rows)
        return len(explained)

    def explanations(self, item_id: int | None = None, *, with_marks: bool = True) -> list[ItemExplanation]:
        """Return the explanations of all items or of one, oldest first. The newest of an item is the one that is shown.

        Args:
            item_id: of this item only.
            with_marks: read the marks, which are long; else they are None.
        """
        query = _ALL if with_marks else _WITHOUT_MARKS
        query = query if item_id is None else query.where(explanations.c.item_id == item_id)
        with self._database.read() as connection:
            return [_explanation(row) for row in connection.execute(query)]

    def offer_explanation(self, task_id: int) -> bool:
        """Return whether the page offers an explanation with a task that was just lent, and keep that on the task.

        With the setting "before" it does where the item has one, unless that was withheld by lot.
        """
        with self._database.read() as connection:
            if read_settings(connection).explanations != "before":
                return False
            newest = _newest(connection, sa.select(tasks.c.item_id).where(tasks.c.id == task_id).scalar_subquery())
        if newest is None:
            return False
        state = "withheld" if newest.marks is None else "offered"
        other = sa.or_(tasks.c.explained.is_(None), tasks.c.explained.not_in([state, "seen"]))
        with self._database.write() as connection:
            connection.execute(sa.update(tasks).where(tasks.c.id == task_id, other).values(explained=state))
        return newest.marks is not None

    def has_explanation_after(self, item_id: int) -> bool:
        """Return whether whoever has answered an item may look at an explanation now (setting "after")."""
        with self._database.read() as connection:
            if read_settings(connection).explanations != "after":
                return False
            newest = _newest(connection, item_id)
        return newest is not None and newest.marks is not None

    def open_explanation(self, task_id: int, annotator: str) -> OpenedExplanation | None:
        """Return what an annotator may look at for a task of theirs, and keep that they have seen it.

        Returns:
            The newest explanation of the item. None if the settings show none at this
            point (with "before" to open tasks, with "after" once an answer stands), or there is none.

        Raises:
            LeaseLost: the task is not this annotator's.
        """
        with self._database.write() as connection:
            person = annotator_named(connection, annotator, lock=True)
            task = connection.execute(sa.select(tasks).where(tasks.c.id == task_id)).one_or_none()
            if task is None or task.annotator_id != person.id:
                raise LeaseLost(f"task {task_id} is not lent to {annotator!r}: claim a task first")
            answer = sa.select(judgements.c.id).where(judgements.c.task_id == task_id, STANDS)
            point = {
                "before": lambda: task.state == "open",
                "after": lambda: connection.execute(answer.where(judgements.c.value.is_not(None))).first() is not None,
            }.get(read_settings(connection).explanations)
            newest = _newest(connection, task.item_id) if point is not None and point() else None
            if newest is None or newest.marks is None:
                return None
            connection.execute(sa.update(tasks).where(tasks.c.id == task_id).values(explained="seen"))
            texts = sa.select(items.c.completions).where(items.c.id == task.item_id)
            completions = connection.execute(texts).scalar_one()
            return OpenedExplanation(_explanation(newest), tuple(completions), tuple(task.sides))


def _newest(connection: sa.Connection, item_id: Any) -> sa.Row[Any] | None:
    newest = _ALL.order_by(None).order_by(explanations.c.id.desc()).where(explanations.c.item_id == item_id).limit(1)
    return connection.execute(newest).one_or_none()


def _explanation(row: sa.Row[Any]) -> ItemExplanation:
    said = row._asdict()
    marks = said["marks"]
    said["marks"] = None if marks is None else tuple(tuple((s, e, v) for s, e, v in own) for own in marks)
    return ItemExplanation(**{**said, "scores": tuple(said["scores"])})


def _check(one: Explained, texts: list[str]) -> None:
    """Raise a ValueError unless scores and marks suit the texts."""
    if len(one.scores) != len(texts) or not all(math.isfinite(score) for score in one.scores):
        raise ValueError(f"scores must be a finite number for each of the {len(texts)} completions, got {one.scores}")
    if one.marks is not None and len(one.marks) != len(texts):
        raise ValueError(f"marks must be a list for each of the {len(texts)} completions, got {len(one.marks)}")
    for text, own in zip(texts, one.marks or (), strict=False):
        for start, end, value in own:
            if not (0 <= start < end <= len(text) and math.isfinite(value)):
                raise ValueError(
                    f"a mark must lie within the {len(text)} characters of its text and have a finite value, got "
                    f"{(start, end, value)}"
                )
