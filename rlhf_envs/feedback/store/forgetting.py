"""Forget a person: delete what they gave, or keep it under another name, and say what stays and why."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from ..records import NoSuchAnnotator
from .accounts import check_other_admin
from .auditing import log_change
from .queue import release_held
from .schema import (
    adjudications,
    annotators,
    audit,
    deliveries,
    judgements,
    panelists,
    readings,
    training_answers,
    withdrawals,
)
from .searching import fold_judgement
from .store import FeedbackStore
from .withdrawing import (
    close_account,
    delete_traces,
    forget_choices,
    forget_events,
    free_name,
    hide_panelist,
    take_back,
    take_out,
)

__all__ = ["Forgotten", "forget_person"]

_NOTES = (
    "out of reach: backups and copies of the store, files that were exported, logs, events that a webhook has sent, "
    "and models that were trained on the answers",
    "not searched: the texts of questions and answers and the project's settings, which may speak of the person "
    "(mask_private masks what comes in)",
)
# Letters of scripts that put no space around a name: Thai to Khmer, kana, Chinese characters, hangul.
_UNSPACED = (
    r"\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uac00-\ud7a3\uf900-\ufaff\U00020000-\U0003ffff"
)


@dataclass(frozen=True)
class Forgotten:
    """Hold what became of a person's data.

    Attributes:
        known_as: the name under which the account stands now. It says nothing of the person.
        labels: "deleted" or "pseudonymised".
        answers: how many answers and skips were deleted, or stand under the new name.
        comments: how many comments were deleted. With their answer if that was.
        kept: what stays and why, in sentences.
    """

    known_as: str
    labels: str
    answers: int
    comments: int
    kept: tuple[str, ...]
    notes: tuple[str, ...] = _NOTES  # what is beyond the store, or was not looked at


def forget_person(store: FeedbackStore, name: str, *, pseudonymise: bool = False, by: str | None = None) -> Forgotten:
    """Delete a person's data, or cut it from their name. Also of who has withdrawn and whose labels were kept.

    Deleting is as a withdrawal with `consent.withdrawn_labels` "delete": their answers, final answers, training and
    readings go, and others are asked in their place. Pseudonymising keeps answers, final answers, training and readings
    under a new name, and deletes comments, which people may sign. In both the account is closed for good, the name
    leaves the audit, the events for the webhook and what others wrote as comments and reasons, where the new name takes
    its place as a word in upper or lower case, and of a panel's identifier a hash stays.

    Args:
        store: holds the data.
        name: who shall be forgotten.
        pseudonymise: keep the answers under another name.
        by: who does it; the person by default.

    Raises:
        NoSuchAnnotator: nobody has this name. So it is after the first call.
        ValueError: nobody else active is an admin.
    """
    with store._database.write() as connection:
        store._database.one_writer(connection)
        query = sa.select(annotators.c.id, annotators.c.withdrawn).where(annotators.c.name == name)
        person = connection.execute(query).one_or_none()
        if person is None:
            raise NoSuchAnnotator(f"there is no annotator {name!r}: nothing was changed")
        now, theirs = store._clock(), judgements.c.annotator_id == person.id
        n = connection.execute(sa.select(sa.func.count()).where(theirs)).scalar_one()
        judged = connection.execute(sa.select(judgements.c.item_id).where(theirs).distinct()).scalars().all()
        comments = _comments(connection, person.id)
        if pseudonymise:
            known_as = _pseudonymise(connection, person.id, name, comments)
        elif person.withdrawn is None:
            known_as = take_out(connection, name, now, by=by, deletes=True, action="forget person").annotator
        else:
            known_as = _delete_kept(connection, person.id, name)
        _rename_in_words(connection, name, known_as)
        labels = "pseudonymised" if pseudonymise else "deleted"
        if pseudonymise or person.withdrawn is not None:  # else `take_out` has done so
            what = {"labels": labels, "answers": n}
            who = known_as if by in (None, name) else str(by)
            log_change(connection, now, who, "forget person", annotator=known_as, after=what)
        return Forgotten(
            known_as, labels, n, len(comments), _kept(connection, person.id, known_as, judged, pseudonymise)
        )


def _comments(connection: sa.Connection, person: int) -> list[dict[str, Any]]:
    """Return the judgements of a person that have a comment."""
    query = sa.select(judgements.c.id, judgements.c.value, judgements.c.answers, judgements.c.comment)
    rows = connection.execute(query.where(judgements.c.annotator_id == person))
    return [dict(row._mapping) for row in rows if row.comment]


def _delete_kept(connection: sa.Connection, person: int, name: str) -> str:
    """Delete what was kept of a person who had withdrawn. Return the account's new name."""
    take_back(connection, person, deletes=True)
    forget_events(connection, name, deletes=True)
    known_as = delete_traces(connection, person, name)
    connection.execute(sa.update(annotators).where(annotators.c.id == person).values(name=known_as))
    connection.execute(sa.update(withdrawals).where(withdrawals.c.annotator == known_as).values(labels="deleted"))
    return known_as


def _pseudonymise(connection: sa.Connection, person: int, name: str, comments: list[dict[str, Any]]) -> str:
    """Give a person's account a name that says nothing, close it, and delete comments. Return the name."""
    check_other_admin(connection, name)
    known_as = free_name(connection, f"person-{person}")
    release_held(connection, person)
    close_account(connection, person, name)
    forget_choices(connection)
    for row in comments:
        blank = {"comment": "", "search": fold_judgement({**row, "comment": ""})}
        connection.execute(sa.update(judgements).where(judgements.c.id == row["id"]).values(blank))
    connection.execute(sa.update(adjudications).where(adjudications.c.annotator_id == person).values(comment=""))
    _rename_in_audit(connection, name, known_as)
    for column in ("by", "annotator"):
        connection.execute(sa.update(withdrawals).where(withdrawals.c[column] == name).values({column: known_as}))
    _rename_in_events(connection, name, known_as)
    hide_panelist(connection, person)
    account = {"name": known_as, "active": False, "password_hash": None}
    connection.execute(sa.update(annotators).where(annotators.c.id == person).values(account))
    return known_as


