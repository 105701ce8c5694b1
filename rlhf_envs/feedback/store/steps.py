"""Tell what a person does next, and how far they are."""

from __future__ import annotations

import statistics
from typing import Any, Literal

import sqlalchemy as sa

from ..records import NoSuchAnnotator, OwnProgress
from ..settings import Settings
from .documents import DOCUMENTS, digest_of, text_of
from .panels import Panelist, end_part, panelist
from .queue import count_asked, is_asked, read_settings
from .schema import IN_QUEUE, STANDS, annotators, items, judgements, panelists, readings
from .store import FeedbackStore
from .training import is_training_due

__all__ = ["Step", "close_part", "next_step", "own_progress"]

Step = Literal["consent", "screening", "guidelines", "training", "held", "work", "finished"]
_LAST = 50  # answers from which the pace is computed


def next_step(store: FeedbackStore, annotator: str) -> Step:
    """Return what a person does next.

    They agree to the consent, answer the screening questions (if they came from a panel), read the guidelines and are
    trained. Then they work. "held" is who failed the training, and "finished" whose part for a panel is over. Admins
    work at once.

    Raises:
        NoSuchAnnotator: there is no such annotator.
    """
    with store._database.read() as connection:
        settings, person = read_settings(connection), _person(connection, annotator)
        if person.role != "annotator":
            return "work"
        return _step(connection, settings, person)


def _person(connection: sa.Connection, name: str) -> sa.Row[Any]:
    """Return the annotator of this name, with the columns of who came from a panel."""
    query = sa.select(annotators, panelists.c.state, panelists.c.screening).select_from(annotators.outerjoin(panelists))
    person = connection.execute(query.where(annotators.c.name == name)).one_or_none()
    if person is None:
        raise NoSuchAnnotator(f"there is no annotator {name!r}")
    return person


def _step(connection: sa.Connection, settings: Settings, person: sa.Row[Any]) -> Step:
    is_from_panel = person.state is not None
    if is_from_panel and person.state != "active":
        return "finished"
    unread = _unread(connection, settings, person.id)
    if "consent" in unread:
        return "consent"
    if is_from_panel and person.screening is None and settings.panel.screening:
        return "screening"
    if "guidelines" in unread:
        return "guidelines"
    if is_training_due(connection, settings, person):
        if person.failed is None:
            return "training"
        return "finished" if is_from_panel else "held"
    cap = settings.panel.max_items
    if is_from_panel and cap and _n_done(connection, person.id) >= cap:
        return "finished"
    return "work"


def close_part(store: FeedbackStore, annotator: str) -> Panelist | None:
    """Return a person of a panel whose part is over, and close it if it is so by now. None for everybody else.

    A part is over at the cap, where nothing is left, and after a failed training. Who found nothing at all to do is
    "full".
    """
    person = panelist(store, annotator)
    if person is None or person.state != "active":
        return person
    step = next_step(store, annotator)
    if step == "work" and not store.settings.paused and store.claim(annotator) is None:
        state = "completed" if own_progress(store, annotator).done else "full"
    elif step == "finished":
        query = sa.select(annotators.c.failed).where(annotators.c.name == annotator)
        with store._database.read() as connection:
            state = "completed" if connection.execute(query).scalar() is None else "screened out"
    else:
        return None
    end_part(store, annotator, state)
    return panelist(store, annotator)


def own_progress(store: FeedbackStore, annotator: str) -> OwnProgress:
    """Return how far a person is. Items that others hold at this moment count as left.

    Raises:
        NoSuchAnnotator: there is no such annotator.
    """
    with store._database.read() as connection:
        settings, person = read_settings(connection), _person(connection, annotator)
        mine = judgements.c.annotator_id == person.id
        judged = sa.select(sa.func.count()).select_from(items.join(judgements, judgements.c.item_id == items.c.id))
        judged = judged.where(IN_QUEUE, is_asked(settings), mine, STANDS)
        in_all, waiting = count_asked(connection, settings)
        left = waiting - connection.execute(judged).scalar_one()
        done = _n_done(connection, person.id)
        last = sa.select(judgements.c.seconds).where(mine, STANDS).order_by(judgements.c.id.desc()).limit(_LAST)
        seconds = connection.execute(last).scalars().all()
    if person.state is not None and settings.panel.max_items:
        left = min(left, max(0, settings.panel.max_items - done))
    median = statistics.median(seconds) if seconds else None
    total = sum(seconds)
    pace = 3600 * len(seconds) / total if total > 0 else None
    return OwnProgress(done, left, median, pace, in_all, in_all - waiting)


def _n_done(connection: sa.Connection, person: int) -> int:
    query = sa.select(sa.func.count()).select_from(judgements).where(judgements.c.annotator_id == person, STANDS)
    return int(connection.execute(query).scalar_one())


def _unread(connection: sa.Connection, settings: Settings, person: int) -> set[str]:
    """Return the names of the documents whose present text a person has not read."""
    texts = {name: text for name in DOCUMENTS if (text := text_of(settings, name)).strip()}
    if not texts:
        return set()
    query = sa.select(readings.c.name, readings.c.digest).where(readings.c.annotator_id == person)
    read = {(row.name, row.digest) for row in connection.execute(query)}
    return {name for name, text in texts.items() if (name, digest_of(text)) not in read}
