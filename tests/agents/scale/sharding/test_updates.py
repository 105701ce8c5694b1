"""Ranks that share the weights learn what ranks with copies of them learn."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from torch.distributed.tensor import DTensor

import agents
from agents.core import ranks
from agents.core.distribution import TokenDistribution
from agents.core.sharding import shard
from tests.agents.algorithms.test_dpo import pairs
from tests.forked import on_ranks

N_ENVS = 4
ROLLOUTS = 2
TOKENS = 5
PLAIN_ADAM = {"policy_kwargs": {"optimizer_kwargs": {"fused": False, "foreach": True}}}
CASES: dict[str, dict[str, Any]] = {
    "ppo": {"batch_size": 10, "n_epochs": 2, "kl_coef": 0.1, "kl_target": 1.0, "ent_coef": 0.01, "max_grad_norm": 0.1},
    "ppo, lora": {"batch_size": 10, "n_epochs": 2, "kl_coef": 0.1, "train": "lora", "max_grad_norm": 0.1},
    "ppo, last block": {"batch_size": 10, "n_epochs": 2, "kl_coef": 0.1, "train": 1},
    "ppo, heads": {"batch_size": 10, "n_epochs": 2, "train": "head"},
    "ppo, stopped by target_kl": {"batch_size": 10, "n_epochs": 6, "target_kl": 2e-3},
    "ppo, checkpointed": {"batch_size": 20, "n_epochs": 2, "gradient_checkpointing": True},
    "ppo, bfloat16": {"batch_size": 20, "n_epochs": 2, "train": "lora", "dtype": "bfloat16"},
    "ppo, plain Adam": {"batch_size": 20, "n_epochs": 2, **PLAIN_ADAM},
    "a2c": {"kl_coef": 0.1, "whiten_rewards": True, "max_grad_norm": 0.1},
    "maskable_ppo": {"batch_size": 20, "n_epochs": 2},
    "ppo_lagrangian": {"batch_size": 20, "n_epochs": 2, "cost": "repetition", "cost_limit": 0.1},
    "rloo": {"batch_size": 20, "group_size": 2, "ent_coef": 0.01, "normalize_advantage": True},
    "grpo": {"batch_size": 20, "group_size": 2, "loss_type": "grpo"},
    "online_dpo": {"batch_size": 20, "group_size": 2, "ent_coef": 0.01},
    "reinforce": {"baseline": "mean"},
    "awr": {"batch_size": 20, "max_grad_norm": 0.1},
    "dpo": {"batch_size": 20, "data": pairs(40)},
    "sft": {"batch_size": 20, "group_size": 2, "source": "best_of_n"},
}
QUICK = ("ppo", "ppo, lora", "ppo, last block")


def build(name: str, seed: int = 0) -> Any:
    env = agents.make_vec_env("rlhf/IncreasingNumbers-v0", N_ENVS // ranks.size(), max_new_tokens=TOKENS)
    return agents.make(name.split(",")[0], env, seed=seed, learning_rate=1e-3, n_steps=TOKENS, **CASES[name])


def learn(name: str, sharded: bool, rollouts: int = ROLLOUTS) -> dict[str, Any]:
    """Train, each environment with its own random numbers. Return what an agent has then, and the losses."""
    drawing = itertools.count()
    table = torch.rand(1000, N_ENVS, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    n = N_ENVS // ranks.size()
    sample = TokenDistribution.sample

    def draw(self: TokenDistribution, draws: torch.Tensor | None = None) -> torch.Tensor:
        begin = ranks.rank() * n
        return sample(self, table[next(drawing), begin : begin + n])

    agent = build(name)
    if sharded:
        shard(agent)
    losses: list[float] = []
    elsewhere: set[bool] = set()  # whether what the optimizer trains is sharded

    def watch(*_: object) -> None:
        elsewhere.update(
            isinstance(p, DTensor) for group in agent.policy.optimizer.param_groups for p in group["params"]
        )

    agent.policy.optimizer.register_step_pre_hook(watch)
    TokenDistribution.sample = draw  # type: ignore[method-assign]
    try:
        for _ in range(rollouts):
            agent.learn(TOKENS * N_ENVS, reset_num_timesteps=False)
            losses.append(agent.logger.name_to_value["train/loss"])
    finally:
        TokenDistribution.sample = sample  # type: ignore[method-assign]
    assert elsewhere == {sharded}
    moved = (
        max(float((p.detach() - first).abs().max()) for p, first in agent.policy.start_parameters().values())
        if ranks.first()
        else 1
    )
    assert moved > 1e-3, "the update is too small to compare"
    return {
        "loss": losses,
        "kl": agent.rollout_buffer.stats.get("kl", 0.0),  # rows of data have none
        "weights": {name: tensor.float().numpy() for name, tensor in agent.policy.state_dict().items()},
        "optimizer": {
            f"{n}/{key}": value.numpy()
            for n, values in agent.policy.optimizer.state_dict()["state"].items()
            for key, value in values.items()
        },
    }


@pytest.mark.parametrize("name", [pytest.param(a, marks=[] if a in QUICK else pytest.mark.slow) for a in CASES])
def test_ranks_with_shards_learn_what_ranks_with_copies_learn(name: str) -> None:
    plain, _ = on_ranks(learn, name, False)
    one, two = on_ranks(learn, name, True)
    np.testing.assert_allclose(one["loss"], plain["loss"], atol=1e-5)
    assert one["kl"] == pytest.approx(plain["kl"], abs=1e-5)
    assert one["weights"].keys() == plain["weights"].keys()
    for key, value in plain["weights"].items():
        np.testing.assert_allclose(one["weights"][key], value, rtol=0, atol=1e-5, err_msg=key)
        if not key.startswith("reference."):
            np.testing.assert_array_equal(two["weights"][key], one["weights"][key], err_msg=key)
    assert one["optimizer"].keys() == plain["optimizer"].keys()
    for key, value in plain["optimizer"].items():
        np.testing.assert_allclose(one["optimizer"][key], value, rtol=0, atol=1e-6, err_msg=key)
