"""What is served: plain folders of runs, bundles and models, and how requests are put to `transformers serve`."""

from __future__ import annotations

import hashlib
import json
import logging
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("starlette", reason="the gateway needs the extra serve")

from agents.serving.dialect import Dialect, StopCutter, TransformersDialect
from agents.serving.errors import Refusal
from agents.serving.export.gguf.writing import write_gguf
from agents.serving.export.run import export
from agents.serving.model_folder import prepare
from agents.serving.requests import ChatRequest, CompletionRequest
from agents.training.config import TrainConfig
from agents.training.run import prepare as prepare_run
from agents.training.run import train
from rlhf_envs.models import load_causal_lm, load_tokenizer
from tests.rlhf_envs.chat_families import family_tokenizer
from tests.rlhf_envs.small_models import save_model

from .llama.files import save_small, trained_tokenizer


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that trained adapters."""
    folder = tmp_path_factory.mktemp("runs")
    config = TrainConfig(
        algo="ppo",
        env="rlhf/Sentiment-v0",
        env_kwargs={"reward": "distinct-ngrams", "max_new_tokens": 4},
        model="tiny",
        train="lora",
        learning_rate=0.1,
        n_timesteps=64,
        log_folder=str(folder),
        n_eval_episodes=2,
        test_episodes=2,
        hyperparams={"n_steps": 4, "temperature": 0.7},
        progress=False,
        verbose=0,
    )
    return Path(train(prepare_run(config)).folder)


def test_a_model_draws_its_tokens_and_ends_where_it_ended(tmp_path: Path) -> None:
    made = prepare("tiny", tmp_path)
    settings = json.loads((made.folder / "generation_config.json").read_text())
    assert settings["do_sample"] and settings["top_k"] == 0 and settings["temperature"] == 1.0
    assert settings["eos_token_id"] == [1] and settings["pad_token_id"] == 0
    assert made.name == "tiny" and made.version.startswith("tiny@") and len(made.version) == 17
    assert (made.folder / "model.safetensors").is_symlink()


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")  # peft's
def test_the_adapters_of_a_run_are_merged(run: Path, tmp_path: Path) -> None:
    pytest.importorskip("peft")
    from peft import PeftModel

    made = prepare(str(run), tmp_path)
    ids = torch.arange(3, 20)[None]
    with torch.no_grad():
        served = load_causal_lm(str(made.folder))(ids).logits
        trained = PeftModel.from_pretrained(load_causal_lm("tiny"), str(run / "model"))(ids).logits
        start = load_causal_lm("tiny")(ids).logits
    torch.testing.assert_close(served, trained, atol=1e-5, rtol=1e-4)
    assert (served - start).abs().max() > 1e-3
    settings = json.loads((made.folder / "generation_config.json").read_text())
    assert settings["temperature"] == 0.7 and settings["do_sample"], "as the policy was trained to draw them"
    assert made.version != prepare("tiny", tmp_path / "other").version.replace("tiny", made.name)


def test_a_bundle_gives_the_same_model_as_its_run(run: Path, tmp_path: Path) -> None:
    of_run, of_bundle = prepare(str(run), tmp_path / "a", "x"), prepare(str(run / "agent"), tmp_path / "b", "x")
    ids = torch.arange(3, 20)[None]
    with torch.no_grad():
        logits = [load_causal_lm(str(made.folder))(ids).logits for made in (of_run, of_bundle)]
    torch.testing.assert_close(*logits)


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")  # peft's
@pytest.mark.parametrize("kind", ["hf", "merged"])
def test_an_export_is_served_as_its_run(run: Path, tmp_path: Path, kind: str) -> None:
    pytest.importorskip("peft")
    export(str(run), tmp_path / "exported", kind, n_episodes=2)
    made, of_run = prepare(str(tmp_path / "exported"), tmp_path / "a", "x"), prepare(str(run), tmp_path / "b", "x")
    ids = torch.arange(3, 20)[None]
    with torch.no_grad():
        logits = [load_causal_lm(str(one.folder))(ids).logits for one in (made, of_run)]
    torch.testing.assert_close(*logits, atol=1e-5, rtol=1e-4)
    settings = json.loads((made.folder / "generation_config.json").read_text())
    assert settings["temperature"] == 0.7 and settings["do_sample"]


def test_what_cannot_be_served_is_said(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="unknown model"):
        prepare("no-such-model", tmp_path / "a")
    made = tmp_path / "logs a" / "ppo" / "Sentiment-v0_1"
    (made / "model").mkdir(parents=True)
    (made / "config.json").write_text("{}")
    with pytest.raises(ValueError, match=r"logs a is a folder of runs: give one of them, \S+/logs a/ppo/\S+_1$"):
        prepare(str(tmp_path / "logs a"), tmp_path / "a")
    empty = tmp_path / "empty"
    empty.mkdir()
    (empty / "config.json").write_text("{}")
    with pytest.raises(ValueError, match="no weights in safetensors"):
        prepare(str(empty), tmp_path / "b")
    (empty / "model.gguf").touch()
    with pytest.raises(ValueError, match=r"model.gguf is for other engines: .* give --upstream"):
        prepare(str(empty), tmp_path / "d")
    with pytest.raises(ValueError, match=r"name 'a b': expected letters, .* --name NAME"):
        prepare("tiny", tmp_path / "c", "a b")


def test_a_prompt_that_is_too_long_is_refused_and_nothing_else_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    long = completion(prompt="film " * 300)
    fresh = TransformersDialect(prepare("tiny", tmp_path).folder)  # a tokenizer warns once
    logging.getLogger("transformers").addHandler(caplog.handler)
    try:
        with pytest.raises(Refusal, match="the model takes 256 tokens"):
            fresh.translate(long)
        assert fresh.usage(long, ["film " * 300])["completion_tokens"] > 0
    finally:
        logging.getLogger("transformers").removeHandler(caplog.handler)
    assert not caplog.messages


@pytest.fixture(scope="module")
def dialect(tmp_path_factory: pytest.TempPathFactory) -> TransformersDialect:
    return TransformersDialect(prepare("tiny", tmp_path_factory.mktemp("tiny")).folder)


@pytest.fixture(scope="module")
def chatting(tmp_path_factory: pytest.TempPathFactory) -> TransformersDialect:
    folder = tmp_path_factory.mktemp("chat")
    save_model(folder / "m", family_tokenizer("chatml"), vocab_size=264)
    return TransformersDialect(prepare(str(folder / "m"), folder / "served").folder)


def completion(**fields: Any) -> CompletionRequest:
    return CompletionRequest(**{"model": "tiny", "prompt": "The film", **fields})


def chat(**fields: Any) -> ChatRequest:
    return ChatRequest(**{"model": "m", "messages": [{"role": "user", "content": "tea"}], **fields})


@pytest.mark.parametrize(
    "fields",
    [
        {"logprobs": 1},
        {"logprobs": 0},
        {"n": 2},
        {"best_of": 2},
        {"echo": True},
        {"presence_penalty": 0.5},
        {"frequency_penalty": 0.5},
        {"suffix": "x"},
        {"prompt": ["a", "b"]},
        {"prompt": [1, 2]},
    ],
)
def test_what_transformers_serve_would_ignore_is_refused(dialect: TransformersDialect, fields: dict[str, Any]) -> None:
    with pytest.raises(Refusal, match="--upstream") as refusal:
        dialect.translate(completion(**fields))
    assert refusal.value.status == 400 and refusal.value.param == next(iter(fields))


def test_what_changes_nothing_is_left_out(dialect: TransformersDialect) -> None:
    neutral = {"n": 1, "echo": False, "presence_penalty": 0, "user": "u", "store": True, "logprobs": None}
    body = dialect.translate(completion(**neutral, stream=True, stream_options={"include_usage": True}, seed=1))
    assert body == {"prompt": "The film", "stream": True, "seed": 1, "max_tokens": 254}


def test_lengths_are_checked(dialect: TransformersDialect) -> None:
    assert dialect.translate(completion(max_tokens=254))["max_tokens"] == 254
    for fields in ({"max_tokens": 255}, {"prompt": "film " * 300}):
        with pytest.raises(Refusal, match="the model takes 256 tokens") as refusal:
            dialect.translate(completion(**fields))
        assert refusal.value.code == "context_length_exceeded"
    with pytest.raises(Refusal, match="no token"):
        dialect.translate(completion(prompt=""))


def test_chats_need_a_template_and_are_counted_as_it_writes_them(
    dialect: TransformersDialect, chatting: TransformersDialect
) -> None:
    with pytest.raises(Refusal, match="no chat template"):
        dialect.translate(chat())
    assert chatting.translate(chat(max_completion_tokens=5))["max_tokens"] == 5
    parts = [{"role": "user", "content": [{"type": "text", "text": "te"}, {"type": "text", "text": "a"}]}]
    assert chatting.translate(chat(messages=parts))["max_tokens"] == chatting.translate(chat())["max_tokens"]
    with pytest.raises(Refusal, match="top_logprobs=2"):
        chatting.translate(chat(top_logprobs=2))


def test_other_engines_get_requests_as_they_are() -> None:
    body = Dialect().translate(completion(logprobs=3, n=2, user="u", store=False, metadata={"a": "b"}))
    assert body == {"prompt": "The film", "logprobs": 3, "n": 2}


@pytest.mark.parametrize("size", [1, 2, 3, 100])
@pytest.mark.parametrize(
    ("text", "stops", "kept"),
    [
        ("one two three", ["two"], "one "),
        ("one two three", ["three", "e t"], "on"),
        ("aab", ["ab"], "a"),
        ("abab", ["abc"], "abab"),
        ("stop", ["stop"], ""),
        ("a\n\nb", ["\n\n"], "a"),
    ],
)
def test_texts_are_cut_at_stops_whatever_pieces_they_come_in(text: str, stops: list[str], kept: str, size: int) -> None:
    cutter = StopCutter(stops)
    given = [cutter.feed(text[start : start + size]) for start in range(0, len(text), size)] + [cutter.end()]
    assert "".join(given) == kept and cutter.is_cut == (kept != text)


def test_a_gguf_is_served_by_an_upstream_alone(tmp_path: Path) -> None:
    source = save_small(tmp_path / "mine", trained_tokenizer())
    write_gguf(load_causal_lm(str(source)), load_tokenizer(str(source)), source, "int8", "mine")
    (source / "model.safetensors").unlink()
    with pytest.raises(ValueError, match=r"start one on it, such as llama.cpp's server, and give --upstream"):
        prepare(str(source), tmp_path / "a")
    model = prepare(str(source), tmp_path / "b", allow_gguf=True)
    assert model.name == "mine" and (model.folder / "model.gguf").is_file()
    digest = hashlib.sha256(hashlib.sha256((source / "model.gguf").read_bytes()).digest()).hexdigest()
    assert model.version == f"mine@{digest[:12]}"
