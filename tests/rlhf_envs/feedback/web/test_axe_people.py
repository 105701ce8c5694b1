"""axe-core on the pages around the work, which only who walks through them sees: both themes, a desk and a phone."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

from rlhf_envs.feedback import FeedbackStore, NewItem
from tests.rlhf_envs.feedback.web.axe import DESKTOP, PHONE, THEMES, load_axe, violations

MARKDOWN = "# Title\n\nText with **bold** and `code`.\n\n| a | b |\n|---|---|\n| 1 | 2 |\n\n## Part\n\n- x\n- y\n"


def wrong_on(page: Any, where: str) -> list[str]:
    """Return what axe-core finds wrong on a page, in each theme and size; it must fit on the phone too."""
    load_axe(page)
    wrong = []
    for theme, size in itertools.product(THEMES, (DESKTOP, PHONE)):
        page.emulate_media(color_scheme=theme, reduced_motion="reduce")
        page.set_viewport_size(size)
        wrong += [f"{where}: {theme}, {size['width']}: {found}" for found in violations(page)]
        if page.evaluate("document.documentElement.scrollWidth") > size["width"]:
            wrong.append(f"{where} is wider than {size['width']}")
    page.set_viewport_size(DESKTOP)
    return wrong


def test_axe_finds_nothing_from_the_panels_link_to_the_end(open_page: Callable[..., Any], store: FeedbackStore) -> None:
    meta = {"explanation": MARKDOWN}
    store.add_items([NewItem("thumbs", "p", ("c",), gold={"up": True}, meta=meta) for _ in range(2)])
    store.update_settings(
        consent={"text": MARKDOWN},
        guidelines=MARKDOWN,
        training={"n_items": 1, "tries": 2},
        panel={
            "person": "PID",
            "screening": [{"text": "Do you?", "options": ["Yes", "No"], "accept": ["Yes"]}],
            "screen_out_code": "C0DE",
            "screen_out_url": "https://panel.example/out",
        },
        break_minutes=1.0,
    )
    page = open_page("/panel?PID=1", name="")
    page.wait_for_selector("article[aria-busy=false]")
    wrong = wrong_on(page, "consent")
    page.get_by_role("button", name="I agree").click()
    page.wait_for_selector("fieldset")
    wrong += wrong_on(page, "screening")
    page.get_by_label("Yes").check()
    page.get_by_role("button", name="Next").click()
    page.wait_for_selector("article[aria-busy=false]")
    wrong += wrong_on(page, "guidelines")
    page.get_by_role("button", name="I have read").click()
    for attempt in (1, 2):
        page.wait_for_selector("body[data-kind=thumbs] #task[aria-busy=false]")
        if attempt == 2:
            page.evaluate("sessionStorage.setItem('rlhf-began', '1')")
        page.keyboard.press("2")
        page.wait_for_selector("#training-result")
        wrong += wrong_on(page, f"training {attempt}")
        page.keyboard.press("Enter")
    page.wait_for_url("**/finished")
    wrong += wrong_on(page, "finished")
    page.get_by_role("link", name="My data").click()
    page.wait_for_selector("dl")
    wrong += wrong_on(page, "my data")
    page.get_by_label("I want to withdraw").check()
    page.get_by_role("button", name="Withdraw").click()
    page.wait_for_selector("text=You have withdrawn")
    wrong += wrong_on(page, "withdrawn")
    assert wrong == []


def test_axe_finds_nothing_where_people_wait_and_are_watched(
    open_page: Callable[..., Any], store: FeedbackStore
) -> None:
    store.add_items([NewItem("thumbs", "p", ("c",), gold={"up": True}, meta={"explanation": "e"})])
    store.update_settings(training={"n_items": 1, "tries": 1}, panel={"person": "PID"})
    page = open_page()
    page.wait_for_selector("body[data-kind=thumbs] #task[aria-busy=false]")
    page.keyboard.press("s")
    page.wait_for_selector("#training-result")
    page.keyboard.press("Enter")
    page.wait_for_url("**/held")
    wrong = wrong_on(page, "held")
    admin = open_page("/admin/participation", "root", "admin")
    wrong += wrong_on(admin, "participation")
    admin.get_by_role("button", name="Withdraw ada").click()
    admin.wait_for_selector("text=Withdraw ada?")
    wrong += wrong_on(admin, "withdrawing somebody")
    assert wrong == []
