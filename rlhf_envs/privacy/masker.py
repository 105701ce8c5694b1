"""Mask private data in texts, whole or as they come."""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from ..names import nearest
from .addresses import find_ips
from .cues import LANGUAGES, Cues
from .decoys import decoys
from .folding import fold, fold_with_offsets
from .identities import find_identities
from .keys import find_keys
from .numbers import find_cards, find_ibans, find_phones
from .segments import AFTER, BEFORE, Seen, next_cut, wants_more
from .spans import KINDS, Span, Window, need
from .texts import find_mails, find_names

__all__ = ["REGIONS", "MaskStream", "Masker"]

REGIONS = ("CN", "US", "GB", "DE", "FR", "ES", "IT", "NL", "PL", "SE", "IN", "CA", "AU", "IE")
_LABELS = {"national_id": "ID"}
_WORTH = re.compile(r"[\d@-]|(?-i:[A-Z])|[^\x00-\x7f]|(?:=|pass|key|token|secret|\bat\b|\bdot\b)", re.IGNORECASE)
_PASSWORD = re.compile(r"pass(?:word|wd|phrase|code)?\W{1,4}$|p(?:wd|in)\W{1,4}$", re.IGNORECASE)
_NEEDS = {"phone": "phonenumbers", "card": "stdnum", "iban": "stdnum", "national_id": "stdnum"}


class Masker:
    """Find private data in texts and put placeholders such as `[EMAIL]` in its place.

    It reads words and numbers, not meaning. Names are found only after words that announce them ("my name is", "Dr.",
    "我叫"): others in running text are not.

    Args:
        kinds: what to look for, of `KINDS`.
        region: whose national phone numbers, an ISO country code ("US") or several; the first counts first.
        languages: whose words tell what a number is.
        pseudonyms: whether placeholders count what is alike: `[EMAIL_1]` is the same address throughout one text.

    Raises:
        ValueError: there is no such kind, region or language.
        PrivacyError: the extra `privacy` is not installed.
    """

    def __init__(
        self,
        kinds: Iterable[str] = KINDS,
        region: str | Sequence[str] = REGIONS,
        languages: Sequence[str] = LANGUAGES,
        *,
        pseudonyms: bool = False,
    ) -> None:
        self.kinds = tuple(dict.fromkeys([kinds] if isinstance(kinds, str) else kinds))
        self.regions = tuple([region] if isinstance(region, str) else region)
        self.languages = tuple([languages] if isinstance(languages, str) else languages)
        self.pseudonyms = pseudonyms
        for name, known, what in (
            *((k, KINDS, "kind") for k in self.kinds),
            *((k, LANGUAGES, "language") for k in self.languages),
        ):
            if name not in known:
                raise ValueError(f"unknown {what} {name!r}; {nearest(name, known)}")
        for module in sorted({_NEEDS[kind] for kind in self.kinds if kind in _NEEDS}):
            need(module)
        if "phone" in self.kinds:
            known_regions = need("phonenumbers").SUPPORTED_REGIONS
            for code in self.regions:
                if code not in known_regions:
                    raise ValueError(f"unknown region {code!r}: give an ISO code of two letters, such as 'US'")

    def find(self, text: str) -> list[Span]:
        """Return where private data stands, in order and without overlap."""
        return [*self._spans(text)]

    def mask(self, text: str) -> str:
        """Return the text with placeholders in place of private data."""
        stream = self.stream()
        return stream.feed(text) + stream.close()

    def mask_all(self, value: Any) -> Any:
        """Return a value as JSON has it with all its texts masked. The keys of objects stay."""
        if isinstance(value, str):
            return self.mask(value)
        if isinstance(value, dict):
            return {key: self.mask_all(inner) for key, inner in value.items()}
        return [self.mask_all(inner) for inner in value] if isinstance(value, list | tuple) else value

    def stream(self) -> MaskStream:
        """Return what masks a text that comes in pieces."""
        return MaskStream(self)

    def _spans(self, text: str) -> Iterator[Span]:
        start = 0
        while start < len(text):
            end = next_cut(text, start, closed=True)
            assert end is not None
            yield from self._in_segment(text, start, end)
            start = end

    def _in_segment(self, text: str, start: int, end: int) -> Iterator[Span]:
        """Yield what a segment holds, by its place in the text."""
        segment = text[start:end]
        first = max(0, start - BEFORE)
        if not _WORTH.search(segment) and not _PASSWORD.search(text, first, start):
            return
        folded, offsets = fold_with_offsets(text[first:end])
        begin = bisect_left(offsets, start - first)
        after = fold(text[end : end + AFTER]) if wants_more(segment) else ""
        for span in self._choose(Window(folded, begin, after)):
            yield Span(first + offsets[span.start], first + offsets[span.end - 1] + 1, span.kind)

    def _choose(self, window: Window) -> list[Span]:
        """Return what a window holds: of findings that overlap, the one whose kind comes first, then the longest."""
        found: list[Span] = []
        for span in sorted(self._candidates(window), key=lambda s: (KINDS.index(s.kind), s.start - s.end, s.start)):
            if all(span.end <= other.start or other.end <= span.start for other in found):
                found.append(span)
        return sorted(found)

    def _candidates(self, window: Window) -> Iterator[Span]:
        decoyed = decoys(window) if len(re.findall(r"\d", window.text[window.begin :])) >= 7 else []
        cue = Cues(window, self.languages)
        finders: dict[str, Callable[[], Iterator[Span]]] = {
            "key": lambda: find_keys(window),
            "iban": lambda: find_ibans(window, cue),
            "card": lambda: find_cards(window, cue),
            "national_id": lambda: find_identities(window, cue),
            "email": lambda: find_mails(window),
            "ip": lambda: find_ips(window),
            "phone": lambda: find_phones(window, cue, self.regions),
            "name": lambda: find_names(window, self.languages),
        }
        for kind in self.kinds:
            for span in finders[kind]():
                numeric = kind in ("card", "national_id", "phone")
                if not (numeric and any(span.start < end and start < span.end for start, end in decoyed)):
                    yield span


