"""Find national identity numbers, by their form and check digit, and where those say little by words beside them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date

from .cues import Cues
from .spans import Span, Window, need

__all__ = ["find_identities"]

_START, _END = r"(?<![A-Za-z0-9_])(?<!\d[-.])", r"(?![A-Za-z0-9_]|[-.]\d)"


@dataclass(frozen=True)
class _Number:
    """Hold a kind of number.

    Attributes:
        pattern: its form.
        check: the module of python-stdnum that checks it; "" where the form is all there is.
        alone: whether it counts without a word beside it.
    """

    pattern: re.Pattern[str]
    check: str
    alone: bool


def _number(pattern: str, check: str = "", alone: bool = False) -> _Number:
    return _Number(re.compile(_START + f"(?:{pattern})" + _END, re.IGNORECASE), check, alone)


_NUMBERS = [
    _number(r"\d{6}[ -]?\d{4}[ -]?\d{2}[ -]?\d{2}[ -]?\d{3}[\dX]", "cn", alone=True),
    _number(r"\d{6}[ -]?\d{8}[ -]?\d{4}", "cn", alone=True),
    _number(r"\d{15}"),  # China's old ones
    _number(r"(?!000)\d{3}-(?!00)\d{2}-(?!0000)\d{4}", alone=True),  # also of ranges that are not issued yet
    _number(r"9\d\d-[5-9]\d-\d{4}", "us.itin", alone=True),
    _number(r"\d{3}[ .-]?\d{2}[ .-]?\d{4}"),
    _number(
        r"(?!BG|GB|NK|KN|TN|NT|ZZ)[A-CEGHJ-PR-TW-Z][A-CEGHJ-NPR-TW-Z][ -]?\d\d[ -]?\d\d[ -]?\d\d[ -]?[A-D]", alone=True
    ),
    _number(r"[12][ ]?\d\d[ ]?(?:0[1-9]|1[0-2]|[2-9]\d)[ ]?\d[\dAB][ ]?\d{3}[ ]?\d{3}[ ]?\d\d", "fr.nir", alone=True),
    _number(r"\d{2}\.?\d{3}\.?\d{3}[ -]?[A-Z]", "es.dni", alone=True),
    _number(r"[XYZ][ -]?\d{7}[ -]?[A-Z]", "es.nie", alone=True),
    _number(
        r"[A-Z]{6}\d\d[A-Z]\d\d[A-Z]\d{3}[A-Z]|[A-Z]{3} [A-Z]{3} \d\d[A-Z]\d\d [A-Z]\d{3}[A-Z]",
        "it.codicefiscale",
        alone=True,
    ),
    _number(r"(?:\d\d){3,4}[-+]\d{4}", "se.personnummer", alone=True),
    _number(r"(?:\d\d){5,6}", "se.personnummer"),
    _number(r"\d{3}\.\d{3}\.\d{3}-\d\d", "br.cpf", alone=True),
    _number(r"\d{6}-[1-8]\d{6}", "kr.rrn", alone=True),
    _number(r"\d{6}[-+A]\d{3}[0-9A-Y]", "fi.hetu", alone=True),
    _number(r"\d\d\.\d\d\.\d\d-\d{3}\.\d\d", "be.nn", alone=True),
    _number(r"756\.\d{4}\.\d{4}\.\d\d", "ch.ssn", alone=True),
    _number(r"\d{1,2}\.\d{3}\.\d{3}-[\dK]", "cl.rut", alone=True),
    _number(r"[A-Z]{4}\d{6}[HM][A-Z]{5}[0-9A-Z]\d", "mx.curp", alone=True),
    _number(r"[A-Z]{3}[ABCFGHJLPT][A-Z]\d{4}[A-Z]", "in_.pan", alone=True),
    _number(r"\d{2}[ ]?\d{3}[ ]?\d{3}[ ]?\d{3}", "de.idnr"),
    _number(r"\d{11}", "pl.pesel"),
    _number(r"\d{4}[ -]\d{4}[ -]\d{4}", "in_.aadhaar"),
    _number(r"[A-Z9]{5}\d{6}[A-Z9]{2}\d?[A-Z0-9]{2,3}"),  # a British driver's
    _number(r"[A-Z]{2}[ .-]?\d\d[ .-]?\d\d[ .-]?\d\d[ .-]?[A-D]"),
    _number(r"\d{3}[ -]\d{3}[ -]\d{4}", "gb.nhs"),
    _number(r"[A-Z][12]\d{8}"),  # Taiwan
    _number(r"[A-Z]{1,2}\d{6}\(?[\dA]\)?"),  # Hong Kong
]
_ANY = re.compile(_START + r"(?:[A-Z]{1,3}-?)?\d(?:[ ./-]?[A-Z0-9]){4,17}" + _END, re.IGNORECASE)


def find_identities(window: Window, cue: Cues) -> Iterator[Span]:
    """Yield identity numbers; beside a word such as "passport" also those of a form that is not known here."""
    for number in _NUMBERS:
        for found in number.pattern.finditer(window.text, window.begin):
            said = cue(*found.span())
            if said == "national_id":
                if number.check in ("", "cn") or _is_valid(number.check, found[0]):
                    yield Span(*found.span(), "national_id")
            elif number.alone and said != "none" and _is_valid(number.check, found[0]):
                yield Span(*found.span(), "national_id")
    for found in _ANY.finditer(window.text, window.begin):
        digits = sum(character.isdigit() for character in found[0])
        end = found.start() + len(_without_words(found[0]))
        if digits >= 6 and cue(found.start(), end) == "national_id" and cue.adjoins(found.start(), end):
            yield Span(found.start(), end, "national_id")


def _without_words(text: str) -> str:
    """Return a number without the words after it that the pattern for any number has taken in."""
    return re.split(r"[ ./-](?=[A-Za-z]{2,})(?![A-Za-z]*\d)", text, maxsplit=1)[0]


def _is_valid(check: str, number: str) -> bool:
    if check == "":
        return True
    if check == "cn":
        return _is_chinese(re.sub(r"[ -]", "", number).upper())
    return bool(need(f"stdnum.{check}").is_valid(number))


def _is_chinese(number: str) -> bool:
    """Return whether an 18-digit number is a resident id, also one of a place that is not in python-stdnum's list."""
    try:
        born = date(int(number[6:10]), int(number[10:12]), int(number[12:14]))
    except ValueError:
        return False
    right = need("stdnum.cn.ric").calc_check_digit(number) == number[-1]
    return right and 11 <= int(number[:2]) <= 91 and 1850 < born.year < 2100
