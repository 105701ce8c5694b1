"""Small models with real BPE tokenizers, byte-level and of SentencePiece's kind, as llama.cpp reads them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import AutoModelForCausalLM, GemmaTokenizer, LlamaTokenizerFast, PreTrainedTokenizerFast

from agents.serving.export.gguf.byte_level import SPLITS
from agents.serving.export.gguf.sentencepiece import BYTES, MARK
from benchmarks.llama_cpp_check import TEXTS

TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
KINDS = ("gpt-2", "smollm", *SPLITS.values())
PIECES = ("each", "always", "first", "never", "gemma")
SPECIAL = (("<pad>", "<s>", "</s>", "<unk>"), ("<pad>", "<bos>", "<eos>", "<unk>"))
MASK = "<mask>"
YARN: dict[str, Any] = {
    "rope_type": "yarn",
    "rope_theta": 10000.0,
    "factor": 4.0,
    "original_max_position_embeddings": 64,
}
LLAMA3: dict[str, Any] = YARN | {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
}
# Scaled positions, by the shape of the model and the kind. Wave lengths of a head of 16: 6 to 20,000 tokens.
ROPES: dict[tuple[str, str], dict[str, Any]] = {
    ("llama", "llama3"): LLAMA3,
    ("mistral", "linear"): {"rope_type": "linear", "rope_theta": 10000.0, "factor": 3.0},
    ("llama", "yarn"): YARN | {"mscale": 1.0, "mscale_all_dim": 0.5},
    ("qwen2", "yarn"): YARN,
    ("qwen3", "yarn"): YARN | {"attention_factor": 1.5},
}

LAYERS = {"layer_types": ["sliding_attention", "sliding_attention", "full_attention"]}
LINEAR = {
    "full_attention": {"rope_type": "linear", "rope_theta": 1_000_000.0, "factor": 8.0},
    "sliding_attention": {"rope_type": "default", "rope_theta": 10_000.0},
}
# Gemmas, with options of their configuration: windows in every second or third layer alone, in all, and in none.
GEMMAS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("gemma2", {}),
    ("gemma2", LAYERS),
    ("gemma3", LAYERS | {"rope_parameters": LINEAR, "final_logit_softcapping": 30.0}),
    ("gemma3", {}),
    ("gemma3", {"layer_types": ["full_attention"] * 3}),
)


def trained_tokenizer(kind: str = "gpt-2", bos: bool = False) -> PreTrainedTokenizerFast:
    """Train byte-level BPE on a few texts, with a pre-tokenizer that llama.cpp knows by this name."""
    last = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=kind in ("gpt-2", "smollm"))
    takes_words = False
    if kind == "gpt-2":
        split: Any = last
    elif kind == "smollm":
        split = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), last])
    else:
        regex, takes_words = next(key for key, name in SPLITS.items() if name == kind)
        split = pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(regex), "isolated"), last])
    tokenizer = Tokenizer(models.BPE(ignore_merges=takes_words))
    tokenizer.pre_tokenizer, tokenizer.decoder = split, decoders.ByteLevel()
    special = ["<|endoftext|>", "<s>", "<|im_start|>", "<|im_end|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=320,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([*TEXTS, "the film was good, was it? the other film was not good."] * 3, trainer)
    if bos:
        tokenizer.post_processor = processors.TemplateProcessing("<s> $A", None, [("<s>", 1)])
    made = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=["<|im_start|>"],
    )
    made.chat_template = TEMPLATE
    return made


def trained_pieces(kind: str = "first", template: str | None = None, **options: Any) -> PreTrainedTokenizerFast:
    """Train BPE with a mark for spaces and bytes as tokens on a few texts.

    Args:
        kind: which parts of a text get a space: "each" (the normalizer of Llama 2's files), "always", the "first" alone
            (LlamaTokenizer's two ways), "never", or "gemma" (GemmaTokenizer's, which gives none either).
        template: the chat template.
        options: of the tokenizer.
    """
    names = dict(zip(("pad_token", "bos_token", "eos_token", "unk_token"), SPECIAL[kind == "gemma"], strict=True))
    learned = Tokenizer(models.BPE(unk_token=names["unk_token"], byte_fallback=True, fuse_unk=True))
    learned.normalizer = normalizers.Replace(" ", MARK)
    trainer = trainers.BpeTrainer(vocab_size=320, special_tokens=[*names.values(), MASK], show_progress=False)
    learned.train_from_iterator([*TEXTS, "the film was good, was it? the other film was not good."] * 3, trainer)
    model = json.loads(learned.to_str())["model"]
    first = [*names.values(), MASK, *BYTES]
    vocab = {token: i for i, token in enumerate(dict.fromkeys([*first, *model["vocab"]]))}
    merges = [tuple(merge) for merge in model["merges"]]
    if kind == "gemma":
        made: Any = GemmaTokenizer(vocab=vocab, merges=merges, **names, mask_token=MASK, **options)
    elif kind == "each":
        learned.model = models.BPE(vocab, merges, unk_token=names["unk_token"], byte_fallback=True, fuse_unk=True)
        learned.normalizer = normalizers.Sequence([normalizers.Prepend(MARK), learned.normalizer])
        steps = [decoders.Replace(MARK, " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
        learned.decoder = decoders.Sequence(steps)
        learned.post_processor = processors.TemplateProcessing("<s> $A", None, [("<s>", 1)])
        made = PreTrainedTokenizerFast(tokenizer_object=learned, **names, **options)
    else:
        how = {"legacy": kind == "always", "add_prefix_space": kind != "never", "add_bos_token": True, **options}
        made = LlamaTokenizerFast(vocab=vocab, merges=merges, **names, **how)
    made.chat_template = template
    return made


def small_model(
    shape: str, vocab_size: int, positions: int = 256, rope: dict[str, Any] | None = None, **options: Any
) -> Any:
    """Make a small fresh model whose logits differ.

    Args:
        shape: the family.
        rope: how its positions are scaled.
        options: of a Gemma's configuration.
    """
    import transformers as t

    sizes: dict[str, Any] = dict(
        vocab_size=vocab_size,
        num_hidden_layers=2,
        hidden_size=64,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=128,
        max_position_embeddings=positions,
        initializer_range=0.1,
        bos_token_id=1,
        eos_token_id=3,
        pad_token_id=0,
        **({} if rope is None else {"rope_parameters": {**rope}}),
    )
    if shape == "gpt2":
        config: Any = t.GPT2Config(
            vocab_size=vocab_size, n_positions=positions, n_layer=2, n_embd=64, n_head=4, initializer_range=0.1
        )
        config.bos_token_id, config.eos_token_id = 1, 3
    elif shape == "mistral":
        config = t.MistralConfig(**sizes, sliding_window=None)
    elif shape in ("gemma2", "gemma3"):
        made = {"gemma2": t.Gemma2Config, "gemma3": t.Gemma3TextConfig}[shape]
        windows = {"head_dim": 32, "query_pre_attn_scalar": 32, "sliding_window": 24}
        config = made(**{**sizes, "num_hidden_layers": 3, **windows, **options})
    else:
        config = {"llama": t.LlamaConfig, "qwen2": t.Qwen2Config, "qwen3": t.Qwen3Config}[shape](**sizes)
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config).eval()
    for parameter in model.parameters():  # biases and norms are 0 and 1 in a fresh model
        parameter.data += 0.05 * torch.randn_like(parameter)
    return model


def save_small(folder: Path, tokenizer: PreTrainedTokenizerFast, shape: str = "llama", positions: int = 256) -> Path:
    """Write a small model as a Hugging Face folder."""
    small_model(shape, len(tokenizer), positions).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    settings = {"do_sample": True, "temperature": 1.0, "top_k": 0, "top_p": 1.0, "eos_token_id": 3, "max_new_tokens": 8}
    (folder / "generation_config.json").write_text(json.dumps(settings))
    return folder
