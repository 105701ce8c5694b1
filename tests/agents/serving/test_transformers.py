"""`rlhf serve` as users start it, with `transformers serve` behind it: the protocol, draws, stops, a kill, the end."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

pytest.importorskip("prometheus_client", reason="the gateway needs the extra serve")
pytest.importorskip("openai", reason="transformers serve needs the extra serve")
import httpx2
import openai
import psutil

from agents.serving.keys import KeyFile
from tests.rlhf_envs.chat_families import family_tokenizer
from tests.rlhf_envs.small_models import save_model

ROOT = Path(__file__).parents[3]
pytestmark = pytest.mark.slow


class Running(NamedTuple):
    process: subprocess.Popen[bytes]
    url: str
    client: openai.OpenAI
    folder: Path


def start(folder: Path, model: str) -> Iterator[Running]:
    _, secret = KeyFile(folder / "serve-keys.json").add("ann")
    command = [sys.executable, "-m", "agents.cli", "serve", model, "--port", "0", "--name", "m"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
    with (folder / "out").open("wb") as out, (folder / "err").open("wb") as err:
        process = subprocess.Popen(command, cwd=folder, stdout=out, stderr=err, env=environment)
    try:
        ends = time.monotonic() + 300
        while " on http" not in (folder / "out").read_text():
            assert process.poll() is None and time.monotonic() < ends, (folder / "err").read_text()
            time.sleep(0.2)
        url = (folder / "out").read_text().split(" on ")[1].split("/v1")[0]
        wait_ready(url, 300)
        with openai.OpenAI(base_url=f"{url}/v1", api_key=secret, max_retries=0) as client:
            yield Running(process, url, client, folder)
    finally:
        process.terminate()  # not killed: it deletes the model's folder
        process.wait(60)


def wait_ready(url: str, seconds: float) -> None:
    ends = time.monotonic() + seconds
    while httpx2.get(f"{url}/readyz").status_code != 200:
        assert time.monotonic() < ends
        time.sleep(0.2)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    yield from start(tmp_path_factory.mktemp("tiny"), "tiny")


def test_completions_are_drawn_cut_and_streamed(tiny: Running) -> None:
    def text(**fields: Any) -> str:
        made = tiny.client.completions.create(model="m", prompt="The film", **{"max_tokens": 8, **fields})
        assert made.model == "m" and made.choices[0].finish_reason in ("length", "stop")
        return made.choices[0].text

    assert text(seed=1) == text(seed=1) != text(seed=2)
    greedy = text(temperature=0, seed=1)
    assert greedy == text(temperature=0, seed=2) and greedy not in (text(seed=1), text(seed=2))
    cut = text(temperature=0, stop=greedy[3:5])
    assert cut == greedy[: greedy.index(greedy[3:5])]
    parts = [*tiny.client.completions.create(model="m", prompt="The film", max_tokens=8, temperature=0, stream=True)]
    assert "".join(part.choices[0].text for part in parts) == greedy
    assert parts[-1].choices[0].finish_reason == "length" and parts[-1].usage is not None
    with pytest.raises(openai.BadRequestError, match="logprobs=1"):
        text(logprobs=1)
    with pytest.raises(openai.BadRequestError, match="no chat template"):
        tiny.client.chat.completions.create(model="m", messages=[{"role": "user", "content": "a"}])


def test_a_killed_engine_is_restarted(tiny: Running) -> None:
    def child() -> psutil.Process:
        (found,) = psutil.Process(tiny.process.pid).children()
        return found

    before = child()
    os.kill(before.pid, signal.SIGKILL)
    time.sleep(0.5)
    with pytest.raises(openai.InternalServerError) as caught:
        tiny.client.completions.create(model="m", prompt="The film", max_tokens=2)
    assert caught.value.status_code == 503 and "being restarted" in str(caught.value)
    wait_ready(tiny.url, 300)
    assert child().pid != before.pid
    assert tiny.client.completions.create(model="m", prompt="The film", max_tokens=2).usage is not None


def test_chats_are_answered_and_sigterm_ends_gateway_and_engine(tmp_path: Path) -> None:
    save_model(tmp_path / "my-model", family_tokenizer("chatml"), vocab_size=264)
    for running in start(tmp_path, "my-model"):
        messages: Any = [{"role": "user", "content": "What is tea?"}]
        made = running.client.chat.completions.create(model="m", messages=messages, max_tokens=4)
        assert made.choices[0].message.role == "assistant" and made.usage is not None
        assert made.usage.completion_tokens <= 4
        (engine,) = psutil.Process(running.process.pid).children()
        folder = next(word for word in engine.cmdline() if "rlhf-serve-" in word)
        running.process.terminate()
        assert running.process.wait(60) == 128 + signal.SIGTERM
        psutil.wait_procs([engine], timeout=10)
        assert not engine.is_running()
        assert not Path(folder).exists(), "the model's folder is gone with the server"
        lines = [json.loads(line) for line in (tmp_path / "err").read_text().splitlines() if line.startswith("{")]
        assert [line["signal"] for line in lines if line["event"] == "draining"] == ["SIGTERM"]
