"""Clipping, whitening, penalties: against hand-computed values and numpy, one at a time as well as in batches."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest

import rlhf_envs  # noqa: F401  # registers the environments
from rlhf_envs.rewards import FunctionReward, Guarded, Reward, evaluate_reward, register_reward
from rlhf_envs.rewards.shaping import Clipped, LengthPenalty, RepetitionPenalty, Whitened
from rlhf_envs.rewards.state import frozen_rewards, get_reward_state, set_reward_state


class Given(Reward):
    """The number that the completion says."""

    name = "given"

    def score(self, prompts, completions, **columns):
        return [float(completion) for completion in completions]


def scores_of(reward, *completions, **columns):
    return evaluate_reward(reward, ["p"] * len(completions), [str(c) for c in completions], columns)


def test_clipping_bounds_the_score_and_reports_it_beside_the_raw_one():
    scores, components = scores_of(Clipped(Given(), -1, 2), -5, 0.5, 7)
    assert scores.tolist() == [-1, 0.5, 2]
    assert {name: values.tolist() for name, values in components.items()} == {
        "given": [-5, 0.5, 7],
        "clipped_given": [-1, 0.5, 2],
    }
    assert scores_of(Clipped(Given(), high=2), -5, 7)[0].tolist() == [-5, 2]


def test_wrapped_rewards_compose_and_take_plain_functions_names_and_compositions():
    register_reward("given-for-shaping", Given)
    plain = Clipped(lambda prompts, completions, **_: [9.0] * len(prompts), high=1)
    total = 2 * Clipped("given-for-shaping", high=1) + Clipped(Given() * Given(), high=10) - plain
    scores, components = scores_of(total, 3, 4)
    assert scores.tolist() == [2 * 1 + 9 - 1, 2 * 1 + 10 - 1]
    assert components["clipped_given"].tolist() == [1, 1]
    assert components["clipped_(given * given)"].tolist() == [9, 10]


@pytest.mark.parametrize("sizes", [(400,), (1,) * 400, (7, 1, 92, 300)])
def test_whitening_divides_by_the_deviation_so_far_and_keeps_the_mean_so_far(sizes):
    drawn = np.random.default_rng(0).normal(5, 3, 400)
    reward, seen = Whitened(Given(), warm_up=2), 0
    for size in sizes:
        now = drawn[seen : seen + size]
        scores, components = scores_of(reward, *now)
        seen += size
        mean, deviation = drawn[:seen].mean(), drawn[:seen].std()
        expected = now if seen < 2 else (now - mean) / deviation + mean
        np.testing.assert_allclose(scores, expected, rtol=1e-9)
        np.testing.assert_allclose(components["given"], now)
    assert (reward.mean, reward.deviation) == pytest.approx((drawn.mean(), drawn.std()), rel=1e-12)


def test_a_whole_batch_keeps_its_mean_and_gets_deviation_one():
    drawn = np.random.default_rng(1).normal(-2, 10, 256)
    scores = scores_of(Whitened(Given()), *drawn)[0]
    assert scores.mean() == pytest.approx(drawn.mean())
    assert scores.std() == pytest.approx(1)


def test_few_and_constant_scores_pass_as_they_are():
    reward = Whitened(Given(), warm_up=4)
    assert [scores_of(reward, value)[0].tolist() for value in (1, 100, 1)] == [[1], [100], [1]]
    assert scores_of(Whitened(Given(), warm_up=2), *[3.0] * 5)[0].tolist() == [3.0] * 5
    assert scores_of(reward)[0].shape == (0,)


def test_frozen_whitening_scores_by_what_it_knows_and_learns_nothing():
    reward = Whitened(Given(), warm_up=2)
    scores_of(reward, 0, 2)  # mean 1, deviation 1
    with frozen_rewards():
        assert scores_of(reward, 9, 100)[0].tolist() == [9, 100]
        reward_with_spread = Whitened(Given(), warm_up=2)
        assert scores_of(reward_with_spread, 5, 6)[0].tolist() == [5, 6], "it has seen nothing yet"
    assert (reward.count, reward.mean, reward.deviation) == (2, 1, 1)


def test_an_environment_goes_on_with_the_statistics_of_its_reward():
    """So a run does too: bundles hold the environment's state."""

    def make():
        reward = 2 * Whitened(Given(), warm_up=2) + 1
        rows = [{"prompt": "1"}]
        return reward, gym.make("rlhf/IncreasingNumbers-v0", reward_fn=Guarded(reward), data=rows).unwrapped.episodes

    first, episodes = make()
    scores_of(first, 1, 2, 4)
    state = episodes.get_state()
    second, others = make()
    others.set_state(state)
    expected = scores_of(first, 8, 16)[0]
    np.testing.assert_array_equal(scores_of(second, 8, 16)[0], expected)
    others.set_state({name: value for name, value in state.items() if name != "reward"})  # of an older release


def test_state_that_has_no_place_any_more_is_reported(caplog):
    before = Whitened(Given())
    scores_of(before, 1, 2)
    set_reward_state(Given(), get_reward_state(before))
    assert "the saved state of the reward at /Whitened has no place" in caplog.text


def test_length_penalty_counts_what_is_beyond_the_limits():
    texts = ["", "one", "one two three", "one two three four five"]
    assert scores_of(LengthPenalty(longest=3), *texts)[0].tolist() == [0, 0, 0, -2]
    assert scores_of(LengthPenalty(shortest=2), *texts)[0].tolist() == [-2, -1, 0, 0]
    assert scores_of(LengthPenalty(longest=4, shortest=3, unit="characters"), " 很好看", "电影很好看")[0].tolist() == [
        0,
        -1,
    ]


def test_repetition_penalty_is_the_share_of_ngrams_said_before():
    assert scores_of(RepetitionPenalty(1), "a b c", "a a a a", "")[0].tolist() == [0, -3 / 4, 0]
    assert scores_of(RepetitionPenalty(2), "so good so good so good")[0].tolist() == [2 / 5 - 1]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Clipped(Given()), "pass low, high or both"),
        (lambda: Clipped(Given(), 2, 1), "low must be below high"),
        (lambda: Clipped(3, 0, 1), "expected a reward, .* got 3"),
        (lambda: Clipped("os:system", 0, 1), "'os:system' is an address"),
        (lambda: Clipped("no-such-reward", 0, 1), "unknown reward 'no-such-reward'"),
        (lambda: Whitened(Given(), warm_up=1), "warm_up must be a whole number of at least 2"),
        (lambda: LengthPenalty(), "pass longest, shortest or both"),
        (lambda: LengthPenalty(longest=2, shortest=3), "longest must be a whole number of at least 3"),
        (lambda: LengthPenalty(3, unit="tokens"), "unit must be"),
        (lambda: RepetitionPenalty(0), "n must be a whole number"),
    ],
)
def test_wrong_arguments_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_a_wrong_score_inside_is_reported_under_the_inner_name():
    broken = FunctionReward(lambda prompts, completions, **_: [float("nan")] * len(prompts), "broken")
    with pytest.raises(ValueError, match="reward 'broken' returned nan for completion 1"):
        scores_of(Whitened(Clipped(broken, 0, 1)), "x")
