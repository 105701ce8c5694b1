"""The client of a completions server: what it asks for, what it refuses, and that it never waits for ever."""

from __future__ import annotations

import math
import threading
from typing import Any

import pytest

from agents.core.engine import client
from agents.core.engine.client import Completion, CompletionsEngine, EngineError, Sampling

from .servers import answering

SAMPLING = Sampling(n_tokens=10, stop_ids=[1], temperature=0.5, top_k=4)
PROMPT = [5, 6]


def part(ids: Any, log_probs: Any = None, reason: str | None = None, **more: Any) -> dict[str, Any]:
    choice = {"text": "", "token_ids": ids, "logprobs": {"token_logprobs": log_probs or [-1.0] * len(ids)}}
    return {"choices": [choice | {"finish_reason": reason} | more]}


def complete(server: Any, max_tokens: int = 4, **options: Any) -> Any:
    engine = CompletionsEngine(server.url, "a-model", **{"retries": 0, "timeout": 5.0, **options})
    return engine.complete([PROMPT], max_tokens, SAMPLING)[0]


@pytest.fixture(autouse=True)
def _no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "PAUSE", 0.0)


def test_a_completion_is_the_ids_and_log_probabilities_of_its_parts() -> None:
    with answering([part([2, 3], [-0.5, -1.5]), part([1], [-0.25], "stop")]) as server:
        completion = complete(server)
    assert (completion.ids, completion.log_probs) == ([2, 3, 1], [-0.5, -1.5, -0.25])
    assert [completion.take() for _ in range(4)] == [(2, -0.5), (3, -1.5), (1, -0.25), None]
    asked = {"model": "a-model", "prompt": PROMPT, "max_tokens": 4, "temperature": 0.5, "top_k": 4, "top_p": 1.0}
    asked |= {"return_token_ids": True, "stop_token_ids": [1]}
    assert server.bodies[0].items() >= asked.items()


def test_a_request_that_breaks_off_goes_on_from_its_tokens() -> None:
    busy = (503, {"error": {"message": "too many"}})
    with answering([part([2, 3], [-0.5, -1.5])], busy, [part([4, 5], None, "length")]) as server:
        completion = complete(server, retries=2)
    assert completion.ids == [2, 3, 4, 5]
    assert [(body["prompt"], body["max_tokens"]) for body in server.bodies[1:]] == [([5, 6, 2, 3], 2)] * 2


@pytest.mark.parametrize("seed", [None, 7])
def test_a_seed_is_sent_where_one_is_given(seed: int | None) -> None:
    with answering([part([1], None, "stop")]) as server:
        engine = CompletionsEngine(server.url, "a-model", retries=0)
        engine.complete([PROMPT], 4, SAMPLING._replace(seed=seed))
    assert server.bodies[0].get("seed") == seed
    assert ("seed" in server.bodies[0]) == (seed is not None)


def test_a_completion_that_is_cancelled_takes_no_further_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    add = Completion.add

    def add_and_cancel(self: Completion, *tokens: Any) -> None:
        add(self, *tokens)
        self.cancel()

    monkeypatch.setattr(Completion, "add", add_and_cancel)
    with answering([part([2]), part([3]), part([1], None, "stop")]) as server:
        completion = complete(server)
    assert (completion.ids, completion.finish_reason) == ([2], "cancelled")


def test_a_completion_that_is_cancelled_is_not_asked_for_again() -> None:
    with answering((503, {"detail": "busy"})) as server:
        engine = CompletionsEngine(server.url, "a-model", retries=9, concurrency=1)
        engine._free.acquire()  # so that it waits, as behind another request
        completion = engine.start(PROMPT, 4, SAMPLING)
        completion.cancel()
        engine._free.release()
        with pytest.raises(EngineError, match="busy"):
            completion.wait()
    assert len(server.bodies) == 1


def test_no_more_requests_run_at_a_time_than_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    running, most, lock = 0, 0, threading.Lock()
    two_at_once = threading.Barrier(2, timeout=20)  # breaks if there is never a second one

    def stream(engine: CompletionsEngine, completion: Completion, *_: Any) -> None:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        two_at_once.wait()
        with lock:
            running -= 1
        completion.end("length")

    monkeypatch.setattr(CompletionsEngine, "_stream", stream)
    CompletionsEngine("http://localhost", "a-model", concurrency=2).complete([PROMPT] * 6, 4, SAMPLING)
    assert most == 2


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ([part(None, [-1.0], text="hello")], "gives no token ids"),
        ([part([2, 3], [-1.0])], "1 log-probabilities for 2 tokens"),
        ([part([2], [math.nan])], "token 2 the log-probability nan"),
        ([part([2], [0.5])], "token 2 the log-probability 0.5"),
        ([part([10])], "drew token 10, and the vocabulary here has 10 tokens"),
        ([part([2] * 5)], "gave 5 tokens where at most 4 were left"),
        ([{"choices": [{}, {}]}], "2 choices"),
        ([part([2], None, "stop")], r"stopped after token 2, and episodes here end with one of \[1\]"),
        ([part([], [], "length")], "completion of 0 tokens"),
        ([part([2], None, "abort")], "'abort'"),
        ([part([2])], "does not answer .the answer ended before the completion did"),
        ([{"error": {"message": "out of memory"}}], "failed: out of memory"),
        ([{"choices": [3]}], "another form"),
        ((400, {"error": {"message": "max_tokens is too large"}}), "400 for /v1/completions: max_tokens is too large"),
        ((429, {"detail": "slow down"}), "429 for /v1/completions: slow down .after 1 tries"),
        (60.0, "does not answer .timed out, after 1 tries"),
    ],
)
def test_a_wrong_answer_is_an_error_that_says_what_is_wrong(answer: Any, message: str) -> None:
    with answering(answer) as server, pytest.raises(EngineError, match=message):
        complete(server, timeout=0.3 if isinstance(answer, float) else 5.0)


def test_a_server_that_is_not_there_is_an_error() -> None:
    with answering([]) as server:
        pass
    with pytest.raises(EngineError, match=r"refused, after 2 tries\): start it"):
        complete(server, retries=1)


def test_a_key_that_no_header_carries_is_in_no_message(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RLHF_ENGINE_API_KEY", "sec\nret")
    with answering([]) as server, pytest.raises(EngineError, match="the key in the variable RLHF_ENGINE") as raised:
        complete(server)
    assert "sec" not in str(raised.value)


@pytest.mark.parametrize("url", ["localhost:8000", "ftp://localhost", "http://"])
def test_an_address_needs_its_scheme_and_host(url: str) -> None:
    with pytest.raises(ValueError, match="expected an address such as"):
        CompletionsEngine(url)
