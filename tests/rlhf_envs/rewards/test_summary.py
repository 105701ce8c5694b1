from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest

from rlhf_envs.datasets import load_rows
from rlhf_envs.models import resolve
from rlhf_envs.rewards.registry import get_reward
from rlhf_envs.rewards.summary import FEATURES, SummaryReward, bend, expand, longest_copy, summary_features

TEST = load_rows("descriptions", "test")
TEXTS, SYNOPSES = ([row[name] for row in TEST] for name in ("prompt", "reference"))


@pytest.fixture(scope="module")
def reward() -> SummaryReward:
    found = get_reward("summary-reward")
    assert isinstance(found, SummaryReward)
    return found


def preferred(reward: SummaryReward, worse: list[str]) -> float:
    """Return how often a held-out synopsis scores more than something else for the same description."""
    return float((reward.raw(TEXTS, SYNOPSES) > reward.raw(TEXTS, worse)).mean())


def test_held_out_synopses_are_preferred_to_others_to_copies_and_to_damaged_ones(reward: SummaryReward) -> None:
    rng = np.random.default_rng(0)
    assert preferred(reward, SYNOPSES[1:] + SYNOPSES[:1]) > 0.98
    assert preferred(reward, [" ".join(text.split()[:8]) for text in TEXTS]) > 0.95
    assert preferred(reward, [" ".join(rng.permutation(synopsis.split())) for synopsis in SYNOPSES]) > 0.93
    assert preferred(reward, [synopsis + " " + synopsis for synopsis in SYNOPSES]) > 0.98
    assert preferred(reward, TEXTS) > 0.99
    assert preferred(reward, [""] * len(TEXTS)) > 0.99


def test_scores_have_mean_0_and_deviation_1_over_training_synopses_and_are_bounded(reward: SummaryReward) -> None:
    train = load_rows("descriptions", "train")
    raw = reward.raw([row["prompt"] for row in train], [row["reference"] for row in train])
    scores = reward.shift + reward.gain * raw
    assert scores.mean() == pytest.approx(0, abs=0.02)
    assert scores.std() == pytest.approx(1, abs=0.02)
    given = np.array(reward([row["prompt"] for row in train], [row["reference"] for row in train]))
    inside = (scores > -1) & (scores < 2)
    np.testing.assert_allclose(given[inside], scores[inside])  # bent outside alone
    assert inside.mean() > 0.8
    garbage = ["", "a" * 5000, "word " * 400, "\n\n", "图像查看器", "...", "a"]
    found = reward(["a description"] * 7, garbage)
    assert ((found >= -6) & (found <= 2)).all()


def test_bent_scores_keep_their_order_up_to_the_bound_and_have_no_kink() -> None:
    scores = np.linspace(-50, 2, 500)
    assert (np.diff(bend(scores)) > 0).all()
    np.testing.assert_array_equal(bend(np.array([-0.5, 0, 1.5, 2, 9])), [-0.5, 0, 1.5, 2, 2])
    np.testing.assert_allclose(bend(np.array([-1.001, -0.999])), [-1.001, -0.999], atol=1e-5)


def test_the_description_is_the_column_text_and_else_the_prompt(reward: SummaryReward) -> None:
    own = reward(TEXTS[:4], SYNOPSES[:4])
    np.testing.assert_array_equal(reward(["x"] * 4, SYNOPSES[:4], text=TEXTS[:4]), own)
    assert (reward(["x"] * 4, SYNOPSES[:4]) < own).all()


def test_features_by_hand(reward: SummaryReward) -> None:
    idf = {"": 4.0, "fast": 2.0, "image": 1.0, "viewer": 3.0}
    found = summary_features(reward.language, idf, 4.0, ["The fast image viewer of Bob."], ["a image viewer viewers"])
    named = dict(zip(FEATURES, found[0], strict=True))
    assert named["support"] == pytest.approx(4 / 8)
    assert named["loose_support"] == pytest.approx(8 / 8)  # "viewers" begins as "viewer" does
    assert named["coverage"] == pytest.approx(4 / 10)
    assert named["position"] == pytest.approx(np.mean([2 / 6, 3 / 6]))
    assert named["copied_pairs"] == pytest.approx(1 / 3)
    assert named["longest_copy"] == pytest.approx(2 / 4)
    assert named["words"] == 4
    assert named["function_words"] == pytest.approx(1 / 4)


def test_the_longest_copy_is_a_run() -> None:
    assert longest_copy(["a", "b", "c", "d"], ["x", "b", "c", "a"]) == 2
    assert longest_copy(["a", "b"], []) == longest_copy([], ["a"]) == 0


def test_expanded_features_are_bounded_with_squares_and_products() -> None:
    np.testing.assert_array_equal(expand(np.array([[2.0, -9.0]])), [[2, -4, 4, -8, 16]])


def test_a_saved_model_scores_the_same_and_it_pickles(reward: SummaryReward, tmp_path: Path) -> None:
    reward.save(tmp_path)
    again = SummaryReward.load(str(tmp_path))
    np.testing.assert_allclose(again(TEXTS, SYNOPSES), reward(TEXTS, SYNOPSES), atol=1e-6)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(reward))(TEXTS, SYNOPSES), reward(TEXTS, SYNOPSES))


def test_it_takes_little_room() -> None:
    assert sum(file.stat().st_size for file in Path(resolve("summary-reward")).iterdir()) < 1e6
