from __future__ import annotations

import html
import sys
import unicodedata

import pytest

from rlhf_envs.feedback.terminal.visible import visible
from rlhf_envs.rendering import as_markdown, printable

ARABIC_AND_KAITHI = {
    *range(0x600, 0x606),
    0x6DD,
    0x70F,
    0x890,
    0x891,
    0x8E2,
    0x110BD,
    0x110CD,
}  # formats with a picture


def test_every_control_format_surrogate_and_private_character_is_escaped() -> None:
    hidden = [
        chr(code)
        for code in range(sys.maxunicode + 1)
        if unicodedata.category(chr(code)) in ("Cc", "Cf", "Cs", "Co", "Zl", "Zp")
        and chr(code) not in "\n\t"
        and code not in ARABIC_AND_KAITHI
    ]
    assert len(hidden) > 130_000
    assert [c for c in hidden if printable(c) != ascii(c)[1:-1]] == []


@pytest.mark.parametrize("text", ["👩‍👩‍👧 ❤️ 1️⃣", "שלום עולם, مرحبا", "naïve café", "汉字", "a\tb\nc"])
def test_emoji_and_other_scripts_stay_as_they_are(text: str) -> None:
    assert printable(text) == visible(text).plain == text


def test_joiners_outside_of_emoji_and_bidi_overrides_are_escaped() -> None:
    assert printable("pass\u200dword a\ufe0f \u202ecba") == r"pass\u200dword a\ufe0f \u202ecba"


def test_markdown_is_one_line_in_which_nothing_is_markup() -> None:
    assert as_markdown("# <b>\n[x](y) \x1b") == r"\# &lt;b\> \[x\]\(y\) \\x1b"


def test_markdown_has_no_backslash_that_tensorboard_would_show() -> None:
    markdown = pytest.importorskip("markdown")  # what TensorBoard renders texts with
    text = "a: b | c ~ d * e _ f # g! (h) [i] - j. k + l {m} `n` \\ > o"
    page = markdown.markdown(as_markdown(text), extensions=["markdown.extensions.tables"])
    assert html.unescape(page) == f"<p>{text}</p>"
    assert "<a" not in markdown.markdown(as_markdown("http://x.org ~~y~~ <http://x.org>"))
