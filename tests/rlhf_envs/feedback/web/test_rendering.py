"""What annotators see, in headless Chromium: conversations, rendered texts, differences, pictures, on a phone too."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import pytest
from fastapi.testclient import TestClient
from PIL import Image

from rlhf_envs.feedback import FeedbackStore, NewItem
from rlhf_envs.feedback.pictures import Picture

from .pages import PHONE, OpenPage, press, ready, until

SignIn = Callable[..., TestClient]

TALK = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "The capital of France?"},
    {"role": "assistant", "content": "Paris."},
    {"role": "user", "content": "And of Spain?"},
]
LONG = [{"role": "assistant" if i % 2 else "user", "content": f"message {i} " + "word " * 60} for i in range(199)]
MARKDOWN = "# Title\n\n**bold** $x^2$\n\n| a | b |\n|---|--:|\n| 1 | 2 |\n\n```python\ndef f(): return 1  # c\n```"


def picture(size: tuple[int, int] = (60, 40)) -> Picture:
    file = io.BytesIO()
    Image.new("RGB", size, "red").save(file, "PNG")
    return Picture(file.getvalue(), "cat.png", alt="a red cat")


def in_sight(page: Any, selector: str) -> bool:
    """Whether all of an element can be seen in the box that it scrolls in."""
    return bool(
        page.locator(selector).evaluate(
            """e => { const box = e.closest(".text").getBoundingClientRect(), own = e.getBoundingClientRect();
                      return own.top >= box.top - 1 && own.bottom <= box.bottom + 1 && own.bottom <= innerHeight; }"""
        )
    )


# Conversations


def test_conversation_is_bubbles_and_fits_beside_short_answers(open_page: OpenPage, store: FeedbackStore) -> None:
    store.add_items([NewItem("pairwise", "p", ("Barcelona", "Madrid"), meta={"messages": TALK})])
    page = open_page()
    ready(page, "pairwise")
    bubbles = page.locator("#prompt > .bubble")
    assert bubbles.locator(".role").all_inner_texts() == ["System", "User", "Assistant", "User"]
    assert bubbles.locator(".body").all_inner_texts() == [message["content"] for message in TALK]
    for i in range(4):
        assert in_sight(page, f"#prompt > .bubble:nth-child({i + 1})")


def test_conversation_of_200_messages_shows_its_last_question(open_page: OpenPage, store: FeedbackStore) -> None:
    asked = {"role": "user", "content": "And now the last question."}
    store.add_items([NewItem("pairwise", "p", ("word " * 900, "b"), meta={"messages": [*LONG, asked]})])
    page = open_page()
    ready(page, "pairwise")
    assert page.locator("#prompt > .bubble").count() == 12
    assert page.locator("#prompt > .more").inner_text() == "188 earlier messages\no"
    assert in_sight(page, "#prompt > .bubble:last-child")
    assert page.locator("#prompt.cut-above").count() == 1
    place = page.locator("#prompt").evaluate("e => e.scrollTop")
    press(page, "PageUp")
    until(page, f"document.querySelector('#prompt').scrollTop < {place} - 50")
    press(page, "PageDown")
    until(page, f"document.querySelector('#prompt').scrollTop === {place}")
    press(page, "o")
    assert page.locator("#prompt > .bubble").count() == 200
    assert in_sight(page, "#prompt > .bubble:last-child")
    assert page.locator("#prompt > .bubble .body").first.inner_text().startswith("message 0 word")
    press(page, "o")
    assert page.locator("#prompt > .bubble").count() == 12
    page.locator("#prompt > .more").evaluate("e => e.click()")
    assert page.locator("#prompt > .bubble").count() == 200


def test_question_longer_than_the_box_begins_at_its_beginning(open_page: OpenPage, store: FeedbackStore) -> None:
    asked = {"role": "user", "content": "Begin. " + "word " * 3000}
    store.add_items([NewItem("pairwise", "p", ("word " * 900, "b"), meta={"messages": [*TALK, asked]})])
    page = open_page()
    ready(page, "pairwise")
    top, box = (page.locator(where).bounding_box()["y"] for where in ("#prompt > .bubble:last-child", "#prompt"))
    assert 0 <= top - box <= 20
    assert page.locator("#prompt.cut-above.cut-below").count() == 1


def test_completions_of_several_turns(open_page: OpenPage, store: FeedbackStore) -> None:
    turns = [
        {"role": "assistant", "content": "Where?"},
        {"role": "user", "content": "Paris"},
        {"role": "tool", "content": '{"t": 3}'},
        {"role": "assistant", "content": "3 °C"},
    ]
    store.add_items([NewItem("rating", "p", ("said",), meta={"turns": [turns]})])
    page = open_page()
    ready(page, "rating")
    found = page.locator("#panels .bubble")
    assert found.locator(".role").all_inner_texts() == ["Assistant", "User", "Tool", "Assistant"]
    assert found.locator(".body").all_inner_texts() == ["Where?", "Paris", '{"t": 3}', "3 °C"]
    assert page.locator("#prompt").inner_text() == "p"


def test_prompt_in_role_lines_is_shown_as_a_conversation(open_page: OpenPage, store: FeedbackStore) -> None:
    store.add_items([NewItem("rating", "Human: Hi\n\nthere\n\nAssistant: Yes?\n\nHuman: Bye\n\nAssistant:", ("c",))])
    page = open_page()
    ready(page, "rating")
    assert page.locator("#prompt .role").all_inner_texts() == ["User", "Assistant", "User"]
    assert page.locator("#prompt .body").all_text_contents() == ["Hi\n\nthere", "Yes?", "Bye"]


def test_meta_that_is_no_conversation_is_left_alone(open_page: OpenPage, store: FeedbackStore) -> None:
    metas: list[dict[str, Any]] = [
        {"messages": "text", "turns": 3, "images": "x"},
        {"messages": [1], "turns": [None], "images": [None, {"id": 3}, {}]},
        {"messages": [{"role": "user"}], "turns": [[{"content": None}]]},
        {"messages": [], "turns": []},
    ]
    store.add_items([NewItem("thumbs", f"prompt {i}", ("c",), meta=meta) for i, meta in enumerate(metas)])
    page = open_page()
    for i in range(len(metas)):
        page.wait_for_selector(f"#prompt:text-is('prompt {i}')")
        page.wait_for_selector("#task[aria-busy=false]")
        press(page, "1")
    ready(page, "none")


# Rendered texts


def test_r_shows_texts_rendered_and_as_they_are_also_on_the_next_item(
    open_page: OpenPage, store: FeedbackStore
) -> None:
    store.add_items([NewItem("rating", "p", (f"{MARKDOWN}\n\n{i}",)) for i in range(2)])
    page = open_page()
    ready(page, "rating")
    text = page.locator("#panels .text")
    assert text.text_content() == f"{MARKDOWN}\n\n0"
    press(page, "r")
    text.locator("table").wait_for()
    assert text.locator("h3").inner_text() == "Title"
    assert text.locator("strong").inner_text() == "bold"
    assert text.locator("td").all_inner_texts() == ["1", "2"]
    assert text.locator("pre").inner_text() == "def f(): return 1  # c"
    assert text.locator("pre .code-keyword").all_inner_texts() == ["def", "return"]
    namespaces = text.locator("math, msup").evaluate_all("all => all.map(e => e.namespaceURI)")
    assert namespaces == ["http://www.w3.org/1998/Math/MathML"] * 2
    views: list[str] = []
    page.on("request", lambda asked: views.append(asked.url) if "/view" in asked.url else None)
    press(page, "3")
    page.wait_for_selector("#count:has-text('1 by you')")
    ready(page, "rating")
    assert text.locator("table").count() == 1
    assert views == []  # it came with the item
    press(page, "r")
    until(page, "document.querySelector('#panels .text table') === null")
    assert text.text_content() == f"{MARKDOWN}\n\n1"


def test_the_admin_chooses_how_texts_are_shown(open_page: OpenPage, store: FeedbackStore) -> None:
    store.add_items([NewItem("correction", "*p*", (MARKDOWN,))])
    admin = open_page("/admin", name="root", role="admin")
    admin.select_option("select[name=render]", "markdown")
    admin.get_by_role("button", name="Save").click()
    admin.wait_for_load_state()
    assert store.settings.render == "markdown"
    assert admin.input_value("select[name=render]") == "markdown"
    page = open_page()
    ready(page, "correction")
    assert page.locator("#prompt em").inner_text() == "p"
    assert page.locator("#panels table").count() == 1
    assert page.input_value("#editor") == MARKDOWN  # it is edited as it is


def test_long_texts_are_rendered_after_they_are_shown(open_page: OpenPage, store: FeedbackStore) -> None:
    store.update_settings(render="markdown")
    store.add_items([NewItem("pairwise", "p", ("**a** " * 4000, "**b**")), NewItem("rating", "p", ("**a** " * 20000,))])
    page = open_page()
    ready(page, "pairwise")
    until(page, "document.querySelectorAll('#panels strong').length === 4001")
    press(page, "4")
    ready(page, "rating")
    page.locator("#panels .note").wait_for()
    assert page.locator("#panels .note").inner_text() == "Shown as it is: the text is too long to be rendered."
    assert page.locator("#panels .more").count() == 1


def test_what_a_rendered_text_lacks_is_said(open_page: OpenPage, store: FeedbackStore) -> None:
    store.update_settings(render="markdown")
    store.add_items([NewItem("rating", "p", ("| a |\n|---|\n| 1 | hidden |",))])
    page = open_page()
    ready(page, "rating")
    assert "Not all of this text is shown" in page.locator("#panels .note").inner_text()


HOSTILE = """<script>alert(1)</script> <img src=x onerror=alert(1)> <svg onload=alert(1)><style>*{display:none}</style>

