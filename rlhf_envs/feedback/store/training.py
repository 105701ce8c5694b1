"""Train people on gold questions with an explanation. Their answers are kept apart from the judgements."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

import sqlalchemy as sa

from ..answers import check_answers, expected_now, matches
from ..kinds import check_value, matches_gold
from ..masking import PrivateTexts
from ..records import Annotator, Item, LeaseLost, NoSuchAnnotator
from ..settings import Settings
from .auditing import log_change, log_masks
from .queue import ITEMS, annotator_named, item_of, read_settings, release_held
from .schema import IN_TRAINING, annotators, items, training_answers
from .store import FeedbackStore
from .versions import asked_of

__all__ = [
    "Trainee",
    "TrainingResult",
    "TrainingTask",
    "admit",
    "answer_training",
    "is_training_due",
    "list_trainees",
    "next_training",
    "pool_size",
]

Outcome = Literal["", "passed", "again", "failed"]


@dataclass(frozen=True)
class TrainingTask:
    """Hold an item of a person's training.

    Attributes:
        sides: the order in which to show the completions.
        attempt: which try it is, from 1.
        done: how many of the try's `n` items are answered.
    """

    item: Item
    annotator: Annotator
    sides: tuple[int, ...]
    attempt: int
    done: int
    n: int


@dataclass(frozen=True)
class TrainingResult:
    """Hold what came of an answer: whether it was right, what was expected, and why.

    `outcome` is empty until all `n` items of the try are answered.
    """

    is_right: bool
    expected: dict[str, Any]
    explanation: str
    done: int
    n: int
    n_right: int
    outcome: Outcome


@dataclass(frozen=True)
class Trainee:
    """Hold how a person's training stands: the tries begun, the answers of the last one, and when it ended (UTC)."""

    annotator: str
    attempt: int
    n_right: int
    done: int
    admitted: datetime | None
    failed: datetime | None


def is_training_due(connection: sa.Connection, settings: Settings, person: sa.Row[Any]) -> bool:
    """Return whether a person (a row of `annotators`) must be trained. Without fitting gold questions nobody must."""
    if settings.training.n_items == 0 or person.role != "annotator" or person.admitted is not None:
        return False
    return bool(_pool(connection, settings))


def next_training(store: FeedbackStore, annotator: str) -> TrainingTask | None:
    """Return the next item of a person's training, or None if there is none for them."""
    with store._database.read() as connection:
        settings, person = read_settings(connection), _person(connection, annotator)
        if person.failed is not None or not is_training_due(connection, settings, person):
            return None
        state = _State(connection, settings, person.id)
        item = item_of(connection.execute(ITEMS.where(items.c.id == state.next_item())).one())
        account = annotator_named(connection, annotator)
    sides = tuple(range(len(item.completions)))  # as they are stored, so that an explanation may speak of A and B
    return TrainingTask(item, account, sides, state.attempt, len(state.answered), state.n)


def answer_training(
    store: FeedbackStore,
    annotator: str,
    attempt: int,
    item_id: int,
    value: Mapping[str, Any] | None,
    *,
    seconds: float = 0.0,
    answers: Mapping[str, Any] | None = None,
    version: int | None = None,
) -> TrainingResult:
    """Store an answer of the training. None, a skip, is not right. The same call again adds nothing.

    It is right if the value is the expected one, and so are the `answers` to those of the project's own questions whose
    answer is expected too (`gold["answers"]`). What is expected in a question's former meaning does not count.

    Raises:
        ValueError: the value is no answer of the item's kind, an answer none to its question, a required one is
            missing, or there is no such annotator or version.
        LeaseLost: the item is not the next of this try: another window has answered, or an admin let the person in.
    """
    with store._database.write() as connection:
        store._database.one_writer(connection)
        settings = read_settings(connection)
        annotator_named(connection, annotator, lock=True)
        person = _person(connection, annotator)
        given = {"annotator_id": person.id, "attempt": attempt, "item_id": item_id}
        known = connection.execute(sa.select(training_answers).filter_by(**given)).one_or_none()
        if known is None:
            due = person.failed is None and is_training_due(connection, settings, person)
            state = _State(connection, settings, person.id) if due else None
            if state is None or (state.attempt, state.next_item()) != (attempt, item_id):
                raise LeaseLost(f"item {item_id} is not the next of {annotator!r}'s training: claim a task")
        item = item_of(connection.execute(ITEMS.where(items.c.id == item_id)).one())
        assert item.gold is not None, "only gold questions are in the training"
        if known is None:
            asked, settings_then = asked_of(connection, version, settings)
            texts = PrivateTexts(settings)
            checked = texts.value(check_value(item.kind, value, len(item.completions), settings_then))
            own = check_answers(item, checked, answers, settings_then.questions)
            wanted = expected_now(item, settings_then.questions)
            own = texts.answers(own, settings_then.questions)
            log_masks(connection, store._clock(), texts, item_id=item_id)
            is_right = checked is not None and matches_gold(item.kind, item.gold, checked) and matches(wanted, own)
            row = {**given, "value": checked, "is_right": is_right, "seconds": seconds, "created": store._clock()}
            connection.execute(sa.insert(training_answers).values(**row, answers=own or None, version=asked))
        result = _result(connection, settings, given, item)
        ends = {"passed": {"admitted": store._clock()}, "failed": {"failed": store._clock()}}
        if known is None and result.outcome in ends:
            connection.execute(sa.update(annotators).where(annotators.c.id == person.id).values(ends[result.outcome]))
        if result.outcome == "failed":  # they may hold an item from before there was a training
            release_held(connection, person.id)
        return result


