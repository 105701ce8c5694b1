"""Take in people who come from a panel: by the parameters of their link, without a password."""

from __future__ import annotations

import re
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from urllib.parse import quote

import sqlalchemy as sa

from ..records import Annotator
from ..settings import Settings
from .queue import ANNOTATORS, annotator_named, read_settings, release_held
from .schema import annotators, panelists
from .store import FeedbackStore
from .withdrawing import person_mark

__all__ = ["Panelist", "answer_screening", "end_part", "enter_panel", "list_panelists", "panelist", "return_address"]

_LONGEST = 200  # characters of a parameter's value
# A gap of the link that the panel has not filled in: everybody would share the account of that name.
_UNFILLED = re.compile(r"\{\{.*\}\}|\$\{.*\}|\{%.*%\}|\[%.*%\]|%%.*%%|\$e\{.*\}")


@dataclass(frozen=True)
class Panelist:
    """Hold a person of a panel.

    Attributes:
        annotator: the name of the account, drawn at random. Exports have it, and not what the panel calls the person.
        parameters: what the link told. Personal data.
        screening: their answers to the screening questions; None before.
        state: "active", "completed", "screened out", or "full" (nothing was left for them).
        created: when they came first (UTC).
        ended: when they were done (UTC).
    """

    annotator: str
    parameters: dict[str, str]
    screening: list[str] | None
    state: str
    created: datetime
    ended: datetime | None


_PANELISTS = sa.select(
    annotators.c.name,
    panelists.c.parameters,
    panelists.c.screening,
    panelists.c.state,
    panelists.c.created,
    panelists.c.ended,
).select_from(panelists.join(annotators))


def enter_panel(store: FeedbackStore, given: Mapping[str, str]) -> Annotator:
    """Return the account of a person who comes from a panel. Whoever comes for the first time gets one.

    The same link again, also at the same time, is the same account.

    Args:
        store: has the accounts.
        given: the parameters of the link. Those that the settings do not name are dropped.

    Raises:
        LookupError: the project takes nobody from a panel.
        ValueError: a parameter is missing, empty or too long, or a gap that the panel did not fill in.
        PermissionError: the person has withdrawn, or an admin switched the account off.
    """
    with store._database.write() as connection:
        store._database.one_writer(connection)  # two browsers with one link make one account
        panel = read_settings(connection).panel
        if not panel.person:
            raise LookupError("this project takes nobody from a panel: the setting panel.person is empty")
        kept = {name: _checked(name, given.get(name, "")) for name in (panel.person, *panel.parameters)}
        person = kept[panel.person]
        known = sa.select(panelists).where(panelists.c.person.in_([person, person_mark(person)]))
        row = connection.execute(known).one_or_none()
        if row is None:
            return _add(connection, person, kept, store._clock())
        account = Annotator(*connection.execute(ANNOTATORS.where(annotators.c.id == row.annotator_id)).one())
        if not account.active:
            raise PermissionError(f"the account {account.name!r} is closed")
        if row.parameters != kept:  # a later session of the same person
            mine = panelists.c.annotator_id == account.id
            connection.execute(sa.update(panelists).where(mine).values(parameters=kept))
        return account


def answer_screening(store: FeedbackStore, annotator: str, answers: Sequence[str]) -> bool:
    """Store a person's answers to the screening questions. Return whether they go on; if not, they are screened out.

    The first answers count.

    Raises:
        ValueError: there are other questions than answers, or one is no option.
    """
    with store._database.write() as connection:
        questions = read_settings(connection).panel.screening
        person = annotator_named(connection, annotator, lock=True)
        mine = panelists.c.annotator_id == person.id
        row = connection.execute(sa.select(panelists).where(mine)).one_or_none()
        if row is None:
            raise ValueError(f"{annotator!r} did not come from a panel")
        if row.screening is None:
            if len(answers) != len(questions):
                raise ValueError(f"there are {len(questions)} questions, got {len(answers)} answers")
            for question, answer in zip(questions, answers, strict=True):
                if answer not in question.options:
                    raise ValueError(f"{question.text!r}: {answer[:200]!r} is none of {list(question.options)}")
            fits = all(answer in question.accept for question, answer in zip(questions, answers, strict=True))
            out: dict[str, Any] = {} if fits else {"state": "screened out", "ended": store._clock()}
            connection.execute(sa.update(panelists).where(mine).values(screening=list(answers), **out))
            return fits
        return bool(row.state != "screened out")


def end_part(store: FeedbackStore, annotator: str, state: str) -> None:
    """Close a person's part as "completed", "screened out" or "full". Nothing happens if it is closed already."""
    with store._database.write() as connection:
        person = annotator_named(connection, annotator, lock=True)
        open_part = panelists.c.annotator_id == person.id, panelists.c.state == "active"
        ended = {"state": state, "ended": store._clock()}
        release_held(connection, person.id)
        connection.execute(sa.update(panelists).where(*open_part).values(ended))


def panelist(store: FeedbackStore, annotator: str) -> Panelist | None:
    """Return the person of a panel behind an account, or None."""
    with store._database.read() as connection:
        row = connection.execute(_PANELISTS.where(annotators.c.name == annotator)).one_or_none()
    return None if row is None else Panelist(*row)


def list_panelists(store: FeedbackStore) -> list[Panelist]:
    """Return everybody who came from a panel, oldest first. What they are called there is personal data."""
    with store._database.read() as connection:
        return [Panelist(*row) for row in connection.execute(_PANELISTS.order_by(panelists.c.annotator_id))]


def return_address(settings: Settings, person: Panelist) -> tuple[str, str]:
    """Return the (code, address) with which a person goes back to the panel; each may be empty."""
    panel = settings.panel
    code, url = panel.screen_out_code, panel.screen_out_url
    if person.state == "completed":
        code, url = panel.completion_code, panel.completion_url
    filled = re.sub(r"\{([^{}]*)\}", lambda gap: quote(person.parameters.get(gap[1], ""), safe=""), url)
    return code, filled


def _checked(name: str, value: str) -> str:
    value = value.strip()
    if not 0 < len(value) <= _LONGEST or not value.isprintable() or not value.isascii():
        raise ValueError(f"the link needs {name}=..., 1 to {_LONGEST} characters of ASCII, got {value[:_LONGEST]!r}")
    if _UNFILLED.search(value):
        raise ValueError(
            f"{name}={value} is a gap that the panel did not fill in; to try the link, write a name such as "
            f"{name}=test-1"
        )
    return value


def _add(connection: sa.Connection, person: str, kept: dict[str, str], now: datetime) -> Annotator:
    name = f"panel-{secrets.token_hex(5)}"
    new = sa.insert(annotators).values(name=name, role="annotator", created=now).returning(annotators.c.id)
    account = connection.execute(new).scalar_one()
    row = {"annotator_id": account, "person": person, "parameters": kept, "state": "active", "created": now}
    connection.execute(sa.insert(panelists).values(row))
    return annotator_named(connection, name)
