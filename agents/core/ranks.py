"""Compute over the ranks of a data-parallel run: the processes of one `torch.distributed` group.

Every rank holds the same weights and a share of the environments. What an algorithm computes from all of a rollout or
of a minibatch has to be the same on every rank, and as one process with all the environments would compute it. So the
tensors that losses are made of are `AllRanks`: their means, sums and standard deviations are taken over all ranks, in
the loops of Stable-Baselines3 too, which know nothing of ranks. The gradients of the ranks are then added up.

Without `start`, and with one rank, every function returns what it was given, or computes it from this process alone.
All ranks have to call the functions in the same order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import numpy as np
import torch
import torch.distributed as dist
from torch.nn import functional

__all__ = [
    "AllRanks",
    "RankLost",
    "agreed",
    "answering",
    "broadcast",
    "everywhere",
    "first",
    "from_first",
    "gathered",
    "largest",
    "least",
    "mean",
    "moments",
    "parts",
    "rank",
    "shared",
    "size",
    "start",
    "stop",
    "total",
]

Item = TypeVar("Item")
BUCKET = 2**23  # numbers in one message: 32 MB
_started = False
_explain: Callable[[], str] = str


class RankLost(RuntimeError):
    """Say that other ranks, or workers, no longer answer."""


def start(explain: Callable[[], str] = str) -> None:
    """Compute over the ranks of torch's default process group from now on.

    Args:
        explain: returns which rank was lost, for the message of `RankLost`.
    """
    global _started, _explain
    _started, _explain = dist.is_initialized() and dist.get_world_size() > 1, explain


def stop() -> None:
    """Compute in this process alone from now on."""
    global _started
    _started = False


def size() -> int:
    """Return the number of ranks; 1 without `start`."""
    return dist.get_world_size() if _started else 1


def rank() -> int:
    """Return the number of this rank, from 0."""
    return dist.get_rank() if _started else 0


def first() -> bool:
    """Return whether this is the rank that writes, prints and evaluates."""
    return rank() == 0


def _collective(function: Callable[..., Any], *args: Any, **kwargs: Any) -> None:
    with answering():
        function(*args, **kwargs)


@contextmanager
def answering(certain: bool = True) -> Iterator[None]:
    """Raise `RankLost` where collectives in the `with` block fail.

    Args:
        certain: whether only collectives raise RuntimeError there; otherwise other errors pass while all ranks answer.
    """
    try:
        yield
    except RankLost:
        raise
    except RuntimeError as error:  # gloo's and NCCL's, among them DistBackendError
        reason = _explain()
        if not reason and not certain:
            raise
        raise RankLost(reason or f"the ranks no longer answer ({str(error).splitlines()[0][:200]})") from error


# Numbers and arrays


def _reduced(values: Any, op: Any = None) -> np.ndarray:
    packed = torch.as_tensor(np.array(values, np.float64))
    _collective(dist.all_reduce, packed, op=dist.ReduceOp.SUM if op is None else op)
    return packed.numpy()


def total(value: int) -> int:
    """Return the sum of a whole number over the ranks."""
    return value if size() == 1 else int(_reduced(value))


def least(value: int) -> int:
    """Return the least of a whole number over the ranks."""
    return value if size() == 1 else int(_reduced(value, dist.ReduceOp.MIN))


def largest(value: int) -> int:
    """Return the largest of a whole number over the ranks."""
    return value if size() == 1 else int(_reduced(value, dist.ReduceOp.MAX))


def agreed(value: bool) -> bool:
    """Return whether `value` is True on every rank."""
    return bool(least(int(value)))


def mean(values: np.ndarray) -> float:
    """Return the mean of an array over all ranks' parts of it."""
    return float(values.mean()) if size() == 1 else moments(values)[0]


def moments(values: np.ndarray) -> tuple[float, float]:
    """Return the mean and the standard deviation of an array over all ranks' parts of it."""
    if size() == 1:
        return values.mean(), values.std()
    n, added = _reduced([values.size, values.sum(dtype=np.float64)])
    squares = _reduced(((values - added / n) ** 2).sum(dtype=np.float64))
    return float(added / n), float(np.sqrt(squares / n))


# Objects


def everywhere(value: Item) -> list[Item]:
    """Return the value of each rank, in their order."""
    if size() == 1:
        return [value]
    found: list[Any] = [None] * size()
    _collective(dist.all_gather_object, found, value)
    return found


def gathered(items: list[Item]) -> list[Item]:
    """Return the items of all ranks to the first one, in order of ranks, and none to the others."""
    if size() == 1:
        return items
    found: list[Any] | None = [None] * size() if first() else None
    _collective(dist.gather_object, items, found)
    return [item for part in found or () for item in part]


def from_first(value: Item) -> Item:
    """Return the value that the first rank has."""
    if size() == 1:
        return value
    box = [value]
    _collective(dist.broadcast_object_list, box)
    return box[0]


# Tensors


@torch.no_grad()
def broadcast(tensors: Sequence[torch.Tensor]) -> None:
    """Give tensors the values that they have on the first rank."""
    for tensor in tensors if size() > 1 else ():
        sent = tensor.detach().contiguous()
        _collective(dist.broadcast, sent, 0)
        tensor.copy_(sent)


