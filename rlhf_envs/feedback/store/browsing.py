"""Read pages of items and of judgements, filtered, searched and sorted by the database.

Pages go by key (the sorted value and the id of a row), not by number: a page takes as long at the end as at the
beginning, and rows that come in meanwhile move none.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from ..records import Item, Judgement
from .filtering import (
    ITEM_STATES,
    JUDGEMENT_STATES,
    ItemFilter,
    JudgementFilter,
    is_adjudicated,
    is_commented,
    item_conditions,
    judgement_conditions,
)
from .queue import ITEMS, JUDGEMENTS, item_of, judgement_of
from .schema import STANDS, annotators, audit, items, judgements

if TYPE_CHECKING:
    from .store import FeedbackStore

__all__ = [
    "ITEM_SORTS",
    "ITEM_STATES",
    "JUDGEMENT_STATES",
    "GivenJudgement",
    "ItemFilter",
    "ItemRow",
    "JudgementFilter",
    "Page",
    "browse_items",
    "browse_judgements",
    "facets",
    "matching_ids",
    "one_item",
]

ITEM_SORTS = ("newest", "oldest", "priority", "answers", "disagreement", "difficulty")


@dataclass(frozen=True)
class ItemRow:
    """Hold an item and what became of it.

    Attributes:
        item: the item.
        needed: how many judgements it still needs.
        withdrawn: whether it was withdrawn.
        answers: judgements that stand, without skips.
        skips: skips that stand.
        comments: comments of judgements that stand.
        disagreement: the share of the pairs of answers that differ, or None if there are no two.
        difficulty: 0 to 1 as the annotators' answers let it be estimated, or None.
        adjudicated: whether it has a final answer.
    """

    item: Item
    needed: int
    withdrawn: bool
    answers: int
    skips: int
    comments: int
    disagreement: float | None
    difficulty: float | None
    adjudicated: bool

    @property
    def state(self) -> str:
        """Say in a word where the item stands."""
        return "withdrawn" if self.withdrawn else "open" if self.needed > 0 else "finished"


@dataclass(frozen=True)
class GivenJudgement:
    """Hold a judgement with what became of it: taken back, dropped or fixed by an admin, or its author withdrew."""

    judgement: Judgement
    undone: bool
    dropped: bool
    fixed: bool
    withdrawn: bool = False

    @property
    def state(self) -> str:
        """Say in a word or two what became of it."""
        if self.withdrawn:
            return "author withdrew"
        return "dropped" if self.dropped else "taken back" if self.undone else "fixed" if self.fixed else "stands"


@dataclass(frozen=True)
class Page:
    """Hold a page of rows, how many rows there are in all, and the keys of the pages before and after it."""

    rows: list[Any]
    total: int
    before: str | None
    after: str | None


def browse_items(
    store: FeedbackStore,
    wanted: ItemFilter,
    *,
    sort: str = "newest",
    after: str | None = None,
    before: str | None = None,
    limit: int = 50,
) -> Page:
    """Return a page of `ItemRow`.

    Args:
        store: holds the items.
        wanted: the filter.
        sort: one of `ITEM_SORTS`. All but "oldest" begin with the highest.
        after: the key from `Page.after` of the page before.
        before: the key from `Page.before` of the page after.
        limit: the most rows.

    Raises:
        ValueError: the filter, the order or a key is unknown.
    """
    if sort not in ITEM_SORTS:
        raise ValueError(f"unknown order {sort!r}: choose {', '.join(ITEM_SORTS)}")
    matches = _sorted(sort).where(*item_conditions(store, wanted))
    with store._database.read() as connection:
        found = _page(connection, matches, sort == "oldest", after, before, limit)
        rows = _item_rows(connection, found.ids)
    return Page([rows[row_id] for row_id in found.ids], found.total, found.before, found.after)


def one_item(store: FeedbackStore, item_id: int) -> ItemRow:
    """Return an item with what became of it.

    Raises:
        ValueError: there is no such item.
    """
    with store._database.read() as connection:
        rows = _item_rows(connection, [item_id])
    if not rows:
        raise ValueError(f"there is no item {item_id}")
    return rows[item_id]


def matching_ids(store: FeedbackStore, wanted: ItemFilter) -> list[int]:
    """Return the ids of all items that the filter lets through, in ascending order."""
    query = sa.select(items.c.id).where(*item_conditions(store, wanted)).order_by(items.c.id)
    with store._database.read() as connection:
        return list(connection.execute(query).scalars())


def browse_judgements(
    store: FeedbackStore,
    wanted: JudgementFilter,
    *,
    after: str | None = None,
    before: str | None = None,
    limit: int = 50,
) -> Page:
    """Return a page of `GivenJudgement`, the newest first, also those that were taken back or dropped.

    Raises:
        ValueError: the filter or a key is unknown.
    """
    table = judgements.join(annotators).join(items)
    matches = sa.select(judgements.c.id, judgements.c.id.label("key")).select_from(table)
    fixed = sa.exists().where(audit.c.judgement_id == judgements.c.id, audit.c.action == "fix")
    with store._database.read() as connection:
        found = _page(connection, matches.where(*judgement_conditions(store, wanted)), False, after, before, limit)
        query = JUDGEMENTS.add_columns(fixed.label("fixed"), annotators.c.withdrawn.is_not(None).label("gone")).where(
            judgements.c.id.in_(found.ids)
        )
        rows = {
            row.id: GivenJudgement(
                judgement_of(row), row.undone, row.dropped, bool(row.fixed), row.withdrawn or row.gone
            )
            for row in connection.execute(query)
        }
    return Page([rows[row_id] for row_id in found.ids], found.total, found.before, found.after)


def facets(store: FeedbackStore) -> dict[str, list[str]]:
    """Return the kinds, sources and policies that occur, sorted, to choose from. At most 200 of each."""
    found: dict[str, list[str]] = {}
    with store._database.read() as connection:
        for name in ("kind", "source", "policy"):
            column = items.c.kind if name == "kind" else sa.cast(items.c[name], sa.Text)
            values = connection.execute(sa.select(column).distinct().limit(200)).scalars()
            found[name] = sorted(value if name == "kind" else json.loads(value) for value in values)
    return found


@dataclass(frozen=True)
class _Found:
    ids: list[int]
    total: int
    before: str | None
    after: str | None


def _page(
    connection: sa.Connection,
    matches: sa.Select[Any],
    ascending: bool,
    after: str | None,
    before: str | None,
    limit: int,
) -> _Found:
    """Return a page of the ids of a query for `id` and `key`, which runs once for the page and the total."""
    match = matches.cte("matches")
    backwards = before is not None
    rising = ascending != backwards
    total = sa.select(sa.func.count()).select_from(match).scalar_subquery()
    query = sa.select(match.c.id, match.c.key, total.label("total"))
    if (place := before or after) is not None:
        value, number = _place(place)
        beyond = (match.c.key > value, match.c.id > number) if rising else (match.c.key < value, match.c.id < number)
        query = query.where(sa.or_(beyond[0], sa.and_(match.c.key == value, beyond[1])))
    order = (match.c.key.asc(), match.c.id.asc()) if rising else (match.c.key.desc(), match.c.id.desc())
    rows = list(connection.execute(query.order_by(*order).limit(limit + 1)).all())
    more, rows = len(rows) > limit, rows[:limit]
    if backwards:
        rows.reverse()
    count = rows[0].total if rows else connection.execute(sa.select(total)).scalar_one()
    ends = [f"{float(row.key)!r}:{row.id}" for row in (rows[:1] + rows[-1:])]
    has_before, has_after = (more, True) if backwards else (after is not None, more)
    return _Found(
        [row.id for row in rows],
        count,
        ends[0] if rows and has_before else None,
        ends[-1] if rows and has_after else None,
    )


def _place(key: str) -> tuple[float, int]:
    value, _, number = key.partition(":")
    try:
        place = float(value), int(number)
    except ValueError:
        raise ValueError(f"{key[:100]!r} is no key of a page: take it from the page before or after") from None
    if place[0] != place[0] or not -(2**63) <= place[1] < 2**63:
        raise ValueError(f"{key[:100]!r} is no key of a page: take it from the page before or after")
    return place


def _item_rows(connection: sa.Connection, ids: list[int]) -> dict[int, ItemRow]:
    """Return the rows of these items by id."""
    votes = _votes(judgements.c.item_id.in_(ids))
    query = ITEMS.add_columns(
        items.c.needed,
        items.c.withdrawn,
        items.c.difficulty,
        _count(judgements.c.value.is_not(None)).label("answers"),
        _count(judgements.c.value.is_(None)).label("skips"),
        _count(is_commented()).label("comments"),
        _differing_pairs(votes).label("disagreement"),
        is_adjudicated().label("adjudicated"),
    ).select_from(items.outerjoin(votes, votes.c.item_id == items.c.id))
    return {
        row.id: ItemRow(
            item_of(row),
            row.needed,
            row.withdrawn is not None,
            row.answers,
            row.skips,
            row.comments,
            row.disagreement,
            row.difficulty,
            bool(row.adjudicated),
        )
        for row in connection.execute(query.where(items.c.id.in_(ids)))
    }


def _sorted(sort: str) -> sa.Select[Any]:
    """Return a query for the ids of all items and the number that an order goes by."""
    if sort == "disagreement":
        votes = _votes()
        table = items.outerjoin(votes, votes.c.item_id == items.c.id)
        return sa.select(items.c.id, sa.func.coalesce(_differing_pairs(votes), -1.0).label("key")).select_from(table)
    keys: dict[str, sa.ColumnElement[Any]] = {
        "priority": items.c.priority,
        "answers": _count(judgements.c.value.is_not(None)),
        "difficulty": sa.func.coalesce(items.c.difficulty, -1.0),
    }
    return sa.select(items.c.id, keys.get(sort, items.c.id).label("key"))


def _count(condition: sa.ColumnElement[bool]) -> sa.ScalarSelect[int]:
    query = sa.select(sa.func.count()).select_from(judgements)
    return query.where(judgements.c.item_id == items.c.id, STANDS, condition).correlate(items).scalar_subquery()


def _votes(*conditions: sa.ColumnElement[bool]) -> sa.Subquery:
    """Return a query for each item's number of votes `n`, and the sum `same` of the squared numbers of equal ones."""
    equal = sa.select(judgements.c.item_id, sa.func.count().label("n"))
    equal = equal.where(STANDS, judgements.c.vote.is_not(None), *conditions)
    group = equal.group_by(judgements.c.item_id, judgements.c.vote).subquery()
    sums = sa.func.sum(group.c.n).label("n"), sa.func.sum(group.c.n * group.c.n).label("same")
    return sa.select(group.c.item_id, *sums).group_by(group.c.item_id).subquery()


def _differing_pairs(votes: sa.Subquery) -> sa.ColumnElement[Any]:
    """Return the share of the pairs of an item's votes that differ, from `_votes`. NULL if there is no pair."""
    n, same = (sa.cast(votes.c[name], sa.Float) for name in ("n", "same"))
    return (n * n - same) / sa.func.nullif(n * (n - 1.0), 0.0)
