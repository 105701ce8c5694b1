"""Find payment cards, IBANs and phone numbers."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

from .cues import Cues
from .spans import Span, Window, need

__all__ = ["find_cards", "find_ibans", "find_phones"]

_CARD_RUN = re.compile(r"\d+(?:(?:[ .\-/·_]| {2,3}| - )\d+)*")
_CARD_SIZES = re.compile(r"4,4,4,4(?:,[123])?|4,4,4,2|4,6,[45]|1[3-9]|6,13|8,8")
_CARD_WORD = re.compile(
    r"(?:^|[\W_])(?:card|visa|master ?card|amex|cc|pan|no|number|card_?(?:no|num|number))_?$", re.IGNORECASE
)
_CARD_REST = re.compile(r"(?:exp|cvv|cvc|valid)", re.IGNORECASE)
_BRANDS = re.compile(
    r"4(?:\d{12}|\d{15}|\d{18})|(?:5[1-5]\d\d|222[1-9]|22[3-9]\d|2[3-6]\d\d|27[01]\d|2720)\d{12}|3[47]\d{13}"
    r"|(?:6011|64[4-9]\d|65\d\d)\d{12,15}|(?:30[0-5]|36\d|3[89]\d)\d{11}|35(?:2[89]|[3-8]\d)\d{12}"
    r"|(?:62|81)\d{14,17}|220[0-4]\d{12}|(?:60|82)\d{14}"
)


def find_cards(window: Window, cue: Cues) -> Iterator[Span]:
    """Yield numbers of payment cards: the check digit is right, and the issuer known or a word beside it says so.

    Beside other numbers, such as the date when it expires, a card is looked for among groups as cards have them.
    """
    for run in _CARD_RUN.finditer(window.text, window.begin):
        if len(run[0]) < 13:
            continue
        groups = [group.span() for group in _GROUP.finditer(window.text, *run.span())]
        first = 0
        while first < len(groups):
            count = _card_at(window, cue, groups, first)
            if count:
                yield Span(groups[first][0], groups[first + count - 1][1], "card")
            first += count or 1


def _card_at(window: Window, cue: Cues, groups: Sequence[tuple[int, int]], first: int) -> int:
    """Return how many groups of digits are a card's that begins with `groups[first]`; 0 if none is."""
    whole = groups if first == 0 else []
    for count in range(min(len(groups) - first, 19), 0, -1):
        chosen = groups[first : first + count]
        sizes = [end - start for start, end in chosen]
        if not 13 <= sum(sizes) <= 19:
            continue
        usual = _CARD_SIZES.fullmatch(",".join(map(str, sizes))) is not None
        if (usual or count == len(whole)) and _is_card(window, cue, chosen, usual):
            return count
    return 0


def _is_card(window: Window, cue: Cues, groups: Sequence[tuple[int, int]], usual: bool) -> bool:
    text, start, end = window.text, groups[0][0], groups[-1][1]
    digits = re.sub(r"\D", "", text[start:end])
    between = {text[a:b] for (_, a), (b, _) in pairwise(groups)}
    if not need("stdnum.luhn").is_valid(digits) or len(set(digits)) < 2 or (usual and len(between) > 1):
        return False
    left, right = text[max(0, start - 24) : start], text[end : end + 8]
    glued = re.search(r"[A-Za-z_]\Z", left), re.match(r"[A-Za-z_]", right)
    if (glued[0] and not _CARD_WORD.search(left)) or (glued[1] and not _CARD_REST.match(right)):
        return False
    if re.search(r"\d[-.]\Z", left) and len(groups) == 1:
        return False
    said = cue(start, end)
    known = _BRANDS.fullmatch(digits) is not None or (len(groups) >= 4 and usual and digits[0] in "23456")
    return said == "card" or (known and not (said in ("none", "national_id") and cue.numbers(start, end)))


_IBAN = re.compile(r"(?<![A-Za-z0-9_])[A-Z]{2}[ .-]?\d{2}(?:[ .-]?[A-Z0-9]){11,30}(?![A-Za-z0-9_])", re.IGNORECASE)


def find_ibans(window: Window, cue: Cues) -> Iterator[Span]:
    """Yield IBANs: the country's length and structure, and the check digits, are right."""
    iban = need("stdnum.iban")
    position = window.begin
    while found := _IBAN.search(window.text, position):
        position = found.start() + 2
        ends = [found.start() + edge.start() for edge in re.finditer(r"(?<=\w)(?!\w)", found[0])]
        for end in reversed(ends):
            if iban.is_valid(window.text[found.start() : end], check_country=False):
                yield Span(found.start(), end, "iban")
                position = end
                break


