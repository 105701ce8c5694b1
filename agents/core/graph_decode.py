"""Decode by replaying CUDA graphs: a step is one launch, where eager PyTorch makes hundreds.

A graph runs the same kernels on the same memory again. So a captured function reads and writes tensors that stay where
they are, and everything else about it is frozen: the length that it reads, shapes, addresses. The length is the key of
a graph; the rest is the *layout*, and another layout means other graphs.

Graphs are used on CUDA alone. A model that cannot be captured, because it asks the device for a number in the middle of
a pass, decodes eagerly, with one warning.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Hashable, Sequence
from functools import partial
from typing import Any, ClassVar, Protocol

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from .lora_layers import LayerCopies, MergedLayers, adapters_in_use
from .precision import computing_type

__all__ = ["Backend", "CudaBackend", "DecodingGraphs", "Graphs", "layers_to_cast"]

SHORTEST = 64  # contexts up to this length share a graph: reading fewer positions saves less than a capture costs
WARM_UPS = 2  # runs before a capture, in which libraries allocate and choose what a capture may not

Captured = tuple[Sequence[torch.Tensor], Callable[[], object], list[torch.Tensor | None]]


class Backend(Protocol):
    """Capture functions on one device. All that one backend captures may share memory: one thing runs at a time."""

    device_type: ClassVar[str]

    def __init__(self, device: torch.device) -> None: ...

    def capture(self, function: Callable[[], None]) -> Callable[[], object]:
        """Return a call that repeats what the function does to memory, without running its Python."""


class CudaBackend:
    """Capture CUDA graphs, as https://docs.pytorch.org/docs/stable/notes/cuda.html#cuda-graphs describes."""

    device_type: ClassVar[str] = "cuda"

    def __init__(self, device: torch.device) -> None:
        self.stream, self.pool = torch.cuda.Stream(device), torch.cuda.graph_pool_handle()

    def capture(self, function: Callable[[], None]) -> Callable[[], object]:
        """Return the replay of a graph of what the function does."""
        graph, current = torch.cuda.CUDAGraph(), torch.cuda.current_stream(self.stream.device)
        self.stream.wait_stream(current)
        with torch.cuda.stream(self.stream):  # torch's own context stays on its stream when a capture fails
            for _ in range(WARM_UPS):
                function()
            with torch.cuda.graph(graph, self.pool, self.stream, capture_error_mode="thread_local"):
                function()
        current.wait_stream(self.stream)
        return graph.replay


