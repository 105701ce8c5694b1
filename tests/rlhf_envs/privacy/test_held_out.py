"""Check the generator that maskers are measured with: its spans, check digits, shares and seeds."""

from __future__ import annotations

import ipaddress
import re
import unicodedata
from collections import Counter
from typing import Literal

import pytest

from tests.rlhf_envs.privacy.held_out import KINDS, Example, make
from tests.rlhf_envs.privacy.parts.ids import cn_check, luhn, mod97

Language = Literal["en", "zh"]
LANGUAGES: tuple[Language, ...] = ("en", "zh")
RUN = re.compile(r"(?<![\da-zA-Z_.-])(?<!\d )\d(?:[ -]?\d){11,}(?![\da-zA-Z_-])")  # 12 digits or more, in groups or not
MADE = {language: make(1500, 0, language) for language in LANGUAGES}


def values(examples: list[Example], kind: str) -> list[str]:
    """Return the private data of `kind`, with plain digits and without signs between."""
    found = [text[span.start : span.end] for text, spans in examples for span in spans if span.kind == kind]
    kept = ".:" if kind == "ip" else ""
    return ["".join(c for c in unicodedata.normalize("NFKC", value) if c.isalnum() or c in kept) for value in found]


@pytest.mark.parametrize("language", LANGUAGES)
def test_spans_are_in_order_and_never_touch_blanks(language: Language) -> None:
    for text, spans in MADE[language]:
        ends = [0]
        for start, end, _ in spans:
            assert ends[-1] <= start < end <= len(text)
            assert text[start:end].strip() == text[start:end]
            ends.append(end)
        assert "{no:" not in text
        assert not any("{" + kind in text for kind in KINDS)


@pytest.mark.parametrize("language", LANGUAGES)
def test_third_of_the_texts_has_no_private_data_and_every_kind_has_its_share(language: Language) -> None:
    examples = MADE[language]
    assert 0.28 < sum(not spans for _, spans in examples) / len(examples) < 0.39
    kinds = Counter(span.kind for _, spans in examples for span in spans)
    least = {kind: 0.04 if kind != "iban" or language == "en" else 0.02 for kind in KINDS}  # few Chinese write IBANs
    assert all(kinds[kind] > least[kind] * kinds.total() for kind in KINDS), kinds
    assert len({text for text, _ in examples}) > 0.98 * len(examples)


@pytest.mark.parametrize("language", LANGUAGES)
def test_check_digits_are_valid(language: Language) -> None:
    examples = MADE[language]
    assert all(luhn(value) for value in values(examples, "card"))
    assert all(mod97(value[4:] + value[:4]) == 1 for value in values(examples, "iban"))
    assert all(ipaddress.ip_address(value) for value in values(examples, "ip"))
    residents = [value.upper() for value in values(examples, "national_id") if len(value) == 18]
    assert residents
    assert all(cn_check(value[:17]) == value[17] for value in residents if value[:17].isdigit())


@pytest.mark.parametrize("language", LANGUAGES)
def test_no_card_and_no_resident_id_stands_outside_the_spans(language: Language) -> None:
    for text, spans in MADE[language]:
        for start, end, _ in spans:
            text = text[:start] + "_" * (end - start) + text[end:]
        for run in RUN.findall(unicodedata.normalize("NFKC", text)):
            digits = re.sub(r"\D", "", run)
            assert not luhn(digits), text
            assert len(digits) != 18 or cn_check(digits[:17]) != digits[17], text


def test_check_digits_are_those_of_published_examples() -> None:
    assert luhn("4111111111111111") and not luhn("4111111111111112")
    assert mod97("370400440532013000" + "DE89") == 1  # the example of the IBAN registry
    assert cn_check("11010519491231002") == "X"  # the example of GB 11643-1999


@pytest.mark.parametrize("language", LANGUAGES)
def test_same_seed_makes_the_same_texts_and_another_makes_others(language: Language) -> None:
    assert make(50, 7, language) == make(50, 7, language)
    assert make(50, 7, language) != make(50, 8, language)


def test_unknown_language_is_named() -> None:
    with pytest.raises(ValueError, match="language is 'fr'"):
        make(1, 0, "fr")  # type: ignore[arg-type]
