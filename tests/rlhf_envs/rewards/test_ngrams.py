"""The trigram model: it sums to one, falls back as Kneser-Ney says, and is stored without pickle."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from rlhf_envs.rewards.ngrams import NgramModel

TEXTS = [
    "the film was good.",
    "the film was bad.",
    "the film is good.",
    "the plot was thin, and the film was good.",
] * 3


@pytest.fixture(scope="module")
def model() -> NgramModel:
    return NgramModel.fit(TEXTS, min_count=2, min_trigram=2, discount=0.5)


def test_the_next_word_has_probabilities_that_sum_to_one_after_any_two_words(model: NgramModel) -> None:
    size = len(model.words)
    words = np.arange(1, size)  # all but the start, which nothing predicts
    for first, second in [(0, 0), (model.index["the"], model.index["film"]), (model.index["bad"], model.index["thin"])]:
        log_probs = model._log_probs(np.full(size - 1, first), np.full(size - 1, second), words)
        start = model._log_probs(*(np.array([i]) for i in (first, second, 0)))
        assert np.exp(log_probs).sum() + np.exp(start[0]) == pytest.approx(1, abs=1e-9)


def test_a_probability_is_the_closed_form(model: NgramModel) -> None:
    """After "film was" came "good" 6 times in 9 and "bad" 3 times; each loses the discount to the lower order."""
    index = model.index
    args = (np.array([index[word]]) for word in ("film", "was", "good"))
    left = 2 * 0.5 / 9
    # Continuations: the words that came between "was" and the next word, each with the distinct words before "was".
    continuations = {"good": 1, "bad": 1, "thin": 1}
    lower = (continuations["good"] - 0.5) / sum(continuations.values())
    lower += 3 * 0.5 / 3 * np.exp(model.arrays["unigram"][index["good"]])
    assert np.exp(model._log_probs(*args))[0] == pytest.approx((6 - 0.5) / 9 + left * lower)


def test_a_text_is_scored_alone_as_among_others(model: NgramModel) -> None:
    texts = ["the film was good.", "", "xyzzy film", "THE FILM"]
    for text, scores in zip(texts, model.score(texts), strict=True):
        (alone,) = model.score([text])
        assert len(scores.ids) == len(alone.ids)
        np.testing.assert_array_equal(scores.log_probs, alone.log_probs)
        assert scores.end == alone.end
    assert model.score(["THE FILM"])[0].ids.tolist() == model.score(["the film"])[0].ids.tolist()
    assert model.score([]) == []


def test_words_in_order_are_likelier_than_shuffled(model: NgramModel) -> None:
    real, shuffled = model.score(["the film was good.", "good film the was."])
    assert real.log_probs.sum() > shuffled.log_probs.sum() + 3
    assert model.score(["the film was good."])[0].end > model.score(["the film was"])[0].end + 1


def test_it_saves_and_loads_to_within_the_rounding(model: NgramModel, tmp_path: Path) -> None:
    model.save(tmp_path)
    loaded = NgramModel.load(tmp_path)
    assert loaded.words == model.words
    for one, other in zip(model.score(TEXTS[:4]), loaded.score(TEXTS[:4]), strict=True):
        np.testing.assert_allclose(one.log_probs, other.log_probs, atol=2 / 16)
    with np.load(tmp_path / "ngrams.npz", allow_pickle=False) as arrays:
        assert {array.dtype.kind for array in arrays.values()} == {"u"}
