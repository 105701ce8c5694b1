"""The bag of words against scikit-learn."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from rlhf_envs.models import resolve
from rlhf_envs.rewards.bag_of_words import BagOfWords, gold_bow

TEXTS = [
    "A good film, a very good film. I liked it!",
    "a bad film; bad acting, bad everything...",
    "It wasn't good at all: I'd walked out by 10pm.",
    "Good, good, GOOD -- the naïve Señor O'Hara's film_noir is great.",
    "I saw it and it was bad, it was so bad I left the cinema.",
    "the acting was great and the film was good",
]
LABELS = [1, 0, 0, 1, 0, 1]


def test_it_equals_scikit_learn_on_seen_unseen_and_featureless_texts() -> None:
    text = pytest.importorskip("sklearn.feature_extraction.text")
    linear = pytest.importorskip("sklearn.linear_model")
    vectorizer = text.TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, max_features=40)
    model = linear.LogisticRegression(C=10.0).fit(vectorizer.fit_transform(TEXTS), LABELS)
    judge = BagOfWords(
        vectorizer.get_feature_names_out().tolist(), vectorizer.idf_, model.coef_[0], model.intercept_[0]
    )
    unseen = ["bad bad bad bad good film", "ÉTÉ naïve", "", "a !", "nothing known here", "the film\tthe film\nthe film"]
    expected = model.predict_proba(vectorizer.transform(TEXTS + unseen))[:, 1]
    np.testing.assert_allclose(judge.probabilities(TEXTS + unseen), expected, rtol=1e-12)


def test_a_score_is_the_closed_form() -> None:
    judge = BagOfWords(["good", "film", "good film"], np.array([1.0, 2.0, 3.0]), np.array([0.5, -0.25, 1.0]), 0.1)
    x = np.array([(1 + np.log(2)) * 1.0, 2.0, 3.0])  # "good" stands there twice
    expected = 1 / (1 + np.exp(-(x @ [0.5, -0.25, 1.0] / np.sqrt((x**2).sum()) + 0.1)))
    np.testing.assert_allclose(judge.score(["Good, "], ["good film"]), [expected], rtol=1e-12)


def test_it_reads_the_prompt_and_the_completion_as_one_text() -> None:
    judge = gold_bow()
    whole = judge.score([""], ["the film was not good"])
    assert judge.score(["the film was"], [" not good"]) == whole
    assert judge.score(["the film was not"], [" good"]) == whole


def test_it_saves_and_loads_without_pickle(tmp_path: Path) -> None:
    judge = BagOfWords(["été", "film", "good film"], np.array([1.0, 2.0, 3.0]), np.array([0.5, -0.25, 1.0]), 0.125)
    judge.save(tmp_path)
    texts = ["good film", "été", "nothing"]
    assert BagOfWords.load(str(tmp_path)).probabilities(texts).tolist() == judge.probabilities(texts).tolist()
    with np.load(tmp_path / "weights.npz", allow_pickle=False) as arrays:
        assert all(array.dtype.kind == "f" for array in arrays.values())


def test_a_folder_without_a_judge_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"holds no judge: weights\.npz is missing"):
        BagOfWords.load(str(tmp_path))


@pytest.mark.parametrize(
    ("vocabulary", "idf", "coef"), [(["a", "a"], [1, 1], [1, 1]), (["a"], [1, 2], [1]), (["a"], [1], [[1]])]
)
def test_arrays_that_do_not_fit_the_vocabulary_are_an_error(
    vocabulary: list[str], idf: list[float], coef: list[float]
) -> None:
    with pytest.raises(ValueError, match="as many distinct features"):
        BagOfWords(vocabulary, np.array(idf), np.array(coef), 0.0)


def test_the_embedded_judge_tells_praise_from_blame_and_gives_probabilities() -> None:
    scores = gold_bow()(
        prompts=["this movie was", "this movie was", "this movie was"],
        completions=[" wonderful, a moving and beautiful film", " a boring mess with awful acting", ""],
        label=[1, 0, 1],
    )
    assert scores.shape == (3,)
    assert scores.dtype == np.float64
    assert scores[0] > 0.9
    assert scores[1] < 0.1


def test_the_embedded_judge_is_small() -> None:
    assert sum(file.stat().st_size for file in Path(resolve("gold-bow")).iterdir()) < 2e6
