"""Masked-language modelling: masks, lost tokens, and from texts to an encoder that a reward model is fitted on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    AutoModelForMaskedLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertConfig,
    BertForPreTraining,
    BertForSequenceClassification,
    RobertaConfig,
    RobertaForMaskedLM,
)

from agents.training.masked import MaskedTexts, RandomMasks, load_encoder, pad_masked
from agents.training.pretrain import pretrain
from agents.training.texts import read_texts, split_passages, train_tokenizer
from rlhf_envs.models import load_causal_lm
from rlhf_envs.preferences import load_backbone
from rlhf_envs.preferences.fitting import fit_reward
from rlhf_envs.rewards.reward_model import RewardModel

TEXTS = [f"The cat number {i} sat on the mat. It was a good day for cat {i}! Was it?" for i in range(60)]
SMALL: dict[str, Any] = dict(n_layer=1, n_embd=16, n_head=2, block_size=32, batch_size=4, save_freq=10)
SMALL |= {"vocab_size": 300, "objective": "mlm"}
SHAPE: dict[str, Any] = dict(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("corpus") / "cats.txt"
    path.write_text("\n\n".join(TEXTS), encoding="utf-8")
    return str(path)


@pytest.fixture(scope="module")
def encoder(corpus: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A fresh encoder that was pre-trained, and its metrics."""
    output = tmp_path_factory.mktemp("encoder") / "model"
    return output, pretrain(corpus, output, steps=40, learning_rate=1e-2, **SMALL)


