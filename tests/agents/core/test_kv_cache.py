"""The slotted cache against a full recompute."""

from __future__ import annotations

import copy
import warnings

import pytest
import torch

from agents.core import kv_cache
from agents.core.forward_pass import hidden_states
from agents.core.kv_cache import SlottedTrunk
from agents.core.language_model import LanguageModel


def _recompute(trunk, ids, lengths):
    mask = (torch.arange(ids.shape[1]) < lengths[:, None]).long()
    with torch.no_grad():
        return hidden_states(trunk, ids, mask)[torch.arange(len(ids)), lengths - 1]


def _walk(trunk, slotted, n_steps=24, batch=5, length=40):
    """Ragged rows that grow by a token or by several, stand still, shrink, are reset or replaced; yields each error."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(0, 50, (batch, length), generator=generator)
    lengths = torch.tensor([3, 5, 1, 7, 2])
    for step in range(n_steps):
        yield (slotted(ids, lengths) - _recompute(trunk, ids, lengths)).abs().max().item()
        lengths = lengths + (torch.arange(batch) != step % 7)  # one row stands still
        if step % 3 == 1:  # two rows are replied to
            lengths[[(step + 1) % batch, (step + 3) % batch]] += torch.tensor([step % 6, 2])
            lengths.clamp_(max=length)
        if step % 4 == 3:  # one row is reset to a new context
            row = step % batch
            ids[row] = torch.randint(0, 50, (length,), generator=generator)
            lengths[row] = 1 + step % 3
        if step % 5 == 4:  # one row begins anew behind the first two thirds of its context, and another begins likewise
            row, kept = (step + 2) % batch, 2 * int(lengths[(step + 2) % batch]) // 3
            ids[row, kept:] = (ids[row, kept:] + 1) % 50
            ids[(row + 1) % batch], lengths[(row + 1) % batch] = ids[row], lengths[row]
        if step == 9:  # one row's past is rewritten under the same length
            ids[1, 0] = (ids[1, 0] + 1) % 50
        if step == 17:  # one row becomes shorter
            lengths[2] //= 2
        if step == 12:  # the weights change
            with torch.no_grad():
                for parameter in trunk.parameters():
                    parameter.mul_(1.05)


def test_slots_equal_a_full_recompute(slotted_shape, small_model):
    trunk = LanguageModel(small_model(slotted_shape)).trunk
    slotted = SlottedTrunk(trunk, 40)
    assert slotted.enabled
    assert max(_walk(trunk, slotted)) < 5e-6


def test_slots_equal_a_full_recompute_where_numpy_cannot_look(small_model, monkeypatch):
    monkeypatch.setattr(kv_cache, "as_array", lambda tensor: tensor)  # as on a GPU
    trunk = LanguageModel(small_model("gpt2")).trunk
    assert max(_walk(trunk, SlottedTrunk(trunk, 40))) < 5e-6


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


def _watched(trunk, length):
    """Return the slotted trunk, and a list of the `(batch, width)` that the trunk encodes from now on."""
    slotted = SlottedTrunk(trunk, length)
    shapes: list[tuple[int, ...]] = []

    def look(module, args, kwargs):
        shapes.append(tuple(kwargs["input_ids"].shape))

    trunk.register_forward_pre_hook(look, with_kwargs=True)
    return slotted, shapes


def test_growing_contexts_are_decoded_one_token_at_a_time(small_model):
    slotted, shapes = _watched(small_model("gpt2").base_model, 20)
    ids = torch.randint(0, 50, (4, 20))
    lengths = torch.tensor([3, 6, 2, 4])
    for step in range(5):
        slotted(ids, lengths + step)
        slotted(ids, lengths + step)  # the same question again costs nothing
    assert shapes == [(4, 6), (4, 1), (4, 1), (4, 1), (4, 1)]


def test_replies_are_encoded_alone_in_one_batch_while_other_rows_decode(small_model):
    trunk = small_model("llama").base_model
    slotted, shapes = _watched(trunk, 40)
    ids = torch.randint(0, 50, (4, 40))
    lengths = torch.tensor([3, 16, 20, 9])
    slotted(ids, lengths)
    lengths = lengths + torch.tensor([5, 1, 8, 0])  # the first row has fewer tokens than the longest reply
    torch.testing.assert_close(slotted(ids, lengths), _recompute(trunk, ids, lengths), atol=1e-5, rtol=1e-4)
    assert shapes[:3] == [(4, 20), (4, 1), (2, 8)]
    shapes.clear()
    for _ in range(3):  # what was encoded is there for the next turns
        lengths = lengths + torch.tensor([3, 3, 3, 1])
        hidden = slotted(ids, lengths)
    assert shapes == [(4, 1), (3, 3)] * 3
    torch.testing.assert_close(hidden, _recompute(trunk, ids, lengths), atol=1e-5, rtol=1e-4)


def test_a_context_that_became_shorter_is_not_taken_for_the_longer_one(small_model):
    trunk = small_model("gpt2").base_model
    slotted, ids = SlottedTrunk(trunk, 20), torch.randint(0, 50, (2, 20))
    for lengths in (torch.tensor([9, 6]), torch.tensor([4, 6]), torch.tensor([1, 6]), torch.tensor([9, 2])):
        torch.testing.assert_close(slotted(ids, lengths), _recompute(trunk, ids, lengths), atol=1e-5, rtol=1e-4)


def test_a_new_episode_keeps_the_system_prompt_of_the_last_one(small_model):
    trunk = small_model("qwen3").base_model
    slotted, shapes = _watched(trunk, 30)
    ids = torch.randint(0, 50, (3, 30))
    slotted(ids, torch.tensor([28, 25, 30]))
    ids[:, 18:] = (ids[:, 18:] + 1) % 50  # all begin anew, behind 18 equal tokens
    ids[2, 3:] = (ids[2, 3:] + 1) % 50  # or behind 3, which are too few to keep
    lengths = torch.tensor([22, 24, 20])
    torch.testing.assert_close(slotted(ids, lengths), _recompute(trunk, ids, lengths), atol=1e-5, rtol=1e-4)
    assert shapes[:3] == [(3, 30), (1, 20), (2, 6)]


def test_equal_contexts_are_encoded_once(small_model):
    trunk = small_model("llama").base_model
    slotted, shapes = _watched(trunk, 30)
    prompts = torch.randint(0, 50, (2, 30))
    ids, lengths = prompts.repeat_interleave(4, dim=0), torch.tensor([20] * 4 + [12] * 4)
    ids[4:, 12:] = torch.randint(0, 50, (4, 18))  # padding does not make contexts unequal
    for _ in range(2):  # two groups, and then other ones of the same length
        hidden = slotted(ids, lengths)
        assert (hidden[:4] == hidden[0]).all() and (hidden[4:] == hidden[4]).all()
        torch.testing.assert_close(hidden, _recompute(trunk, ids, lengths), atol=1e-5, rtol=1e-4)
        ids = (ids + 1) % 50
    assert [shape for shape in shapes if shape[0] < 8] == [(2, 20)] * 2
    ids = (ids - 1) % 50
    ids[:, 12:] = torch.randint(0, 50, (8, 18))  # each completion is its own
    lengths = torch.tensor([23, 20, 21, 24, 13, 14, 17, 12])
    torch.testing.assert_close(slotted(ids, lengths), _recompute(trunk, ids, lengths), atol=1e-5, rtol=1e-4)


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


def test_exchanged_weights_and_layers_empty_the_slots(small_model):
    trunk = small_model("gpt2").base_model
    slotted = SlottedTrunk(trunk, 20)
    ids, lengths = torch.randint(0, 50, (2, 20)), torch.tensor([3, 6])
    slotted(ids, lengths)
    trunk.h[0].mlp.c_fc.weight = torch.nn.Parameter(2 * trunk.h[0].mlp.c_fc.weight)
    torch.testing.assert_close(slotted(ids, lengths + 1), _recompute(trunk, ids, lengths + 1), atol=1e-5, rtol=1e-4)
    trunk.h[1] = copy.deepcopy(trunk.h[0])
    trunk.h[1].attn.layer_idx = 1
    torch.testing.assert_close(slotted(ids, lengths + 2), _recompute(trunk, ids, lengths + 2), atol=1e-5, rtol=1e-4)


def test_what_stands_behind_a_context_does_not_matter(small_model):
    trunk = small_model("gpt2").base_model
    slotted, shapes = _watched(trunk, 20)
    ids, lengths = torch.randint(0, 50, (3, 20)), torch.tensor([3, 6, 2])
    for step in range(3):  # other padding each time
        ids[:, 9:] = step
        hidden = slotted(ids, lengths + step)
    assert shapes == [(3, 6), (3, 1), (3, 1)]
    torch.testing.assert_close(hidden, _recompute(trunk, ids, lengths + 2), atol=1e-5, rtol=1e-4)


def test_a_failure_in_the_middle_leaves_no_stale_slots(small_model, monkeypatch):
    trunk = small_model("gpt2").base_model
    slotted = SlottedTrunk(trunk, 20)
    ids, lengths = torch.randint(0, 50, (2, 20)), torch.tensor([3, 6])
    slotted(ids, lengths)
    with monkeypatch.context() as patch:
        patch.setattr(slotted, "_extend", lambda *_: (_ for _ in ()).throw(MemoryError))
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
