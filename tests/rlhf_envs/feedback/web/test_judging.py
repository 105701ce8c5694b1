"""Judging through the JSON API: every kind, leases, undo, bad input."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from rlhf_envs.feedback import FeedbackStore, NewItem, StoreError
from rlhf_envs.feedback.web import create_app
from rlhf_envs.feedback.web.auth import COOKIE

SECRET = b"0123456789abcdef0123456789abcdef"  # that of the fixtures
SignIn = Callable[..., TestClient]


def claim(client: TestClient) -> dict[str, Any]:
    answer = client.post("/api/claim")
    assert answer.status_code == 200, answer.text
    task = answer.json()["task"]
    assert task is not None
    return dict(task)


def judge(client: TestClient, task: dict[str, Any], value: object, key: str = "key-of-the-test", **more: object) -> Any:
    return client.post(f"/api/tasks/{task['id']}/judgement", json={"value": value, "key": key, **more})


@pytest.mark.parametrize(
    ("kind", "n", "value", "kept"),
    [
        ("pairwise", 2, {"choice": 1, "strength": 3}, {"choice": 1, "strength": 3}),
        ("pairwise", 2, {"choice": None}, {"choice": None, "strength": 0}),
        ("ranking", 3, {"order": [2, 0, 1]}, {"order": [2, 0, 1]}),
        ("rating", 1, {"rating": 4}, {"rating": 4}),
        ("thumbs", 1, {"up": False}, {"up": False}),
        ("correction", 1, {"text": "better"}, {"text": "better"}),
        ("flags", 1, {"harms": ["violence", "hate"]}, {"harms": ["hate", "violence"]}),
        ("pairwise", 2, None, None),
    ],
)
def test_every_kind_is_stored_as_given(
    sign_in: SignIn, store: FeedbackStore, kind: str, n: int, value: object, kept: object
) -> None:
    store.add_items([NewItem(kind, "p", tuple("abcdef"[:n]))])
    ada = sign_in("ada")
    task = claim(ada)
    assert judge(ada, task, value, seconds=2.5, comment="why").json()["value"] == kept
    (judgement,) = store.judgements(include_skips=True)
    assert (judgement.value, judgement.seconds, judgement.comment) == (kept, 2.5, "why")
    assert (judgement.annotator, judgement.sides) == ("ada", tuple(shown["index"] for shown in task["completions"]))


def test_completions_stand_in_the_order_drawn_and_know_their_index(sign_in: SignIn, store: FeedbackStore) -> None:
    store.add_items([NewItem("pairwise", "p", (f"first {i}", f"second {i}")) for i in range(20)])
    ada = sign_in("ada")
    orders = []
    for i in range(20):
        task = claim(ada)
        for shown in task["completions"]:
            assert shown["text"].startswith(("first", "second")[shown["index"]])
        orders.append(task["completions"][0]["index"])
        judge(ada, task, None, key=f"key-number-{i}")
    assert {0, 1} == set(orders)


def test_what_could_sway_the_annotator_is_not_sent(sign_in: SignIn, store: FeedbackStore) -> None:
    secret = {"source": "SECRET", "policy": "SECRET", "meta": {"x": "SECRET"}}
    store.add_items([NewItem("rating", "p", ("c",), gold={"rating": 3}, **secret)])
    answer = sign_in("ada").post("/api/claim")
    assert "SECRET" not in answer.text
    assert "gold" not in answer.text


def test_open_task_comes_back_after_a_restart(sign_in: SignIn, store: FeedbackStore) -> None:
    store.add_items([NewItem("rating", "p", (str(i),)) for i in range(3)])
    ada = sign_in("ada")
    first = claim(ada)
    later = TestClient(create_app(store, secret=SECRET), cookies=ada.cookies, headers=ada.headers)
    assert claim(later)["id"] == first["id"]


def test_double_click_is_one_judgement(sign_in: SignIn, store: FeedbackStore) -> None:
    store.add_items([NewItem("rating", "p", ("c",))])
    ada = sign_in("ada")
    task = claim(ada)
    first, second = judge(ada, task, {"rating": 2}), judge(ada, task, {"rating": 2})
    assert first.json() == second.json()
    assert len(store.judgements()) == 1


def test_two_annotators_never_share_the_last_place(sign_in: SignIn, store: FeedbackStore) -> None:
    store.add_items([NewItem("rating", "p", ("c",), overlap=1)])
    ada, ben = sign_in("ada"), sign_in("ben")
    task = claim(ada)
    assert ben.post("/api/claim").json()["task"] is None
    assert judge(ben, task, {"rating": 1}).status_code == 409
    assert ben.post(f"/api/tasks/{task['id']}/renew").status_code == 409
    assert judge(ada, task, {"rating": 2}).status_code == 200


def test_lost_lease_is_409(tmp_path: Path, signed: Callable[..., tuple[str, str]]) -> None:
    now = datetime(2030, 1, 1, tzinfo=UTC)
    with FeedbackStore(tmp_path / "timed.db", clock=lambda: now) as store:
        store.add_items([NewItem("correction", "p", ("c",))])
        for name in ("ada", "ben"):
            store.add_annotator(name)
        lost = store.claim("ada")
        assert lost is not None
        now += timedelta(hours=1)
        taken = store.claim("ben")
        assert taken is not None
        client = signed_in_as(store, *signed(store, "ada"))
        answer = judge(client, {"id": lost.id}, {"text": "long work"})
        assert answer.status_code == 409
        assert "ran out" in answer.json()["detail"] or "lost" in answer.json()["detail"]
        assert store.judgements() == []


def signed_in_as(store: FeedbackStore, cookie: str, csrf: str) -> TestClient:
    app = create_app(store, secret=SECRET)
    return TestClient(app, raise_server_exceptions=False, cookies={COOKIE: cookie}, headers={"X-CSRF-Token": csrf})


def test_undo_gives_the_item_back_as_it_was_shown(sign_in: SignIn, store: FeedbackStore) -> None:
    store.add_items([NewItem("pairwise", "p", ("a", "b")) for _ in range(2)])
    ada = sign_in("ada")
    assert ada.post("/api/undo").status_code == 409
    task = claim(ada)
    judge(ada, task, {"choice": 0, "strength": 1})
    back = ada.post("/api/undo").json()["task"]
    assert (back["item_id"], back["completions"]) == (task["item_id"], task["completions"])
    assert store.judgements() == []
    assert judge(ada, back, {"choice": 1, "strength": 2}, key="the-second-key").status_code == 200
    assert [judgement.value for judgement in store.judgements()] == [{"choice": 1, "strength": 2}]


def test_release_makes_room_for_others(sign_in: SignIn, store: FeedbackStore) -> None:
    store.add_items([NewItem("rating", "p", ("c",))])
    ada, ben = sign_in("ada"), sign_in("ben")
    task = claim(ada)
    assert ada.post(f"/api/tasks/{task['id']}/release").status_code == 204
    assert claim(ben)["item_id"] == task["item_id"]


def test_pause_gives_out_nothing(sign_in: SignIn, store: FeedbackStore) -> None:
    store.add_items([NewItem("rating", "p", ("c",))])
    store.update_settings(paused=True)
    state = sign_in("ada").post("/api/claim").json()
    assert state["task"] is None
    assert state["settings"]["paused"]


@pytest.mark.parametrize(
    "body",
    [
        {"value": {"rating": 6}, "key": "12345678"},
        {"value": {"rating": "3"}, "key": "12345678"},
        {"value": {"up": True}, "key": "12345678"},
        {"value": {"rating": 3, "x": "' OR 1=1"}, "key": "12345678"},
        {"value": {"rating": 10**400}, "key": "12345678"},
        {"value": [], "key": "12345678"},
        {"value": {"rating": 3}},
        {"value": {"rating": 3}, "key": "short"},
        {"value": {"rating": 3}, "key": "../../etc/passwd"},
        {"value": {"rating": 3}, "key": "'; DROP TABLE judgements; --"},
        {"value": {"rating": 3}, "key": "12345678", "seconds": -1},
        {"value": {"rating": 3}, "key": "12345678", "seconds": "NaN"},
        {"value": {"rating": 3}, "key": "12345678", "comment": "x" * 20_001},
        {"value": {"rating": 3}, "key": "12345678", "comment": "\ud800"},
        {"value": {"rating": "\ud800\0"}, "key": "12345678"},
        {"value": {"rating": 3}, "key": "12345678", "annotator": "ben"},
    ],
)
def test_bad_answer_is_422_and_the_task_stays(sign_in: SignIn, store: FeedbackStore, body: object) -> None:
    store.add_items([NewItem("rating", "p", ("c",))])
    ada = sign_in("ada")
    task = claim(ada)
    headers = {"content-type": "application/json"}
    answer = ada.post(f"/api/tasks/{task['id']}/judgement", content=json.dumps(body), headers=headers)
    assert answer.status_code == 422, answer.text
    assert answer.json()["detail"]
    assert store.judgements() == []
    assert claim(ada)["id"] == task["id"]


@pytest.mark.parametrize("task_id", ["0", "-1", "9" * 30, "1;DROP TABLE tasks", "..%2F..%2Fetc%2Fpasswd", "%00", "1e3"])
def test_bad_task_id_is_a_clean_4xx(sign_in: SignIn, task_id: str) -> None:
    ada = sign_in("ada")
    answer = ada.post(f"/api/tasks/{task_id}/judgement", json={"value": None, "key": "12345678"})
    assert answer.status_code in (404, 422)
    assert judge(ada, {"id": 2**63 - 1}, None).status_code == 409


@pytest.mark.parametrize("body", [b"{", b"\xff", b'{"value":' * 5000, b"[" * 100_000, b""])
def test_what_is_no_json_is_a_clean_4xx(sign_in: SignIn, body: bytes) -> None:
    headers = {"content-type": "application/json"}
    assert sign_in("ada").post("/api/tasks/1/judgement", content=body, headers=headers).status_code in (400, 422)


def test_huge_body_is_413(sign_in: SignIn) -> None:
    ada = sign_in("ada")
    huge = b"x" * (8 * 2**20 + 1)
    assert ada.post("/api/tasks/1/judgement", content=huge).status_code == 413
    chunked = ada.post("/api/tasks/1/judgement", content=iter([huge]), headers={"content-type": "application/json"})
    assert chunked.status_code == 413


HOSTILE = [
    "<script>alert(1)</script>",
    "",
    "a\x00b\x1b[31m\ud800",
    "\u202eexe.gpj",
    "שלום \U0001f469\u200d\U0001f469\u200d\U0001f467",
    "m" * 2**20,
]


@pytest.mark.parametrize("text", HOSTILE, ids=["script", "empty", "control", "bidi", "emoji", "1MB"])
def test_hostile_completion_travels_unchanged_as_json(sign_in: SignIn, store: FeedbackStore, text: str) -> None:
    store.add_items([NewItem("pairwise", text, (text, "b"))])
    ada = sign_in("ada")
    answer = ada.post("/api/claim")
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["x-content-type-options"] == "nosniff"
    task = answer.json()["task"]
    assert {shown["index"]: shown["text"] for shown in task["completions"]} == {0: text, 1: "b"}
    assert task["prompt"] == text


def test_correction_of_one_megabyte_is_kept(sign_in: SignIn, store: FeedbackStore) -> None:
    store.add_items([NewItem("correction", "p", ("c",))])
    ada = sign_in("ada")
    text = "é\u202e\0" * 350_000
    assert judge(ada, claim(ada), {"text": text}).status_code == 200
    assert store.judgements()[0].value == {"text": text}


def test_pages_have_a_strict_policy_and_no_inline_code(sign_in: SignIn, store: FeedbackStore) -> None:
    admin = sign_in("ada", "admin")
    for path in ("/annotate", "/admin", "/login", "/invite/x", "/nothing", "/static/annotate.js", "/api/session"):
        page = admin.get(path)
        policy = page.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "script-src 'self';" in policy
        assert "unsafe" not in policy
        assert page.headers["x-frame-options"] == "DENY"
        if "html" in page.headers["content-type"]:
            assert "<style" not in page.text
            assert " style=" not in page.text
            assert not re.search(r"\son\w+\s*=|<script(?![^>]*\ssrc=)|javascript:", page.text)
            assert "http" not in page.text.replace("http://www.w3.org", "")


def test_store_that_fails_is_503_with_the_reason(
    sign_in: SignIn, store: FeedbackStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    ada = sign_in("ada")

    def locked(name: str) -> None:
        raise StoreError("feedback.db is locked by another program")

    monkeypatch.setattr(store, "claim", locked)
    answer = ada.post("/api/claim")
    assert answer.status_code == 503
    assert "locked by another program" in answer.json()["detail"]
    assert "retry-after" in answer.headers
