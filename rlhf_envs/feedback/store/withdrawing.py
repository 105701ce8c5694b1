"""Let a person withdraw: their labels leave every export and count, and others are asked in their place."""

from __future__ import annotations

import hashlib
import itertools
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from .accounts import check_other_admin
from .auditing import log_change
from .database import parts
from .outbox import queue_events
from .queue import annotator_named, read_settings, release_held, settle
from .schema import (
    STANDS,
    adjudications,
    annotators,
    audit,
    deliveries,
    invitations,
    items,
    judgements,
    panelists,
    readings,
    sessions,
    tasks,
    training_answers,
    withdrawals,
)
from .schema import settings as settings_table
from .store import FeedbackStore

__all__ = [
    "Withdrawal",
    "answers_of",
    "close_account",
    "delete_traces",
    "forget_choices",
    "forget_events",
    "free_name",
    "hide_panelist",
    "list_withdrawals",
    "person_mark",
    "take_back",
    "take_out",
    "withdraw_person",
]

_IDS_PER_QUERY = 10_000  # as in `store`


@dataclass(frozen=True)
class Withdrawal:
    """Hold that a person withdrew.

    Attributes:
        annotator: the name of their account since then.
        by: who did it, the person or an admin.
        labels: what became of their labels, "kept" (marked) or "deleted".
        judgements: how many answers and skips stood.
        created: when (UTC).
    """

    annotator: str
    by: str
    labels: str
    judgements: int
    created: datetime


def withdraw_person(store: FeedbackStore, name: str, *, by: str | None = None) -> Withdrawal:
    """Take a person's labels out, end their sessions, and close their account for good.

    Items that they judged need another judgement again. As `consent.withdrawn_labels` says, the labels stay in the
    database with a mark, or they are deleted together with the name, the training and what the panel told.

    Args:
        store: holds the labels.
        name: who withdraws.
        by: who does it; the person by default.

    Raises:
        NoSuchAnnotator: there is no such annotator, or they have withdrawn before.
        ValueError: nobody else active is an admin.
    """
    with store._database.write() as connection:
        store._database.one_writer(connection)
        annotator_named(connection, name)
        deletes = read_settings(connection).consent.withdrawn_labels == "delete"
        return take_out(connection, name, store._clock(), by=by, deletes=deletes, action="withdraw person")


def take_out(
    connection: sa.Connection, name: str, now: datetime, *, by: str | None, deletes: bool, action: str
) -> Withdrawal:
    """Take a person's labels out, in a transaction that is the one writer. The audit has it as `action`."""
    person = annotator_named(connection, name, lock=True)
    check_other_admin(connection, name)
    settings = read_settings(connection)
    undone, finished = take_back(connection, person.id, deletes=deletes)
    forget_events(connection, name, deletes=deletes)
    queue_events(connection, settings, now, undone=undone, finished=finished)
    close_account(connection, person.id, name)
    account: dict[str, Any] = {"active": False, "withdrawn": now, "password_hash": None}
    if deletes:
        account["name"] = delete_traces(connection, person.id, name)
    connection.execute(sa.update(annotators).where(annotators.c.id == person.id).values(account))
    known_as = account.get("name", name)
    labels, who = "deleted" if deletes else "kept", known_as if by in (None, name) else by
    done = Withdrawal(known_as, str(who), labels, len(undone), now)
    connection.execute(sa.insert(withdrawals).values(done.__dict__))
    what = {"labels": done.labels, "answers": done.judgements}
    log_change(connection, now, done.by, action, annotator=known_as, after=what)
    return done


def close_account(connection: sa.Connection, person: int, name: str) -> None:
    """End a person's sessions, delete the links to their password, and let them give no more final answers."""
    connection.execute(sa.delete(sessions).where(sessions.c.annotator_id == person))
    connection.execute(sa.delete(invitations).where(invitations.c.annotator_id == person))
    adjudicators = read_settings(connection).adjudicators
    if name in adjudicators:
        left = [other for other in adjudicators if other != name]
        connection.execute(sa.update(settings_table).filter_by(name="adjudicators").values(value=left))


def list_withdrawals(store: FeedbackStore) -> list[Withdrawal]:
    """Return who withdrew, oldest first."""
    columns = [withdrawals.c[name] for name in ("annotator", "by", "labels", "judgements", "created")]
    with store._database.read() as connection:
        return [Withdrawal(*row) for row in connection.execute(sa.select(*columns).order_by(withdrawals.c.id))]


def answers_of(store: FeedbackStore, name: str) -> list[dict[str, Any]]:
    """Return all that a person answered as plain values: judgements (also undone ones), training, final answers."""
    answer = (
        judgements.c[name] for name in ("value", "answers", "seconds", "comment", "created", "undone", "explained")
    )
    shown = (items.c.id.label("item"), items.c.kind, items.c.prompt, items.c.completions)
    trained = (
        training_answers.c[column] for column in ("attempt", "value", "answers", "is_right", "seconds", "created")
    )
    final = (adjudications.c[name] for name in ("value", "answers", "comment", "created"))
    queries = {
        "judgement": sa.select(*shown, *answer)
        .select_from(judgements.join(items, judgements.c.item_id == items.c.id).join(annotators))
        .order_by(judgements.c.id),
        "training": sa.select(*shown, *trained)
        .select_from(training_answers.join(items, training_answers.c.item_id == items.c.id).join(annotators))
        .order_by(training_answers.c.id),
        "final answer": sa.select(*shown, *final)
        .select_from(adjudications.join(items, adjudications.c.item_id == items.c.id).join(annotators))
        .order_by(adjudications.c.item_id),
    }
    with store._database.read() as connection:
        return [
            {"answer": what, **row._mapping, "created": row.created.isoformat()}
            for what, query in queries.items()
            for row in connection.execute(query.where(annotators.c.name == name))
        ]


