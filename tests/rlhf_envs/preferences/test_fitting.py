"""What `fit_reward` says of its rows, and what it keeps with the model."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rlhf_envs.preferences.bradley_terry import fit_bradley_terry
from rlhf_envs.preferences.fitting import as_texts, fit_reward, load_judgements
from rlhf_envs.preferences.training import NothingToFit, load_backbone
from rlhf_envs.rewards import Pessimistic, evaluate_reward, get_reward
from rlhf_envs.rewards.reward_model import RewardModel, load_classifier, model_length
from tests.rlhf_envs.chat_families import family_tokenizer
from tests.rlhf_envs.small_models import byte_level, save_model

TAIL = " and so on" * 6  # what differs stands before the last 32 tokens
LONG = [{"prompt": f"film {i}", "chosen": f" good{TAIL}", "rejected": f" bad{TAIL}"} for i in range(8)]
SHORT = [{"prompt": f"short {i}", "chosen": " good", "rejected": " bad"} for i in range(8)]


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A causal model whose pad token is its EOS, as SmolLM2's is."""
    return save_model(tmp_path_factory.mktemp("backbone"), byte_level(eos="<|im_end|>", pad="<|im_end|>"))


@pytest.mark.parametrize("members", [1, 2])
def test_the_saved_model_reads_as_many_tokens_as_its_fit(backbone: str, tmp_path: Path, members: int) -> None:
    fit_reward(SHORT, tmp_path / "model", model=backbone, members=members, max_length=6, calibrate=False)
    assert model_length(load_classifier(str(tmp_path / "model"))[0]) == 6
    scores = RewardModel(str(tmp_path / "model")).score(["one", "another"], [" is good", " is good"])
    assert scores[0] == pytest.approx(scores[1]), "the last six tokens are the same"


