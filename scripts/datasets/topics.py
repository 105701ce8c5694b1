"""Draw the bundled descriptions of software with their topics, which are sections of Debian's archive.

    apt-get update -o Acquire::Languages=en
    /usr/lib/apt/apt-helper cat-file /var/lib/apt/lists/*_main_i18n_Translation-en* > Translation-en
    /usr/lib/apt/apt-helper cat-file /var/lib/apt/lists/*_main_binary-amd64_Packages* > Packages
    python -m scripts.datasets.topics Translation-en Packages
    python -m scripts.datasets.topics Translation-en Packages --output topics.jsonl.gz

The maintainers and the archive's masters put each package into its section. These eight are about a subject of their
own and have enough descriptions; others name a language ("perl"), a kind of file ("libdevel") or the rest ("misc"). The
last command writes all descriptions in these sections. Deterministic: the same sources give the same bytes.
"""

from __future__ import annotations

import argparse
import random
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from rlhf_envs.datasets import load_rows
from rlhf_envs.models import load_tokenizer
from scripts.datasets.debian.descriptions import ALIKE, Row, read_paragraphs, shingles
from scripts.datasets.near_duplicates import without_near_duplicates
from scripts.datasets.writing import DATA, assign_splits, letters, write

TOPICS = ("editors", "fonts", "games", "graphics", "mail", "science", "sound", "web")
ROWS = 120  # of each topic in the sample
WORDS = (12, 50)  # of the first paragraph
TOKENS = 88  # of "tiny", with room for the template


def read_sections(path: Path) -> dict[str, str]:
    """Return the section of every package, without the name of an area before it ("contrib/games" is "games")."""
    sections: dict[str, str] = {}
    package = ""
    with path.open(encoding="utf-8") as lines:
        for line in lines:
            name, _, value = line.rstrip("\n").partition(": ")
            if name == "Package":
                package = value
            elif name == "Section":
                sections[package] = value.rpartition("/")[2]
    if not sections:
        raise ValueError(f"{path}: no package has a section: give a file Packages, not Translation-en")
    return sections


def read_rows(translation: Path, packages: Path) -> list[Row]:
    """Return the descriptions in the eight sections, without those that are nearly equal or of the other sample."""
    sections, sample = read_sections(packages), {letters(row["prompt"]) for row in load_rows("descriptions")}
    found: dict[str, Row] = {}
    for package, _, text in read_paragraphs(translation):
        topic, key = sections.get(package, ""), letters(text)
        fitting = text.isascii() and WORDS[0] <= len(text.split()) <= WORDS[1] and text[-1:] in (".", "!")
        if topic in TOPICS and fitting and key not in sample and key not in found:
            found[key] = {"package": package, "prompt": text, "label": topic}
    return without_near_duplicates([*found.values()], shingles, ALIKE)


def draw(rows: Sequence[Row]) -> list[Row]:
    """Return the bundled rows: as many of each topic, drawn at random among those that "tiny" can read whole."""
    tokenizer = load_tokenizer("tiny")
    by_topic: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        if len(tokenizer(row["prompt"])["input_ids"]) <= TOKENS:
            by_topic[row["label"]].append(row)
    print({topic: len(by_topic[topic]) for topic in TOPICS})
    rng = random.Random(0)
    return [row for topic in TOPICS for row in rng.sample(by_topic[topic], ROWS)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("translation", type=Path)
    parser.add_argument("packages", type=Path)
    parser.add_argument("--output", type=Path, help="write all rows to this .jsonl.gz instead of the bundled sample")
    args = parser.parse_args()
    rows = read_rows(args.translation, args.packages)
    chosen = rows if args.output else draw(rows)
    splits = assign_splits(chosen, "prompt", {"test": 0.25, "validation": 0.1})
    write(args.output or DATA / "topics.jsonl.gz", splits)


if __name__ == "__main__":
    main()
