"""The gateway's routes, in front of an engine that speaks OpenAI's API: answers, streams, errors, keys and limits."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

pytest.importorskip("prometheus_client", reason="the gateway needs the extra serve")
import httpx2

from agents.serving import relay
from benchmarks.fake_engine import FakeEngine

from .running import Served, serve, serve_before, wait_until


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """Return a gateway in front of an engine that speaks OpenAI's API."""
    with serve(tmp_path_factory.mktemp("serving"), FakeEngine(), per_minute=100_000) as served:
        yield served


def error_of(response: Any) -> dict[str, Any]:
    content = response.json()
    assert sorted(content["error"]) == ["code", "message", "param", "type"], content
    assert response.headers["x-request-id"]
    return content["error"]


def events(text: str) -> list[Any]:
    """The data of a stream's events."""
    assert text.endswith("\n\n")
    lines = [line.removeprefix("data: ") for line in text.split("\n\n") if line]
    return [line if line == "[DONE]" else json.loads(line) for line in lines]


def test_a_completion_is_answered_under_our_names(served: Served) -> None:
    content = served.complete("a b c", temperature=0.5, seed=3).json()
    assert content["choices"][0]["text"] == "c b a "
    assert content["model"] == "mine" and content["id"].startswith("cmpl-") and content["usage"]["total_tokens"] == 6
    assert served.fake.last == {"model": "backwards", "prompt": "a b c", "temperature": 0.5, "seed": 3}
    assert "ann" not in str(served.fake.headers) and served.secret not in str(served.fake.headers)


def test_an_answer_does_not_wait_until_its_headers_are_confirmed(served: Served) -> None:
    """Nagle's algorithm would hold the body back for the 40 ms of a delayed acknowledgement."""
    seconds = []
    for _ in range(12):
        begun = time.monotonic()
        assert served.client.get("/healthz").status_code == 200
        seconds.append(time.monotonic() - begun)
    assert min(seconds[2:]) < 0.03


def test_a_chat_is_answered(served: Served) -> None:
    content = served.chat("x y", user="somebody", metadata={"a": "b"}, store=True).json()
    assert content["choices"][0]["message"] == {"role": "assistant", "content": "y x "}
    assert content["id"].startswith("chatcmpl-")
    assert not {"user", "metadata", "store"} & served.fake.last.keys(), "whose a request is stays here"


def test_log_probabilities_are_passed_on(served: Served) -> None:
    assert served.complete(logprobs=1).json()["choices"][0]["logprobs"]["token_logprobs"] == [-0.5]
    scored = served.chat(logprobs=True, top_logprobs=2).json()["choices"][0]["logprobs"]["content"]
    assert scored[0]["logprob"] == -0.5 and served.fake.last["top_logprobs"] == 2


@pytest.mark.parametrize("stream", [False, True])
def test_an_engine_that_ignores_log_probabilities_is_refused(served: Served, stream: bool) -> None:
    response = served.complete("a !unscored", logprobs=1, stream=stream)
    assert response.status_code == 502 and error_of(response)["code"] == "engine_without_logprobs"


@pytest.mark.parametrize("stream", [False, True])
def test_an_engine_that_lies_about_its_model_is_refused(served: Served, stream: bool) -> None:
    response = served.chat("a !lie", stream=stream)
    assert response.status_code == 502 and error_of(response)["code"] == "engine_model_mismatch"


def test_a_stream_comes_piece_by_piece(tmp_path: Path) -> None:
    with serve(tmp_path, FakeEngine()) as served:
        body = {"model": "mine", "prompt": "a !hold c", "stream": True}
        came = []
        with served.client.stream("POST", "/v1/completions", json=body) as response:
            for text in response.iter_text():
                came.append(text)
                served.fake.go_on.set()
    found = events("".join(came))
    assert [part["choices"][0]["text"] for part in found[:-1]] == ["c ", "!hold ", "a "] and found[-1] == "[DONE]"
    assert {(part["model"], part["id"]) for part in found[:-1]} == {("mine", found[0]["id"])}
    assert "!hold" not in came[0], "the first piece came before the engine wrote the second"
    assert response.headers["content-type"].startswith("text/event-stream")


