"""Many people and an admin do anything in any order. The counts must stay what a recount gives. On both databases."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from rlhf_envs.feedback import FeedbackStore, LeaseLost, NewItem
from rlhf_envs.feedback.deciding import judgements_needed
from rlhf_envs.feedback.formats.exporting import export_file
from rlhf_envs.feedback.formats.importing import import_file
from rlhf_envs.feedback.settings import NEXT_ITEM
from rlhf_envs.feedback.store.schema import items, judgements
from rlhf_envs.feedback.store.withdrawing import withdraw_person

WHY = {"by": "root", "reason": "a test"}
VALUES: dict[str, list[dict[str, Any]]] = {
    "pairwise": [{"choice": choice, "strength": 1} for choice in (0, 1)] + [{"choice": None, "strength": 0}],
    "rating": [{"rating": rating} for rating in (1, 3, 5)],
    "thumbs": [{"up": True}, {"up": False}],
}


@pytest.fixture
def store(store_url: str, clock: Any) -> Iterator[FeedbackStore]:
    with FeedbackStore(store_url, seed=0, clock=clock) as opened:
        opened.add_annotator("root", "admin")
        yield opened


class Work:
    """Do one thing after another, drawn by a seed."""

    def __init__(self, store: FeedbackStore, clock: Any, seed: int) -> None:
        self.store, self.clock, self.draw = store, clock, random.Random(seed)
        self.people = [f"p{i}" for i in range(5)]
        for name in self.people:
            store.add_annotator(name)
        self.held: dict[str, Any] = {}
        self.n = 0

    def step(self) -> None:
        """Do one thing. What cannot be done now is refused with a LeaseLost or a ValueError."""
        acts = (
            [self.answer] * 12 + [self.claim] * 6 + [self.undo] * 4 + [self.release, self.expire, self.fix, self.drop]
        )
        acts += [self.restore, self.withdraw, self.ask_again, self.overlap, self.final, self.priority, self.add]
        if self.n % 40 == 39:
            acts = [self.leave]
        self.n += 1
        self.clock.forward(1)
        with suppress(LeaseLost, ValueError):
            self.draw.choice(acts)()

    def claim(self) -> None:
        name = self.draw.choice(self.people)
        task = self.store.claim(name)
        self.held[name] = task

    def answer(self) -> None:
        name = self.draw.choice(self.people)
        task = self.held.get(name) or self.store.claim(name)
        if task is not None:
            value = None if self.draw.random() < 0.15 else self.draw.choice(VALUES[task.item.kind])
            self.held.pop(name, None)
            self.store.submit(task.id, name, value, key=f"key-{self.n}")

    def undo(self) -> None:
        name = self.draw.choice(self.people)
        self.held[name] = self.store.undo(name)

    def release(self) -> None:
        name = self.draw.choice(self.people)
        if self.held.get(name):
            self.store.release(self.held.pop(name).id, name)

    def expire(self) -> None:
        self.clock.forward(self.store.settings.lease_seconds + 1)

    def _judgement(self) -> int:
        with self.store._database.read() as connection:
            return self.draw.choice([0, *connection.execute(sa.select(judgements.c.id)).scalars()])

    def _item(self) -> int:
        return self.draw.choice(self.store.items()).id

    def fix(self) -> None:
        value = self.draw.choice([None, *(value for kind in VALUES.values() for value in kind)])
        self.store.fix_judgement(self._judgement(), value, **WHY)

    def drop(self) -> None:
        self.store.drop_judgement(self._judgement(), reopen=self.draw.random() < 0.5, **WHY)

    def restore(self) -> None:
        self.store.restore_judgement(self._judgement(), **WHY)

    def withdraw(self) -> None:
        self.store.withdraw_items([self._item()], **WHY)

    def ask_again(self) -> None:
        self.store.ask_again([item.id for item in self.store.items()], **WHY)

    def overlap(self) -> None:
        self.store.set_overlap([self._item()], self.draw.randint(1, 4), **WHY)

    def priority(self) -> None:
        self.store.update_settings(next_item=self.draw.choice(NEXT_ITEM))
        self.store.set_priority([self._item()], self.draw.random(), **WHY)

    def final(self) -> None:
        item = self.draw.choice(self.store.items())
        self.store.adjudicate(item.id, self.draw.choice(VALUES[item.kind]), by="root")

    def add(self) -> None:
        kind = self.draw.choice(list(VALUES))
        texts = ("a", "b") if kind == "pairwise" else ("a",)
        most = self.draw.choice([None, None, 3, 5])
        self.store.add_items([NewItem(kind, f"prompt {self.n}", texts, overlap=2, max_overlap=most)])

    def leave(self) -> None:
        name = self.people.pop(0)
        self.people.append(f"p{self.n}")
        self.store.add_annotator(self.people[-1])
        labels = self.draw.choice(["keep", "delete"])
        self.store.update_settings(consent={"text": "", "withdrawn_labels": labels})
        withdraw_person(self.store, name)
        self.held.pop(name, None)


def assert_counts(store: FeedbackStore) -> None:
    """Every item needs what a recount of its judgements gives, and nobody has judged an item twice."""
    stand: dict[int, list[dict[str, Any]]] = {}
    for judgement in store.judgements():
        stand.setdefault(judgement.item_id, []).append(judgement.value or {})
    with store._database.read() as connection:
        for row in connection.execute(sa.select(items)):
            values = stand.get(row.id, [])
            if row.withdrawn is not None:
                expected = (0, len(values))
            elif row.max_overlap is not None:
                expected = (judgements_needed(row.kind, values, row.overlap, row.max_overlap), row.overlap)
            else:
                expected = (row.overlap - len(values), row.overlap)
            assert (row.needed, row.overlap) == expected, row


@pytest.mark.parametrize("seed", range(3))
def test_counts_stay_right_whatever_people_and_admins_do(
    store: FeedbackStore, clock: Any, seed: int, tmp_path: Path
) -> None:
    work = Work(store, clock, seed)
    for _ in range(6):
        work.add()
        work.n += 1
    for _ in range(120):
        work.step()
        assert_counts(store)
    assert len(store.judgements(include_skips=True)) > 5
    export_file(store, tmp_path / "all.jsonl", "items")
    with FeedbackStore(tmp_path / "copy.db") as copy:
        done = import_file(copy, tmp_path / "all.jsonl")
        assert done.bad == ()
        assert_counts(copy)
        assert {item.id: item.max_overlap for item in copy.items()} == {
            i: m for i, m in enumerate((item.max_overlap for item in store.items()), 1)
        }
        for format in ("preference", "ratings", "kto"):
            for place, one in (("a", store), ("b", copy)):
                export_file(one, tmp_path / f"{place}.jsonl", format)
            assert (tmp_path / "a.jsonl").read_bytes() == (tmp_path / "b.jsonl").read_bytes()
