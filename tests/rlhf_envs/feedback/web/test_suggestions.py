"""What a model suggests reaches the page with the receipt of the person's own answer, and never before."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest

from rlhf_envs.feedback import FeedbackStore, NewItem

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:starlette")


@pytest.mark.parametrize("setting", ["off", "after"])
def test_the_page_tells_a_suggestion_after_the_answer_only(
    open_page: Callable[..., Any], store: FeedbackStore, setting: str
) -> None:
    from playwright.sync_api import expect

    ids = store.add_items([NewItem("pairwise", f"film {k}", ("good", "bad")) for k in range(3)])
    store.suggest({i: {"choice": 1, "strength": 2} for i in ids}, source="secret-judge", version="1")
    store.update_settings(suggestions=setting)
    page = open_page()
    bodies: list[tuple[str, str]] = []
    page.on("response", lambda answer: bodies.append((answer.url, answer.text())) if "/api/" in answer.url else None)
    expect(page.locator("#prompt")).to_have_text("film 0")
    assert "secret-judge" not in page.content()
    page.keyboard.press("1")
    expect(page.locator("#prompt")).to_have_text("film 1")
    notice = page.locator("#notice")
    if setting == "off":
        assert "secret-judge" not in notice.inner_text()
        assert not any("secret-judge" in body for _, body in bodies)
    else:
        [judgement] = store.judgements()
        same = judgement.value is not None and judgement.value["choice"] == 1
        side = "AB"[list(judgement.sides).index(1)]
        says = "says the same" if same else "would say"
        expect(notice).to_contain_text(f"secret-judge {says}: {side} is better.")
        assert all("secret-judge" not in body for url, body in bodies if not url.endswith("/judgement"))
        page.keyboard.press("u")
        expect(page.locator("#prompt")).to_have_text("film 0")
        page.keyboard.press("1")
        expect(page.locator("#prompt")).to_have_text("film 1")
        assert [own.id for own in store.unswayed_judgements()] == [judgement.id]


def test_the_admin_sees_how_far_people_agree_and_who_is_suspected(
    sign_in: Callable[..., Any], store: FeedbackStore
) -> None:
    ids = store.add_items([NewItem("pairwise", f"film {k}", ("good", "bad"), overlap=6) for k in range(30)])
    store.suggest({i: {"choice": 0, "strength": 2} for i in ids}, source="judge", version="abc")
    draw = random.Random(0)
    for name in ("click", "left", "a", "b", "c", "d"):
        store.add_annotator(name)
        while (task := store.claim(name)) is not None:
            choice = {"click": draw.randrange(2), "left": task.sides[0]}.get(name, 0)
            store.submit(task.id, name, {"choice": choice, "strength": 2}, key=f"{name}-{task.id}")
    text = sign_in("root", "admin").get("/admin").text
    assert "click seems to click at random" in text
    assert "left seems to choose by the side" in text
    assert text.count("seems to") == 2
    assert 'judge <span class="soft">abc</span>' in text
