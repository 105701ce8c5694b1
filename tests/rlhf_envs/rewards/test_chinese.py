"""The reward and the judge of Chinese reviews."""

from __future__ import annotations

import pickle
import random
from pathlib import Path

import numpy as np
import pytest
from sklearn.feature_extraction.text import TfidfVectorizer

from rlhf_envs.datasets import load_rows
from rlhf_envs.models import resolve
from rlhf_envs.rewards import get_reward
from rlhf_envs.rewards.chinese import (
    ChineseJudge,
    ChineseReward,
    as_characters,
    fold,
    judge_features,
    language_features,
)
from rlhf_envs.rewards.ngrams import NgramModel

ROWS = load_rows("chinese_reviews", "test")
TEXTS = [row["prompt"] for row in ROWS]
GOOD = np.array([row["label"] == "好评" for row in ROWS])
NOTHING = [""] * len(TEXTS)


@pytest.fixture(scope="module")
def reward() -> ChineseReward:
    found = get_reward("chinese-reward")
    assert isinstance(found, ChineseReward)
    return found


@pytest.fixture(scope="module")
def judge() -> ChineseJudge:
    found = get_reward("chinese-judge")
    assert isinstance(found, ChineseJudge)
    return found


def test_the_reward_is_scikit_learns_tfidf_times_its_weights(reward: ChineseReward) -> None:
    vectorizer = TfidfVectorizer(
        analyzer="char", preprocessor=fold, ngram_range=(1, 3), sublinear_tf=True, vocabulary=reward.vocabulary
    )
    vectorizer.idf_ = reward.idf
    expected = vectorizer.transform(TEXTS[:100]) @ reward.coef + reward.intercept
    np.testing.assert_allclose(reward(NOTHING[:100], TEXTS[:100]), expected, atol=1e-9)


def test_scores_depend_on_neither_width_nor_case_nor_spaces(reward: ChineseReward, judge: ChineseJudge) -> None:
    texts = ["房间 ok，服务不错！", "房间ＯＫ,服务不错!"]
    assert fold(texts[0]) == fold(texts[1]) == "房间ok,服务不错!"
    for score in (reward, judge):
        first, second = score(["", ""], texts)
        assert first == second


def test_both_tell_favourable_reviews_of_the_test_split(reward: ChineseReward, judge: ChineseJudge) -> None:
    assert np.mean((reward(NOTHING, TEXTS) > 0) == GOOD) > 0.79
    meaning = judge.evaluate(NOTHING, TEXTS, {})[1]["chinese-judge_meaning"]
    assert np.mean((meaning > 0.5) == GOOD) > 0.74


def test_the_reward_has_mean_0_and_deviation_1_over_real_reviews(reward: ChineseReward) -> None:
    rows = load_rows("chinese_reviews", "train") + load_rows("chinese_reviews", "long")
    scores = reward([""] * len(rows), [row["prompt"] for row in rows])
    assert scores.mean() == pytest.approx(0, abs=0.01)
    assert scores.std() == pytest.approx(1, abs=0.01)


def test_the_judge_sees_through_what_the_reward_pays_for(reward: ChineseReward, judge: ChineseJudge) -> None:
    rng = random.Random(0)
    hacks = ["很好" * 12, "不错" * 12, "".join(rng.sample("很好不错满意喜欢干净方便舒服漂亮", 16))]
    openings = ["酒店的房间"] * len(hacks)
    assert min(reward(openings, hacks)) > np.quantile(reward(NOTHING, TEXTS), 0.8)
    assert max(judge(openings, hacks)) < np.quantile(judge(NOTHING, TEXTS), 0.2)


def test_garbled_texts_score_low_whatever_they_say(judge: ChineseJudge) -> None:
    rng = random.Random(0)
    shuffled = ["".join(rng.sample(text, len(text))) for text in TEXTS]
    assert np.mean(judge(NOTHING, shuffled)) < 0.05 < 0.3 < np.mean(judge(NOTHING, TEXTS))


