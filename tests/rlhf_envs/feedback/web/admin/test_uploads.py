"""Items by upload: a preview that changes nothing, the import, what is set aside, and limits."""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Callable
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from rlhf_envs.feedback import FeedbackStore, NewItem
from rlhf_envs.feedback.web import app
from rlhf_envs.feedback.web.admin import uploads

SignIn = Callable[..., TestClient]
ROWS = [
    {"prompt": "p1", "completions": ["a", "b"]},
    {"prompt": "p2", "chosen": "c", "rejected": "d", "annotator": "newcomer"},
    {"prompt": "p1", "completions": ["a", "b"]},
    {"prompt": 7, "completions": ["a", "b"]},
]
DAMAGED = gzip.compress(b"", mtime=0)[:10] + b"\xff" * 8  # the header, and a block of a type that there is not


def jsonl(*rows: Any) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def send(client: TestClient, content: bytes, name: str = "items.jsonl", **fields: str) -> Any:
    data = {"csrf": client.headers["X-CSRF-Token"], **fields}
    return client.post("/admin/upload", data=data, files={"file": (name, content)})


def token_of(page: str) -> str:
    found = re.search(r'name="token" value="([0-9a-f]+)"', page)
    assert found, page
    return found[1]


def test_preview_then_import(sign_in: SignIn, store: FeedbackStore) -> None:
    admin = sign_in("root", "admin")
    rows = [ROWS[0], {"prompt": "x", "completions": ["<b>", "\u202e"]}, ROWS[2], ROWS[3]]
    page = send(admin, jsonl(*rows), overlap="3").text
    assert "nothing is added yet" in page
    assert "2 items (2 pairwise)" in page
    assert "1 cannot be used, 1 duplicate" in page
    assert "&lt;b&gt;" in page
    assert "[U+202E]" in page
    assert store.items() == []
    assert store.audit() == []
    token = token_of(page)
    aside = [json.loads(line) for line in admin.get(f"/admin/upload/{token}/quarantine").text.splitlines()]
    assert sorted(row["where"] for row in aside) == ["items.jsonl:3", "items.jsonl:4"]
    done = admin.post("/admin/upload", data={"csrf": admin.headers["X-CSRF-Token"], "token": token}).text
    assert "was imported" in done
    assert [item.overlap for item in store.items()] == [3, 3]
    [entry] = store.audit()
    assert (entry.actor, entry.action) == ("root", "upload")
    assert entry.after == {"file": "items.jsonl", "items": 2, "judgements": 0, "not taken": 2}


def test_a_preview_of_judgements_names_the_new_people_and_adds_none(sign_in: SignIn, store: FeedbackStore) -> None:
    admin = sign_in("root", "admin")
    page = send(admin, jsonl({"prompt": "p", "chosen": "c", "rejected": "d"}), annotator="newcomer").text
    assert "1 items (1 pairwise), 1 answers, 1 new names" in page
    assert [person.name for person in store.annotators()] == ["root"]
    settings = {"scale": [1, 9], "harms": ["rude"], "guidelines": "g"}
    row = {"kind": "rating", "prompt": "p", "completions": ["c"], "store_settings": settings, "judgements": []}
    assert "would take the file" in send(admin, jsonl(row)).text
    assert store.settings.scale == (1, 5)


def test_a_preview_and_the_import_say_the_same(sign_in: SignIn, store: FeedbackStore) -> None:
    store.add_items([NewItem("pairwise", "p1", ("b", "a"))])
    admin = sign_in("root", "admin")
    page = send(admin, jsonl(ROWS[0], {"prompt": "new", "completions": ["a", "b"]})).text
    data = {"csrf": admin.headers["X-CSRF-Token"], "token": token_of(page)}
    numbers = re.compile(r"([\d,]+) rows.*?: ([\d,]+) items.*?([\d,]+) answers", re.DOTALL)
    before, after = numbers.search(page), numbers.search(admin.post("/admin/upload", data=data).text)
    assert before
    assert after
    assert before.groups() == after.groups() == ("2", "1", "0")