def test_streams_one_after_the_other_share_connections_to_the_engine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(relay, "END_SECONDS", 20.0)  # for a busy machine
    fake = FakeEngine()
    with serve(tmp_path, fake) as served:
        body = {"model": "mine", "prompt": "a b c", "stream": True}
        answers = [served.client.post("/v1/completions", json=body).text for _ in range(5)]
    assert all(answer.endswith("data: [DONE]\n\n") for answer in answers)
    assert len(fake.clients) < 5, "one, unless the machine is so busy that they are idle for 2 s"


class Closes(BaseHTTPRequestHandler):
    """Answer so many requests for a completion per connection, and close that without a word when another comes."""

    protocol_version, n_asked = "HTTP/1.1", 0
    most: int
    seen: Counter[str]

    def do_GET(self) -> None:
        self.answer({"object": "list", "data": [{"id": "m"}]})

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.n_asked += 1
        self.seen["asked"] += 1
        if self.n_asked <= self.most:
            self.answer({"model": "m", "choices": [{"index": 0, "text": "a", "finish_reason": "stop"}]})
        else:
            self.close_connection = True

    def answer(self, content: dict[str, Any]) -> None:
        body = json.dumps(content).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: Any) -> None:
        pass


@pytest.mark.parametrize("most", [1, 0])
def test_a_request_is_sent_again_only_if_the_engine_closes_a_connection_used_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, most: int
) -> None:
    """An engine that closes a new one has begun with the request: it would be made, and charged, twice."""
    monkeypatch.setattr(relay, "STALE_SECONDS", 20.0)  # for a busy machine
    seen = Counter[str]()
    handler = type("Handler", (Closes,), {"most": most, "seen": seen})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as engine:
        threading.Thread(target=engine.serve_forever).start()
        try:
            with serve_before(tmp_path, f"http://127.0.0.1:{engine.server_port}") as served:
                statuses = [served.complete().status_code for _ in range(4)]
        finally:
            engine.shutdown()
    assert statuses == [200 if most else 503] * 4
    assert seen["asked"] > 4 if most else seen["asked"] == 4


def test_streams_of_chats_have_deltas_and_log_probabilities(served: Served) -> None:
    found = events(served.chat("a b", stream=True, logprobs=True).text)
    assert [part["choices"][0]["delta"]["content"] for part in found[:-1]] == ["b ", "a "]
    assert all(part["choices"][0]["logprobs"]["content"] for part in found[:-1])


@pytest.mark.parametrize("how", ["break", "error"])
def test_a_broken_stream_ends_with_an_error(served: Served, how: str) -> None:
    *parts, last = events(served.complete(f"z !{how} a", stream=True).text)
    assert [part["choices"][0]["text"] for part in parts] == ["a ", f"!{how} "]
    assert last["error"]["code"] == "engine_error" and last["error"]["type"] == "server_error"


@pytest.mark.parametrize(
    ("how", "status", "code"),
    [
        ("status 500", 502, "engine_error"),
        ("status 401", 502, "engine_error"),
        ("status 400", 400, "engine_refused"),
        ("status 429 7", 503, "engine_busy"),
        ("detail", 400, "engine_refused"),
        ("html", 502, "engine_error"),
        ("list", 502, "engine_error"),
        ("nochoices", 502, "engine_error"),
        ("sleep 5", 504, "engine_timeout"),
    ],
)
def test_what_an_engine_does_wrong_has_a_clear_status(
    served: Served, monkeypatch: pytest.MonkeyPatch, how: str, status: int, code: str
) -> None:
    if code == "engine_timeout":
        monkeypatch.setattr(served.gateway.client, "timeout", httpx2.Timeout(0.5))
    response = served.complete(f"!{how}")
    assert (response.status_code, error_of(response)["code"]) == (status, code)
    if how == "status 429 7":
        assert response.headers["retry-after"] == "7"
    if how == "detail":
        assert "prompt must be something else" in error_of(response)["message"]


