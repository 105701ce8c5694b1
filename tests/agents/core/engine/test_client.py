"""The client of a completions server: what it asks for, what it refuses, and that it never waits for ever."""

from __future__ import annotations

import math
from typing import Any

import pytest

from agents.core.engine import client
from agents.core.engine.client import CompletionsEngine, EngineError, Sampling

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


@pytest.mark.parametrize("url", ["localhost:8000", "ftp://localhost", "http://"])
def test_an_address_needs_its_scheme_and_host(url: str) -> None:
    with pytest.raises(ValueError, match="expected an address such as"):
        CompletionsEngine(url)
