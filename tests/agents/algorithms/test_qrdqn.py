"""QR-DQN for text: sb3-contrib's own update, from one pass a sequence."""

from __future__ import annotations

import numpy as np
import pytest
import sb3_contrib
import torch

from tests.agents.algorithms.test_dqn import build, naive


def test_the_update_is_sb3_contribs() -> None:
    agent = build("qrdqn", n_quantiles=5)
    assert isinstance(agent, sb3_contrib.QRDQN)
    assert type(agent).train is sb3_contrib.QRDQN.train
    assert agent.n_quantiles == 5


def test_quantiles_equal_one_row_a_state() -> None:
    agent = build("qrdqn", n_quantiles=5).learn(240)
    policy, batch = agent.policy, agent.replay_buffer.sample(40)
    with torch.no_grad():
        whole = policy.quantile_net(batch.observations)
        targets = policy.quantile_net_target(batch.next_observations)
        assert whole.shape == targets.shape == (40, 5, 32)
        for i in range(40):
            torch.testing.assert_close(
                whole[i], policy.quantile_net(naive(batch.observations, i))[0], atol=1e-5, rtol=1e-5
            )
            alone = policy.quantile_net_target(naive(batch.next_observations, i))[0]
            torch.testing.assert_close(targets[i], alone, atol=1e-5, rtol=1e-5)


def test_the_loss_equals_the_papers_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """Equation 10 of Dabney et al. 2017 in numpy, with the greedy token by the mean of the target's quantiles."""
    agent = build("qrdqn", n_quantiles=5).learn(240)
    policy, batch = agent.policy, agent.replay_buffer.sample(40)
    middles = (np.arange(5) + 0.5) / 5
    losses = []
    with torch.no_grad():
        for i in range(40):
            theta = policy.quantile_net(naive(batch.observations, i))[0, :, batch.actions[i, 0]].numpy()
            following = policy.quantile_net_target(naive(batch.next_observations, i))[0].numpy()
            greedy = following[:, following.mean(axis=0).argmax()]
            target = float(batch.rewards[i]) + (1 - float(batch.dones[i])) * greedy
            u = target[None, :] - theta[:, None]  # (quantile, target)
            huber = np.where(np.abs(u) <= 1, 0.5 * u**2, np.abs(u) - 0.5)
            losses.append((np.abs(middles[:, None] - (u < 0)) * huber).mean(axis=1).sum())
    monkeypatch.setattr(agent.replay_buffer, "sample", lambda *_, **__: batch)
    agent.train(gradient_steps=1, batch_size=40)
    assert agent.logger.name_to_value["train/loss"] == pytest.approx(np.mean(losses), abs=1e-5)


def test_the_quantiles_spread_and_their_mean_acts() -> None:
    agent = build("qrdqn", n_quantiles=5, gradient_steps=8).learn(1600)
    batch = agent.replay_buffer.sample(400)
    with torch.no_grad():
        quantiles = agent.policy.quantile_net(batch.observations).gather(2, batch.actions[:, None].expand(-1, 5, 1))
        values = agent.policy.acting_values(batch.observations)
        mean = agent.policy.quantile_net(batch.observations).mean(dim=1)
    torch.testing.assert_close(values, mean)
    assert (quantiles[:, -1] > quantiles[:, 0]).float().mean() > 0.9, "the highest lies above the lowest"


def test_there_is_at_least_one_quantile() -> None:
    with pytest.raises(ValueError, match="n_quantiles=0: expected at least 1"):
        build("qrdqn", n_quantiles=0)