def test_half_of_a_surrogate_pair_is_handed_on_and_what_is_no_number_is_refused(served: Served) -> None:
    raw = '!raw {"model": "backwards", "choices": [{"index": 0, "text": %s}]}'
    assert served.complete(raw % r'"\ud83d"').json()["choices"][0]["text"] == "\ud83d"
    response = served.complete(raw % '"", "score": NaN')
    assert response.status_code == 502 and error_of(response)["code"] == "engine_error"


@pytest.mark.parametrize("prompt", ["!raw %s", "!detail %s"])
def test_an_endless_answer_is_refused(served: Served, monkeypatch: pytest.MonkeyPatch, prompt: str) -> None:
    monkeypatch.setattr(relay, "MAX_ANSWER", 1000)
    response = served.complete(prompt % ("x" * 2000))
    assert response.status_code == 502 and "more than 1000 bytes" in error_of(response)["message"]


def test_a_stream_that_has_no_event_is_refused(served: Served) -> None:
    response = served.complete("!empty", stream=True)
    assert response.status_code == 502 and error_of(response)["code"] == "engine_error"


def test_a_client_that_goes_away_stops_the_engine(served: Served) -> None:
    served.fake.per_word = 0.2
    try:
        given_up = served.fake.seen["given up"]
        for body in ({"prompt": "!sleep 60"}, {"prompt": "a " * 300, "stream": True}):  # a minute each
            asked = served.fake.seen["/v1/completions"]
            with socket.create_connection((urlsplit(served.url).hostname, urlsplit(served.url).port)) as client:
                client.settimeout(20)
                client.sendall(raw_request(served, json.dumps({"model": "mine", **body}).encode()))
                wait_until(lambda asked=asked: served.fake.seen["/v1/completions"] == asked + 1)
                came = b""
                while "stream" in body and b"data: " not in came:  # until the engine has begun to write
                    came += client.recv(4096) or pytest.fail("the stream ended")
            wait_until(lambda: served.gateway.admission.n_running == 0)
        wait_until(lambda: served.fake.seen["given up"] >= given_up + 2)
    finally:
        served.fake.per_word = 0.0


def raw_request(served: Served, body: bytes, length: int | None = None) -> bytes:
    return (
        f"POST /v1/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {served.secret}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {length or len(body)}\r\n\r\n"
    ).encode() + body


def test_a_large_body_is_refused_before_it_is_read(served: Served) -> None:
    with socket.create_connection((urlsplit(served.url).hostname, urlsplit(served.url).port)) as client:
        client.sendall(raw_request(served, b"{", length=100 * 10**6))
        client.settimeout(20)
        answer = b"".join(iter(lambda: client.recv(4096), b""))  # until the connection closes
    assert answer.startswith(b"HTTP/1.1 413 ") and b"body_too_large" in answer


def test_a_large_body_in_chunks_is_refused_once_it_is_too_large(served: Served) -> None:
    sent = 0

    def blocks() -> Any:
        nonlocal sent
        for _ in range(100):
            sent += 2**20
            yield b" " * 2**20

    try:
        response = served.client.post("/v1/completions", content=blocks(), headers={"Content-Type": "application/json"})
    except httpx2.WriteError:  # the connection closed while we still wrote
        return
    assert response.status_code == 413 and sent < 20 * 2**20


