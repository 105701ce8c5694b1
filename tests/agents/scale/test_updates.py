"""Ranks that each have a part of the data make the update that one process makes with all of it."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch

import agents
from agents.core import ranks
from agents.core.distribution import TokenDistribution
from rlhf_envs.rewards import FunctionReward, Whitened
from tests.forked import on_ranks

N_ENVS = 4
ROLLOUTS = 2
ALL = 10**6  # a batch_size that makes one minibatch of a rollout
ALGORITHMS: dict[str, dict[str, Any]] = {
    "ppo": {"batch_size": ALL, "n_epochs": 2, "kl_coef": 0.1, "kl_target": 1.0, "ent_coef": 0.01, "max_grad_norm": 0.1},
    "ppo, stopped by target_kl": {"batch_size": ALL, "n_epochs": 6, "target_kl": 2e-3},
    "a2c": {"kl_coef": 0.1, "whiten_rewards": True, "max_grad_norm": 0.1},
    "rloo": {"batch_size": ALL, "group_size": 2, "ent_coef": 0.01, "normalize_advantage": True},
    "grpo": {"batch_size": ALL, "group_size": 2, "loss_type": "grpo"},
    "online_dpo": {"batch_size": ALL, "group_size": 2, "ent_coef": 0.01},
    "sft": {"batch_size": ALL, "group_size": 2, "source": "best_of_n"},
    "reinforce": {"baseline": "mean"},
    "awr": {"batch_size": ALL, "max_grad_norm": 0.1},
    "maskable_ppo": {"batch_size": ALL, "n_epochs": 2},
    "nlpo": {"batch_size": ALL, "n_epochs": 2, "target_update": 1},
    "ppo_lagrangian": {"batch_size": ALL, "n_epochs": 2, "cost": "repetition", "cost_limit": 0.1},
}


def learn(name: str, seed: int = 0) -> tuple[dict[str, np.ndarray], int, int, float]:
    """Train, each environment with its own random numbers, whichever rank it is on.

    Returns weights, tokens, passes over a rollout, and the KL.
    """
    drawing = itertools.count()
    table = torch.rand(1000, N_ENVS, 1, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    n = N_ENVS // ranks.size()
    sample = TokenDistribution.sample

    def draw(self: TokenDistribution, draws: torch.Tensor | None = None) -> torch.Tensor:
        begin = ranks.rank() * n
        return sample(self, table[next(drawing), begin : begin + n])

    env = agents.make_vec_env("rlhf/IncreasingNumbers-v0", n, max_new_tokens=5)
    agent = agents.make(name.split(",")[0], env, seed=seed, learning_rate=1e-3, n_steps=5, **ALGORITHMS[name])
    TokenDistribution.sample = draw  # type: ignore[method-assign]
    try:
        agent.learn(ROLLOUTS * 5 * N_ENVS)
    finally:
        TokenDistribution.sample = sample  # type: ignore[method-assign]
    weights = {name: tensor.numpy().copy() for name, tensor in agent.policy.state_dict().items()}
    moved = max(float((p.detach() - first).abs().max()) for p, first in agent.policy.start_parameters().values())
    assert moved > 1e-3, "the update is too small to compare"
    return weights, agent.num_timesteps, agent._n_updates, agent.rollout_buffer.stats["kl"]


QUICK = ("ppo", "ppo, stopped by target_kl", "a2c", "rloo")


@pytest.mark.parametrize("name", [pytest.param(a, marks=[] if a in QUICK else pytest.mark.slow) for a in ALGORITHMS])
def test_two_ranks_with_halves_of_the_data_make_the_update_of_one_with_all(name: str) -> None:
    weights, tokens, updates, kl = learn(name)
    (one, *counted, one_kl), (two, *_) = on_ranks(learn, name)
    assert counted == [tokens, updates]
    if "target_kl" in ALGORITHMS[name]:
        assert ROLLOUTS < updates < ROLLOUTS * ALGORITHMS[name]["n_epochs"], "it never stopped, or at once"
    assert one_kl == pytest.approx(kl, abs=1e-5)
    for name, value in weights.items():
        np.testing.assert_array_equal(one[name], two[name], err_msg=name)
        np.testing.assert_allclose(one[name], value, rtol=0, atol=1e-6, err_msg=name)


def whiten() -> tuple[dict[str, Any], int]:
    reward = Whitened(FunctionReward(lambda completions, **_: [float(len(text)) for text in completions], name="long"))
    env = agents.make_vec_env("rlhf/IncreasingNumbers-v0", 2, max_new_tokens=5, reward_fn=reward)
    agent = agents.make("ppo", env, seed=0)
    counted = 0

    def count(found: dict[str, Any], _: Any) -> bool:
        nonlocal counted
        counted += int(found["dones"].sum())
        return True

    agent.learn(60, count)
    return reward.get_state(), counted


def test_a_whitened_reward_goes_on_with_the_scores_of_all_ranks() -> None:
    (one, counted), (two, other) = on_ranks(whiten)
    assert one == two
    assert one["count"] == counted + other
    assert one["squares"] > 0