_GROUP = re.compile(r"\d+")
_BETWEEN = re.compile(r" ?[(]? ?|[ ]?[-./][ ]?| ?\)[ ]?[-./]?[ ]?|[ ]?[-./]?[ ]?\(|\)\(|[(]0[)]")
_QUAD = re.compile(r"(?:(?:1?\d?\d|2[0-4]\d|25[0-5])\.){3}(?:1?\d?\d|2[0-4]\d|25[0-5])")  # an IP address or a version
_MAX_GROUPS = 8
_MAX_SINGLE = 16  # where the digits stand one by one
_NANP = re.compile(
    r"(?:\+?1[-. ]?)?(?:\( ?[2-9]\d\d ?\)[-./ ]{0,3}\d{3}[-. ]{0,3}\d{4}"
    r"|[2-9]\d\d(?: ?[-./] ?| )\d{3}(?: ?[-.] ?| )\d{4}|[2-9]\d\d-\d{7})"
)
_INDIAN = re.compile(r"[6-9]\d{4}[ -]\d{5}|[6-9]\d{3}[ -]\d{3}[ -]\d{3}|[6-9]\d{3}-\d{6}")
_BARE = re.compile(r"1?[2-9]\d{9}")
_LABEL = re.compile(
    r"(?:[^\W\d]\w*(?: ?[:=#]|[ _](?:number|no\.?|num|nr|id|code|#))|\b(?:id|code|#))(?: is)?[\s:=#\"'(]*$", re.I
)
_UNIT = re.compile(  # "4155550132 views"
    r"[ -](?:(?!(?:is|was|has|this|thanks|always|as|plus|yes|days|weekdays|unless|ours?|hours|works|belongs)\b)[a-z]+s|"
    r"people|ms|[kmg]?b)\b",
    re.IGNORECASE,
)
_COUNTED = re.compile(
    r"\b(?:are|were|about|around|roughly|approximately|over|nearly|exactly|almost|than|least|most|run|job|process|thread|"
    r"batch|shard|block|epoch|bug|pr|equals?|times|by|sum|returns?)\s*\Z",
    re.IGNORECASE,
)
_YEAR = re.compile(r"\((?:19|20)\d\d\)")
_POWERS = {"2147483647", "2147483648", "4294967295", "4294967296"}
_EXTENSION = re.compile(
    r"[ ,;]{0,3}(?:\(? ?(?:ext(?:ension|n)?\.?|x\.?|durchwahl|转|分机)[ :.]{0,2}|#)\d{1,6}(?![\w-])\)?", re.IGNORECASE
)

_TWO_NUMBERS = re.compile(r"\d{3}[-. ]\d{4,6}/\Z")  # of two whole numbers either may be one
_AFTER_CODE = re.compile(r"(?:^|\s)(?:[A-Z]+\d|\d+[A-Z])[A-Z0-9]*\s$")  # as in "1Z 999 AA1 01 2345 6784"
_CHINESE = re.compile(r"(?:86[ -]?)?1[3-9]\d([ .-]?)\d{4}\1\d{4}|[48]00([ -])\d{3}\2\d{4}")


def find_phones(window: Window, cue: Cues, regions: Sequence[str]) -> Iterator[Span]:
    """Yield phone numbers, international ones and those of the regions.

    A number is searched among the groups of digits that stand together: the longest that is valid, or that a word
    beside it calls a phone number.
    """
    text = window.text
    groups = [match.span() for match in _GROUP.finditer(text, window.begin)]
    index = 0
    while index < len(groups):
        run = [groups[index]]
        for group in groups[index + 1 : index + _MAX_SINGLE]:
            if len(run) >= _MAX_GROUPS and group[1] - group[0] > 2:
                break
            if "/" in text[run[-1][1] : group[0]] and sum(last - first for first, last in run) >= 9:
                break  # two numbers
            if _BETWEEN.fullmatch(text, run[-1][1], group[0]) is None:
                break
            run.append(group)
        run = run if len(run) < _MAX_SINGLE else run[:_MAX_GROUPS]
        end = _phone_in(window, run, cue, regions) if _may_begin(text, run[0][0], cue) else None
        if end is None:
            index += 1
            continue
        start = _with_sign(text, run[0][0], end, window.begin)
        if extension := _EXTENSION.match(text, end):
            end = extension.end() - extension[0].endswith(")")
        yield Span(start, end, "phone")
        while index < len(groups) and groups[index][0] < end:
            index += 1


def _may_begin(text: str, start: int, cue: Cues) -> bool:
    """Return whether a phone number may begin here: not within a word or a longer number."""
    before = text[max(0, start - 2) : start]
    if before.endswith("/") and re.search(r"(?<!\d)\d{1,6}/\Z", text[max(0, start - 8) : start]):
        return _TWO_NUMBERS.search(text[max(0, start - 20) : start]) is not None
    if re.search(r"#\Z|[A-Za-z][-_.]?\Z", before):  # as in "tel.020", "ph#415"
        return cue(start, start) == "phone" and cue.adjoins(start, start)
    return not re.search(r"\d[-.]\Z|@\Z|_\Z|(?<!\d)\d{1,4}[)(]\Z", text[max(0, start - 8) : start])


