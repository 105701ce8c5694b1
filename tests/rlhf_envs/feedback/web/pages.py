"""What the tests of the annotation page do with it in headless Chromium."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

OpenPage = Callable[..., Any]
PHONE = {"width": 390, "height": 844}


def ready(page: Any, kind: str = "pairwise") -> None:
    """Wait until an item of the kind is shown, or "none"."""
    page.wait_for_selector(f"body[data-kind={kind}] #task[aria-busy=false]")


def press(page: Any, *keys: str) -> None:
    for key in keys:
        page.keyboard.press(key)


def until(page: Any, condition: str) -> None:
    """Wait until an expression is true. Playwright's own waiting evaluates texts, which the page's policy forbids."""
    for _ in range(200):
        if page.evaluate(condition):
            return
        page.wait_for_timeout(50)
    raise AssertionError(condition)
