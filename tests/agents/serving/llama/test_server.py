"""`rlhf serve --upstream` in front of llama.cpp's two servers, which read a GGUF of ours.

One is llama-cpp-python's. The other is `llama-server`, which must be on the PATH, or in RLHF_LLAMA_SERVER.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

pytest.importorskip("prometheus_client", reason="the gateway needs the extra serve")
pytest.importorskip("gguf", reason="a GGUF is written with the package gguf")
import httpx2

from agents.serving.alerts import Alerts
from agents.serving.engine import RemoteEngine, _free_port
from agents.serving.export.gguf.writing import load_gguf, write_gguf
from agents.serving.model_folder import prepare
from agents.serving.served import Desk
from agents.serving.watch import Watch, WatchSettings
from rlhf_envs.feedback import FeedbackStore
from rlhf_envs.models import load_causal_lm, load_tokenizer
from rlhf_envs.rewards import get_reward

from ..running import Served, serve_before, wait_until
from .files import BYTES, TEMPLATE, save_small, trained_pieces, trained_tokenizer

LEAD = "<0xE4>"  # a part of a character, as a token of SentencePiece's kind
SCORERS = {"repetition": get_reward("repetition")}
KINDS = ("llama-cpp-python", "llama-server")
SERVER = os.environ.get("RLHF_LLAMA_SERVER") or shutil.which("llama-server")
# Neither the end of the model or of either tokenizer nor the pad, which llama.cpp takes for one by its name.
ENDLESS = {"0": -100, "2": -100, "3": -100}
# The second begins texts with a token, and so do its chats: llama-server puts it there whatever the template says.
TOKENIZERS = {"bytes": trained_tokenizer, "marks": lambda: trained_pieces("first", "{{ bos_token }}" + TEMPLATE)}


class Running(NamedTuple):
    served: Served
    engine: subprocess.Popen[bytes]
    model: Any
    tokenizer: Any
    folder: Path
    kind: str


def start_engine(kind: str, file: Path, port: int, log: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "llama_cpp.server", "--n_ctx", "0", "--n_threads", "1", "--n_threads_batch", "1"]
    if kind == "llama-server":
        command = [str(SERVER), "--threads", "1", "--threads-batch", "1"]
    command += ["--model", str(file), "--port", str(port), "--host", "127.0.0.1"]
    with log.open("wb") as out:
        return subprocess.Popen(command, stdout=out, stderr=out, env={**os.environ, "PYTHONUNBUFFERED": "1"})


def wait_listening(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    ends = time.monotonic() + 120
    while True:
        assert process.poll() is None and time.monotonic() < ends, log.read_text()
        try:
            httpx2.get(f"{url}/v1/models", trust_env=False)
            return
        except httpx2.HTTPError:
            time.sleep(0.2)


@pytest.fixture(scope="module", params=[f"{kind} {of}" for kind in KINDS for of in TOKENIZERS])
def running(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[Running]:
    kind, _, of = request.param.partition(" ")
    if kind == "llama-cpp-python":
        pytest.importorskip("llama_cpp", reason="llama.cpp itself needs llama-cpp-python, which is compiled")
        pytest.importorskip("sse_starlette", reason="its server: pip install 'llama-cpp-python[server]'")
    elif SERVER is None:
        pytest.skip("llama.cpp's llama-server is not on the PATH")
    folder = tmp_path_factory.mktemp("llama")
    source = save_small(folder / "small", TOKENIZERS[of]())
    write_gguf(load_causal_lm(str(source)), load_tokenizer(str(source)), source, None, "small")
    (source / "model.safetensors").unlink()
    port, log = _free_port(), folder / "log"
    url, process = f"http://127.0.0.1:{port}", start_engine(kind, source / "model.gguf", port, log)
    try:
        wait_listening(url, process, log)
        made = prepare(str(source), folder / "served", allow_gguf=True)
        with (
            FeedbackStore(folder / "feedback.db") as store,
            serve_before(
                folder,
                url,
                lambda url, telemetry: RemoteEngine(url, telemetry, folder=made.folder),
                desk=Desk(store, made.version),
                watch=lambda telemetry: Watch(WatchSettings(share=1.0), telemetry, Alerts(telemetry), SCORERS),
            ) as served,
        ):
            yield Running(served, process, load_gguf(source), load_tokenizer(str(source)), source, kind)
    finally:
        process.kill()
        process.wait(20)


def parts_of(text: str) -> list[Any]:
    lines = [line.removeprefix("data: ") for line in text.split("\n\n") if line]
    assert lines[-1] == "[DONE]", text
    return [json.loads(line) for line in lines[:-1]]


def greedy(running: Running, ids: list[int], n: int, banned: dict[str, int] | None = None) -> list[int]:
    import torch

    found, out = torch.tensor([ids]), [int(id) for id in banned or ()]
    for _ in range(n):
        logits = running.model(found).logits[:, -1]
        logits[:, out] = -torch.inf
        found = torch.cat([found, logits.argmax(-1, keepdim=True)], dim=1)
    return [int(token) for token in found[0, len(ids) :]]


def parts_of_characters(running: Running) -> dict[str, int]:
    """Bans the tokens that are no whole characters, where log-probabilities of such characters are refused."""
    if running.kind == "llama-cpp-python":
        return {}
    vocabulary = running.tokenizer.get_vocab()
    if LEAD in vocabulary:
        return {str(vocabulary[byte]): -100 for byte in BYTES[128:]}
    return {str(id): -100 for token, id in vocabulary.items() if not (token.isascii() or token[0] == "Ġ")}


def written(tokenizer: Any, before: list[int], ids: list[int]) -> str:
    """The text that tokens add to those before, as these servers give it out: without parts of characters."""
    text, whole = (tokenizer.decode(kept, skip_special_tokens=True) for kept in (before, before + ids))
    assert whole.startswith(text)
    return str(whole.removeprefix(text).replace("\ufffd", ""))


def test_completions_are_the_models_with_its_log_probabilities(running: Running) -> None:
    import torch

    served, tokenizer = running.served, running.tokenizer
    (row,) = served.client.get("/v1/models").json()["data"]
    assert row["id"] == "mine"
    prompt = "numbers 12"
    banned = parts_of_characters(running)
    made = served.complete(prompt, max_tokens=6, temperature=0, logprobs=2, logit_bias=banned or None).json()
    choice, ids = made["choices"][0], tokenizer(prompt)["input_ids"]
    expected = greedy(running, ids, 6, banned)
    counted = {"prompt_tokens": len(ids), "completion_tokens": 6, "total_tokens": len(ids) + 6}
    assert made["usage"] | counted == made["usage"]
    assert choice["text"] == written(tokenizer, ids, expected) and choice["finish_reason"] == "length"
    logits = running.model(torch.tensor([ids + expected])).logits[0, len(ids) - 1 : -1].log_softmax(-1)
    wanted = logits.gather(1, torch.tensor(expected)[:, None]).squeeze(1).tolist()
    assert choice["logprobs"]["token_logprobs"] == pytest.approx(wanted, abs=0.01)
    assert len(choice["logprobs"]["tokens"]) == len(choice["logprobs"]["top_logprobs"]) == 6
    assert all(len(others) in (2, 3) for others in choice["logprobs"]["top_logprobs"])
    assert str(running.folder) not in json.dumps(made)


def test_chats_follow_the_template_and_have_openais_log_probabilities(running: Running) -> None:
    served, tokenizer = running.served, running.tokenizer
    messages = [{"role": "user", "content": "is it good?"}]
    ids = tokenizer.apply_chat_template(messages, add_generation_prompt=True)["input_ids"]
    banned = parts_of_characters(running)
    fields = {"max_completion_tokens": 5, "temperature": 0, "logprobs": True, "logit_bias": banned or None}
    made = served.chat("is it good?", **fields).json()
    choice = made["choices"][0]
    assert made["usage"]["prompt_tokens"] == len(ids)
    assert choice["message"]["content"] == written(tokenizer, ids, greedy(running, ids, 5, banned))
    assert len(choice["logprobs"]["content"]) == 5 and all(one["logprob"] <= 0 for one in choice["logprobs"]["content"])


def test_seeds_count_and_without_one_each_answer_is_drawn_anew(running: Running) -> None:
    def text(**fields: Any) -> str:
        return str(running.served.complete("the film", max_tokens=8, **fields).json()["choices"][0]["text"])

    assert text(seed=1) == text(seed=1) != text(seed=2)
    assert len({text() for _ in range(4)}) > 1
    assert text(temperature=0) == text(temperature=0, seed=5)


def test_streams_have_the_text_the_stop_and_the_tokens(running: Running) -> None:
    served, tokenizer = running.served, running.tokenizer
    fields: dict[str, Any] = {"temperature": 0, "logit_bias": parts_of_characters(running) or None}
    whole = served.complete("the film", max_tokens=12, **fields).json()["choices"][0]["text"]
    options = {"include_usage": True}
    *parts, last = parts_of(
        served.complete("the film", max_tokens=12, **fields, stream=True, stream_options=options).text
    )
    assert "".join(part["choices"][0]["text"] for part in parts) == whole
    assert parts[-1]["choices"][0]["finish_reason"] == "length" and {part["model"] for part in parts} == {"mine"}
    assert last["usage"]["prompt_tokens"] == len(tokenizer("the film")["input_ids"])
    assert 0 < last["usage"]["completion_tokens"] <= 12
    stop = whole[4:6]
    cut = served.complete("the film", max_tokens=12, **fields, stop=stop).json()["choices"][0]
    assert cut["text"] == whole[: whole.index(stop)] and cut["finish_reason"] == "stop"
    parts = parts_of(served.chat("hi", max_tokens=4, temperature=0, stream=True).text)
    assert parts[0]["choices"][0]["delta"]["role"] == "assistant" and parts[-1]["choices"][0]["finish_reason"]


def test_a_prompt_that_is_too_long_is_refused_whole_and_as_a_stream(running: Running) -> None:
    for stream in (False, True):
        response = running.served.complete("film " * 400, stream=stream)
        assert response.status_code == 400 and response.json()["error"]["code"] == "context_length_exceeded"


def test_streams_at_the_same_time_come_whole_while_the_engine_is_looked_at(running: Running, monkeypatch: Any) -> None:
    """By itself this server ends a stream as soon as anybody else asks, even for the list of its models."""
    import agents.serving.engine as engines

    monkeypatch.setattr(engines, "EVERY", 0.01)
    found: list[str] = []

    def ask() -> None:
        found.append(running.served.complete("the film", max_tokens=60, stream=True, logit_bias=ENDLESS).text)

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(100)
    assert len(found) == 4
    assert {parts_of(text)[-1]["choices"][0]["finish_reason"] for text in found} == {"length"}


def test_a_client_that_leaves_ends_its_stream_and_the_next_is_served(running: Running) -> None:
    body = {"model": "mine", "prompt": "the film", "max_tokens": 150, "stream": True, "logit_bias": ENDLESS}
    with running.served.client.stream("POST", "/v1/completions", json=body) as response:
        next(response.iter_text())
    assert running.served.complete("the film", max_tokens=2).status_code == 200
    wait_until(lambda: running.served.gateway.engine.n_asked == 0)


def test_llama_servers_completions_of_several_prompts_are_counted_and_in_order(running: Running) -> None:
    if running.kind != "llama-server":
        pytest.skip("llama-cpp-python's server writes one completion of one prompt")
    served, tokenizer, fields = running.served, running.tokenizer, {"max_tokens": 3, "temperature": 0}
    prompts = ["numbers 12", "the film was good"]
    alone = [served.complete(prompt, **fields).json()["choices"][0]["text"] for prompt in prompts]
    made = served.client.post("/v1/completions", json={"model": "mine", "prompt": prompts, "n": 2, **fields}).json()
    assert [choice["text"] for choice in made["choices"]] == [alone[0]] * 2 + [alone[1]] * 2
    assert [choice["index"] for choice in made["choices"]] == [0, 1, 2, 3]
    assert made["usage"]["prompt_tokens"] == sum(len(tokenizer(prompt)["input_ids"]) for prompt in prompts)
    body = {"model": "mine", "prompt": prompts, "stream": True, **fields}
    texts = ["", ""]
    for part in parts_of(served.client.post("/v1/completions", json=body).text):
        for choice in part["choices"]:
            texts[choice["index"]] += choice["text"]
    assert texts == alone
    ids = [tokenizer(prompt)["input_ids"] for prompt in prompts]
    made = served.client.post("/v1/completions", json={"model": "mine", "prompt": ids, **fields}).json()
    assert [choice["text"] for choice in made["choices"]] == alone


def test_llama_servers_slots_share_a_context_and_more_than_it_holds_is_a_503(running: Running) -> None:
    if running.kind != "llama-server":
        pytest.skip("llama-cpp-python's server answers one request at a time")
    response = running.served.complete("numbers 12", n=4, max_tokens=200, logit_bias=ENDLESS)  # of 256 in all
    assert response.status_code == 503 and response.json()["error"]["code"] == "engine_busy"
    assert running.served.complete("numbers 12", n=4, max_tokens=20, logit_bias=ENDLESS).status_code == 200


def test_llama_servers_log_probabilities_come_in_streams_and_never_of_parts_of_characters(running: Running) -> None:
    if running.kind != "llama-server":
        pytest.skip("llama-cpp-python's server loses characters in such a stream")
    served, banned = running.served, parts_of_characters(running)
    fields: dict[str, Any] = {"max_tokens": 6, "temperature": 0}
    scored = {**fields, "logit_bias": banned, "logprobs": 1}
    whole = served.complete("numbers 12", **scored).json()["choices"][0]
    parts = parts_of(served.complete("numbers 12", stream=True, **scored).text)
    scores = [part["choices"][0]["logprobs"] for part in parts if part["choices"] and part["choices"][0]["text"]]
    for name in ("tokens", "token_logprobs", "text_offset"):
        assert [value for part in scores for value in part[name]] == pytest.approx(whole["logprobs"][name], abs=1e-3)
    assert "".join(whole["logprobs"]["tokens"]) == whole["text"]
    chat = served.chat("hi", **{**scored, "logprobs": True}).json()["choices"][0]["logprobs"]["content"]
    assert all(one["top_logprobs"] == [] and "id" not in one for one in chat)
    vocabulary = running.tokenizer.get_vocab()
    forced = {str(vocabulary[LEAD if LEAD in vocabulary else "ä"]): 100}
    refused = served.complete("numbers 12", **fields, logprobs=0, logit_bias=forced)  # it writes parts of characters
    assert refused.status_code == 502 and refused.json()["error"]["code"] == "engine_without_logprobs"


def test_feedback_and_the_watch_know_its_completions(running: Running) -> None:
    served, asked = running.served, {"max_tokens": 16, "logit_bias": ENDLESS}  # an empty answer would not be scored
    scored = served.metric("rlhf_scored_total")
    made = served.complete("the film", **asked).json()
    said = {"id": made["id"], "thumbs": "up", "consent": True}
    assert served.client.post("/v1/feedback", json=said).json()["policy"].startswith("small@")
    parts = parts_of(served.complete("the film", stream=True, **asked).text)
    said = {"id": parts[0]["id"], "correction": "the film was good", "consent": True}
    assert served.client.post("/v1/feedback", json=said).status_code == 200
    assert served.metric("rlhf_tokens_total") > 0
    wait_until(lambda: served.metric("rlhf_scored_total") >= scored + 2)


def test_masks_hold_over_its_streams(running: Running, tmp_path: Path) -> None:
    pytest.importorskip("phonenumbers", reason="masks need the extra privacy")
    pytest.importorskip("stdnum", reason="masks need the extra privacy")
    from rlhf_envs.privacy import Masker

    url, made = running.served.gateway.engine.url, prepare(str(running.folder), tmp_path / "b", allow_gguf=True)
    build = lambda url, telemetry: RemoteEngine(url, telemetry, folder=made.folder)  # noqa: E731
    first = running.served.gateway.engine  # does not look at the server, which would end the other gateway's stream
    with first.answering(), serve_before(tmp_path, url, build, masker=Masker()) as masked:
        fields: dict[str, Any] = {"max_tokens": 12, "temperature": 0}
        whole = masked.complete("the film", **fields).json()["choices"][0]["text"]
        parts = parts_of(masked.complete("the film", stream=True, **fields).text)
        assert "".join(part["choices"][0]["text"] for part in parts if part["choices"]) == whole
        assert masked.complete("the film", logprobs=1).status_code == 400


def test_an_engine_that_dies_is_told_at_once_and_found_again(running: Running, tmp_path: Path) -> None:
    served, url = running.served, running.served.gateway.engine.url
    running.engine.kill()
    running.engine.wait(20)
    response = served.complete("the film", max_tokens=2)
    assert response.status_code == 503 and response.json()["error"]["code"] == "engine_unavailable"
    again = start_engine(running.kind, running.folder / "model.gguf", int(url.rpartition(":")[2]), tmp_path / "log")
    try:
        wait_listening(url, again, tmp_path / "log")
        wait_until(lambda: served.complete("the film", max_tokens=2).status_code == 200)
    finally:
        again.kill()
        again.wait(20)
