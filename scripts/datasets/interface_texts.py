"""Draw the bundled English and Chinese texts of user interfaces from packages whose licence is BSD or MIT.

    pip download --no-deps jupyterlab-language-pack-zh-CN==4.5.post3 django==5.2.19 wagtail==8.0.1
    pip download --no-deps django-allauth==65.22.1
    python -m scripts.datasets.interface_texts *.whl

It reads `.po` files with the package babel. Deterministic: the same sources give the same bytes.
"""

from __future__ import annotations

import argparse
import io
import json
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path

from babel.messages.pofile import read_po

from rlhf_envs.models import load_tokenizer
from rlhf_envs.words import LETTERS
from scripts.datasets.debian.descriptions import ALIKE, shingles
from scripts.datasets.near_duplicates import without_near_duplicates
from scripts.datasets.writing import DATA, assign_splits, both_ways, letters, write

LOCALE = re.compile(r"(locale/zh_Hans/.*\.po|locale/zh_CN/LC_MESSAGES/.*\.json)$")
PLACES = re.compile(r"%\(\w+\)\w|%\d*\$?\w|\{[\w.:]*\}|%%|<[^>]*>|&\w+;")
SHORTCUT = re.compile(r"\s*[(（]&\w[)）]")
CHINESE = re.compile(f"[{LETTERS}]")
TOKENS = 44  # of "tiny", with room for EOS and the template


def read_messages(wheel: Path) -> Iterator[tuple[str, str]]:
    """Yield the English and Chinese messages of a package, in the order of its files."""
    with zipfile.ZipFile(wheel) as archive:
        for name in sorted(filter(LOCALE.search, archive.namelist())):
            if name.endswith(".po"):
                catalog = read_po(io.BytesIO(archive.read(name)), locale="zh_Hans")
                yield from ((str(m.id), str(m.string)) for m in catalog if isinstance(m.id, str) and not m.fuzzy)
            else:
                for key, value in json.loads(archive.read(name)).items():
                    if isinstance(value, list) and len(value) == 1:  # more than one are plurals
                        yield key.rpartition("\x04")[2], str(value[0])


def clean(text: str) -> str:
    """Return a message on one line, without the marks of shortcut keys, such as "&File" and "文件 (&F)"."""
    return re.sub(r"&(?=\w)", "", " ".join(SHORTCUT.sub("", text).split()))


def is_pair(english: str, chinese: str) -> bool:
    """Return whether both are texts in their language and of fitting length."""
    tokenizer = load_tokenizer("tiny")
    return (
        english.isascii()
        and not CHINESE.search(english)
        and len(CHINESE.findall(chinese)) >= 2
        and len(letters(english)) >= 3
        and all(len(tokenizer(" " + text)["input_ids"]) <= TOKENS for text in (english, chinese))
    )


def pairs(wheels: list[Path]) -> list[dict[str, str]]:
    """Return the different messages without places for values and markup; case and punctuation make no difference."""
    found: dict[str, dict[str, str]] = {}
    seen: set[str] = set()
    for wheel in sorted(wheels, key=lambda path: path.name):
        package = wheel.name.partition("-")[0]
        for message, translation in read_messages(wheel):
            english, chinese = clean(message), clean(translation)
            key, other = letters(english), letters(chinese)
            if PLACES.search(message + translation):
                continue
            if key not in found and other not in seen and is_pair(english, chinese):
                seen.add(other)
                found[key] = {"package": package, "prompt": english, "reference": chinese}
    return without_near_duplicates([*found.values()], shingles, ALIKE)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("wheels", type=Path, nargs="+")
    found = pairs(parser.parse_args().wheels)
    print(f"{len(found):,} different messages")
    rows = assign_splits(found, "prompt", {"test": 0.15, "validation": 0.1})
    write(DATA / "interface_texts.jsonl.gz", [way for row in rows for way in both_ways(row)])


if __name__ == "__main__":
    main()
