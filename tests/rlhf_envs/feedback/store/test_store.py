"""The store's contract, on SQLite and on PostgreSQL alike."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
import sqlalchemy as sa

from rlhf_envs.feedback import Assignment, FeedbackStore, LeaseLost, NewItem
from rlhf_envs.feedback.store.schema import judgements, tasks

PAIR = NewItem("pairwise", "The film was", ("good.", "bad."))


def rating(prompt: str = "p", **fields: Any) -> NewItem:
    return NewItem("rating", prompt, ("c",), **fields)


@pytest.fixture
def store(store_url: str, clock: Any) -> Iterator[FeedbackStore]:
    with FeedbackStore(store_url, clock=clock) as opened:
        opened.update_settings(next_item="age")  # the tests know which item comes next
        opened.add_annotator("ann")
        opened.add_annotator("bob")
        yield opened


def claimed(store: FeedbackStore, annotator: str) -> Assignment:
    task = store.claim(annotator)
    assert task is not None
    return task


def test_items_come_back_as_they_went_in(store: FeedbackStore) -> None:
    new = NewItem(
        "ranking",
        "Say it\0 — مرحبا",
        ("x" * 1_000_000, "👩‍👩‍👧 \u202e\u200b", "'); DROP TABLE items; --", "", "\ud800"),
        source="s/t.jsonl:3",
        policy="run 7",
        meta={"seed": 1, "nested": [None, {"a": 0.5}]},
        overlap=3,
        gold={"order": [0, 1, 2, 3, 4]},
        priority=2.5,
    )
    [item] = store.items(store.add_items([new]))
    assert {name: getattr(item, name) for name in vars(new)} == vars(new)
    assert store.items() == [item]


def test_items_are_added_all_or_none_and_the_error_names_the_wrong_one(store: FeedbackStore) -> None:
    wrong = {
        "items\\[1\\]: unknown kind 'essay'; there are pairwise": NewItem("essay", "p", ("c",)),
        "items\\[1\\]: an item of kind 'pairwise' must have 2 completions, got 1": NewItem("pairwise", "p", ("c",)),
        "items\\[1\\]: overlap must be a whole number from 1 to .*, got 0": rating(overlap=0),
        "items\\[1\\]: priority must be a number of at most 1e300, got nan": rating(priority=float("nan")),
        "items\\[1\\]: meta must be something that JSON can hold": rating(meta={"f": print}),
        "items\\[1\\]: gold: .*rating: must be from 1 to 5, got 9": rating(gold={"rating": 9}),
        "items\\[1\\]: prompt must be a string, got 7": rating(prompt=7),  # type: ignore[arg-type]
    }
    for message, item in wrong.items():
        with pytest.raises(ValueError, match=message):
            store.add_items([PAIR, item])
    assert store.add_items([]) == []
    assert store.items() == []
    with pytest.raises(ValueError, match=r"no items with the ids \[5\]"):
        store.items([5])


def test_items_of_given_ids_keep_their_order(store: FeedbackStore) -> None:
    ids = store.add_items([rating(str(i)) for i in range(5)])
    assert [item.prompt for item in store.items([ids[3], ids[0]])] == ["3", "0"]
    many = [*ids] * 14_000  # more than either database takes in one query
    assert len(store.items(many)) == 70_000


def test_claims_go_by_priority_then_age(store: FeedbackStore) -> None:
    store.add_items([rating("old"), rating("new"), rating("urgent", priority=1.0)])
    order = []
    while (task := store.claim("ann")) is not None:
        order.append(task.item.prompt)
        store.submit(task.id, "ann", {"rating": 3}, key=f"k{task.id}")
    assert order == ["urgent", "old", "new"]


def test_a_second_claim_returns_the_open_task(store: FeedbackStore) -> None:
    store.add_items([rating("a"), rating("b")])
    first = claimed(store, "ann")
    again = claimed(store, "ann")
    assert (again.id, again.item, again.sides) == (first.id, first.item, first.sides)


def test_two_annotators_share_the_queue_and_overlap_says_how_often_an_item_is_judged(store: FeedbackStore) -> None:
    store.add_items([rating("one"), rating("both", overlap=2)])
    assert claimed(store, "ann").item.prompt == "one"
    assert claimed(store, "bob").item.prompt == "both"
    for name in ("ann", "bob"):
        while (task := store.claim(name)) is not None:
            store.submit(task.id, name, {"rating": 1}, key=f"{name}{task.id}")
    prompts = Counter(item.prompt for j in store.judgements() for item in store.items([j.item_id]))
    assert prompts == {"one": 1, "both": 2}
    assert store.progress().finished == 2


def test_contradictory_labels_are_both_kept(store: FeedbackStore) -> None:
    store.add_items([NewItem("pairwise", "p", ("a", "b"), overlap=2)])
    for name, choice in (("ann", 0), ("bob", 1)):
        store.submit(claimed(store, name).id, name, {"choice": choice, "strength": 3}, key=name)
    assert [(j.annotator, j.value) for j in store.judgements()] == [
        ("ann", {"choice": 0, "strength": 3}),
        ("bob", {"choice": 1, "strength": 3}),
    ]


def test_the_same_key_stores_one_judgement(store: FeedbackStore) -> None:
    store.add_items([rating(overlap=2), rating()])
    task = claimed(store, "ann")
    first = store.submit(task.id, "ann", {"rating": 5}, key="click", seconds=1.5, comment="naïve \0")
    assert store.submit(task.id, "ann", {"rating": 5}, key="click", seconds=1.6) == first
    assert store.judgements() == [first]
    assert (first.seconds, first.comment, first.sides) == (1.5, "naïve \0", (0,))
    with pytest.raises(LeaseLost, match="done, no longer open"):
        store.submit(task.id, "ann", {"rating": 4}, key="another click")
    other = claimed(store, "bob")
    with pytest.raises(ValueError, match="the key 'click' belongs to another"):
        store.submit(other.id, "bob", {"rating": 1}, key="click")
    assert store.judgements() == [first]


@pytest.mark.parametrize("key", ["", "k" * 201, "a\0b"])
def test_a_key_that_cannot_be_stored_is_refused(store: FeedbackStore, key: str) -> None:
    store.add_items([rating()])
    with pytest.raises(ValueError, match="a key must have 1 to 200 printable characters"):
        store.submit(claimed(store, "ann").id, "ann", {"rating": 1}, key=key)


def test_a_bad_value_leaves_the_task_open(store: FeedbackStore) -> None:
    store.add_items([rating()])
    task = claimed(store, "ann")
    with pytest.raises(ValueError, match="rating: must be from 1 to 5, got 6"):
        store.submit(task.id, "ann", {"rating": 6}, key="a")
    with pytest.raises(ValueError, match="seconds must be"):
        store.submit(task.id, "ann", {"rating": 5}, key="a", seconds=float("nan"))
    assert store.submit(task.id, "ann", {"rating": 5}, key="a").value == {"rating": 5}


def test_a_lease_that_ran_out_goes_to_the_next_annotator(store: FeedbackStore, clock: Any) -> None:
    store.update_settings(lease_seconds=60.0)
    store.add_items([rating()])
    task = claimed(store, "ann")
    assert store.claim("bob") is None
    clock.forward(61)
    taken = claimed(store, "bob")
    assert taken.item == task.item
    with pytest.raises(LeaseLost, match=r"ran out at 00:01:00 UTC and item 1 went to another annotator"):
        store.submit(task.id, "ann", {"rating": 1}, key="late")
    with pytest.raises(LeaseLost):
        store.renew(task.id, "ann")
    assert store.submit(taken.id, "bob", {"rating": 2}, key="bob").annotator == "bob"
    assert store.claim("ann") is None
    assert [j.annotator for j in store.judgements()] == ["bob"]


def test_a_late_answer_counts_while_nobody_took_the_place(store: FeedbackStore, clock: Any) -> None:
    store.add_items([rating()])
    task = claimed(store, "ann")
    clock.forward(3600)
    assert store.submit(task.id, "ann", {"rating": 1}, key="late").value == {"rating": 1}
    assert store.claim("bob") is None


def test_renewing_keeps_a_task(store: FeedbackStore, clock: Any) -> None:
    store.update_settings(lease_seconds=60.0)
    store.add_items([rating()])
    task = claimed(store, "ann")
    clock.forward(50)
    assert (store.renew(task.id, "ann").expires - task.expires).total_seconds() == 50
    clock.forward(50)
    assert store.claim("bob") is None


def test_a_released_task_is_free_at_once(store: FeedbackStore) -> None:
    store.add_items([rating()])
    task = claimed(store, "ann")
    store.release(task.id, "bob")  # not his: nothing happens
    assert store.claim("bob") is None
    store.release(task.id, "ann")
    assert claimed(store, "bob").item == task.item
    with pytest.raises(LeaseLost, match="released"):
        store.submit(task.id, "ann", {"rating": 1}, key="k")


def test_nobody_answers_another_annotators_task(store: FeedbackStore) -> None:
    store.add_items([rating()])
    task = claimed(store, "ann")
    for task_id in (task.id, 999):
        with pytest.raises(LeaseLost, match=f"task {task_id} is not lent to 'bob'"):
            store.submit(task_id, "bob", {"rating": 1}, key="k")
    with pytest.raises(ValueError, match="no annotator 'eve'"):
        store.claim("eve")


def test_a_skip_passes_the_item_on_and_is_listed_only_when_asked_for(store: FeedbackStore) -> None:
    store.add_items([rating()])
    skip = store.submit(claimed(store, "ann").id, "ann", None, key="s")
    assert skip.value is None
    assert store.claim("ann") is None
    judged = store.submit(claimed(store, "bob").id, "bob", {"rating": 4}, key="t")
    assert store.judgements() == [judged]
    assert store.judgements(include_skips=True) == [skip, judged]
    progress = store.progress("ann")
    assert (progress.judgements, progress.skips, progress.mine, progress.finished) == (1, 1, 1, 1)


def test_undo_takes_the_last_judgement_back_and_shows_its_item_as_it_was(store: FeedbackStore) -> None:
    store.add_items([PAIR, rating("next")])
    task = claimed(store, "ann")
    first = store.submit(task.id, "ann", {"choice": 0}, key="a")
    held = claimed(store, "ann")
    again = store.undo("ann")
    assert again is not None
    assert (again.item, again.sides) == (task.item, task.sides)
    assert again.id != task.id
    assert store.judgements() == []
    assert claimed(store, "bob").item == held.item  # what was open went back to the queue
    second = store.submit(again.id, "ann", {"choice": 1}, key="b")
    assert store.judgements() == [second]
    assert store.submit(task.id, "ann", {"choice": 0}, key="a") == first  # a retry that comes late changes nothing
    assert store.judgements() == [second]
    assert store.progress().finished == 1


def test_undo_goes_back_judgement_by_judgement(store: FeedbackStore) -> None:
    store.add_items([rating("a"), rating("b")])
    for key in "ab":
        store.submit(claimed(store, "ann").id, "ann", {"rating": 1}, key=key)
    undone = [store.undo("ann"), store.undo("ann"), store.undo("ann")]
    assert [task and task.item.prompt for task in undone] == ["b", "a", None]
    assert store.progress("ann").mine == 0


def test_judging_and_undoing_does_not_fill_the_store(store: FeedbackStore) -> None:
    store.add_items([NewItem("correction", "p", ("c",))])
    store.add_annotator("ann")
    for i in range(5):
        task = store.claim("ann")
        assert task is not None
        store.submit(task.id, "ann", {"text": f"{i}" * 1000}, key=f"{i}")
        task = store.undo("ann")
        assert task is not None
        store.release(task.id, "ann")
    with store._database.read() as connection:
        rows = [connection.execute(sa.select(sa.func.count()).select_from(t)).scalar() for t in (judgements, tasks)]
    assert rows == [1, 2]  # the newest undone judgement with its task, and the task given back


def test_a_skip_whose_place_is_taken_cannot_be_undone(store: FeedbackStore) -> None:
    store.add_items([rating()])
    store.submit(claimed(store, "ann").id, "ann", None, key="s")
    claimed(store, "bob")
    assert store.undo("ann") is None
    assert store.progress().skips == 1


def test_after_id_lists_what_is_new(store: FeedbackStore) -> None:
    ids = store.add_items([rating(str(i)) for i in range(3)])
    made = [store.submit(claimed(store, "ann").id, "ann", {"rating": 1}, key=str(i)) for i in range(3)]
    assert store.judgements(after_id=made[0].id) == made[1:]
    assert store.judgements(item_ids=[ids[2]]) == made[2:]
    assert store.judgements(item_ids=[]) == []


def test_sides_are_drawn_at_random_and_kept_with_the_judgement(store: FeedbackStore) -> None:
    store.add_items([PAIR] * 40)
    drawn = []
    for i in range(40):
        task = claimed(store, "ann")
        drawn.append(task.sides)
        assert store.submit(task.id, "ann", {"choice": 0}, key=str(i)).sides == task.sides
    counts = Counter(drawn)
    assert counts.keys() == {(0, 1), (1, 0)}
    assert min(counts.values()) > 5  # fair coins give less with a probability below 1e-6


def test_a_seed_draws_the_same_sides_again(store_url: str) -> None:
    drawn = []
    for name in ("ann", "bob"):
        with FeedbackStore(store_url, seed=3) as store:
            store.add_annotator(name)
            store.add_items([NewItem("ranking", "p", tuple("abcdef"), overlap=2)])
            drawn.append(claimed(store, name).sides)
    assert drawn[0] == drawn[1]


def test_a_paused_project_gives_out_no_tasks_but_takes_answers(store: FeedbackStore) -> None:
    store.add_items([rating(), rating()])
    task = claimed(store, "ann")
    store.update_settings(paused=True)
    assert store.claim("ann") is None
    store.submit(task.id, "ann", {"rating": 1}, key="k")
    store.update_settings(paused=False)
    assert store.claim("ann") is not None


def test_withdrawn_items_are_asked_no_more_but_a_held_task_may_be_answered(store: FeedbackStore) -> None:
    ids = store.add_items([rating("held"), rating("waiting", overlap=3)])
    task = claimed(store, "ann")
    store.withdraw(ids)
    assert store.claim("bob") is None
    assert store.submit(task.id, "ann", {"rating": 2}, key="k").item_id == ids[0]
    assert store.progress().finished == 2


def test_settings_are_kept_and_checked(store: FeedbackStore, store_url: str) -> None:
    changed = store.update_settings(guidelines="Be kind. 🙂", scale=(0, 10), harms=("spam",), lease_seconds=5.0)
    with FeedbackStore(store_url) as again:
        assert again.settings == changed
    store.add_items([rating()])
    assert store.submit(claimed(store, "ann").id, "ann", {"rating": 10}, key="k").value == {"rating": 10}
    senseless: list[tuple[str, Any]] = [("lease_seconds", 0.0), ("paused", "yes"), ("guidelines", 1)]
    senseless += [("scale", scale) for scale in ((5, 1), (0, 101), (-1001, -950), (950, 1001), (False, True))]
    senseless += [("harms", harms) for harms in ("spam", ("a", "a"), ("h" * 61,), (" ",))]
    for name, value in senseless:
        with pytest.raises(ValueError, match=name):
            store.update_settings(**{name: value})
    with pytest.raises(ValueError, match=r"unknown setting 'colour'; there are .*guidelines, "):
        store.update_settings(colour="blue")
    assert store.settings == changed


@pytest.mark.parametrize("gold", [False, True], ids=["a rating", "a gold answer"])
def test_the_scale_stays_once_something_is_a_number_on_it(store: FeedbackStore, gold: bool) -> None:
    store.update_settings(scale=(1, 7))
    store.add_items([NewItem("rating", "p", ("c",), gold={"rating": 7} if gold else None)])
    store.add_annotator("ann")
    if not gold:
        assert store.update_settings(scale=(1, 9)).scale == (1, 9), "nobody has rated yet"
        store.update_settings(scale=(1, 7))
        task = store.claim("ann")
        assert task is not None
        store.submit(task.id, "ann", {"rating": 7}, key="k")
    with pytest.raises(ValueError, match=r"scale: there are ratings from 1 to 7 already.*begin a new store"):
        store.update_settings(scale=(1, 5), guidelines="new")
    assert (store.settings.scale, store.settings.guidelines) == ((1, 7), "")
    assert store.update_settings(scale=(1, 7), guidelines="new").guidelines == "new"
    if not gold:
        store.undo("ann")
        assert store.update_settings(scale=(1, 5)).scale == (1, 5), "what was taken back is no rating"


def test_annotators_have_names_of_their_own(store: FeedbackStore) -> None:
    ann = store.add_annotator("ann")
    assert store.add_annotator("ann") == ann == store.annotators()[0]
    with pytest.raises(ValueError, match="the name 'ann' is taken by an account of role 'annotator'"):
        store.add_annotator("ann", "admin")
    assert store.add_annotator("'; DROP TABLE annotators; -- 王").name == "'; DROP TABLE annotators; -- 王"
    for name in ("", " ann", "a\0b", "a\u202eb", "x" * 101, "\ud800"):
        with pytest.raises(ValueError, match="name must have"):
            store.add_annotator(name)
    with pytest.raises(ValueError, match="unknown role 'king'; there are annotator, admin"):
        store.add_annotator("carl", "king")


def test_an_invitation_makes_one_account(store: FeedbackStore, clock: Any) -> None:
    token = store.invite("admin")
    for wrong in ("", token + "x", "\ud800"):
        with pytest.raises(ValueError, match="invitation is unknown"):
            store.register(wrong, "carl", "hash")
    with pytest.raises(ValueError, match="the name 'ann' is taken"):
        store.register(token, "ann", "hash")  # nor does it use the invitation up
    assert store.register(token, "carl", "hash").role == "admin"
    with pytest.raises(ValueError, match="used or out of date"):
        store.register(token, "dora", "hash")
    assert [store.password_hash(name) for name in ("carl", "ann", "nobody", "a\0")] == ["hash", None, None, None]
    late = store.invite(days=1)
    clock.forward(86_400)
    with pytest.raises(ValueError, match="out of date"):
        store.register(late, "dora", "hash")


def test_an_invitation_is_kept_as_a_hash_only(store: FeedbackStore) -> None:
    import sqlalchemy as sa

    token = store.invite()
    with store._database.read() as connection:
        [kept] = connection.execute(sa.text("SELECT token_hash FROM invitations")).scalars()
    assert token not in kept
    assert len(kept) == 64
