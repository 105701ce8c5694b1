"""Write a language model as GGUF, the file that llama.cpp, Ollama and LM Studio read, with its tokenizer in it.

Tensors get the names and the layout of llama.cpp's converter: Llama's queries and keys are permuted, because ggml
rotates pairs of neighbours, and GPT-2's weights are transposed. Norms, biases and learned positions stay float32.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from rlhf_envs.models import no_progress_bars

from .attention import add_attention, unsaid_attention
from .positions import add_positions, unsaid_positions
from .tokens import add_ends, add_tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

__all__ = ["FAMILIES", "FILE", "check_family", "import_gguf", "load_gguf", "write_gguf"]

FILE = "model.gguf"
TYPES = {None: "F32", "float16": "F16", "int8": "Q8_0", "int4": "Q4_0"}
# transformers' model types, and the architecture that GGUF has for them. Mistral without a sliding window is a Llama.
FAMILIES = {
    "gpt2": "gpt2",
    "llama": "llama",
    "mistral": "llama",
    "qwen2": "qwen2",
    "qwen3": "qwen3",
    "gemma2": "gemma2",
    "gemma3_text": "gemma3",
}
TRANSPOSED = ("attn_qkv.weight", "attn_output.weight", "ffn_up.weight", "ffn_down.weight")  # of GPT-2
GELUS = ("gelu_new", "gelu_pytorch_tanh", "gelu_fast")  # the same function, which is ggml's


def import_gguf() -> Any:
    """Return the module gguf. Raise ModuleNotFoundError with the fix if it is not installed."""
    try:
        import gguf
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("--to gguf needs the package gguf: pip install 'rlhf-envs[gguf]'") from error
    return gguf


def check_family(config: Any) -> None:
    """Raise ValueError if GGUF has no word for what a model computes. The message has the families that it has."""
    there_are = f"--to gguf writes {', '.join(FAMILIES)}"
    if config.model_type not in FAMILIES:
        raise ValueError(
            f"a model of the family {config.model_type} has no place in GGUF here: {there_are}; take --to hf"
        )
    architecture = FAMILIES[config.model_type]
    names = ("activation_function", "hidden_activation", "hidden_act")
    act = next((getattr(config, name) for name in names if getattr(config, name, None)), None)
    expected = GELUS if architecture in ("gpt2", "gemma2", "gemma3") else ("silu",)
    unsaid = (unsaid_positions(config, architecture), unsaid_attention(config, architecture))
    wrong = {f"{what}": what is not None for what in unsaid} | {f"the activation {act!r}": act not in expected}
    if found := [what for what, holds in wrong.items() if holds]:
        raise ValueError(f"this {config.model_type} has {found[0]}, which its GGUF cannot say: take --to hf")


def write_gguf(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path, quantize: str | None, name: str
) -> list[str]:
    """Write `model.gguf`, and beside it the configuration and the tokenizer of transformers.

    Returns:
        What the file cannot say of the tokenizer or holds in another type than asked for, as sentences.

    Raises:
        ValueError: the family, a tensor or the tokenizer has no place in GGUF.
    """
    gguf = import_gguf()
    config = model.config
    check_family(config)
    architecture = FAMILIES[config.model_type]
    writer = gguf.GGUFWriter(folder / FILE, architecture)
    writer.add_name(name)
    writer.add_file_type(gguf.LlamaFileType[f"MOSTLY_{TYPES[quantize]}" if quantize else "ALL_F32"])
    if quantize in ("int8", "int4"):
        writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    _add_shape(writer, config, gguf)
    add_attention(writer, config, architecture)
    notes = add_tokenizer(writer, tokenizer, config.vocab_size) + add_ends(writer, model, tokenizer)
    kind = gguf.GGMLQuantizationType[TYPES[quantize]]
    kept: list[str] = []
    for title, tensor in _tensors(model, gguf, architecture):
        own = _type_of(title, tensor, kind, gguf)
        if own != kind and own != gguf.GGMLQuantizationType.F32:
            kept.append(title)
        writer.add_tensor(title, gguf.quantize(tensor, own), raw_dtype=own)
    if kept:
        notes.append(f"{len(kept)} tensors stay float16, as their rows are no multiples of 32: {kept[0]} is one.")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    _loadable(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return notes


def _add_shape(writer: Any, config: Any, gguf: Any) -> None:
    """Add the sizes of a model, by the names that GGUF has for them."""
    positions, heads = config.max_position_embeddings, config.num_attention_heads
    inner = getattr(config, "intermediate_size", None) or getattr(config, "n_inner", None) or 4 * config.hidden_size
    writer.add_vocab_size(config.vocab_size)
    writer.add_context_length(positions)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(inner)
    writer.add_head_count(heads)
    if config.model_type == "gpt2":
        writer.add_layer_norm_eps(config.layer_norm_epsilon)
        return
    size = getattr(config, "head_dim", None) or config.hidden_size // heads
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    add_positions(writer, gguf, config, size)
    if size != config.hidden_size // heads or config.model_type.startswith("gemma"):
        writer.add_key_length(size)
        writer.add_value_length(size)


def _tensors(model: PreTrainedModel, gguf: Any, architecture: str) -> list[tuple[str, np.ndarray]]:
    """Return the tensors of a model, float32, by their names in GGUF and in its layout; a tied head is left out.

    Raises:
        ValueError: GGUF has no name for a tensor.
    """
    arch = next(key for key, value in gguf.MODEL_ARCH_NAMES.items() if value == architecture)
    config: Any = model.config
    names = gguf.get_tensor_name_map(arch, config.num_hidden_layers)
    tied = model.get_output_embeddings().weight is model.get_input_embeddings().weight
    head = next(key for key, module in model.named_modules() if module is model.get_output_embeddings())
    heads = {"attn_q": config.num_attention_heads, "attn_k": getattr(config, "num_key_value_heads", None)}
    found = []
    for key, tensor in model.state_dict().items():
        if tied and key == f"{head}.weight":
            continue
        if (title := names.get_name(key, try_suffixes=(".weight", ".bias"))) is None:
            raise ValueError(f"GGUF has no place for the tensor {key} of this {config.model_type}: take --to hf")
        values = tensor.detach().float().cpu()
        part = title.split(".")[-2]
        if architecture == "gpt2" and title.endswith(TRANSPOSED):
            values = values.T
        elif architecture == "llama" and part in heads:  # halves become neighbours
            values = values.unflatten(0, (heads[part], 2, -1)).transpose(1, 2).flatten(0, 2)
        elif architecture.startswith("gemma") and part.endswith("norm"):
            values = values + 1  # which transformers adds as it computes
        found.append((title, np.ascontiguousarray(values.numpy())))
    return found


def _type_of(title: str, tensor: np.ndarray, kind: Any, gguf: Any) -> Any:
    """Return how a tensor is stored: in the type asked for, or in a wider one where that does not fit."""
    types = gguf.GGMLQuantizationType
    if tensor.ndim < 2 or title == "position_embd.weight":
        return types.F32
    if kind in (types.Q8_0, types.Q4_0) and tensor.shape[-1] % 32:
        return types.F16
    return kind


def _loadable(config: Any) -> Any:
    """Return the configuration that loads the file back: a Llama's for Mistral, which GGUF does not tell apart."""
    from transformers import LlamaConfig

    if config.model_type != "mistral":
        return config
    fields = {name: value for name, value in config.to_dict().items() if name not in ("model_type", "architectures")}
    known = LlamaConfig().to_dict().keys()
    return LlamaConfig(
        **{name: value for name, value in fields.items() if name in known}, architectures=["LlamaForCausalLM"]
    )


def load_gguf(folder: Path) -> PreTrainedModel:
    """Load what `write_gguf` wrote, through transformers, as float32 weights.

    The configuration is the one beside the file: of GPT-2's, transformers 5.23 reads no number of positions.
    """
    from transformers import AutoConfig, AutoModelForCausalLM

    load: Callable[..., Any] = AutoModelForCausalLM.from_pretrained
    with no_progress_bars():
        config = AutoConfig.from_pretrained(folder)
        model = load(folder, gguf_file=FILE, config=config, dtype=torch.float32, local_files_only=True)
    model.hf_quantizer = None  # the weights are plain numbers now
    return model.eval()
