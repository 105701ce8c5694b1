"""Say in a GGUF how a model attends, in the words that llama.cpp has for it: sliding windows, soft caps and the scale.

llama.cpp computes windows in Gemma 2 and 3 alone of the families here, in all layers but every n-th.
"""

from __future__ import annotations

from typing import Any

__all__ = ["add_attention", "unsaid_attention"]

WINDOWED = {"gemma2": 2, "gemma3": 6}  # by llama.cpp's names, with the n that it takes if a file names none
LARGEST = {"gemma2": 46, "gemma3": 62}  # whose models of that many layers llama.cpp scales by another size


def unsaid_attention(config: Any, architecture: str) -> str | None:
    """Return what GGUF has no word for, such as "a sliding window of 4096"; or None.

    Args:
        config: the model's configuration.
        architecture: GGUF's name of the family.
    """
    found = {"biases in attention": getattr(config, "attention_bias", False) and architecture in WINDOWED}
    if architecture not in WINDOWED:
        found |= {
            f"a sliding window of {getattr(config, 'sliding_window', None)}": _slides(config),
            "attention without the usual scale": not getattr(config, "scale_attn_weights", True),
            "attention scaled by the layer": getattr(config, "scale_attn_by_inverse_layer_idx", False),
        }
    else:
        by = config.hidden_size // config.num_attention_heads
        usual = by if config.num_hidden_layers == LARGEST[architecture] else config.head_dim
        cap, is_capped = config.attn_logit_softcapping, architecture == "gemma2"
        found |= {
            f"sliding windows in the layers {config.layer_types}": _every(config) is None,
            f"query_pre_attn_scalar={config.query_pre_attn_scalar}": config.query_pre_attn_scalar != usual,
            f"attn_logit_softcapping={cap}": (cap is not None) != is_capped,
            "final_logit_softcapping=None": is_capped and config.final_logit_softcapping is None,
            "attention in both directions": bool(config.use_bidirectional_attention),
        }
    return next((what for what, holds in found.items() if holds), None)


def add_attention(writer: Any, config: Any, architecture: str) -> None:
    """Add the window, the layers that have it, and the soft caps."""
    if architecture not in WINDOWED:
        return
    if config.attn_logit_softcapping is not None:
        writer.add_attn_logit_softcapping(config.attn_logit_softcapping)
    if config.final_logit_softcapping is not None:
        writer.add_final_logit_softcapping(config.final_logit_softcapping)
    every = _every(config)
    if every == 1 and architecture == "gemma3":
        return  # no window at all
    writer.add_sliding_window(config.sliding_window or config.max_position_embeddings)
    if every != WINDOWED[architecture]:
        writer.add_sliding_window_pattern(every)


def _slides(config: Any) -> bool:
    """Return whether a layer attends to a window that is smaller than the model's positions."""
    window = getattr(config, "sliding_window", None)
    layers = getattr(config, "layer_types", None)
    if not window or window >= config.max_position_embeddings or not getattr(config, "use_sliding_window", True):
        return False
    return layers is None or "sliding_attention" in layers


def _every(config: Any) -> int | None:
    """Return the n of which every n-th layer has no window: 1 if none has one, 0 if all have. None if it is not so."""
    layers = [kind == "sliding_attention" for kind in config.layer_types]
    if not set(config.layer_types) <= {"sliding_attention", "full_attention"}:
        return None
    if all(layers):
        return 0
    every = layers.index(False) + 1
    return every if layers == [bool((i + 1) % every) for i in range(len(layers))] else None
