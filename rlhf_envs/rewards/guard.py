"""Guard an environment against a reward function that fails: try again, limit the time, and raise a clear error."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from rlhf_envs.datasets.messages import Prompt
from rlhf_envs.names import check_timeout
from rlhf_envs.rewards.base import Composed, FunctionReward, Reward, RewardOfRewards
from rlhf_envs.rewards.by_task import TaskRewards
from rlhf_envs.rewards.scores import Columns, EpisodeError, RewardError, ScoreError
from rlhf_envs.rewards.state import get_reward_state, set_reward_state
from rlhf_envs.rewards.waiting import Background

__all__ = ["Guarded", "RewardError"]

logger = logging.getLogger(__name__)


class Guarded(RewardOfRewards):
    """Call a reward function again when it raises or hangs, and give up with a `RewardError`.

    It has the name and the components of the reward inside. In a composition every leaf is guarded by itself: the error
    names the leaf, and the leaves that have answered are not asked again. A score that is no finite number, or a wrong
    number of scores, raises a `ValueError` at once: it would be no better the next time.

    With a `timeout` the function runs in a thread of its own, which can be abandoned but not killed. A thread that
    hangs goes on as a daemon, with whatever it holds (a socket, memory, a lock), until it returns or the process ends,
    and each further attempt may leave one more. A function that never releases Python's global interpreter lock cannot
    be cut off at all. Without a timeout it runs in the caller's thread. An `async def` is cancelled where it waits.

    Args:
        reward_fn: a `Reward` or any callable with its signature.
        timeout: seconds for one call; None waits for ever.
        retries: attempts after the first that fails.
        backoff: seconds before the second attempt; the wait doubles at each further one.

    Raises:
        ValueError: an argument is wrong.
    """

    def __init__(
        self, reward_fn: Callable[..., Any], timeout: float | None = None, retries: int = 2, backoff: float = 0.25
    ) -> None:
        check_timeout("the timeout of a reward", timeout)
        if isinstance(retries, bool) or not isinstance(retries, int) or retries < 0:
            raise ValueError(f"the retries of a reward must be a whole number of at least 0, got {retries!r}")
        self.reward = reward_fn if isinstance(reward_fn, Reward) else FunctionReward(reward_fn)
        self.name = self.reward.name
        self.timeout, self.retries, self.backoff = timeout, retries, backoff

    def parts(self) -> tuple[Reward, ...]:
        """Return the reward inside."""
        return (self.reward,)

    def evaluate(
        self, prompts: Sequence[Prompt], completions: Sequence[Prompt], columns: Columns
    ) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """Return the checked scores and components of the reward inside.

        Raises:
            RewardError: every attempt raised or took longer than the timeout.
            ValueError: the scores are not one finite number per completion.
        """
        if isinstance(self.reward, Composed):
            return self.reward.map_leaves(self._guard).evaluate(prompts, completions, columns)
        if isinstance(self.reward, TaskRewards):
            return self.reward.map_parts(self._guard).evaluate(prompts, completions, columns)
        attempts, before = self.retries + 1, get_reward_state(self.reward)
        for attempt in range(1, attempts + 1):
            try:
                return self._call(prompts, completions, columns)
            except (ScoreError, RewardError):  # certain to come again, or guarded already
                raise
            except Exception as error:
                set_reward_state(self.reward, before)  # a part that answered has learned from texts that come again
                shown = f"{type(error).__name__}: {error}"
                if attempt == attempts:
                    raise self._error(f"{_times(attempts)} on", shown, prompts, completions, error) from error
                wait = self.backoff * 2 ** (attempt - 1)
                logger.warning(
                    "reward %r failed (attempt %d of %d), again in %g s: %s", self.name, attempt, attempts, wait, shown
                )
                time.sleep(wait)
        raise AssertionError("unreachable")

    def _guard(self, leaf: Reward) -> Reward:
        """Return a leaf with this guard, unless it has a guard of its own."""
        return leaf if isinstance(leaf, Guarded) else Guarded(leaf, self.timeout, self.retries, self.backoff)

    def _error(
        self, times: str, shown: str, prompts: Sequence[Prompt], completions: Sequence[Prompt], error: Exception
    ) -> RewardError:
        index = error.index if isinstance(error, EpisodeError) else None
        i, p, c = (0, "First prompt", "First completion") if index is None else (index, "Prompt", "Completion")
        failed = RewardError(
            f"reward {self.name!r} failed {times} {len(prompts)} completions, with {shown}. "
            f"{p}: {prompts[i]!r}. {c}: {completions[i]!r}."
        )
        failed.index = index
        return failed

    def _call(
        self, prompts: Sequence[Prompt], completions: Sequence[Prompt], columns: Columns
    ) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        if self.timeout is None:
            return self.reward.evaluate(prompts, completions, columns)
        call = Background(f"reward {self.name}", self.reward.evaluate, prompts, completions, columns)
        if not call.wait(self.timeout):
            raise TimeoutError(f"no answer in {self.timeout:g} s; if it is only slow, allow it more (reward_timeout)")
        scores: tuple[np.ndarray, dict[str, np.ndarray]] = call.result()
        return scores


def _times(attempts: int) -> str:
    return "once" if attempts == 1 else f"{attempts} times"
