"""Webhooks against a real receiver, and the zip of everything."""

from __future__ import annotations

import base64
import hashlib
import hmac
import io
import json
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from rlhf_envs.feedback import FeedbackStore, NewItem
from rlhf_envs.feedback.formats.importing import import_file
from rlhf_envs.feedback.settings import Webhooks
from rlhf_envs.feedback.store.withdrawing import withdraw_person
from rlhf_envs.feedback.web.admin.archive import write_archive
from rlhf_envs.feedback.web.webhooks import Postman, delivering, sign

KEY = b"0123456789abcdef0123456789abcdef"
SECRET = "whsec_" + base64.b64encode(KEY).decode()


class Receiver:
    """A server that notes what it is sent, and answers as it is told."""

    def __init__(self) -> None:
        self.got: list[tuple[dict[str, str], bytes]] = []
        self.status, self.headers = 204, {"X": "y"}
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                receiver.got.append(({name.lower(): value for name, value in self.headers.items()}, body))
                self.send_response(receiver.status)
                for name, value in receiver.headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/hook?x=1"
        self.thread = threading.Thread(target=self.server.serve_forever)
        self.thread.start()


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    receiver = Receiver()
    yield receiver
    receiver.server.shutdown()
    receiver.server.server_close()
    receiver.thread.join(10)


def judge(store: FeedbackStore, n: int = 1) -> None:
    store.add_items([NewItem("thumbs", f"p{i}", ("c",)) for i in range(n)])
    store.add_annotator("ada")
    for _ in range(n):
        task = store.claim("ada")
        assert task is not None
        store.submit(task.id, "ada", {"up": True}, key=f"ada-{task.id}")


def wait_for(done: Callable[[], bool], seconds: float = 20.0) -> None:
    end = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_the_signature_is_that_of_the_specification() -> None:
    # The example of the Standard Webhooks specification's reference libraries.
    secret, key = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "msg_p5jXN8AQM9LWM0D4loKWxJek"
    assert sign(secret, key, 1614265330, b'{"test": 2432232314}') == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


def test_an_event_arrives_signed(store: FeedbackStore, receiver: Receiver) -> None:
    store.update_settings(webhooks=Webhooks(receiver.url, ("judgement.created",), SECRET))
    judge(store)
    assert Postman(store).deliver_due() == 1
    [(headers, body)] = receiver.got
    told = json.loads(body)
    assert (told["type"], told["data"]["value"]) == ("judgement.created", {"up": True})
    content = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
    digest = hmac.new(KEY, content, hashlib.sha256).digest()
    assert headers["webhook-signature"] == f"v1,{base64.b64encode(digest).decode()}"
    assert abs(int(headers["webhook-timestamp"]) - time.time()) < 60
    assert store.count_deliveries() == {"sent": 1}


@pytest.mark.parametrize("status", [302, 400, 410, 500])
def test_what_is_not_taken_is_kept(store: FeedbackStore, receiver: Receiver, status: int) -> None:
    store.update_settings(webhooks=Webhooks(receiver.url, ("judgement.created",), SECRET))
    receiver.status, receiver.headers = status, {"Location": "http://127.0.0.1:1/", "Retry-After": "1000"}
    judge(store)
    postman = Postman(store)
    assert postman.deliver_due() == 1
    assert postman.deliver_due() == 0  # not before its time
    [delivery] = store.deliveries()
    assert (delivery.state, delivery.attempts, delivery.problem) == ("waiting", 1, f"the receiver answered {status}")
    assert (delivery.next_try - delivery.created).total_seconds() >= 999
    assert len(receiver.got) == 1  # no redirect is followed


def test_a_receiver_that_is_down_costs_a_judgement_nothing_and_a_restart_loses_nothing(
    store: FeedbackStore, receiver: Receiver
) -> None:
    store.update_settings(webhooks=Webhooks("http://127.0.0.1:9/", ("judgement.created",), SECRET))
    with delivering(store):
        begun = time.monotonic()
        judge(store, 20)
        assert time.monotonic() - begun < 10
        wait_for(lambda: any(one.problem for one in store.deliveries()))
    assert len(store.deliveries()) == 20
    store.update_settings(webhooks=Webhooks(receiver.url, ("judgement.created",), SECRET))
    store.retry_deliveries()
    with FeedbackStore(store.url) as again, delivering(again):  # another process, after a restart
        wait_for(lambda: store.count_deliveries() == {"sent": 20})
    assert len({headers["webhook-id"] for headers, _ in receiver.got}) == 20


