"""axe-core on the pages around the work, which only who walks through them sees: both themes, a desk and a phone."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rlhf_envs.feedback import FeedbackStore, NewItem

package = pytest.importorskip("axe_playwright_python", reason="axe-core is missing: pip install axe-playwright-python")
AXE = (Path(package.__file__).parent / "axe.min.js").read_text(encoding="utf-8")
MARKDOWN = "# Title\n\nText with **bold** and `code`.\n\n| a | b |\n|---|---|\n| 1 | 2 |\n\n## Part\n\n- x\n- y\n"
SIZES = ({"width": 1280, "height": 800}, {"width": 390, "height": 844})


def violations(page: Any, where: str) -> list[str]:
    """Return what axe-core finds wrong on a page, in each theme and size; it must fit on the phone too."""
    page.evaluate(AXE)
    wrong = []
    for theme, size in itertools.product(("light", "dark"), SIZES):
        page.emulate_media(color_scheme=theme, reduced_motion="reduce")
        page.set_viewport_size(size)
        found = page.evaluate("axe.run()")
        assert len(found["passes"]) > 5, "axe has looked at something"
        for rule in found["violations"]:
            wrong += [f"{where}: {rule['id']}, {theme}, {size['width']}: {n['html'][:200]}" for n in rule["nodes"]]
        if page.evaluate("document.documentElement.scrollWidth") > size["width"]:
            wrong.append(f"{where} is wider than {size['width']}")
    page.set_viewport_size(SIZES[0])
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
    wrong = violations(page, "consent")
    page.get_by_role("button", name="I agree").click()
    page.wait_for_selector("fieldset")
    wrong += violations(page, "screening")
    page.get_by_label("Yes").check()
    page.get_by_role("button", name="Next").click()
    page.wait_for_selector("article[aria-busy=false]")
    wrong += violations(page, "guidelines")
    page.get_by_role("button", name="I have read").click()
    for attempt in (1, 2):
        page.wait_for_selector("body[data-kind=thumbs] #task[aria-busy=false]")
        if attempt == 2:
            page.evaluate("sessionStorage.setItem('rlhf-began', '1')")
        page.keyboard.press("2")
        page.wait_for_selector("#training-result")
        wrong += violations(page, f"training {attempt}")
        page.keyboard.press("Enter")
    page.wait_for_url("**/finished")
    wrong += violations(page, "finished")
    page.get_by_role("link", name="My data").click()
    page.wait_for_selector("dl")
    wrong += violations(page, "my data")
    page.get_by_label("I want to withdraw").check()
    page.get_by_role("button", name="Withdraw").click()
    page.wait_for_selector("text=You have withdrawn")
    wrong += violations(page, "withdrawn")
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
    wrong = violations(page, "held")
    admin = open_page("/admin/participation", "root", "admin")
    wrong += violations(admin, "participation")
    admin.get_by_role("button", name="Withdraw ada").click()
    admin.wait_for_selector("text=Withdraw ada?")
    wrong += violations(admin, "withdrawing somebody")
    assert wrong == []
