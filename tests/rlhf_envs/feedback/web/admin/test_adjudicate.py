"""Final answers: who may give them, the queue, by keyboard, and what exports make of them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from rlhf_envs.feedback import FeedbackStore, NewItem
from rlhf_envs.feedback.formats.exporting import export_file
from rlhf_envs.feedback.formats.importing import import_file
from rlhf_envs.feedback.formats.stored_rows import stored_rows
from rlhf_envs.feedback.web.auth import COOKIE

SignIn = Callable[..., TestClient]
ANSWERS: dict[str, list[Any]] = {  # of items 1 to 3
    "ann": [{"choice": 0, "strength": 1}, {"choice": 0, "strength": 1}, {"rating": 1}],
    "bob": [{"choice": 0, "strength": 3}, {"choice": 1, "strength": 1}, {"rating": 4}],
    "cid": [{"choice": 0, "strength": 2}, {"choice": 0, "strength": 1}, None],
}


@pytest.fixture
def judged(store: FeedbackStore) -> FeedbackStore:
    """Item 1 is agreed on, of item 2 one answer differs from two, and of item 3 the two answers differ."""
    store.add_items([NewItem("pairwise", f"p{i}", ("left <b>", "right"), overlap=3) for i in (1, 2)])
    store.add_items([NewItem("rating", "p3", ("c",), overlap=3)])
    for name, values in ANSWERS.items():
        store.add_annotator(name)
        for value in values:
            task = store.claim(name)
            assert task is not None
            store.submit(task.id, name, value, key=f"{name}-{task.id}", comment=f"{name} says")
    return store


def test_the_queue_begins_where_people_disagree_most_and_hides_names(judged: FeedbackStore, sign_in: SignIn) -> None:
    admin = sign_in("root", "admin")
    first = admin.get("/api/adjudication/next").json()
    assert (first["left"], first["item"]["id"], first["item"]["disagreement"]) == (2, 3, 1.0)
    assert [one["who"] for one in first["item"]["said"]] == ["Person 1", "Person 2", "Person 3"]
    second = admin.get("/api/adjudication/next", params={"after": first["item"]["key"], "names": "true"}).json()
    assert second["item"]["id"] == 2
    assert [one["who"] for one in second["item"]["said"]] == ["ann", "bob", "cid"]
    assert second["item"]["key"] is None
    assert admin.get("/api/adjudication/next", params={"item": 1}).json()["item"]["id"] == 1
    assert admin.get("/api/adjudication/next", params={"item": 9}).status_code == 404
    assert admin.get("/api/adjudication/next", params={"after": "x"}).status_code == 422


def test_only_admins_and_the_chosen_adjudicate_and_only_admins_see_names(
    judged: FeedbackStore, sign_in: SignIn
) -> None:
    dora = sign_in("dora")
    for path in ("/admin/adjudicate", "/api/adjudication/next"):
        assert dora.get(path).status_code == 403
    assert dora.post("/api/adjudication/3", json={"value": {"rating": 3}}).status_code == 403
    judged.update_settings(adjudicators=("dora",))
    assert dora.get("/admin/adjudicate").status_code == 200
    shown = dora.get("/api/adjudication/next", params={"names": "true"}).json()
    assert shown["item"]["said"][0]["who"] == "Person 1"
    assert dora.post("/api/adjudication/3", json={"value": {"rating": 3}}).status_code == 204
    assert judged.adjudications()[3].by == "dora"
    assert dora.get("/admin/items").status_code == 403


def test_a_final_answer_that_is_none_is_refused(judged: FeedbackStore, sign_in: SignIn) -> None:
    admin = sign_in("root", "admin")
    assert admin.post("/api/adjudication/3", json={"value": {"rating": 9}}).status_code == 422
    assert admin.post("/api/adjudication/3", json={"value": None}).status_code == 422
    assert admin.post("/api/adjudication/99", json={"value": {"rating": 1}}).status_code == 422
    assert judged.adjudications() == {}


def test_exports_take_the_final_answer_where_it_is_asked_for(judged: FeedbackStore, tmp_path: Path) -> None:
    judged.adjudicate(2, {"choice": 1, "strength": 1}, by="cid", comment="both are wrong")
    judged.adjudicate(3, {"rating": 2}, by="cid")

    def chosen(how: str) -> list[str]:
        export = export_file(judged, tmp_path / "p.jsonl", "preference", how=how)
        assert export.finals == 2
        return [row["chosen"] for row in export.rows]

    assert chosen("majority") == ["left <b>", "left <b>"]
    assert chosen("adjudicated") == ["left <b>", "right"]
    assert len(chosen("each")) == 6
    ratings = export_file(judged, tmp_path / "r.jsonl", "ratings", how="adjudicated")
    assert [row["label"] for row in ratings.rows] == [2.0]
    with pytest.raises(ValueError, match="min_judgements counts annotators"):
        export_file(judged, tmp_path / "p.jsonl", "preference", how="adjudicated", min_judgements=2)
    export_file(judged, tmp_path / "all.jsonl", "items")
    rows = [json.loads(line) for line in (tmp_path / "all.jsonl").read_text().splitlines()]
    assert rows[1]["final"]["comment"] == "both are wrong"
    assert "final" not in rows[0]
    assert len(rows[1]["judgements"]) == 3


QUESTIONS = [
    {"name": "helpful", "text": "How helpful is each?", "type": "rating", "each": True},
    {"name": "harm", "text": "Is one harmful?", "type": "labels", "labels": ["yes", "no"], "keys": ["b", "f"]},
    {"name": "why", "text": "Why?", "type": "text", "required": False},
]


@pytest.fixture
def studied(store: FeedbackStore) -> FeedbackStore:
    """Item 1 was answered by two people, who differ in all of the project's questions too."""
    store.update_settings(questions=QUESTIONS)
    store.add_items([NewItem("pairwise", "p1", ("left", "right"), overlap=2), NewItem("pairwise", "p2", ("l", "r"))])
    store.update_settings(next_item="age")
    for name, choice, helpful, harm in (("ann", 0, [5, 1], "yes"), ("bob", 1, [1, 4], "no")):
        store.add_annotator(name)
        task = store.claim(name)
        assert task is not None
        answers = {"helpful": helpful, "harm": harm}
        store.submit(task.id, name, {"choice": choice, "strength": 1}, key=name, answers=answers)
    return store


