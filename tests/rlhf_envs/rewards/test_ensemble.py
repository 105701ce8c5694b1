"""Ensembles: saved and loaded, plain for others, normalised, and unsure where the pairs say nothing."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer, GPT2Config, GPT2ForSequenceClassification

from rlhf_envs.models import load_tokenizer
from rlhf_envs.preferences import evaluate_ensemble, evaluate_pairs, fit_ensemble
from rlhf_envs.preferences.calibration import calibrate_ensemble
from rlhf_envs.preferences.ensemble_fit import _bootstraps
from rlhf_envs.rewards import get_reward
from rlhf_envs.rewards.ensemble import RewardEnsemble
from rlhf_envs.rewards.reward_model import RewardModel, score_texts

PROMPTS, COMPLETIONS = ["it was "] * 4, ["good film", "bad film", "the plot and the actor", ""]


def pairs_by_word(n: int, seed: int) -> list[dict[str, object]]:
    generator = random.Random(seed)
    filler = ["the", "film", "plot", "and", "it", "actor"]
    return [
        {
            "prompt": "it was ",
            "chosen": " ".join([*generator.choices(filler, k=3), "good film"]),
            "rejected": " ".join([*generator.choices(filler, k=3), "bad film"]),
        }
        for _ in range(n)
    ]


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A small model with a head, as a folder; the head is there, so that it must be replaced."""
    torch.manual_seed(0)
    tokenizer = load_tokenizer("tiny")
    config = GPT2Config(vocab_size=len(tokenizer), n_positions=32, n_embd=16, n_layer=2, n_head=2, pad_token_id=0)
    config.num_labels = 1
    folder = tmp_path_factory.mktemp("backbone")
    GPT2ForSequenceClassification(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def fitted(backbone: str, **arguments: Any) -> RewardEnsemble:
    given = {"members": 3, "epochs": 2, "batch_size": 16, "learning_rate": 3e-3, **arguments}
    return fit_ensemble(backbone, pairs_by_word(160, 1), pairs_by_word(40, 2), **given)


@pytest.fixture(scope="module", params=[True, False], ids=["shared trunk", "independent"])
def ensemble(request: pytest.FixtureRequest, backbone: str) -> RewardEnsemble:
    return fitted(backbone, shared_trunk=request.param)


def test_it_learns_the_preference_and_measures_its_mean(ensemble: RewardEnsemble) -> None:
    held_out = pairs_by_word(40, 2)
    assert ensemble.metrics.accuracy > 0.95
    assert ensemble.metrics == evaluate_ensemble(ensemble, held_out)
    lead = [
        ensemble.score([str(pair["prompt"])] * 2, [str(pair["chosen"]), str(pair["rejected"])]) for pair in held_out
    ]
    assert ensemble.metrics.accuracy == pytest.approx(np.mean([a > b for a, b in lead]))


def test_a_saved_ensemble_scores_the_same(ensemble: RewardEnsemble, tmp_path: Path) -> None:
    ensemble.save_pretrained(tmp_path)
    loaded = RewardEnsemble(tmp_path)
    assert (loaded.members, loaded.shared_trunk) == (3, ensemble.shared_trunk)
    expected = ensemble.member_scores(PROMPTS, COMPLETIONS)
    assert expected.shape == (3, 4)
    assert expected.dtype == np.float64
    np.testing.assert_allclose(loaded.member_scores(PROMPTS, COMPLETIONS), expected, atol=1e-5)
    np.testing.assert_allclose(loaded.score(PROMPTS, COMPLETIONS), expected.mean(axis=0), atol=1e-5)
    np.testing.assert_allclose(loaded.std(PROMPTS, COMPLETIONS), expected.std(axis=0), atol=1e-5)
    again = tmp_path / "again"
    loaded.save_pretrained(again)
    np.testing.assert_allclose(RewardEnsemble(again).member_scores(PROMPTS, COMPLETIONS), expected, atol=1e-5)


def test_the_folder_is_a_plain_classifier_that_gives_the_mean(backbone: str, tmp_path: Path) -> None:
    ensemble = fitted(backbone)
    ensemble.save_pretrained(tmp_path)
    plain = AutoModelForSequenceClassification.from_pretrained(tmp_path).eval()
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    assert plain.config.num_labels == 1
    raw = score_texts(plain, tokenizer, [p + c for p, c in zip(PROMPTS, COMPLETIONS, strict=True)])
    scores = raw * plain.config.reward_gain + plain.config.reward_bias
    np.testing.assert_allclose(scores, ensemble.score(PROMPTS, COMPLETIONS), atol=1e-5)
    np.testing.assert_allclose(RewardModel(str(tmp_path)).score(PROMPTS, COMPLETIONS), scores, atol=1e-5)


def test_the_folder_of_independent_members_is_the_first_of_them(backbone: str, tmp_path: Path) -> None:
    ensemble = fitted(backbone, shared_trunk=False, members=2)
    ensemble.save_pretrained(tmp_path)
    members = ensemble.member_scores(PROMPTS, COMPLETIONS)
    for member, folder in enumerate((tmp_path, tmp_path / "member_1")):
        scores = RewardModel(str(folder)).score(PROMPTS, COMPLETIONS)
        np.testing.assert_allclose(scores, members[member], atol=1e-5)


def test_members_have_mean_0_over_the_references_and_their_mean_has_deviation_1(backbone: str) -> None:
    references = [str(pair[side]) for pair in pairs_by_word(30, 5) for side in ("chosen", "rejected")]
    ensemble = fitted(backbone, references=references)
    members = ensemble.member_scores([""] * 60, references)
    np.testing.assert_allclose(members.mean(axis=1), 0.0, atol=1e-9)
    assert members.mean(axis=0).std() == pytest.approx(1.0)


def test_members_disagree_more_about_texts_unlike_the_pairs(backbone: str) -> None:
    """All members saw "good" and "bad" before "film"; none saw numbers and signs."""
    ensemble = fitted(backbone, members=5)
    known = [str(pair[side]) for pair in pairs_by_word(20, 9) for side in ("chosen", "rejected")]
    generator = random.Random(0)
    unknown = [" ".join(generator.choices(["7", "%", "Zq", "(", "19", "&", "€"], k=6)) for _ in range(40)]
    spread = {name: ensemble.std(["it was "] * 40, texts).mean() for name, texts in (("k", known), ("u", unknown))}
    assert spread["u"] > 1.2 * spread["k"]


def test_preferences_are_the_logistic_function_of_raw_differences(ensemble: RewardEnsemble) -> None:
    raw = ensemble.raw_scores(["it was good film", "it was bad film"])
    found = ensemble.preferences(["it was "], ["good film"], ["bad film"])
    np.testing.assert_allclose(found[:, 0], 1 / (1 + np.exp(raw[:, 1] - raw[:, 0])), rtol=1e-6)


def test_every_member_draws_as_many_pairs_as_there_are_and_its_own() -> None:
    counts = _bootstraps(4, 50, seed=0)
    assert counts.sum(dim=1).tolist() == [50.0] * 4
    assert len({tuple(row) for row in counts.tolist()}) == 4
    assert torch.equal(counts, _bootstraps(4, 50, seed=0))


def test_the_same_seed_gives_the_same_ensemble_and_another_does_not(backbone: str) -> None:
    first, second, other = (
        fitted(backbone, seed=seed, epochs=1).member_scores(PROMPTS, COMPLETIONS) for seed in (3, 3, 4)
    )
    assert np.array_equal(first, second)
    assert not np.allclose(first, other)


def test_a_bert_with_a_bias_in_its_head_serves_too(tmp_path: Path) -> None:
    from transformers import BertConfig, BertForSequenceClassification

    tokenizer = load_tokenizer("tiny")
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        pad_token_id=0,
        num_labels=1,
    )
    BertForSequenceClassification(config).save_pretrained(tmp_path / "bert")
    tokenizer.save_pretrained(tmp_path / "bert")
    ensemble = fitted(str(tmp_path / "bert"), epochs=1)
    ensemble.save_pretrained(tmp_path / "saved")
    expected = ensemble.score(PROMPTS, COMPLETIONS)
    for loaded in (RewardEnsemble(tmp_path / "saved"), RewardModel(str(tmp_path / "saved"))):
        np.testing.assert_allclose(loaded.score(PROMPTS, COMPLETIONS), expected, atol=1e-5)


