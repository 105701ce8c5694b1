"""The Chinese README and pages (`docs/zh`) say what the English ones say: structure, code, figures, names and links."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterator
from decimal import Decimal
from difflib import SequenceMatcher
from pathlib import Path
from typing import NamedTuple

import pytest
from markdown_it import MarkdownIt
from markdown_it.token import Token

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
CHINESE = {path: DOCS / path.relative_to(DOCS / "zh") for path in sorted((DOCS / "zh").rglob("*.md"))}
CHINESE[ROOT / "README.zh.md"] = ROOT / "README.md"
ENGLISH = {english: chinese for chinese, english in CHINESE.items()}
# Pages that are in English alone, also listed in the changelog ("Left to do").
UNTRANSLATED = {
    "algorithms/index.md",
    "architecture.md",
    "contracts.md",
    "environments/index.md",
    "security.md",
    *(f"api/{name}.md" for name in ("agents", "callbacks", "core", "feedback", "preferences", "rewards", "rlhf_envs")),
}
NUMBER = re.compile(r"((?<![\w.)])[-+−])?(\d+(?:[.,]\d+)*)(%| ?(?:(?:million|billion)\b|[万亿]))?")
UNITS = {"million": 10**6, "billion": 10**9, "万": 10**4, "亿": 10**8}
COMMENT = re.compile(r"(?:^|(?<=\s))#\s.*$", re.M)
HAN = re.compile(r"[\u4e00-\u9fff]")


class Block(NamedTuple):
    """A block of a page: what it is, what both languages have in common, and where it stands."""

    kind: str
    facts: frozenset[tuple[str, int]]
    line: int
    text: str


def numbers(text: str) -> Iterator[str]:
    """Yield the numbers of a text by their value: "1.24 billion" and "12.4 亿" are one."""
    for sign, digits, unit in NUMBER.findall(text):
        whole = re.fullmatch(r"\d{1,3}(,\d{3})+(\.\d+)?", digits)
        parts = [digits.replace(",", "")] if whole else digits.split(",")
        for part in parts:
            factor = UNITS.get(unit.strip(), 1)
            value = part if factor == 1 else format((Decimal(part) * factor).normalize(), "f")
            yield f"{'-' if sign in ('-', '−') else sign}{value}{'%' if unit == '%' else ''}"


def resolve(page: Path, target: str) -> str:
    """Return a link's target with its page named by the English one; links inside a page stay."""
    name, _, anchor = target.partition("#")
    if "://" in target or not name:
        return target
    path = Path(os.path.normpath(page.parent / name))
    return f"{CHINESE.get(path, path).relative_to(ROOT)}#{anchor}"


def inline_facts(page: Path, token: Token) -> Iterator[str]:
    """Yield the code, the links, the images and the numbers of a text."""
    words = ""
    for child in token.children or []:
        if child.type == "code_inline":
            yield f"`{child.content}`"
        elif child.type == "link_open":
            yield f"link {resolve(page, str(child.attrs['href']))}"
        elif child.type == "image":
            yield f"image {resolve(page, str(child.attrs['src']))}"
            words += " ".join(f" {part.content}" for part in child.children or [])
        words += child.content if child.type == "text" else " "
    yield from numbers(words)


def code_facts(content: str) -> Iterator[str]:
    """Yield the lines of a block of code without their comments, and the numbers of the comments."""
    yield "\n".join(line.rstrip() for line in COMMENT.sub("", content).splitlines())
    for comment in COMMENT.findall(content):
        yield from (f"{number} in a comment" for number in numbers(comment))


def parse(page: Path) -> list[Token]:
    return MarkdownIt("commonmark").enable("table").parse(page.read_text(encoding="utf-8"))


def blocks(page: Path) -> list[Block]:
    """Return the blocks of a page in order; the README's link to its twin is left out."""
    tokens = parse(page)
    twin = CHINESE.get(page) or ENGLISH[page]
    found: list[Block] = []
    line = 0
    for place, token in enumerate(tokens):
        line = token.map[0] + 1 if token.map else line
        facts: Iterator[str] = iter(())
        if token.type == "inline":
            if any(str(child.attrs.get("href", "")) == twin.name for child in token.children or []) and place < 6:
                continue
            before = tokens[place - 1]
            kind, facts = f"{before.tag} text", inline_facts(page, token)
        elif token.type in ("fence", "code_block"):
            kind, facts = f"code {token.info}", code_facts(token.content)
        elif token.type == "html_block":
            kind, facts = "html", iter([token.content.strip()])
        elif token.type in ("bullet_list_open", "ordered_list_open", "list_item_open", "tr_open"):
            kind = token.type.removesuffix("_open")
        else:
            continue
        found.append(Block(kind, frozenset(Counter(facts).items()), line, token.content))
    return found


def tell(facts: frozenset[tuple[str, int]]) -> str:
    """Return facts as words, with how often each is there."""
    return ", ".join(f"{fact!r} x{times}" for fact, times in sorted(facts)) or "nothing else"


def compare(english: Path, chinese: Path) -> list[str]:
    """Return what differs between two pages, a line each: the places, and what one of them alone has."""
    here, there = (str(page.relative_to(ROOT)) for page in (english, chinese))
    ours, theirs = blocks(english), blocks(chinese)
    matcher = SequenceMatcher(None, [b[:2] for b in ours], [b[:2] for b in theirs], autojunk=False)
    found = []
    for operation, start, end, first, last in matcher.get_opcodes():
        left, right = ours[start:end], theirs[first:last]
        if operation == "equal":
            continue
        if [b.kind for b in left] == [b.kind for b in right]:
            found += [
                f"{here}:{a.line} has {tell(a.facts - b.facts)}; {there}:{b.line} has {tell(b.facts - a.facts)}"
                for a, b in zip(left, right, strict=True)
            ]
        else:
            found += [f"{here}:{b.line}: {b.kind} {b.text[:80]!r} is not in {there}" for b in left]
            found += [f"{there}:{b.line}: {b.kind} {b.text[:80]!r} is not in {here}" for b in right]
    return found


