"""Masking a text that comes in pieces: the same as masking it whole, wherever it is cut."""

from __future__ import annotations

import time

import pytest

pytest.importorskip("phonenumbers")
pytest.importorskip("stdnum")

from hypothesis import given, settings
from hypothesis import strategies as st

from rlhf_envs.privacy import Masker
from rlhf_envs.privacy.segments import AFTER, LONGEST

PEM = "-----BEGIN RSA PRIVATE KEY-----\n" + "MIIEpAIBAAKCAQEAq8s7f6g5h4j3k2l1\n" * 50 + "-----END RSA PRIVATE KEY-----"
PARTS = [
    "Write to anna.b@example.co.uk",
    "call +1 (415) 555-0132",
    "我的电话是１３８－１２３４－５６７８，",
    "身份证11010519491231002X。",
    "card 4111 1111 1111 1111",
    "IBAN DE89 3704 0044 0532 0130 00",
    "SSN 536-90-4399",
    "password: hunter2",
    "Bearer abcdef0123456789abcdef",
    "192.168.1.20",
    "2001:db8::1",
    "My name is John Smith",
    "我叫王小明",
    "john (at) example (dot) com",
    "555-0132 is my phone number",
    "٠٥٠١٢٣٤٥٦٧",
    "-----BEGIN",
    "-----END RSA PRIVATE KEY-----",
    PEM,
    "x" * 1100,
    "1 2 3 4 5 6 7 8 9 10 " * 16,
    "x" * 700,
    "4" * 30,
    " ",
    "  ",
    "\n",
    ", ",
    "\u200b",
    "、",
]
texts = st.lists(st.one_of(st.sampled_from(PARTS), st.text(max_size=12)), max_size=10).map("".join)
MASKER, COUNTING = Masker(), Masker(pseudonyms=True)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(texts, st.data())
def test_a_stream_masks_as_the_whole_text_wherever_it_is_cut(text: str, data: st.DataObject) -> None:
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=12)))
    for masker in (MASKER, COUNTING):
        stream = masker.stream()
        pieces = [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]
        assert "".join([*map(stream.feed, pieces), stream.close()]) == masker.mask(text)


@settings(max_examples=15, deadline=None, derandomize=True)
@given(texts)
def test_a_stream_masks_as_the_whole_text_one_character_at_a_time(text: str) -> None:
    stream = MASKER.stream()
    assert "".join([*map(stream.feed, text), stream.close()]) == MASKER.mask(text)


@settings(max_examples=30, deadline=None, derandomize=True)
@given(texts)
def test_masks_are_the_spans_that_are_found(text: str) -> None:
    parts, position = [], 0
    for start, end, kind in MASKER.find(text):
        assert position <= start < end <= len(text)
        parts += [text[position:start], "[ID]" if kind == "national_id" else f"[{kind.upper()}]"]
        position = end
    assert "".join([*parts, text[position:]]) == MASKER.mask(text)


@pytest.mark.parametrize("secret", [part for part in PARTS[:11] if part != "x"])
def test_no_piece_of_a_secret_is_shown_before_its_end_is_known(secret: str) -> None:
    whole = f"So it is: {secret} and so on, and on and on, to the end of the line."
    spans = MASKER.find(whole)
    assert spans
    stream, shown = MASKER.stream(), ""
    for character in whole:
        shown += stream.feed(character)
        for start, end, _ in spans:
            assert whole[start : start + 5] not in shown or end - start < 5
    assert "[" in shown


@pytest.mark.parametrize("text", ["x" * 3000, "4111 " * 500, "Word " * 500, "a,b" * 800, "1\u200b" * 1200])
def test_the_delay_is_bounded(text: str) -> None:
    stream = MASKER.stream()
    for place in range(0, len(text), 100):
        stream.feed(text[place : place + 100])
        held = len(stream._text) - stream._start
        assert held <= LONGEST + AFTER + 100 + 10


def test_what_is_held_back_is_looked_at_once() -> None:
    """A key of 16,000 characters that come one by one: looked at anew each time, it would take minutes."""
    stream, begin = MASKER.stream(), time.process_time()
    for character in "-----BEGIN PRIVATE KEY-----\n" + "AAAAAAAAAA\n" * 1400:
        assert stream.feed(character) == ""
    assert time.process_time() - begin < 10


def test_prose_is_shown_word_by_word() -> None:
    stream, shown = MASKER.stream(), ""
    text = "the quick brown fox jumps over the lazy dog and goes on to the next line of this text. "
    for place, character in enumerate(text):
        shown += stream.feed(character)
        assert place - len(shown) <= 16
    assert shown + stream.close() == text


def test_a_closed_stream_takes_nothing() -> None:
    stream = MASKER.stream()
    stream.feed("a")
    assert (stream.close(), stream.close()) == ("a", "")
    with pytest.raises(ValueError, match="closed"):
        stream.feed("b")