def admit(store: FeedbackStore, annotator: str, *, by: str = "") -> None:
    """Let a person in without their passing the training. The audit keeps that `by` did it.

    Raises:
        ValueError: there is no such annotator.
    """
    with store._database.write() as connection:
        person = annotator_named(connection, annotator, lock=True)
        changed = {"admitted": store._clock(), "failed": None}
        connection.execute(sa.update(annotators).where(annotators.c.id == person.id).values(changed))
        log_change(connection, store._clock(), by, "let in", annotator=annotator)


def pool_size(store: FeedbackStore) -> int:
    """Return of how many gold questions the training can be made."""
    with store._database.read() as connection:
        return len(_pool(connection, read_settings(connection)))


def list_trainees(store: FeedbackStore) -> list[Trainee]:
    """Return how everybody's training stands who began one or was let in, by name."""
    with store._database.read() as connection:
        people = connection.execute(sa.select(annotators).order_by(annotators.c.name)).all()
        answers: dict[int, list[sa.Row[Any]]] = {}
        for row in connection.execute(sa.select(training_answers)):
            answers.setdefault(row.annotator_id, []).append(row)
    found = []
    for person in people:
        given = answers.get(person.id, [])
        attempt = max((row.attempt for row in given), default=0)
        last = [row.is_right for row in given if row.attempt == attempt]
        if given or person.admitted:
            found.append(Trainee(person.name, attempt, sum(last), len(last), person.admitted, person.failed))
    return found


class _State:
    """Show where a person is in the training.

    A try takes the items that the person has met least often, in an order of the person's own.
    """

    def __init__(self, connection: sa.Connection, settings: Settings, person: int) -> None:
        query = sa.select(training_answers.c.item_id, training_answers.c.attempt)
        rows = connection.execute(query.where(training_answers.c.annotator_id == person)).all()
        self.pool = _pool(connection, settings)
        self.attempt = max((row.attempt for row in rows), default=1)
        self.n = min(settings.training.n_items, len(self.pool))
        self.answered = {row.item_id for row in rows if row.attempt == self.attempt}
        if len(self.answered) >= self.n:
            self.attempt, self.answered = self.attempt + 1, set()
        self._met = Counter(row.item_id for row in rows if row.attempt < self.attempt)
        self._person = person

    def next_item(self) -> int:
        """Return the id of the item that comes next."""
        return min((i for i in self.pool if i not in self.answered), key=lambda i: (self._met[i], self._rank(i)))

    def _rank(self, item_id: int) -> str:
        return hashlib.sha256(f"{self._person}:{item_id}".encode()).hexdigest()


def _pool(connection: sa.Connection, settings: Settings) -> Sequence[int]:
    """Return the ids of the training's items."""
    query = sa.select(items.c.id).where(IN_TRAINING, items.c.withdrawn.is_(None))
    if settings.training.items:
        query = query.where(items.c.id.in_(settings.training.items))
    return connection.execute(query).scalars().all()


def _result(connection: sa.Connection, settings: Settings, given: dict[str, Any], item: Item) -> TrainingResult:
    """Return what came of an answer that is stored, with how its try stands."""
    query = sa.select(training_answers.c.item_id, training_answers.c.is_right)
    query = query.filter_by(annotator_id=given["annotator_id"], attempt=given["attempt"])
    right = {row.item_id: row.is_right for row in connection.execute(query)}
    training = settings.training
    n = min(training.n_items, len(_pool(connection, settings)))
    outcome: Outcome = ""
    if len(right) >= n:
        has_passed = sum(right.values()) >= training.pass_mark * len(right) - 1e-9
        outcome = "passed" if has_passed else "again" if given["attempt"] < training.tries else "failed"
    explanation = str(item.meta.get("explanation", ""))
    assert item.gold is not None
    return TrainingResult(right[item.id], item.gold, explanation, len(right), n, sum(right.values()), outcome)


def _person(connection: sa.Connection, name: str) -> sa.Row[Any]:
    row = connection.execute(sa.select(annotators).where(annotators.c.name == name)).one_or_none()
    if row is None:
        raise NoSuchAnnotator(f"there is no annotator {name!r}")
    return row
