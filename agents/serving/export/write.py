"""Write a plain language model in one of the formats, and read it back."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from rlhf_envs.models import load_causal_lm, no_progress_bars

from .gguf.writing import load_gguf, write_gguf
from .measure import Reader
from .onnx.writing import onnx_reader, write_onnx
from .packed import write_packed

__all__ = ["ReadBack", "read_back", "reader_of", "write"]


@dataclass(frozen=True)
class ReadBack:
    """Hold what was read back from an export.

    Attributes:
        model: a plain model with the weights of the files; None of a format that transformers does not read.
        read: returns logits `(rows, length, vocab_size)` of ids and mask, as the files compute them.
    """

    model: Any
    read: Reader


def write(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path, to: str, quantize: str | None, name: str
) -> list[str]:
    """Write a plain model with its tokenizer, and return what is to be known of the files, as sentences.

    Raises:
        ValueError: the model does not fit the format.
        ModuleNotFoundError: a package that the format needs is missing.
    """
    if to == "gguf":
        return write_gguf(model, tokenizer, folder, quantize, name)
    tokenizer.save_pretrained(folder)
    if to == "onnx":
        return write_onnx(model, folder, quantize)
    if quantize in ("int8", "int4"):
        return write_packed(model, folder, quantize)
    saved = copy.deepcopy(model).half() if quantize == "float16" else model
    with no_progress_bars():
        saved.save_pretrained(folder)
    return []


def read_back(folder: Path, to: str) -> ReadBack:
    """Read what `write` wrote."""
    if to == "onnx":
        return ReadBack(None, onnx_reader(folder))
    model = load_gguf(folder) if to == "gguf" else load_causal_lm(str(folder))
    return ReadBack(model, reader_of(model))


def reader_of(model: Any) -> Reader:
    """Return what reads ids and a mask with a Hugging Face model, on its device."""

    def read(ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = model(
            input_ids=ids.to(model.device), attention_mask=mask.to(model.device), use_cache=False
        ).logits
        return logits.cpu()

    return read
