"""`llama-server` by what it does otherwise: what is sent and refused, and its answers in OpenAI's shape.

The engine is a fake that names itself as that server does, with answers recorded from it. The server: test_server.py.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("prometheus_client", reason="the gateway needs the extra serve")
from agents.serving.engine import LLAMA_SERVER, RemoteEngine
from agents.serving.errors import Refusal
from agents.serving.llama.own_server import LlamaServerDialect
from agents.serving.model_folder import prepare
from agents.serving.requests import CompletionRequest
from benchmarks.fake_engine import FakeEngine

from ..running import Served, serve
from .files import save_small, trained_pieces, trained_tokenizer

PATH = "/models/mine.gguf"


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("llama")
    fake = FakeEngine()
    fake.owner, fake.models = LLAMA_SERVER, [PATH]
    source = save_small(folder / "small", trained_tokenizer(), positions=2048)  # answers are in the prompts here
    model = prepare(str(source), folder / "served")
    with serve(folder, fake, lambda url, telemetry: RemoteEngine(url, telemetry, folder=model.folder)) as served:
        assert isinstance(served.gateway.engine.dialect, LlamaServerDialect)
        yield served


@pytest.fixture
def tokenizer(served: Served) -> Any:
    return served.gateway.engine.dialect._tokenizer


def entry(tokenizer: Any, token: str, logprob: float, raw: bytes | None = None) -> dict[str, Any]:
    """A token's log-probability as the server has it, with a second token that is half a character."""
    (id,) = tokenizer(token, add_special_tokens=False)["input_ids"]
    other = {"id": 300, "token": "", "bytes": [0xE7, 0x9C], "logprob": -4.0}
    own = {"id": id, "token": token, "bytes": [*(raw or token.encode())], "logprob": logprob}
    return {**own, "top_logprobs": [{**own, "bytes": [*token.encode()]}, other]}


def answer(choices: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
    usage = {"completion_tokens": 2, "prompt_tokens": 3, "total_tokens": 5}
    return {"choices": choices, "model": PATH, "object": "text_completion", "usage": usage, **more}


def scored(text: str, entries: list[Any], end: str | None = "length") -> dict[str, Any]:
    return {"text": text, "index": 0, "logprobs": {"content": entries}, "finish_reason": end}


def test_what_a_request_does_not_say_is_said(served: Served) -> None:
    drawing = {"temperature": 1.0, "top_p": 1.0, "top_k": 0, "min_p": 0.0, "repeat_penalty": 1.0}
    assert served.complete("a b", seed=3).status_code == 200
    assert served.fake.last == {**drawing, "model": PATH, "prompt": "a b", "max_tokens": 8, "seed": 3}
    assert served.complete("a b", stream=True).status_code == 200
    assert served.fake.last["stream_options"] == {"include_usage": True} and served.fake.last["seed"] >= 0


@pytest.mark.parametrize(("asked", "sent"), [(0, 1), (2, 2)])
def test_log_probabilities_are_asked_for_even_of_the_token_alone(served: Served, asked: int, sent: int) -> None:
    assert served.complete("a b", logprobs=asked).status_code == 200, "what has a text's shape stays as it is"
    assert served.fake.last["logprobs"] == sent
    response = served.chat("a", logprobs=True, top_logprobs=asked)  # the fake's have another shape
    assert response.status_code == 502 and response.json()["error"]["code"] == "engine_error"
    assert served.fake.last["top_logprobs"] == sent and served.fake.last["logprobs"] is True


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"echo": True}, "echo"),
        ({"suffix": "x"}, "suffix"),
        ({"best_of": 2}, "best_of"),
        ({"logit_bias": {"9999": 1}}, "logit_bias"),
        ({"prompt": [1, 9999]}, "prompt"),
        ({"prompt": [[1], [9999]]}, "prompt"),
        ({"prompt": []}, "prompt"),
        ({"prompt": ["a", ""]}, "prompt"),
        ({"prompt": ["a", "film " * 4000]}, "prompt"),
    ],
)
def test_what_it_would_ignore_is_refused(served: Served, fields: dict[str, Any], param: str) -> None:
    response = served.client.post("/v1/completions", json={"model": "mine", "prompt": "a", **fields})
    assert response.status_code == 400 and response.json()["error"]["param"] == param, response.text


