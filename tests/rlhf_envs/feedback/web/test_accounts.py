"""Accounts: invitations, passwords, cookies, CSRF, throttling, roles."""

from __future__ import annotations

import re
import time
from collections.abc import Callable

import pytest
from fastapi import HTTPException
from fastapi.testclient import TestClient

from rlhf_envs.feedback import FeedbackStore
from rlhf_envs.feedback.web import create_app
from rlhf_envs.feedback.web.auth import COOKIE, SESSION_SECONDS, Passwords, clean_name

PASSWORD = "correct horse"


def form_token(page: str) -> str:
    found = re.search(r'name="csrf" value="([^"]+)"', page)
    assert found, page
    return found[1]


def accept(client: TestClient, path: str, name: str, password: str = PASSWORD) -> int:
    token = form_token(client.get(path).text)
    return client.post(path, data={"csrf": token, "name": name, "password": password}).status_code


def test_invitation_makes_an_account_once(visitor: Callable[[], TestClient], store: FeedbackStore) -> None:
    path = f"/invite/{store.invite('admin')}"
    first = visitor()
    assert accept(first, path, "ada") == 303
    assert first.get("/api/session").json()["role"] == "admin"
    assert accept(visitor(), path, "ben") == 403
    assert [annotator.name for annotator in store.annotators()] == ["ada"]


def test_password_is_kept_as_argon2id(visitor: Callable[[], TestClient], store: FeedbackStore) -> None:
    assert accept(visitor(), f"/invite/{store.invite()}", "ada") == 303
    kept = store.password_hash("ada")
    assert kept is not None
    assert kept.startswith("$argon2id$")
    assert Passwords().verify(PASSWORD, kept)
    assert not Passwords().verify(PASSWORD + "r", kept)
    assert not Passwords().verify(PASSWORD, None)


@pytest.mark.parametrize(
    ("name", "password", "status"),
    [
        ("ada", "short", 422),
        ("", PASSWORD, 422),
        ("../../etc/passwd", PASSWORD, 422),
        ("x'; DROP TABLE annotators; --", PASSWORD, 422),
        ("a\u202eb", PASSWORD, 422),
        ("nul\0", PASSWORD, 422),
        ("n" * 65, PASSWORD, 422),
        ("taken", PASSWORD, 409),
        ("\uff54\uff41\uff4b\uff45\uff4e", PASSWORD, 409),  # "taken" in full-width letters looks the same
    ],
)
def test_bad_name_or_password_keeps_the_invitation(
    visitor: Callable[[], TestClient], store: FeedbackStore, name: str, password: str, status: int
) -> None:
    store.add_annotator("taken")
    path = f"/invite/{store.invite()}"
    assert accept(visitor(), path, name, password) == status
    assert accept(visitor(), path, "ben") == 303


def test_names_are_told_only_to_those_who_are_invited(visitor: Callable[[], TestClient], store: FeedbackStore) -> None:
    store.add_annotator("taken")
    used = store.invite()
    store.register(used, "first", "hash")
    for token in ("forged", used):
        client = visitor()
        page = form_token(client.get(f"/invite/{token}").text)
        said = [
            client.post(f"/invite/{token}", data={"csrf": page, "name": name, "password": PASSWORD})
            for name in ("taken", "free")
        ]
        assert [answer.status_code for answer in said] == [403, 403]
        assert all("unknown, used or out of date" in answer.text for answer in said)


@pytest.mark.parametrize("token", ["forged", "..%2F..%2Fetc%2Fpasswd", "' OR 1=1 --", "%00", "\u202e"])
def test_forged_invitation_is_refused(visitor: Callable[[], TestClient], store: FeedbackStore, token: str) -> None:
    client = visitor()
    page = client.get(f"/invite/{token}")
    assert page.status_code in (200, 404)
    if page.status_code == 200:
        assert accept(client, f"/invite/{token}", "ada") == 403
    assert store.annotators() == []


