"""Say in a GGUF how a model's rotations by position are scaled, in the words that llama.cpp has for it."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

__all__ = ["add_positions", "unsaid_positions"]

YARN = {"beta_fast": 32, "beta_slow": 1, "truncate": True}  # llama.cpp's own


def unsaid_positions(config: Any, architecture: str) -> str | None:
    """Return which positions of a model GGUF has no word for, such as "positions of the type 'dynamic'"; or None.

    llama.cpp reads the factors of Llama 3 in files of the architecture llama alone. GGUF has names for `beta_fast` and
    `beta_slow` of YaRN too, but llama.cpp does not read them for the families here.
    """
    ropes = getattr(config, "rope_parameters", None) or {}
    rope = ropes.get("full_attention", ropes)
    kind = rope.get("rope_type", "default")
    local = ropes.get("sliding_attention", {}).get("rope_type", "default")
    if architecture.startswith("gemma") and (kind not in ("default", "linear") or local != "default"):
        return f"positions of the type {kind!r}, and {local!r} within windows"
    if kind not in ("default", "linear", "yarn") and (kind, architecture) != ("llama3", "llama"):
        return f"positions of the type {kind!r}"
    for name, value in YARN.items() if kind == "yarn" else ():
        if (given := rope.get(name)) not in (None, value):
            return f"positions of the type 'yarn' with {name}={given}"
    return None


def add_positions(writer: Any, gguf: Any, config: Any, size: int) -> None:
    """Add the base of the rotations, that of layers with a window if they have their own, and how they are scaled.

    Args:
        writer: a GGUFWriter.
        size: the numbers per head, which are rotated in pairs.
    """
    rope = config.rope_parameters
    if local := rope.get("sliding_attention"):
        rope = rope["full_attention"]
        writer.add_rope_freq_base_swa(local["rope_theta"])
    base, kind = rope["rope_theta"], rope.get("rope_type", "default")
    writer.add_rope_freq_base(base)
    writer.add_rope_dimension_count(size)
    if kind == "default":
        return
    if kind == "llama3":  # as a tensor, by which the speed of each pair is divided
        speeds, _ = ROPE_INIT_FUNCTIONS[kind](config, "cpu")
        plain = base ** -(np.arange(0, size, 2) / size)
        writer.add_tensor("rope_freqs.weight", (plain / speeds.double().numpy()).astype(np.float32))
        return
    factor = rope.get("factor") or config.max_position_embeddings / rope["original_max_position_embeddings"]
    writer.add_rope_scaling_type(gguf.RopeScalingType[kind.upper()])
    writer.add_rope_scaling_factor(factor)
    if kind == "yarn":
        _, attention = ROPE_INIT_FUNCTIONS[kind](config, "cpu")
        writer.add_rope_scaling_orig_ctx_len(rope["original_max_position_embeddings"])
        writer.add_rope_scaling_attn_factors(attention / (1 + 0.1 * math.log(factor)))  # what llama.cpp takes by itself
