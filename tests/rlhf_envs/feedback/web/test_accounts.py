"""Accounts: invitations, passwords, cookies, CSRF, throttling, roles."""

from __future__ import annotations

import asyncio
import os
import re
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from fastapi import FastAPI, HTTPException
from fastapi.testclient import TestClient

from rlhf_envs.feedback import FeedbackStore, NewItem
from rlhf_envs.feedback.web import create_app
from rlhf_envs.feedback.web.auth import COOKIE, SESSION_DAYS, clean_name
from rlhf_envs.feedback.web.passwords import Passwords, SignInPool, check_password

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
        ("ada", "aaaaaaaa", 422),
        ("ada", "Sunshine2026!", 422),
        ("ada", "12345678", 422),
        ("a dear name", "a dear name", 422),
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


def test_admins_come_to_the_overview_and_annotators_to_the_items(
    visitor: Callable[[], TestClient], store: FeedbackStore
) -> None:
    for role, first in (("admin", "/admin"), ("annotator", "/annotate")):
        client = visitor()
        invitation = f"/invite/{store.invite(role)}"
        form = {"csrf": form_token(client.get(invitation).text), "name": role, "password": PASSWORD}
        assert client.post(invitation, data=form).headers["location"] == first
        assert client.get("/").headers["location"] == first
        again = visitor()
        form["csrf"] = form_token(again.get("/login").text)
        assert again.post("/login", data=form).headers["location"] == first
    assert visitor().get("/").headers["location"] == "/login"


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


