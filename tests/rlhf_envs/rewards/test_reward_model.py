"""Reward models: their scores against plain transformers, and what must not change them."""

from __future__ import annotations

import logging
import random
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer, BertConfig, BertForSequenceClassification

import rlhf_envs  # noqa: F401  registers the environments
from rlhf_envs.datasets import load_rows
from rlhf_envs.models import load_causal_lm, load_tokenizer, resolve
from rlhf_envs.preferences.fitting import measure_reward
from rlhf_envs.rewards import get_reward
from rlhf_envs.rewards.probes import praise_list
from rlhf_envs.rewards.reward_model import RewardModel, encode, score_texts

PROMPTS = ["this movie was", "the acting is", "one of the", "", "i have"]
TEXTS = [prompt for prompt in PROMPTS if prompt]
COMPLETIONS = [" wonderful.", " so awful that i left after an hour, and i never leave.", " best", "bad", " seen it"]


@pytest.fixture(scope="module")
def tiny_reward() -> RewardModel:
    return RewardModel("tiny-reward")


def plain_scores(folder: str, texts: list[str]) -> list[float]:
    """One text at a time, unpadded, with transformers alone."""
    model = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    with torch.no_grad():
        logits = [float(model(**tokenizer(text, return_tensors="pt")).logits[0, 0]) for text in texts]
    gain, bias = getattr(model.config, "reward_gain", 1.0), getattr(model.config, "reward_bias", 0.0)
    return [logit * gain + bias for logit in logits]


@pytest.mark.parametrize("batch_size", [1, 2, 64])
def test_batched_scores_equal_single_unpadded_ones_of_transformers(tiny_reward: RewardModel, batch_size: int) -> None:
    texts = [prompt + completion for prompt, completion in zip(PROMPTS, COMPLETIONS, strict=True)]
    tiny_reward.batch_size = batch_size
    scores = tiny_reward(prompts=PROMPTS, completions=COMPLETIONS, label=[0] * 5)
    assert scores.dtype == np.float64
    np.testing.assert_allclose(scores, plain_scores(resolve("tiny-reward"), texts), atol=1e-5)


def test_other_texts_of_the_batch_do_not_matter(tiny_reward: RewardModel) -> None:
    alone = tiny_reward.score(["the acting is"], [" fine"])
    beside = tiny_reward.score(["the acting is", "x " * 200], [" fine", ""])
    np.testing.assert_allclose(beside[:1], alone, atol=1e-5)


def test_embedded_scores_are_normalised_over_review_passages(tiny_reward: RewardModel) -> None:
    from rlhf_envs.datasets import load_rows

    rows = [row for row in load_rows("sentiment", "validation") if 8 <= len(str(row["reference"]).split()) <= 40][:300]
    scores = tiny_reward.score([str(row["prompt"]) for row in rows], [str(row["reference"]) for row in rows])
    assert abs(scores.mean()) < 0.35
    assert 0.7 < scores.std() < 1.5  # openings, and Rotten Tomatoes' critics among them, are more outspoken


def test_embedded_scores_order_praise_above_blame(tiny_reward: RewardModel) -> None:
    good, plain, bad = tiny_reward.score(
        ["this movie was"] * 3, [" one of the best films ever.", " a movie.", " one of the worst films ever."]
    )
    assert good > plain > bad
    assert good - bad > 1.5


def test_people_prefer_what_it_prefers() -> None:
    from rlhf_envs.datasets import load_rows

    rows = load_rows("rated_snippets", "test", required=("text", "mean"))[:300]
    model = RewardModel("tiny-reward")
    scores = model.score([""] * len(rows), [str(row["text"]) for row in rows])
    means = np.array([row["mean"] for row in rows], dtype=float)
    apart = means[:, None] - means[None, :] > 1.0
    assert np.mean((scores[:, None] > scores[None, :])[apart]) > 0.7


def test_a_text_without_tokens_is_scored_as_an_ended_one(tiny_reward: RewardModel) -> None:
    assert encode(tiny_reward.tokenizer, ["", "a"], None)[0] == [tiny_reward.tokenizer.eos_token_id]
    assert np.isfinite(tiny_reward.score([""], [""])).all()
    assert tiny_reward.score([], []).shape == (0,)


