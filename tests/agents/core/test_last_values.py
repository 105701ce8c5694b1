"""The values after a rollout are computed for the episodes that go on alone, and no number of a run changes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from stable_baselines3 import A2C, PPO

import agents
from agents import SequenceRolloutBuffer, TokenPolicy, make_vec_env
from agents.core.last_values import LastValues
from rlhf_envs.tasks.increasing_numbers import IncreasingNumbers
from rlhf_envs.vector_env import TextGenerationVectorEnv

NUMBERS, N_ENVS, N_STEPS = "rlhf/IncreasingNumbers-v0", 6, 15


class Echo(IncreasingNumbers):
    """Reply to every text."""

    def replies(self, dialogs: Any) -> list[str]:
        return ["7 7" for _ in dialogs]


def stock(cls: Any = PPO, env: Any = NUMBERS, policy: Any = None, **settings: Any) -> Any:
    if cls is PPO:
        settings |= {"batch_size": 45, "n_epochs": 2}
    return cls(
        TokenPolicy,
        make_vec_env(env, N_ENVS, seed=0),
        n_steps=N_STEPS,
        learning_rate=3e-3,
        gamma=0.9,
        rollout_buffer_class=SequenceRolloutBuffer,
        rollout_buffer_kwargs=settings.pop("buffer", {}),
        policy_kwargs=policy or {},
        seed=0,
        device="cpu",
        **settings,
    )


def registered(name: str, **settings: Any) -> Any:
    env = make_vec_env(NUMBERS, N_ENVS, seed=0)
    return agents.make(name, env, n_steps=N_STEPS, seed=0, device="cpu", learning_rate=3e-3, **settings)


MAKE = {
    "ppo": lambda: stock(),
    "a2c": lambda: stock(A2C),
    "shaped values": lambda: stock(buffer={"value_shaping": 0.5}),
    "critic of its own": lambda: stock(policy={"value": "separate"}),
    "head": lambda: stock(policy={"train": "head"}),
    "last block": lambda: stock(policy={"train": 1}),
    "adapters": lambda: stock(policy={"train": "lora", "lora": {"r": 2, "target_modules": ["c_attn"]}}),
    "bf16": lambda: stock(policy={"bf16": True}),
    "dialogs": lambda: stock(env=lambda num_envs: TextGenerationVectorEnv(num_envs, Echo())),
    "trpo": lambda: registered("trpo"),
    "maskable_ppo": lambda: registered("maskable_ppo"),
    "nlpo": lambda: registered("nlpo"),
    "ppo_lagrangian": lambda: registered("ppo_lagrangian", cost_limit=0.5, cost="repetition"),
    "reinforce": lambda: registered("reinforce"),
    "rloo": lambda: registered("rloo", group_size=2),
}


def learn(make: Any, monkeypatch: pytest.MonkeyPatch, lazily: bool) -> tuple[list[np.ndarray], list[Any]]:
    """Return rewards, advantages and returns of three rollouts with the weights at the end, and the values given."""
    arrays: list[np.ndarray] = []
    given: list[Any] = []
    with monkeypatch.context() as patches:
        agent = make()
        torch.nn.init.normal_(agent.policy.value_net.weight)
        if not lazily:
            patches.setattr(type(agent.policy), "await_last_values", lambda self: None)
        compute = agent.rollout_buffer.compute_returns_and_advantage

        def watched(last_values: torch.Tensor, dones: np.ndarray) -> None:
            given.append((last_values, dones))
            compute(last_values, dones)
            buffer = agent.rollout_buffer
            arrays.extend(array.copy() for array in (buffer.rewards, buffer.advantages, buffer.returns))

        agent.rollout_buffer.compute_returns_and_advantage = watched
        agent.learn(3 * N_ENVS * N_STEPS)
    return [*arrays, *(p.detach().numpy() for p in agent.policy.parameters())], given


@pytest.mark.parametrize("name", MAKE)
def test_a_run_is_the_same_to_the_last_bit_as_with_all_values_at_once(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    lazy, given = learn(MAKE[name], monkeypatch, lazily=True)
    eager, plain = learn(MAKE[name], monkeypatch, lazily=False)
    assert len(given) == 3 and all(type(values) is LastValues for values, _ in given)
    assert all(type(values) is torch.Tensor for values, _ in plain)
    assert 0 < sum(dones.sum() for _, dones in given) < 3 * N_ENVS, "some rows have ended, some go on"
    assert len(lazy) == len(eager)
    for one, other in zip(lazy, eager, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("name", ["ppo", "critic of its own", "reinforce"])
def test_prompts_of_new_episodes_are_not_encoded_for_values_that_nobody_reads(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    agent = MAKE[name]()
    widths: list[tuple[int, ...]] = []
    trunk = agent.policy._critic.module
    trunk.register_forward_pre_hook(lambda _, args, kwargs: widths.append(kwargs["input_ids"].shape), with_kwargs=True)
    _, callback = agent._setup_learn(10**6)
    callback.on_training_start({}, {})
    values_of, seen = agent.policy.values_of, []

    def watched(*args: Any) -> torch.Tensor:
        widths.clear()
        values = values_of(*args)
        seen.append(list(widths))
        return values

    monkeypatch.setattr(agent.policy, "values_of", watched)
    for _ in range(4):
        agent.collect_rollouts(agent.env, callback, agent.rollout_buffer, N_STEPS)
    if name == "reinforce":
        assert seen == [], "whole episodes need no value after a rollout"
    else:
        assert 0 < len(seen) <= 4
        assert all(shapes == [(N_ENVS, 1)] for shapes in seen), "one step of decoding, and no prompt"


def test_without_an_episode_that_goes_on_nothing_is_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    policy = stock().policy
    monkeypatch.setattr(policy, "values_of", lambda *_: pytest.fail("computed"))
    values = LastValues.of(policy, {"input_ids": torch.ones(3, 8)}).where_going_on(np.ones(3, bool))
    assert torch.equal(values, torch.zeros(3, 1))


def test_for_every_other_reader_they_are_a_tensor_of_all_values() -> None:
    """So a subclass of SB3's algorithms, or a buffer of a user's own, reads what it would without them."""
    agent = stock()
    torch.nn.init.normal_(agent.policy.value_net.weight)
    obs = agent.policy.obs_to_tensor(agent.env.reset())[0]
    expected = agent.policy.predict_values(obs).detach()
    with torch.no_grad():
        agent.policy.await_last_values()
        values = agent.policy.predict_values(obs)
        assert type(values) is LastValues
        assert type(agent.policy.predict_values(obs)) is torch.Tensor, "only the first call after a rollout"
    found = [values.clone(), values.detach(), values + 0, torch.cat([values[:2], values[2:]]), values.cpu()]
    for one in found:
        assert type(one) is torch.Tensor
        assert torch.equal(one, expected)
    assert values.shape == (N_ENVS, 1)
    np.testing.assert_array_equal(values.clone().cpu().numpy().flatten(), expected.numpy().flatten())
    np.testing.assert_array_equal(np.asarray(values), expected.numpy())
    assert values.tolist() == expected.tolist()
    assert float(values[0]) == expected[0]


@pytest.mark.parametrize("then", ["forward", "update", "gradients"])
def test_values_are_computed_at_once_where_no_rollout_has_just_ended(then: str) -> None:
    policy = stock().policy
    obs = policy.obs_to_tensor(make_vec_env(NUMBERS, 2, seed=0).reset())[0]
    policy.await_last_values()
    with torch.set_grad_enabled(then == "gradients"):
        if then == "forward":
            policy(obs)
        elif then == "update":
            policy.set_training_mode(True)
        values = policy.predict_values(obs)
    assert type(values) is torch.Tensor and values.policy is policy  # type: ignore[attr-defined]