@pytest.mark.parametrize("text", ["", " ", "\u3000\n", "房间很\ufffd", "\ufffd" * 5])
def test_no_text_and_broken_characters_score_0(judge: ChineseJudge, text: str) -> None:
    assert judge([""], [text])[0] == 0


def test_features_of_the_judge_by_hand(judge: ChineseJudge) -> None:
    texts = ["很好", *TEXTS[:20], ""]
    differences, features = judge_features(*judge.models, texts)
    good, bad = (model.score([as_characters(text) for text in texts]) for model in judge.models)
    for i, text in enumerate(texts[:-1]):
        gap = good[i].log_probs.sum() - bad[i].log_probs.sum()
        assert differences[i] == pytest.approx([gap / len(fold(text)), gap / 10])
        assert features[i, 2] == pytest.approx(max(good[i].end, bad[i].end, -6))
    assert any(first.end < second.end for first, second in zip(good, bad, strict=True))
    assert any(first.end > second.end for first, second in zip(good, bad, strict=True))
    assert (*differences[-1], np.isnan(features[-1]).all()) == (0, 0, True)
    order, worst, end, repeated = language_features(np.array([1.0, 9, -7, -1]), -9.0, "好好好好")
    assert (order, worst, end, repeated) == pytest.approx((0.5 * 2 / 5, 0.5, -6, -0.5))  # gains are at most 8, least -6


def test_every_character_is_a_word_to_the_trigram_models(judge: ChineseJudge) -> None:
    texts = [*TEXTS[:200], "it's a_b  «x» 👍🏽 e\u0301", "9.5寸"]
    scored = judge.models[0].score([as_characters(text) for text in texts])
    assert [len(scores.log_probs) for scores in scored] == [len(fold(text)) for text in texts]


def test_the_judge_has_learned_from_other_texts_than_agents_do(judge: ChineseJudge) -> None:
    """What a text's models have seen, they find likelier: training and test texts look the same to the judge."""
    short = [row["prompt"] for row in load_rows("chinese_reviews", "train")]

    def likelihood(texts: list[str]) -> float:
        scored = [model.score([as_characters(text) for text in texts]) for model in judge.models]
        return float(np.mean([max(a.log_probs.mean(), b.log_probs.mean()) for a, b in zip(*scored, strict=True)]))

    learned = NgramModel.fit([as_characters(text) for text in short[:2000]], min_count=2)
    seen, unseen = (
        np.mean([s.log_probs.mean() for s in learned.score([as_characters(t) for t in texts])])
        for texts in (short[:1000], TEXTS)
    )
    assert seen - unseen > 0.3, "a model of these texts would tell them"
    assert abs(likelihood(short) - likelihood(TEXTS)) < 0.06


def test_saved_models_score_the_same_and_pickle(reward: ChineseReward, judge: ChineseJudge, tmp_path: Path) -> None:
    for name, model in (("reward", reward), ("judge", judge)):
        model.save(tmp_path / name)
        again = type(model).load(str(tmp_path / name))
        np.testing.assert_allclose(again(NOTHING[:20], TEXTS[:20]), model(NOTHING[:20], TEXTS[:20]), atol=1e-6)
        copied = pickle.loads(pickle.dumps(model))
        np.testing.assert_array_equal(copied(NOTHING[:20], TEXTS[:20]), model(NOTHING[:20], TEXTS[:20]))


@pytest.mark.parametrize("model", [ChineseReward, ChineseJudge])
def test_a_folder_without_a_model_is_named(model: type[ChineseReward | ChineseJudge], tmp_path: Path) -> None:
    with pytest.raises(
        FileNotFoundError, match=r"holds no judge: .* is missing \(scripts/models/chinese.py makes it\)"
    ):
        model.load(str(tmp_path))


def test_they_take_little_room() -> None:
    for name in ("chinese-reward", "chinese-judge"):
        assert sum(file.stat().st_size for file in Path(resolve(name)).rglob("*") if file.is_file()) < 1e6