def test_a_text_beyond_the_positions_keeps_its_end(tiny_reward: RewardModel) -> None:
    tokenizer = tiny_reward.tokenizer
    filler, end = "dull " * 300, "but in the end a wonderful film."
    ids = tokenizer(filler + end)["input_ids"]
    (kept,) = encode(tokenizer, [filler + end], 256)
    assert kept == ids[-256:]
    assert np.isfinite(tiny_reward.score([filler], [end])).all()


def test_truncation_leaves_the_shared_tokenizer_as_it_was(tiny_reward: RewardModel) -> None:
    tokenizer = tiny_reward.tokenizer
    before = tokenizer.truncation_side, tokenizer.backend_tokenizer.to_str()
    assert len(encode(tokenizer, ["a b c d e f"], 2)[0]) == 2
    assert (tokenizer.truncation_side, tokenizer.backend_tokenizer.to_str()) == before


def test_a_tokenizer_without_pad_gives_the_same_scores() -> None:
    folder = resolve("tiny-reward")
    model = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder, pad_token=None)
    texts = ["this movie was great", "bad"]
    expected = score_texts(model, load_tokenizer("tiny-reward"), texts)
    tokenizer.pad_token = model.config.pad_token_id = None
    np.testing.assert_allclose(score_texts(model, tokenizer, texts), expected, atol=1e-5)


def test_a_reward_model_of_another_make_gives_its_raw_logit(tmp_path: Path) -> None:
    tokenizer = load_tokenizer("tiny")
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        pad_token_id=0,
    )
    config.num_labels = 1
    BertForSequenceClassification(config).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    texts = ["this movie was great", "bad"]
    scores = RewardModel(str(tmp_path)).score(texts, ["", ""])
    np.testing.assert_allclose(scores, plain_scores(str(tmp_path), texts), atol=1e-5)


def test_a_causal_lm_is_no_reward_model() -> None:
    with pytest.raises(ValueError, match=r"'tiny' is not a reward model, its weights lack score\.weight"):
        RewardModel("tiny")


def classifier(folder: Path, *labels: str, **config: Any) -> str:
    """Write tiny-reward's model with a head of several labels, and return its folder."""
    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_pretrained(
        resolve("tiny"), num_labels=len(labels), id2label=dict(enumerate(labels)), dtype=torch.float32
    )
    torch.nn.init.normal_(model.score.weight)
    model.config.update(config)
    model.save_pretrained(folder)
    load_tokenizer("tiny").save_pretrained(folder)
    return str(folder)


def logits(folder: str, texts: list[str]) -> torch.Tensor:
    model = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.no_grad():
        return torch.cat([model(**load_tokenizer("tiny")(text, return_tensors="pt")).logits for text in texts])