[a](javascript:alert(1)) [b](data:text/html,<script>alert(1)</script>) <https://evil.example/c>
![d](https://evil.example/d.png "e") ![f](//evil.example/f.png) [![g](https://evil.example/g.png)](https://evil.example)

<iframe src="https://evil.example"></iframe>

<details open ontoggle=alert(1)>

$\\href{javascript:alert(1)}{x}$ $\\class{evil}{x}$ $\\text{<img src=x onerror=alert(1)>}$ $x\u202e^2$

| <b>h</b> | `<i>` |
|---|---|
| <img src=x onerror=alert(1)> | \u202eexe.gpj |

```html
<script src="https://evil.example/x.js"></script>
```

```"><img src=x onerror=alert(1)>
code
```

zero\u200bwidth nul\x00 esc\x1b[31m \ud800 &#x202E; &lt;script&gt;

[ref]: https://evil.example/ref
<base href="https://evil.example"><meta http-equiv=refresh content="0;url=https://evil.example"><form action="https://evil.example">
"""
TAGS = {
    *("p", "span", "br", "strong", "em", "s", "code", "pre", "blockquote", "ul", "ol", "li", "hr", "div", "h2", "h3"),
    *("table", "thead", "tbody", "tr", "th", "td", "math", "mrow", "mi", "mn", "mo", "mtext", "msup"),
}
ATTRIBUTES = {"class", "title", "tabindex", "dir", "display", "start"}


def test_hostile_markdown_is_inert_and_no_request_leaves_the_page(open_page: OpenPage, store: FeedbackStore) -> None:
    store.update_settings(render="markdown")
    messages = [TALK[0], {"role": "<img src=x onerror=alert(1)>\u202e", "content": HOSTILE}]
    store.add_items([NewItem("pairwise", "p", (HOSTILE, HOSTILE + "x"), meta={"messages": messages})])
    page = open_page()  # which sees to it that nothing is asked of elsewhere, and that no script speaks
    ready(page, "pairwise")
    for differences in (False, True):
        if differences:
            press(page, "d")
            page.wait_for_selector("#panels mark")
        for place in ("#prompt > .bubble:last-child > .body", "#panels .panel:nth-child(1) .text"):
            inside = page.locator(f"{place} *")
            tags = set(inside.evaluate_all("all => all.map(e => e.localName)"))
            assert tags <= TAGS | ({"mark"} if differences else set())
            names = inside.evaluate_all("all => all.flatMap(e => e.getAttributeNames())")
            assert set(names) <= ATTRIBUTES
            text = page.locator(place).text_content()
            for shown in (
                "<script>alert(1)</script> <img src=x onerror=alert(1)>",
                "javascript:alert(1)",
                'https://evil.example/d.png "e"',
                "[ref]: https://evil.example/ref",
                '<script src="https://evil.example/x.js"></script>',
                '"><img src=x onerror=alert(1)>',
                "\\href{javascript:alert(1)}{x}",
            ):
                assert shown in text
            for code in ("202E", "200B", "0000", "001B", "D800"):
                assert f"[U+{code}]" in text
            assert not set(text) & set("\u202e\u200b\x00\x1b\ud800")
    assert "[U+202E]" in page.locator("#prompt .role").last.text_content()
    page.wait_for_timeout(300)


def test_megabyte_of_markdown_is_shown_at_once_and_as_it_is(open_page: OpenPage, store: FeedbackStore) -> None:
    store.update_settings(render="markdown")
    store.add_items([NewItem("pairwise", "p", ("*a **a [" * (2**20 // 8), "> " * 2**19))])
    page = open_page()
    ready(page, "pairwise")
    page.locator("#panels .note").last.wait_for()
    assert page.locator("#panels .note").count() == 2
    assert page.locator("#panels .more").count() == 2
    press(page, "d")  # too long to be compared, and nothing breaks
    press(page, "4")
    ready(page, "none")


# Differences


@pytest.mark.parametrize("render", ["plain", "markdown"])
def test_d_marks_the_words_that_differ(open_page: OpenPage, store: FeedbackStore, render: Any) -> None:
    store.update_settings(render=render)
    texts = ("The **slow** fox.\n\n我喜欢红色的苹果", "The **quick** fox.\n\n我喜欢绿色的苹果")
    store.add_items(
        [NewItem("pairwise", "p", texts), NewItem("pairwise", "p", ("one", "two")), NewItem("thumbs", "p", ("c",))]
    )
    page = open_page()
    ready(page, "pairwise")
    assert page.locator("#panels mark").count() == 0
    press(page, "d")
    page.locator("#panels mark").first.wait_for()
    marks = [page.locator(f"#panels .panel:nth-child({i}) mark").all_inner_texts() for i in (1, 2)]
    assert sorted(marks) == [["quick", "绿"], ["slow", "红"]]
    assert page.locator("#panels strong").count() == (2 if render == "markdown" else 0)
    whole = [page.locator(f"#panels .panel:nth-child({i}) .text").text_content() for i in (1, 2)]
    if render == "plain":
        assert sorted(whole) == sorted(texts)
    press(page, "3")
    page.wait_for_selector("#count:has-text('1 by you')")
    page.locator("#panels mark").first.wait_for()  # as chosen, on the next item too
    press(page, "3")
    ready(page, "thumbs")
    assert page.locator("#show-differences").is_hidden()
    assert page.get_attribute("#show-differences", "aria-pressed") == "true"


def test_l_scrolls_both_texts_together(open_page: OpenPage, store: FeedbackStore) -> None:
    store.add_items([NewItem("pairwise", "p", ("long " * 2000, "long " * 3000))])
    page = open_page()
    ready(page, "pairwise")
    tops = "all => all.map(e => e.scrollTop / (e.scrollHeight - e.clientHeight))"
    texts = page.locator("#panels .text")
    texts.first.evaluate("e => { e.scrollTop = 200; }")
    page.wait_for_timeout(100)
    assert texts.evaluate_all(tops)[1] == 0
    press(page, "l")
    assert "together" in page.inner_text("#notice")
    texts.first.evaluate("e => { e.scrollTop = e.scrollHeight / 2; }")
    until(page, "document.querySelectorAll('#panels .text')[1].scrollTop > 0")
    first, second = texts.evaluate_all(tops)
    assert first == pytest.approx(second, abs=0.01)


# Pictures


def test_pictures_are_shown_with_their_words(open_page: OpenPage, store: FeedbackStore) -> None:
    (entry,) = store.add_pictures([picture()])
    gone = {"id": "0" * 64, "name": "gone<b>.png", "message": 0}
    meta = {"messages": TALK, "images": [{**entry, "message": 1}, gone]}
    store.add_items(
        [NewItem("rating", "p", ("c",), meta=meta), NewItem("rating", "", ("d",), meta={"images": [entry]})]
    )
    page = open_page()
    ready(page, "rating")
    image = page.locator("#prompt > .bubble:nth-child(2) img")
    assert image.get_attribute("alt") == "a red cat"
    until(page, "document.querySelector('#prompt img').naturalWidth === 60")
    assert page.locator("#prompt figcaption").inner_text() == "a red cat"
    page.locator("#prompt > .bubble:nth-child(1) .mark").wait_for()
    assert (
        page.locator("#prompt > .bubble:nth-child(1) .mark").inner_text() == "The picture gone<b>.png cannot be shown."
    )
    press(page, "3")
    page.wait_for_selector("#count:has-text('1 by you')")
    ready(page, "rating")
    assert page.locator("#prompt img").is_visible()  # a prompt may be a picture alone
    assert "empty" not in page.locator("#prompt").inner_text()


def test_pictures_are_for_people_who_are_signed_in(store: FeedbackStore, sign_in: SignIn, visitor: Any) -> None:
    shown = picture()
    store.add_pictures([shown])
    assert visitor().get(f"/media/{shown.id}").status_code == 303  # to the sign-in
    client = sign_in("ada")
    answer = client.get(f"/media/{shown.id}")
    assert answer.content == shown.data
    assert answer.headers["content-type"] == "image/png"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["cache-control"] == "private, max-age=31536000, immutable"
    missing = client.get(f"/media/{'0' * 64}")
    assert (missing.status_code, missing.headers["cache-control"]) == (404, "no-store")
    assert client.get("/media/x").status_code == 422


# The API


def test_view_comes_with_the_task_and_whole_when_asked(store: FeedbackStore, sign_in: SignIn) -> None:
    long = "**a** " * 4000
    store.add_items([NewItem("pairwise", "p", (long, "b"), meta={"messages": TALK})])
    client = sign_in("ada")
    assert client.post("/api/claim?render=html").status_code == 422
    task = client.post("/api/claim").json()["task"]
    assert task["view"]["render"] == "plain"
    assert [turn["text"] for turn in task["view"]["prompt"]] == [message["content"] for message in TALK]
    task = client.post("/api/claim?render=markdown").json()["task"]
    side = [completion["text"] for completion in task["completions"]].index(long)
    turns = [turn for (turn,) in task["view"]["completions"]]
    assert [turn["text"] for turn in turns] == [None, None]  # not twice
    assert (turns[side]["why"], turns[side]["nodes"]) == ("later", None)
    whole = client.post(f"/api/tasks/{task['id']}/view?render=markdown").json()
    assert len(whole["completions"][side][0]["nodes"][0]) == 2 + 2 * 4000 - 1
    assert client.post(f"/api/tasks/{task['id'] + 1}/view").status_code == 409


# Phones


def test_on_a_phone_the_prompt_folds_and_the_answers_are_tabs(open_page: OpenPage, store: FeedbackStore) -> None:
    store.update_settings(render="markdown")
    wide = f"{MARKDOWN}\n\n{'x' * 300}\n\n$${' + '.join(['x_1'] * 60)}$$\n\n|{'| column ' * 12}|\n{'|---' * 13}|\n"
    asked = {"role": "user", "content": "The last question?"}
    store.add_items([NewItem("pairwise", "p", (wide + "A", wide + "B"), meta={"messages": [*LONG, asked]})])
    page = open_page(viewport=PHONE, is_mobile=True, has_touch=True)
    ready(page, "pairwise")
    assert page.locator("#prompt").bounding_box()["height"] <= PHONE["height"] * 0.35
    assert in_sight(page, "#prompt > .bubble:last-child")
    panels = page.locator("#panels > .panel")
    assert [panel.is_visible() for panel in panels.all()] == [True, False]
    page.locator("#tabs button", has_text="B").tap()
    assert [panel.is_visible() for panel in panels.all()] == [False, True]
    press(page, "v")
    assert [panel.is_visible() for panel in panels.all()] == [True, False]
    assert page.locator("#tabs button").evaluate_all("all => all.map(e => e.ariaPressed)") == ["true", "false"]
    for _ in range(2):
        assert page.locator("html").evaluate("e => e.scrollWidth") <= PHONE["width"]
        outside = page.locator("#task .text:visible, #task .text:visible *:not(.md-formulas *)").evaluate_all(
            "all => all.filter(e => e.getBoundingClientRect().right > innerWidth + 1).map(e => e.outerHTML)"
        )
        assert outside == []
        page.locator("#open-prompt").tap()
    page.locator("#skip").tap()
    ready(page, "none")
