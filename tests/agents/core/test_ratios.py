"""Ratios of probabilities: those of `exp`, and finite where it overflows."""

from __future__ import annotations

import torch

from agents.core.ratios import MOST_NATS, ratio_of


def with_gradient(function, values):
    log_ratio = values.clone().requires_grad_()
    ratio = function(log_ratio)
    return ratio.detach(), torch.autograd.grad(ratio.sum(), log_ratio)[0]


def test_ratios_and_their_gradients_are_exactly_those_of_exp():
    values = torch.cat([torch.linspace(-200, MOST_NATS, 999), torch.tensor([0.0, 1e-7, -1e-7])])
    for ours, exact in zip(with_gradient(ratio_of, values), with_gradient(torch.exp, values), strict=True):
        assert torch.equal(ours, exact)


def test_ratios_that_overflow_end_at_a_bound_and_are_still_pulled_back():
    values = torch.tensor([MOST_NATS + 1, 108.6, 1e9])
    assert with_gradient(torch.exp, values)[0].tolist()[1:] == [torch.inf, torch.inf]
    ratio, gradient = with_gradient(ratio_of, values)
    assert torch.equal(ratio, torch.tensor(MOST_NATS).exp().expand(3))
    assert torch.equal(gradient, ratio)
    assert (1e6 * gradient[:1]).norm().isfinite(), "clipping divides by the norm"


def test_probability_0_and_what_is_no_number_stay_so():
    assert ratio_of(torch.tensor([-torch.inf])).item() == 0
    assert ratio_of(torch.tensor([torch.nan])).isnan().all()
