"""Estimate the memory of a run from shapes alone: nothing is computed and no tensor is made.

What autograd keeps for the backward pass is counted in a pass of the model over *fake* tensors, which have a shape and
a type but no memory. (Tensors of the meta device have none either, but autocast does not know them.) So it is right for
every architecture, for adapters, frozen blocks and gradient checkpointing.
"""

from __future__ import annotations

import copy
import logging
import math
from collections.abc import Mapping
from contextlib import nullcontext
from typing import Any

import numpy as np
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from ..core.base_policy import LanguageModelPolicy
from ..core.distribution import LOGITS_AT_ONCE
from ..core.forward_pass import checkpointed, find_blocks, hidden_states
from ..core.graph_decode import layers_to_cast
from ..core.kv_cache import SlottedTrunk
from ..core.lora_layers import is_plain

__all__ = [
    "activation_bytes",
    "cache_bytes",
    "copy_bytes",
    "estimate_memory",
    "logit_bytes",
    "show_bytes",
    "state_bytes",
]

logger = logging.getLogger(__name__)


def estimate_memory(agent: Any) -> dict[str, int]:
    """Return the bytes that a run holds during an update, by what they are for; what is 0 is left out."""
    policy, buffer = agent.policy, getattr(agent, "rollout_buffer", None) or getattr(agent, "replay_buffer", None)
    parts = state_bytes(policy)
    if isinstance(policy, LanguageModelPolicy):
        rows = _rows_at_once(agent)
        config, itemsize = policy.language_model.config, 2 if policy.bf16 else 4
        parts["KV cache"] = cache_bytes(config, agent.n_envs, policy.max_length, itemsize)
        caches = {id(trunk): trunk.cache for trunk in (policy._actor, getattr(policy, "_critic", policy._actor))}
        parts["copies of weights"] = sum(copy_bytes(cache, policy.device, policy.bf16) for cache in caches.values())
        parts["activations"] = _policy_activations(policy, rows)
        parts["logits"] = logit_bytes(rows * policy.max_length, policy.language_model.vocab_size)
        parts["stored hidden states"] = _stored_bytes(agent)
    parts["buffer"] = 0 if buffer is None else _array_bytes(vars(buffer))
    return {name: size for name, size in parts.items() if size}


def _policy_activations(policy: LanguageModelPolicy, rows: int) -> int:
    """Return the bytes of the activations of a policy; 0, with a warning, for a model that refuses fake tensors."""
    trunks = [policy.language_model.trunk, getattr(policy, "value_trunk", None)]
    options = (rows, policy.max_length, policy.bf16, policy.gradient_checkpointing)
    try:
        return sum(activation_bytes(trunk, *options) for trunk in trunks if trunk is not None)
    except Exception as error:  # whatever a foreign model raises there; the model may train all the same
        name = type(policy.language_model.model).__name__
        logger.warning("the activations of %s are not counted (%s: %s)", name, type(error).__name__, error)
        return 0


