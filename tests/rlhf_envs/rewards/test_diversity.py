"""Diversity bonuses, against the definitions of their measures and nltk's BLEU."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from rlhf_envs.rewards.diversity import DistinctNgrams, Novelty, SelfBleuDiversity
from rlhf_envs.rewards.state import frozen_rewards

TEXTS = [
    "a moving film about two friends",
    "a moving film about two brothers",
    "a moving film about two friends",
    "dull dull dull dull",
    "",
    "why",
]


def score(reward, *texts):
    return reward.score([""] * len(texts), list(texts))


def bigrams(text):
    return list(pairwise(text.split()))


def test_distinct_ngrams_share_out_the_distinct_2_of_the_call():
    scores = score(DistinctNgrams(2, memory=0), *TEXTS)
    grams = [bigrams(text) for text in TEXTS]
    every = [gram for text in grams for gram in text]
    weights = np.array([len(text) for text in grams])
    assert (scores @ weights) / weights.sum() == pytest.approx(len(set(every)) / len(every))
    assert scores[4:].tolist() == [0, 0], "a text without bigrams earns nothing"


def test_one_completion_earns_its_own_distinct_n_and_less_when_it_says_so_again():
    reward = DistinctNgrams(2)
    assert score(reward, "so good so good") == pytest.approx([2 / 3])  # so good, good so, so good
    assert score(reward, "so good so good") == pytest.approx([(1 / 4 + 1 / 2 + 1 / 4) / 3])


def test_self_bleu_is_that_of_nltk():
    bleu = pytest.importorskip("nltk.translate.bleu_score")
    scores = score(SelfBleuDiversity(4, memory=0), *TEXTS)
    words = [text.split() for text in TEXTS]
    for i, own in enumerate(words):
        if not own:
            assert scores[i] == 0
            continue
        order = min(4, len(own))
        smooth = bleu.SmoothingFunction().method1
        others = words[:i] + words[i + 1 :]
        expected = bleu.sentence_bleu(others, own, weights=[1 / order] * order, smoothing_function=smooth)
        assert scores[i] == pytest.approx(1 - expected, abs=1e-9), own


def test_batches_of_one_are_judged_as_a_batch_is():
    """The last of several alone, with the others in memory, scores as in one call with them."""
    for make in (SelfBleuDiversity, Novelty, DistinctNgrams):
        together = score(make(), *TEXTS[:4])
        alone = make()
        one_by_one = [score(alone, text)[0] for text in TEXTS[:4]]
        assert one_by_one[3] == pytest.approx(together[3]), make.__name__
        assert one_by_one[2] < one_by_one[0], "it has been said before"


def test_novelty_is_one_minus_the_jaccard_index_of_the_nearest():
    reward = Novelty(1)
    assert score(reward, "a b c", "c d", "x y").tolist() == pytest.approx([1 - 1 / 4, 1 - 1 / 4, 1])
    assert score(reward, "a b c d").tolist() == pytest.approx([1 - 3 / 4])
    assert score(reward, "").tolist() == [0]


def test_the_memory_forgets_the_oldest_and_goes_on_from_its_state():
    reward = Novelty(1, memory=2)
    score(reward, "old")
    score(reward, "a b")
    score(reward, "c d")
    assert score(reward, "old").tolist() == [1], "forgotten"
    other = Novelty(1, memory=2)
    other.set_state(reward.get_state())
    assert score(other, "c d").tolist() == score(reward, "c d").tolist() == [0]


def test_evaluations_leave_no_memory_behind():
    reward = Novelty(1)
    with frozen_rewards():
        score(reward, "a b")
    assert score(reward, "a b").tolist() == [1]


def test_a_full_batch_against_a_full_memory_is_quick():
    """A rollout of 64 completions of 32 words must not cost more than generating them does."""
    import time

    words = np.random.default_rng(0).choice([f"w{i}" for i in range(500)], size=(320, 32))
    texts = [" ".join(row) for row in words]
    for reward in (Novelty(), SelfBleuDiversity(), DistinctNgrams()):
        score(reward, *texts[:256])
        start = time.process_time()
        score(reward, *texts[256:])
        assert time.process_time() - start < 1, reward.name


def test_wrong_arguments_are_named():
    with pytest.raises(ValueError, match="memory must be a whole number of at least 0, got -1"):
        Novelty(memory=-1)
    with pytest.raises(ValueError, match="n must be a whole number of at least 1, got 0"):
        SelfBleuDiversity(n=0)