def test_calibration_keeps_the_normalised_scores_and_lowers_the_loss(backbone: str, tmp_path: Path) -> None:
    ensemble, held_out = fitted(backbone), pairs_by_word(60, 2)
    contradicted = {"chosen": held_out[0]["rejected"], "rejected": held_out[0]["chosen"]}
    held_out.append({"prompt": "it was ", **contradicted})  # so that the best temperature is none of the ends
    before = ensemble.member_scores(PROMPTS, COMPLETIONS)
    uncalibrated = evaluate_ensemble(ensemble, held_out).loss
    temperature = calibrate_ensemble(ensemble, held_out)
    np.testing.assert_allclose(ensemble.member_scores(PROMPTS, COMPLETIONS), before, atol=1e-5)
    assert evaluate_ensemble(ensemble, held_out).loss < uncalibrated
    assert temperature != pytest.approx(1.0, abs=0.01)
    ensemble.save_pretrained(tmp_path)
    plain = RewardModel(str(tmp_path))
    loss = evaluate_pairs(plain.model, plain.tokenizer, held_out).loss
    assert loss == pytest.approx(evaluate_ensemble(ensemble, held_out).loss, abs=1e-6)


def test_no_texts_have_no_scores(ensemble: RewardEnsemble) -> None:
    assert ensemble.member_scores([], []).shape == (3, 0)
    assert ensemble.score([], []).shape == (0,)


