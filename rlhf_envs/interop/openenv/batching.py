"""Score the episodes of many sessions together: those that end while a call is under way go into the next one."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future

import numpy as np

from rlhf_envs.finished import FinishedEpisode

__all__ = ["BatchScorer"]

Job = tuple[FinishedEpisode, "Future[float]"]


class BatchScorer:
    """Score episodes that several threads hand in, in one call of the reward for all that wait.

    Args:
        score: returns the scores (k,) of k episodes and completes their infos: `EpisodeBatch.score`.
        wait: seconds for which the first episode waits for others.
        most: episodes in a call, at most.

    Attributes:
        sizes: how many episodes each call has scored.
    """

    def __init__(
        self, score: Callable[[Sequence[FinishedEpisode]], np.ndarray], wait: float = 0.01, most: int = 256
    ) -> None:
        self._score, self._wait, self._most = score, wait, most
        self._jobs: queue.SimpleQueue[Job] = queue.SimpleQueue()
        self.sizes: list[int] = []
        threading.Thread(target=self._run, name="rlhf-envs-scores", daemon=True).start()

    def score(self, episode: FinishedEpisode) -> float:
        """Return the score of an episode and complete its info. It waits for the batch that the episode is in.

        Raises:
            Exception: what the reward raised. An episode that makes it fail does not fail the others.
        """
        result: Future[float] = Future()
        self._jobs.put((episode, result))
        return result.result()

    def _run(self) -> None:
        while True:
            jobs, until = [self._jobs.get()], time.monotonic() + self._wait
            while len(jobs) < self._most:
                try:
                    jobs.append(self._jobs.get(timeout=max(until - time.monotonic(), 0.0)))
                except queue.Empty:
                    break
            self._finish(jobs)

    def _finish(self, jobs: list[Job]) -> None:
        """Score jobs in one call, and each alone if that fails."""
        try:
            scores = self._score([episode for episode, _ in jobs])
        except Exception as error:
            if len(jobs) == 1:
                jobs[0][1].set_exception(error)
                return
            for job in jobs:
                self._finish([job])
            return
        self.sizes.append(len(jobs))
        for (_, result), score in zip(jobs, scores, strict=True):
            result.set_result(float(score))