def test_strangers_lock_nobody_out_who_shares_their_address(
    visitor: Callable[[], TestClient], enrol: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("ada", "ben"):
        enrol(name)
    client = visitor()

    def attempt(name: str, password: str = "wrong") -> int:
        return client.post("/api/login", json={"name": name, "password": password}).status_code

    with monkeypatch.context() as patch:
        patch.setattr(Passwords, "verify", lambda self, password, known: False)  # 60 hashes take seconds
        assert {attempt(f"n{i}") for i in range(60)} == {401}
    assert [attempt("ada"), attempt("ada", PASSWORD)] == [401, 429]  # one try at each account is left
    assert attempt("ben", PASSWORD) == 200


def test_an_account_is_limited_over_all_addresses(app: FastAPI, enrol: Callable[..., str]) -> None:
    enrol("ada")
    statuses = []
    for i in range(22):
        with TestClient(app, client=(f"10.0.0.{i}", 1)) as client:
            statuses.append(client.post("/api/login", json={"name": "ada", "password": "wrong"}).status_code)
    assert statuses == [401] * 20 + [429] * 2


def test_an_ipv6_network_counts_as_one_address(app: FastAPI, enrol: Callable[..., str]) -> None:
    enrol("ada")
    statuses = []
    for host in [*(f"2001:db8::{i}" for i in range(6)), "2001:db8:0:1::1"]:
        with TestClient(app, client=(host, 1)) as client:
            statuses.append(client.post("/api/login", json={"name": "ada", "password": "wrong"}).status_code)
    assert statuses == [401] * 5 + [429, 401]


@pytest.mark.parametrize("way", ["sign-out by form", "sign-out by call", "switched off", "new password"])
def test_a_copied_cookie_is_worth_nothing_once_the_session_ends(
    sign_in: Callable[..., TestClient], visitor: Callable[[], TestClient], store: FeedbackStore, way: str
) -> None:
    ada, ben = sign_in("ada"), sign_in("ben")
    copy = {"cookie": f"{COOKIE}={ada.cookies[COOKIE]}"}
    assert visitor().get("/api/session", headers=copy).status_code == 200
    if way == "sign-out by form":
        assert ada.post("/logout", data={"csrf": ada.headers["X-CSRF-Token"]}).status_code == 303
    elif way == "sign-out by call":
        assert ada.post("/api/logout").status_code == 204
    elif way == "switched off":
        store.switch_account("ada", active=False)
    else:
        store.register(store.invite_to_reset("ada"), "ada", "another hash")
    assert visitor().get("/api/session", headers=copy).status_code == 401
    assert (
        visitor().post("/api/claim", headers={**copy, "X-CSRF-Token": ada.headers["X-CSRF-Token"]}).status_code == 401
    )
    assert ben.get("/api/session").status_code == 200


def test_an_admin_resets_a_password(
    sign_in: Callable[..., TestClient], visitor: Callable[[], TestClient], enrol: Callable[..., str]
) -> None:
    enrol("ben")
    admin = sign_in("ada", "admin")
    csrf = form_token(admin.get("/admin").text)
    page = admin.post(
        "/admin/accounts/reset", data={"csrf": csrf, "name": "ben"}, headers={"host": "evil.example"}
    ).text
    link = re.search(r'value="http://localhost:8000(/invite/[^"]+)"', page)
    assert link
    client, new = visitor(), "another long password"
    assert 'value="ben"' in client.get(link[1]).text
    assert accept(client, link[1], "ada", new) == 403  # the link is for ben alone
    assert accept(client, link[1], "ben", new) == 303
    assert client.get("/api/session").json()["name"] == "ben"
    assert accept(visitor(), link[1], "ben", new) == 403
    tries = [visitor().post("/api/login", json={"name": "ben", "password": p}).status_code for p in (PASSWORD, new)]
    assert tries == [401, 200]
    assert admin.post("/api/admin/resets", json={"name": "nobody"}).status_code == 422
    assert client.post("/api/admin/resets", json={"name": "ada"}).status_code == 403


def test_an_account_is_switched_off_and_on(
    sign_in: Callable[..., TestClient], visitor: Callable[[], TestClient], store: FeedbackStore
) -> None:
    admin, ben = sign_in("ada", "admin"), sign_in("ben")
    store.add_items([NewItem("rating", "p", ("c",))])
    assert ben.post("/api/claim").json()["task"]
    csrf = form_token(admin.get("/admin").text)

    def switch(name: str, active: bool) -> int:
        form = {"csrf": csrf, "name": name, "active": str(active).lower()}
        return admin.post("/admin/accounts/switch", data=form).status_code

    assert switch("ben", False) == 303
    assert store.claim("ada") is not None  # what ben held is free again
    assert visitor().post("/api/login", json={"name": "ben", "password": PASSWORD}).status_code == 401
    assert switch("ada", False) == 422  # nobody could switch anything on again
    assert admin.patch("/api/admin/accounts", json={"name": "ben", "active": True}).status_code == 204
    assert visitor().post("/api/login", json={"name": "ben", "password": PASSWORD}).status_code == 200


def test_no_session_begins_with_a_password_that_was_changed_meanwhile(
    store: FeedbackStore, enrol: Callable[..., str]
) -> None:
    enrol("ada")
    assert store.begin_session("ada", "an older hash") is None


@pytest.mark.parametrize("password", ["correct horse", "Zwölf Boxkämpfer", "8Tz!q0_v"])
def test_good_passwords_are_taken(password: str) -> None:
    check_password(password, "ada")


def test_sign_ins_wait_in_a_bounded_queue_of_their_own() -> None:
    async def flood() -> list[int]:
        pool, go = SignInPool(waiting=3), threading.Event()
        held = [asyncio.create_task(pool.run(go.wait)) for _ in range(100)]
        done, _ = await asyncio.wait(held, timeout=0.1)
        refused = [task.exception() for task in done]
        assert len(refused) == 100 - 3 - max(1, (os.cpu_count() or 1) // 2)
        go.set()
        await asyncio.wait(held)
        assert await pool.run(lambda: 5) == 5  # the places are free again
        return [error.status_code for error in refused if isinstance(error, HTTPException)]

    with ThreadPoolExecutor(1) as pool:  # Playwright's tests leave a loop running in this thread
        assert set(pool.submit(lambda: asyncio.run(flood())).result()) == {503}


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
    store: FeedbackStore,
    signed: Callable[..., tuple[str, str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    genuine = sign_in("ada", "admin").cookies[COOKIE]
    payload, _, rest = genuine.partition(".")
    foreign = signed(store, "ada", b"another secret, 32 bytes long...")[0]
    long_ago = time.time() - SESSION_DAYS * 24 * 3600 - 1
    with monkeypatch.context() as patch:
        patch.setattr("time.time", lambda: long_ago)
        old = signed(store, "ada")[0]
    for value in ("", "x", foreign, old, payload, payload[:-2] + "AA." + rest, genuine[:-1], "é\u202e"):
        client = visitor()
        raw = f"{COOKIE}={value}".encode()
        assert client.get("/api/session", headers={"cookie": raw}).status_code == 401, value
        assert client.get("/admin", headers={"cookie": raw}).status_code == 303, value
    assert visitor().get("/api/session", headers={"cookie": f"{COOKIE}={genuine}"}).status_code == 200


def test_cookie_of_an_annotator_of_another_store_signs_nobody_in(
    visitor: Callable[[], TestClient], signed: Callable[..., tuple[str, str]], enrol: Callable[..., str], tmp_path: Path
) -> None:
    enrol("ada")
    with FeedbackStore(tmp_path / "another.db") as another:
        another.add_annotator("ada")
        value = signed(another, "ada")[0]
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