def test_a_folder_is_a_reward_by_its_path_and_read_anew_when_it_changes(backbone: str, tmp_path: Path) -> None:
    folder = tmp_path / "reward"
    fitted(backbone, members=2, epochs=1).save_pretrained(folder)
    first: Any = get_reward(str(folder))
    assert isinstance(first, RewardEnsemble)
    assert get_reward(str(folder)) is first
    fitted(backbone, members=3, epochs=1).save_pretrained(folder)
    changed: Any = get_reward(str(folder))
    assert changed.members == 3
    assert isinstance(get_reward(backbone), RewardModel)
    with_arguments: Any = get_reward(str(folder), batch_size=2)
    assert with_arguments.batch_size == 2
    with pytest.raises(ValueError, match="does not take the arguments"):
        get_reward(str(folder), colour="red")


def test_an_environment_takes_the_folder_of_a_reward_model(backbone: str, tmp_path: Path) -> None:
    import gymnasium as gym

    import rlhf_envs  # noqa: F401

    folder = tmp_path / "reward"
    ensemble = fitted(backbone, members=2, epochs=1)
    ensemble.save_pretrained(folder)
    env = gym.make("rlhf/Sentiment-v0", reward=str(folder), max_new_tokens=3)
    env.reset(seed=0)
    terminated, reward, info = False, 0.0, {}
    while not terminated:
        _, reward, terminated, _, info = env.step(5)
    assert float(reward) == pytest.approx(float(ensemble.score([info["prompt"]], [info["completion"]])[0]), abs=1e-5)
    assert list(info["reward_components"]) == ["reward"]  # the folder's name
    env.close()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"members": 1}, "members is 1: an ensemble has at least 2"),
        ({"pairs": []}, "0 pairs to fit and 40 held out"),
        ({"references": ["same", "same"]}, "3 members whose mean has a standard deviation of 0"),
        ({"train": "tail"}, "train is 'tail': choose"),
        ({"train": 3}, "the last 3 blocks of GPT2ForSequenceClassification: it has 2"),
    ],
)
def test_bad_input_is_an_error_that_says_what_to_do(backbone: str, arguments: dict[str, Any], message: str) -> None:
    given = {"pairs": pairs_by_word(8, 1), "members": 3, **arguments}
    with pytest.raises(ValueError, match=message):
        fit_ensemble(backbone, given.pop("pairs"), pairs_by_word(40, 2), **given)


def test_a_folder_without_heads_is_no_ensemble(backbone: str) -> None:
    with pytest.raises(ValueError, match=r"is no ensemble, it has no reward_ensemble\.json"):
        RewardEnsemble(backbone)