class MaskStream:
    """Mask a text that comes in pieces. What comes out is together what `Masker.mask` makes of the whole text.

    A piece is held back while it may still belong to private data: mostly a word, with digits a few words, at most
    1,024 characters (16,384 of a private key) and 32 that follow.
    """

    def __init__(self, masker: Masker) -> None:
        self._masker = masker
        self._text, self._start = "", 0
        self._closed = False
        self._seen: Seen | None = None
        self._known: dict[tuple[str, str], int] = {}
        self.counts: dict[str, int] = {}  # how many were masked so far, by kind

    def feed(self, chunk: str) -> str:
        """Take in the next piece, and return what is safe to show."""
        if self._closed:
            raise ValueError("the stream is closed: begin another with Masker.stream()")
        self._text += chunk
        return self._take(closed=False)

    def close(self) -> str:
        """Return what was held back. Nothing can be fed after it."""
        rest = "" if self._closed else self._take(closed=True)
        self._closed = True
        return rest

    def _take(self, closed: bool) -> str:
        parts = []
        while self._start < len(self._text):
            self._seen = self._seen or Seen(self._start, self._start)
            end = next_cut(self._text, self._start, closed, self._seen)
            if end is None or (
                not closed and len(self._text) < end + AFTER and wants_more(self._text[self._start : end])
            ):
                break
            parts.append(self._masked(self._start, end))
            self._start, self._seen = end, None
        if self._start > 4 * BEFORE:
            self._text, self._start, self._seen = self._text[self._start - BEFORE :], BEFORE, None
        return "".join(parts)

    def _masked(self, start: int, end: int) -> str:
        parts, position = [], start
        for span in self._masker._in_segment(self._text, start, end):
            parts += [self._text[position : span.start], self._placeholder(span)]
            position = span.end
        return "".join([*parts, self._text[position:end]])

    def _placeholder(self, span: Span) -> str:
        self.counts[span.kind] = self.counts.get(span.kind, 0) + 1
        label = _LABELS.get(span.kind, span.kind.upper())
        if not self._masker.pseudonyms:
            return f"[{label}]"
        value = fold(self._text[span.start : span.end]).lower()
        value = re.sub(r"[ ().-]", "", value) if span.kind in _NEEDS else value
        numbers = [number for (kind, _), number in self._known.items() if kind == span.kind]
        number = self._known.setdefault((span.kind, value), len(numbers) + 1)
        return f"[{label}_{number}]"
