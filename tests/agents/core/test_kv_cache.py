"""The slotted cache against a full recompute."""

from __future__ import annotations

import warnings

import pytest
import torch

from agents.core.kv_cache import SlottedTrunk
from agents.core.language_model import LanguageModel, hidden_states


def _recompute(trunk, ids, lengths):
    mask = (torch.arange(ids.shape[1]) < lengths[:, None]).long()
    with torch.no_grad():
        return hidden_states(trunk, ids, mask)[torch.arange(len(ids)), lengths - 1]


def _walk(trunk, slotted, n_steps=24, batch=5, length=40):
    """Ragged rows that grow, are reset, stand still, are replaced, while the weights change once; yields each error."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(0, 50, (batch, length), generator=generator)
    lengths = torch.tensor([3, 5, 1, 7, 2])
    for step in range(n_steps):
        yield (slotted(ids, lengths) - _recompute(trunk, ids, lengths)).abs().max().item()
        lengths = lengths + (torch.arange(batch) != step % 7)  # one row stands still
        if step % 4 == 3:  # one row is reset to a new context
            row = step % batch
            ids[row] = torch.randint(0, 50, (length,), generator=generator)
            lengths[row] = 1 + step % 3
        if step == 9:  # one row's past is rewritten under the same length
            ids[1, 0] = (ids[1, 0] + 1) % 50
        if step == 12:
            with torch.no_grad():
                for parameter in trunk.parameters():
                    parameter.mul_(1.05)


def test_slots_equal_a_full_recompute(slotted_shape, small_model):
    trunk = LanguageModel(small_model(slotted_shape)).trunk
    slotted = SlottedTrunk(trunk, 40)
    assert slotted.enabled
    assert max(_walk(trunk, slotted)) < 5e-6


def test_unslottable_models_warn_once_and_take_the_plain_path(plain_shape, small_model):
    trunk = LanguageModel(small_model(plain_shape)).trunk
    with pytest.warns(UserWarning, match="decodes without a KV cache") as caught:
        slotted = SlottedTrunk(trunk, 40)
    assert len(caught) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert max(_walk(trunk, slotted)) < 5e-6


def test_a_sliding_window_that_no_context_reaches_is_slotted(small_model):
    assert SlottedTrunk(small_model("mistral-sliding").base_model, 8).enabled


def test_growing_contexts_are_decoded_one_token_at_a_time(small_model):
    trunk = small_model("gpt2").base_model
    slotted = SlottedTrunk(trunk, 20)
    widths: list[int] = []
    trunk.register_forward_pre_hook(lambda m, a, kwargs: widths.append(kwargs["input_ids"].shape[1]), with_kwargs=True)
    ids = torch.randint(0, 50, (4, 20))
    lengths = torch.tensor([3, 6, 2, 4])
    for step in range(5):
        slotted(ids, lengths + step)
        slotted(ids, lengths + step)  # the same question again costs nothing
    assert widths == [6, 1, 1, 1, 1]


def test_an_optimiser_step_empties_the_slots(small_model):
    trunk = small_model("gpt2").base_model
    slotted = SlottedTrunk(trunk, 20)
    ids, lengths = torch.randint(0, 50, (2, 20)), torch.tensor([3, 6])
    slotted(ids, lengths)
    for fused in (False, True):
        optimizer = torch.optim.Adam(trunk.parameters(), lr=0.01, fused=fused)
        for parameter in trunk.parameters():
            parameter.grad = torch.ones_like(parameter)
        optimizer.step()
        lengths = lengths + 1
        torch.testing.assert_close(slotted(ids, lengths), _recompute(trunk, ids, lengths), atol=1e-5, rtol=1e-4)


def test_a_failure_in_the_middle_leaves_no_stale_slots(small_model, monkeypatch):
    trunk = small_model("gpt2").base_model
    slotted = SlottedTrunk(trunk, 20)
    ids, lengths = torch.randint(0, 50, (2, 20)), torch.tensor([3, 6])
    slotted(ids, lengths)
    with monkeypatch.context() as patch:
        patch.setattr(slotted, "_decode", lambda: (_ for _ in ()).throw(MemoryError))
        with pytest.raises(MemoryError):
            slotted(ids, lengths + 1)
    expected = _recompute(trunk, ids, lengths + 1)
    torch.testing.assert_close(slotted(ids, lengths + 1), expected, atol=1e-5, rtol=1e-4)


def test_inference_mode_in_between_does_no_harm(small_model):
    trunk = small_model("gpt2").base_model
    slotted = SlottedTrunk(trunk, 20)
    ids, lengths = torch.randint(0, 50, (2, 20)), torch.tensor([3, 6])
    with torch.inference_mode():
        slotted(ids, lengths)
    expected = _recompute(trunk, ids, lengths + 1)
    torch.testing.assert_close(slotted(ids, lengths + 1), expected, atol=1e-5, rtol=1e-4)
