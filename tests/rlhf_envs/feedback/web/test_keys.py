"""Keys of the annotation page: all are listed, none is taken twice, labels cannot take them, and focus comes back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from rlhf_envs.feedback import FeedbackStore, NewItem
from rlhf_envs.feedback.questions import TAKEN_KEYS, Question
from rlhf_envs.feedback.terminal.label import COMMON

N = {"pairwise": 2, "ranking": 3, "rating": 1, "thumbs": 1, "correction": 1, "flags": 1}
LONG = "word " * 5000  # more than is shown at once
SPANS = {"name": "wrong", "text": "Mark", "type": "spans", "labels": ["false"], "required": False}
LISTED = "[...document.querySelectorAll('#keys-list kbd')].map((key) => key.textContent)"
NARROW = {"width": 390, "height": 844}


@pytest.mark.parametrize("kind", N)
def test_a_label_cannot_take_a_key_of_the_page(open_page: Callable[..., Any], store: FeedbackStore, kind: str) -> None:
    store.update_settings(questions=[SPANS])
    store.add_items([NewItem(kind, "a prompt", tuple(f"{LONG}{i}" for i in range(N[kind])))])
    page = open_page(viewport=NARROW)
    page.wait_for_selector(f"body[data-kind={kind}] #task[aria-busy=false]")
    listed = set(page.evaluate(LISTED))
    for button in page.query_selector_all("#questions .spans, #questions .choices"):
        button.focus()
    page.locator("#questions .question").last.locator("button").first.focus()
    listed |= set(page.evaluate(LISTED))
    assert {"w", "s", "?", "m", "o"} <= listed
    letters = {key for key in listed if len(key) == 1 and not key.isdigit()} - set("↓↑←→⏎")
    assert letters <= TAKEN_KEYS
    keys = page.query_selector_all("#tools kbd, .bottom kbd, .top kbd")
    shown = {key.text_content() for key in keys if key.is_visible()}
    assert shown - {""} <= listed


def test_a_label_cannot_take_a_key_of_the_terminal_and_the_error_says_which_are_free() -> None:
    assert set(COMMON) <= TAKEN_KEYS
    with pytest.raises(ValueError, match=r"'R' is no key for a label: take a digit or one of a b f h i j k p t x y z"):
        Question("q", "?", "labels", labels=("yes", "no"), keys=("y", "R"))


@pytest.mark.parametrize("key", ["g", "?"])
def test_a_closed_dialog_returns_the_focus_and_opens_at_its_beginning(
    open_page: Callable[..., Any], store: FeedbackStore, key: str
) -> None:
    store.update_settings(guidelines="word\n\n" * 200)
    store.add_items([NewItem("pairwise", "a prompt", ("a", "b"))])
    page = open_page()
    page.wait_for_url("**/guidelines")
    page.get_by_role("button", name="I have read").click()
    page.wait_for_selector("body[data-kind=pairwise] #task[aria-busy=false]")
    button = {"g": "#open-guidelines", "?": "#open-keys"}[key]
    page.focus(button)
    page.keyboard.press(key)
    page.wait_for_selector("dialog[open]")
    assert page.evaluate("document.querySelector('dialog[open]').scrollTop") == 0
    assert page.evaluate("document.querySelector('dialog[open]').contains(document.activeElement)")
    page.keyboard.press("Escape")
    page.wait_for_selector("dialog[open]", state="hidden")
    assert page.evaluate("document.activeElement.id") == button[1:]


def test_the_theme_is_kept_and_comes_with_the_page(open_page: Callable[..., Any], store: FeedbackStore) -> None:
    ground = "getComputedStyle(document.body).backgroundColor"
    page = open_page("/annotate", color_scheme="light", java_script_enabled=True)
    light = page.evaluate(ground)
    page.locator(".theme summary").focus()
    page.keyboard.press("Enter")
    page.locator(".theme button[value=dark]").focus()
    with page.expect_navigation():  # to the end: a page that is still coming may have no style yet
        page.keyboard.press("Enter")
    assert page.locator("html[data-theme=dark]").count()
    dark = page.evaluate(ground)
    assert dark != light
    page.goto(page.url.replace("/annotate", "/me"))
    assert page.evaluate(ground) == dark  # in the page that the server sends: no script has to run before it is seen
    page.locator(".theme summary").click()
    with page.expect_navigation():
        page.locator(".theme button[value='']").click()
    assert page.locator("html:not([data-theme])").count()
    assert page.evaluate(ground) == light
    page.emulate_media(color_scheme="dark")
    assert page.evaluate(ground) == dark
