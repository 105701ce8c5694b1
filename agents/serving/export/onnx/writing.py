"""Write a language model as ONNX, which onnxruntime runs on many machines, in float32 or with 8- or 4-bit weights.

The graph reads ids (rows, length) int64, a mask (rows, past + length) of any sizes, padded on either side, and the keys
and values of the past, (rows, heads, past, size) float32, where past may be 0. It returns logits (rows, length,
vocabulary) and the keys and values of all, to give with the next token: the names are those of Hugging Face's optimum.
A layer that attends to a window has a mask of its own, and the keys and values of all like the others. A head that
shares its weights with the embedding is stored once.
"""

from __future__ import annotations

import copy
import warnings
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import DynamicCache, PreTrainedModel
from transformers.pytorch_utils import Conv1D

from ..measure import Reader
from .weights import quantize_weights, quiet

__all__ = ["ONNX", "check_onnx", "check_onnx_config", "onnx_reader", "write_onnx"]

ONNX = "model.onnx"
NEEDED = ("onnx", "onnxruntime", "onnxscript")
TORCH = "2.13"  # older exporters were not tried
MAX_BYTES = 2**31 - 2**20  # of one protobuf file
FULL, SLIDING = "full_attention", "sliding_attention"


def check_onnx() -> None:
    """Raise ImportError with the fix if a package that ONNX needs is missing, or torch too old."""
    if missing := [name for name in NEEDED if find_spec(name) is None]:
        raise ModuleNotFoundError(f"--to onnx needs {', '.join(missing)}: pip install 'rlhf-envs[onnx]'")
    if torch.torch_version.TorchVersion(own := torch.__version__) < TORCH:
        raise ImportError(f"--to onnx needs torch {TORCH} or newer, not {own}: pip install 'torch>={TORCH}'")


