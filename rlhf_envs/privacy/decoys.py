"""Find what looks like private numbers and is none: dates, times, prices, versions, ISBNs, coordinates, hashes."""

from __future__ import annotations

import re

from .spans import Window, need

__all__ = ["decoys"]

_MONTH = r"(?:0?[1-9]|1[0-2])"
_DAY = r"(?:0?[1-9]|[12]\d|3[01])"
_YEAR = r"(?:1[6-9]|20|21)\d\d"
_MONEY = r"(?:[$€£¥₹₽₩]|US\$|USD|EUR|GBP|CNY|RMB|JPY|CHF|HK\$)"
_PATTERNS = [
    rf"(?<![\d.]){_YEAR}([-/.年] ?){_MONTH}(?:[-/.月] ?){_DAY}(?!\d)"
    r"(?:[T ]\d\d:\d\d(?::\d\d)?(?:\.\d+)?(?:Z|[+-]\d\d:?\d\d)?)?",
    rf"(?<![\d.]){_DAY}([-/.]){_MONTH}\2{_YEAR}(?!\d)",
    rf"(?<![\d.]){_MONTH}([-/.]){_DAY}\3{_YEAR}(?!\d)",
    rf"(?<![\d.-]){_YEAR} ?- ?{_YEAR}(?![\d-])",
    r"(?<![\d:.])\d{1,2}:\d\d(?::\d\d)?(?:\.\d+)?(?![\d:])",
    rf"{_MONEY} ?\d[\d,]*(?: \d{{3}}\b)*(?:\.\d+)?(?:[kmb]\b)?",
    rf"(?<![\d.])\d[\d,]*(?:\.\d+)? ?"
    rf"(?:{_MONEY}(?! ?\d)|%|元(?!旦)|块|美元|欧元|万|亿|公里|米|千克|[股件吨台套笔册亩户]|人次|(?:km|kg|MB|GB|ms|"
    rf"bytes)\b)",
    r"(?<![\d.])-?\d{1,3}\.\d{3,}°? ?[NSEW]?(?:, ?| )-?\d{1,3}\.\d{3,}",  # coordinates
    r"(?<![\d.])\d{1,3}(?:,\d{3})+(?:\.\d+)?(?![\d,])",
    r"(?<![\d.])\d+\.\d+(?![\d.]|-\d)(?:[eE][+-]?\d+)?",
    r"\bv(?:er(?:sion)?)?\.? ?\d+(?:\.\d+)+(?:[-+.]\w+)*",
    r"(?:版本|版)[号]?[:是为]? ?\d+(?:\.\d+)+",
    r"\b[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}\b",  # UUID
    r"\b(?:ISBN|ISSN)(?:-1[03])?[:： ]{0,3}[\dXx][\dXx -]{6,18}[\dXx]",
    r"#(?=\d*[a-fA-F])[0-9a-fA-F]{3,8}\b",
    r"\b10\.\d{4,9}/\S+",  # DOI
]
_DECOYS = [re.compile(pattern.replace(r"\2", r"\1").replace(r"\3", r"\1")) for pattern in _PATTERNS]
_ISBN = re.compile(r"(?<![\w-])97[89][- ]?\d[\d -]{7,14}\d(?![\w-])")


def decoys(window: Window) -> list[tuple[int, int]]:
    """Return where such stretches stand in the window's segment."""
    found = [match.span() for pattern in _DECOYS for match in pattern.finditer(window.text, window.begin)]
    for match in _ISBN.finditer(window.text, window.begin):
        if need("stdnum.isbn").is_valid(match[0]):
            found.append(match.span())
    return found