class AllRanks(torch.Tensor):
    """Stand for values that each rank has a part of.

    `mean()`, `sum()` and `std()` of all of it, and the mean squared error, are taken over all ranks, and are equal on
    all of them. What else is computed from it is computed from this rank's part, and is `AllRanks` too.

    Attributes:
        n_of_all: how many values all ranks have, which `len` returns; with None it counts the values of this rank. SB3
            asks for it before it normalises advantages, and has to do so on all ranks or on none.
    """

    n_of_all: int | None = None

    def __len__(self) -> int:
        """Return the number of values: of all ranks if it is known."""
        return super().__len__() if self.n_of_all is None else self.n_of_all

    @classmethod
    def __torch_function__(
        cls, func: Callable[..., Any], types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Call a function of torch, or take the result over all ranks."""
        over_all, by_default = _OVER_ALL.get(func), all(v is None or v == "mean" for v in (kwargs or {}).values())
        if over_all is not None and by_default and all(isinstance(value, torch.Tensor) for value in args):
            with torch._C.DisableTorchFunctionSubclass():
                return over_all(*(value.as_subclass(torch.Tensor) for value in args))
        return super().__torch_function__(func, types, args, kwargs or {})


class _Total(torch.autograd.Function):
    """Return the sum of a tensor over all ranks, and how many values it has. Each rank's part gets its gradient."""

    @staticmethod
    def forward(ctx: Any, values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        ctx.shape = values.shape
        n = torch.full((), values.numel(), dtype=torch.float64, device=values.device)
        packed = torch.stack([values.sum(dtype=torch.float64), n])
        _collective(dist.all_reduce, packed)
        added, n = packed[0].clone(), packed[1].clone()
        ctx.mark_non_differentiable(n)
        return added, n

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> torch.Tensor:
        return grads[0].expand(ctx.shape)


def _sum(values: torch.Tensor) -> torch.Tensor:
    found: torch.Tensor = _Total.apply(values)[0]
    return found.to(values.dtype if values.is_floating_point() else torch.int64)


def _mean(values: torch.Tensor) -> torch.Tensor:
    added, n = _Total.apply(values)
    found: torch.Tensor = (added / n).to(values.dtype)
    return found


def _std(values: torch.Tensor) -> torch.Tensor:
    added, n = _Total.apply(values)
    squares = _Total.apply((values - added / n) ** 2)[0]
    found: torch.Tensor = (squares / (n - 1)).sqrt().to(values.dtype)
    return found


def _mse(given: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    return _mean((given - wanted) ** 2)


_OVER_ALL: dict[Any, Callable[..., torch.Tensor]] = {
    **dict.fromkeys((torch.mean, torch.Tensor.mean), _mean),
    **dict.fromkeys((torch.sum, torch.Tensor.sum), _sum),
    **dict.fromkeys((torch.std, torch.Tensor.std), _std),
    functional.mse_loss: _mse,
}


def parts(values: torch.Tensor, counted: bool = False) -> torch.Tensor:
    """Return values as this rank's part of all ranks' values; with `counted` their `len` is of all ranks."""
    if size() == 1:
        return values
    found = values.as_subclass(AllRanks)
    if counted:
        found.n_of_all = total(len(values))
    return found


# Gradients


def shared(module: torch.nn.Module, *results: torch.Tensor, summed: bool = False) -> tuple[torch.Tensor, ...]:
    """Return results of a module as `AllRanks`. Their backward pass ends with the sum of all ranks' gradients.

    So gradients are summed before an algorithm clips them. Without gradients, the results are returned as they are.
    With `summed` something else sums them, as FSDP does.
    """
    if size() == 1 or not torch.is_grad_enabled():
        return results
    if summed:
        return tuple(result.as_subclass(AllRanks) for result in results)
    return tuple(result.as_subclass(AllRanks) for result in _SumGradients.apply(module, *results))


class _SumGradients(torch.autograd.Function):
    """Return results unchanged. Once the backward pass has ended, the gradients of the module's ranks are summed."""

    @staticmethod
    def forward(ctx: Any, module: torch.nn.Module, *results: torch.Tensor) -> tuple[torch.Tensor, ...]:
        ctx.set_materialize_grads(False)  # a result that no loss reads sends no gradient
        ctx.module = module
        return tuple(result.view_as(result) for result in results)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor | None) -> tuple[torch.Tensor | None, ...]:
        # What DistributedDataParallel and FSDP do: it is called when all gradients have been accumulated.
        torch.autograd.Variable._execution_engine.queue_callback(lambda: _sum_gradients(ctx.module))
        return (None, *grads)


@torch.no_grad()
def _sum_gradients(module: torch.nn.Module) -> None:
    for bucket in _buckets([p.grad for p in module.parameters() if p.grad is not None]):
        flat = torch.cat([grad.reshape(-1) for grad in bucket])
        _collective(dist.all_reduce, flat)
        for grad, summed in zip(bucket, flat.split([grad.numel() for grad in bucket]), strict=True):
            grad.copy_(summed.view_as(grad))


def _buckets(grads: Sequence[torch.Tensor]) -> Iterator[list[torch.Tensor]]:
    """Cut gradients into lists of about `BUCKET` numbers of one type."""
    bucket: list[torch.Tensor] = []
    for grad in grads:
        if bucket and (sum(g.numel() for g in bucket) + grad.numel() > BUCKET or grad.dtype != bucket[0].dtype):
            yield bucket
            bucket = []
        bucket.append(grad)
    if bucket:
        yield bucket