@pytest.fixture(scope="module")
def with_pooler(encoder: tuple[Path, dict[str, Any]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """BERT as it is published: with a pooler, a masked-LM head and a head for the next sentence."""
    folder = tmp_path_factory.mktemp("published") / "bert"
    tokenizer = AutoTokenizer.from_pretrained(encoder[0])
    BertForPreTraining(BertConfig(vocab_size=len(tokenizer), max_position_embeddings=40, **SHAPE)).save_pretrained(
        folder
    )
    tokenizer.save_pretrained(folder)
    return folder


def test_a_fresh_encoder_learns_and_says_what_it_was_before(encoder: tuple[Path, dict[str, Any]]) -> None:
    output, metrics = encoder
    assert 200 < metrics["perplexity_before"] < 400, "a vocabulary of 300"
    assert metrics["perplexity"] < 60
    saved = json.loads((output / "pretrain.json").read_text())
    assert (saved["perplexity"], saved["objective"], saved["tokens"]) == (
        metrics["perplexity"],
        "mlm",
        metrics["tokens"],
    )
    assert AutoTokenizer.from_pretrained(output).mask_token == "[MASK]"


def test_the_held_out_loss_is_that_of_the_written_model_on_a_fixed_mask(
    corpus: str, encoder: tuple[Path, dict[str, Any]]
) -> None:
    """Computed again from the folder, one sequence at a time."""
    output, metrics = encoder
    model, tokenizer = AutoModelForMaskedLM.from_pretrained(output).eval(), AutoTokenizer.from_pretrained(output)
    held_out = MaskedTexts(read_texts(corpus).validation, tokenizer, 32)
    total, n = 0.0, 0
    masks = RandomMasks(held_out, held_out.lengths.argsort(stable=True).tolist(), 0)
    for row in (masks[k] for k in range(len(masks))):
        with torch.no_grad():
            logits = model(input_ids=row["input_ids"][None]).logits[0]
        at = row["labels"] >= 0
        total -= float(logits.log_softmax(-1)[at, row["labels"][at]].sum())
        n += int(at.sum())
    assert metrics["loss"] == pytest.approx(total / n, abs=1e-4)


@pytest.mark.parametrize("objective", ["clm", "mlm"])
def test_every_token_is_learned_held_out_or_left_with_a_reason(objective: Any, tmp_path: Path) -> None:
    """The total is counted here by the tokenizer alone; a step of two rows leaves most of them."""
    rows = [{"text": text, "split": ["train", "validation", "test"][i % 3]} for i, text in enumerate(TEXTS)]
    rows.append({"text": "A film of many words, " * 30, "split": "train"})  # more than a row
    rows.append({"text": TEXTS[0], "split": "validation"})  # in two splits
    rows += [{"text": "[MASK]" * n, "split": split} for n, split in ((3, "train"), (2, "validation"), (4, "test"))]
    path = tmp_path / "texts.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    counts = {}
    for size in (2, 60):
        options = {**SMALL, "objective": objective, "batch_size": size}
        counts[size] = pretrain(str(path), tmp_path / str(size), steps=1, **options)["tokens"]
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "2")
    texts = [" ".join(row["text"].split()) for row in rows]
    total = sum(len(tokenizer(text, add_special_tokens=False)["input_ids"]) for text in texts)
    if objective == "clm":
        parts = [part for text in texts for part in split_passages(text)]
        total = sum(len(tokenizer(part)["input_ids"]) + 1 for part in parts)
    for count in counts.values():
        assert count["total"] == total == count["learned"] + count["held_out"] + sum(count["left"].values())
        assert {"of the split 'test'", "in two splits"} <= count["left"].keys()
        if objective == "mlm":
            assert count["left"]["special tokens alone"] == 5
    assert 0 < counts[2]["learned"] <= 64
    assert counts[2]["left"]["in rows that the steps do not reach"] > 500
    assert "in rows that the steps do not reach" not in counts[60]["left"]


def test_masks_are_of_the_usual_shares_and_never_of_special_tokens() -> None:
    tokenizer = train_tokenizer(TEXTS, 300, 32, masked=True)
    data = MaskedTexts(TEXTS, tokenizer, 64)
    masks = RandomMasks(data, list(range(len(data))) * 20, 3)
    n, masked, kept, hidden = 0, 0, 0, 0
    for k in range(len(masks)):
        row, whole = masks[k], data[masks.order[k]]
        at = row["labels"] >= 0
        assert at.any()
        assert not (at & ~whole["maskable"]).any()
        assert (row["labels"][at] == whole["input_ids"][at]).all()
        assert (row["input_ids"][~at] == whole["input_ids"][~at]).all()
        n, masked = n + int(whole["maskable"].sum()), masked + int(at.sum())
        hidden += int((row["input_ids"][at] == tokenizer.mask_token_id).sum())
        kept += int((row["input_ids"][at] == row["labels"][at]).sum())
    assert masked / n == pytest.approx(0.15, abs=0.01)
    assert hidden / masked == pytest.approx(0.8, abs=0.02)
    assert kept / masked == pytest.approx(0.1, abs=0.02)
    same = [torch.equal(masks[0][key], RandomMasks(data, masks.order, 3)[0][key]) for key in ("input_ids", "labels")]
    assert same == [True, True]
    assert not torch.equal(masks[0]["labels"], masks[len(data)]["labels"]), "drawn anew when a text is read again"


def test_a_long_text_goes_on_and_a_text_of_special_tokens_is_counted() -> None:
    tokenizer = train_tokenizer(TEXTS, 300, 32, masked=True)
    long = "the cat sat on the mat and 电影很好看 " * 9
    data = MaskedTexts([long.strip(), "[MASK][MASK]", "a"], tokenizer, 16)
    assert data.n_left == 2
    parts = [str(tokenizer.decode(row[1:-1])) for row in data.rows]
    assert "".join(parts[:-1]) == long.strip()
    assert "\ufffd" not in "".join(parts), "no character is cut in two"
    assert max(map(len, data.rows)) == 16
    short = RandomMasks(data, [len(data) - 1], 0)[0]
    assert (short["labels"] >= 0).tolist() == [False, True, False], "one token at least is masked"


def test_padding_has_no_loss_and_is_not_read() -> None:
    tokenizer = train_tokenizer(TEXTS, 300, 32, masked=True)
    data = MaskedTexts([TEXTS[0], "a cat"], tokenizer, 64)
    batch = pad_masked(tokenizer)([RandomMasks(data, [0, 1], 0)[k] for k in (0, 1)])
    padded = torch.arange(batch["input_ids"].shape[1])[None] >= torch.tensor([[len(row)] for row in data.rows])
    assert padded.any()
    assert (batch["labels"][padded] == -100).all()
    assert torch.equal(batch["attention_mask"] == 0, padded)


def test_a_resumed_run_equals_an_uninterrupted_one(corpus: str, tmp_path: Path) -> None:
    """The masks too: 20 steps of 4 rows read the texts more than once."""
    from transformers import Trainer

    class Interrupted(Exception):
        pass

    original = Trainer.training_step

    def stop(self: Any, *args: Any, **kwargs: Any) -> Any:
        if self.state.global_step == 18:
            raise Interrupted
        return original(self, *args, **kwargs)

    whole = pretrain(corpus, tmp_path / "whole", steps=20, **SMALL)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "training_step", stop)
        with pytest.raises(Interrupted):
            pretrain(corpus, tmp_path / "half", steps=20, **SMALL)
    with pytest.raises(ValueError, match="is a BertForMaskedLM, and this run trains a GPT2LMHeadModel: resume with"):
        pretrain(corpus, tmp_path / "half", steps=20, resume=True, **{**SMALL, "objective": "clm"})
    resumed = pretrain(corpus, tmp_path / "half", steps=20, resume=True, **SMALL)
    assert resumed["loss"] == pytest.approx(whole["loss"], abs=1e-6)
    assert resumed["tokens"] == whole["tokens"]