@pytest.mark.parametrize(
    ("body", "param"),
    [
        (b"{", None),
        (b"[]", None),
        (b'{"model": "mine"}', "prompt"),
        (b'{"model": "mine", "prompt": "a", "temprature": 1}', "temprature"),
        (b'{"model": "mine", "prompt": "a", "temperature": NaN}', "temperature"),
        (b'{"model": "mine", "prompt": "a", "temperature": "hot"}', "temperature"),
        (b'{"model": "mine", "prompt": "\\ud800"}', "prompt.function-after[_check_text(), str]"),
        (b'{"model": "mine", "prompt": "a", "max_tokens": 0}', "max_tokens"),
        (b'{"model": "mine", "prompt": "a", "stop": ["a", "b", "c", "d", "e"]}', None),
        (b'{"model": "mine", "prompt": ' + b"[" * 100_000, None),
        (b"\xff\xfe", None),
        (json.dumps({"model": "mine", "prompt": ["a"] * 65, "n": 2}).encode(), None),
    ],
)
def test_what_is_wrong_with_a_request_is_said(served: Served, body: bytes, param: str | None) -> None:
    response = served.client.post("/v1/completions", content=body, headers={"Content-Type": "application/json"})
    assert response.status_code == 400
    assert error_of(response)["type"] == "invalid_request_error" and error_of(response)["param"] == param


@pytest.mark.parametrize(
    ("place", "body", "said"),
    [
        ("completions", {"promt": "a"}, "promt: unknown field; did you mean 'prompt'?"),  # not that "prompt" is missing
        ("completions", {"prompt": "a", "x" * 200: 1}, f"{'x' * 100}: unknown field; there are best_of, echo, "),
        ("chat/completions", {"mesages": []}, "mesages: unknown field; did you mean 'messages'?"),
        (
            "chat/completions",
            {"messages": [{"rolle": "user", "content": "a"}]},
            "rolle: unknown field; did you mean 'role'?",
        ),
        (
            "chat/completions",
            {"messages": [{"role": "user", "content": [{"type": "text", "txt": "a"}]}]},
            "txt: unknown field; did you mean 'text'?",
        ),
        (
            "chat/completions",
            {"messages": [{"role": "user", "content": "a"}], "stream_options": {"usage": True}},
            "usage: unknown field; there are include_usage",
        ),
        ("feedback", {"id": "1", "consent": True, "thumb": "up"}, "thumb: unknown field; did you mean 'thumbs'?"),
    ],
)
def test_an_unknown_field_is_named_with_the_nearest_one(served: Served, place: str, body: Any, said: str) -> None:
    model = {} if place == "feedback" else {"model": "mine"}
    response = served.client.post(f"/v1/{place}", json={**model, **body})
    assert response.status_code == 400 and error_of(response)["message"].startswith(said), response.text


def test_other_models_and_addresses_are_not_found(served: Served) -> None:
    response = served.client.post("/v1/completions", json={"model": "gpt-4", "prompt": "a"})
    assert response.status_code == 404 and error_of(response)["code"] == "model_not_found"
    assert error_of(served.client.get("/v1/engines"))["code"] == "not_found"
    assert error_of(served.client.get("/v1/completions"))["code"] == "method_not_allowed"
    assert [model["id"] for model in served.client.get("/v1/models").json()["data"]] == ["mine"]


def test_a_key_is_needed_and_revoked_at_once(served: Served) -> None:
    key, secret = served.keys.add("bob", ["completions"])
    _, measuring = served.keys.add("prometheus", ["metrics"])
    assert secret not in served.keys.path.read_text()

    def ask(secret: str, path: str = "/v1/models") -> Any:
        return served.client.get(path, headers={"Authorization": f"Bearer {secret}"})

    assert ask(secret).status_code == 200
    assert error_of(ask(secret, "/metrics"))["code"] == "scope_missing"
    assert ask(measuring, "/metrics").status_code == 200 and ask(measuring).status_code == 403
    served.keys.revoke(key.id)
    assert ask(secret).status_code == 401
    for forged in ("rlhf-" + "A" * 43, secret[:-1], "x" * 5000, "Ä"):
        response = served.client.get("/v1/models", headers=[(b"Authorization", f"Bearer {forged}".encode())])
        assert response.status_code == 401 and error_of(response)["type"] == "authentication_error"
    assert served.client.get("/v1/models", headers={"Authorization": "Basic YTpi"}).status_code == 401
    _, short = served.keys.add("carl", days=1e-6)
    time.sleep(0.15)
    assert ask(short).status_code == 401


