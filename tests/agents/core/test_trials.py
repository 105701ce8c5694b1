"""A kind of model is tried out once, and whatever may change what it computes makes another kind."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from types import MethodType
from typing import Any

import pytest
import torch
from torch import nn

from agents.core import trials
from agents.core.kv_cache import SlottedTrunk
from agents.core.policy import TokenPolicy
from agents.core.trials import try_once


@pytest.fixture(autouse=True)
def _nothing_has_passed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trials, "_passed", set())


@pytest.fixture
def tried(small_model: Callable[..., Any]) -> Callable[..., bool]:
    """Say whether a model would be tried out."""

    def tried(model: nn.Module, *about: Any) -> bool:
        calls: list[None] = []
        assert try_once(lambda: calls.append(None) or "", model, *about) == ""
        return bool(calls)

    return tried


def test_a_kind_is_tried_once_whatever_its_weights(tried: Callable[..., bool], small_model: Callable[..., Any]) -> None:
    assert tried(small_model("llama"), "slots", 40)
    assert not tried(small_model("llama", seed=1), "slots", 40)
    assert tried(small_model("llama"), "slots", 41)
    assert tried(small_model("llama"), "packing")
    assert tried(small_model("gpt2"), "slots", 40)


def test_what_fails_is_tried_again(small_model: Callable[..., Any]) -> None:
    reasons = iter(["no", "neither", ""])
    model = small_model("gpt2")
    assert [try_once(lambda: next(reasons), model) for _ in range(5)] == ["no", "neither", "", "", ""]


def exchange_a_layer(model: Any) -> None:
    model.base_model.h[1].mlp.act = nn.ReLU()


def set_a_field(model: Any) -> None:
    model.base_model.h[1].attn.is_causal = False


def set_the_configuration(model: Any) -> None:
    model.config.scale_attn_weights = False


def take_other_attention(model: Any) -> None:
    model.set_attn_implementation("eager")


def store_another_type(model: Any) -> None:
    model.base_model.h[1].to(torch.bfloat16)


CHANGES = [exchange_a_layer, set_a_field, set_the_configuration, take_other_attention, store_another_type]


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_model_is_of_another_kind(
    change: Callable[[Any], None], tried: Callable[..., bool], small_model: Callable[..., Any]
) -> None:
    assert tried(small_model("gpt2"))
    model = small_model("gpt2")
    change(model)
    assert tried(model)
    assert not tried(small_model("gpt2"))


def hook(block: nn.Module) -> None:
    block.register_forward_hook(lambda module, args, output: output)


def replace_forward(block: nn.Module) -> None:
    block.forward = MethodType(type(block).forward, block)


@pytest.mark.parametrize("put", [hook, replace_forward])
def test_a_model_with_code_put_into_it_is_tried_each_time(
    put: Callable[[nn.Module], None], tried: Callable[..., bool], small_model: Callable[..., Any]
) -> None:
    model = small_model("gpt2")
    put(model.base_model.h[1])
    assert tried(model) and tried(model)


def test_a_forward_that_its_class_got_is_tried(
    tried: Callable[..., bool], small_model: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = small_model("gpt2")
    assert tried(model)
    kind = type(model.base_model.h[0])
    own = kind.forward
    monkeypatch.setattr(kind, "forward", lambda self, *args, **kwargs: own(self, *args, **kwargs))
    assert tried(model)


def test_autocast_makes_another_kind(tried: Callable[..., bool], small_model: Callable[..., Any]) -> None:
    model = small_model("gpt2")
    assert tried(model)
    with torch.autocast("cpu", torch.bfloat16):
        assert tried(model)


def test_a_second_policy_tries_out_its_weights_alone(
    small_model: Callable[..., Any], token_spaces: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    kind, passes = type(small_model("gpt2").base_model), Counter[int]()
    own = kind.forward

    def count(self: Any, *args: Any, **kwargs: Any) -> Any:
        passes[seed] += 1
        return own(self, *args, **kwargs)

    monkeypatch.setattr(kind, "forward", count)
    for seed in (0, 1):
        policy = TokenPolicy(*token_spaces(20), lambda _: 1e-3, model=small_model("gpt2", seed))
        assert policy._actor.cache.enabled and policy._actor.packs
    assert passes == {0: 9, 1: 2}


def test_a_model_whose_slots_failed_warns_each_time(small_model: Callable[..., Any]) -> None:
    for _ in range(2):
        with pytest.warns(UserWarning, match="decodes without a KV cache"):
            assert not SlottedTrunk(small_model("bloom").base_model, 40).enabled
