"""A reward function that raises or hangs: tried again, and then a clear stop."""

from __future__ import annotations

import json
import logging
import math
import threading
import time

import gymnasium as gym
import numpy as np
import pytest

import rlhf_envs  # noqa: F401  registers the environments
from rlhf_envs.rewards import Guarded, Reward, RewardError, ScoreError, get_reward
from rlhf_envs.rewards.base import FunctionReward

PROMPTS, COMPLETIONS = ["a", "b"], ["c d", "e"]
ID = "rlhf/TokenBandit-v0"


class Flaky(Reward):
    """Raises `failures` times and then scores by length."""

    def __init__(self, failures, name="flaky", error=None):
        self.failures, self.name, self.calls = failures, name, 0
        self.error = ConnectionError("refused") if error is None else error

    def score(self, prompts, completions, **columns):
        self.calls += 1
        if self.calls <= self.failures:
            raise self.error
        return [float(len(completion)) for completion in completions]


def guard(reward_fn, **kwargs):
    return Guarded(reward_fn, **({"backoff": 0.001} | kwargs))


def evaluate(reward, columns=None):
    return reward.evaluate(PROMPTS, COMPLETIONS, columns or {})


def make(kind, **kwargs):
    if kind == "single":
        return gym.make(ID, **kwargs)
    return gym.make_vec(ID, num_envs=3, vectorization_mode="vector_entry_point", **kwargs)


def end_episodes(env, kind, index=2):
    """Reset and end the episodes at once, by EOS."""
    env.reset(seed=0, options={"index": index})
    return env.step(1 if kind == "single" else np.ones(3, dtype=np.int64))


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch):
    monkeypatch.setattr("rlhf_envs.rewards.guard.time.sleep", lambda seconds: None)


class TestRaising:
    def test_a_failure_that_passes_is_a_warning(self, caplog):
        flaky = Flaky(2)
        with caplog.at_level(logging.WARNING, "rlhf_envs.rewards.guard"):
            scores, components = evaluate(guard(flaky))
        assert scores.tolist() == [3.0, 1.0]
        assert list(components) == ["flaky"]
        assert flaky.calls == 3
        assert [record.levelname for record in caplog.records] == ["WARNING"] * 2
        assert "'flaky' failed (attempt 1 of 3)" in caplog.text
        assert "ConnectionError: refused" in caplog.text

    @pytest.mark.parametrize("retries", [0, 1, 2])
    def test_a_failure_that_stays_names_everything(self, retries):
        flaky = Flaky(math.inf)
        with pytest.raises(RewardError) as caught:
            evaluate(guard(flaky, retries=retries))
        assert flaky.calls == retries + 1
        message = str(caught.value)
        for part in ("'flaky'", "once" if retries == 0 else f"{retries + 1} times", "2 completions"):
            assert part in message
        assert "ConnectionError: refused" in message
        assert "'a'" in message
        assert "'c d'" in message
        assert caught.value.__cause__ is flaky.error
        assert isinstance(caught.value, RuntimeError)

    def test_a_value_error_of_the_function_is_tried_again(self):
        """A judge's answer that is no JSON is a ValueError, and the next one may be good."""
        flaky = Flaky(1, error=json.JSONDecodeError("no", "", 0))
        assert evaluate(guard(flaky))[0].tolist() == [3.0, 1.0]

    @pytest.mark.parametrize("scores", [[math.nan, 1.0], [1.0], None, ["1", 1.0], np.zeros((2, 1))])
    def test_wrong_scores_are_not_tried_again(self, scores):
        calls = []

        def wrong(prompts, completions, **columns):
            calls.append(1)
            return scores

        with pytest.raises(ScoreError, match="reward 'wrong'"):
            evaluate(guard(wrong))
        assert len(calls) == 1
        assert issubclass(ScoreError, ValueError)

    @pytest.mark.parametrize("timeout", [None, 5.0])
    @pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(1)])
    def test_interrupts_pass_through(self, error, timeout):
        flaky = Flaky(math.inf, error=error)
        with pytest.raises(type(error)):
            evaluate(guard(flaky, timeout=timeout))
        assert flaky.calls == 1

    def test_the_waits_double(self, monkeypatch):
        waits = []
        monkeypatch.setattr("rlhf_envs.rewards.guard.time.sleep", waits.append)
        evaluate(Guarded(Flaky(3), retries=3, backoff=0.5))
        assert waits == [0.5, 1.0, 2.0]


class TestHanging:
    def test_a_hang_is_cut_off(self):
        release = threading.Event()
        calls = []

        def hang(prompts, completions, **columns):
            calls.append(threading.current_thread())
            release.wait(30)
            return [0.0] * len(prompts)

        started = time.perf_counter()
        with pytest.raises(
            RewardError, match=r"'hang' failed 2 times on 2 completions.*no answer in 0\.05 s"
        ) as caught:
            evaluate(guard(hang, timeout=0.05, retries=1))
        assert time.perf_counter() - started < 5
        assert isinstance(caught.value.__cause__, TimeoutError)
        assert len(calls) == 2
        assert all(thread.daemon for thread in calls), "a thread that hangs must not keep the process alive"
        release.set()
        for thread in calls:
            thread.join(5)

    def test_what_answers_in_time_is_the_same(self):
        assert evaluate(guard(Flaky(1), timeout=10.0))[0].tolist() == [3.0, 1.0]
        with pytest.raises(RewardError, match="refused"):
            evaluate(guard(Flaky(math.inf), timeout=10.0))