def person_mark(person: str) -> str:
    """Return what is kept of a deleted person's identifier at a panel, so that the same link makes no new account."""
    return f"withdrawn:{hashlib.sha256(person.encode()).hexdigest()}"


def take_back(connection: sa.Connection, person: int, *, deletes: bool) -> tuple[list[tuple[int, int, str]], list[int]]:
    """Take back all judgements of a person, and free the item that they hold.

    Returns:
        (id, item id, kind) of the answers that stood, and the ids of the items that this has finished: where the
        overlap adapts, an answer fewer may decide.
    """
    release_held(connection, person)
    theirs = judgements.c.annotator_id == person
    stood = sa.select(judgements.c.id, items.c.id, items.c.kind).join_from(judgements, items).where(theirs, STANDS)
    standing = [(*row,) for row in connection.execute(stood.order_by(judgements.c.id))]
    counted = sa.select(judgements.c.item_id).where(theirs, STANDS, judgements.c.value.is_not(None))
    # Locked in one order, as everywhere where more than one item is changed.
    locked = sa.select(items.c.id).where(items.c.id.in_(counted)).order_by(items.c.id).with_for_update(key_share=True)
    connection.execute(locked)
    changed = list(connection.execute(counted).scalars())
    connection.execute(sa.delete(adjudications).where(adjudications.c.annotator_id == person))
    if deletes:
        connection.execute(sa.delete(judgements).where(theirs))
        connection.execute(sa.delete(tasks).where(tasks.c.annotator_id == person))
    else:
        connection.execute(sa.update(judgements).where(theirs, STANDS).values(undone=True, withdrawn=True))
        # Nor can what an admin dropped be restored.
        connection.execute(sa.update(judgements).where(theirs, judgements.c.dropped).values(dropped=False))
    return standing, [item_id for item_id in changed if settle(connection, item_id, +1)]


def forget_events(connection: sa.Connection, name: str, *, deletes: bool) -> None:
    """Delete the events that tell a person's answers: those that were not sent yet or, with `deletes`, all."""
    query = sa.select(deliveries.c.id, deliveries.c.payload).where(deliveries.c.event == "judgement.created")
    query = query if deletes else query.where(deliveries.c.state != "sent")
    theirs = [row.id for row in connection.execute(query) if row.payload["data"]["annotator"] == name]
    for part in parts(theirs, _IDS_PER_QUERY):
        connection.execute(sa.delete(deliveries).where(deliveries.c.id.in_(part)))


def delete_traces(connection: sa.Connection, person: int, name: str) -> str:
    """Delete what tells who a person is, and return the account's new name. Of the panel's identifier a hash stays.

    The audit keeps that something was changed, without the answers.
    """
    known_as = free_name(connection, f"withdrawn-{person}")
    _forget_finals(connection, name)
    forget_choices(connection)
    about = sa.update(audit).where(audit.c.annotator == name)
    connection.execute(about.values(annotator=known_as, before=None, after=None, reason=""))
    connection.execute(sa.update(audit).where(audit.c.actor == name).values(actor=known_as))
    for column in ("by", "annotator"):
        connection.execute(sa.update(withdrawals).where(withdrawals.c[column] == name).values({column: known_as}))
    for table in (training_answers, readings):
        connection.execute(sa.delete(table).where(table.c.annotator_id == person))
    hide_panelist(connection, person)
    return known_as


def hide_panelist(connection: sa.Connection, person: int) -> None:
    """Delete what a panel told of a person. Of the identifier a hash stays."""
    theirs = panelists.c.annotator_id == person
    identifier = connection.execute(sa.select(panelists.c.person).where(theirs)).scalar()
    if identifier is not None and not identifier.startswith("withdrawn:"):
        blank: dict[str, Any] = {"person": person_mark(identifier), "parameters": {}, "screening": None}
        connection.execute(sa.update(panelists).where(theirs).values(blank))


def free_name(connection: sa.Connection, name: str) -> str:
    """Return this name, or one with a number that nobody has taken."""
    names = itertools.chain([name], (f"{name}-{n}" for n in itertools.count(2)))
    taken = sa.select(annotators.c.id)
    return next(name for name in names if connection.execute(taken.where(annotators.c.name == name)).first() is None)


def forget_choices(connection: sa.Connection) -> None:
    """Delete from the audit who was chosen as an adjudicator, which changes of the settings name."""
    query = sa.select(audit.c.id, audit.c.after).where(audit.c.action == "settings").order_by(audit.c.id)
    for row in connection.execute(query).all():
        lines = row.after if isinstance(row.after, list) else []
        after = ["adjudicators: changed" if line.startswith("adjudicators: ") else line for line in lines]
        if after != lines:
            connection.execute(sa.update(audit).where(audit.c.id == row.id).values(after=after))


def _forget_finals(connection: sa.Connection, name: str) -> None:
    """Delete a person's final answers from the audit, also where a later entry says what was there before it."""
    columns = (audit.c.id, audit.c.item_id, audit.c.action, audit.c.actor)
    kinds = ("final answer", "remove final answer")
    given_by: dict[int, str | None] = {}
    for row in connection.execute(sa.select(*columns).where(audit.c.action.in_(kinds)).order_by(audit.c.id)).all():
        gives = row.action == "final answer"
        blank: dict[str, Any] = {"after": None, "reason": ""} if gives and row.actor == name else {}
        if given_by.get(row.item_id) == name:
            blank["before"] = None
        given_by[row.item_id] = row.actor if gives else None
        if blank:
            connection.execute(sa.update(audit).where(audit.c.id == row.id).values(blank))
