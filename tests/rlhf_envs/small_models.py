"""Tokenizers of the kinds that differ: byte-level ones like GPT-2's, and LLaMA's, which put a space before a text."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

SPECIAL = ("<pad>", "<s>", "</s>", "<|im_start|>", "<|im_end|>")


def byte_level(
    bos: bool = False, eos: str = "</s>", pad: str = "<pad>", space: bool = False
) -> PreTrainedTokenizerFast:
    """Make a tokenizer of one token per byte; it puts <s> before a text with `bos`, and a space with `space`."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={t: i for i, t in enumerate([*SPECIAL, *letters])}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=space)
    tokenizer.decoder = decoders.ByteLevel()
    if bos:
        tokenizer.post_processor = processors.TemplateProcessing("<s> $A", None, [("<s>", 1)])
    others = [token for token in SPECIAL if token not in (pad, "<s>", eos)]
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token=eos, pad_token=pad, additional_special_tokens=others
    )


def llama_style(prepend: str | None = None) -> PreTrainedTokenizerFast:
    """Make a tokenizer of letters, with a space mark before every text and bytes for all else, as LLaMA 2's.

    With `prepend` the mark is Metaspace's: "always", before the "first" word of a text alone, or "never".
    """
    vocab = {"<unk>": 0, "<s>": 1, "</s>": 2, "<pad>": 3} | {f"<0x{b:02X}>": 4 + b for b in range(256)}
    for letter in "\u2581thefilmwasgodb()":
        vocab.setdefault(letter, len(vocab))
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[], unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    if prepend is None:
        marks = [normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")]
        tokenizer.normalizer = normalizers.Sequence(marks)
    else:
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=prepend, split=False)
    strip = [] if prepend == "never" else [decoders.Strip(" ", 1, 0)]
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), *strip]
    )
    tokenizer.post_processor = processors.TemplateProcessing("<s> $A", None, [("<s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="<pad>", unk_token="<unk>"
    )


def save_model(folder: Path, tokenizer: PreTrainedTokenizerFast, **config: Any) -> str:
    """Write a small fresh LLaMA with a tokenizer into a folder, and return the folder."""
    torch.manual_seed(0)
    size = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    ends = {"bos_token_id": 1, "eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    given = {"vocab_size": len(tokenizer), "max_position_embeddings": 256, **size, **ends, **config}
    LlamaForCausalLM(LlamaConfig(**given)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)