def _rows_at_once(agent: Any) -> int:
    """Return how many contexts of full length a backward pass goes through at a time."""
    horizon = _horizon(agent)
    actions = getattr(agent, "batch_size", None) or getattr(agent, "n_steps", horizon) * agent.n_envs
    rows = int(-(-actions // horizon))
    if (supervised := getattr(agent.policy, "sft", None)) is not None:
        rows += -(-supervised.batch_size // agent.policy.max_length)
    part = getattr(agent.policy, "micro_batch_size", None)
    return rows if part is None else max(1, min(rows, part // agent.policy.max_length))


def _horizon(agent: Any) -> int:
    """Return the longest completion, in tokens."""
    env = agent.get_env()
    return int(env.get_attr("max_new_tokens", 0)[0] if env.has_attr("max_new_tokens") else agent.policy.max_length)


def _stored_bytes(agent: Any) -> int:
    """Return the bytes of the frozen blocks' output where the last blocks learn.

    It is kept beside the KV cache for each environment's context, and for a whole rollout.
    """
    policy = agent.policy
    if policy.language_model.n_frozen is None or not hasattr(policy, "trunk_states"):
        return 0
    contexts = agent.n_envs + agent.n_steps * agent.n_envs // _horizon(agent)
    return contexts * policy.max_length * policy.language_model.hidden_size * 4


def state_bytes(module: nn.Module) -> dict[str, int]:
    """Return the bytes of a policy's or a model's weights, of its reference, of gradients and of Adam's two moments."""
    sizes: dict[str, int] = {"weights": 0, "reference": 0}
    seen = set[int]()
    for name, tensor in module.state_dict(keep_vars=True).items():
        if id(tensor) not in seen:  # tied ones once
            seen.add(id(tensor))
            sizes["reference" if name.startswith("reference.") else "weights"] += _size(tensor)
    trained = sum(_size(parameter) for parameter in module.parameters() if parameter.requires_grad)
    return sizes | {"gradients": trained, "optimiser": 2 * trained}


def cache_bytes(config: Any, slots: int, length: int, itemsize: int) -> int:
    """Return the bytes of a KV cache of `slots` contexts of `length` tokens."""
    if not (all_heads := getattr(config, "num_attention_heads", 0)):  # a state-space model
        return 0
    heads = getattr(config, "num_key_value_heads", None) or all_heads
    size = getattr(config, "head_dim", None) or config.hidden_size // all_heads
    return int(2 * config.num_hidden_layers * heads * size * length * slots * itemsize)


def copy_bytes(cache: SlottedTrunk, device: torch.device, bf16: bool) -> int:
    """Return the bytes of the copies of weights that decoding reads.

    Those are the weights with LoRA adapters merged into them; or, where CUDA graphs decode under bfloat16 autocast, all
    linear layers in that type, since a graph would cast them anew at every step.
    """
    if not bf16:
        return sum(_size(layer.get_base_layer().weight) for layer in cache.adapted if is_plain(layer))
    if cache.graphs is None or not cache.graphs.usable(device):
        return 0
    cast = layers_to_cast(cache.trunk, torch.bfloat16)
    return sum(
        2 * parameter.numel() for layer in cast for parameter in (layer.weight, layer.bias) if parameter is not None
    )


def logit_bytes(tokens: int, vocab_size: int) -> int:
    """Return the bytes of a chunk of logits, of their log-probabilities and of their gradients, in float32."""
    return 3 * 4 * min(tokens * vocab_size, max(LOGITS_AT_ONCE, vocab_size))


def activation_bytes(trunk: Any, rows: int, length: int, bf16: bool, checkpointing: bool) -> int:
    """Return the bytes that autograd keeps of a pass over `rows` contexts of `length` tokens.

    Args:
        trunk: the base model of a causal language model; it may be on the meta device.
        bf16: the pass runs under bfloat16 autocast.
        checkpointing: of each block only the input is kept, and all of one block at a time.
    """
    n_blocks = trunk.config.get_text_config().num_hidden_layers
    blocks: list[nn.Module] = [*find_blocks(trunk, n_blocks)] if checkpointing else []
    whole = _kept(trunk, rows, length, bf16, [])
    return whole if not blocks else _kept(trunk, rows, length, bf16, blocks) + whole // len(blocks)


def _kept(trunk: Any, rows: int, length: int, bf16: bool, blocks: list[nn.Module]) -> int:
    """Return the bytes that autograd keeps, without the weights themselves."""
    memo: dict[int, Any] = {}
    with FakeTensorMode():
        for tensor in (*trunk.parameters(), *trunk.buffers()):
            fake = torch.empty(tensor.shape, dtype=tensor.dtype)
            memo[id(tensor)] = nn.Parameter(fake, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else fake
        shadow = copy.deepcopy(trunk, memo)
        own = {tensor.untyped_storage()._cdata for tensor in memo.values() if isinstance(tensor, torch.Tensor)}
        kept: dict[int, torch.Tensor] = {}  # by storage; the tensors stay, so that no storage's id is used again

        def keep(tensor: torch.Tensor) -> torch.Tensor:
            if (storage := tensor.untyped_storage()._cdata) not in own:
                kept.setdefault(storage, tensor)
            return tensor

        count = torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor)
        autocast = torch.autocast("cpu", torch.bfloat16, enabled=bf16)
        checkpointing = checkpointed([memo[id(block)] for block in blocks]) if blocks else nullcontext()
        with count, autocast, checkpointing:
            ids = torch.zeros(rows, length, dtype=torch.long)
            hidden_states(shadow, ids, torch.ones_like(ids))
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values())


def show_bytes(size: float) -> str:
    """Return a number of bytes as people read it, such as "3.1 GB" (of 2^30 bytes)."""
    if size < 2**20:
        return f"{math.ceil(size / 2**10)} kB"
    return f"{size / 2**20:,.0f} MB" if size < 2**30 else f"{size / 2**30:,.1f} GB"


def _size(tensor: torch.Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def _array_bytes(value: Any) -> int:
    if isinstance(value, Mapping):
        return sum(map(_array_bytes, value.values()))
    return value.nbytes if isinstance(value, np.ndarray | torch.Tensor) else 0