def test_a_classifier_is_read_by_the_log_odds_of_a_label(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = classifier(tmp_path, "BAD", "GOOD")
    odds = logits(folder, TEXTS).double().log_softmax(-1).diff()[:, 0]  # log p(GOOD) - log p(BAD)
    with caplog.at_level(logging.WARNING):
        np.testing.assert_allclose(RewardModel(folder).score(TEXTS, [""] * 4), odds, atol=1e-4)
    assert f"the reward is the log-odds of the label 'GOOD' of {folder!r}" in caplog.text
    for label, sign in (("GOOD", 1), ("BAD", -1)):
        reward = get_reward(f"{folder}@{label}")
        np.testing.assert_allclose(reward(prompts=TEXTS, completions=[""] * 4), sign * odds, atol=1e-4)


def test_one_label_of_many_has_to_be_named(tmp_path: Path) -> None:
    folder = classifier(tmp_path, "joy", "anger", "fear")
    expected = logits(folder, TEXTS).double().softmax(-1)[:, 1].logit()
    np.testing.assert_allclose(RewardModel(f"{folder}@anger").score(TEXTS, [""] * 4), expected, atol=1e-4)
    rows = [
        {"prompt": "", "completion": text, "label": float(odds)} for text, odds in zip(TEXTS, expected, strict=True)
    ]
    assert measure_reward(f"{folder}@anger", rows).metrics["correlation"] == pytest.approx(1)
    with pytest.raises(ValueError, match=r"has 3 labels: name the one to reward, .*@joy"):
        RewardModel(folder)
    with pytest.raises(ValueError, match=r"has no label 'hate', but joy, anger, fear"):
        get_reward(f"{folder}@hate")


def test_labels_that_do_not_exclude_each_other_are_read_alone(tmp_path: Path) -> None:
    folder = classifier(tmp_path, "toxic", "rude", problem_type="multi_label_classification")
    scores = RewardModel(f"{folder}@rude").score(TEXTS, [""] * 4)
    np.testing.assert_allclose(scores, logits(folder, TEXTS)[:, 1], atol=1e-4)


def test_a_hub_id_that_is_not_at_hand_is_an_error_that_says_so() -> None:
    with pytest.raises(
        ValueError, match="the reward model 'nobody/reward' is no folder, and not found as a hub id"
    ) as at:
        get_reward("nobody/reward@GOOD")
    message = str(at.value)
    assert str(Path("nobody/reward").absolute()) in message, "where it looked"
    assert "the Hugging Face cache" in message and "HF_HUB_OFFLINE is set: unset it" in message
    assert "internet connection" not in message and "connect to" not in message


def test_chinese_texts_are_told_apart_and_cut_between_characters(tiny_reward: RewardModel) -> None:
    good, bad = tiny_reward.score(["这部电影"] * 2, ["很好看", "很难看"])
    assert np.isfinite([good, bad]).all() and good != bad
    tokenizer, text = load_tokenizer("tiny"), "很好看" * 4
    for limit in range(4, 12):
        assert "\ufffd" not in str(tokenizer.decode(encode(tokenizer, [text], limit)[0]))


def test_chat_formatted_texts_are_read_with_their_marks(tiny_reward: RewardModel) -> None:
    tokenizer = load_tokenizer("tiny")
    text = "good<|eos|>bad"
    assert encode(tokenizer, [text], None) == [tokenizer(text)["input_ids"]]
    assert tokenizer.eos_token_id in encode(tokenizer, [text], None)[0]


def test_unknown_models_and_bad_batch_sizes_are_errors() -> None:
    with pytest.raises(ValueError, match="unknown model 'great'"):
        RewardModel("great")
    with pytest.raises(ValueError, match="batch_size must be at least 1, not 0"):
        RewardModel(batch_size=0)


def test_the_backbone_is_the_first_blocks_of_tiny() -> None:
    reward = RewardModel("tiny-reward").model.config
    base = load_causal_lm("tiny").config
    assert (reward.n_embd, reward.n_head, reward.vocab_size) == (base.n_embd, base.n_head, base.vocab_size)
    assert reward.n_layer == base.n_layer - 1


@pytest.mark.parametrize("separator", [" ", ", "])
def test_lists_of_praise_score_below_the_best_reviews(tiny_reward: RewardModel, separator: str) -> None:
    generator = random.Random(0)
    rows = load_rows("sentiment", "test")
    real = [f"{row['prompt']}{row['reference']}" for row in rows if row["label"] == 1][:200]
    lists = [praise_list(text, generator, separator=separator) for text in real]
    scores = tiny_reward([""] * 200, real), tiny_reward([""] * 200, lists)
    assert np.mean(scores[0]) > np.mean(scores[1]) + 1
    assert max(scores[0]) > max(scores[1])


def test_a_models_place_may_begin_with_hf(tmp_path: Path) -> None:
    model: Any = RewardModel("tiny-reward")
    model.model.save_pretrained(tmp_path / "copy")
    model.tokenizer.save_pretrained(tmp_path / "copy")
    expected = model.score(TEXTS, [""] * 4)
    for name in (f"hf:{tmp_path / 'copy'}", f"hf:{tmp_path / 'copy'}@LABEL_0", "hf:tiny-reward"):
        reward: Any = get_reward(name, batch_size=2)
        assert reward.score(TEXTS, [""] * 4) == pytest.approx(expected)
    with pytest.raises(ValueError, match="unknown model 'nothing'"):
        get_reward("hf:nothing")
    with pytest.raises(ValueError, match="has no label 'GOOD'"):
        get_reward(f"hf:{tmp_path / 'copy'}@GOOD")


def test_a_reward_model_follows_the_policys_device_unless_it_was_given_one() -> None:
    follows, stays = RewardModel("tiny-reward"), RewardModel("tiny-reward", device="cpu")
    env: Any = gym.make("rlhf/TokenBandit-v0", reward_fn=0.5 * follows + stays)
    env.unwrapped.set_reward_device(torch.device("meta"))  # any device but the CPU
    assert {parameter.device.type for parameter in follows.model.parameters()} == {"meta"}
    assert {parameter.device.type for parameter in stays.model.parameters()} == {"cpu"}
