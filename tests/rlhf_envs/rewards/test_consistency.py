from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest

from rlhf_envs.datasets import load_rows
from rlhf_envs.models import resolve
from rlhf_envs.rewards.consistency import (
    FEATURES,
    ConsistencyModel,
    WordTable,
    consistency_features,
    load_consistency,
)
from scripts.models.consistency import Swaps, exchanged, opposite, own_word
from scripts.models.consistency import negated as with_negation

TEST = load_rows("descriptions", "test")[:300]
TEXTS, SYNOPSES = ([row[name] for row in TEST] for name in ("prompt", "reference"))
TEXT = "This package provides a fast image viewer for the GNOME desktop written in Python. It does not need a network."


@pytest.fixture(scope="module")
def model() -> ConsistencyModel:
    return load_consistency()


def told(model: ConsistencyModel, texts: list[str], summaries: list[str]) -> float:
    """Return the share of the summaries that are judged consistent."""
    return float((model.probability(texts, summaries) > 0.5).mean())


def test_held_out_synopses_and_pieces_of_descriptions_are_consistent_and_others_are_not(
    model: ConsistencyModel,
) -> None:
    assert told(model, TEXTS, SYNOPSES) > 0.72
    assert told(model, TEXTS, [" ".join(text.split()[2:9]) for text in TEXTS]) > 0.97
    assert told(model, TEXTS, SYNOPSES[1:] + SYNOPSES[:1]) < 0.02


def test_damage_that_word_overlap_does_not_see_is_seen(model: ConsistencyModel) -> None:
    rng = random.Random(0)
    changed = [with_negation(row, TEST, rng) or "" for row in TEST]
    assert told(model, TEXTS, changed) < 0.05
    swaps = Swaps(TEST)
    pieces = [(text, text.split()[2:9]) for text in TEXTS]
    found = [(text, swaps.fitting(words, text, rng, names=False)) for text, words in pieces]
    pairs = [(text, other) for text, other in found if other is not None]
    assert len(pairs) > 250
    assert told(model, [text for text, _ in pairs], [other for _, other in pairs]) < 0.2


@pytest.mark.parametrize(
    ("true", "false"),
    [
        ("fast image viewer for GNOME", "fast image viewer for KDE"),
        ("fast image viewer in Python", "fast image viewer in Perl"),
        ("fast image viewer", "not a fast image viewer"),
        ("fast image viewer", "slow image viewer"),
        ("does not need a network", "needs a network"),
        ("image viewer", "image viewer of 64 bits"),
        ("image viewer", "image viewer that sends mail"),
    ],
)
def test_a_false_claim_is_less_probable_than_a_true_one(model: ConsistencyModel, true: str, false: str) -> None:
    high, low = model.probability([TEXT, TEXT], [true, false])
    assert high > 0.5 > low


def test_an_empty_summary_says_nothing_and_other_languages_are_not_judged(model: ConsistencyModel) -> None:
    texts = [TEXT, TEXT, TEXT, "图像查看器，用于桌面", "Ein Programm zum Anzeigen von Bildern auf dem Bildschirm", ""]
    found = model.probability(texts, ["", " ... ", "图像", "图像", "Programm", "viewer"])
    np.testing.assert_array_equal(found[:2], [0, 0])
    assert found[2] < 0.5
    assert np.isnan(found[3:]).all()
    assert np.isnan(model.probability([" ".join([TEXT] * 4)], ["image viewer"])).all()  # 80 words
    assert not np.isnan(model.probability(TEXTS, SYNOPSES)).any()
    assert model.probability([], []).shape == (0,)


def test_features_by_hand() -> None:
    words = ["fast", "image", "viewer", "picture", "network"]
    vectors = np.array([[1, 0], [0, 1], [0.6, 0.8], [0, 1], [1, 0]])
    table = WordTable(words, vectors, np.array([1.0, 2, 3, 4, 2]), np.array([-1.0, 0, -2, 1, 0]), 5.0)
    text = "A fast viewer of images from Bob, without a network."
    found = consistency_features(table, [text], ["picture viewer with a network for Rob and 3 images"])
    named = dict(zip(FEATURES, found[0], strict=True))
    # The rarities of picture, viewer, network, rob, 3 and images are 4, 3, 2, 5, 5 and 5; three are of the text.
    assert named["support"] == pytest.approx((3 + 2 + 5) / 24)
    assert named["loose_support"] == named["support"]
    assert named["rarest_added"] == named["next_rarest_added"] == 5
    assert (named["n_added"], named["n_added_unknown"], named["n_matched"]) == (3, 2, 3)
    assert named["added_commonness"] == pytest.approx((1 - 2 - 2) / 3)  # of an unknown word the least there is
    assert (named["numbers"], named["new_numbers"], named["names"], named["new_names"]) == (1, 1, 1, 1)
    assert (named["negations"], named["wrong_negations"], named["lost_negations"]) == (0, 0, 1)
    assert (named["near_pairs"], named["reversed_pairs"], named["far_pairs"]) == (0, 0.5, 0.5)
    assert named["words"] == pytest.approx(np.log(11))


def test_a_saved_model_says_the_same(model: ConsistencyModel, tmp_path: Path) -> None:
    model.save(tmp_path)
    again = ConsistencyModel.load(str(tmp_path))
    np.testing.assert_allclose(
        again.probability(TEXTS[:50], SYNOPSES[:50]), model.probability(TEXTS[:50], SYNOPSES[:50]), atol=0.02
    )
    assert sum(file.stat().st_size for file in Path(resolve("summary-consistency")).iterdir()) < 2e5


def test_changes_that_test_the_model_change_what_they_say() -> None:
    row = {"prompt": "A server for images.", "reference": "static image server for Linux"}
    rng = random.Random(0)
    assert opposite(row, [row], rng) == "dynamic image server for Linux"
    assert exchanged(row, [row], rng) == "Linux for static image server"
    assert own_word({**row, "prompt": "A thing."}, [row], rng) is not None
    assert exchanged({**row, "reference": "image server"}, [row], rng) is None
    assert "images" in (own_word(row, [row], rng) or "")
