"""Read a GGUF in llama.cpp, and compare its tokens, log-probabilities and greedy completions with transformers'.

`python -m benchmarks.export --llama-cpp` prints it for exports of small models. It needs llama-cpp-python.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from agents.serving.export.gguf.tokens import Texts
from agents.serving.export.gguf.writing import FILE, write_gguf
from rlhf_envs.models import load_causal_lm, load_tokenizer, resolve

__all__ = ["PROSE", "TEXTS", "Agreement", "compare", "greedy_ids", "log_probs", "open_gguf", "print_table", "read_ids"]

TEXTS = (
    "The film was good, and I've seen it twice.",
    "  two leading spaces, a tab\tand\n\nblank lines  \n   then spaces   ",
    "这部电影很好看，我看了两遍。",
    "emoji 🎬👩‍🎤 and accents: très café, naïve, Ω≈ç√",
    "numbers 1234567 3.14 2026-11-30, code: if (x != y) { return x_1; }",
    "DON'T shout!!! (or do...) it's 'fine' we'LL see",
    "\u00a0no-break\u3000wide space ١٢٣ half ½ עברית عربي हिन्दी ไทย",
    "\r\nWindows\r\nlines",
    "a",
    " ",
)
PROSE = (
    "I watched this film with my sister last night, and we both liked it very much.",
    "The story is thin, but the actors are so good that I did not mind.",
    "It was far too long, and the ending made no sense at all.",
    "The music is beautiful. I would see it again.",
)
QUANTIZED = {"float32": None, "float16": "float16", "int8": "int8", "int4": "int4"}
CONTEXT = 512


@dataclass(frozen=True)
class Agreement:
    """Hold how a GGUF in llama.cpp agrees with a model in transformers.

    Attributes:
        other_ids: the texts that have other tokens.
        nats: the largest and the mean difference of the log-probabilities of the prose's tokens.
        perplexities: of the prose's tokens, in transformers and in llama.cpp.
        greedy: how many tokens of its greedy continuations are the same before the first other one, and of how many.
    """

    other_ids: list[str]
    nats: tuple[float, float]
    perplexities: tuple[float, float]
    greedy: tuple[int, int]


def open_gguf(file: Path, positions: int = 0, exact_cache: bool = False) -> Any:
    """Open a GGUF in llama.cpp, on one thread.

    Args:
        file: the GGUF.
        positions: of its context; 0 for as many as the file says. llama.cpp takes the next multiple of 256.
        exact_cache: keep keys and values in float32; by default llama.cpp has float16.

    Raises:
        ModuleNotFoundError: llama-cpp-python is missing.
        ValueError: llama.cpp does not read the file.
    """
    try:
        import llama_cpp
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("llama.cpp is not here: pip install 'llama-cpp-python[server]'") from error
    kind = llama_cpp.GGML_TYPE_F32 if exact_cache else None
    one = {"n_threads": 1, "n_threads_batch": 1, "verbose": False, "seed": 0}
    return llama_cpp.Llama(str(file), n_ctx=positions, logits_all=True, type_k=kind, type_v=kind, **one)


def read_ids(llama: Any, text: str) -> list[int]:
    """Return the tokens of a text, as llama.cpp's servers read a prompt."""
    return list(llama.tokenize(text.encode(), add_bos=True, special=True))


def log_probs(llama: Any, ids: Sequence[int]) -> np.ndarray:
    """Return llama.cpp's log-probabilities after each token, (length, vocab_size) float64."""
    llama.reset()
    llama.eval(list(ids))
    scores = torch.from_numpy(np.array(llama.scores[: len(ids)], dtype=np.float64))
    return np.asarray(scores.log_softmax(dim=-1).numpy())


def greedy_ids(llama: Any, ids: Sequence[int], n: int) -> list[int]:
    """Return the n likeliest next tokens, one after another."""
    found: list[int] = []
    llama.reset()
    for token in llama.generate(list(ids), temp=0.0, repeat_penalty=1.0):
        found.append(int(token))
        if len(found) == n:
            break
    return found


