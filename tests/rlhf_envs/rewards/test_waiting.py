"""Rewards that are async: they run at the same time, and are cut off, tried again and named like others."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from rlhf_envs.rewards import Clipped, FunctionReward, Guarded, Reward, RewardError, evaluate_reward
from rlhf_envs.rewards.waiting import Background, is_async, run_async

PROMPTS, COMPLETIONS = ["a", "b", "c"], ["x", "yy", "zzz"]


def evaluate(reward: Any) -> Any:
    return evaluate_reward(reward, PROMPTS, COMPLETIONS, {})


async def lengths(prompts: Any, completions: Any, **columns: Any) -> list[float]:
    async def one(text: str) -> float:
        await asyncio.sleep(0)
        return float(len(text))

    return await asyncio.gather(*map(one, completions))


class Meeting:
    """Make async rewards that answer only when as many as expected are under way at the same time."""

    def __init__(self, parties: int) -> None:
        self.parties, self.under_way, self.all_here = parties, 0, None

    def reward(self, name: str, score: float) -> FunctionReward:
        async def waits(prompts: Any, completions: Any, **columns: Any) -> list[float]:
            self.all_here = self.all_here or asyncio.Event()
            self.under_way += 1
            if self.under_way == self.parties:
                self.all_here.set()
            await self.all_here.wait()
            return [score] * len(prompts)

        return FunctionReward(waits, name)


class Method(Reward):
    name = "method"

    async def score(self, prompts: list[str], completions: list[str], **columns: Any) -> list[float]:
        return await lengths(prompts, completions)


@pytest.mark.parametrize(
    "reward", [lengths, Method(), 0.5 * Method() + 0.5 * FunctionReward(lengths), Guarded(lengths)]
)
def test_an_async_reward_is_scored_like_any_other(reward: Any) -> None:
    assert evaluate(reward).totals.tolist() == [1, 2, 3]


def test_it_works_where_an_event_loop_runs_already() -> None:
    async def notebook() -> Any:
        return evaluate(lengths).totals.tolist()

    with ThreadPoolExecutor(1) as pool:  # Playwright's tests leave a loop running in this thread
        assert pool.submit(lambda: asyncio.run(notebook())).result() == [1, 2, 3]


def test_an_async_reward_object_can_be_called_as_trl_calls_it() -> None:
    assert Method()(prompts=PROMPTS, completions=COMPLETIONS) == [1, 2, 3]


def test_all_async_parts_of_a_composition_run_at_the_same_time() -> None:
    meeting = Meeting(3)
    a, b, c = (meeting.reward(name, score) for name, score in (("a", 1.0), ("b", 2.0), ("c", 4.0)))
    sync = FunctionReward(lambda prompts, completions: [8.0] * len(prompts), "sync")
    scores = evaluate(Guarded(a + sync - 2 * Clipped(b, high=9.0) + a * c, timeout=20.0))
    assert scores.totals.tolist() == [1 + 8 - 4 + 4] * 3
    assert list(scores.components) == ["a", "sync", "b", "clipped_b", "c"], "in the order of the composition"


def test_what_async_parts_log_is_kept() -> None:
    async def logs(completions: Any, log_metric: Any, log_extra: Any, **columns: Any) -> list[float]:
        await asyncio.sleep(0)
        log_metric("waited", 1.0)
        log_extra("text", completions)
        return [0.0] * len(completions)

    scores = evaluate(Guarded(FunctionReward(logs) + FunctionReward(lengths), timeout=20.0))
    assert (scores.metrics, scores.extra) == ({"waited": 1.0}, {"text": COMPLETIONS})


def test_retries_and_the_name_in_the_error_hold() -> None:
    calls: list[int] = []

    async def flaky(prompts: Any, completions: Any, **columns: Any) -> list[float]:
        calls.append(1)
        await asyncio.sleep(0)
        if len(calls) < 3:
            raise ConnectionError("refused")
        return [1.0] * len(prompts)

    assert evaluate(Guarded(flaky, backoff=0.0) + FunctionReward(lengths)).totals.tolist() == [2, 3, 4]
    calls.clear()
    with pytest.raises(
        RewardError, match=r"reward 'flaky' failed 2 times on 3 completions, with ConnectionError: refused"
    ):
        evaluate(Guarded(FunctionReward(flaky) + FunctionReward(lengths), retries=1, backoff=0.0))


def test_one_episode_that_fails_is_named() -> None:
    async def one(text: str) -> float:
        if text == "yy":
            raise TimeoutError("the judge is busy")
        return 1.0

    async def judge(completions: Any, **columns: Any) -> list[Any]:
        return await asyncio.gather(*map(one, completions), return_exceptions=True)

    message = (
        r"'judge' failed 2 times .*for completion 2 of 3 it returned TimeoutError\('the judge is busy'\).*'b'.*'yy'"
    )
    with pytest.raises(RewardError, match=message) as error:
        evaluate(Guarded(judge, retries=1, backoff=0.0))
    assert error.value.index == 1


def test_one_that_hangs_is_cut_off_and_cancelled() -> None:
    cancelled = threading.Semaphore(0)

    async def hangs(prompts: Any, completions: Any, **columns: Any) -> list[float]:
        try:
            await asyncio.sleep(60)
        finally:
            cancelled.release()
        return [0.0] * len(prompts)

    with pytest.raises(RewardError, match=r"'hangs' failed 2 times.*no answer in 0\.02 s"):
        evaluate(Guarded(FunctionReward(lengths) + hangs, timeout=0.02, retries=1, backoff=0.0))
    assert all(cancelled.acquire(timeout=10) for _ in range(2)), "no coroutine is left behind"


def test_the_others_are_cancelled_when_one_part_fails() -> None:
    began, cancelled = threading.Event(), threading.Event()

    async def hangs(prompts: Any, completions: Any, **columns: Any) -> list[float]:
        began.set()
        try:
            await asyncio.sleep(60)
        finally:
            cancelled.set()
        return [0.0] * len(prompts)

    def fails(prompts: Any, completions: Any, **columns: Any) -> list[float]:
        assert began.wait(10)
        raise OSError("no disk")

    with pytest.raises(OSError, match="no disk"):
        evaluate(FunctionReward(fails) + hangs)
    assert cancelled.wait(10)


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_an_interrupt_inside_reaches_the_caller_and_the_loop_lives_on(error: type[BaseException]) -> None:
    async def interrupts(prompts: Any, completions: Any, **columns: Any) -> list[float]:
        raise error

    with pytest.raises(error):
        evaluate(interrupts)
    assert evaluate(lengths).totals.tolist() == [1, 2, 3]


def test_an_async_reward_that_calls_another_without_await_is_told() -> None:
    async def nested(prompts: Any, completions: Any, **columns: Any) -> Any:
        return Method()(prompts=prompts, completions=completions)

    with pytest.raises(RuntimeError, match="an async reward calls an async reward: await that function itself"):
        evaluate(nested)


def test_a_thread_in_the_background_is_waited_for_and_its_error_raised() -> None:
    assert Background("adds", np.add, 1, 2).result() == 3
    with pytest.raises(ZeroDivisionError):
        Background("divides", divmod, 1, 0).result()


def test_async_functions_are_told_from_others() -> None:
    assert is_async(lengths)
    assert is_async(Method().score)
    assert not is_async(Method())
    assert not is_async(len)
    assert run_async(asyncio.sleep(0, "result")) == "result"
