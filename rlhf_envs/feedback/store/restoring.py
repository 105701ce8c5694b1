"""Write judgements from elsewhere into the store's tables. They were given once, so no item is lent for them again."""

from __future__ import annotations

import uuid
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa

from .database import parts
from .queue import settle, withdraw
from .schema import OPEN, STANDS, adjudications, annotators, items, judgements, suggestions, tasks
from .store import FeedbackStore, is_key
from .versions import current_version

__all__ = ["PastFinal", "PastJudgement", "PastSuggestion", "restore"]

_ROWS_PER_STATEMENT = 500  # SQLite takes 32,766 parameters


@dataclass(frozen=True)
class PastJudgement:
    """Hold a judgement that was given elsewhere.

    Attributes:
        annotator: a name that the store knows.
        value: the answer as `check_value` returns it. None is a skip.
        sides: the order in which the completions were shown. If it is unknown, the order in which they are stored.
        key: the idempotency key, kept unless a judgement in the store has it already.
        created: when the judgement was given. If it is unknown, now.
        answers: the answers to the project's questions, as `check_answers` returns them.
        version: the version of the settings that was asked. None is the present one.
        explained: see `Judgement`.
    """

    annotator: str
    value: dict[str, Any] | None
    seconds: float = 0.0
    comment: str = ""
    sides: tuple[int, ...] = ()
    key: str = ""
    created: datetime | None = None
    answers: dict[str, Any] = field(default_factory=dict)
    version: int | None = None
    explained: str = ""


@dataclass(frozen=True)
class PastFinal:
    """Hold a final answer that was given elsewhere: its value, by whom, why, and when (None: now).

    `answers` are those to the project's questions, under the `version` of the settings (None: the present one).
    """

    value: dict[str, Any]
    by: str
    comment: str = ""
    created: datetime | None = None
    answers: dict[str, Any] = field(default_factory=dict)
    version: int | None = None


@dataclass(frozen=True)
class PastSuggestion:
    """Hold what a program suggested elsewhere, and when (None: now)."""

    source: str
    version: str
    value: dict[str, Any]
    created: datetime | None = None


def restore(
    store: FeedbackStore,
    past: Sequence[tuple[int, PastJudgement]],
    created: dict[int, datetime],
    *,
    finals: Mapping[int, PastFinal] | None = None,
    suggested: Sequence[tuple[int, PastSuggestion]] = (),
    withdrawn: Sequence[int] = (),
) -> list[int]:
    """Store judgements as they were given, all or none. Each item then needs that many judgements fewer.

    A webhook is told of nothing: what comes back has been told by the store from which it comes.

    If an annotator holds one of the items at this moment, that assignment is lost: it is answered now.

    Args:
        store: has the items and annotators.
        past: pairs of item id and judgement, at most one per item and annotator.
        created: maps item ids to when the items were made. Items that are not in it keep their date.
        finals: maps the ids of items without a final answer to theirs, by annotators that the store knows.
        suggested: pairs of item id and suggestion. The item has none by this source and version.
        withdrawn: the ids of items that are asked no more.

    Returns:
        The indices into `past` of the judgements left out, because the annotator has judged the item in the meantime.
    """
    with store._database.write() as connection:
        store._database.one_writer(connection)
        if created:
            _update_items(connection, "created", [{"item": i, "new": moment} for i, moment in created.items()])
        # Locked, so that nobody is lent an item while we judge it in their name.
        everyone = sa.select(annotators.c.name, annotators.c.id).order_by(annotators.c.id)
        names = {row.name: row.id for row in connection.execute(everyone.with_for_update(key_share=True))}
        pairs = [(item_id, names[judgement.annotator]) for item_id, judgement in past]
        judged = _find_pairs(connection, judgements, STANDS, pairs)
        late = [index for index, pair in enumerate(pairs) if pair in judged]
        past = [entry for entry, pair in zip(past, pairs, strict=True) if pair not in judged]
        pairs = [pair for pair in pairs if pair not in judged]
        held = _find_pairs(connection, tasks, OPEN, pairs)
        lost = [{"task": held[pair]} for pair in pairs if pair in held]
        if lost:
            connection.execute(sa.update(tasks).where(tasks.c.id == sa.bindparam("task")).values(state="lost"), lost)
        _insert(connection, past, pairs)
        given = Counter(item_id for item_id, judgement in past if judgement.value is not None)
        if given:
            fewer = [{"item": item_id, "new": n} for item_id, n in given.items()]
            _update_items(connection, "needed", fewer, items.c.needed - sa.bindparam("new"))
            for item_id in _adapting(connection, given):
                settle(connection, item_id, 0)
        _insert_beside(connection, finals or {}, suggested, names)
        for part in parts(sorted(set(withdrawn)), _ROWS_PER_STATEMENT):
            withdraw(connection, part)
    return late


