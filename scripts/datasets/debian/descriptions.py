"""Draw the bundled package descriptions from Debian's file Translation-en, or write all of them to a file.

    apt-get update -o Acquire::Languages=en
    /usr/lib/apt/apt-helper cat-file /var/lib/apt/lists/*_main_i18n_Translation-en* > Translation-en
    python -m scripts.datasets.debian.descriptions Translation-en
    python -m scripts.datasets.debian.descriptions Translation-en --output descriptions.jsonl

Deterministic: the same source gives the same bytes.
"""

from __future__ import annotations

import argparse
import random
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from rlhf_envs.models import load_tokenizer
from rlhf_envs.overlap import overlap_words
from scripts.datasets.near_duplicates import without_near_duplicates
from scripts.datasets.writing import DATA, assign_splits, letters, write

ROWS = 3600
WORDS = (14, 40)  # of the first paragraph
SUMMARY_WORDS = (3, 12)
PROMPT_TOKENS, SUMMARY_TOKENS = 104, 22  # of "tiny", with room for the template and EOS
SHINGLE, ALIKE = 3, 0.4  # two texts with this share of word triples in common are near-duplicates
CLICHES = re.compile(r"^(this|it) (package )?(contains?|provides?|includes?) (the )?", re.IGNORECASE)

Row = dict[str, str]


def read_paragraphs(path: Path) -> Iterator[tuple[str, str, str]]:
    """Yield package, synopsis and first paragraph of every entry. Indented lines, which are lists, are left out."""
    for entry in path.read_text(encoding="utf-8").split("\n\n"):
        lines = entry.splitlines()
        package = next((line.partition(": ")[2] for line in lines if line.startswith("Package: ")), "")
        at = next((i for i, line in enumerate(lines) if line.startswith("Description-en: ")), None)
        if at is None:
            continue
        paragraph: list[str] = []
        for line in lines[at + 1 :]:
            if line == " ." or not line.startswith(" "):
                break
            if not line.startswith("  "):
                paragraph.append(line.strip())
        yield package, lines[at].partition(": ")[2].strip(), " ".join(paragraph)


def is_summary(synopsis: str, text: str) -> bool:
    """Return whether a synopsis is one: of plain text and fitting lengths, half of its words from the description."""
    words, wanted = text.split(), overlap_words(synopsis)
    return (
        (text + synopsis).isascii()
        and WORDS[0] <= len(words) <= WORDS[1]
        and SUMMARY_WORDS[0] <= len(synopsis.split()) <= SUMMARY_WORDS[1]
        and text[-1] in ".!"
        and "(" not in synopsis
        and letters(synopsis) not in letters(text)[: len(letters(synopsis)) + 20]  # the opening, copied
        and len({*wanted} & {*overlap_words(text)}) >= 0.5 * len({*wanted})
    )


def read_rows(path: Path) -> list[Row]:
    """Return the packages whose synopsis sums up the first paragraph, without repeated texts and near-duplicates."""
    found: dict[str, Row] = {}
    synopses: set[str] = set()
    for package, synopsis, text in read_paragraphs(path):
        key = letters(text)
        if key in found or letters(synopsis) in synopses or not is_summary(synopsis, text):
            continue
        synopses.add(letters(synopsis))
        found[key] = {"package": package, "prompt": text, "reference": synopsis}
    return without_near_duplicates([*found.values()], shingles, ALIKE)


def shingles(row: Row) -> set[tuple[str, ...]]:
    """Return the word triples of a row's text."""
    words = CLICHES.sub("", row["prompt"]).lower().split()
    return {*zip(*(words[i:] for i in range(SHINGLE)), strict=False)}


def fits(row: Row) -> bool:
    """Return whether "tiny" can read the whole description and write the whole synopsis."""
    tokenizer = load_tokenizer("tiny")
    lengths = (len(tokenizer(row[name])["input_ids"]) for name in ("prompt", "reference"))
    return all(length <= room for length, room in zip(lengths, (PROMPT_TOKENS, SUMMARY_TOKENS), strict=True))


def draw(rows: Sequence[Row]) -> list[Row]:
    """Return the bundled rows, drawn at random among those that fit."""
    fitting = [row for row in rows if fits(row)]
    print(f"{len(rows):,} different descriptions, of which {len(fitting):,} fit")
    return random.Random(0).sample(fitting, ROWS)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("translation", type=Path)
    parser.add_argument("--output", type=Path, help="write all rows to this .jsonl.gz instead of the bundled sample")
    args = parser.parse_args()
    rows = read_rows(args.translation)
    chosen = rows if args.output else draw(rows)
    splits = assign_splits(chosen, "prompt", {"test": 1 / 6, "validation": 0.1})
    write(args.output or DATA / "descriptions.jsonl.gz", splits)


if __name__ == "__main__":
    main()
