"""What a withdrawal leaves of a person: accounts, final answers, dropped answers and the audit, on both databases."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import sqlalchemy as sa

from rlhf_envs.feedback import FeedbackStore, NewItem
from rlhf_envs.feedback.settings_file import changes_for_audit
from rlhf_envs.feedback.store.panels import answer_screening, enter_panel, list_panelists
from rlhf_envs.feedback.store.schema import annotators, invitations, sessions
from rlhf_envs.feedback.store.withdrawing import answers_of, list_withdrawals, withdraw_person

WHY = {"by": "root", "reason": "ann was in a hurry"}
GOOD, BAD = {"rating": 5}, {"rating": 1}


@pytest.fixture(params=["keep", "delete"])
def labels(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def store(store_url: str, clock: Any, labels: str) -> Iterator[FeedbackStore]:
    with FeedbackStore(store_url, seed=0, clock=clock) as store:
        store.update_settings(consent={"withdrawn_labels": labels})
        store.add_annotator("ann")
        store.add_annotator("root", "admin")
        store.add_items([NewItem("rating", f"p{i}", ("c",)) for i in range(2)])
        yield store


def judge(store: FeedbackStore, name: str) -> int:
    task = store.claim(name)
    assert task is not None
    return store.submit(task.id, name, GOOD, key=f"{name}-{task.id}", comment="hm").id


def rows(store: FeedbackStore, query: sa.Select[Any]) -> list[tuple[Any, ...]]:
    with store._database.read() as connection:
        return [tuple(row) for row in connection.execute(query)]


def test_the_sessions_the_links_and_the_password_of_who_withdrew_are_deleted(store: FeedbackStore) -> None:
    store.register(store.invite_to_reset("ann"), "ann", "a hash")
    unused = store.invite_to_reset("ann")
    assert store.begin_session("ann", "a hash") is not None
    others = store.begin_session("root", None)
    assert others is not None
    known_as = withdraw_person(store, "ann").annotator
    accounts = rows(store, sa.select(annotators.c.name, annotators.c.password_hash).order_by(annotators.c.id))
    assert accounts == [(known_as, None), ("root", None)]
    assert rows(store, sa.select(annotators.c.name).select_from(sessions.join(annotators))) == [("root",)]
    assert store.session_annotator(others) is not None
    assert rows(store, sa.select(invitations.c.token_hash).where(invitations.c.annotator_id.is_not(None))) == []
    with pytest.raises(ValueError, match="unknown, used or out of date"):
        store.register(unused, "ann", "another hash")


def test_a_dropped_answer_of_who_withdrew_cannot_be_restored(store: FeedbackStore, labels: str) -> None:
    dropped = judge(store, "ann")
    store.drop_judgement(dropped, **WHY)
    withdraw_person(store, "ann")
    with pytest.raises(ValueError, match="there is no judgement" if labels == "delete" else "was not dropped"):
        store.restore_judgement(dropped, **WHY)
    assert store.judgements() == []
    assert store.count_dropped() == 0


def test_the_final_answers_of_who_withdrew_are_taken_away_and_others_stay(store: FeedbackStore) -> None:
    for item, name in ((1, "ann"), (2, "root")):
        store.adjudicate(item, BAD, by=name)
    withdraw_person(store, "ann")
    assert {item: final.by for item, final in store.adjudications().items()} == {2: "root"}


def test_the_audit_keeps_what_was_done_to_answers_and_loses_it_with_deleted_ones(
    store: FeedbackStore, labels: str
) -> None:
    store.add_annotator("bob")
    store.fix_judgement(judge(store, "ann"), BAD, **WHY)
    store.fix_judgement(judge(store, "bob"), BAD, by="ann", reason="bob said so")
    known_as = withdraw_person(store, "ann", by="root").annotator
    done, of_bob, of_ann = store.audit()
    assert (known_as == "ann") == (labels == "keep")
    assert (done.action, done.actor, done.annotator) == ("withdraw person", "root", known_as)
    assert done.after == {"labels": "kept" if labels == "keep" else "deleted", "answers": 1}
    assert (of_bob.actor, of_bob.annotator, of_bob.reason) == (known_as, "bob", "bob said so")
    assert of_bob.after == {"value": BAD, "comment": "hm"}
    assert (of_ann.action, of_ann.actor, of_ann.annotator) == ("fix", "root", known_as)
    kept = ({"value": GOOD, "comment": "hm"}, {"value": BAD, "comment": "hm"}, "ann was in a hurry")
    assert (of_ann.before, of_ann.after, of_ann.reason) == (kept if labels == "keep" else (None, None, ""))


def test_final_answers_of_who_withdrew_leave_the_audit_with_deleted_labels(store: FeedbackStore, labels: str) -> None:
    store.adjudicate(1, BAD, by="ann", comment="ann's words")
    store.adjudicate(1, GOOD, by="root", comment="root's words")
    store.adjudicate(2, BAD, by="ann", comment="ann's words")
    store.remove_adjudication(2, by="root", reason="undone")
    known_as = withdraw_person(store, "ann").annotator
    _, removed, of_ann, of_root, first = store.audit()
    gone = labels == "delete"
    assert (first.actor, first.after, first.reason) == (known_as, *((None, "") if gone else (BAD, "ann's words")))
    assert (of_root.before, of_root.after, of_root.reason) == (None if gone else BAD, GOOD, "root's words")
    assert (of_ann.after, removed.before, removed.reason) == (*((None, None) if gone else (BAD, BAD)), "undone")
    assert store.adjudications()[1].by == "root"


def test_who_withdrew_is_no_adjudicator_and_the_audit_names_none_that_was_deleted(
    store: FeedbackStore, labels: str
) -> None:
    before = store.settings
    after = store.update_settings(adjudicators=["ann", "bob"], paused=True)
    store.log("root", "settings", after=changes_for_audit(before, after))
    withdraw_person(store, "ann")
    assert store.settings.adjudicators == ("bob",)
    _, entry = store.audit()
    named = 'adjudicators: [] -> ["ann", "bob"]' if labels == "keep" else "adjudicators: changed"
    assert entry.after == ["paused: false -> true", named]


def test_a_deleted_admin_who_let_others_withdraw_is_named_no_more(store: FeedbackStore, labels: str) -> None:
    store.add_annotator("boss", "admin")
    withdraw_person(store, "ann", by="boss")
    known_as = withdraw_person(store, "boss").annotator
    assert [done.by for done in list_withdrawals(store)] == [known_as, known_as]
    assert (known_as == "boss") == (labels == "keep")
    assert {entry.actor for entry in store.audit()} == {known_as}


def test_a_name_that_looks_like_a_withdrawn_one_keeps_nobody_from_withdrawing(
    store: FeedbackStore, labels: str
) -> None:
    (ann,) = [person for person in store.annotators() if person.name == "ann"]
    store.add_annotator(f"withdrawn-{ann.id}")
    known_as = withdraw_person(store, "ann").annotator
    assert known_as == ("ann" if labels == "keep" else f"withdrawn-{ann.id}-2")
    assert store.add_annotator(f"withdrawn-{ann.id}").withdrawn is None


def test_ones_own_answers_have_the_final_ones(store: FeedbackStore) -> None:
    judge(store, "ann")
    store.adjudicate(1, BAD, by="ann", comment="ann's words")
    store.adjudicate(2, BAD, by="root", comment="root's words")
    given, final = answers_of(store, "ann")
    assert (given["answer"], given["value"]) == ("judgement", GOOD)
    assert (final["answer"], final["item"], final["value"], final["comment"]) == ("final answer", 1, BAD, "ann's words")


def test_what_a_panel_told_goes_with_deleted_labels(store: FeedbackStore, labels: str) -> None:
    question = {"text": "Are you over 40?", "options": ["yes", "no"], "accept": ["yes"]}
    store.update_settings(panel={"person": "PID", "parameters": ["STUDY"], "screening": [question]})
    name = enter_panel(store, {"PID": "one", "STUDY": "s1"}).name
    answer_screening(store, name, ["yes"])
    withdraw_person(store, name)
    (left,) = list_panelists(store)
    told = ({"PID": "one", "STUDY": "s1"}, ["yes"])
    assert (left.parameters, left.screening) == (told if labels == "keep" else ({}, None))