@torch.no_grad()
def _reference(model: Any, ids: Sequence[int]) -> np.ndarray:
    logits = model(torch.tensor([list(ids)])).logits[0].double()
    return np.asarray(logits.log_softmax(dim=-1).numpy())


@torch.no_grad()
def _reference_greedy(model: Any, ids: Sequence[int], n: int) -> list[int]:
    found, cache, given = [], None, torch.tensor([list(ids)])
    for _ in range(n):
        out = model(given, past_key_values=cache, use_cache=True)
        cache, given = out.past_key_values, out.logits[:, -1].argmax(-1, keepdim=True)
        found.append(int(given))
    return found


def compare(
    llama: Any,
    model: Any,
    tokenizer: Any,
    texts: Sequence[str] = TEXTS,
    prose: Sequence[str] = PROSE,
    n_greedy: int = 16,
) -> Agreement:
    """Compare a GGUF in llama.cpp with a model in transformers.

    Args:
        llama: see `open_gguf`.
        model: a causal language model, float32.
        tokenizer: the model's.
        texts: whose tokens are compared. What a GGUF cannot say of the tokenizer is done before.
        prose: whose log-probabilities and greedy continuations are compared.
        n_greedy: tokens of each continuation.
    """
    written = Texts(tokenizer)
    other = [text for text in texts if read_ids(llama, written(text)) != tokenizer(text)["input_ids"]]
    taken, same = [], 0
    for text in prose:
        ids = tokenizer(text)["input_ids"]
        follow = (np.arange(len(ids) - 1), np.array(ids[1:], dtype=int))
        taken.append((_reference(model, ids)[follow], log_probs(llama, ids)[follow]))
        first, second = _reference_greedy(model, ids, n_greedy), greedy_ids(llama, ids, n_greedy)
        equal = [a == b for a, b in zip(first, second, strict=True)]
        same += equal.index(False) if False in equal else n_greedy
    ours, theirs = (np.concatenate([pair[i] for pair in taken]) for i in range(2))
    gaps = np.abs(ours - theirs)
    perplexities = float(np.exp(-ours.mean())), float(np.exp(-theirs.mean()))
    return Agreement(other, (float(gaps.max()), float(gaps.mean())), perplexities, (same, len(prose) * n_greedy))


def special_texts(tokenizer: Any) -> list[str]:
    """Return texts with a tokenizer's special tokens in them, and a chat if it has a template."""
    tokens = tokenizer.all_special_tokens
    texts = [f"{token}A film{token} and" for token in tokens]
    if tokenizer.chat_template:
        messages = [{"role": "user", "content": " 你好, is it good?"}, {"role": "assistant", "content": "Yes 🎬"}]
        texts.append(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))
    return texts


def print_table(models: Sequence[str]) -> None:
    """Print how the GGUF files of models, in every type, agree with transformers in llama.cpp."""
    print(
        "| model | GGUF | same tokens | perplexity: the model's, in llama.cpp | nats per token apart | greedy tokens |"
    )
    print("|---|---|---|---|---|---|")
    for name in models:
        model, tokenizer = load_causal_lm(resolve(name)), load_tokenizer(resolve(name))
        texts = [*TEXTS, *special_texts(tokenizer)]
        for title, quantize in QUANTIZED.items():
            with tempfile.TemporaryDirectory() as folder:
                write_gguf(model, tokenizer, Path(folder), quantize, Path(name).name)
                llama = open_gguf(Path(folder) / FILE, CONTEXT)
                found = compare(llama, model, tokenizer, texts)
                llama.close()
            before, after = found.perplexities
            print(
                f"| {name} | {title} | {len(texts) - len(found.other_ids)} of {len(texts)} | {before:.3f}, {after:.3f} "
                f"({after / before - 1:+.2%}) | {found.nats[1]:.4f}, at most {found.nats[0]:.4f} "
                f"| {found.greedy[0]} of {found.greedy[1]} |",
                flush=True,
            )
            for text in found.other_ids:
                print(f"other tokens: {text!r}")