def _insert_beside(
    connection: sa.Connection,
    finals: Mapping[int, PastFinal],
    suggested: Sequence[tuple[int, PastSuggestion]],
    names: Mapping[str, int],
) -> None:
    """Insert final answers and suggestions. What has come into the store meanwhile stays."""
    now, present = datetime.now(UTC), current_version(connection)
    there = set(connection.execute(sa.select(adjudications.c.item_id)).scalars()) if finals else set()
    rows = [
        {
            "item_id": item_id,
            "annotator_id": names[final.by],
            "value": final.value,
            "comment": final.comment,
            "created": final.created or now,
            "answers": final.answers or None,
            "version": final.version or present,
        }
        for item_id, final in finals.items()
        if item_id not in there
    ]
    for part in parts(rows, _ROWS_PER_STATEMENT):
        connection.execute(sa.insert(adjudications), list(part))
    key = suggestions.c.item_id, suggestions.c.source, suggestions.c.version
    known = {tuple(row) for row in connection.execute(sa.select(*key))} if suggested else set()
    rows = [
        {"item_id": item_id, **asdict(one), "created": one.created or now}
        for item_id, one in sorted(suggested, key=lambda pair: pair[1].created or now)  # the newest is shown
        if (item_id, one.source, one.version) not in known
    ]
    for part in parts(rows, _ROWS_PER_STATEMENT):
        connection.execute(sa.insert(suggestions), list(part))


def _update_items(connection: sa.Connection, column: str, rows: list[dict[str, Any]], value: Any = None) -> None:
    """Set a column of the items `row["item"]` to `value`, or to `row["new"]`."""
    new = sa.bindparam("new") if value is None else value
    connection.execute(sa.update(items).where(items.c.id == sa.bindparam("item")).values({column: new}), rows)


def _insert(
    connection: sa.Connection, past: Sequence[tuple[int, PastJudgement]], pairs: Sequence[tuple[int, int]]
) -> None:
    """Insert the judgements, each with the finished task that a judgement has."""
    now, present = datetime.now(UTC), current_version(connection)
    taken = _taken_keys(connection, [judgement.key for _, judgement in past])
    lengths = _n_completions(connection, {item_id for item_id, _ in past})
    tasks_rows, judgement_rows = [], []
    for (item_id, annotator_id), (_, judgement) in zip(pairs, past, strict=True):
        who = {"item_id": item_id, "annotator_id": annotator_id}
        when = judgement.created or now
        sides = judgement.sides or tuple(range(lengths[item_id]))
        tasks_rows.append({**who, "sides": sides, "expires": when, "state": "done"})
        answer = {"value": judgement.value, "seconds": judgement.seconds, "comment": judgement.comment}
        asked = {"answers": judgement.answers or None, "version": judgement.version or present}
        key = _free_key(judgement.key, taken)
        fixed = {"key": key, "created": when, "undone": False, "had_seen": False}
        fixed["explained"] = judgement.explained or None
        judgement_rows.append({**who, **answer, **asked, **fixed})
    insert = sa.insert(tasks).returning(tasks.c.id, sort_by_parameter_order=True)
    for closed, answers in zip(
        parts(tasks_rows, _ROWS_PER_STATEMENT), parts(judgement_rows, _ROWS_PER_STATEMENT), strict=True
    ):
        ids = connection.execute(insert, closed).scalars().all()
        connection.execute(
            sa.insert(judgements), [{**row, "task_id": task_id} for row, task_id in zip(answers, ids, strict=True)]
        )


def _free_key(key: str, taken: set[str]) -> str:
    """Return the key if it is valid and nobody has it, else a new one."""
    if not is_key(key) or key in taken:
        return uuid.uuid4().hex
    taken.add(key)
    return key


def _taken_keys(connection: sa.Connection, keys: Sequence[str]) -> set[str]:
    wanted = parts([key for key in keys if is_key(key)], _ROWS_PER_STATEMENT)
    query = sa.select(judgements.c.key)
    return {key for part in wanted for key in connection.execute(query.where(judgements.c.key.in_(part))).scalars()}


def _find_pairs(
    connection: sa.Connection, table: sa.Table, condition: sa.TextClause, pairs: Collection[tuple[int, int]]
) -> dict[tuple[int, int], int]:
    """Map (item id, annotator id) to the id of the row in `table`, for rows of these items that meet a condition."""
    query = sa.select(table.c.id, table.c.item_id, table.c.annotator_id).where(condition)
    return {
        (row.item_id, row.annotator_id): row.id
        for part in parts(sorted({item_id for item_id, _ in pairs}), _ROWS_PER_STATEMENT)
        for row in connection.execute(query.where(table.c.item_id.in_(part)))
    }


def _adapting(connection: sa.Connection, ids: Collection[int]) -> list[int]:
    """Return the ids of the items whose overlap adapts."""
    query = sa.select(items.c.id).where(items.c.max_overlap.is_not(None))
    return [
        item_id
        for part in parts(sorted(ids), _ROWS_PER_STATEMENT)
        for item_id in connection.execute(query.where(items.c.id.in_(part))).scalars()
    ]


def _n_completions(connection: sa.Connection, ids: set[int]) -> dict[int, int]:
    query = sa.select(items.c.id, items.c.completions)
    return {
        row.id: len(row.completions)
        for part in parts(sorted(ids), _ROWS_PER_STATEMENT)
        for row in connection.execute(query.where(items.c.id.in_(part)))
    }
