"""The admin's tables of items and answers, the page of an item, people, and the audit."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

import pytest
from fastapi.testclient import TestClient

from rlhf_envs.feedback import FeedbackStore, NewItem, Question
from rlhf_envs.feedback.web.admin.display import choices, in_words, shown, value_of_form

SignIn = Callable[..., TestClient]
HOSTILE = "<script>alert(1)</script> \u202e\u200b \ud800 \0 'x\"&amp;"


@pytest.fixture
def admin(store: FeedbackStore, sign_in: SignIn) -> TestClient:
    """An admin over three items, of which Ada has rated the first with a comment and skipped the second."""
    store.add_items([NewItem("rating", HOSTILE, (HOSTILE,), source=HOSTILE, policy="new", overlap=2)])
    store.add_items([NewItem("thumbs", "second", ("c",)), NewItem("pairwise", "third", ("left", "right"))])
    store.add_annotator("ada")
    for value, comment in (({"rating": 2}, HOSTILE), (None, ""), ({"choice": 1, "strength": 3}, "")):
        task = store.claim("ada")
        assert task is not None
        store.submit(task.id, "ada", value, key=f"ada-{task.id}", seconds=3.0, comment=comment)
    return sign_in("root", "admin")


def post(client: TestClient, path: str, **fields: Any) -> Any:
    return client.post(path, data={"csrf": client.headers["X-CSRF-Token"], **fields})


def listed(page: str) -> list[int]:
    return [int(found) for found in re.findall(r'name="id" value="(\d+)"', page)]


def test_only_admins_see_these_pages(sign_in: SignIn, visitor: Callable[[], TestClient]) -> None:
    paths = ["items", "items/1", "answers", "people", "people/1", "audit", "audit.jsonl"]
    annotator, stranger = sign_in("ada"), visitor()
    for path in paths:
        assert annotator.get(f"/admin/{path}").status_code == 403
        assert stranger.get(f"/admin/{path}").status_code == 303
    for path in ("items", "judgements/1/drop", "people/1/admin"):
        assert post(annotator, f"/admin/{path}").status_code == 403
        assert annotator.post(f"/admin/{path}").status_code == 403  # without the form's token


def test_texts_are_shown_and_inert_on_every_page(admin: TestClient, store: FeedbackStore) -> None:
    store.fix_judgement(1, {"rating": 3}, by=HOSTILE.replace("\0", "").replace("\ud800", ""), reason=HOSTILE)
    for path in ("items", "items/1", "answers", "people", "people/1", "audit"):
        answer = admin.get(f"/admin/{path}")
        assert answer.status_code == 200
        assert "<script>alert" not in answer.text
        assert "\u202e" not in answer.text
    page = admin.get("/admin/items/1").text
    assert page.count("&lt;script&gt;alert(1)") >= 4  # prompt, completion, source, comment
    for mark in ("[U+202E]", "[U+200B]", "[U+D800]", "[U+0000]"):
        assert mark in page


@pytest.mark.parametrize(
    ("query", "ids"),
    [
        ("", [3, 2, 1]),
        ("sort=oldest", [1, 2, 3]),
        ("kind=pairwise&text=&state=&source=", [3]),
        ("text=SECOND", [2]),
        ("commented=true", [1]),
        ("skipped=true", [2]),
        ("annotator=ada&state=open", [2, 1]),
        ("policy=%22new%22", [1]),
    ],
)
def test_items_by_address(admin: TestClient, query: str, ids: list[int]) -> None:
    page = admin.get(f"/admin/items?{query}")
    assert listed(page.text) == ids


@pytest.mark.parametrize(
    "query",
    ["sort=best", "state=lost", "source=x", "policy=7", "after=x", "gold=maybe", "after=1:99999999999999999999"],
)
def test_an_address_that_makes_no_sense_is_422(admin: TestClient, query: str) -> None:
    assert admin.get(f"/admin/items?{query}").status_code == 422


def test_the_filter_by_source_takes_any_text(admin: TestClient) -> None:
    page = admin.get("/admin/items").text
    (value,) = re.findall(r'<option value="(&#34;&lt;script.*?)"', page)
    source = value.replace("&#34;", '"').replace("&lt;", "<").replace("&gt;", ">").replace("&#39;", "'")
    source = source.replace("&amp;", "&")
    assert json.loads(source) == HOSTILE
    assert listed(admin.get("/admin/items", params={"source": source}).text) == [1]


def test_pages_turn_by_their_links(admin: TestClient, store: FeedbackStore) -> None:
    store.add_items([NewItem("thumbs", f"more {i}", ("c",)) for i in range(100)])
    first = admin.get("/admin/items?kind=thumbs&sort=oldest").text
    following = re.search(r'rel="next" href="([^"]+)"', first)
    assert following
    second = admin.get(following[1].replace("&amp;", "&")).text
    assert (listed(first)[0], listed(second)[0], len(listed(second))) == (2, 53, 50)
    back = re.search(r'rel="prev" href="([^"]+)"', second)
    assert back
    assert listed(admin.get(back[1].replace("&amp;", "&")).text) == listed(first)


def test_a_selection_is_changed_with_a_reason(admin: TestClient, store: FeedbackStore) -> None:
    answer = post(admin, "/admin/items", id=["1", "3"], action="priority", priority="7", reason="soon", sort="newest")
    assert answer.status_code == 303
    assert "2 items changed" in admin.get(answer.headers["location"]).text
    assert [item.priority for item in store.items()] == [7, 0, 7]
    post(admin, "/admin/items", all="true", kind="thumbs", action="withdraw", reason="dull")
    assert listed(admin.get("/admin/items?state=withdrawn").text) == [2]
    post(admin, "/admin/items", id="2", action="ask again", reason="not so dull")
    post(admin, "/admin/items", id="2", action="overlap", overlap="5", reason="hard")
    assert store.items([2])[0].overlap == 5
    assert {entry.actor for entry in store.audit()} == {"root"}


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"action": "withdraw", "reason": "r"}, "no items were chosen"),
        ({"id": "1", "action": "withdraw"}, "say why"),
        ({"id": "1", "action": "priority", "priority": "much", "reason": "r"}, "priority: a number"),
        ({"id": "1", "action": "overlap", "overlap": "inf", "reason": "r"}, "infinity"),
        ({"id": "1", "action": "burn", "reason": "r"}, "unknown action"),
        ({"id": "one", "action": "withdraw", "reason": "r"}, "invalid literal"),
    ],
)
def test_a_change_that_makes_no_sense_changes_nothing(
    admin: TestClient, store: FeedbackStore, fields: dict[str, str], said: str
) -> None:
    before = store.items()
    answer = post(admin, "/admin/items", **fields)
    assert answer.status_code == 422
    assert said in answer.text
    assert store.items() == before


def test_a_judgement_is_fixed_dropped_and_restored_on_the_item_s_page(admin: TestClient, store: FeedbackStore) -> None:
    fields = {"item_id": "3", "kind": "pairwise", "value": '{"choice": 0, "strength": 1}', "reason": "left and right"}
    answer = post(admin, "/admin/judgements/3/fix", **fields)
    assert answer.headers["location"] == "/admin/items/3#judgement-3"
    page = admin.get("/admin/items/3").text
    assert "A is slightly better" in page
    assert "left and right" in page
    post(admin, "/admin/judgements/3/drop", item_id="3", reason="a bot", reopen="true")
    page = admin.get("/admin/items/3").text
    assert ">dropped<" in page
    assert "needs 1 more" in page
    post(admin, "/admin/judgements/3/restore", item_id="3", reason="no bot")
    assert [judgement.value for judgement in store.judgements(item_ids=[3])] == [{"choice": 0, "strength": 1}]
    assert [entry.action for entry in store.audit()] == ["restore", "drop", "fix"]


def test_a_fix_that_is_refused_comes_back_as_it_was_typed(admin: TestClient, store: FeedbackStore) -> None:
    fields = {"item_id": "1", "kind": "rating", "value": '{"rating": 9}', "reason": "I <think> so"}
    answer = post(admin, "/admin/judgements/1/fix", **fields)
    assert answer.status_code == 422
    assert "must be from 1 to 5, got 9" in answer.text
    assert 'value="I &lt;think&gt; so"' in answer.text
    assert store.audit() == []
    for item_id in ("", "²"):
        assert post(admin, "/admin/judgements/1/fix", item_id=item_id, reason="r").status_code == 422
    assert admin.get("/admin/items/77").status_code == 404


def test_people_are_managed_on_their_page(admin: TestClient, store: FeedbackStore, enrol: Callable[..., str]) -> None:
    enrol("ben")
    people = {person.name: person.id for person in store.annotators()}
    ada, ben, root = people["ada"], people["ben"], people["root"]
    page = admin.get(f"/admin/people/{ada}").text
    assert page.count("/admin/items/") == 3  # their answers, skips too
    link = re.search(r'value="(http://localhost:8000/invite/[^"]+)"', post(admin, f"/admin/people/{ben}/reset").text)
    assert link
    assert store.invited_name(link[1].rsplit("/", 1)[1]) == "ben"
    post(admin, f"/admin/people/{ben}/admin", reason="helps")
    post(admin, f"/admin/people/{ben}/off")
    assert [(person.role, person.active) for person in store.annotators() if person.name == "ben"] == [("admin", False)]
    refused = post(admin, f"/admin/people/{root}/annotator")
    assert refused.status_code == 422
    assert "the only admin" in refused.text
    post(admin, f"/admin/people/{ben}/on")
    assert [entry.action for entry in store.audit()] == [
        "switch on",
        "switch off",
        "role",
        "link to reset the password",
    ]
    assert post(admin, f"/admin/people/{root}/sessions").headers["location"] == "/login"
    assert admin.get("/admin").headers["location"] == "/login"


def test_the_audit_is_shown_page_by_page_and_downloaded_whole(admin: TestClient, store: FeedbackStore) -> None:
    for i in range(150):
        store.set_priority([1], i + 1, by="root", reason=f"reason {i}")
    page = admin.get("/admin/audit").text
    assert "reason 149" in page
    older = re.search(r'rel="next" href="([^"]+)"', page)
    assert older
    assert "reason 0" in admin.get(older[1]).text
    rows = [json.loads(line) for line in admin.get("/admin/audit.jsonl").text.splitlines()]
    assert [row["reason"] for row in rows] == [f"reason {i}" for i in range(150)]
    assert rows[3]["before"] == {"overlap": 2, "needed": 1, "priority": 3.0}


def test_settings_changes_are_in_the_audit(admin: TestClient, store: FeedbackStore) -> None:
    admin.patch("/api/admin/settings", json={"harms": ["rude"], "paused": False})
    [entry] = store.audit()
    assert (entry.action, entry.after) == ("settings", {"harms": ["rude"]})


@pytest.mark.parametrize(
    ("kind", "value", "words"),
    [
        ("pairwise", {"choice": 1, "strength": 3}, "B is much better"),
        ("pairwise", {"choice": None, "strength": 0}, "tie"),
        ("ranking", {"order": [2, 0, 1]}, "3 > 1 > 2"),
        ("rating", {"rating": 4}, "4"),
        ("thumbs", {"up": False}, "bad"),
        ("correction", {"text": "so"}, "so"),
        ("flags", {"harms": []}, "no harm"),
        ("rating", None, "skipped"),
    ],
)
def test_answers_in_words(kind: str, value: Any, words: str, store: FeedbackStore) -> None:
    assert in_words(kind, value) == words
    offered = dict(choices(kind, store.settings))
    assert not offered or value is None or offered[json.dumps(value)] == words


@pytest.mark.parametrize(
    ("kind", "form", "value"),
    [
        ("rating", {"value": ['{"rating": 4}']}, {"rating": 4}),
        ("rating", {"value": ['{"rating": 4}'], "skip": ["true"]}, None),
        ("ranking", {"value": ["3 > 1, 2"]}, {"order": [2, 0, 1]}),
        ("correction", {"value": ["a\r\nb"]}, {"text": "a\nb"}),
        ("flags", {"harms": ["hate"]}, {"harms": ["hate"]}),
        ("flags", {}, {"harms": []}),
    ],
)
def test_answers_of_forms(kind: str, form: dict[str, list[str]], value: Any) -> None:
    assert value_of_form(kind, form) == value


def test_long_texts_are_cut_and_it_is_said() -> None:
    assert shown("x" * 1500, 10) == 'xxxxxxxxxx<span class="soft">… (1,500 characters)</span>'
    assert "empty" in shown("")


def test_an_items_page_shows_the_answers_to_the_projects_questions(admin: TestClient, store: FeedbackStore) -> None:
    questions = (
        Question("helpful", "?", "rating", each=True),
        Question("truer", "?", "choice"),
        Question("faults", "?", "spans", labels=("untrue",)),
        Question("harms", "?", "labels", labels=("lie", "insult"), multiple=True),
        Question("why", "?", "text"),
    )
    store.update_settings(questions=questions)
    (number,) = store.add_items([NewItem("questions", "p", ("left", "right"))])
    mark = {"completion": 1, "start": 0, "end": 5, "label": "untrue", "note": HOSTILE}
    answers = {"helpful": [2, 5], "truer": {"choice": 1, "strength": 1}, "faults": [mark], "harms": ["lie", "insult"]}
    task = store.claim("ada")
    assert task is not None
    store.submit(task.id, "ada", {}, key="k", answers={**answers, "why": "so <b>"})
    page = admin.get(f"/admin/items/{number}").text
    for words in ("helpful: A 2, B 5", "truer: B is slightly better", "harms: lie, insult", "why: so &lt;b&gt;"):
        assert words in page
    assert "faults: untrue at 0 to 5 in B (&lt;script&gt;" in page