class _Graph(nn.Module):
    """Compute logits and the cache. Positions and the masks are spelled out, as ONNX has neither."""

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.model = model

    def forward(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor, *past: torch.Tensor
    ) -> tuple[torch.Tensor, ...]:
        before = past[0].shape[2]
        positions = (attention_mask.cumsum(-1) - 1).clamp(min=0)[:, before:]
        cache = DynamicCache()
        for layer in range(len(past) // 2):
            cache.update(past[2 * layer], past[2 * layer + 1], layer)
        out = self.model(
            input_ids=input_ids,
            attention_mask=self._masks(attention_mask, before, input_ids.shape[1]),
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
        )
        return (out.logits, *_flat(out.past_key_values))

    def _masks(self, given: torch.Tensor, before: int, length: int) -> Any:
        """Return what each token sees, (rows, 1, length, total): 0, or -1e9; by kind if there are two."""
        config: Any = self.model.config
        places = torch.arange(before + length)
        own = places[before:, None]
        seen = (places[None, :] <= own)[None, None] & (given[:, None, None, :] > 0)
        masks = {}
        for kind in _kinds(config):
            kept = seen & (places[None, :] > own - config.sliding_window) if kind == SLIDING else seen
            masks[kind] = torch.where(kept, 0.0, -1e9)
        return masks if len(masks) > 1 else next(iter(masks.values()))


def _kinds(config: Any) -> list[str]:
    """Return the kinds of layers in a model, in transformers' words."""
    if layers := getattr(config, "layer_types", None):
        return sorted({*layers})
    windowed = getattr(config, "sliding_window", None) and getattr(config, "use_sliding_window", True)
    return [SLIDING if windowed else FULL]


def _flat(cache: Any) -> list[torch.Tensor]:
    """Return the keys and values of every layer, (rows, heads, past, size)."""
    return [tensor for layer in cache.layers for tensor in (layer.keys, layer.values)]


def check_onnx_config(config: Any) -> None:
    """Raise ValueError if a model has layers that the graph has no mask or no cache for."""
    if others := [kind for kind in _kinds(config) if kind not in (FULL, SLIDING)]:
        raise ValueError(f"this {config.model_type} has layers of {others[0]}, which its ONNX cannot say: take --to hf")


def write_onnx(model: PreTrainedModel, folder: Path, quantize: str | None) -> list[str]:
    """Write `model.onnx` and the configuration of a plain model.

    Args:
        quantize: "int8" or "int4" weights; float32 by default.

    Returns:
        What is to be known of the file, as sentences.

    Raises:
        ValueError: the model is too large for one file, or its operations have no place in ONNX.
    """
    size = 4 * sum(parameter.numel() for parameter in model.parameters())
    if size > MAX_BYTES:
        raise ValueError(f"its {size:,} bytes of float32 weights are too many for one file of ONNX: take --to gguf")
    import onnx

    check_onnx_config(model.config)
    graph = _Graph(_with_linear_layers(model)).eval()
    table = graph.model.get_input_embeddings().weight
    embedding = {name for name, weight in graph.named_parameters(remove_duplicate=False) if weight is table}
    try:
        written = _trace(graph)
    except (torch.onnx.errors.OnnxExporterError, RuntimeError, AttributeError, TypeError, ValueError) as error:
        raise ValueError(
            f"this {model.config.model_type} cannot be written as ONNX ({_cause(error)}); take --to hf"
        ) from error
    notes: list[str] = []
    if quantize is not None:
        written, notes = quantize_weights(written, embedding, quantize)
    onnx.save(written, folder / ONNX)
    model.config.save_pretrained(folder)
    return notes


def _cause(error: BaseException) -> str:
    """Return the first line of the error behind an error: torch wraps it in advice."""
    while error.__cause__ is not None:
        error = error.__cause__
    return next(iter(str(error).splitlines()), type(error).__name__)


def _trace(graph: _Graph) -> Any:
    """Return a graph as a `ModelProto`, traced with a text whose first tokens are in the cache."""
    ids = torch.ones(2, 5, dtype=torch.long)
    with warnings.catch_warnings(), quiet(), torch.no_grad():
        warnings.simplefilter("ignore")  # torch warns of its own parts, and that torchvision is not there
        past = _flat(graph.model(ids[:, :3], past_key_values=DynamicCache(), use_cache=True).past_key_values)
        names = [f"{layer}.{kind}" for layer in range(len(past) // 2) for kind in ("key", "value")]
        program: Any = torch.onnx.export(
            graph,
            (ids[:, 3:], torch.ones_like(ids), *past),
            input_names=["input_ids", "attention_mask", *(f"past_key_values.{name}" for name in names)],
            output_names=["logits", *(f"present.{name}" for name in names)],
            dynamic_shapes=(
                {0: "rows", 1: "length"},
                {0: "rows", 1: "total"},
                tuple({0: "rows", 2: "past"} for _ in past),
            ),
            opset_version=18,
            dynamo=True,
            verbose=False,
        )
    written = program.model_proto
    del written.graph.value_info[:]
    for node in written.graph.node:
        del node.metadata_props[:]  # among them the lines of the code, with the folders of this machine
    return written


def _with_linear_layers(model: PreTrainedModel) -> PreTrainedModel:
    """Return a copy whose attention is plain, and whose layers of GPT-2 are linear ones, which are matrix products."""
    model = copy.deepcopy(model).float()
    model.set_attn_implementation("eager")
    for name, module in [*model.named_modules()]:
        if isinstance(module, Conv1D):
            linear = nn.Linear(*module.weight.shape)
            linear.weight.data, linear.bias.data = module.weight.data.T.contiguous(), module.bias.data
            model.set_submodule(name, linear)
    return model


def onnx_reader(folder: Path) -> Reader:
    """Return what reads ids and a mask with onnxruntime, on one thread."""
    import onnxruntime

    options: Any = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(str(folder / ONNX), options, providers=["CPUExecutionProvider"])
    shapes = {given.name: given.shape for given in session.get_inputs()[2:]}

    def read(ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        given = {"input_ids": ids.cpu().long().numpy(), "attention_mask": mask.cpu().long().numpy()}
        given |= {name: np.zeros((len(ids), shape[1], 0, shape[3]), np.float32) for name, shape in shapes.items()}
        return torch.from_numpy(session.run(["logits"], given)[0])

    return read
