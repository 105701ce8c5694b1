"""Shard a policy over the ranks of a data-parallel run, with FSDP2 (`torch.distributed.fsdp.fully_shard`).

Ranks draw tokens in steps of their own: one fills a slot of its KV cache where another decodes. So a rollout needs the
whole model on every rank, and asks nobody. What is sharded is all that a rollout does not read, and the update:

| | held by every rank |
|---|---|
| rollout | the whole weights, and a shard of the weights, the optimizer's state and the reference |
| the reference's pass over a rollout | the same, with the reference's values in the place of the whole weights |
| update | shards of the weights, their gradients and the optimizer's state; one block whole at a time |

The policy has two copies of its networks that take turns. The *acting* one has plain parameters, whose memory is freed
for an update and filled by an all-gather after it. The *learning* one is sharded block by block, and is what the
optimizer knows. Outside of `learn` the policy of the first rank is as without sharding: there the shards are gathered.
"""

from __future__ import annotations

import copy
import ctypes
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from . import ranks
from .forward_pass import find_blocks
from .trunk import Trunk

if TYPE_CHECKING:
    from torch.distributed.tensor import DTensor

__all__ = ["Shards", "shard", "whole"]

M_MMAP_THRESHOLD = -3  # of malloc.h


def shard(agent: Any) -> None:
    """Let an agent that is made train with sharded weights from its next `learn` on. Call it on every rank.

    Raises:
        ValueError: there is one rank alone, or the agent has something that is not sharded. The message names it.
    """
    if ranks.size() == 1:
        raise ValueError(
            "shard: the ranks of a run share its weights, and this is one process: give --nproc 2 too, or start it by "
            "torchrun; or go on with --no-shard"
        )
    policy = agent.policy
    if reason := _refusal(agent, policy):
        raise ValueError(f"shard with {reason}")
    policy.shards = Shards(policy)


def _refusal(agent: Any, policy: Any) -> str:
    """Return what an agent has that is not sharded, and what to do; "" if there is nothing."""
    own = ("language_model.", "value_net.")
    others = [name for name, p in policy.named_parameters() if p.requires_grad and not name.startswith(own)]
    found = (
        (not getattr(type(policy), "shardable", False), f"a {type(policy).__name__}: take ppo or another algorithm"),
        (not getattr(agent, "shardable", True), f"{type(agent).__name__}: its updates ask the reference; take dpo"),
        (getattr(policy, "value_kind", "") == "separate", "value='separate': take value='shared'"),
        (getattr(policy, "compile_update", False), "compile=True: leave it out"),
        (getattr(policy, "micro_batch_size", None), "micro_batch_size: ranks may have unequal numbers of parts; take "
         "gradient_checkpointing=True"),
        (getattr(policy, "adversarial", None), "adversarial_coef: its passes are not sharded; leave it out"),
        (getattr(policy, "sft", None), "sft_coef: its passes are not sharded; leave it out"),
        (getattr(policy, "picture", None), "pictures: take a model of text"),
        (getattr(policy.language_model.model, "is_quantized", False), "quantised weights: take the plain model"),
        (getattr(agent, "engine", None), "an engine: leave one of them out"),
        (others, f"{', '.join(others[:1])}, which learns beside language model and value head: leave it out"),
    )  # fmt: skip
    return next((reason for refused, reason in found if refused), "")


def whole(policy: Any) -> AbstractContextManager[None]:
    """Return a context in which a policy can be saved on the first rank. With shards, all ranks have to enter it."""
    shards = getattr(policy, "shards", None)
    return nullcontext() if shards is None or not shards.started else shards.whole()


class _Learning(nn.Module):
    """Hold what learns, so that FSDP has one root for language model and value head."""

    def __init__(self, language_model: nn.Module, value_net: nn.Module) -> None:
        super().__init__()
        self.language_model, self.value_net = language_model, value_net

    def forward(self, function: Callable[..., tuple[torch.Tensor, ...]], *args: Any) -> tuple[torch.Tensor, ...]:
        return tuple(result.clone() for result in function(*args))  # FSDP puts hooks on them, which views may lose


