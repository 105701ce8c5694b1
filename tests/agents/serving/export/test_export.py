"""Exports: the same model in other files, measured on the same prompts, and no file where something is wrong."""

from __future__ import annotations

import hashlib
import json
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast
from typer.testing import CliRunner

from agents.cli import app
from agents.serving.export import room
from agents.serving.export.gguf.writing import FAMILIES, check_family, load_gguf, write_gguf
from agents.serving.export.prune import check_pruning, prune, sparsity
from agents.serving.export.run import export
from rlhf_envs.models import load_causal_lm, load_tokenizer, load_with_adapters
from rlhf_envs.models.adapters import add_adapters, base_checksum, save_adapters
from rlhf_envs.models.adapters.layers import adapter_weights
from tests.agents.conftest import build_config, build_model
from tests.rlhf_envs.small_models import byte_level, save_model

IDS = torch.arange(5, 29)[None]
ROWS = [{"prompt": f"film {number}", "split": "test"} for number in range(8)]
FEW: dict[str, Any] = dict(
    env_id="rlhf/Prompts-v0",
    env_kwargs={"data": ROWS, "reward": "repetition", "max_new_tokens": 6},
    n_episodes=8,
    split="test",
)


def few_letters() -> PreTrainedTokenizerFast:
    """A tokenizer for the small models of every shape, which have 50 tokens."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())[:45]
    vocab = {token: i for i, token in enumerate(["<pad>", "</s>", *letters])}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="</s>", pad_token="<pad>")


@torch.no_grad()
def logits(model: Any) -> torch.Tensor:
    return model(IDS).logits


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small Llama with a tokenizer of bytes and a chat template."""
    tokenizer = byte_level()
    tokenizer.chat_template = "{% for m in messages %}<|im_start|>{{ m['content'] }}<|im_end|>{% endfor %}"
    place = tmp_path_factory.mktemp("models") / "small"
    save_model(place, tokenizer, hidden_size=64, intermediate_size=128, num_key_value_heads=1, initializer_range=0.2)
    return place


