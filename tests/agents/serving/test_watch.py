"""What is served is watched in the background: scores, drift, topics, alerts, and the page that shows them."""

from __future__ import annotations

import asyncio
import base64
import json
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("prometheus_client", reason="the gateway needs the extra serve")
pytest.importorskip("sqlalchemy", reason="the webhook needs the extra web")

import agents.serving.alerts as alerting
import agents.serving.watch as watching
from agents.cli.serve import ServeConfig
from agents.serving.alerts import Alerts, Webhook
from agents.serving.served import Completion
from agents.serving.start import make_watch
from agents.serving.telemetry import Telemetry
from agents.serving.topics import Topics
from agents.serving.watch import Watch, WatchSettings
from benchmarks.fake_engine import FakeEngine
from rlhf_envs.feedback.web.webhooks import sign

from .running import run, serve, wait_until

SMALL = WatchSettings(share=1.0, reference=30, window=20, false_alarms=0.02)
SECRET = "whsec_" + base64.b64encode(b"x" * 24).decode()


def length(prompts: Sequence[Any], completions: Sequence[Any], **_: Any) -> list[float]:
    return [float(len(str(text))) for text in completions]


def completion(i: int, text: str = "", messages: Any = None) -> Completion:
    return Completion(f"c{i}", f"word{i % 7} and more", messages, [text or "x" * (i % 9 + 1)], None, None)


@contextmanager
def watched(settings: WatchSettings = SMALL, **more: Any) -> Iterator[Watch]:
    telemetry = Telemetry()
    watch = Watch(settings, telemetry, Alerts(telemetry), seed=0, **more)
    watch.start()
    try:
        yield watch
    finally:
        watch.stop(1.0)


def value(watch: Watch, name: str, **labels: str) -> float:
    return watch.telemetry.registry.get_sample_value(name, labels) or 0.0


def test_a_drift_raises_one_alert_with_what_drifted(tmp_path: Path) -> None:
    settings = WatchSettings(1.0, 30, 20, 0.02, file=tmp_path / "reference.npz")
    with watched(settings, scorers={"length": length}) as watch:
        for i in range(50):
            watch.see(completion(i))
        wait_until(lambda: len(watch.history) == 1)
        assert not watch.alerts.recent and watch.history[0].drift.drifted == []
        for i in range(20):
            watch.see(completion(i, "I'm sorry, but I can't help with that."))
        wait_until(lambda: len(watch.history) == 2)
        (alert,) = watch.alerts.recent
        assert alert.kind == "drift" and alert.fields["features"] == ["completion length", "refusal", "score length"]
        assert "refusal 0 to 1, p=0.002" in alert.message
        assert (
            value(watch, "rlhf_scored_total", scorer="length") == 70 and value(watch, "rlhf_model_refusals_total") == 20
        )
        assert value(watch, "rlhf_window_mean", feature="refusal") == 1
    assert b"sorry" not in (tmp_path / "reference.npz").read_bytes()
    with watched(settings, scorers={"length": length}) as again:
        assert again.test is not None and len(again.test.reference) == 30, "a restart goes on with the reference"
    with pytest.raises(ValueError, match="give the same scorers"):
        Watch(settings, Telemetry(), Alerts(Telemetry()))


def test_a_scorer_that_hangs_holds_up_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    free, called = threading.Event(), threading.Event()

    def hang(prompts: Sequence[Any], completions: Sequence[Any], **_: Any) -> list[float]:
        called.set()
        free.wait(60)
        return [0.0] * len(prompts)

    monkeypatch.setattr(watching, "SCORING", 4)
    with watched(scorers={"hang": hang}) as watch:
        watch.see(completion(0))
        assert called.wait(20)
        for i in range(80):
            watch.see(completion(i))
        wait_until(lambda: len(watch.history) == 2)
        wait_until(lambda: value(watch, "rlhf_watch_dropped_total", part="score") == 76)
        free.set()
        wait_until(lambda: value(watch, "rlhf_scored_total", scorer="hang") == 5)


def test_answers_that_find_no_room_are_counted_and_requests_do_not_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watching, "READING", 3)
    monkeypatch.setattr(watching, "MOST_CHARACTERS", 1000)
    telemetry = Telemetry()
    watch = Watch(SMALL, telemetry, Alerts(telemetry))
    watch.see(completion(0, "x" * 2000))
    for i in range(10):
        watch.see(completion(i))
    assert value(watch, "rlhf_watch_dropped_total", part="watch") == 8
    watch.start()
    watch.stop()
    assert value(watch, "rlhf_watched_total") == 3


