"""Turn what an admin looks for among items and judgements into conditions of the database."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

import sqlalchemy as sa

from .schema import STANDS, adjudications, annotators, audit, items, judgements, tasks
from .searching import search_terms

if TYPE_CHECKING:
    from .store import FeedbackStore

__all__ = [
    *("ITEM_STATES", "JUDGEMENT_STATES", "ItemFilter", "JudgementFilter"),
    *("is_adjudicated", "is_commented", "item_conditions", "judgement_conditions"),
]

ITEM_STATES = ("open", "finished", "withdrawn", "unjudged", "in work")
JUDGEMENT_STATES = ("standing", "skip", "taken back", "dropped", "fixed")


@dataclass(frozen=True)
class ItemFilter:
    """Say which items are wanted. What is left at its default lets all through.

    Attributes:
        text: words that must all occur in the item's texts, or in the comments and corrections of its judgements.
        kind: a kind of feedback.
        source: the source, exactly.
        policy: the policy, exactly.
        state: one of `ITEM_STATES`.
        annotator: who has judged it (or skipped it).
        differing: its annotators' answers differ. Of skips and corrections none differs.
        commented: it has a comment.
        skipped: somebody skipped it.
        gold: it is, or is not, a gold question.
        changed: an admin has changed it or one of its judgements.
        adjudicated: it has, or has not, a final answer.
    """

    text: str = ""
    kind: str = ""
    source: str | None = None
    policy: str | None = None
    state: str = ""
    annotator: str = ""
    differing: bool = False
    commented: bool = False
    skipped: bool = False
    gold: bool | None = None
    changed: bool = False
    adjudicated: bool | None = None


@dataclass(frozen=True)
class JudgementFilter:
    """Say which judgements are wanted: by annotator, kind, state (`JUDGEMENT_STATES`), comment, text or item."""

    text: str = ""
    annotator: str = ""
    kind: str = ""
    state: str = ""
    commented: bool = False
    item_id: int | None = None


def is_adjudicated() -> sa.ColumnElement[bool]:
    """Return whether an item has a final answer."""
    return sa.exists().where(adjudications.c.item_id == items.c.id)


def is_commented() -> sa.ColumnElement[bool]:
    """Return whether a judgement has a comment."""
    return sa.cast(judgements.c.comment, sa.Text) != '""'


def _contains(store: FeedbackStore, column: sa.ColumnElement[str], term: str) -> sa.ColumnElement[bool]:
    """Return whether a column contains a text, as it is. LIKE would fold case again, and be slower."""
    place = sa.func.instr if store._database.is_sqlite else sa.func.strpos
    return place(column, term) > 0


def _judged(*conditions: sa.ColumnElement[bool]) -> sa.ColumnElement[bool]:
    """Return whether an item has a standing judgement with these properties."""
    return sa.exists().where(judgements.c.item_id == items.c.id, STANDS, *conditions)


def item_conditions(store: FeedbackStore, wanted: ItemFilter) -> list[sa.ColumnElement[bool]]:
    """Return the conditions that wanted items meet. A ValueError names an unknown state."""
    if wanted.state and wanted.state not in ITEM_STATES:
        raise ValueError(f"unknown state {wanted.state!r}: choose {', '.join(ITEM_STATES)}")
    found: list[sa.ColumnElement[bool]] = []
    for term in search_terms(wanted.text):
        said = sa.select(judgements.c.item_id).where(STANDS, _contains(store, judgements.c.search, term))
        found.append(sa.or_(_contains(store, items.c.search, term), items.c.id.in_(said)))
    if wanted.kind:
        found.append(items.c.kind == wanted.kind)
    for name, value in (("source", wanted.source), ("policy", wanted.policy)):
        if value is not None:
            found.append(sa.cast(items.c[name], sa.Text) == json.dumps(value))
    if wanted.annotator:
        whose = sa.select(annotators.c.id).where(annotators.c.name == _storable(wanted.annotator)).scalar_subquery()
        found.append(_judged(judgements.c.annotator_id == whose))
    if wanted.state:
        found.append(_in_state(store, wanted.state))
    if wanted.differing:
        votes = sa.select(judgements.c.item_id).where(STANDS, judgements.c.vote.is_not(None))
        differ = sa.func.min(judgements.c.vote) < sa.func.max(judgements.c.vote)
        found.append(items.c.id.in_(votes.group_by(judgements.c.item_id).having(differ)))
    if wanted.commented:
        found.append(_judged(is_commented()))
    if wanted.skipped:
        found.append(_judged(judgements.c.value.is_(None)))
    if wanted.gold is not None:
        found.append(items.c.gold.is_not(None) if wanted.gold else items.c.gold.is_(None))
    if wanted.changed:
        found.append(sa.exists().where(audit.c.item_id == items.c.id))
    if wanted.adjudicated is not None:
        found.append(is_adjudicated() if wanted.adjudicated else ~is_adjudicated())
    return found


def _in_state(store: FeedbackStore, state: str) -> sa.ColumnElement[bool]:
    lent = sa.exists().where(tasks.c.item_id == items.c.id, tasks.c.state == "open", tasks.c.expires > store._clock())
    return {
        "open": items.c.needed > 0,
        "finished": sa.and_(items.c.needed <= 0, items.c.withdrawn.is_(None)),
        "withdrawn": items.c.withdrawn.is_not(None),
        "unjudged": ~_judged(judgements.c.value.is_not(None)),
        "in work": lent,
    }[state]


def judgement_conditions(store: FeedbackStore, wanted: JudgementFilter) -> list[sa.ColumnElement[bool]]:
    """Return the conditions that wanted judgements meet. A ValueError names an unknown state."""
    if wanted.state and wanted.state not in JUDGEMENT_STATES:
        raise ValueError(f"unknown state {wanted.state!r}: choose {', '.join(JUDGEMENT_STATES)}")
    found = [_contains(store, judgements.c.search, term) for term in search_terms(wanted.text)]
    if wanted.annotator:
        found.append(annotators.c.name == _storable(wanted.annotator))
    if wanted.kind:
        found.append(items.c.kind == wanted.kind)
    if wanted.commented:
        found.append(is_commented())
    if wanted.item_id is not None:
        found.append(judgements.c.item_id == wanted.item_id)
    states: dict[str, sa.ColumnElement[bool]] = {
        "standing": sa.and_(sa.not_(judgements.c.undone), judgements.c.value.is_not(None)),
        "skip": sa.and_(sa.not_(judgements.c.undone), judgements.c.value.is_(None)),
        "taken back": sa.and_(judgements.c.undone, sa.not_(judgements.c.dropped)),
        "dropped": judgements.c.dropped,
        "fixed": sa.exists().where(audit.c.judgement_id == judgements.c.id, audit.c.action == "fix"),
    }
    if wanted.state:
        found.append(states[wanted.state])
    return found


def _storable(name: str) -> str:
    """Return a name that both databases take as a parameter; nobody has one with a NUL or a lone surrogate."""
    return name.replace("\0", "\ufffd").encode("utf-8", "replace").decode()