class Shards:
    """Know the shards of a policy, and let its acting and its learning networks take turns.

    All methods but `run` are to be called on every rank, in the same order.

    Attributes:
        started: whether there are shards, which is so while the agent learns.
        reading_reference: whether the acting network has the reference's values.
    """

    def __init__(self, policy: Any) -> None:
        self.policy = policy
        self.started = self.reading_reference = False
        self._updating = False
        policy._actor.cache.graphs = None  # they keep the addresses of weights
        policy._choosing = None
        if policy.device.type == "cpu":
            _return_memory()

    def __deepcopy__(self, memo: object) -> Shards:
        raise TypeError("a policy with shards is not copied")

    # Over a run

    def start(self) -> None:
        """Give every rank its shards of what the first rank has: weights, the optimizer's state, the reference."""
        if self.started:  # the training before this one has failed
            raise RuntimeError("the training of this agent has failed, and its weights are lost: load its checkpoint")
        from torch.distributed.device_mesh import init_device_mesh

        policy = self.policy
        with ranks.answering():
            self._mesh = init_device_mesh(policy.device.type, (ranks.size(),))
            acting = policy.language_model, policy.value_net
            self._acting = (*acting, policy._actor)
            self._whole = dict(_Learning(*acting).named_parameters())
            self._cut_reference()
            self._learn_with_shards()
        self.started = True

    def finish(self) -> None:
        """Gather on the first rank what `start` has shared out, and drop the shards."""
        self.end_update()
        kept = self._numbered()
        self._own(self._whole, {})
        del self._learning, self._modules, self._trunk, self._shards, self._acting
        state, reference = self._gathered_state(kept, drop=True), self._gathered_reference(drop=True)
        self._own(self._whole, state)
        for name, value in reference.items():
            self.policy.reference._buffers[name.replace(".", "/")] = value.to(self.policy.device)
        self.started = False
        del self._whole

    def _cut_reference(self) -> None:
        """Keep this rank's shards of the first rank's reference, and free the rest."""
        reference = self.policy.reference
        self._reference: dict[str, DTensor] = {}
        for name, value in reference.parameters_by_name().items():
            self._reference[name] = self._cut(self._of_first(value, self._whole[f"language_model.{name}"]))
            reference._buffers[name.replace(".", "/")] = value.new_empty(0)

    def _learn_with_shards(self) -> None:
        """Make the learning network of the acting one's values, and give its parameters to the optimizer."""
        from torch.distributed.fsdp import FSDPModule, fully_shard

        policy, whole = self.policy, self._whole
        # The copies share their memory with the acting parameters until they are sharded.
        aliases: dict[int, Any] = {id(p): nn.Parameter(p.data, p.requires_grad) for p in whole.values()}
        learning = _Learning(*(copy.deepcopy(part, aliases) for part in self._acting[:2]))
        lm: Any = learning.language_model
        self._trunk = Trunk(lm.trunk, policy.max_length, lm, policy._actor, policy.gradient_checkpointing)
        state = self._state_of_first()
        for module in [*find_blocks(lm.trunk, lm.config.num_hidden_layers), learning]:
            fully_shard(module, mesh=self._mesh)
        self._modules: list[Any] = [module for module in learning.modules() if isinstance(module, FSDPModule)]
        for module in self._modules:  # the losses are means over all ranks: gradients are summed
            module.set_gradient_divide_factor(1.0)
            module.set_force_sum_reduction_for_comms(True)
        self._learning, self._shards = learning, dict(learning.named_parameters())
        self._own(self._shards, state)

    # Turns

    def run(self, function: Callable[..., Any], *args: Any) -> Any:
        """Call a function of the policy that computes with gradients, in an update with the shards."""
        return self._learning(function, *args) if self._updating else function(*args)

    def begin_update(self) -> None:
        """Free the whole weights, and let the shards learn."""
        self._acting[2].cache.clear()
        for parameter in self._whole.values():
            parameter.data = parameter.data.new_empty(0)
        self._updating = True
        self._place(self._learning.language_model, self._learning.value_net, self._trunk)

    def end_update(self) -> None:
        """Gather the whole weights for a rollout, if there was an update."""
        if not self._updating:
            return
        self.policy.optimizer.zero_grad()  # a rollout needs no gradients
        for module in self._modules:
            module.reshard()
        self._gather(self._shards)
        self._updating = False
        self._place(*self._acting)

    @contextmanager
    def reference(self) -> Iterator[None]:
        """Give the acting network the reference's values while a `with` block runs."""
        if not self.started or self.policy.language_model.adapters is not None:
            yield
            return
        names = [f"language_model.{name}" for name in self._reference]
        self._gather(dict(zip(names, self._reference.values(), strict=True)))
        self.reading_reference = True
        try:
            yield
        finally:
            self.reading_reference = False
        self._gather({name: self._shards[name] for name in names})
        self._acting[2].cache.clear()

    @contextmanager
    def whole(self) -> Iterator[None]:
        """Let the first rank's policy and optimizer be as without shards while a `with` block runs, to be saved."""
        kept = self._numbered()
        state, reference = self._gathered_state(kept), self._gathered_reference()
        self._own(self._whole, state)
        self.policy.reference._buffers.update({name.replace(".", "/"): value for name, value in reference.items()})
        try:
            yield
        finally:
            self._own(self._shards, kept)
            self._empty_reference()

    def _place(self, language_model: Any, value_net: Any, trunk: Trunk) -> None:
        policy = self.policy
        policy.language_model, policy.value_net = language_model, value_net
        policy._actor = policy._critic = trunk

    @torch.no_grad()
    def _gather(self, shards: dict[str, Any]) -> None:
        """Fill parameters of the acting network, by name."""
        with ranks.answering():
            for name, one in shards.items():
                self._whole[name].data = one.detach().full_tensor()

    # The optimizer and the reference

    def _own(self, parameters: dict[str, Any], state: dict[int, dict[str, Any]]) -> None:
        """Let the optimizer train these parameters instead of those by the same names, with a state by number."""
        optimizer = self.policy.optimizer
        names = {id(p): name for own in (self._whole, getattr(self, "_shards", {})) for name, p in own.items()}
        trained: list[Any] = []
        for group in optimizer.param_groups:
            group["params"] = [parameters[names[id(p)]] for p in group["params"]]
            trained += group["params"]
        optimizer.state = type(optimizer.state)(dict, {trained[number]: one for number, one in state.items()})

    def _state_of_first(self) -> dict[int, dict[str, Any]]:
        """Return this rank's shards of the optimizer's state that the first rank has, by the parameter's number."""
        parameters = [p for group in self.policy.optimizer.param_groups for p in group["params"]]
        fused = any(group.get("fused") or group.get("capturable") for group in self.policy.optimizer.param_groups)
        own = self._numbered() if ranks.first() else {}
        entries = [(n, key, value) for n, values in own.items() for key, value in values.items()]
        state: dict[int, dict[str, Any]] = {}
        for n, key, is_cut in ranks.from_first([(n, k, _is_like(v, parameters[n])) for n, k, v in entries]):
            value = own[n].pop(key) if ranks.first() else None
            if is_cut:
                taken: Any = self._cut(self._of_first(value, parameters[n]))
            else:  # such as the number of steps, which a fused optimizer keeps on its device
                taken = ranks.from_first(value.cpu() if isinstance(value, torch.Tensor) else value)
                taken = taken.to(parameters[n].device) if fused and isinstance(taken, torch.Tensor) else taken
            state.setdefault(n, {})[key] = taken
        return state

    @staticmethod
    def _of_first(value: torch.Tensor | None, like: torch.Tensor) -> torch.Tensor:
        """Return a tensor of the first rank."""
        taken = value.detach().to(like.device) if ranks.first() and value is not None else torch.empty_like(like)
        ranks.broadcast([taken])
        return taken

    def _cut(self, value: torch.Tensor) -> DTensor:
        """Return this rank's shard of a tensor, cut as FSDP cuts parameters."""
        from torch.distributed.tensor import DTensor, Shard

        parts = value.contiguous().chunk(ranks.size())
        own = parts[ranks.rank()] if ranks.rank() < len(parts) else value[:0]
        stride = torch.empty(value.shape, device="meta").stride()
        local, cuts = own.clone(), [Shard(0)]
        return DTensor.from_local(local, self._mesh, cuts, run_check=False, shape=value.shape, stride=stride)

    def _numbered(self) -> dict[int, dict[str, Any]]:
        """Return the optimizer's state by the number of the parameter."""
        optimizer = self.policy.optimizer
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        return {number: optimizer.state[p] for number, p in enumerate(parameters) if p in optimizer.state}

    def _gathered_state(self, kept: dict[int, dict[str, Any]], drop: bool = False) -> dict[int, dict[str, Any]]:
        """Return the optimizer's state on the first rank, in the host's memory, and nothing on others; drop shards."""
        whole: dict[int, dict[str, Any]] = {}
        for number, own in kept.items():
            for key in [*own]:
                value = _whole(own.pop(key) if drop else own[key])
                if ranks.first():
                    whole.setdefault(number, {})[key] = value
        return whole

    def _gathered_reference(self, drop: bool = False) -> dict[str, torch.Tensor]:
        """Return the reference on the first rank, in the host's memory, and nothing on others; drop the shards."""
        shards, found = self._reference, {}
        for name in [*shards]:
            value = _whole(shards.pop(name) if drop else shards[name])
            if ranks.first():
                found[name] = value
        return found

    def _empty_reference(self) -> None:
        buffers = self.policy.reference._buffers
        for name, value in buffers.items():
            buffers[name] = value.new_empty(0)


@torch.no_grad()
def _whole(value: Any) -> Any:
    """Return a value of all shards, in the host's memory if it is a tensor."""
    if hasattr(value, "full_tensor"):
        with ranks.answering():
            value = value.detach().full_tensor()
    return value.cpu() if isinstance(value, torch.Tensor) else value


def _is_like(value: Any, parameter: torch.Tensor) -> bool:
    return isinstance(value, torch.Tensor) and value.shape == parameter.shape


def _return_memory() -> None:
    """Let glibc give freed tensors back to the system: by itself it keeps those below 32 MB, which shards come in."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        mallopt(M_MMAP_THRESHOLD, 2**20)