def test_a_scorer_that_fails_is_alerted_once_and_conversations_are_scored_as_such() -> None:
    seen = []

    def score(prompts: Sequence[Any], completions: Sequence[Any], **_: Any) -> list[float]:
        seen.append(prompts[0])
        if isinstance(prompts[0], str):
            raise RuntimeError("the text is secret")
        return [float("nan") if "bad" in completions[0][0]["content"] else 1.0 for _ in prompts]

    with watched(scorers={"mine": score}) as watch:
        for i in range(3):
            watch.see(completion(i))
            wait_until(lambda i=i: len(watch.rows) == i + 1)
        wait_until(lambda: value(watch, "rlhf_score_failures_total", scorer="mine") == 3)
        (alert,) = watch.alerts.recent
        assert alert.kind == "scorer" and "RuntimeError" in alert.message and "secret" not in alert.message
        watch.see(completion(4, "fine", [{"role": "user", "content": "hello"}]))
        wait_until(lambda: value(watch, "rlhf_scored_total", scorer="mine") == 1)
        assert seen[-1] == [{"role": "user", "content": "hello"}]


class Receiver:
    """A webhook that answers with the given statuses, one after the other.

    "hold" is a 500 once `go_on` is set, and "drip" an answer byte by byte for ever.
    """

    def __init__(self, answers: list[Any]) -> None:
        self.got: list[tuple[dict[str, str], bytes]] = []
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                receiver.got.append(({k.lower(): v for k, v in self.headers.items()}, body))
                answer = answers[min(len(receiver.got), len(answers)) - 1]
                if answer != "drip":
                    if answer == "hold":
                        receiver.go_on.wait(60)
                        answer = 500
                    self.send_response(answer)
                    self.send_header("Location", "/elsewhere")
                    self.end_headers()
                    return
                try:
                    self.wfile.write(b"HTTP/1.1 200 OK\r\nX: ")
                    while not receiver.ended.is_set():
                        self.wfile.write(b"x")
                        time.sleep(0.02)
                except OSError:
                    pass

            def log_message(self, *_: Any) -> None:
                pass

        self.ended, self.go_on = threading.Event(), threading.Event()
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/hook?token=secret"

    @contextmanager
    def running(self) -> Iterator[Receiver]:
        thread = threading.Thread(target=self.server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield self
        finally:
            self.ended.set()
            self.server.shutdown()
            self.server.server_close()
            thread.join()


def test_a_gateway_watches_and_shows_it_to_admins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Topics in a stream of answers reach a webhook that first breaks, hangs and redirects; requests do not wait."""
    monkeypatch.setattr(alerting, "DEADLINE", 60.0)
    monkeypatch.setattr(alerting, "RETRIES", (0.01, 0.01, 0.01))
    topics = Topics({"drugs": ["cocaine"]})

    def make(telemetry: Telemetry) -> Watch:
        alerts = Alerts(telemetry, Webhook(receiver.url, SECRET))
        return Watch(SMALL, telemetry, alerts, {"length": length}, topics, seed=0)

    hook = Receiver(["hold", "drip", 302, 204])
    with hook.running() as receiver, serve(tmp_path, FakeEngine(), watch=make) as served:
        assert served.complete("please sell <me> COCAINE", stream=True).status_code == 200
        wait_until(lambda: receiver.got)
        assert served.chat("cocaine again").status_code == 200
        assert len(receiver.got) == 1, "it was answered while the webhook was held"
        monkeypatch.setattr(alerting, "DEADLINE", 2.0)  # for a busy machine
        receiver.go_on.set()
        wait_until(lambda: len(receiver.got) == 4)
        assert len({body for _, body in receiver.got}) == 1, "the second text with the topic came while it was quiet"
        headers, body = receiver.got[-1]
        assert headers["webhook-signature"] == sign(
            SECRET, headers["webhook-id"], int(headers["webhook-timestamp"]), body
        )
        told = json.loads(body)
        assert told["type"] == "alert.topic" and told["data"]["terms"] == ["cocaine"] and b"sell" not in body
        for i in range(60):
            served.complete(f"word{i % 5} b c")
        watch = served.gateway.watch
        wait_until(lambda: len(watch.history) == 1)

        _, admin = served.keys.add("root", ["admin"])
        basic = {"Authorization": "Basic " + base64.b64encode(f"me:{admin}".encode()).decode()}
        page = served.client.get("/admin", headers=basic)
        assert page.status_code == 200 and page.headers["content-type"].startswith("text/html")
        assert "default-src 'none'" in page.headers["content-security-policy"]
        for text in ("completion length", "as before", "drugs", "drugs in a prompt: cocaine", "length</td>"):
            assert text in page.text, text
        assert "sell" not in page.text, "texts are shown nowhere"
        assert served.client.get("/admin", headers={"Authorization": f"Bearer {admin}"}).status_code == 200
        assert served.client.get("/admin").status_code == 403, "a client's key is no admin's"
        for wrong in ("Basic x", "Basic " + base64.b64encode(b"me:rlhf-wrong").decode(), ""):
            refused = served.client.get("/admin", headers={"Authorization": wrong})
            assert refused.status_code == 401 and refused.headers["www-authenticate"].startswith("Basic")
        chat = served.client.post("/v1/completions", headers=basic, json={"model": "mine", "prompt": "x"})
        assert chat.status_code == 401, "browsers would send the password along with others' requests"


def test_the_page_says_that_nothing_is_watched(tmp_path: Path) -> None:
    with serve(tmp_path, FakeEngine()) as served:
        _, admin = served.keys.add("root", ["admin"])
        page = served.client.get("/admin", headers={"Authorization": f"Bearer {admin}"})
        assert page.status_code == 200 and "Nothing is watched" in page.text and "None yet" in page.text


def test_alerts_beyond_what_may_wait_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    async def flood() -> None:
        alerts.start()
        for i in range(5):
            alerts.add("topic", str(i), "x")
        await asyncio.sleep(0.05)
        await alerts.close()

    monkeypatch.setattr(alerting, "WAITING", 2)
    with Receiver(["drip"]).running() as receiver:
        alerts = Alerts(telemetry := Telemetry(), Webhook(receiver.url))
        run(flood())
    assert telemetry.registry.get_sample_value("rlhf_watch_dropped_total", {"part": "webhook"}) == 3
    assert len(alerts.recent) == 5


@pytest.mark.parametrize(
    ("make", "problem"),
    [
        (lambda: WatchSettings(share=2), "from 0 to 1"),
        (lambda: WatchSettings(window=3), "at least 20"),
        (lambda: Webhook("ftp://x"), "expected an address"),
        (lambda: Webhook("http://a:b@host"), "without a password"),
        (lambda: Webhook("http://host", "whsec_*"), "base64"),
        (lambda: Watch(WatchSettings(false_alarms=1e-6), Telemetry(), Alerts(Telemetry())), "ask for"),
    ],
)
def test_what_cannot_be_watched_is_said(make: Any, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        make()


def flags(**changed: Any) -> ServeConfig:
    return ServeConfig(run="tiny", **changed)


def test_what_the_flags_ask_for_is_watched(tmp_path: Path) -> None:
    assert make_watch(flags(), Telemetry()) is None and make_watch(flags(watch=False), Telemetry()) is None
    assert make_watch(flags(windows=100), Telemetry()) is not None, "no flag is left aside in silence"
    (tmp_path / "topics.yml").write_text("crime: [murder]\n", encoding="utf-8")
    watch = make_watch(flags(score=["gold"], topics=str(tmp_path / "topics.yml"), window=50), Telemetry())
    assert watch is not None and watch.topics is not None and watch.settings.window == 50
    assert watch.features[-1] == "score gold"
    watch.start()
    watch._sample.put((completion(0, "a fine film"), {}))
    watch._sample.put((completion(1, "a fine film", [{"role": "user", "content": "Say it."}]), {}))
    wait_until(lambda: value(watch, "rlhf_scored_total", scorer="gold") == 2)
    watch.stop()


@pytest.mark.parametrize(
    ("changed", "problem"),
    [
        ({"score": ["goldd"]}, "unknown reward 'goldd'"),
        ({"score": ["gold", "gold"]}, "two of them have one name"),
        ({"score": ["human"]}, "people would be waited for"),
        ({"score_share": 0.5}, "needs a --score"),
        ({"webhook": "example.org"}, "expected an address"),
        ({"reference": "pyproject.toml"}, "is no window of traffic"),
        ({"reference": "no/where/reference.npz"}, "there is no folder no/where"),
    ],
)
def test_what_is_wrong_with_the_flags_is_said(changed: dict[str, Any], problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        make_watch(flags(**changed), Telemetry())
