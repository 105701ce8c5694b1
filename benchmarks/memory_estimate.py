"""Estimate the memory that training a model of a billion weights takes, from shapes alone: no weight is made.

`python -m benchmarks.memory_estimate` builds a Llama-shaped model on the meta device, puts adapters on it as
`train="lora"` does, and prints what an update holds: in float32 and in bfloat16, with and without gradient
checkpointing, beside `train="full"`. The figures are computed (see `agents.training.memory`), not measured. `rlhf train
--dry-run` prints such figures for any run.
"""

from __future__ import annotations

import argparse
import copy
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from agents.core.precision import store_frozen
from agents.training.memory import activation_bytes, cache_bytes, logit_bytes, show_bytes, state_bytes
from rlhf_envs.models.adapters import add_adapters

__all__ = ["estimate", "main"]

BILLION: dict[str, Any] = dict(  # the shape of Llama 3.2 1B
    vocab_size=128_256,
    hidden_size=2048,
    intermediate_size=8192,
    num_hidden_layers=16,
    num_attention_heads=32,
    num_key_value_heads=8,
    tie_word_embeddings=True,
)
SMALL: dict[str, Any] = BILLION | dict(vocab_size=512, hidden_size=64, intermediate_size=128, num_hidden_layers=2)
ROWS = {  # what is compared: train, dtype, gradient_checkpointing
    "full, float32": ("full", "float32", False),
    "full, bf16=True, checkpointing": ("full", "bf16", True),
    "lora, float32": ("lora", "float32", False),
    "lora, float32, checkpointing": ("lora", "float32", True),
    "lora, dtype=bfloat16": ("lora", "bfloat16", False),
    "lora, dtype=bfloat16, checkpointing": ("lora", "bfloat16", True),
}


def estimate(
    model: Any, train: str, dtype: str, checkpointing: bool, *, n_envs: int, length: int, rows: int
) -> dict[str, int]:
    """Return the bytes that an update holds, by what they are for.

    Args:
        model: a causal language model on the meta device; it is copied.
        train: "full" or "lora".
        dtype: "float32"; "bfloat16", for the frozen weights; or "bf16", for passes in bfloat16 over float32 weights.
        checkpointing: as `gradient_checkpointing`.
        n_envs, length: episodes side by side, and tokens of a context.
        rows: contexts that a backward pass goes through at a time, `micro_batch_size / length`.
    """
    model, half = copy.deepcopy(model), dtype != "float32"
    if train == "lora":
        add_adapters(model)
    if dtype == "bfloat16":
        store_frozen(model)
    parts = state_bytes(model)
    if train == "full":  # a second copy of what learns; with adapters, the same model without them
        parts["reference"] = parts["weights"]
    parts["KV cache"] = cache_bytes(model.config, n_envs, length, 2 if half else 4)
    parts["activations"] = activation_bytes(model.base_model, rows, length, half, checkpointing)
    parts["logits"] = logit_bytes(rows * length, model.config.vocab_size)
    return parts


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n-envs", type=int, default=32, help="episodes side by side")
    parser.add_argument("--length", type=int, default=512, help="tokens of a context, prompt and completion")
    parser.add_argument("--rows", type=int, default=8, help="contexts in a micro-batch")
    parser.add_argument("--small", action="store_true", help="a tiny model, only to see that it runs")
    args = parser.parse_args(arguments)
    with torch.device("meta"):
        model = LlamaForCausalLM(LlamaConfig(**(SMALL if args.small else BILLION))).eval()
    weights = sum(parameter.numel() for parameter in model.parameters())
    print(
        f"{weights:,} weights, {args.n_envs} episodes of {args.length} tokens, {args.rows} in a micro-batch; computed\n"
    )
    head = ["train", "all", "weights", "reference", "gradients", "optimiser", "KV cache", "activations", "logits"]
    print("| " + " | ".join(head) + " |\n|" + "---|" * len(head))
    for name, (train, dtype, checkpointing) in ROWS.items():
        sizes = dict(n_envs=args.n_envs, length=args.length, rows=args.rows)
        parts = estimate(model, train, dtype, checkpointing, **sizes)
        shown = [sum(parts.values()), *(parts[column] for column in head[2:])]
        print("| " + " | ".join([name, *(show_bytes(size) if size else "0" for size in shown)]) + " |", flush=True)


if __name__ == "__main__":
    main()
