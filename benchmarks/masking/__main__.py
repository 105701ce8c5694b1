"""Measure what the masker finds: recall and precision by language and kind.

    python -m benchmarks.masking
    python -m benchmarks.masking --held-out tests/rlhf_envs/privacy/held_out.py

The texts come from `benchmarks.masking.texts`, which the masker was written against, or from a generator held apart.
Private data counts as found if all its letters and digits are covered by spans of its kind. A span counts as right if
it overlaps private data of its kind. "Exact" is the share of the private data that a span covers and no letter more.
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

from rlhf_envs.privacy import Masker, Span

from . import texts as own_texts

__all__ = ["count", "main", "score"]

KINDS = ("email", "phone", "card", "iban", "national_id", "ip", "key")
Truth = Sequence[tuple[int, int, str]]


def core(text: str, start: int, end: int) -> tuple[int, int]:
    """Return the ends of a stretch without the signs around it."""
    while start < end and not text[start].isalnum():
        start += 1
    while end > start and not text[end - 1].isalnum():
        end -= 1
    return start, end


def count(text: str, truth: Truth, found: Sequence[Span]) -> Counter[tuple[str, str]]:
    """Return how many there are of each kind and each of "true", "hit", "exact", "found" and "right"."""
    counts: Counter[tuple[str, str]] = Counter()
    for start, end, kind in truth:
        counts[kind, "true"] += 1
        same = [span for span in found if span.kind == kind]
        covered = all(
            any(span.start <= place < span.end for span in same) for place in range(start, end) if text[place].isalnum()
        )
        counts[kind, "hit"] += covered
        counts[kind, "exact"] += any(core(text, *span[:2]) == core(text, start, end) for span in same)
    for span in found:
        counts[span.kind, "found"] += 1
        counts[span.kind, "right"] += any(k == span.kind and s < span.end and span.start < e for s, e, k in truth)
    return counts


def score(counts: Counter[tuple[str, str]], kind: str) -> tuple[float, float, float]:
    """Return recall, precision and the exact share of one kind; 1 where there is nothing."""

    def share(part: str, whole: str) -> float:
        return counts[kind, part] / counts[kind, whole] if counts[kind, whole] else 1.0

    return share("hit", "true"), share("right", "found"), share("exact", "true")


def load(path: str | None) -> ModuleType:
    """Return the module of texts: ours, or the file at `path`."""
    if path is None:
        return own_texts
    spec = importlib.util.spec_from_file_location("held_out", path)
    assert spec is not None and spec.loader is not None, f"{path} is no Python file"
    module = importlib.util.module_from_spec(spec)
    sys.modules["held_out"] = module
    spec.loader.exec_module(module)
    return module


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--held-out", metavar="FILE", help="a generator held apart: make(n, seed, language)")
    parser.add_argument("-n", type=int, default=2000, help="texts in each language")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--errors", type=int, default=0, metavar="N", help="print N that were missed or wrong")
    options = parser.parse_args(arguments)
    texts, masker = load(options.held_out), Masker(kinds=KINDS)
    print(f"{Path(options.held_out or own_texts.__file__).name}, seed {options.seed}, {options.n} texts a language\n")
    print("| language | kind | in the texts | recall | precision | exact |\n|---|---|---|---|---|---|")
    for language in ("en", "zh"):
        counts: Counter[tuple[str, str]] = Counter()
        shown = 0
        for text, truth in texts.make(options.n, options.seed, language):
            found = masker.find(text)
            here = count(text, truth, found)
            counts.update(here)
            for (_, what), number in here.items():
                counts["all", what] += number
            if shown < options.errors and any(score(here, kind)[:2] != (1.0, 1.0) for kind in KINDS):
                shown += 1
                print(
                    repr(text),
                    *((k, text[s:e]) for s, e, k in truth),
                    "->",
                    *((s.kind, text[s.start : s.end]) for s in found),
                )
        for kind in (*KINDS, "all"):
            recall, precision, exact = score(counts, kind)
            print(f"| {language} | {kind} | {counts[kind, 'true']} | {recall:.3f} | {precision:.3f} | {exact:.3f} |")


if __name__ == "__main__":
    main()
