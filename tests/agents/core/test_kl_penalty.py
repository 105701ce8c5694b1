"""The KL penalty: one charge for tokens and for whole completions, and the same estimate in a loss."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from agents.core.kl_penalty import charge, k3, k3_loss


def test_charging_an_episode_equals_charging_its_tokens():
    rewards, kl = np.array([0.0, 0.0, 2.0]), np.array([0.5, -0.25, 1.0])
    assert charge(rewards, kl, 0.1).tolist() == pytest.approx([-0.05, 0.025, 1.9])
    assert charge(rewards.sum(), kl.sum(), 0.1) == pytest.approx(charge(rewards, kl, 0.1).sum())


@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_a_charge_keeps_the_dtype_and_loses_no_digit_of_the_coefficient(kind):
    charged = charge(np.zeros(1, kind), np.ones(1, kind), 0.1)
    assert charged.dtype == kind
    assert charged[0] == -kind(0.1)


def test_the_penalty_in_a_loss_is_k3_and_pulls_the_policy_to_the_reference():
    log_prob = torch.tensor([-1.0, -2.0, -0.5], dtype=torch.float64, requires_grad=True)
    reference = torch.tensor([-1.0, -1.0, -3.0], dtype=torch.float64)
    loss = k3_loss(log_prob, reference)
    assert loss.detach().numpy() == pytest.approx(k3((log_prob.detach() - reference).numpy()))
    loss.sum().backward()
    ratio = (reference - log_prob.detach()).exp()
    assert torch.allclose(log_prob.grad, 1 - ratio)  # d k3 / d log pi, by hand


def test_k3_stays_finite_and_pulls_hard_where_the_policy_gave_a_token_up():
    log_prob, reference = torch.tensor([-120.0], requires_grad=True), torch.tensor([-1.0])
    loss = k3_loss(log_prob, reference)
    loss.sum().backward()
    assert 1e12 < loss.item() < 1e14
    assert -1e14 < log_prob.grad.item() < -1e12, "it is to rise"
    assert k3((log_prob.detach() - reference).numpy()).tolist() == pytest.approx(loss.tolist())