def _rename_in_audit(connection: sa.Connection, name: str, known_as: str) -> None:
    """Give a person their new name in the audit, and delete their comments there, and what others said of them."""
    query = sa.select(audit).where(sa.or_(audit.c.actor == name, audit.c.annotator == name))
    for row in connection.execute(query).all():
        changes: dict[str, Any] = {"reason": ""} if row.action == "final answer" and row.actor == name else {}
        if row.annotator == name:
            changes |= {
                "annotator": known_as,
                "before": _without_comment(row.before),
                "after": _without_comment(row.after),
            }
        if row.actor == name:
            changes["actor"] = known_as
        if changes:
            connection.execute(sa.update(audit).where(audit.c.id == row.id).values(changes))


def _as_word(name: str) -> re.Pattern[str]:
    """Return what finds a name as a word, in upper or lower case.

    In scripts without spaces a name stands amid other letters, which do not make it a part of a longer word. A name of
    one letter would then be found in many words, so around it there must be none.
    """
    letter = rf"[^\W{_UNSPACED}]" if len(name) > 1 else r"\w"
    before, after = ("" if re.match(f"[{_UNSPACED}]", end) and len(name) > 1 else letter for end in (name[0], name[-1]))
    found = (f"(?<!{before})" if before else "") + re.escape(name) + (f"(?!{after})" if after else "")
    return re.compile(found, re.IGNORECASE)


def _rename_in_words(connection: sa.Connection, name: str, known_as: str) -> None:
    """Write a person's new name for the old where others wrote it: in reasons of any change, and in comments."""
    word = _as_word(name)

    def renamed(value: Any) -> Any:
        """Return a text, or an answer's fields with their comment, without the name."""
        if isinstance(value, str):
            return word.sub(lambda _: known_as, value)  # a function, since the name may have backslashes
        commented = isinstance(value, dict) and isinstance(value.get("comment"), str)
        return {**value, "comment": renamed(value["comment"])} if commented else value

    for table, key, columns in (
        (audit, audit.c.id, ("reason", "before", "after")),
        (adjudications, adjudications.c.item_id, ("comment",)),
        (judgements, judgements.c.id, ("comment", "value", "answers")),
    ):
        for row in connection.execute(sa.select(key.label("key"), *(table.c[column] for column in columns))).all():
            told = row._mapping
            changes = {c: renamed(told[c]) for c in columns if c not in ("value", "answers")}
            changes = {column: text for column, text in changes.items() if text != told[column]}
            if changes and table is judgements:
                changes["search"] = fold_judgement({**told, **changes})
            if changes:
                connection.execute(sa.update(table).where(key == row.key).values(changes))
    for row in connection.execute(sa.select(deliveries.c.id, deliveries.c.payload)).all():
        data = renamed(row.payload.get("data"))
        if data != row.payload.get("data"):
            payload = {**row.payload, "data": data}
            connection.execute(sa.update(deliveries).where(deliveries.c.id == row.id).values(payload=payload))


def _without_comment(value: Any) -> Any:
    return {**value, "comment": ""} if isinstance(value, dict) and value.get("comment") else value


def _rename_in_events(connection: sa.Connection, name: str, known_as: str) -> None:
    """Give a person their new name in the events for the webhook, sent or not, and delete their comments there."""
    query = sa.select(deliveries.c.id, deliveries.c.payload).where(deliveries.c.event == "judgement.created")
    for row in connection.execute(query).all():
        data = row.payload["data"]
        if data["annotator"] == name:
            told = {**data, "annotator": known_as} | ({"comment": ""} if "comment" in data else {})
            payload = {**row.payload, "data": told}
            connection.execute(sa.update(deliveries).where(deliveries.c.id == row.id).values(payload=payload))


def _kept(
    connection: sa.Connection, person: int, known_as: str, judged: Sequence[int], pseudonymise: bool
) -> tuple[str, ...]:
    """Return what stays of a person in the store, and why, in sentences."""

    def count(table: sa.Table, *where: sa.ColumnElement[bool]) -> int:
        return int(connection.execute(sa.select(sa.func.count()).select_from(table).where(*where)).scalar_one())

    kept = [f"the account, closed, as {known_as!r}: other tables refer to it"]
    if pseudonymise:
        for table, what in (
            (judgements, "answers and skips, with the texts that they wrote: they stay labels"),
            (adjudications, "final answers, which decide items"),
            (training_answers, "answers of the training"),
            (readings, "readings of the guidelines and the consent: they show what was agreed to"),
        ):
            if n := count(table, table.c.annotator_id == person):
                kept.append(f"{n} {what}")
    if n := count(audit, sa.or_(audit.c.actor == known_as, audit.c.annotator == known_as)):
        kept.append(f"{n} rows of the audit, under that name: they show that something was changed")
    by_others = sa.select(adjudications.c.item_id).where(adjudications.c.annotator_id != person)
    finals = set(connection.execute(by_others).scalars())
    if n := len(finals.intersection(judged)):
        kept.append(f"{n} final answers to items that they judged: whoever gave them stands behind them")
    if count(panelists, panelists.c.annotator_id == person):
        kept.append("a hash of what a panel called them: the same link shall make no second account")
    return tuple(kept)
