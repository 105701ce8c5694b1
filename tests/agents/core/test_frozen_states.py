"""The frozen blocks' output that decoding leaves, against a pass that computes it."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import agents
from agents.core.forward_pass import find_blocks

ID = "rlhf/IncreasingNumbers-v0"


def iterate(name, train, n=2, look=False, env=ID, **kwargs):
    """Train, compare the states of each rollout with a pass over its sequences, and count that pass's blocks.

    Args:
        look: ask the policy for other contexts in every step, between its own forward pass and the buffer's `add`.

    Returns:
        how often the first frozen block ran in each `compute_returns_and_advantage`.
    """
    agent = agents.make(name, env, n_envs=6, seed=0, train=train, learning_rate=1e-2, device="cpu", **kwargs)
    policy, buffer = agent.policy, agent.rollout_buffer
    blocks = find_blocks(policy.language_model.trunk, policy.language_model.config.num_hidden_layers)
    ran, counts, finish = [0], [], buffer.compute_returns_and_advantage
    # A block that only passes on computes no attention.
    blocks[0].attn.register_forward_pre_hook(lambda *_: ran.__setitem__(0, ran[0] + 1))

    def compute_returns_and_advantage(*args, **kwargs):
        before = ran[0]
        finish(*args, **kwargs)
        counts.append(ran[0] - before)
        if buffer.n_segments:
            chosen = np.arange(buffer.n_segments)
            obs = buffer._sequences(chosen)
            states, inside = policy.trunk_states(obs), obs["attention_mask"].bool()
            kept = buffer.trunk_states.read(chosen, inside.shape[1])
            torch.testing.assert_close(kept[inside], states[inside], atol=1e-5, rtol=1e-4)

    values_of = policy.values_of

    def last_values(*args):  # they belong to the rollout, but are computed after it
        before = ran[0]
        values = values_of(*args)
        ran[0] = before
        return values

    policy.values_of = last_values
    buffer.compute_returns_and_advantage = compute_returns_and_advantage

    def callback(found, _):
        if look:
            agent.predict({key: array[::-1].copy() for key, array in found["new_obs"].items()})
        return True

    agent.learn(n * agent.n_steps * agent.n_envs, callback=callback)
    return counts


@pytest.mark.parametrize(
    ("train", "settings"),
    [
        (1, dict(n_steps=5, value="separate")),  # episodes that the end of a rollout cuts
        ("head", dict(n_steps=14)),
        (1, dict(n_steps=8, env="rlhf/DialogBandit-v0")),  # replies
    ],
)
def test_decoding_leaves_what_a_pass_would_compute(train, settings):
    assert set(iterate("ppo", train, **settings)) == {0}


def test_episodes_that_waited_for_their_group_alone_are_encoded_again():
    """Prompts of a group are equal, and encoded once. A group that has to wait is handed out in a later rollout."""
    first, *later = iterate("grpo", 1, n=3, n_steps=14, group_size=3)
    assert first == 0
    assert max(later) > 0


def test_other_contexts_between_a_step_and_its_storing_cost_a_pass():
    assert min(iterate("ppo", 1, n_steps=5, look=True)) > 0


def test_a_cache_that_longer_contexts_switched_off_leaves_no_states():
    policy = agents.make("ppo", ID, n_envs=2, train=1, device="cpu").policy
    ids = torch.ones((2, policy.max_length), dtype=torch.long)
    with torch.no_grad():
        for enabled in (True, False):
            policy._actor.cache.enabled = enabled
            _, values, _ = policy.forward({"input_ids": ids, "attention_mask": torch.ones_like(ids)})
            assert (values.last_call is not None) == enabled