def test_sign_in_by_form_and_out(visitor: Callable[[], TestClient], enrol: Callable[..., str]) -> None:
    enrol("ada")
    client = visitor()
    assert client.get("/annotate").headers["location"] == "/login"
    page = client.get("/login")
    answer = client.post("/login", data={"csrf": form_token(page.text), "name": " ada ", "password": PASSWORD})
    assert (answer.status_code, answer.headers["location"]) == (303, "/annotate")
    assert client.get("/annotate").status_code == 200
    out = client.post("/logout", data={"csrf": form_token(client.get("/annotate").text)})
    assert out.status_code == 303
    assert client.get("/annotate").status_code == 303


def test_cookie_is_http_only_same_site_and_secure_on_request(store: FeedbackStore, enrol: Callable[..., str]) -> None:
    enrol("ada")
    for secure in (False, True):
        client = TestClient(create_app(store, secret=b"s" * 32, secure_cookies=secure), base_url="https://testserver")
        answer = client.post("/api/login", json={"name": "ada", "password": PASSWORD})
        cookie = answer.headers["set-cookie"].lower()
        assert "httponly" in cookie
        assert "samesite=lax" in cookie
        assert ("secure" in cookie.replace("httponly", "")) is secure


def test_wrong_password_and_unknown_name_answer_alike(
    visitor: Callable[[], TestClient], enrol: Callable[..., str], store: FeedbackStore
) -> None:
    enrol("ada")
    store.add_annotator("terminal")  # made by the terminal annotator: has no password
    answers = [
        visitor().post("/api/login", json={"name": name, "password": "not the password"})
        for name in ("ada", "nobody", "terminal", "' OR 1=1 --", "../../etc/passwd", "\0")
    ]
    assert {(answer.status_code, answer.text) for answer in answers} == {(401, '{"detail":"wrong name or password"}')}


def test_sign_in_is_throttled(visitor: Callable[[], TestClient], enrol: Callable[..., str]) -> None:
    enrol("ada")
    client = visitor()
    wrong = [client.post("/api/login", json={"name": "ada", "password": "x" * 9}).status_code for _ in range(6)]
    assert wrong == [401] * 5 + [429]
    right = client.post("/api/login", json={"name": "ADA", "password": PASSWORD})
    assert right.status_code == 429
    assert int(right.headers["retry-after"]) > 0


def test_other_sites_cannot_sign_anyone_in(visitor: Callable[[], TestClient], enrol: Callable[..., str]) -> None:
    enrol("ada")
    body = f'{{"name": "ada", "password": "{PASSWORD}"}}'
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data"):  # what a form can send
        answer = visitor().post("/api/login", content=body, headers={"content-type": kind})
        assert answer.status_code == 422
        assert "set-cookie" not in answer.headers


