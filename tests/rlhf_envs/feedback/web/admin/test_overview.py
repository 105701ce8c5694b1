"""The admin's page and API: figures, export, pause, invitations, settings."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest
from fastapi.testclient import TestClient

from rlhf_envs.feedback import FeedbackStore, Item, Judgement, NewItem
from rlhf_envs.feedback.web.admin.summary import gold_correct, summarise

SignIn = Callable[..., TestClient]
NOW = datetime(2030, 1, 1, 12, 30, tzinfo=UTC)


def answer(store: FeedbackStore, name: str, values: dict[int, object], seconds: float = 1.0) -> None:
    """Judge items by id; whatever else is claimed on the way is left out of `values` on purpose: none may be."""
    for _ in values:
        task = store.claim(name)
        assert task is not None
        store.submit(task.id, name, values[task.item.id], key=f"{name}-{task.item.id}", seconds=seconds)  # type: ignore[arg-type]


@pytest.fixture
def judged(store: FeedbackStore) -> FeedbackStore:
    """Ada and Ben agree on 2 of 3 ratings; item 4 is a gold question that only Ada gets right."""
    store.add_items([NewItem("rating", "p", (str(i),), overlap=2) for i in range(3)])
    store.add_items([NewItem("rating", "p", ("gold",), overlap=2, gold={"rating": 5})])
    for name in ("ada", "ben", "cleo"):
        store.add_annotator(name)
    answer(store, "ada", {1: {"rating": 1}, 2: {"rating": 3}, 3: {"rating": 5}, 4: {"rating": 5}}, seconds=2.0)
    answer(store, "ben", {1: {"rating": 1}, 2: {"rating": 3}, 3: {"rating": 1}, 4: {"rating": 1}}, seconds=4.0)
    return store


def test_annotator_figures(judged: FeedbackStore) -> None:
    ada, ben, cleo = summarise(judged).annotators
    assert (ada.judged, ada.skips, ada.median_seconds, ada.gold_right, ada.gold_asked) == (4, 0, 2.0, 1, 1)
    assert (ben.judged, ben.skips, ben.median_seconds, ben.gold_right, ben.gold_asked) == (4, 0, 4.0, 0, 1)
    assert (ada.agreement, ada.agreement_n) == (pytest.approx(2 / 3), 3)  # the gold question does not count
    assert (cleo.judged, cleo.median_seconds, cleo.agreement, cleo.last) == (0, None, None, None)


def test_throughput_counts_by_hour(judged: FeedbackStore) -> None:
    made = judged.judgements()[0].created
    assert summarise(judged, made + timedelta(minutes=1)).last_hour == 8
    later = summarise(judged, made.replace(minute=59) + timedelta(hours=3))
    assert later.last_hour == 0
    assert len(later.hours) == 24
    assert sum(hour.judgements for hour in later.hours) == 8
    assert later.hours[-1].start - later.hours[0].start == timedelta(hours=23)


def test_summary_of_an_empty_store_has_no_figures(store: FeedbackStore) -> None:
    empty = summarise(store)
    assert (empty.items, empty.judgements, empty.alpha, empty.annotators) == (0, 0, {}, [])


def test_alpha_of_one_annotator_is_undefined_not_wrong(store: FeedbackStore, sign_in: SignIn) -> None:
    store.add_items([NewItem("rating", "p", ("c",))])
    admin = sign_in("ada", "admin")
    answer(store, "ada", {1: {"rating": 3}})
    assert admin.get("/api/admin/summary").json()["alpha"] == {"rating": None}
    assert "undefined" in admin.get("/admin").text


@pytest.mark.parametrize(
    ("kind", "expected", "value", "right"),
    [
        ("pairwise", {"choice": 1, "strength": 3}, {"choice": 1, "strength": 1}, True),
        ("pairwise", {"choice": 1, "strength": 3}, {"choice": None, "strength": 0}, False),
        ("flags", {"harms": ["hate", "violence"]}, {"harms": ["violence", "hate"]}, True),
        ("flags", {"harms": []}, {"harms": ["hate"]}, False),
        ("correction", {"text": "a b"}, {"text": " a  b\n"}, True),
        ("rating", {"rating": 4}, {"rating": 5}, False),
        ("thumbs", {"up": True}, {"up": True}, True),
        ("ranking", {"order": [1, 0]}, {"order": [0, 1]}, False),
    ],
)
def test_gold_answers(kind: str, expected: dict[str, object], value: dict[str, object], right: bool) -> None:
    item = Item(1, kind, "p", ("a", "b"), "", "", {}, 1, expected, 0.0, NOW)
    assert gold_correct(item, Judgement(1, 1, "ada", kind, value, 1.0, "", (0, 1), "k", NOW)) is right


def test_page_shows_the_figures_and_escapes_names(judged: FeedbackStore, sign_in: SignIn) -> None:
    judged.add_annotator("<script>alert(1)</script>")  # the terminal annotator lets people have such names
    page = sign_in("root", "admin").get("/admin").text
    assert "<script>alert" not in page
    assert "&lt;script&gt;alert(1)" in page
    assert re.search(r"Krippendorff", page)
    assert "1 of 1" in page
    assert "67%" in page


def test_pause_and_go_on(sign_in: SignIn, store: FeedbackStore) -> None:
    store.add_items([NewItem("rating", "p", ("c",))])
    admin = sign_in("ada", "admin")
    for paused in (True, False):
        page = admin.get("/admin").text
        token = re.search(r'name="csrf" value="([^"]+)"', page)
        assert token
        assert f'name="paused" value="{str(paused).lower()}"' in page
        assert admin.post("/admin/pause", data={"csrf": token[1], "paused": str(paused)}).status_code == 303
        assert store.settings.paused is paused
        assert (admin.post("/api/claim").json()["task"] is None) is paused


@pytest.mark.parametrize("role", ["annotator", "admin"])
def test_invitation_link_of_the_page_works(sign_in: SignIn, store: FeedbackStore, role: str) -> None:
    admin = sign_in("ada", "admin")
    token = admin.headers["X-CSRF-Token"]
    page = admin.post("/admin/invitations", data={"csrf": token, "role": role}).text
    link = re.search(r'value="http://localhost:8000/invite/([^"]+)"', page)
    assert link
    assert store.register(link[1], "ben", "hash").role == role
    assert admin.post("/admin/invitations", data={"csrf": token, "role": "root"}).status_code == 422


def test_settings_by_form(sign_in: SignIn, store: FeedbackStore) -> None:
    admin = sign_in("ada", "admin")
    form = {"csrf": admin.headers["X-CSRF-Token"], "guidelines": "Be\r\nkind", "low": "0", "high": "10"}
    form |= {"lease_minutes": "2", "harms": "rude\r\n\r\n wrong "}
    assert admin.post("/admin/settings", data=form).status_code == 303
    kept = store.settings
    assert (kept.guidelines, kept.scale, kept.harms, kept.lease_seconds) == (
        "Be\nkind",
        (0, 10),
        ("rude", "wrong"),
        120,
    )


def test_a_new_scale_for_old_ratings_is_refused_and_the_form_comes_back_as_it_was_filled_in(
    sign_in: SignIn, judged: FeedbackStore
) -> None:
    admin = sign_in("root", "admin")
    assert admin.patch("/api/admin/settings", json={"scale": [1, 7]}).status_code == 422
    form = {"csrf": admin.headers["X-CSRF-Token"], "guidelines": "Be <kind>", "low": "1", "high": "7"}
    form |= {"lease_minutes": "2", "harms": "rude"}
    answer = admin.post("/admin/settings", data=form)
    assert answer.status_code == 422
    assert "scale: there are ratings from 1 to 5 already" in answer.text
    assert "Be &lt;kind&gt;</textarea>" in answer.text
    assert judged.settings.guidelines == ""
    assert admin.post("/admin/settings", data={**form, "high": "5"}).status_code == 303
    assert judged.settings.guidelines == "Be <kind>"


@pytest.mark.parametrize(
    "changes",
    [
        {"scale": [5, 1]},
        {"scale": [0, 10**9]},
        {"harms": ["a", "a"]},
        {"harms": [" "]},
        {"lease_seconds": 0},
        {"guidelines": "\ud800"},
        {"nonsense": 1},
    ],
)
def test_settings_that_make_no_sense_are_422(sign_in: SignIn, store: FeedbackStore, changes: object) -> None:
    before = store.settings
    headers = {"content-type": "application/json"}
    answer = sign_in("ada", "admin").patch("/api/admin/settings", content=json.dumps(changes), headers=headers)
    assert answer.status_code == 422, answer.text
    assert store.settings == before


def test_export_downloads_rows_and_counts_what_it_drops(judged: FeedbackStore, sign_in: SignIn) -> None:
    admin = sign_in("root", "admin")
    answer = admin.get("/api/admin/export", params={"format": "ratings"})
    rows = [json.loads(line) for line in answer.text.splitlines()]
    assert len(rows) == 6
    assert {row["label"] for row in rows} == {1.0, 3.0, 5.0}
    assert json.loads(answer.headers["x-export-dropped"])["gold question"] == 2
    assert answer.headers["content-disposition"] == 'attachment; filename="feedback-ratings.jsonl"'
    page = admin.get("/admin/export", params={"format": "ratings"}).text
    assert "6 rows" in page
    assert "gold question" in page


@pytest.mark.parametrize("format", ["../../etc/passwd", "x' OR 1=1", "", "\0"])
def test_unknown_export_format_is_422(sign_in: SignIn, format: str) -> None:
    admin = sign_in("ada", "admin")
    assert admin.get("/api/admin/export", params={"format": format}).status_code == 422
    assert admin.get("/admin/export", params={"format": format}).status_code == 422