@pytest.mark.parametrize("members", [1, 2])
def test_pairs_that_are_equal_once_cut_are_left_out_and_counted(
    backbone: str, tmp_path: Path, members: int, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        fitted = fit_reward(
            [*LONG, *SHORT], tmp_path / "model", model=backbone, members=members, max_length=32, calibrate=False
        )
    assert fitted.metrics["pairs equal once cut"] == 8
    assert "are the same text to the model, which reads the last 32 tokens; they teach nothing" in caplog.text


def test_role_lines_are_no_conversations_to_a_model_with_a_template(
    backbone: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    chat = save_model(tmp_path, family_tokenizer("chatml"))
    lines = [{**SHORT[0], "prompt": "User: a film?\n\nAssistant:"}, SHORT[1]]
    messages = [{**SHORT[0], "prompt": [{"role": "user", "content": "a film?"}]}, SHORT[1]]
    as_texts(lines, backbone)
    as_texts(messages, chat)
    assert "role lines" not in caplog.text
    as_texts(lines, chat)
    assert "1 of 2 prompts are conversations in role lines" in caplog.text


def test_pairs_that_are_all_equal_once_cut_are_an_error(backbone: str) -> None:
    network, tokenizer = load_backbone(backbone)
    with pytest.raises(NothingToFit, match=r"8 of 8 pairs are the same text to the model.*raise max_length"):
        fit_bradley_terry(network, tokenizer, LONG, SHORT, max_length=32)


def test_a_fitted_model_reads_the_eos_that_ends_a_text(backbone: str, tmp_path: Path) -> None:
    """transformers reads the score at the last token that is no padding, so the padding must not be EOS."""
    pairs = [{"prompt": f"film {i}", "chosen": " good<|im_end|>", "rejected": " good"} for i in range(40)]
    fit_reward(pairs, tmp_path / "model", model=backbone, epochs=8, batch_size=8, learning_rate=1e-2)
    model, tokenizer = load_classifier(str(tmp_path / "model"))
    assert tokenizer.pad_token == "<|pad|>"
    assert model.config.pad_token_id == tokenizer.pad_token_id != tokenizer.eos_token_id
    finished, cut = RewardModel(str(tmp_path / "model")).score(["film 1", "film 1"], [" good<|im_end|>", " good"])
    assert finished > cut + 0.5


@pytest.mark.parametrize("members", [1, 2])
def test_an_environments_finished_answers_are_read_as_the_fit_read_them(
    backbone: str, tmp_path: Path, members: int
) -> None:
    """A chat template ends a turn with EOS and a line break; the agent's EOS is no part of the completion's text."""
    ending = "<|im_end|>\n"
    pairs = [{"prompt": f"film {i}", "chosen": f" good{ending}", "rejected": f" bad{ending}"} for i in range(8)]
    fit_reward(pairs, tmp_path / "model", model=backbone, members=members, epochs=2, calibrate=False)
    reward: Any = get_reward(str(tmp_path / "model"))
    texts = [" good", " good", f" good{ending}"]
    finished, cut, written = evaluate_reward(
        reward, ["film"] * 3, texts, {"finish_reasons": ["eos", "length", "length"]}
    )[0]
    assert finished == pytest.approx(written)
    assert finished != pytest.approx(cut, abs=1e-4)
    assert reward.score(["film"], [" good"])[0] == pytest.approx(cut), "a text alone is scored as it is"
    if members > 1:
        pessimistic = Pessimistic(reward).evaluate(["film"] * 2, texts[1:], {"finish_reasons": ["eos", "length"]})[0]
        assert pessimistic[0] == pytest.approx(pessimistic[1])


def test_texts_without_eos_are_fitted_to_no_ending(backbone: str, tmp_path: Path) -> None:
    fit_reward(SHORT, tmp_path / "model", model=backbone, calibrate=False)
    assert not hasattr(load_classifier(str(tmp_path / "model"))[0].config, "reward_ending")


@pytest.mark.parametrize(
    ("row", "loss", "message"),
    [
        ({"chosen": " a", "rejected": " b", "margin": -1}, "bt", "the margin is -1, not a number of at least 0"),
        ({"chosen": " a", "rejected": " b", "probability": 0.2}, "bt", "the probability is 0.2.*swap"),
        ({"chosen": " a \ud83d", "rejected": " b"}, "bt", "has half a character"),
        ({"chosen": " a", "rejected": 3}, "bt", "'rejected' is int, not a string or a list of messages"),
        ({"completion": " a", "label": "x"}, "mse", "label is 'x', not a"),
        ({"completion": " a", "label": 1, "weight": 0}, "mse", "the weight is 0, not a number of > 0"),
        ({"completion": " \ud83d", "label": 1}, "mse", "has half a character"),
    ],
)
def test_a_malformed_row_is_named_by_its_place_before_the_split(
    tmp_path: Path, row: dict[str, Any], loss: Any, message: str
) -> None:
    good: dict[str, Any] = {"chosen": " a", "rejected": " b"} if loss == "bt" else {"completion": " a", "label": 1}
    rows = [{"prompt": f"film {i}", **good} for i in range(12)]
    rows[3] = {"prompt": "film 3", **row}
    with pytest.raises(ValueError, match=rf"^row 4.*{message}"):
        fit_reward(rows, tmp_path / "model", loss=loss)
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    with pytest.raises(ValueError, match=rf"rows.jsonl, row 4.*{message}"):
        load_judgements(file)


def test_scores_do_not_depend_on_the_added_pad_token(backbone: str) -> None:
    network, tokenizer = load_backbone(backbone)
    assert len(tokenizer) == network.get_input_embeddings().num_embeddings
    assert len(load_backbone(backbone)[1]) == len(tokenizer), "the shared tokenizer has not grown"
    assert np.isfinite(network.get_input_embeddings().weight.detach().numpy()).all()


def test_numbers_that_are_missing_or_words_do_not_stop_a_fit(tmp_path: Path) -> None:
    pairs = tmp_path / "pairs.jsonl"
    pairs.write_text('{"prompt": "p", "chosen": "a", "rejected": "b", "probability": NaN, "margin": NaN}\n')
    assert load_judgements(pairs) == [{"prompt": "p", "chosen": "a", "rejected": "b"}]
    ratings = tmp_path / "ratings.csv"
    ratings.write_text("prompt,completion,label,weight\np,a,True,nan\np,b,False,2\n")
    assert [(row["label"], row.get("weight")) for row in load_judgements(ratings)] == [(1, None), (0, 2)]
