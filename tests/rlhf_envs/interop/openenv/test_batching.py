"""What many sessions share: one call of the reward for all episodes that wait."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from rlhf_envs.finished import FinishedEpisode
from rlhf_envs.interop.openenv.batching import BatchScorer


def episode(number: int) -> FinishedEpisode:
    return FinishedEpisode(0, [], {"number": number})


def test_episodes_that_end_during_a_call_are_scored_together_in_the_next() -> None:
    under_way, go_on = threading.Event(), threading.Event()

    def score(episodes: Sequence[FinishedEpisode]) -> np.ndarray:
        under_way.set()
        assert go_on.wait(30)
        return np.array([10.0 * one.info["number"] for one in episodes])

    scorer = BatchScorer(score, wait=0.0)
    with ThreadPoolExecutor(8) as threads:
        first = threads.submit(scorer.score, episode(0))
        assert under_way.wait(30)
        others = [threads.submit(scorer.score, episode(number)) for number in range(1, 8)]
        while scorer._jobs.qsize() < 7:  # all have come
            pass
        go_on.set()
        assert [one.result(30) for one in [first, *others]] == [10.0 * number for number in range(8)]
    assert scorer.sizes[0] == 1 and sum(scorer.sizes) == 8 and len(scorer.sizes) <= 3


def test_an_episode_that_fails_fails_alone() -> None:
    def score(episodes: Sequence[FinishedEpisode]) -> np.ndarray:
        if any(one.info["number"] == 3 for one in episodes):
            raise ValueError("three")
        return np.array([float(one.info["number"]) for one in episodes])

    scorer = BatchScorer(score, wait=0.2)
    with ThreadPoolExecutor(5) as threads:
        found = [threads.submit(scorer.score, episode(number)) for number in range(5)]
        for number, one in enumerate(found):
            if number == 3:
                with pytest.raises(ValueError, match="three"):
                    one.result(30)
            else:
                assert one.result(30) == number
