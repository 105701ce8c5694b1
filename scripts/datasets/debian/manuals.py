"""Write the Debian Reference and the Debian FAQ, in English and Chinese, as rows for `rlhf/Translate-v0`.

    apt-get download debian-reference-en debian-reference-zh-cn debian-faq debian-faq-zh-cn
    python -m scripts.datasets.debian.manuals manuals.jsonl *.deb
    rlhf train --env rlhf/Translate-v0 --data manuals.jsonl --model start --algo rloo

The Reference is under the GPL and the FAQ under terms of its own, so that nothing of them is bundled. A package
is a `.deb`, or the folder that `dpkg-deb -x` makes of it.

Chinese pages have the English ones' structure: the sections have the same names, and a section's titles, paragraphs and
cells of tables come in the same order. Sections where that is not so are left out and counted, and so are texts that
are not translated, that stand there twice, or that are longer than `--longest` characters in English. The environment
has room for 64 and 48 tokens, which most of the texts of up to 120 characters fit with a tokenizer that knows Chinese;
longer ones want more (`max_prompt_tokens`, `max_new_tokens`). A section's texts share their split. Deterministic.
"""

from __future__ import annotations

import argparse
import io
import re
import tarfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from html.parser import HTMLParser
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from rlhf_envs.words import LETTERS
from scripts.datasets.near_duplicates import without_near_duplicates
from scripts.datasets.writing import both_ways, letters, letters_share, write

ENGLISH, CHINESE = "en", "zh-cn"
PAGE = re.compile(rf"(?P<name>[\w.-]+)\.(?P<language>{ENGLISH}|{CHINESE})\.html$")
LONGEST = 120  # characters of an English text
SHARES = {"test": 0.15, "validation": 0.1}  # of the sections; the rest is "train"
SHINGLE, ALIKE = 3, 0.6  # two texts with this share of the shorter one's word triples in common are near-duplicates

TITLES = ("h1", "h2", "h3", "h4", "h5", "h6")
TEXTS = ("p", "td", "th", *TITLES)
NO_TEXT = ("navheader", "navfooter", "toc")  # classes of <div> that repeat what stands elsewhere
MARK = re.compile(r"^(?:(?:Chapter|Appendix|Table|第|附录|表)\s*)?(?:\d+|[A-Z])(?:\.\d+)*(?:\.|\s*章)\s+")
IN_CHINESE = re.compile(f"[{LETTERS}]")
BROKEN_LINE = re.compile(f"(?<=[{LETTERS}，。；：、？！“”（）])\\s*\\n\\s*(?=[{LETTERS}，。；：、？！“”（）])")


class Block(NamedTuple):
    """Hold the tag and the text of a title, a paragraph or a cell."""

    tag: str
    text: str


class Page(HTMLParser):
    """Read a page of DocBook's XHTML.

    Attributes:
        sections: the blocks of each section, by the name of its anchor. What stands before the first has the name "".
    """

    def __init__(self, text: str) -> None:
        super().__init__()
        self.sections: dict[str, list[Block]] = {"": []}
        self._section = ""
        self._open: list[tuple[str, list[str]]] = []  # the texts that are open, the innermost last
        self._skipped: list[str] = []  # the open tags since one whose text does not count
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Open a text, a section or a part without text."""
        found = dict(attrs)
        if self._skipped or tag == "pre" or (tag == "div" and (found.get("class") or "") in NO_TEXT):
            self._skipped += [tag] if tag in ("pre", "div") else []
        elif tag in TEXTS:
            self._open.append((tag, []))
        elif tag == "a" and found.get("id") and self._open and self._open[-1][0] in TITLES:
            self._section = str(found["id"])
            self.sections.setdefault(self._section, [])

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Take an anchor that is closed at once; other empty tags, such as `<p/>`, have no text."""
        if tag == "a":
            self.handle_starttag(tag, attrs)

    def handle_endtag(self, tag: str) -> None:
        """Close what the tag opened, and keep its text."""
        if self._skipped:
            if tag == self._skipped[-1]:
                self._skipped.pop()
        elif self._open and tag == self._open[-1][0]:
            self.sections[self._section].append(Block(tag, clean("".join(self._open.pop()[1]))))

    def handle_data(self, data: str) -> None:
        """Add to the innermost open text."""
        if self._open and not self._skipped:
            self._open[-1][1].append(data)


def clean(text: str) -> str:
    """Return a text on one line, without the number of its section; Chinese lines are joined without a space."""
    return MARK.sub("", " ".join(BROKEN_LINE.sub("", text.replace("\xa0", " ")).split()))