def test_a_chat_that_ends_with_the_assistant_is_refused(served: Served) -> None:
    """It would go on with that message, and give it out again."""
    messages = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "I am"}]
    response = served.client.post("/v1/chat/completions", json={"model": "mine", "messages": messages})
    assert response.status_code == 400 and response.json()["error"]["param"] == "messages"
    messages.append({"role": "user", "content": "go on"})
    response = served.client.post("/v1/chat/completions", json={"model": "mine", "messages": messages})
    assert response.status_code == 200


@pytest.mark.parametrize("what", ["tools: Missing tool function", "messages: Missing tool call type"])
def test_tools_of_another_shape_are_the_clients_fault(
    served: Served, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    monkeypatch.setattr(served.fake, "refusal", f"Failed to parse {what}: my-secret")
    response = served.chat("!status 500", tools=[{"a": 1}])
    assert response.status_code == 400 and "tools" in response.json()["error"]["message"]
    assert "my-secret" not in response.text


def test_a_texts_log_probabilities_get_the_shape_of_a_texts(served: Served, tokenizer: Any) -> None:
    entries = [entry(tokenizer, "I", -1.0), entry(tokenizer, "v", -2.0)]
    made = served.complete("!raw " + json.dumps(answer([scored("Iv", entries)])), logprobs=2, max_tokens=1).json()
    assert made["choices"][0]["logprobs"] == {
        "tokens": ["I", "v"],
        "token_logprobs": [-1.0, -2.0],
        "top_logprobs": [{"I": -1.0, "bytes:\\xe7\\x9c": -4.0}, {"v": -2.0, "bytes:\\xe7\\x9c": -4.0}],
        "text_offset": [0, 1],
    }
    one = served.complete("!raw " + json.dumps(answer([scored("I", entries[:1])])), logprobs=0, max_tokens=1).json()
    assert one["choices"][0]["logprobs"]["top_logprobs"] == [{}]


def test_offsets_go_on_in_a_stream_whose_tokens_come_in_a_part_of_their_own(served: Served, tokenizer: Any) -> None:
    parts = [answer([scored(token, [entry(tokenizer, token, -1.0)], None)], usage=None) for token in ("I", "v")]
    parts.append(answer([{"text": "", "index": 0, "logprobs": None, "finish_reason": "length"}]))
    fields: dict[str, Any] = {"stream": True, "stream_options": {"include_usage": True}, "max_tokens": 1}
    told = served.complete("!events " + json.dumps([None, *parts]), logprobs=1, **fields)
    *first, end, usage, done = [line.removeprefix("data: ") for line in told.text.split("\n\n") if line]
    assert [json.loads(part)["choices"][0]["logprobs"]["text_offset"] for part in first] == [[0], [1]]
    assert json.loads(end)["choices"][0]["finish_reason"] == "length" and "usage" not in json.loads(end)
    assert json.loads(usage)["choices"] == [] and json.loads(usage)["usage"]["total_tokens"] == 5 and done == "[DONE]"


def test_a_characters_lost_log_probabilities_are_an_error(served: Served, tokenizer: Any) -> None:
    lost = entry(tokenizer, "I", -1.0, raw=b"\xc3I")  # two tokens, of which the last one is named
    response = served.complete("!raw " + json.dumps(answer([scored("x", [lost])])), logprobs=1, max_tokens=1)
    assert response.status_code == 502 and response.json()["error"]["code"] == "engine_without_logprobs"


def test_a_character_of_several_bytes_that_is_one_token_has_its_log_probability(tmp_path: Path) -> None:
    source = save_small(tmp_path / "small", trained_pieces("first"))
    dialect = LlamaServerDialect(prepare(str(source), tmp_path / "served").folder)
    request = CompletionRequest(model="m", prompt="a", logprobs=0)

    def scores(token: str) -> Any:
        id = dialect._tokenizer.convert_tokens_to_ids(token)
        own = {"id": id, "token": "\u597d", "bytes": [*"\u597d".encode()], "logprob": -1.0, "top_logprobs": []}
        choice = {"text": "\u597d", "index": 0, "logprobs": {"content": [own]}, "finish_reason": "length"}
        return dialect.reader(request)({"choices": [choice]})["choices"][0]["logprobs"]

    assert scores("\u597d")["token_logprobs"] == [-1.0] and scores("\u597d")["tokens"] == ["\u597d"]
    with pytest.raises(Refusal, match="takes several tokens"):
        scores("<0xBD>")


def test_a_chats_log_probabilities_have_no_ids_and_as_many_others_as_were_asked_for(
    served: Served, tokenizer: Any
) -> None:
    choice = {"message": {"role": "assistant", "content": "I"}, "index": 0, "finish_reason": "length"}
    content = answer([{**choice, "logprobs": {"content": [entry(tokenizer, "I", -1.0)]}}])
    asked = {"logprobs": True, "max_tokens": 1}
    made = served.chat("!raw " + json.dumps(content), **asked).json()
    assert made["choices"][0]["logprobs"]["content"] == [
        {"token": "I", "bytes": [73], "logprob": -1.0, "top_logprobs": []}
    ]


def test_a_context_that_all_slots_together_fill_is_a_503(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    words = "Context size has been exceeded."
    monkeypatch.setattr(served.fake, "refusal", words)
    response = served.complete("!status 500")
    assert response.status_code == 503 and response.json()["error"]["code"] == "engine_busy"
    assert int(response.headers["retry-after"]) > 0
    part = answer([{"text": "a", "index": 0, "logprobs": None, "finish_reason": None}], usage=None)
    error = {"error": {"code": 500, "message": words, "type": "server_error"}}
    told = served.complete("!events " + json.dumps([part, error]), stream=True, max_tokens=1).text
    assert json.loads(told.split("data: ")[-1])["error"]["code"] == "engine_busy" and "[DONE]" not in told
    monkeypatch.setattr(served.fake, "refusal", "another fault")
    assert served.complete("!status 500").status_code == 502


def test_several_completions_are_counted_here(served: Served, tokenizer: Any) -> None:
    choices = [{"text": text, "index": i, "logprobs": None, "finish_reason": "stop"} for i, text in enumerate("Iv")]
    prompt = "!raw " + json.dumps(answer(choices))
    made = served.complete(prompt, n=2, max_tokens=1).json()
    assert made["usage"]["completion_tokens"] == 2
    assert made["usage"]["prompt_tokens"] == len(tokenizer(prompt)["input_ids"])
    choices[0]["text"] = "\ufffd"  # in place of one token, which is no character; written again it is three
    made = served.complete("!raw " + json.dumps(answer(choices)), n=2, max_tokens=1).json()
    assert made["usage"]["completion_tokens"] == 2


@pytest.mark.parametrize("wants", [False, True])
def test_a_stream_of_several_completions_has_no_part_without_choices_but_the_tokens(
    served: Served, wants: bool
) -> None:
    parts = [answer([{"delta": {"content": "I"}, "index": i, "finish_reason": "stop"}], usage=None) for i in (0, 1)]
    fields: dict[str, Any] = {"stream_options": {"include_usage": True}} if wants else {}
    told = served.chat("!events " + json.dumps([*parts, answer([])]), stream=True, n=2, max_tokens=1, **fields).text
    found = [json.loads(line.removeprefix("data: ")) for line in told.split("\n\n")[:-2]]
    assert [len(part["choices"]) for part in found] == [1, 1, *([0] if wants else [])]
    assert not wants or found[-1]["usage"]["completion_tokens"] == 2


@pytest.mark.parametrize(
    "choice", [{"text": 5}, {"index": []}, {"logprobs": {"content": 1}}, {"logprobs": {"content": [{"id": 2**80}]}}, 1]
)
def test_an_answer_of_another_shape_is_an_error(served: Served, choice: Any) -> None:
    response = served.complete("!raw " + json.dumps(answer([choice])), max_tokens=1)
    assert response.status_code == 502 and response.json()["error"]["code"] == "engine_error", response.text