class Graphs:
    """Keep what was captured, by keys, as long as the layout stays.

    Args:
        backend: the class that captures.
    """

    def __init__(self, backend: type[Backend] = CudaBackend) -> None:
        self.failed = False
        self._type = backend
        self._layout: tuple[torch.device, Hashable] | None = None
        self.clear()

    def clear(self) -> None:
        """Forget what was captured, and free its memory."""
        self._captured: dict[Hashable, Captured] = {}
        self._backend: Backend | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Leave out what was captured, which belongs to the memory of the original."""
        return self.__dict__ | {"_captured": {}, "_backend": None, "_layout": None}

    def __len__(self) -> int:
        return len(self._captured)

    def usable(self, device: torch.device) -> bool:
        """Return whether functions are captured on a device."""
        return not self.failed and device.type == self._type.device_type

    def fit(self, device: torch.device, layout: Hashable) -> None:
        """Forget what was captured on another device or under another layout. Called before the first `run`."""
        if (device, layout) != self._layout:
            self.clear()
            self._layout = device, layout

    @torch.inference_mode(False)
    @torch.no_grad()
    def run(
        self, key: Hashable, function: Callable[..., torch.Tensor | None], *inputs: torch.Tensor
    ) -> torch.Tensor | None:
        """Return what the function returns for the inputs, by a replay. The next replay may overwrite the result.

        Args:
            key: of the captured function. Inputs under one key have the same shapes and types.
            function: what is captured the first time. From then on only the values in memory may change.
            *inputs: copied to memory of the graph's own.
        """
        if key not in self._captured:
            try:
                self._captured[key] = self._capture(function, inputs)
            except Exception as error:  # whatever a foreign model or the driver raises here means: no graphs
                self.failed = True
                self.clear()
                cause = error.__context__ or error  # torch ends a broken capture with an error of its own
                reason = f"{type(cause).__name__}: {str(cause).partition(chr(10))[0]}"
                warnings.warn(f"decoding goes without CUDA graphs, which is slower: {reason}", stacklevel=3)
                return function(*inputs)
        static, replay, output = self._captured[key]
        for kept, new in zip(static, inputs, strict=True):
            kept.copy_(new)
        replay()
        return output[0]

    def _capture(self, function: Callable[..., torch.Tensor | None], inputs: Sequence[torch.Tensor]) -> Captured:
        assert self._layout is not None, "fit comes first"
        device = self._layout[0]
        static = [tensor.clone() for tensor in inputs]
        output: list[torch.Tensor | None] = [None]
        enabled, dtype = torch.is_autocast_enabled(device.type), torch.get_autocast_dtype(device.type)

        def call() -> None:
            # What autocast has cast before the capture is freed after it: cast in the graph, at every replay.
            with torch.autocast(device.type, dtype, enabled, cache_enabled=False):
                output[0] = function(*static)

        if self._backend is None:
            self._backend = self._type(device)
        return static, self._backend.capture(call), output


class DecodingGraphs(Graphs):
    """Decode one token for every slot of a trunk: one graph per power of two of the longest context.

    The weights that are not multiplied as they are stored have copies that the graphs read: plain LoRA adapters are
    merged into theirs, and under autocast they are in its type, where else a step would cast the whole model. The
    copies follow the weights with every `fit`.

    Args:
        trunk: the base model of a causal language model.
        adapted: its layers with adapters.
    """

    def __init__(self, trunk: nn.Module, adapted: Sequence[Any], backend: type[Backend] = CudaBackend) -> None:
        self.trunk, self.adapted = trunk, adapted
        super().__init__(backend)

    def clear(self) -> None:
        """Forget what was captured, and the copies of weights."""
        super().clear()
        self._copies: LayerCopies | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Leave out what belongs to the memory of the original."""
        return super().__getstate__() | {"_copies": None}

    def fit(self, device: torch.device, layout: Hashable) -> None:
        """Do what `Graphs.fit` does, where the trunk belongs to the layout; bring the copies of weights up to date."""
        weights = [*self.trunk.parameters()]
        addresses = [weight.data_ptr() for weight in weights]
        super().fit(device, (layout, computing_type(weights[0]), *adapters_in_use(self.adapted), *addresses))
        if self._copies is not None:
            self._copies.renew()

    def decode(self, step: Callable[[int], None], length: int, capacity: int) -> None:
        """Run a step that reads `length` positions, or some more that it masks, by a replay.

        Args:
            step: decodes one token for every slot; it is given the positions to read.
            length: of the longest context.
            capacity: the positions that a slot has.
        """
        if self._copies is None:
            self._copies = _copies(self.trunk, self.adapted)
        bucket = min(max(SHORTEST, 1 << (length - 1).bit_length()), capacity)
        self.run(bucket, partial(_decode, self._copies, step, bucket))


def _decode(copies: LayerCopies, step: Callable[[int], None], bucket: int) -> None:
    with copies.used():
        step(bucket)


def _copies(trunk: nn.Module, adapted: Sequence[Any]) -> LayerCopies:
    weight = next(trunk.parameters())
    if not torch.is_autocast_enabled(weight.device.type):
        return MergedLayers(adapted)
    dtype = computing_type(weight)
    return LayerCopies(layers_to_cast(trunk, dtype), partial(_cast, dtype))


def layers_to_cast(trunk: nn.Module, dtype: torch.dtype) -> list[Any]:
    """Return the linear layers of a trunk whose weights have another type than the one that is computed in."""
    return [m for m in trunk.modules() if type(m) in (nn.Linear, Conv1D) and m.weight.dtype != dtype]


@torch.no_grad()
def _cast(dtype: torch.dtype, layer: Any) -> partial[torch.Tensor]:
    weight = layer.weight.T if isinstance(layer, Conv1D) else layer.weight
    bias = None if layer.bias is None else layer.bias.to(dtype)
    return partial(nn.functional.linear, weight=weight.to(dtype), bias=bias)