def test_the_projects_own_questions_get_final_answers_that_exports_and_fits_take(
    studied: FeedbackStore, sign_in: SignIn, tmp_path: Path
) -> None:
    admin = sign_in("root", "admin")
    shown = admin.get("/api/adjudication/next").json()["item"]
    assert [question["name"] for question in shown["questions"]] == ["helpful", "harm", "why"]
    assert [one["answers"]["harm"] for one in shown["said"]] == ["yes", "no"]
    final = {"value": {"choice": 1, "strength": 2}, "version": shown["version"], "comment": "read twice"}
    for answers, problem in (
        ({"helpful": [1, 5]}, "question 'harm' needs an answer"),
        ({"helpful": [1, 9], "harm": "no"}, "question 'helpful': a rating must be a whole number from 1 to 5"),
    ):
        refused = admin.post("/api/adjudication/1", json={**final, "answers": answers})
        assert (refused.status_code, problem in refused.text) == (422, True)
    own = {"helpful": [2, 5], "harm": "no"}
    assert admin.post("/api/adjudication/1", json={**final, "answers": own}).status_code == 204
    assert studied.adjudications()[1].answers == own
    assert admin.get("/api/adjudication/next", params={"item": 1}).json()["item"]["final_answers"] == own
    assert "B is better; helpful: A 2, B 5; harm: no, by root" in admin.get("/admin/items/1").text
    assert studied.audit(item_id=1)[0].after == {"choice": 1, "strength": 2, "answers": own}

    def chosen(how: str) -> list[str]:
        rows = export_file(studied, tmp_path / "p.jsonl", "preference", how=how, criterion="helpful").rows
        return [row["chosen"] for row in rows]

    assert chosen("each") == ["left", "right"]
    assert chosen("adjudicated") == ["right"]
    rows, export = stored_rows(studied.url, "ratings", criterion="helpful")
    assert [(row["completion"], row["label"]) for row in rows] == [("left", 2), ("right", 5)]
    assert export.finals == 1
    export_file(studied, tmp_path / "all.jsonl", "items")
    with FeedbackStore(tmp_path / "copy.db") as copy:
        assert import_file(copy, tmp_path / "all.jsonl").bad == ()
        assert copy.adjudications()[1].answers == own
    studied.remove_adjudication(1, by="root", reason="again")
    assert chosen("adjudicated") != ["right"]


def test_a_final_answer_without_own_answers_leaves_the_votes_on_them(studied: FeedbackStore, tmp_path: Path) -> None:
    studied.adjudicate(1, {"choice": 0, "strength": 1}, by="ann")
    assert len(stored_rows(studied.url, "ratings", criterion="helpful")[0]) == 4
    export = export_file(studied, tmp_path / "p.jsonl", "preference", how="adjudicated", criterion="helpful")
    assert export.finals == 0


