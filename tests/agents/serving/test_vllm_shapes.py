"""Answers in the shapes that vLLM's documentation gives, passed on by the gateway.

vLLM itself was not run: these are written by hand from its response models, with the fields that OpenAI's API lacks.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("prometheus_client", reason="the gateway needs the extra serve")
from benchmarks.fake_engine import FakeEngine

from .running import Served, serve, wait_until

ENVELOPE = {"id": "chatcmpl-9f", "created": 1764460800, "model": "backwards", "system_fingerprint": None}
USAGE = {"prompt_tokens": 7, "total_tokens": 9, "completion_tokens": 2, "prompt_tokens_details": None}
MESSAGE = {"role": "assistant", "content": "Hi 你", "refusal": None, "annotations": None, "audio": None}
TOKEN = {"token": "Hi", "logprob": -0.25, "bytes": [72, 105], "top_logprobs": []}
CHOICE = {"index": 0, "finish_reason": "stop", "stop_reason": None, "token_ids": None, "routed_experts": None}
OWN = {"prompt_logprobs": None, "prompt_token_ids": None, "prompt_text": None, "kv_transfer_params": None}
CHUNK = {**ENVELOPE, "object": "chat.completion.chunk"}
PART = {"index": 0, "logprobs": None, "finish_reason": None, "token_ids": None}
STREAM = [
    {**CHUNK, "choices": [{**PART, "delta": {"role": "assistant", "content": ""}}], "prompt_token_ids": None},
    {**CHUNK, "choices": [{**PART, "delta": {"content": "Hi", "reasoning": None}, "logprobs": {"content": [TOKEN]}}]},
    {
        **CHUNK,
        "choices": [
            {
                **PART,
                "delta": {"content": " 你"},
                "logprobs": {"content": [TOKEN]},
                "finish_reason": "stop",
                "stop_reason": 2,
            }
        ],
    },
    {**CHUNK, "choices": [], "usage": USAGE},
]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    fake = FakeEngine()
    fake.owner = "vllm"
    with serve(tmp_path_factory.mktemp("vllm"), fake) as served:
        yield served


def parts_of(text: str) -> list[Any]:
    *lines, done = [line.removeprefix("data: ") for line in text.split("\n\n") if line]
    assert done == "[DONE]"
    return [json.loads(line) for line in lines]


def test_a_whole_chat_with_log_probabilities(served: Served) -> None:
    choice = {
        **CHOICE,
        "message": {**MESSAGE, "function_call": None, "reasoning": None},
        "logprobs": {"content": [TOKEN]},
    }
    content = {
        **ENVELOPE,
        **OWN,
        "object": "chat.completion",
        "choices": [choice],
        "usage": USAGE,
        "service_tier": None,
    }
    made = served.chat(f"!raw {json.dumps(content)}", logprobs=True).json()
    assert made["choices"][0]["message"]["content"] == "Hi 你" and made["model"] == "mine"
    assert made["choices"][0]["logprobs"]["content"] == [TOKEN] and made["usage"]["completion_tokens"] == 2


@pytest.mark.parametrize("wants", [False, True])
def test_a_stream_whose_tokens_come_in_a_part_of_their_own(served: Served, wants: bool) -> None:
    wait_until(lambda: served.gateway.engine.n_asked == 0)  # what was asked before is counted
    counted = served.metric("rlhf_tokens_total")
    fields: dict[str, Any] = {"stream_options": {"include_usage": True}} if wants else {}
    parts = parts_of(served.chat(f"!events {json.dumps(STREAM)}", stream=True, logprobs=True, **fields).text)
    assert served.fake.last["stream_options"] == {"include_usage": True}
    assert len(parts) == (4 if wants else 3) and {part["model"] for part in parts} == {"mine"}
    assert "".join(part["choices"][0]["delta"].get("content") or "" for part in parts[:3]) == "Hi 你"
    assert not wants or parts[3]["usage"] == USAGE
    wait_until(lambda: served.metric("rlhf_tokens_total") == counted + 9)


@pytest.mark.parametrize("has_last", [False, True])
def test_tokens_that_come_with_every_part_are_said_once_at_the_end(served: Served, has_last: bool) -> None:
    so_far = [
        {**part, "usage": {**USAGE, "completion_tokens": i, "total_tokens": 7 + i}} for i, part in enumerate(STREAM)
    ]
    events = [*so_far[:3], STREAM[3]] if has_last else so_far[:3]
    fields: dict[str, Any] = {"stream_options": {"include_usage": True}}
    parts = parts_of(served.chat(f"!events {json.dumps(events)}", stream=True, **fields).text)
    assert [bool(part.get("usage")) for part in parts] == [False] * 3 + [True]
    assert parts[3]["choices"] == [] and parts[3]["usage"] == USAGE


def test_an_error_in_a_stream_and_before_it(served: Served) -> None:
    error = {"error": {"message": "EngineCore died", "type": "InternalServerError", "param": None, "code": 500}}
    text = served.chat(f"!events {json.dumps([STREAM[0], error])}", stream=True).text
    assert (
        "[DONE]" not in text
        and "died" not in text
        and json.loads(text.split("data: ")[-1])["error"]["code"] == "engine_error"
    )
    served.fake.refusal = "This model's maximum context length is 16 tokens."
    response = served.chat("!status 400", stream=True)
    served.fake.refusal = "no"
    assert response.status_code == 400 and "maximum context length" in response.json()["error"]["message"]


def test_it_is_handed_requests_as_they_are(served: Served, tmp_path: Path) -> None:
    assert served.gateway.admission.at_once == 64
    assert served.complete("a", n=2, echo=True, logprobs=0).status_code == 200
    assert served.fake.last == {"model": "backwards", "prompt": "a", "n": 2, "echo": True, "logprobs": 0}