def test_a_damaged_key_file_lets_nobody_in(served: Served) -> None:
    whole = served.keys.path.read_bytes()
    served.keys.path.write_text("{")
    try:
        response = served.client.get("/v1/models")
        assert response.status_code == 503 and error_of(response)["code"] == "keys_unreadable"
    finally:
        served.keys.path.write_bytes(whole)
    assert served.client.get("/v1/models").status_code == 200


def test_requests_per_minute_are_limited_by_key(served: Served) -> None:
    _, secret = served.keys.add("dora", per_minute=3)
    headers = {"Authorization": f"Bearer {secret}"}
    answers = [served.client.get("/v1/models", headers=headers) for _ in range(4)]
    assert [answer.status_code for answer in answers] == [200, 200, 200, 429]
    assert error_of(answers[-1])["type"] == "rate_limit_error" and 50 <= int(answers[-1].headers["retry-after"]) <= 60
    assert served.client.get("/v1/models").status_code == 200, "others go on"


def test_requests_at_once_are_limited_by_key(served: Served) -> None:
    _, secret = served.keys.add("emil", at_once=1)
    headers = {"Authorization": f"Bearer {secret}"}
    body = {"model": "mine", "prompt": "!hold"}
    url = f"{served.url}/v1/completions"
    slow = threading.Thread(target=lambda: httpx2.post(url, json=body, headers=headers, timeout=60))
    slow.start()
    wait_until(lambda: served.gateway.admission.n_running == 1)
    response = served.client.post("/v1/completions", json=body, headers=headers)
    assert response.status_code == 429 and error_of(response)["code"] == "concurrency_limit_exceeded"
    assert response.headers["retry-after"] == "1"
    served.fake.go_on.set()
    slow.join()
    assert served.client.post("/v1/completions", json={**body, "prompt": "a"}, headers=headers).status_code == 200


def test_the_engine_has_so_many_places_and_the_queue_so_many_more(tmp_path: Path) -> None:
    with serve(tmp_path, FakeEngine(), places=1, waiting=1, patience=1.0) as served:
        statuses: list[int] = []

        def ask(prompt: str) -> None:
            statuses.append(served.complete(prompt).status_code)

        threads = [threading.Thread(target=ask, args=(prompt,)) for prompt in ("!hold", "a")]
        threads[0].start()
        wait_until(lambda: served.gateway.admission.n_running == 1)
        threads[1].start()
        wait_until(lambda: served.gateway.admission.n_waiting == 1)
        response = served.complete("a")
        assert response.status_code == 503 and error_of(response)["code"] == "overloaded"
        assert int(response.headers["retry-after"]) >= 1
        threads[1].join()
        assert statuses == [503], "the one that waited lost its patience"
        served.fake.go_on.set()
        threads[0].join()
        assert statuses == [503, 200]
        assert served.complete("a").status_code == 200


def test_request_ids_are_kept_or_made(served: Served) -> None:
    kept = served.client.get("/v1/models", headers={"X-Request-Id": "mine-17"})
    assert kept.headers["x-request-id"] == "mine-17"
    made = served.client.get("/v1/models", headers={"X-Request-Id": 'bad "id"'}).headers["x-request-id"]
    assert len(made) == 24


def test_the_answer_says_how_its_time_was_spent(served: Served) -> None:
    parts = dict(part.split(";dur=") for part in served.complete("a").headers["server-timing"].split(", "))
    assert sorted(parts) == ["engine", "own", "queue"] and float(parts["own"]) < 1000