@pytest.fixture(scope="module")
def adapted(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Adapters on it that have learned something."""
    model = load_causal_lm(str(folder))
    checksum = base_checksum(model)
    add_adapters(model, {"r": 4})
    torch.manual_seed(1)
    for tensor in adapter_weights(model).values():
        tensor.normal_(std=0.1)
    place = tmp_path_factory.mktemp("models") / "adapters"
    save_adapters(model, place, str(folder), checksum)
    return place


def sums_hold(folder: Path) -> bool:
    lines = (folder / "SHA256SUMS").read_text().splitlines()
    named = {line.split("  ")[1]: line.split("  ")[0] for line in lines}
    others = {path.name for path in folder.iterdir()} - {"SHA256SUMS"}
    return named.keys() == others and all(
        hashlib.sha256((folder / name).read_bytes()).hexdigest() == digest for name, digest in named.items()
    )


def test_merged_adapters_give_the_logits_of_the_model_with_its_adapters(
    folder: Path, adapted: Path, tmp_path: Path
) -> None:
    done = export(str(adapted), tmp_path / "out", "merged", **FEW)
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    before = logits(load_with_adapters(str(adapted)))
    assert torch.allclose(logits(model), before, atol=1e-4)
    assert not torch.allclose(before, logits(load_causal_lm(str(folder))), atol=0.1)
    assert done.after.perplexity.mean == pytest.approx(done.before.perplexity.mean, rel=1e-4)
    assert done.after.size == pytest.approx(done.before.size, rel=0.05)
    assert ("same completions", "8", "8", "8 of 8") in done.rows
    assert AutoTokenizer.from_pretrained(tmp_path / "out").chat_template == load_tokenizer(str(adapted)).chat_template
    assert sums_hold(tmp_path / "out")
    assert "| perplexity |" in (tmp_path / "out" / "README.md").read_text()


def test_hf_writes_the_adapters_alone_and_they_load_on_their_base(adapted: Path, tmp_path: Path) -> None:
    done = export(str(adapted), tmp_path / "out", "hf", **FEW)
    assert not (tmp_path / "out" / "model.safetensors").exists()
    assert done.after.size < done.before.size / 2
    assert torch.equal(logits(load_causal_lm(str(tmp_path / "out"))), logits(load_causal_lm(str(adapted))))
    for options in ({"quantize": "float16"}, {"prune_share": 0.3}):
        with pytest.raises(ValueError, match="take to='merged'"):
            export(str(adapted), tmp_path / "more", "hf", **options, **FEW)


def test_adapters_on_a_tied_embedding_are_refused_by_name(tmp_path: Path) -> None:
    """peft 0.21 would merge them twice: findings/peft_merge_of_tied_embeddings_changes_logits.sh."""
    from peft import LoraConfig, get_peft_model

    base = save_model(tmp_path / "base", byte_level(), tie_word_embeddings=True)
    config = LoraConfig(r=2, target_modules=["embed_tokens"], init_lora_weights=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # peft says that the weights are tied
        wrapped = get_peft_model(AutoModelForCausalLM.from_pretrained(base), config)
        wrapped.save_pretrained(tmp_path / "adapters")
    with pytest.raises(ValueError, match="share their weights"):
        export(str(tmp_path / "adapters"), tmp_path / "out", **FEW)
    assert not (tmp_path / "out").exists()


def test_a_missing_gguf_is_named_with_the_command_before_anything_is_written(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'rlhf-envs\[gguf\]'"):
        export(str(folder), tmp_path / "out", "gguf", **FEW)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("shape", ["gpt2", "llama", "qwen2", "qwen3", "mistral"])
def test_a_gguf_loads_back_with_the_logits_of_the_model(shape: str, tmp_path: Path) -> None:
    if shape == "mistral":
        config = build_config("mistral-sliding")
        config.sliding_window = None
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config).eval()
    else:
        model = build_model(shape)
    for parameter in model.parameters():  # biases and norms are 0 and 1 in a fresh model
        parameter.data += 0.1 * torch.randn_like(parameter)
    write_gguf(model, few_letters(), tmp_path, None, "small")
    assert torch.allclose(logits(load_gguf(tmp_path)), logits(model), atol=1e-5)


@pytest.mark.parametrize(
    ("quantize", "bits", "steps"), [("float16", 16, 2**11), ("int8", 8.5, 2 * 127), ("int4", 4.5, 8)]
)
def test_quantised_weights_are_within_half_a_step_of_their_blocks(
    folder: Path, tmp_path: Path, quantize: str, bits: float, steps: float
) -> None:
    """Q8_0 has 127 steps on either side of 0 for each 32 weights, and Q4_0 has 8, whose scales are float16."""
    model = load_causal_lm(str(folder))
    write_gguf(model, load_tokenizer(str(folder)), tmp_path, quantize, "small")
    back = load_gguf(tmp_path)
    here = back.state_dict()
    for name, weight in model.state_dict().items():
        if weight.ndim < 2:
            assert torch.equal(here[name], weight)
            continue
        largest = weight.unflatten(1, (-1, 32)).abs().amax(-1, keepdim=True).expand(-1, -1, 32).flatten(1)
        bound = 1.15 * largest / steps  # the scale is rounded too
        assert ((here[name] - weight).abs() <= bound + 1e-7).all(), name
    size = (tmp_path / "model.gguf").stat().st_size
    assert size < bits / 32 * 4 * model.num_parameters() + 20_000  # the vocabulary is in the file


def test_the_tokenizer_and_the_chat_template_are_in_the_gguf(folder: Path, tmp_path: Path) -> None:
    tokenizer = load_tokenizer(str(folder))
    (note,) = write_gguf(load_causal_lm(str(folder)), tokenizer, tmp_path, None, "small")
    assert "llama.cpp reads no tokenizer without merges" in note
    for file in [*tmp_path.glob("*.json"), *tmp_path.glob("*.jinja")]:
        if file.name != "config.json":
            file.unlink()
    back = AutoTokenizer.from_pretrained(tmp_path, gguf_file="model.gguf")
    text = "<|im_start|>The film, 2 hours: très bon!<|im_end|>"
    assert back(text)["input_ids"] == tokenizer(text)["input_ids"]
    assert back.chat_template == tokenizer.chat_template
    assert (back.eos_token, back.pad_token) == (tokenizer.eos_token, tokenizer.pad_token)


def test_int8_keeps_the_perplexity_of_tiny_within_2_percent_at_less_than_a_third_of_the_size(tmp_path: Path) -> None:
    done = export("tiny", tmp_path / "out", "gguf", quantize="int8", n_episodes=16)
    assert done.after.perplexity.mean < 1.02 * done.before.perplexity.mean
    assert done.after.size < 0.3 * done.before.size
    assert done.counted == "16 prompts of the split 'validation' of rlhf/Sentiment-v0"
    assert {name for name, *_ in done.rows} >= {"reward", "gold", "perplexity", "size of the weights"}
    lost = [note for note in done.notes if "Lowercase" in note]  # tiny's tokenizer has lower case alone
    assert "rlhf serve --upstream" in lost[0]
    assert sums_hold(tmp_path / "out")


@pytest.mark.parametrize("shape", ["gemma", "opt", "phi3", "mistral-sliding"])
def test_a_family_that_gguf_lacks_is_named(shape: str) -> None:
    with pytest.raises(ValueError, match="take --to hf") as caught:
        check_family(build_config(shape))
    if shape != "mistral-sliding":
        assert all(family in str(caught.value) for family in FAMILIES)


def test_a_tokenizer_that_gguf_cannot_say_is_refused(folder: Path, tmp_path: Path) -> None:
    model = load_causal_lm(str(folder))
    with pytest.raises(ValueError, match="vocabulary ends at 49"):
        write_gguf(build_model("gpt2"), byte_level(), tmp_path, None, "small")
    with pytest.raises(ValueError, match="how this tokenizer splits"):
        write_gguf(model, byte_level(space=True), tmp_path, None, "small")


@pytest.mark.parametrize("shape", ["gpt2", "llama"])
def test_pruning_takes_the_smallest_weights_of_each_matrix(shape: str) -> None:
    before, after = build_model(shape), build_model(shape)
    prune(after, 0.3, None)
    assert sparsity(before) == 0
    assert sparsity(after) == pytest.approx(0.3, abs=0.01)
    old, new = before.state_dict(), after.state_dict()
    changed = [name for name in old if not torch.equal(old[name], new[name])]
    assert changed
    assert not any("embed" in name or "wte" in name or "lm_head" in name for name in changed)
    for name in changed:
        gone = new[name] == 0
        assert old[name][gone].abs().max() <= old[name][~gone].abs().min()
        assert torch.equal(old[name][~gone], new[name][~gone])


@pytest.mark.parametrize("shape", ["gpt2", "llama"])
def test_two_of_four_neighbours_along_the_input_stay(shape: str) -> None:
    model = build_model(shape)
    prune(model, None, "2:4")
    assert sparsity(model) == 0.5
    weight = model.transformer.h[0].mlp.c_fc.weight.T if shape == "gpt2" else model.model.layers[0].mlp.up_proj.weight
    assert ((weight.reshape(-1, 4) != 0).sum(1) == 2).all()


@pytest.mark.parametrize(
    ("share", "pattern", "message"),
    [(1.0, None, "between 0 and 1"), (None, "4:2", "2:4"), (None, "half", "2:4"), (0.3, "2:4", "prunes 0.5")],
)
def test_impossible_pruning_is_refused(share: float | None, pattern: str | None, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_pruning(share, pattern)


def test_a_pruned_export_says_how_many_weights_are_0(folder: Path, tmp_path: Path) -> None:
    done = export(str(folder), tmp_path / "out", prune_share=0.5, **FEW)
    assert done.after.sparsity == pytest.approx(0.5, abs=0.01)
    assert done.rows[-1][0] == "zeros in linear layers"
    assert done.after.same_as(done.before) < 8
    weights = load_file(tmp_path / "out" / "model.safetensors")
    assert (weights["model.layers.0.mlp.up_proj.weight"] == 0).float().mean() == pytest.approx(0.5, abs=0.01)


def test_what_is_there_stays_unless_it_is_an_export_and_force_is_given(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("dear")
    for force in (False, True):
        with pytest.raises(FileExistsError, match="no export"):
            export(str(folder), tmp_path / "mine", force=force, **FEW)
    assert (tmp_path / "mine" / "letter.txt").read_text() == "dear"
    export(str(folder), tmp_path / "out", **FEW)
    with pytest.raises(FileExistsError, match="--force"):
        export(str(folder), tmp_path / "out", **FEW)
    export(str(folder), tmp_path / "out", quantize="float16", force=True, **FEW)
    assert load_file(tmp_path / "out" / "model.safetensors")["model.norm.weight"].dtype == torch.float16


def test_nothing_is_left_of_an_export_that_fails(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from agents.serving.export import run

    def fail(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(run, "write_sums", fail)
    with pytest.raises(OSError, match="No space left"):
        export(str(folder), tmp_path / "out", **FEW)
    assert [*tmp_path.iterdir()] == []


def test_a_model_without_room_is_refused_with_figures_before_it_is_loaded(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = load_causal_lm(str(folder)).num_parameters()
    config = load_causal_lm(str(folder)).config
    assert room.count_weights(config) == weights
    monkeypatch.setattr(room, "free_memory", lambda: 10**6)
    with pytest.raises(MemoryError, match=f"{weights:,} weights .* are free"):
        export(str(folder), tmp_path / "out", **FEW)
    monkeypatch.undo()
    monkeypatch.setattr(room.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 1000}))
    with pytest.raises(OSError, match="1 kB left"):
        export(str(folder), tmp_path / "out", **FEW)
    assert not (tmp_path / "out").exists()
    assert (room.free_memory() or 1) > 0


def test_a_policy_of_pictures_and_one_of_values_are_refused(tmp_path: Path) -> None:
    import agents
    from rlhf_envs.models import resolve

    with pytest.raises(ValueError, match="reads pictures"):
        export(resolve("tiny-vision"), tmp_path / "out", env_id="rlhf/ImageCaption-v0")
    agent = agents.make("dqn", "rlhf/TokenBandit-v0")
    with pytest.raises(ValueError, match="more than a language model"):
        export(agent, tmp_path / "out", **FEW)


def test_an_agent_in_memory_is_exported_and_stays_as_it_is(tmp_path: Path) -> None:
    import agents

    agent = agents.make("ppo", "rlhf/TokenBandit-v0", seed=0)
    before = {name: value.clone() for name, value in agent.policy.state_dict().items()}
    done = export(agent, tmp_path / "out", prune_share=0.3, env_id="rlhf/TokenBandit-v0", n_episodes=8, split="test")
    assert np.isfinite(done.after.perplexity.mean)
    for name, value in agent.policy.state_dict().items():
        assert torch.allclose(value, before[name], rtol=0, atol=0, equal_nan=True), name
    assert json.loads((tmp_path / "out" / "generation_config.json").read_text())["do_sample"] is True


def test_a_run_and_its_bundle_are_exported_with_the_decoding_of_the_run(tmp_path: Path) -> None:
    sizes = ["-n", "64", "--n-envs", "4", "--n-eval-episodes", "4", "--test-episodes", "4"]
    command = [
        "train",
        "--env",
        "rlhf/TokenBandit-v0",
        *sizes,
        "-f",
        str(tmp_path / "logs"),
        "-params",
        "temperature:0.5",
    ]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    (run,) = (tmp_path / "logs").glob("*/*")
    done = export(str(run), tmp_path / "a", n_episodes=4, split="test")
    assert done.counted.endswith("of rlhf/TokenBandit-v0")
    export(str(run / "agent"), tmp_path / "b", n_episodes=4, split="test")
    first, second = (load_file(tmp_path / name / "model.safetensors") for name in "ab")
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)
    for name in "ab":
        settings = json.loads((tmp_path / name / "generation_config.json").read_text())
        assert settings["temperature"] == 0.5
        assert str(tmp_path) not in (tmp_path / name / "README.md").read_text().split("## How it was made")[0]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--to", "zip"], "--to 'zip': expected hf, merged"),
        (["--quantize", "int3"], "expected float16, int8, int4"),
        (["--to", "onnx", "--quantize", "float16"], "is not written as float16"),
        (["--prune", "1.5"], "between 0 and 1"),
        (["--env", "rlhf/Nothing-v0"], "rlhf/Nothing-v0"),
    ],
)
def test_wrong_flags_end_in_one_line(folder: Path, tmp_path: Path, flags: list[str], message: str) -> None:
    result = CliRunner().invoke(app, ["export", str(folder), str(tmp_path / "out"), *flags])
    assert result.exit_code == 2
    assert len(result.stderr.strip().splitlines()) == 1
    assert message in result.stderr
    assert not (tmp_path / "out").exists()


def test_the_command_prints_the_table(folder: Path, tmp_path: Path) -> None:
    data = tmp_path / "prompts.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    command = ["export", str(folder), str(tmp_path / "out"), "--data", str(data), "--reward", "repetition", "-n", "4"]
    command += ["--split", "test", "--env-kwargs", "max_new_tokens:6"]
    result = CliRunner().invoke(app, command, env={"COLUMNS": "120"})
    assert result.exit_code == 0, result.output
    assert "perplexity" in result.stdout
    assert "+0.00%" in result.stdout