def test_a_pre_trained_encoder_becomes_a_reward_model(encoder: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    """The reward model starts from the encoder's weights, and is fitted and used as any other."""
    model, _ = load_backbone(str(encoder[0]))
    trained = AutoModelForMaskedLM.from_pretrained(encoder[0]).state_dict()
    own = model.state_dict()
    assert all(torch.equal(own[key], trained[key]) for key in trained if key.startswith("bert."))
    pairs = [{"prompt": "", "chosen": f"good cat {i}", "rejected": f"the mat {i}"} for i in range(40)]
    fitted = fit_reward(pairs, tmp_path / "reward", model=str(encoder[0]), epochs=6, learning_rate=1e-2)
    assert fitted.metrics["held-out accuracy"] == 1.0
    good, bad = RewardModel(str(tmp_path / "reward")).score(["", ""], ["good cat 99", "the mat 99"])
    assert good > bad


def test_going_on_keeps_tokenizer_and_pooler(with_pooler: Path, corpus: str, tmp_path: Path) -> None:
    """Masked-LM has no place for a pooler, and reward models read it."""
    options: dict[str, Any] = {"block_size": 40, "batch_size": 4, "save_freq": 10}
    metrics = pretrain(corpus, tmp_path / "on", model=str(with_pooler), steps=10, learning_rate=1e-2, **options)
    assert metrics["perplexity"] < 0.8 * metrics["perplexity_before"]
    assert json.loads((tmp_path / "on" / "pretrain.json").read_text())["objective"] == "mlm", "by what the model is"
    before, after = (AutoTokenizer.from_pretrained(folder) for folder in (with_pooler, tmp_path / "on"))
    assert before.get_vocab() == after.get_vocab()
    load = AutoModelForSequenceClassification.from_pretrained
    old, new = (load(folder, num_labels=1).state_dict() for folder in (with_pooler, tmp_path / "on"))
    changed = {key for key in old if not key.startswith("classifier.") and not torch.equal(old[key], new[key])}
    assert changed
    assert not any("pooler" in key for key in changed)
    again = load_encoder(str(tmp_path / "on"))
    assert {key.rpartition("pooler")[1] for key in again.others} == {"pooler"}
    reloaded = AutoModelForMaskedLM.from_pretrained(tmp_path / "on").state_dict()
    assert all(torch.equal(reloaded[key], value) for key, value in again.network.state_dict().items())


def test_a_head_that_is_missing_is_new_and_said(with_pooler: Path, tmp_path: Path, caplog: Any) -> None:
    from transformers import AutoModel

    AutoModel.from_pretrained(with_pooler).save_pretrained(tmp_path / "body")
    AutoTokenizer.from_pretrained(with_pooler).save_pretrained(tmp_path / "body")
    encoder = load_encoder(str(tmp_path / "body"))
    assert "has no masked-LM head, or a part of one: a new one starts at random" in caplog.text
    assert sorted(encoder.others) == ["bert.pooler.dense.bias", "bert.pooler.dense.weight"]


def test_models_that_do_not_fit_the_objective_are_named(with_pooler: Path, corpus: str, tmp_path: Path) -> None:
    folder = str(with_pooler)
    with pytest.raises(ValueError, match=r"'tiny' \(GPT2LMHeadModel\) is no encoder.*leave the objective out, or"):
        pretrain(corpus, tmp_path / "a", model="tiny", objective="mlm", steps=1)
    with pytest.raises(
        ValueError, match=r"is an encoder \(BertForPreTraining\).*cannot learn clm: leave the objective"
    ):
        pretrain(corpus, tmp_path / "b", model=folder, objective="clm", steps=1)
    with pytest.raises(ValueError, match="block_size=256 is more than the 40 positions"):
        pretrain(corpus, tmp_path / "c", model=folder, steps=1)
    with pytest.raises(ValueError, match=r"is an encoder \(BertForPreTraining\), which writes no text, not a causal"):
        load_causal_lm(folder)
    BertForSequenceClassification(BertConfig(**SHAPE)).save_pretrained(tmp_path / "fitted")
    with pytest.raises(ValueError, match="is a BertForSequenceClassification, whose head pre-training would drop"):
        pretrain(corpus, tmp_path / "d", model=str(tmp_path / "fitted"), steps=1)
    with pytest.raises(ValueError, match="is a GPT2ForSequenceClassification, not a causal language model"):
        pretrain(corpus, tmp_path / "e", model="tiny-reward", steps=1)


def test_positions_that_roberta_cannot_use_are_not_used(encoder: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    """Its positions begin after the pad id, so that 34 of them are for 32 tokens; a longer text is cut to these."""
    tokenizer = AutoTokenizer.from_pretrained(encoder[0])
    config = RobertaConfig(vocab_size=len(tokenizer), max_position_embeddings=34, pad_token_id=1, **SHAPE)
    RobertaForMaskedLM(config).save_pretrained(tmp_path / "roberta")
    tokenizer.save_pretrained(tmp_path / "roberta")
    (tmp_path / "texts.txt").write_text("\n\n".join([TEXTS[0] * 9, TEXTS[1] * 9]))
    options: dict[str, Any] = {"model": str(tmp_path / "roberta"), "steps": 1}
    with pytest.raises(ValueError, match="block_size=33 is more than the 32 positions"):
        pretrain(str(tmp_path / "texts.txt"), tmp_path / "a", block_size=33, **options)
    assert pretrain(str(tmp_path / "texts.txt"), tmp_path / "b", block_size=32, **options)["loss"] > 0
