"""Write a language model as GGUF, the file that llama.cpp, Ollama and LM Studio read, with its tokenizer in it.

Tensors get the names and the layout of llama.cpp's converter: Llama's queries and keys are permuted, because ggml
rotates pairs of neighbours, and GPT-2's weights are transposed. Norms, biases and learned positions stay float32.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from rlhf_envs.models import no_progress_bars

from .positions import add_positions, unsaid_positions

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

__all__ = ["FAMILIES", "FILE", "check_family", "import_gguf", "load_gguf", "normalizer_of", "write_gguf"]

FILE = "model.gguf"
TYPES = {None: "F32", "float16": "F16", "int8": "Q8_0", "int4": "Q4_0"}
# transformers' model types, and the architecture that GGUF has for them. Mistral without a sliding window is a Llama.
FAMILIES = {"gpt2": "gpt2", "llama": "llama", "mistral": "llama", "qwen2": "qwen2", "qwen3": "qwen3"}
TRANSPOSED = ("attn_qkv.weight", "attn_output.weight", "ffn_up.weight", "ffn_down.weight")  # of GPT-2
GELUS = ("gelu_new", "gelu_pytorch_tanh", "gelu_fast")  # the same function, which is ggml's
# llama.cpp knows the pre-tokenizers by name: those of a single split, by their regular expression, and by whether a
# whole word that is a token is taken as it is, without merges.
WORDS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
OTHERS = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
SPLITS = {
    (WORDS + r"\p{N}{1,3}" + OTHERS, True): "llama-bpe",
    (WORDS + r"\p{N}{1,3}" + OTHERS, False): "smaug-bpe",
    (WORDS + r"\p{N}" + OTHERS, False): "qwen2",
}


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
    positions = unsaid_positions(config, FAMILIES[config.model_type])
    window = getattr(config, "sliding_window", None)
    windowed = bool(window and window < config.max_position_embeddings and getattr(config, "use_sliding_window", True))
    act = getattr(config, "activation_function", None) or getattr(config, "hidden_act", None)
    expected = GELUS if config.model_type == "gpt2" else ("silu",)
    wrong = {
        f"{positions}": positions is not None,
        f"a sliding window of {window}": windowed,
        f"the activation {act!r}": act not in expected,
        "attention without the usual scale": not getattr(config, "scale_attn_weights", True),
        "attention scaled by the layer": getattr(config, "scale_attn_by_inverse_layer_idx", False),
    }
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
    notes = _add_tokenizer(writer, tokenizer, config.vocab_size) + _add_ends(writer, model, tokenizer)
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
    if size != config.hidden_size // heads:
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


def _add_tokenizer(writer: Any, tokenizer: PreTrainedTokenizerBase, vocab_size: int) -> list[str]:
    """Add a byte-level BPE tokenizer and its chat template. Return what is lost of it, as sentences.

    Raises:
        ValueError: it is of another kind, or splits text in a way that has no name.
    """
    content = json.loads(tokenizer.backend_tokenizer.to_str()) if hasattr(tokenizer, "backend_tokenizer") else {}
    model = content.get("model", {})
    if model.get("type") != "BPE" or model.get("byte_fallback"):
        raise ValueError(
            f"--to gguf writes byte-level BPE tokenizers, such as GPT-2's, Llama 3's and Qwen's, and this one is a "
            f"{model.get('type', type(tokenizer).__name__)}{' with bytes as tokens' if model else ''}: take --to hf"
        )
    named = {i: token for token, i in tokenizer.get_vocab().items()}
    if max(named) >= vocab_size:
        raise ValueError(f"the tokenizer has the id {max(named)}, and the model's vocabulary ends at {vocab_size - 1}")
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(_splits(content["pre_tokenizer"], bool(model.get("ignore_merges"))))
    special = {token["id"]: token["special"] for token in content["added_tokens"]}
    rows = range(vocab_size)
    writer.add_token_list([named.get(i, f"[PAD{i}]") for i in rows])
    # Of gguf.TokenType: normal, control, user-defined, unused.
    writer.add_token_types([5 if i not in named else (3 if special[i] else 4) if i in special else 1 for i in rows])
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]]
    if merges:
        writer.add_token_merges(merges)
    else:  # transformers reads one of both
        writer.add_token_scores([0.0] * vocab_size)
    for word in ("bos", "eos", "unk", "pad"):
        if (number := getattr(tokenizer, f"{word}_token_id")) is not None:
            getattr(writer, f"add_{word}_token_id")(number)
    probe = tokenizer("a")["input_ids"]
    writer.add_add_bos_token(bool(probe) and probe[0] == tokenizer.bos_token_id is not None)
    writer.add_add_eos_token(bool(probe) and probe[-1] == tokenizer.eos_token_id is not None)
    if tokenizer.chat_template is not None:
        writer.add_chat_template(tokenizer.chat_template)
    notes = []
    if lost := normalizer_of(tokenizer):
        notes.append(
            f"GGUF has no word for what the tokenizer does before it splits ({lost}): do it yourself, or ask through "
            "`rlhf serve --upstream`, which does."
        )
    if not merges:
        notes.append(
            "llama.cpp reads no tokenizer without merges, and this one has none: the file is for transformers."
        )
    return notes


def _add_ends(writer: Any, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """Add the tokens that end a completion beside the tokenizer's own: GGUF has room for two. Return what is lost."""
    given = getattr(model.generation_config, "eos_token_id", None)
    ends = given if isinstance(given, list) else [] if given is None else [given]
    others = [number for number in ends if number != tokenizer.eos_token_id]
    for add, number in zip((writer.add_eot_token_id, writer.add_eom_token_id), others, strict=False):
        add(number)
    if left := others[2:]:
        return [f"GGUF has room for three tokens that end a completion, and the model has {len(left)} more: {left}."]
    return []


def normalizer_of(tokenizer: PreTrainedTokenizerBase) -> str:
    """Return the names of what a tokenizer does to a text before it splits it, such as "NFKC, Lowercase"; or ""."""
    normalizer = json.loads(tokenizer.backend_tokenizer.to_str())["normalizer"] or {}
    return ", ".join(part["type"] for part in normalizer.get("normalizers", [normalizer]) if part)


def _splits(pre_tokenizer: dict[str, Any] | None, takes_words: bool) -> str:
    """Return llama.cpp's name of a pre-tokenizer.

    Args:
        pre_tokenizer: as `tokenizer.json` has it.
        takes_words: whether a whole word that is a token is taken as it is, without merges.

    Raises:
        ValueError: it has none.
    """
    steps = (pre_tokenizer or {}).get("pretokenizers", [pre_tokenizer or {}])
    kinds = [step.get("type") for step in steps]
    *_, last = steps
    plain = last.get("type") == "ByteLevel" and not last["add_prefix_space"]
    if plain and not takes_words and last["use_regex"]:
        if kinds == ["ByteLevel"]:
            return "gpt-2"
        if kinds == ["Digits", "ByteLevel"] and steps[0]["individual_digits"]:
            return "smollm"
    if plain and kinds == ["Split", "ByteLevel"] and not last["use_regex"]:
        split = steps[0]
        is_usual = split.get("behavior") == "Isolated" and not split.get("invert")
        if is_usual and (found := SPLITS.get((split.get("pattern", {}).get("Regex"), takes_words))):
            return found
    how = ", ".join(map(str, kinds)) + (", whole words as they are" if takes_words else "")
    raise ValueError(f"GGUF has no name for how this tokenizer splits text ({how}): take --to hf")


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
