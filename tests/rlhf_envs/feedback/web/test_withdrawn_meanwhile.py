"""A request that races its author's withdrawal: the session was valid when it came, and the account is closed now."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from rlhf_envs.feedback import FeedbackStore, NewItem
from rlhf_envs.feedback.store.documents import digest_of
from rlhf_envs.feedback.store.withdrawing import withdraw_person

GUIDELINES = "Be fair."
ANSWER = {"value": {"up": True}, "key": "a-key-of-mine"}
CALLS = [
    ("POST", "/api/claim", {"json": {}}),
    ("POST", "/api/undo", {"json": {}}),
    ("POST", "/api/tasks/{task}/judgement", {"json": ANSWER}),
    ("POST", "/api/tasks/{task}/renew", {"json": {}}),
    ("POST", "/api/tasks/{task}/view", {"json": {}}),
    ("POST", "/api/tasks/{task}/release", {"json": {}}),
    ("POST", "/api/training/1/1", {"json": {"value": {"up": True}}}),
    ("POST", "/me/withdraw", {"data": {"confirm": "yes"}}),
    ("POST", "/guidelines", {"data": {"digest": digest_of(GUIDELINES)}}),
    ("POST", "/screening", {"data": {}}),
]
READS = ["/api/progress", "/api/session", "/me", "/me/answers.json", "/annotate", "/guidelines", "/finished", "/held"]


@pytest.fixture
def racing(
    store: FeedbackStore, app: FastAPI, sign_in: Callable[..., TestClient], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., TestClient]:
    """Sign ada in, who holds a task. From then on she is withdrawn as soon as her session was found valid."""

    def racing(labels: str, guidelines: str = "") -> TestClient:
        store.add_annotator("root", "admin")
        store.update_settings(consent={"text": "", "withdrawn_labels": labels}, guidelines=guidelines)
        store.add_items([NewItem("thumbs", f"p{i}", ("c",)) for i in range(3)])
        client = sign_in("ada")
        task = store.claim("ada")
        assert task is not None
        client.headers["task"] = str(task.id)
        find = FeedbackStore.session_annotator
        gone: list[Any] = []

        def find_and_lose(self: FeedbackStore, token: str) -> Any:
            found = find(self, token)
            if found is not None and not gone:
                gone.append(withdraw_person(store, "ada", by="root"))
            return found

        monkeypatch.setattr(FeedbackStore, "session_annotator", find_and_lose)
        return client

    return racing


@pytest.mark.parametrize("labels", ["keep", "delete"])
@pytest.mark.parametrize(("method", "path", "body"), CALLS, ids=[path for _, path, _ in CALLS])
def test_who_was_withdrawn_meanwhile_is_asked_to_sign_in(
    racing: Callable[..., TestClient],
    store: FeedbackStore,
    labels: str,
    method: str,
    path: str,
    body: dict[str, Any],
) -> None:
    client = racing(labels, GUIDELINES if path == "/guidelines" else "")
    if "data" in body:
        body = {"data": {**body["data"], "csrf": client.headers["X-CSRF-Token"]}}
    answer = client.request(method, path.format(task=client.headers["task"]), **body)
    if path.startswith("/api/"):
        assert (answer.status_code, answer.json()) == (401, {"detail": "sign in first"}), answer.text
    else:
        assert (answer.status_code, answer.headers["location"]) == (303, "/login"), answer.text
    assert store.judgements() == []
    task = store.claim("root")  # ada holds nothing any more
    assert task is not None
    assert task.item.id == 1


@pytest.mark.parametrize("labels", ["keep", "delete"])
@pytest.mark.parametrize("path", READS)
def test_no_page_fails_for_who_was_withdrawn_meanwhile(
    racing: Callable[..., TestClient], labels: str, path: str
) -> None:
    answer = racing(labels, GUIDELINES if path == "/guidelines" else "").get(path)
    assert answer.status_code in (200, 303, 401), answer.text