def test_throttle_lets_go_after_its_window(
    visitor: Callable[[], TestClient], enrol: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    enrol("ada")
    client, now = visitor(), time.time()

    def attempt(password: str, name: str = "ada") -> int:
        return client.post("/api/login", json={"name": name, "password": password}).status_code

    monkeypatch.setattr("time.time", lambda: now)
    assert [attempt("wrong") for _ in range(6)] == [401] * 5 + [429]
    assert attempt("wrong", "ben") == 401
    now += 299
    waiting = client.post("/api/login", json={"name": "ada", "password": "wrong"})
    assert (waiting.status_code, waiting.json()["detail"]) == (429, "too many tries: wait 1 seconds")
    now += 2
    assert [attempt("wrong"), attempt("wrong"), attempt(PASSWORD)] == [401, 401, 200]
    assert [attempt("wrong") for _ in range(6)] == [401] * 5 + [429]  # the right password has made a new beginning


def test_an_address_has_sixty_tries_whatever_the_names(visitor: Callable[[], TestClient]) -> None:
    client = visitor()
    statuses = [client.post("/api/login", json={"name": f"n/{i}", "password": "wrong"}).status_code for i in range(62)]
    assert statuses == [401] * 60 + [429] * 2


def test_sign_in_makes_a_new_session(visitor: Callable[[], TestClient], enrol: Callable[..., str]) -> None:
    enrol("ada")
    client = visitor()
    before = form_token(client.get("/login").text)
    planted = client.cookies[COOKIE]
    after = client.post("/api/login", json={"name": "ada", "password": PASSWORD}).json()["csrf"]
    assert after != before and client.cookies[COOKIE] != planted
    assert client.post("/api/claim", headers={"X-CSRF-Token": before}).status_code == 403
    assert client.post("/api/claim", headers={"X-CSRF-Token": after}).status_code == 200
    assert visitor().get("/api/session", headers={"cookie": f"{COOKIE}={planted}"}).status_code == 401


def test_forged_cookie_signs_nobody_in(
    sign_in: Callable[..., TestClient],
    visitor: Callable[[], TestClient],
    signed: Callable[..., tuple[str, str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    genuine = sign_in("ada", "admin").cookies[COOKIE]
    payload, _, rest = genuine.partition(".")
    foreign = signed("ada", b"another secret, 32 bytes long...")[0]
    long_ago = time.time() - SESSION_SECONDS - 1
    with monkeypatch.context() as patch:
        patch.setattr("time.time", lambda: long_ago)
        old = signed("ada")[0]
    for value in ("", "x", foreign, old, payload, payload[:-2] + "AA." + rest, genuine[:-1], "é\u202e"):
        client = visitor()
        raw = f"{COOKIE}={value}".encode()
        assert client.get("/api/session", headers={"cookie": raw}).status_code == 401, value
        assert client.get("/admin", headers={"cookie": raw}).status_code == 303, value
    assert visitor().get("/api/session", headers={"cookie": f"{COOKIE}={genuine}"}).status_code == 200


def test_cookie_of_an_annotator_of_another_store_signs_nobody_in(
    visitor: Callable[[], TestClient], signed: Callable[..., tuple[str, str]]
) -> None:
    value = signed("ada")[0]
    assert visitor().get("/api/session", headers={"cookie": f"{COOKIE}={value}"}).status_code == 401


@pytest.mark.parametrize(
    "path", ["/api/claim", "/api/undo", "/api/logout", "/api/tasks/1/judgement", "/api/tasks/1/renew"]
)
def test_csrf_token_is_wanted_and_must_be_of_the_session(
    sign_in: Callable[..., TestClient], visitor: Callable[[], TestClient], path: str
) -> None:
    ada, ben = sign_in("ada"), sign_in("ben")
    answer = {"value": None, "key": "12345678"}
    tokens = ("", "forged", ben.headers["X-CSRF-Token"])
    assert [ada.post(path, json=answer, headers={"X-CSRF-Token": token}).status_code for token in tokens] == [403] * 3
    assert visitor().post(path, json=answer).status_code == 401


@pytest.mark.parametrize(
    "path", ["/login", "/logout", "/invite/x", "/admin/pause", "/admin/invitations", "/admin/settings"]
)
def test_forms_want_their_token(sign_in: Callable[..., TestClient], path: str) -> None:
    admin = sign_in("ada", "admin")
    assert admin.post(path, data={"name": "x", "password": PASSWORD, "paused": "true"}).status_code == 403


def test_only_admins_see_the_admin_pages(sign_in: Callable[..., TestClient], store: FeedbackStore) -> None:
    ben = sign_in("ben")
    assert ben.get("/admin").status_code == 403
    for path in ("/api/admin/summary", "/api/admin/settings", "/api/admin/export", "/admin/export"):
        assert ben.get(path).status_code == 403
    assert ben.patch("/api/admin/settings", json={"paused": True}).status_code == 403
    assert ben.post("/api/admin/invitations", json={"role": "admin"}).status_code == 403
    assert not store.settings.paused


def test_name_has_one_spelling() -> None:
    assert clean_name("  Zoe\u0308 O'Neil ") == "Zoë O'Neil"
    with pytest.raises(HTTPException, match="name: 1 to 64"):
        clean_name("a/b")


def test_short_secret_is_refused(store: FeedbackStore) -> None:
    with pytest.raises(ValueError, match="the secret has 3 bytes"):
        create_app(store, secret=b"abc")