def test_a_slow_client_and_the_engine_are_not_the_gateways_time(served: Served) -> None:
    body = json.dumps({"model": "mine", "prompt": "!sleep 0.4"}).encode()
    with socket.create_connection((urlsplit(served.url).hostname, urlsplit(served.url).port)) as client:
        client.sendall(raw_request(served, body)[:-5])
        time.sleep(0.6)
        client.sendall(body[-5:])
        answer = client.recv(2**16).decode().lower()
    timing = next(line for line in answer.split("\r\n") if line.startswith("server-timing: "))
    parts = dict(part.split(";dur=") for part in timing.removeprefix("server-timing: ").split(", "))
    assert float(parts["engine"]) >= 390 and float(parts["own"]) < 350


def test_metrics_count_requests_tokens_and_refusals(served: Served) -> None:
    _, secret = served.keys.add("prometheus", ["metrics"])
    before = served.metric("rlhf_tokens_total")
    served.complete("a b c")
    assert served.metric("rlhf_tokens_total") == before + 6
    served.complete("a", model="another")
    text = served.client.get("/metrics", headers={"Authorization": f"Bearer {secret}"}).text
    assert 'rlhf_requests_total{route="/v1/completions",status="200"}' in text
    assert "rlhf_engine_up 1.0" in text and 'rlhf_refusals_total{code="model_not_found"}' in text


def test_the_log_has_no_texts(served: Served, caplog: pytest.LogCaptureFixture) -> None:
    import logging

    from agents.serving.telemetry import JsonLines

    with caplog.at_level(logging.INFO, "rlhf.serve"):
        answers = [
            served.complete("tell nobody: swordfish", user="Mr. X"),
            served.complete("swordfish !status", temperature="hot swordfish"),
            served.complete("a b", stream=True),
        ]
        ours = {answer.headers["x-request-id"] for answer in answers}  # a test before may still have its request logged

        def records() -> list[logging.LogRecord]:
            return [record for record in caplog.records if getattr(record, "fields", {}).get("request_id") in ours]

        wait_until(lambda: len(records()) == 3)
    lines = [JsonLines().format(record) for record in records()]
    first = json.loads(lines[0])
    assert first["key"] == "ann" and first["status"] == 200 and first["completion_tokens"] == 3
    last = json.loads(lines[-1])
    assert last["stream"] and last["whole"] and last["completion_tokens"] == 2
    assert not any("swordfish" in line or "Mr. X" in line for line in lines)


def test_a_bug_is_answered_without_its_text(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise RuntimeError("secret")

    monkeypatch.setattr(type(served.gateway.engine.dialect), "translate", fail)
    response = served.complete("a")
    assert response.status_code == 500 and error_of(response)["code"] == "internal_error"
    assert "secret" not in response.text
    assert served.gateway.admission.n_running == 0


def test_a_drained_gateway_ends_what_runs_and_takes_nothing_new(tmp_path: Path) -> None:
    with serve(tmp_path, FakeEngine()) as served:
        results: list[Any] = []
        body = {"model": "mine", "prompt": "a !hold b", "stream": True}
        thread = threading.Thread(target=lambda: results.append(served.client.post("/v1/completions", json=body)))
        assert served.client.get("/readyz").status_code == 200
        thread.start()
        wait_until(lambda: served.gateway.admission.n_running == 1)
        served.gateway.draining = True
        assert error_of(served.client.get("/readyz"))["code"] == "draining"
        assert served.client.get("/healthz").status_code == 200
        response = served.complete("b")
        assert response.status_code == 503 and response.headers["retry-after"]
        wait_until(lambda: served.metric("rlhf_refusals_total") >= 1)  # it is counted once it is sent
        served.fake.go_on.set()
        thread.join()
        assert served.metric("rlhf_refusals_total") == 1, "the probe is no client who was refused"
        assert events(results[0].text)[-1] == "[DONE]"
