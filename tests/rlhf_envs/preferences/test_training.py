"""What the fits share: backbones, the part that learns, adapters that leave no trace."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    GPT2Config,
    GPT2ForSequenceClassification,
    LlamaConfig,
    LlamaForSequenceClassification,
)

from rlhf_envs.models import load_tokenizer
from rlhf_envs.preferences import fit_bradley_terry, load_backbone
from rlhf_envs.preferences.training import optimise, trained_part
from rlhf_envs.rewards.reward_model import find_head, score_texts

VOCAB = 3072
SIZES: dict[str, Any] = dict(
    vocab_size=VOCAB, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=16, pad_token_id=0
)
PAIRS = [{"chosen": "a good film", "rejected": "a bad film"}, {"chosen": "good", "rejected": "bad"}]


def build(shape: str) -> Any:
    torch.manual_seed(0)
    if shape == "gpt2":
        config: Any = GPT2Config(vocab_size=VOCAB, n_positions=32, n_embd=16, n_layer=2, n_head=2, pad_token_id=0)
        config.num_labels = 1
        return GPT2ForSequenceClassification(config).eval()
    if shape == "bert":
        return BertForSequenceClassification(BertConfig(**SIZES, num_labels=1)).eval()
    return LlamaForSequenceClassification(LlamaConfig(**SIZES, num_labels=1)).eval()


def changed(model: Any, before: dict[str, torch.Tensor]) -> set[str]:
    return {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}


LAST_BLOCK = {"gpt2": "transformer.h.1.", "bert": "bert.encoder.layer.1.", "llama": "model.layers.1."}
AFTER = {
    "gpt2": {"transformer.ln_f.weight", "transformer.ln_f.bias", "score.weight"},
    "bert": {"bert.pooler.dense.weight", "bert.pooler.dense.bias", "classifier.weight"},
    "llama": {"model.norm.weight", "score.weight"},
}


@pytest.mark.parametrize("shape", ["gpt2", "bert", "llama"])
@pytest.mark.parametrize("train", ["full", 2, 1, "head", "lora"])
def test_only_the_chosen_part_learns(shape: str, train: Any) -> None:
    model, tokenizer = build(shape), load_tokenizer("tiny")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    fit_bradley_terry(model, tokenizer, PAIRS, PAIRS, train=train, learning_rate=1e-2, weight_decay=0.0, epochs=3)
    names = changed(model, before)
    assert set(model.state_dict()) == set(before)  # no adapter is left
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert AFTER[shape] <= names
    rest = names - AFTER[shape] - {"classifier.bias"}
    last, blocks = LAST_BLOCK[shape], LAST_BLOCK[shape].removesuffix("1.")
    if train == "head":
        assert not rest
    elif train == 1:
        assert rest
        assert all(name.startswith(last) for name in rest)
    elif train == "lora":
        assert rest
        assert all(name.startswith(blocks) and name.endswith("weight") for name in rest)
        changes = [model.state_dict()[name] - before[name] for name in rest]
        assert max(int(torch.linalg.matrix_rank(change, atol=1e-6)) for change in changes) <= 8
    else:
        assert {name.split(blocks)[1][0] for name in rest if name.startswith(blocks)} == {"0", "1"}
        assert any(not name.startswith(blocks) for name in rest) == (train == "full")


def test_adapters_compute_what_the_merged_weights_do() -> None:
    model, tokenizer = build("gpt2"), load_tokenizer("tiny")
    texts = ["a good film", "bad"]
    with trained_part(model, "lora") as parameters:
        with torch.no_grad():
            for parameter in parameters:
                parameter.add_(0.05)
        inside = score_texts(model, tokenizer, texts)
    assert score_texts(model, tokenizer, texts) == pytest.approx(inside, abs=1e-5)


def test_what_was_frozen_before_a_fit_is_frozen_after_it() -> None:
    model = build("gpt2")
    model.transformer.wte.requires_grad_(False)
    with trained_part(model, "head"):
        assert not model.transformer.h[1].attn.c_attn.weight.requires_grad
    assert not model.transformer.wte.weight.requires_grad
    assert model.transformer.h[1].attn.c_attn.weight.requires_grad


@pytest.mark.parametrize(
    ("train", "message"),
    [
        ("tail", "train is 'tail': choose"),
        (-1, "the last -1 blocks of GPT2ForSequenceClassification: it has 2"),
        (3, "the last 3 blocks .* it has 2"),
        (True, "the last True blocks"),
    ],
)
def test_an_unknown_part_is_an_error(train: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        fit_bradley_terry(build("gpt2"), load_tokenizer("tiny"), PAIRS, PAIRS, train=train)


def test_adapters_without_peft_say_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(ModuleNotFoundError, match=r"train='lora' needs peft: pip install 'rlhf-envs\[train\]'"):
        fit_bradley_terry(build("gpt2"), load_tokenizer("tiny"), PAIRS, PAIRS, train="lora")


def test_an_unknown_option_is_an_error() -> None:
    options: Any = {"leaning_rate": 1e-3}
    with pytest.raises(TypeError, match="leaning_rate"):
        fit_bradley_terry(build("gpt2"), load_tokenizer("tiny"), PAIRS, PAIRS, **options)


def test_the_learning_rate_warms_up_and_falls_to_0() -> None:
    model = build("gpt2")
    rates: list[float] = []
    weight = find_head(model)[1].weight
    state = [weight.detach().clone()]

    def record(step: int, steps: int, loss: float) -> None:
        rates.append(float((weight.detach() - state[-1]).abs().max()))
        state.append(weight.detach().clone())

    # The gradient is constant, so Adam's step is the learning rate.
    optimise(
        model, [1] * 10, lambda batch: weight.sum(), train="head", batch_size=1, warmup_share=0.2, learning_rate=0.1,
        weight_decay=0.0, max_grad_norm=1e9, on_step=record,
    )  # fmt: skip
    assert rates == pytest.approx([0.05, 0.1, 0.1, 0.0875, 0.075, 0.0625, 0.05, 0.0375, 0.025, 0.0125], rel=1e-3)


def test_a_new_head_starts_at_0_and_a_trained_one_is_kept(tmp_path: Path) -> None:
    fresh, tokenizer = load_backbone("tiny")
    assert not find_head(fresh)[1].weight.any()
    assert not fresh.training
    trained, _ = load_backbone("tiny-reward")
    assert find_head(trained)[1].weight.any()
    model = build("bert")
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    assert torch.equal(load_backbone(str(tmp_path))[0].classifier.weight, model.classifier.weight)


def test_a_head_of_several_labels_is_an_error(tmp_path: Path) -> None:
    BertForSequenceClassification(BertConfig(**SIZES, num_labels=3)).save_pretrained(tmp_path)
    load_tokenizer("tiny").save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="has a head of several labels"):
        load_backbone(str(tmp_path))
