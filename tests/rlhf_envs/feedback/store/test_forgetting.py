"""What `forget_person` leaves of a person, on both databases."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
import sqlalchemy as sa

from rlhf_envs.feedback import FeedbackStore, NewItem
from rlhf_envs.feedback.records import NoSuchAnnotator
from rlhf_envs.feedback.settings_file import changes_for_audit
from rlhf_envs.feedback.store.browsing import browse_judgements
from rlhf_envs.feedback.store.documents import current_document, note_reading
from rlhf_envs.feedback.store.filtering import JudgementFilter
from rlhf_envs.feedback.store.forgetting import _as_word, forget_person
from rlhf_envs.feedback.store.panels import enter_panel
from rlhf_envs.feedback.store.schema import metadata
from rlhf_envs.feedback.store.withdrawing import list_withdrawals, withdraw_person

NAME = "Zebulon Quist"
SECRET = "whsec_" + "A" * 32


@pytest.fixture
def store(store_url: str, clock: Any) -> Iterator[FeedbackStore]:
    """A store in which Zebulon has left every trace that a person can leave."""
    with FeedbackStore(store_url, seed=0, clock=clock) as store:
        hook = {"url": "https://x.org/hook", "secret": SECRET}
        before = store.settings
        after = store.update_settings(
            guidelines="Read this.", panel={"person": "PROLIFIC_PID"}, webhooks=hook, adjudicators=[NAME, "bob"]
        )
        store.log("root", "settings", after=changes_for_audit(before, after))
        for name, role in ((NAME, "annotator"), ("bob", "annotator"), ("root", "admin")):
            store.add_annotator(name, role)
        store.register(store.invite_to_reset(NAME), NAME, "a hash")
        store.invite_to_reset(NAME)
        store.begin_session(NAME, "a hash")
        guidelines = current_document(store, "guidelines")
        assert guidelines is not None
        note_reading(store, NAME, "guidelines", guidelines.digest)
        ids = store.add_items([NewItem("rating", f"p{i}", ("c",), overlap=2) for i in range(4)])
        for n in range(3):
            for name in (NAME, "bob"):
                task = store.claim(name)
                assert task is not None
                said = f"{NAME} was here" if name == NAME else ""
                last = store.submit(task.id, name, {"rating": 5}, key=f"{name[0]}{n}", comment=said)
                if name == NAME and n == 0:
                    store.fix_judgement(last.id, {"rating": 4}, by="root", reason=f"{NAME} was in a hurry")
        store.claim(NAME)
        store.adjudicate(ids[0], {"rating": 1}, by=NAME, comment=f"so says {NAME}")
        store.adjudicate(ids[1], {"rating": 1}, by="root", comment=f"not as {NAME.upper()} has it")
        store.set_priority(ids[3:], 2.0, by="root", reason=f"asked for by {NAME.lower()}, twice")
        yield store


def everything(store: FeedbackStore) -> str:
    """All rows of all tables as text."""
    with store._database.read() as connection:
        rows = [tuple(row) for table in metadata.sorted_tables for row in connection.execute(sa.select(table))]
    return json.dumps(rows, default=str).casefold()


def labels(store: FeedbackStore) -> list[tuple[str, Any, str]]:
    return [(j.annotator, j.value, j.comment) for j in store.judgements()]


@pytest.mark.parametrize("pseudonymise", [False, True])
def test_the_name_is_nowhere_afterwards(store: FeedbackStore, pseudonymise: bool) -> None:
    assert NAME.casefold() in everything(store)
    done = forget_person(store, NAME, pseudonymise=pseudonymise, by="root")
    assert NAME.casefold() not in everything(store)
    assert (done.answers, done.comments) == (3, 3)
    (entry,) = store.audit(action="forget person")
    assert (entry.actor, entry.annotator) == ("root", done.known_as)
    assert entry.after == {"labels": done.labels, "answers": 3}


def test_deleted_answers_are_asked_of_others_and_others_stay(store: FeedbackStore) -> None:
    done = forget_person(store, NAME, by="root")
    assert done.labels == "deleted" and done.known_as.startswith("withdrawn-")
    assert {name for name, _, _ in labels(store)} == {"bob"}
    assert {item: final.by for item, final in store.adjudications().items()} == {2: "root"}
    assert store.settings.adjudicators == ("bob",)
    store.add_annotator("eve")
    assert store.claim("eve") is not None
    assert any("rows of the audit" in sentence for sentence in done.kept)


def test_pseudonymised_answers_stay_without_comments(store: FeedbackStore) -> None:
    before = store.progress()
    done = forget_person(store, NAME, pseudonymise=True, by="root")
    assert done.labels == "pseudonymised" and done.known_as.startswith("person-")
    theirs = [(value, comment) for name, value, comment in labels(store) if name == done.known_as]
    assert sorted(value["rating"] for value, _ in theirs) == [4, 5, 5]
    assert {comment for _, comment in theirs} == {""}
    assert store.progress().judgements == before.judgements
    assert store.adjudications()[1].by == done.known_as
    with pytest.raises(ValueError, match="switched off"):
        store.invite_to_reset(done.known_as)
    (fixed,) = store.audit(action="fix")
    assert (fixed.annotator, fixed.reason) == (done.known_as, f"{done.known_as} was in a hurry")
    told = " ".join(done.kept)
    assert all(word in told for word in ("3 answers", "1 final answers, which", "1 readings", "rows of the audit"))


@pytest.mark.parametrize("pseudonymise", [False, True])
def test_others_words_have_the_new_name(store: FeedbackStore, pseudonymise: bool) -> None:
    mine = next(j for j in store.judgements() if j.annotator == "bob")
    store.fix_judgement(mine.id, {"rating": 2}, by="root", reason="as the Zebulonians say", comment=f"{NAME} told me")
    known_as = forget_person(store, NAME, pseudonymise=pseudonymise, by="root").known_as
    reasons = {entry.action: entry.reason for entry in store.audit() if entry.annotator != known_as}
    assert reasons["priority"] == f"asked for by {known_as}, twice"
    assert reasons["fix"] == "as the Zebulonians say", "a part of a word is no name"
    assert store.adjudications()[2].comment == f"not as {known_as} has it"
    assert next(j.comment for j in store.judgements() if j.id == mine.id) == f"{known_as} told me"
    found = browse_judgements(store, JudgementFilter(text=f"{known_as} told")).rows
    assert [row.judgement.id for row in found] == [mine.id], "and a search finds it"


@pytest.mark.parametrize(
    ("name", "text", "renamed"),
    [
        ("小明", "我同意小明的看法", "我同意X的看法"),
        ("ada", "我同意Ada的看法，adagio", "我同意X的看法，adagio"),
        ("지은", "지은이 맞다", "X이 맞다"),
        ("王", "王，国王", "X，国王"),
        ("a\\b", "a\\B, a\\bc", "X, a\\bc"),
    ],
)
def test_a_name_is_found_as_its_script_writes_words(name: str, text: str, renamed: str) -> None:
    assert _as_word(name).sub("X", text) == renamed


def test_forgetting_twice_changes_nothing(store: FeedbackStore) -> None:
    forget_person(store, NAME, by="root")
    before = everything(store)
    with pytest.raises(NoSuchAnnotator, match="nothing was changed"):
        forget_person(store, NAME, by="root")
    assert everything(store) == before


@pytest.mark.parametrize("pseudonymise", [False, True])
def test_who_withdrew_and_whose_labels_were_kept_can_be_forgotten(store: FeedbackStore, pseudonymise: bool) -> None:
    store.update_settings(consent={"withdrawn_labels": "keep"})
    withdraw_person(store, NAME)
    done = forget_person(store, NAME, pseudonymise=pseudonymise, by="root")
    assert NAME.casefold() not in everything(store)
    (row,) = list_withdrawals(store)
    assert (row.annotator, row.labels) == (done.known_as, "kept" if pseudonymise else "deleted")
    assert {name for name, _, _ in labels(store)} == {"bob"}


def test_a_panels_identifier_becomes_a_hash(store: FeedbackStore) -> None:
    visit = enter_panel(store, {"PROLIFIC_PID": "abc123"})
    name = next(a.name for a in store.annotators() if a.name not in (NAME, "bob", "root"))
    done = forget_person(store, name, pseudonymise=True, by="root")
    assert "abc123" not in everything(store) and visit is not None
    assert any("hash" in sentence for sentence in done.kept)


def test_the_only_admin_is_not_forgotten(store: FeedbackStore) -> None:
    before = everything(store)
    for pseudonymise in (False, True):
        with pytest.raises(ValueError, match="only admin"):
            forget_person(store, "root", pseudonymise=pseudonymise)
    assert everything(store) == before
