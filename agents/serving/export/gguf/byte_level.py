"""Name how a byte-level BPE tokenizer (GPT-2's, Llama 3's, Qwen's) splits texts, in llama.cpp's words."""

from __future__ import annotations

from typing import Any

__all__ = ["SPLITS", "split_name"]

# llama.cpp knows the pre-tokenizers by name: those of a single split, by their regular expression, and by whether a
# whole word that is a token is taken as it is, without merges.
WORDS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
OTHERS = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
SPLITS = {
    (WORDS + r"\p{N}{1,3}" + OTHERS, True): "llama-bpe",
    (WORDS + r"\p{N}{1,3}" + OTHERS, False): "smaug-bpe",
    (WORDS + r"\p{N}" + OTHERS, False): "qwen2",
}


def split_name(pre_tokenizer: dict[str, Any] | None, takes_words: bool) -> str:
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