def test_final_answers_to_own_questions_by_keyboard(open_page: Callable[..., Any], studied: FeedbackStore) -> None:
    page = open_page("/admin/adjudicate", "root", "admin")
    page.wait_for_selector("body[data-kind=pairwise] #task[aria-busy=false]")
    assert "helpful: A 5, B 1; harm: yes" in page.inner_text("#said")
    for key in ("5", "2", "5", "f"):  # B is slightly better; A is rated 2, B 5; not harmful, by the label's own key
        page.keyboard.press(key)
    page.keyboard.press("Escape")
    page.keyboard.press("Control+Enter")
    page.wait_for_selector("#notice:has-text('Item 1')")
    final = studied.adjudications()[1]
    assert (final.value["choice"], final.answers) == (1, {"helpful": [2, 5], "harm": "no"})


def test_by_keyboard(
    chromium: Any,
    address: str,
    judged: FeedbackStore,
    enrol: Callable[..., str],
    signed: Callable[..., tuple[str, str]],
) -> None:
    context = chromium.new_context()
    context.add_cookies([{"name": COOKIE, "value": signed(judged, enrol("root", "admin"))[0], "url": address}])
    page = context.new_page()
    wrong: list[str] = []
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("console", lambda line: wrong.append(line.text))
    page.set_default_timeout(60_000)
    page.goto(f"{address}/admin/adjudicate")
    page.wait_for_selector("body[data-kind=rating] #task[aria-busy=false]")
    assert "Person 1: 1" in page.inner_text("#said")
    page.keyboard.press("b")
    page.wait_for_selector("#said:has-text('ann: 1')")
    page.keyboard.press("b")
    page.wait_for_selector("#said:has-text('Person 1')")
    page.keyboard.press("s")
    page.wait_for_selector("body[data-kind=pairwise] #task[aria-busy=false]")
    page.keyboard.press("c")
    page.keyboard.type("b is right 1")
    page.keyboard.press("Escape")
    page.keyboard.press("6")
    page.wait_for_selector("body[data-kind=rating] #task[aria-busy=false]")
    page.keyboard.press("2")
    page.wait_for_selector("body[data-kind=none]")
    context.close()
    assert wrong == []
    finals = judged.adjudications()
    assert finals[2].value == {"choice": 1, "strength": 2}
    assert finals[2].comment == "b is right 1"
    assert finals[3].value == {"rating": 2}


def test_texts_are_shown_as_annotators_see_them(open_page: Callable[..., Any], store: FeedbackStore) -> None:
    talk = [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "A **b**"}]
    meta = {"messages": [*talk, {"role": "user", "content": "Which?"}]}
    [item] = store.add_items([NewItem("pairwise", "", ("one **red** hat", "one **blue** hat"), meta=meta)])
    page = open_page(f"/admin/adjudicate?item={item}", "root", "admin")
    page.wait_for_selector("#task[aria-busy=false] .bubble")
    assert page.locator("#prompt .bubble.user").all_inner_texts() == ["User\nHello", "User\nWhich?"]
    assert page.locator("#panels strong").count() == 0
    page.keyboard.press("r")
    page.wait_for_selector("#panels strong")
    page.keyboard.press("d")
    page.wait_for_selector("mark.differs")
    assert page.locator("mark.differs").all_inner_texts() == ["red", "blue"]
    page.keyboard.press("?")
    listed = page.locator("#keys-list kbd").all_inner_texts()
    assert {"1", "7", "s", "c", "b", "r", "d", "o", "?"} <= set(listed)
    assert len(set(listed)) == len(listed)
    page.keyboard.press("Escape")
    page.goto(page.url.replace("/admin/adjudicate?item=", "/admin/items/"))
    page.wait_for_selector("#prompt .bubble")
    assert page.locator(".completion strong").count() == 0
    page.keyboard.press("r")
    page.wait_for_selector(".completion strong")


def test_only_who_adjudicates_gets_an_items_view(judged: FeedbackStore, sign_in: SignIn) -> None:
    assert sign_in("dora").get("/api/adjudication/3/view").status_code == 403
    admin = sign_in("root", "admin")
    assert admin.get("/api/adjudication/99/view").status_code == 404
    shown = admin.get("/api/adjudication/1/view", params={"render": "markdown", "differences": "true"}).json()
    assert [turn["nodes"] for completion in shown["completions"] for turn in completion] != [None, None]