class TestComposition:
    def test_it_composes_and_keeps_names_and_components(self):
        plain, gold = Flaky(0, "length"), get_reward("gold")
        inside, outside = 0.5 * plain - 2 * gold, 0.5 * guard(plain) - 2 * guard(gold)
        around = guard(inside)
        expected = evaluate(inside)
        for reward in (outside, around):
            scores, components = evaluate(reward)
            assert reward.name == inside.name
            np.testing.assert_array_equal(scores, expected[0])
            assert list(components) == list(expected[1])

    def test_the_error_names_the_leaf_and_the_others_are_asked_once(self):
        good, bad = Flaky(0, "good"), Flaky(math.inf, "bad")
        with pytest.raises(RewardError, match="reward 'bad' failed 3 times"):
            evaluate(guard(good + 2 * bad))
        assert (good.calls, bad.calls) == (1, 3)

    def test_a_leaf_in_two_places_is_asked_once(self):
        leaf = Flaky(0)
        scores, _ = evaluate(guard(leaf + 0.5 * leaf))
        assert leaf.calls == 1
        assert scores.tolist() == [4.5, 1.5]

    def test_a_guard_inside_has_the_last_word(self):
        flaky = Flaky(math.inf)
        for around in (guard(guard(flaky, retries=0)), guard(1 + guard(flaky, retries=0))):
            flaky.calls = 0
            with pytest.raises(RewardError, match="failed once"):
                evaluate(around)
            assert flaky.calls == 1

    def test_columns_arrive_as_in_trl(self):
        seen = {}

        def trl(prompts, completions, reference, **kwargs):
            seen.update(prompts=prompts, completions=completions, reference=reference, **kwargs)
            return [1.0, 2.0]

        reward = guard(trl, timeout=10.0)
        assert reward.__name__ == "trl", "TRL labels the scores with this"
        assert reward(prompts=PROMPTS, completions=COMPLETIONS, reference=["r", "s"], label=[0, 1]).tolist() == [1, 2]
        assert seen == {"prompts": PROMPTS, "completions": COMPLETIONS, "reference": ["r", "s"], "label": [0, 1]}

    @pytest.mark.parametrize(("kwargs", "message"), [({"timeout": 0}, "above 0"), ({"retries": -1}, "at least 0")])
    def test_wrong_limits(self, kwargs, message):
        with pytest.raises(ValueError, match=message):
            Guarded(Flaky(0), **kwargs)


@pytest.mark.parametrize("kind", ["single", "batched"])
class TestInEnvironments:
    def test_a_passing_failure_leaves_the_episode_alone(self, kind):
        expected = end_episodes(make(kind, reward_fn=Flaky(0)), kind)[1]
        flaky = Flaky(2)
        assert np.array_equal(end_episodes(make(kind, reward_fn=flaky), kind)[1], expected)
        assert flaky.calls == 3

    def test_a_lasting_failure_names_the_environments(self, kind):
        env = make(kind, reward_fn=FunctionReward(Flaky(math.inf), "judge") + 1)
        with pytest.raises(RewardError, match=r"'judge' failed 3 times.*refused.*First prompt: 'c'") as caught:
            end_episodes(env, kind)
        assert "In environment 0 (row 2 of the data)" in str(caught.value)
        assert ("2 (row 2 of the data)." in str(caught.value)) == (kind == "batched")

    def test_a_bad_score_names_its_environment(self, kind):
        def nan_at_the_end(prompts, completions, **columns):
            return [0.0] * (len(prompts) - 1) + [math.nan]

        env = make(kind, reward_fn=FunctionReward(nan_at_the_end, "ok") * 0.5)
        with pytest.raises(ValueError, match="reward 'ok' returned nan") as caught:
            end_episodes(env, kind, index=3)
        row = 0 if kind == "single" else 2
        assert str(caught.value).endswith(f"In environment {row} (row 3 of the data).")

    def test_the_limits_are_arguments_of_the_environment(self, kind):
        flaky = Flaky(math.inf)
        with pytest.raises(RewardError, match="failed once"):
            end_episodes(make(kind, reward_fn=flaky, reward_retries=0), kind)
        assert flaky.calls == 1
        release = threading.Event()
        env = make(kind, reward_fn=lambda prompts, completions: release.wait(30), reward_timeout=0.05, reward_retries=0)
        with pytest.raises(RewardError, match=r"no answer in 0\.05 s.*reward_timeout"):
            end_episodes(env, kind)
        release.set()
        assert gym.make(ID, reward_timeout=60.0).spec.to_json()
        with pytest.raises(ValueError, match="above 0"):
            make(kind, reward_timeout=-1.0)

    def test_a_reward_function_set_later_is_guarded_too(self, kind):
        env, flaky = make(kind), Flaky(1)
        env.unwrapped.reward_fn = flaky
        end_episodes(env, kind)
        assert flaky.calls == 2
        assert env.unwrapped.reward_fn is flaky, "the environment shows what it was given"
