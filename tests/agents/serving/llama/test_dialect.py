"""llama-cpp-python's server by what it does otherwise: what is sent, what is refused, and streams that are cut off.

The engine is a fake that names itself as that server does. The server itself: test_server.py.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tokenizers import normalizers, pre_tokenizers

pytest.importorskip("prometheus_client", reason="the gateway needs the extra serve")
from agents.serving import gateway
from agents.serving.engine import LLAMA_CPP_PYTHON, RemoteEngine
from agents.serving.llama.python_server import LlamaCppPythonDialect
from agents.serving.model_folder import prepare
from agents.serving.requests import CompletionRequest
from benchmarks.fake_engine import FakeEngine

from ..running import Served, serve, wait_until
from .files import save_small, trained_pieces, trained_tokenizer

PATH = "/models/mine.gguf"


def is_known(served: Served) -> bool:
    return served.gateway.engine.dialect.engine == "llama-cpp-python"


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("llama")
    fake = FakeEngine()
    fake.owner, fake.models, fake.tells_usage = LLAMA_CPP_PYTHON, [PATH], False
    model = prepare(str(save_small(folder / "small", trained_tokenizer())), folder / "served")
    with serve(folder, fake, lambda url, telemetry: RemoteEngine(url, telemetry, folder=model.folder)) as served:
        yield served


def last_of(text: str) -> Any:
    *_, last, done = [line.removeprefix("data: ") for line in text.split("\n\n") if line]
    assert done == "[DONE]"
    return json.loads(last)


def test_what_a_request_does_not_say_is_said(served: Served) -> None:
    drawing = {"temperature": 1.0, "top_p": 1.0, "top_k": 0, "min_p": 0.0, "repeat_penalty": 1.0}
    seeds = set()
    for _ in range(3):
        assert served.complete("a b").status_code == 200
        sent = dict(served.fake.last)
        seeds.add(sent.pop("seed"))
        assert sent == {**drawing, "model": PATH, "prompt": "a b", "max_tokens": 8}
    assert len(seeds) == 3, "without one it would follow from the last request's"
    nothing = dict.fromkeys(("temperature", "top_p", "seed", "stop", "stream", "echo", "logprobs", "logit_bias"))
    assert served.complete("a b", **nothing).status_code == 200
    assert {**served.fake.last, "seed": 0} == {**drawing, "model": PATH, "prompt": "a b", "max_tokens": 8, "seed": 0}
    assert served.complete("a b", temperature=0.5, seed=-1).status_code == 200
    assert served.fake.last["temperature"] == 0.5 and 0 <= served.fake.last["seed"] < 2**32 - 1
    assert served.chat("a", max_completion_tokens=3, logprobs=True).status_code == 200
    assert served.fake.last["max_tokens"] == 3 and "max_completion_tokens" not in served.fake.last
    assert served.fake.last["top_logprobs"] == 0, "without it there would be none"


@pytest.mark.parametrize(("most", "waits"), [(20_000, True), (2, False)])
def test_tokens_of_long_texts_are_counted_beside_other_requests(
    served: Served, monkeypatch: pytest.MonkeyPatch, most: int, waits: bool
) -> None:
    dialect, threads = served.gateway.engine.dialect, list[str]()
    count = dialect.usage

    def usage(*arguments: Any) -> Any:
        threads.append(threading.current_thread().name)
        return count(*arguments)

    monkeypatch.setattr(dialect, "usage", usage)
    monkeypatch.setattr(gateway, "MANY_CHARACTERS", most)
    assert served.complete("a b", stream=True).status_code == 200
    assert [not name.startswith("asyncio_") for name in threads] == [waits], "asyncio's threads for what takes long"


def test_parts_of_a_message_are_joined(served: Served) -> None:
    parts = [{"type": "text", "text": "a "}, {"type": "text", "text": "b"}]
    said = {"model": "mine", "messages": [{"role": "user", "content": parts}]}
    assert served.client.post("/v1/chat/completions", json=said).status_code == 200
    assert served.fake.last["messages"][0]["content"] == "a b"


def test_what_the_tokenizer_does_to_a_text_is_done_before(tmp_path: Path) -> None:
    dialect = LlamaCppPythonDialect(prepare("tiny", tmp_path).folder)
    eos = dialect._tokenizer.eos_token
    asked = CompletionRequest(model="m", prompt=f"The FILM{eos.upper()}{eos} Was")
    assert dialect.translate(asked)["prompt"] == f"the film{eos.lower()}{eos} was"


@pytest.mark.parametrize(("kind", "sent"), [("each", " a"), ("always", "a"), ("first", "a"), ("gemma", " a")])
def test_spaces_that_llama_cpp_puts_are_left_out(kind: str, sent: str, tmp_path: Path) -> None:
    """The marks themselves are never sent: llama.cpp makes them of spaces."""
    source = save_small(tmp_path / "small", trained_pieces(kind))
    dialect = LlamaCppPythonDialect(prepare(str(source), tmp_path / "served").folder)
    assert dialect.translate(CompletionRequest(model="m", prompt=" a"))["prompt"] == sent
    assert dialect.translate(CompletionRequest(model="m", prompt="a b"))["prompt"] == "a b"


def test_a_tokenizer_that_export_refuses_is_served_from_a_gguf_made_elsewhere(tmp_path: Path) -> None:
    tokenizer = trained_pieces("each")
    tokenizer.backend_tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    dialect = LlamaCppPythonDialect(prepare(str(save_small(tmp_path / "small", tokenizer)), tmp_path / "served").folder)
    assert dialect.translate(CompletionRequest(model="m", prompt=" A"))["prompt"] == " a"


@pytest.mark.parametrize(
    ("path", "fields", "named"),
    [
        ("completions", {"n": 2}, "n"),
        ("completions", {"best_of": 2}, "best_of"),
        ("completions", {"suffix": "end"}, "suffix"),
        ("completions", {"prompt": ["a", "b"]}, "prompt"),
        ("completions", {"prompt": [1, 2]}, "prompt"),
        ("completions", {"echo": True, "logprobs": 1}, "echo"),
        ("completions", {"echo": True, "stream": True}, "echo"),
        ("completions", {"logprobs": 0, "stream": True}, "logprobs"),
        ("completions", {"logit_bias": {"99999": 1}}, "logit_bias"),
        ("completions", {"prompt": ""}, "prompt"),
        ("completions", {"prompt": "film " * 400}, "prompt"),
        ("completions", {"max_tokens": 1000}, "prompt"),
        ("chat/completions", {"response_format": {"type": "json_schema", "json_schema": {}}}, "response_format"),
        ("chat/completions", {"messages": [{"role": "developer", "content": "a"}]}, "messages"),
    ],
)
def test_what_it_would_ignore_or_answer_wrongly_is_refused(
    served: Served, path: str, fields: dict[str, Any], named: str
) -> None:
    body = {"prompt": "a"} if path == "completions" else {"messages": [{"role": "user", "content": "a"}]}
    response = served.client.post(f"/v1/{path}", json={"model": "mine", **body, **fields})
    assert response.status_code == 400 and response.json()["error"]["param"] == named


def test_a_stream_that_names_no_end_was_cut_off(served: Served) -> None:
    served.fake.names_ends = False
    try:
        text = served.complete("a b c", stream=True).text
    finally:
        served.fake.names_ends = True
    assert "[DONE]" not in text and json.loads(text.split("data: ")[-1])["error"]["code"] == "engine_error"
    assert "[DONE]" in served.complete("a b c", stream=True).text


@pytest.mark.parametrize("kind", ["complete", "chat"])
def test_tokens_that_a_stream_does_not_tell_are_counted_here(served: Served, kind: str) -> None:
    wait_until(lambda: served.gateway.engine.n_asked == 0)  # what was asked before is counted
    counted = served.metric("rlhf_tokens_total")
    told = last_of(getattr(served, kind)("a b", stream=True, stream_options={"include_usage": True}).text)
    tokenizer = trained_tokenizer()
    prompt = tokenizer("a b")["input_ids"]
    if kind == "chat":
        messages = [{"role": "user", "content": "a b"}]
        prompt = tokenizer.apply_chat_template(messages, add_generation_prompt=True)["input_ids"]
    n = len(tokenizer("b a ")["input_ids"])
    assert told["choices"] == [] and told["model"] == "mine"
    assert told["usage"] == {"prompt_tokens": len(prompt), "completion_tokens": n, "total_tokens": len(prompt) + n}
    wait_until(lambda: served.metric("rlhf_tokens_total") == counted + len(prompt) + n)
    assert last_of(getattr(served, kind)("a b", stream=True).text)["choices"], "nobody asked"


def test_it_is_asked_one_request_at_a_time_and_not_looked_at_meanwhile(served: Served, monkeypatch: Any) -> None:
    import agents.serving.engine as engines

    monkeypatch.setattr(engines, "EVERY", 0.05)
    assert served.gateway.admission.at_once == 1
    wait_until(lambda: served.gateway.engine.n_asked == 0)
    before = served.fake.seen["/v1/models"]
    wait_until(lambda: served.fake.seen["/v1/models"] > before + 1)
    served.complete("!sleep 0.1")  # until the look that is on its way is over
    assert served.gateway.engine.n_asked == 0
    served.fake.per_word = 0.3
    try:
        with served.client.stream(
            "POST", "/v1/completions", json=dict(model="mine", prompt="a b c", stream=True)
        ) as answer:
            parts = answer.iter_text()
            next(parts)
            seen = served.fake.seen["/v1/models"]
            assert served.gateway.engine.n_asked == 1
            "".join(parts)
            assert served.fake.seen["/v1/models"] <= seen + 1
    finally:
        served.fake.per_word = 0.0


def test_it_is_asked_one_request_at_a_time_also_where_more_places_were_given(served: Served, monkeypatch: Any) -> None:
    monkeypatch.setattr(served.gateway, "settings", replace(served.gateway.settings, places=4))
    assert is_known(served) and served.gateway.admission.at_once == 1


def test_clients_are_not_told_where_the_file_is(served: Served) -> None:
    assert is_known(served) and served.gateway.engine.model == PATH
    for response in (served.complete("a"), served.chat("a"), served.complete("a", stream=True)):
        assert PATH not in response.text
    response = served.complete("!status 400 0")
    assert response.status_code == 400
    served.fake.refusal = f"the model `{PATH}` does not exist"
    try:
        response = served.complete("!status 400")
    finally:
        served.fake.refusal = "no"
    assert PATH not in response.text and "the model `mine` does not exist" in response.text


def test_an_engine_that_writes_too_few_completions_is_refused(tmp_path: Path) -> None:
    fake = FakeEngine()
    fake.most = 1
    with serve(tmp_path, fake) as plain:
        response = plain.complete("a", n=2)
        assert response.status_code == 502 and "1 of the 2" in response.json()["error"]["message"]
        assert "[DONE]" not in plain.complete("a", n=2, stream=True).text
        assert plain.complete("a", stream=True).status_code == 200
        assert plain.fake.last["stream_options"] == {"include_usage": True}
