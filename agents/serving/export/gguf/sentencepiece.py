"""Say a tokenizer of SentencePiece's kind in llama.cpp's words: Llama 2's, Mistral's, TinyLlama's and Gemma's.

These are BPE with a mark for spaces, and bytes as tokens for characters that are none. llama.cpp reads no merges of
them: it joins the two neighbours whose text together is the token with the highest score, the left ones first. A
token's score here is the rank of the merge that makes it, so that it joins what the tokenizer merges, in its order.
gguf's own `LlamaHfVocab` gives every token one score (findings/gguf_llama_hf_vocab_has_one_score.sh), which joins from
left to right.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

__all__ = ["BYTES", "MARK", "SpaceMarks", "flat", "read_marks", "scores"]

MARK = "\u2581"
BYTES = tuple(f"<0x{byte:02X}>" for byte in range(256))
PREPEND = {"type": "Prepend", "prepend": MARK}
REPLACE = {"type": "Replace", "pattern": {"String": " "}, "content": MARK}
NORMALIZERS = ([PREPEND, REPLACE], [REPLACE, PREPEND], [REPLACE])  # that mark spaces, as the last steps


@dataclass(frozen=True)
class SpaceMarks:
    """Hold where a tokenizer puts a space of its own, and where it splits.

    Attributes:
        before: which parts of a text get a space before them. Parts lie between the added tokens. "each" part,
            "always" one that does not begin with a space, the "first" alone if it does not, or "never" one.
        splits: whether words are split before each space, so that no merge crosses one.
        n_others: how many steps of the normalizer come before those that mark spaces.
    """

    before: Literal["each", "always", "first", "never"]
    splits: bool
    n_others: int

    def is_before(self, part: str, is_first: bool) -> bool:
        """Return whether a part of a text gets a space before it."""
        if self.before in ("each", "never"):
            return self.before == "each"
        return not part.startswith((" ", MARK)) and (is_first or self.before == "always")


def read_marks(content: dict[str, Any]) -> SpaceMarks:
    """Read how a tokenizer marks spaces.

    Args:
        content: of `tokenizer.json`.

    Raises:
        ValueError: llama.cpp cannot split text as it does, or lacks tokens that llama.cpp needs.
    """
    model, normalizer = content["model"], flat(content["normalizer"], "normalizers")
    steps = flat(content["pre_tokenizer"], "pretokenizers")
    if lacking := [byte for byte in BYTES if byte not in model["vocab"]]:
        raise ValueError(f"llama.cpp needs a token for every byte, and the tokenizer has no {lacking[0]}: take --to hf")
    marks = next((steps for steps in NORMALIZERS if normalizer[-len(steps) :] == steps), [])
    others = normalizer[: len(normalizer) - len(marks)]
    if marks:  # Gemma's pre-tokenizer splits at spaces, of which none are left
        steps = [step for step in steps if not (step["type"] == "Split" and step["pattern"] == {"String": " "})]
    if not model.get("ignore_merges") and PREPEND not in others and REPLACE not in others:
        if marks and not steps:
            return SpaceMarks("each" if PREPEND in marks else "never", False, len(others))
        if not marks and [(step["type"], step.get("replacement")) for step in steps] == [("Metaspace", MARK)]:
            return SpaceMarks(steps[0]["prepend_scheme"], steps[0]["split"], len(others))
    how = ", ".join([step["type"] for step in [*normalizer, *steps]] or ["not at all"])
    how += ", whole words as they are" if model.get("ignore_merges") else ""
    raise ValueError(f"GGUF has no name for how this tokenizer splits text ({how}): take --to hf")


def flat(step: dict[str, Any] | None, key: str) -> list[dict[str, Any]]:
    """Return the steps of a normalizer or a pre-tokenizer, sequences within sequences one after another."""
    if step is None or step["type"] != "Sequence":
        return [] if step is None else [step]
    return [one for part in step[key] for one in flat(part, key)]


def scores(
    names: Iterable[str], merges: Sequence[Sequence[str]], splits: bool, matched: set[str]
) -> tuple[list[float], list[str]]:
    """Score tokens so that llama.cpp joins what the tokenizer merges, in its order.

    A token that BPE makes of its own text is made of the same two parts wherever it is made, so that its score is the
    rank of that last merge. A token that BPE does not make of its own text is made nowhere; if that text ends as two
    tokens, llama.cpp joins them all the same.

    Args:
        names: the tokens, by id.
        merges: pairs of parts, the first one first.
        splits: see `SpaceMarks`.
        matched: tokens that are found in a text before it is split.

    Returns:
        The scores, and the tokens that llama.cpp makes where the tokenizer does not.
    """
    ranks: dict[tuple[str, str], int] = {}
    for rank, (left, right) in enumerate(merges):
        if not (splits and right.startswith(MARK)):
            ranks[left, right] = rank
    found, strays = list[float](), list[str]()
    for name in names:
        last, n = _merged(name, ranks)
        found.append(float(-len(merges) - 1 if last is None else -last))
        if n == 2 and name not in matched:
            strays.append(name)
    return found, strays


def _merged(text: str, ranks: dict[tuple[str, str], int]) -> tuple[int | None, int]:
    """Return the rank of the merge that makes a text one token, None without one; and how many parts are left."""
    parts, last = list(text), None
    while len(parts) > 1:
        rank, place = min((ranks.get(pair, math.inf), i) for i, pair in enumerate(pairwise(parts)))
        if rank == math.inf:
            return None, len(parts)
        parts[place : place + 2] = [parts[place] + parts[place + 1]]
        last = int(rank)
    return last, len(parts)
