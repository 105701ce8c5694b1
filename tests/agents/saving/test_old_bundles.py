"""Bundles in `old_bundles` were written by commit 3956fca, before modules moved into sub-packages."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import agents

FOLDER = Path(__file__).parent / "old_bundles"
EXPECTED = json.loads((FOLDER / "expected.json").read_text())
CONTEXTS = [[2], [5, 1], [3, 4]]


@pytest.mark.parametrize("name", sorted(EXPECTED))
def test_a_bundle_of_an_older_commit_gives_the_same_numbers_and_learns_on(name: str) -> None:
    """The older commit wrote its log-probabilities (of the Q agent: its values) of every action in three contexts."""
    env = agents.make_vec_env("rlhf/TokenBandit-v0", 4, seed=0)
    agent = agents.load(FOLDER / name, env=env)
    shape = (len(CONTEXTS), *agent.observation_space["input_ids"].shape)
    observation = {key: np.zeros(shape, np.int64) for key in ("input_ids", "attention_mask")}
    for row, context in enumerate(CONTEXTS):
        observation["input_ids"][row, : len(context)] = context
        observation["attention_mask"][row, : len(context)] = 1
    tensors, _ = agent.policy.obs_to_tensor(observation)
    with torch.no_grad():
        if name == "dqn":
            values = agent.q_net(tensors)
        else:
            distribution = agent.policy.get_distribution(tensors)
            actions = [torch.full((len(CONTEXTS),), action) for action in range(int(env.action_space.n))]
            values = torch.stack([distribution.log_prob(action) for action in actions], 1)
    np.testing.assert_allclose(values.numpy(), EXPECTED[name], atol=1e-5)
    before = agent.num_timesteps
    agent.learn(32, reset_num_timesteps=False)
    assert agent.num_timesteps >= before + 32
