"""Credit by turn: what is still to come from a turn on, compared with the same turn of other dialogs."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import agents
from agents.algorithms.common.credit import Turns, check_credit, turn_numbers
from agents.core.vec_env import make_vec_env
from rlhf_envs import Reply, TextGenerationVectorEnv
from rlhf_envs.tasks import WordTask

# Two episodes: one of two turns (a reply of two tokens between them), one of a single turn.
EPISODES = np.array([0, 0, 0, 0, 1, 1])[:, None]
COLUMNS = np.array([0, 1, 4, 5, 0, 1])[:, None]
REWARDS = np.array([0.0, 1.0, 0.0, 4.0, 0.0, 3.0])[:, None]


def test_a_turn_ends_where_tokens_that_are_not_the_agents_follow_and_where_an_episode_ends():
    numbers = turn_numbers(torch.tensor(EPISODES[:, 0]), torch.tensor(COLUMNS[:, 0]))
    assert numbers.tolist() == [0, 0, 1, 1, 2, 2]


def test_returns_by_turn_are_the_rewards_from_the_turn_on_and_0_after_the_last():
    turns = Turns.of(REWARDS, EPISODES, COLUMNS)
    assert turns.returns.tolist() == [[5, 4], [3, 0]]
    assert turns.spread(turns.returns)[:, 0].tolist() == [5, 5, 4, 4, 3, 3]
    less_the_mean = turns.compared(lambda scores: scores - scores.mean())
    assert less_the_mean[:, 0].tolist() == [1, 1, 2, 2, -1, -1]


class Talk(WordTask):
    """Pay by the turn for b, with a word of the user in between."""

    name, words, prompts = "talk", ("a", "b", "c"), ("a", "c")
    max_prompt_tokens, max_new_tokens, max_turns = 1, 12, 3

    def reward(self, max_new_tokens):
        return lambda completions, **columns: [0.5] * len(completions)

    def replies(self, dialogs):
        return [Reply("c", reward=d.messages[-1]["content"].count("b")) for d in dialogs]


def talking(name, **kwargs):
    """Make an agent, and play rollouts without an update until its buffer gives episodes out."""
    env = make_vec_env(lambda num_envs: TextGenerationVectorEnv(num_envs, Talk()), 8, seed=0)
    agent = agents.make(name, env, seed=0, device="cpu", n_steps=16, credit="turn", **kwargs)
    callback = agent._setup_learn(10_000, None)[1]
    callback.on_training_start({}, {})
    while not agent.rollout_buffer.n_segments:
        agent.collect_rollouts(agent.env, callback, agent.rollout_buffer, agent.n_steps)
    return agent


def naive_returns(buffer, rewards):
    """The sum of an action's later rewards in its episode, and of those of its own turn."""
    episodes, columns, found = buffer.segments[:, 0], buffer.columns[:, 0], []
    for at in range(len(episodes)):
        start = at
        while start > 0 and episodes[start - 1] == episodes[at] and columns[start - 1] == columns[start] - 1:
            start -= 1
        found.append(rewards[start:][episodes[start:] == episodes[at]].sum())
    return np.array(found)


def test_reinforce_credits_a_token_with_the_rewards_from_its_turn_on():
    agent = talking("reinforce", kl_coef=0.0, baseline="none", normalize_advantage=False)
    buffer = agent.rollout_buffer
    advantages, returns = agent._advantages(buffer)
    expected = naive_returns(buffer, buffer.rewards[:, 0])
    assert len({*buffer.rewards[:, 0].tolist()}) > 2, "there are rewards of turns"
    assert advantages[:, 0] == pytest.approx(expected)
    assert returns[:, 0] == pytest.approx(expected)


@pytest.mark.parametrize("name", ["rloo", "grpo"])
def test_groups_are_compared_turn_by_turn(name):
    extra = {"scale_rewards": False} if name == "grpo" else {}
    agent = talking(name, group_size=4, kl_coef=0.0, **extra)
    buffer = agent.rollout_buffer
    advantages = agent._advantages(buffer)[0][:, 0]
    returns = naive_returns(buffer, buffer.rewards[:, 0])
    first = np.append(True, np.diff(buffer.segments[:, 0]) > 0)
    of_first = np.flatnonzero(first)
    for group in of_first.reshape(-1, 4):  # the first turn of each episode of a group
        mean = returns[group].mean()
        scale = 4 / 3 if name == "rloo" else 1.0  # less the mean of the others
        assert advantages[group] == pytest.approx((returns[group] - mean) * scale, abs=1e-5)
    samples = next(buffer.get(None))
    assert torch.equal(samples.turns, turn_numbers(*(torch.tensor(a[:, 0]) for a in (buffer.segments, buffer.columns))))


def test_rloo_clips_the_ratio_of_a_turn_not_of_a_whole_dialog():
    agent = talking("rloo", group_size=2)
    buffer = agent.rollout_buffer
    buffer.advantages, buffer.returns = (a.astype(np.float32) for a in agent._advantages(buffer))
    samples = next(buffer.get(None))
    samples = samples._replace(old_log_prob=samples.old_log_prob - 0.01 * torch.arange(len(samples.actions)))
    loss, _ = agent._loss(samples)
    log_prob = agent.policy.evaluate_actions(samples.observations, samples.actions)[1]
    surrogates = []
    for turn in range(int(samples.turns.max()) + 1):
        mine = samples.turns == turn
        ratio, advantage = (log_prob - samples.old_log_prob)[mine].sum().exp(), samples.advantages[mine][0]
        surrogates.append(torch.minimum(ratio * advantage, ratio.clamp(0.8, 1.2) * advantage))
    assert loss.item() == pytest.approx(-torch.stack(surrogates).mean().item(), abs=1e-5)


def test_credit_has_two_values():
    with pytest.raises(ValueError, match="credit='token': expected 'episode' or 'turn'"):
        check_credit("token")
    with pytest.raises(TypeError, match="credit='token': expected 'episode' or 'turn'"):
        agents.make("rloo", "rlhf/IncreasingNumbers-v0", n_envs=4, credit="token", device="cpu")