def test_the_page_shows_events_and_sends_them_again(
    store: FeedbackStore, sign_in: Callable[..., TestClient], receiver: Receiver
) -> None:
    admin = sign_in("root", "admin")
    assert "No events are sent" in admin.get("/admin/webhooks").text
    receiver.status = 500
    store.update_settings(webhooks=Webhooks(receiver.url, ("judgement.created",), SECRET))
    judge(store)
    Postman(store).deliver_due()
    page = admin.get("/admin/webhooks").text
    assert "the receiver answered 500" in page
    assert SECRET not in page
    receiver.status = 200
    admin.post("/admin/webhooks", data={"csrf": admin.headers["X-CSRF-Token"]})
    assert Postman(store).deliver_due() == 1
    assert store.count_deliveries() == {"sent": 1}


def test_no_page_of_the_audit_has_the_secret(store: FeedbackStore, sign_in: Callable[..., TestClient]) -> None:
    admin = sign_in("root", "admin")
    text = f'[webhooks]\nurl = "https://here/hook"\nsecret = "{SECRET}"\n'
    answer = admin.post("/admin/study", data={"csrf": admin.headers["X-CSRF-Token"], "text": text})
    assert answer.status_code == 200, answer.text
    assert store.settings.webhooks.secret == SECRET
    assert "whsec_…" in json.dumps(store.audit()[0].after, ensure_ascii=False)
    assert SECRET not in json.dumps([entry.after for entry in store.audit()])


def test_everything_in_one_zip(
    store: FeedbackStore, sign_in: Callable[..., TestClient], tmp_path: Path, password_hash: str
) -> None:
    store.update_settings(webhooks=Webhooks("https://here/hook", (), SECRET), guidelines="Be \ud800 kind")
    judge(store, 3)
    store.undo("ada")
    store.drop_judgement(1, by="root", reason="a bot")
    admin = sign_in("root", "admin")
    store.adjudicate(2, {"up": False}, by="root")
    answer = admin.get("/admin/everything.zip")
    assert answer.headers["content-disposition"] == 'attachment; filename="feedback.zip"'
    archive = zipfile.ZipFile(io.BytesIO(answer.content))
    assert archive.testzip() is None
    read = {name: archive.read(name).decode() for name in archive.namelist()}
    whole = "".join(read.values())
    assert SECRET not in whole
    assert password_hash not in whole
    rows: dict[str, list[Any]] = {
        name: [json.loads(line) for line in text.splitlines()] for name, text in read.items() if name.endswith("jsonl")
    }
    assert [row["state"] for row in rows["judgements.jsonl"]] == ["dropped", "stands", "taken back"]
    assert {row["action"] for row in rows["audit.jsonl"]} == {"drop", "final answer"}
    assert [row["name"] for row in rows["annotators.jsonl"]] == ["ada", "root"]
    assert rows["final_answers.jsonl"][0]["value"] == {"up": False}
    assert json.loads(read["settings.json"])["webhooks"]["url"] == "https://here/hook"
    (tmp_path / "items.jsonl").write_text(read["items.jsonl"])
    with FeedbackStore(tmp_path / "copy.db") as copy:
        done = import_file(copy, tmp_path / "items.jsonl")
        assert (done.items, done.judgements, done.bad) == (3, 1, ())


def test_people_who_withdrew_are_not_in_the_zip_and_their_answers_stay_out(
    store: FeedbackStore, tmp_path: Path
) -> None:
    judge(store, 2)
    store.drop_judgement(1, by="root", reason="a bot")
    withdraw_person(store, "ada", by="root")
    assert write_archive(store, tmp_path / "all.zip")["judgements.jsonl"] == 0
    with pytest.raises(ValueError, match="was not dropped"):
        store.restore_judgement(1, by="root", reason="no bot")
    assert store.judgements() == []