def read_files(package: Path) -> Iterator[tuple[str, bytes]]:
    """Yield path and content of the regular files of a package: a `.deb`, or a folder of what is in it.

    Raises:
        ValueError: it is neither, or its data are compressed in another way than gzip, bzip2 or xz.
    """
    if package.is_dir():
        files = (path for path in sorted(package.rglob("*")) if path.is_file() and not path.is_symlink())
        yield from ((path.as_posix(), path.read_bytes()) for path in files)
        return
    members = read_ar(package)
    name = next((name for name in members if name.startswith("data.tar")), None)
    if name is None or Path(name).suffix not in (".tar", ".gz", ".bz2", ".xz"):
        raise ValueError(
            f"{package} has {', '.join(members)}, which Python cannot unpack: give the folder that `dpkg-deb -x` makes "
            "of it"
        )
    with tarfile.open(fileobj=io.BytesIO(members[name])) as archive:
        for member in archive:
            if member.isfile() and (file := archive.extractfile(member)) is not None:
                yield member.name, file.read()


def read_ar(path: Path) -> dict[str, bytes]:
    """Return the members of an `ar` archive, such as a `.deb`, by name.

    Raises:
        ValueError: the file is none, or is damaged.
    """
    data, at = path.read_bytes(), 8
    if data[:at] != b"!<arch>\n":
        raise ValueError(f"{path} is no Debian package: give a .deb, or the folder that `dpkg-deb -x` makes of it")
    found = {}
    while at < len(data):
        header, at = data[at : at + 60], at + 60
        size = int(header[48:58]) if header[48:58].strip().isdigit() else len(data)
        if at + size > len(data):
            raise ValueError(f"{path} is damaged, or not whole: get it again")
        found[header[:16].decode().strip().rstrip("/")] = data[at : at + size]
        at += size + size % 2
    return found


def read_pages(packages: Sequence[Path]) -> dict[str, dict[str, Page]]:
    """Return the pages by language and name, such as "FAQ/kernel".

    Raises:
        ValueError: there are no pages in one of the two languages.
    """
    found: dict[str, dict[str, Page]] = {ENGLISH: {}, CHINESE: {}}
    for package in packages:
        for path, data in read_files(package):
            if match := PAGE.search(PurePosixPath(path).name):
                manual = "debian-reference" if "debian-reference" in PurePosixPath(path).parts else "debian-faq"
                found[match["language"]][f"{manual}/{match['name']}"] = Page(data.decode("utf-8"))
    if missing := [language for language, pages in found.items() if not pages]:
        raise ValueError(
            f"there is no page *.{missing[0]}.html in {', '.join(map(str, packages))}: give the English and the "
            "Chinese package of a manual"
        )
    return found


def align(pages: Mapping[str, Mapping[str, Page]], counts: Counter[str]) -> Iterator[dict[str, str]]:
    """Yield the texts of the sections that have one structure in both languages, in their order; count all sections."""
    for name, page in pages[ENGLISH].items():
        other = pages[CHINESE].get(name)
        for anchor, blocks in page.sections.items():
            there = other.sections.get(anchor) if other else None
            if there is None or [block.tag for block in blocks] != [block.tag for block in there]:
                counts["sections of another structure" if there else "sections without a translation"] += 1
                continue
            counts["sections"] += 1
            for (_, english), (_, chinese) in zip(blocks, there, strict=True):
                yield {"section": f"{name}#{anchor}", "prompt": english, "reference": chinese}


def read_rows(packages: Sequence[Path], longest: int = LONGEST) -> tuple[list[dict[str, str]], Counter[str]]:
    """Return the rows of both directions, and how many texts and sections were kept and left out, by the reason."""
    counts: Counter[str] = Counter()
    found: dict[str, dict[str, str]] = {}
    seen: set[str] = set()
    for row in align(read_pages(packages), counts):
        english, chinese = row["prompt"], row["reference"]
        key, other = letters(english), letters(chinese)
        if IN_CHINESE.search(english) or len(IN_CHINESE.findall(chinese)) < 2 or len(key) < 3:
            counts["texts that are not translated, or no words"] += 1
        elif key in found or other in seen:
            counts["texts that stand there already"] += 1
        elif len(english) > longest:
            counts[f"texts of more than {longest} characters"] += 1
        else:
            seen.add(other)
            found[key] = row
    kept = without_near_duplicates([*found.values()], shingles, ALIKE)
    counts["near-duplicates"], counts["texts"] = len(found) - len(kept), len(kept)
    return [way for row in kept for way in both_ways({**row, "split": split_of(row["section"])})], counts


def shingles(row: Mapping[str, str]) -> set[tuple[str, ...]]:
    """Return the word triples of a row's English text."""
    words = row["prompt"].lower().split()
    return {*zip(*(words[i:] for i in range(SHINGLE)), strict=False)}


def split_of(section: str) -> str:
    """Return the split of a section, by a hash of its name."""
    share = letters_share(section)
    return "test" if share < SHARES["test"] else "validation" if share < sum(SHARES.values()) else "train"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path)
    parser.add_argument("packages", type=Path, nargs="+", help=".deb files, or folders of what is in them")
    parser.add_argument("--longest", type=int, default=LONGEST, help="characters of an English text")
    args = parser.parse_args()
    rows, counts = read_rows(args.packages, args.longest)
    write(args.output, rows)
    for what, n in counts.most_common():
        print(f"{n:,} {what}")
    print(", ".join(f"{n:,} {split}" for split, n in Counter(row["split"] for row in rows).items()))


if __name__ == "__main__":
    main()