def inline_parts(page: Path) -> list[Token]:
    return [part for token in parse(page) for part in token.children or []]


def headings(page: Path) -> list[Token]:
    tokens = parse(page)
    return [tokens[i + 1] for i, token in enumerate(tokens) if token.type == "heading_open"]


def slug(token: Token) -> str:
    """Return the anchor that GitHub and MkDocs give to an English heading."""
    text = "".join(child.content for child in token.children or [] if child.type != "html_inline")
    return re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", text).strip().lower())


def anchors(page: Path) -> list[str | None]:
    """Return the `<a id="...">` of each heading."""
    found = [re.search(r'<a id="([^"]+)"></a>', token.content) for token in headings(page)]
    return [match[1] if match else None for match in found]


def name(page: object) -> str:
    return str(page.relative_to(ROOT)) if isinstance(page, Path) else ""


@pytest.mark.parametrize(("chinese", "english"), CHINESE.items(), ids=name)
def test_a_chinese_page_has_the_structure_code_figures_and_links_of_its_english_one(
    chinese: Path, english: Path
) -> None:
    differences = compare(english, chinese)
    assert not differences, "\n".join([f"{len(differences)} differences; change both pages alike:", *differences])


@pytest.mark.parametrize("chinese", CHINESE, ids=name)
def test_a_chinese_page_is_written_in_chinese(chinese: Path) -> None:
    """Rows of tables may hold names, numbers and a model's own English texts alone."""
    texts = [b for b in blocks(chinese) if b.kind in ("p text", "h1 text", "h2 text", "h3 text")]
    english = [b for b in texts if not HAN.search(b.text) and len(re.sub(r"`[^`]*`", "", b.text).split()) > 6]
    assert texts and not english, [f"{name(chinese)}:{b.line}: {b.text[:80]}" for b in english]


@pytest.mark.parametrize("chinese", CHINESE, ids=name)
def test_no_mark_of_emphasis_is_left_over(chinese: Path) -> None:
    """Between a Chinese letter and a full stop in bold, CommonMark takes `**` for text: write a space."""
    tokens = MarkdownIt("commonmark").enable("table").parse(chinese.read_text(encoding="utf-8"))
    left = [
        c.content for t in tokens for c in t.children or [] if c.type == "text" and re.search(r"\*\*|__", c.content)
    ]
    assert not left, left


@pytest.mark.parametrize(("chinese", "english"), CHINESE.items(), ids=name)
def test_anchors_of_a_chinese_page_are_those_of_the_same_english_headings(chinese: Path, english: Path) -> None:
    for wanted, anchor in zip(headings(english), anchors(chinese), strict=True):
        assert anchor in (None, slug(wanted))


@pytest.mark.parametrize("page", CHINESE, ids=name)
def test_links_to_chinese_pages_find_their_anchors(page: Path) -> None:
    links = [str(part.attrs["href"]) for part in inline_parts(page) if part.type == "link_open"]
    for target, _, anchor in (link.partition("#") for link in links if "://" not in link):
        path = Path(os.path.normpath(page.parent / target)) if target else page
        assert path not in ENGLISH or path in (ROOT / "README.md", page), f"{target} is there in Chinese"
        if anchor and path in CHINESE:
            assert anchor in anchors(path), (
                f'{name(page)}: write <a id="{anchor}"></a> into the heading of {name(path)}'
            )


def test_pages_in_english_alone_are_known() -> None:
    pages = {path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md") if path not in CHINESE}
    translated = {path.relative_to(DOCS).as_posix() for path in ENGLISH if path.is_relative_to(DOCS)}
    assert translated <= pages, "a Chinese page without its English one"
    assert pages - translated == UNTRANSLATED, "translate the page, or list it here and in the changelog"


@pytest.mark.parametrize(
    ("english", "chinese", "told"),
    [
        ("It takes 1.5 GB.", "它占用 1.6 GB。", "1.5"),
        ("A row of 2 million texts.", "一行有 200 万段文本。", ""),
        ("Give `--seed`.", "给出 `--seeds`。", "`--seed`"),
        ("# One\n\n## Two", "# 一\n\n### 二", "h2"),
        ("- one\n- two", "- 一", "list_item"),
        ("| a | 1 |\n|---|---|\n| b | 2 |\n", "| 甲 | 1 |\n|---|---|\n| 乙 | 3 |\n", "2"),
        ("```bash\nrlhf envs   # 3 of them\n```", "```bash\nrlhf envs   # 共 3 个\n```", ""),
        ("```bash\nrlhf envs   # 3 of them\n```", "```bash\nrlhf envs   # 共 4 个\n```", "3 in a comment"),
        ("```bash\nrlhf envs\n```", "```bash\nrlhf env\n```", "rlhf env"),
        ("See [a](start.md).", "见[甲](index.md)。", "start.md"),
        ("See [a](start.md#x).", "见[甲](start.md)。", "start.md#x"),
    ],
)
def test_what_differs_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, english: str, chinese: str, told: str
) -> None:
    pages = tmp_path / "a.md", tmp_path / "zh.md"
    for page, text in zip(pages, (english, chinese), strict=True):
        page.write_text(text, encoding="utf-8")
    monkeypatch.setitem(CHINESE, pages[1], pages[0])
    monkeypatch.setitem(ENGLISH, pages[0], pages[1])
    monkeypatch.setattr(f"{__name__}.ROOT", tmp_path)
    found = compare(*pages)
    assert bool(found) is bool(told) and told in "\n".join(found)