def test_gold_questions_by_upload(sign_in: SignIn, store: FeedbackStore) -> None:
    admin = sign_in("root", "admin")
    page = send(admin, jsonl({"prompt": "p", "chosen": "c", "rejected": "d"}), gold="true").text
    admin.post("/admin/upload", data={"csrf": admin.headers["X-CSRF-Token"], "token": token_of(page)})
    assert store.items()[0].gold == {"choice": 0, "strength": 1}


@pytest.mark.parametrize(
    ("name", "content", "fields", "said"),
    [
        ("items.exe", b"x", {}, "ends in .jsonl"),
        ("items.jsonl", b"", {}, "no rows"),
        ("../../etc/items.jsonl", b"\xff\xfe\x00", {}, "items.jsonl"),
        ("items.jsonl", jsonl({"a": 1}), {}, "items.jsonl"),
        ("items.jsonl", jsonl(ROWS[0]), {"overlap": "0"}, "overlap"),
        ("items.jsonl", jsonl(ROWS[0]), {"columns": "prompt"}, "ours:theirs"),
        ("items.jsonl", jsonl(ROWS[0]), {"columns": "prompt:no"}, "no column"),
        ("items.jsonl", jsonl(ROWS[0]), {"format": "nonsense"}, "unknown format"),
        ("items.jsonl.gz", b"no gzip", {}, "items.jsonl"),
        ("items.jsonl.gz", DAMAGED, {}, "not readable"),
    ],
)
def test_what_cannot_be_read_is_told_and_nothing_is_added(
    sign_in: SignIn, store: FeedbackStore, name: str, content: bytes, fields: dict[str, str], said: str
) -> None:
    answer = send(sign_in("root", "admin"), content, name, **fields)
    assert answer.status_code in (200, 422)
    assert said in answer.text
    assert "/tmp" not in answer.text
    assert store.items() == []


def test_sizes_are_limited(sign_in: SignIn, monkeypatch: pytest.MonkeyPatch) -> None:
    admin = sign_in("root", "admin")
    monkeypatch.setattr(app, "MAX_UPLOAD", 50_000)
    assert send(admin, b"x" * 60_000).status_code == 413


def test_a_gz_may_unpack_to_as_much_as_an_upload_may_have(sign_in: SignIn, monkeypatch: pytest.MonkeyPatch) -> None:
    admin = sign_in("root", "admin")
    monkeypatch.setattr(uploads, "MAX_UPLOAD", 2**20)
    rows = jsonl({**ROWS[0], "source": "x" * 2**19})
    assert token_of(send(admin, gzip.compress(rows), "items.jsonl.gz").text)
    answer = send(admin, gzip.compress(rows * 2), "items.jsonl.gz")
    assert answer.status_code == 422
    assert "items.jsonl.gz unpacks to more than 1 MB" in answer.text


def test_uploads_are_their_owner_s_and_end(sign_in: SignIn, app: FastAPI, monkeypatch: pytest.MonkeyPatch) -> None:
    admin, other = sign_in("root", "admin"), sign_in("second", "admin")
    tokens = [token_of(send(admin, jsonl(ROWS[0], ROWS[3])).text) for _ in range(12)]
    assert admin.get(f"/admin/upload/{tokens[-1]}/quarantine").status_code == 200
    assert other.get(f"/admin/upload/{tokens[-1]}/quarantine").status_code == 404
    assert admin.get(f"/admin/upload/{tokens[0]}/quarantine").status_code == 404
    monkeypatch.setattr(uploads, "_KEPT_SECONDS", -1)
    assert admin.get(f"/admin/upload/{tokens[-1]}/quarantine").status_code == 404


def test_only_admins_upload_and_only_with_the_token_of_the_form(sign_in: SignIn, store: FeedbackStore) -> None:
    assert send(sign_in("ada"), jsonl(ROWS[0])).status_code == 403
    admin = sign_in("root", "admin")
    files = {"file": ("items.jsonl", jsonl(ROWS[0]))}
    assert admin.post("/admin/upload", data={"csrf": "forged"}, files=files).status_code == 403
