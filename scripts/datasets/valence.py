"""Draw the bundled tweets and news sentences, with what their raters said, from the sdist of vaderSentiment.

    pip download --no-deps --no-binary :all: vaderSentiment==3.3.2
    python -m scripts.datasets.valence vaderSentiment-3.3.2.tar.gz

A rater's score above 0 is a vote for "positive", below 0 for "negative", and 0 for "neutral". The label is what at
least half of the raters said; texts without such a majority are left out. Deterministic: the same source gives the same
bytes.
"""

from __future__ import annotations

import argparse
import html
import random
import re
from collections import Counter
from pathlib import Path
from typing import Any

from scripts.datasets.vader import clean_snippet, ground_truth
from scripts.datasets.writing import DATA, assign_splits, letters, write

LABELS = ("negative", "neutral", "positive")
AGREEMENT = 0.5
SHARES = {"test": 0.25, "validation": 0.1}
SENTENCES = 600  # of each label
MONEY = re.compile(
    r"\b(stocks?|shares|shareholders?|investors?|invest(ments?|ing)?|markets?|wall street|bank(s|ing|ers?)?"
    r"|federal reserve|interest rates?|inflation|recession|econom(y|ic|ists?)|financ\w*|bonds?|mortgages?|loans?|debts?"
    r"|deficits?|budgets?|tax(es)?|dollars?|profits?|earnings|currency|trade|corporate|credit)\b|\$\d",
    re.IGNORECASE,
)


def count_votes(ratings: list[int]) -> dict[str, int]:
    """Return how many raters called a text each of the labels."""
    votes = Counter(LABELS[(score > 0) - (score < 0) + 1] for score in ratings)
    return {label: votes[label] for label in LABELS}


def labelled(sdist: Path, kind: str) -> list[dict[str, Any]]:
    """Return the texts on which at least half of the raters agree, with their labels and votes.

    Those that differ in case, punctuation, removed names or links alone are one text, the first.
    """
    found: dict[str, dict[str, Any]] = {}
    for number, text, ratings in ground_truth(sdist, kind):
        votes = count_votes(ratings)
        label = max(LABELS, key=votes.__getitem__)
        agreed = votes[label] >= AGREEMENT * len(ratings) and list(votes.values()).count(votes[label]) == 1
        prompt = " ".join(html.unescape(clean_snippet(text)).split())
        key = letters(re.sub(r"@anonymous|http://url_removed", "", prompt))
        if agreed and key:
            found.setdefault(key, {"prompt": prompt, "label": label, "votes": votes, "number": number})
    return [*found.values()]


def tweets(sdist: Path) -> list[dict[str, Any]]:
    """Return all of the tweets."""
    return [{**row, "number": ""} for row in assign_splits(labelled(sdist, "tweets"), "prompt", SHARES)]


def sentences(sdist: Path) -> list[dict[str, Any]]:
    """Draw sentences, as many of each label, in random order; those of one article are in one split."""
    rows, drawn = labelled(sdist, "nytEditorialSnippets"), random.Random(0)
    rows = [
        row
        for label in LABELS
        for row in drawn.sample([row for row in rows if row["label"] == label and len(row["prompt"]) < 240], SENTENCES)
    ]
    drawn.shuffle(rows)
    rows = assign_splits([{**row, "number": row["number"].split("_")[0]} for row in rows], "number", SHARES)
    owners: dict[str, str] = {}  # the border between two splits falls between two articles
    return [{**row, "split": owners.setdefault(row["number"], row["split"])} for row in rows]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sdist", type=Path, help="vaderSentiment-3.3.2.tar.gz")
    sdist = parser.parse_args().sdist
    news = [text for _, text, _ in ground_truth(sdist, "nytEditorialSnippets")]
    print(f"{sum(bool(MONEY.search(text)) for text in news):,} of {len(news):,} sentences have a word about money")
    for name, rows in (("tweets", tweets(sdist)), ("news", sentences(sdist))):
        counts = Counter((row["split"], row["label"]) for row in rows)
        print(name, ", ".join(f"{split} {label} {n:,}" for (split, label), n in sorted(counts.items())))
        write(DATA / f"{name}.jsonl.gz", [{k: v for k, v in row.items() if k != "number"} for row in rows])


if __name__ == "__main__":
    main()
