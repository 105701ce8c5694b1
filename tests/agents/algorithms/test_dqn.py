"""DQN for text: SB3's own update, from one pass a sequence."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import stable_baselines3
import torch

import agents
from rlhf_envs.tasks.token_bandit import CONTEXTS, completion_rewards, enumerate_completions

ID = "rlhf/IncreasingNumbers-v0"


def build(name: str = "dqn", **kwargs: Any) -> Any:
    settings: dict[str, Any] = dict(train_freq=10, gradient_steps=2, batch_size=64, learning_starts=0, top_k=12)
    settings |= dict(target_update_interval=120, learning_rate=1e-2)
    return agents.make(name, ID, n_envs=4, seed=0, device="cpu", **(settings | kwargs))


def naive(obs: dict[str, torch.Tensor], i: int) -> dict[str, torch.Tensor]:
    """State i alone, as an environment would show it."""
    ids = obs["input_ids"][obs["rows"][i], : obs["columns"][i] + 1][None]
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def best_return(agent: Any) -> tuple[float, float]:
    """The mean over all prompts of what the agent's best completions are worth, and of what the best there are."""
    best = np.mean([completion_rewards(prompt, enumerate_completions()).max() for prompt in CONTEXTS])
    mine = agents.generate(agent, agent.get_env(), indices=range(len(CONTEXTS)), deterministic=True)
    return float(np.mean([completion.reward for completion in mine])), float(best)


def test_the_update_is_sb3s() -> None:
    agent = build()
    assert isinstance(agent, stable_baselines3.DQN)
    assert type(agent).train is stable_baselines3.DQN.train


@pytest.mark.parametrize("top_k", [5, None])
def test_q_values_equal_one_row_a_state(top_k: int | None) -> None:
    agent = build(top_k=top_k).learn(240)
    policy, batch = agent.policy, agent.replay_buffer.sample(64)
    with torch.no_grad():
        whole = policy.q_net(batch.observations)
        targets = policy.q_net_target(batch.next_observations)
        for i in range(64):
            torch.testing.assert_close(whole[i], policy.q_net(naive(batch.observations, i))[0], atol=1e-5, rtol=1e-5)
            alone = policy.q_net_target(naive(batch.next_observations, i))[0]
            torch.testing.assert_close(targets[i], alone, atol=1e-5, rtol=1e-5)
    kept = targets.isfinite().sum(dim=1)
    assert (kept == (5 if top_k else 32)).all()
    assert whole.isfinite().all(), "the network that learns leaves no token out"
    assert not torch.allclose(whole, targets), "the target lags behind"


@pytest.mark.parametrize("n_steps", [1, 3])
def test_the_step_equals_the_gradient_of_a_naive_loss(n_steps: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stock `train` on a batch against the Huber loss of states encoded one by one."""
    agent = build(n_steps=n_steps, max_grad_norm=1e9).learn(240)
    policy, batch = agent.policy, agent.replay_buffer.sample(64)
    losses = []
    for i in range(64):
        q = policy.q_net(naive(batch.observations, i))[0, batch.actions[i, 0]]
        following = policy.q_net_target(naive(batch.next_observations, i)).max()
        error = float(batch.rewards[i]) + (1 - float(batch.dones[i])) * following.item() - q
        losses.append(0.5 * error**2 if abs(error.item()) < 1 else error.abs() - 0.5)
    loss = torch.stack(losses).mean()
    policy.optimizer.zero_grad()
    loss.backward()
    expected = {name: p.grad.clone() for name, p in policy.named_parameters() if p.grad is not None}
    monkeypatch.setattr(agent.replay_buffer, "sample", lambda *_, **__: batch)
    agent.train(gradient_steps=1, batch_size=64)
    assert agent.logger.name_to_value["train/loss"] == pytest.approx(loss.item(), abs=1e-5)
    assert any(name.startswith("q_head") for name in expected)
    assert any("h.0." in name for name in expected), "the trunk learns"
    for name, p in policy.named_parameters():
        if name in expected:
            torch.testing.assert_close(p.grad, expected[name], atol=1e-5, rtol=1e-4)


def test_the_target_moves_between_rollouts_as_sb3s_does() -> None:
    """Every 120 tokens, all of the way: it then is the network as it was before the update that follows."""
    agent = build()
    seen = []

    def note(*_: Any) -> None:
        pairs = zip(agent.q_net.parameters(), agent.q_net_target.parameters(), strict=True)
        seen.append(all(torch.equal(one, other) for one, other in pairs))

    agent.policy.optimizer.register_step_pre_hook(note)
    agent.learn(400)  # rollouts of 40 tokens, two gradient steps after each
    assert len(seen) == 20
    assert seen[0], "they begin alike"
    assert [i for i, same in enumerate(seen) if same and i > 3] == [4, 10, 16]
    assert agent._n_calls == 100


def test_exploring_is_the_references() -> None:
    """With an exploration rate of 1 every token is one that the reference keeps; uniform noise leaves them."""
    kept: dict[str, list[bool]] = {}
    for exploration in ("reference", "uniform"):
        agent = build(exploration=exploration, exploration_final_eps=1.0, gradient_steps=1, top_k=3).learn(400)
        batch = agent.replay_buffer.sample(300)
        base = agent.policy.base_log_probs(batch.observations).gather(1, batch.actions)
        kept[exploration] = base.isfinite().flatten().tolist()
    assert all(kept["reference"])
    assert np.mean(kept["uniform"]) == pytest.approx(3 / 32, abs=0.06)


def test_predict_never_explores() -> None:
    agent = build(exploration_final_eps=1.0).learn(200)
    assert agent.exploration_rate == 1.0
    observation = agent.get_env().reset()
    tokens = {tuple(agent.predict(observation)[0]) for _ in range(5)}
    assert len(tokens) == 1


def test_the_figures_of_a_rollout_are_logged_once(tmp_path: Any) -> None:
    from stable_baselines3.common.logger import configure

    agent = build()
    agent.set_logger(configure(str(tmp_path), ["csv"]))
    agent.learn(200)
    agent.logger.close()
    lines = (tmp_path / "progress.csv").read_text().splitlines()
    assert len(lines) == 1 + 5
    for tag in ("rlhf/reward", "rlhf/kl", "train/loss", "rollout/exploration_rate"):
        assert tag in lines[0]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (dict(beta=-1.0), "beta=-1.0: expected a number of at least 0"),
        (dict(exploration="boltzmann"), "exploration='boltzmann': expected 'reference' or 'uniform'"),
        (dict(n_steps=0), "n_steps=0: expected a number of at least 1"),
    ],
)
def test_wrong_arguments_are_named(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises((ValueError, TypeError), match=message):
        build(**wrong)


BANDIT = dict(learning_rate=3e-3, train_freq=3, gradient_steps=8, batch_size=1536, learning_starts=2000)
BANDIT |= dict(target_update_interval=1536, exploration_final_eps=0.1)


@pytest.mark.slow
def test_a_short_run_is_on_its_way_to_the_best_return() -> None:
    settings = BANDIT | dict(n_steps=3, batch_size=768, learning_starts=1000, target_update_interval=768)
    agent = agents.make("dqn", "rlhf/TokenBandit-v0", n_envs=128, seed=0, device="cpu", **settings)
    before, best = best_return(agent)
    agent.learn(12_000)
    after, _ = best_return(agent)
    assert after - before > 0.4 * (best - before), (before, after, best)
