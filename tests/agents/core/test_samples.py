"""Samples as people read them, in a terminal and in Markdown."""

from __future__ import annotations

from html import unescape

from markdown import markdown  # which TensorBoard writes HTML with

from agents.core.samples import sample_markdown, sample_texts
from rlhf_envs.datasets.messages import Messages, as_answer
from rlhf_envs.rendering import html_table

ASKED: Messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "A colour?"}]


def test_a_text_is_followed_by_its_completion_as_it_is() -> None:
    assert sample_texts("the film", " was good") == ("the film", " was good")
    assert sample_markdown("the film", " was good ") == "the film **was good**"
    assert sample_markdown("the film", " ") == "the film"


def test_every_turn_of_a_conversation_has_a_line() -> None:
    expected = "System: Be brief.\nUser: A colour?\nAssistant: Blue"
    assert "".join(sample_texts(ASKED, " Blue ")) == expected
    assert "".join(sample_texts(ASKED, as_answer("Blue"))) == expected
    assert "".join(sample_texts(ASKED, "")).endswith("\nAssistant:")


def test_tensorboard_and_html_keep_the_lines() -> None:
    shown = unescape(markdown(f"- `0.50` {sample_markdown(ASKED, 'Blue')}\n- `0.25` {sample_markdown('a', 'b')}"))
    lines = [line.strip() for line in shown.replace("\n", "").split("<br />")]
    assert lines[0].endswith("<code>0.50</code> System: Be brief.") and lines[1] == "User: A colour?"
    assert lines[2].startswith("<strong>Assistant: Blue</strong></li>")
    assert shown.count("<li>") == 2
    assert "<td>User: a<br>Assistant: &lt;b&gt;</td>" in html_table(["sample"], [["User: a\nAssistant: <b>"]])


def test_what_somebody_wrote_in_a_turn_is_no_markup() -> None:
    asked = [{"role": "user", "content": "a\n\n- b <script> | ![x](y)"}]
    assert "<script>" not in sample_markdown(asked, "**c**")
    assert sample_markdown(asked, "# d\n# e").count("\n") == 1, "a line per turn"