def _with_sign(text: str, start: int, end: int, begin: int) -> int:
    """Return the start with the plus sign and the bracket that belong to the number."""
    while start > begin and (text[start - 1] == "+" or (text[start - 1] == "(" and ")" in text[start:end])):
        start -= 1
    return start


def _phone_in(window: Window, run: list[tuple[int, int]], cue: Cues, regions: Sequence[str]) -> int | None:
    """Return where the phone number ends that begins with a run of groups; None if none does."""
    text, start = window.text, run[0][0]
    begin = start
    while begin > window.begin and text[begin - 1] in "+(":
        begin -= 1
    has_plus = "+" in text[begin:start]
    candidates = []
    for count in range(len(run), 0, -1):
        end = run[count - 1][1]
        digits = sum(last - first for first, last in run[:count])
        follows = text[end : end + 2]
        ends = not re.match(r"[A-Za-z_](?<![xX])|[-.]\d|:\d", follows) and not re.match(
            r"/\d{1,6}(?!\d)(?![-. ]\d{3})", text[end : end + 12]
        )
        if 7 <= digits <= 16 and ends and not _QUAD.fullmatch(text, start, end):
            candidates.append((end, digits, [last - first for first, last in run[:count]]))
    if not candidates:
        return None
    for end, _, sizes in candidates:
        said = cue(begin, end)
        raw = text[begin:end]
        if said in ("card", "iban", "national_id") and not cue.adjoins(begin, end) and len(sizes) > 1:
            said = ""  # the word has had its number
        if has_plus or (raw.startswith("00") and (said == "phone" or (said == "" and len(sizes) > 1))):
            if _is_international(raw if has_plus else f"+{raw[2:]}", possible=has_plus):
                return end
            continue
        if said == "" and _AFTER_CODE.search(text[:begin]):
            continue
        if len(sizes) == 1 and _UNIT.match(text, end) and not cue.adjoins(begin, end):
            continue
        national = said in ("", "phone", "person") and _is_national(raw, sizes, regions, said == "phone")
        if national or (said == "" and _is_bare(text, begin, end, regions)):
            return end
    for end, digits, sizes in candidates:
        if (
            cue(begin, end) == "phone"
            and digits <= 15
            and (cue.reaches(begin, end) or (len(sizes) > 1 and not _YEAR.match(text, begin)))
            and not (_UNIT.match(text, end) and not cue.adjoins(begin, end))
            and not re.search(r"\.\d\.", text[begin:end])
        ):
            return end
    return None


def _parse(number: str, region: str | None) -> Any:
    phonenumbers = need("phonenumbers")
    try:
        return phonenumbers.parse(number, region)
    except phonenumbers.NumberParseException:
        return None


def _is_international(number: str, possible: bool) -> bool:
    phonenumbers = need("phonenumbers")
    parsed = _parse(number, None)
    if parsed is None:
        return False
    return bool(phonenumbers.is_possible_number(parsed) if possible else phonenumbers.is_valid_number(parsed))


def _is_national(raw: str, sizes: Sequence[int], regions: Sequence[str], called: bool) -> bool:
    """Return whether it is a valid number of a region. Unless it is called a phone number, its form must show it."""
    digits = re.sub(r"\D", "", raw)
    if called and any(_is_valid(digits, region) for region in regions):
        return True
    if _YEAR.match(raw) or re.match(r"[2-46]00 \d{3} \d{4}$", raw):
        return False  # a year, and round figures
    if _NANP.fullmatch(raw) and {"US", "CA"} & {*regions}:
        return True
    if len(sizes) == 1:
        if re.fullmatch(r"(?:86)?1[3-9]\d{9}", digits):
            return "CN" in regions
        return digits[0] == "0" and 10 <= len(digits) <= 12 and any(_is_valid(digits, region) for region in regions)
    if _CHINESE.fullmatch(raw):
        return "CN" in regions
    if _INDIAN.fullmatch(raw):
        return "IN" in regions
    shapes = digits[0] == "0" or raw.startswith("(")
    if not shapes or any(size < 2 for size in sizes[1 : -1 if re.search(r"\d{4}-\d$", raw) else None]) or sizes[0] > 6:
        return False
    return len(digits) >= 9 and any(_is_valid(digits, region) for region in regions)


def _is_bare(text: str, start: int, end: int, regions: Sequence[str]) -> bool:
    """Return whether ten digits in one piece are a phone number of the US or India; no word says otherwise."""
    start += text[start:end].startswith("(")
    digits = text[start:end]
    if not _BARE.fullmatch(digits) or digits in _POWERS or re.search(r"[^\s(\[,;:>\"'/|*]\Z", text[:start]):
        return False
    if _LABEL.search(text[max(0, start - 40) : start]) or _UNIT.match(text, end) or _COUNTED.search(text[:start]):
        return False
    return any(region in regions and _is_valid(digits, region) for region in ("US", "IN"))


def _is_valid(digits: str, region: str) -> bool:
    parsed = _parse(digits, region)
    return parsed is not None and bool(need("phonenumbers").is_valid_number_for_region(parsed, region))
