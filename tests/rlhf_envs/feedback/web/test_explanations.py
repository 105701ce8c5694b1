"""What a reward model's scores rest on: on the page when it is asked for, by mouse or key, and at no other time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from rlhf_envs.feedback import FeedbackStore, NewItem
from rlhf_envs.feedback.records import Explained

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:starlette")

TEXTS = ("A \U0001f600 good film.", "A bad film.")
SHOWN = Explained((1.5, -0.25), (((4, 8, 1.391727), (9, 13, 0.1)), ((2, 5, -0.75),)), {"choice": 0, "strength": 1})


def fill(store: FeedbackStore, setting: str) -> None:
    ids = store.add_items([NewItem("pairwise", f"film {k}", TEXTS) for k in range(3)])
    store.explain({i: SHOWN for i in ids[:2]}, source="secret-reward", version="1", method="leave_one_out")
    store.update_settings(explanations=setting)


def test_before_the_answer_it_is_behind_a_button_and_looking_is_kept(
    open_page: Callable[..., Any], store: FeedbackStore
) -> None:
    from playwright.sync_api import expect

    fill(store, "before")
    page = open_page()
    expect(page.locator("#prompt")).to_have_text("film 0")
    button = page.locator("#open-explanation")
    expect(button).to_contain_text("Model's view")
    assert "secret-reward" not in page.content()
    page.keyboard.press("Shift+X")
    dialog = page.locator("#explanation")
    expect(dialog.locator("h2")).to_have_text("How secret-reward scores")
    said = {mark.inner_text(): mark.get_attribute("class") for mark in dialog.locator("mark").all()}
    assert said == {"good": "raises", "film": "raises", "bad": "lowers"}, "offsets are characters, past an emoji too"
    assert dialog.locator("mark", has_text="good").get_attribute("data-strength") == "3"  # 3 * 1.391727 / 1.391727 > 3
    expect(dialog.get_by_text("Raised it most: good (+1.392), film (+0.1).")).to_be_visible()
    expect(dialog.get_by_text("Lowered it most: bad (\u22120.75).")).to_be_visible()
    page.keyboard.press("2")  # no answer while it is open
    page.keyboard.press("Escape")
    expect(dialog).to_have_count(0)
    page.keyboard.press("1")
    expect(page.locator("#prompt")).to_have_text("film 1")
    page.keyboard.press("1")
    expect(page.locator("#prompt")).to_have_text("film 2")
    expect(button).to_be_hidden()
    page.keyboard.press("Shift+X")
    page.keyboard.press("1")
    expect(page.locator("#prompt")).to_be_hidden()
    assert [judgement.explained for judgement in store.judgements()] == ["seen", "offered", ""]


def test_after_the_answer_it_is_there_and_no_sooner(open_page: Callable[..., Any], store: FeedbackStore) -> None:
    from playwright.sync_api import expect

    fill(store, "after")
    page = open_page()
    bodies: list[str] = []
    page.on("response", lambda answer: bodies.append(answer.text()) if "/api/" in answer.url else None)
    expect(page.locator("#prompt")).to_have_text("film 0")
    button = page.locator("#open-explanation")
    expect(button).to_be_hidden()
    page.keyboard.press("1")
    expect(page.locator("#prompt")).to_have_text("film 1")
    expect(button).to_contain_text("Model's view of your last answer")
    assert not any("secret-reward" in body for body in bodies)
    button.click()
    expect(page.locator("#explanation h2")).to_have_text("How secret-reward scores")
    page.keyboard.press("Escape")
    page.keyboard.press("u")
    expect(page.locator("#prompt")).to_have_text("film 0")
    expect(button).to_be_hidden()
    page.keyboard.press("1")
    expect(page.locator("#prompt")).to_have_text("film 1")
    assert [judgement.explained for judgement in store.judgements()] == ["seen"]


def test_the_api_shows_it_to_nobody_else(sign_in: Callable[..., Any], store: FeedbackStore) -> None:
    fill(store, "before")
    ada, bob = sign_in("ada"), sign_in("bob")
    task = ada.post("/api/claim").json()["task"]
    assert task["explanation"] is True
    assert bob.post(f"/api/tasks/{task['id']}/explanation").status_code == 409
    found = ada.post(f"/api/tasks/{task['id']}/explanation").json()
    assert [one["index"] for one in found["completions"]] == [one["index"] for one in task["completions"]]
    assert (found["source"], found["method"]) == ("secret-reward", "leave_one_out")
    store.update_settings(explanations="off")
    answer = ada.post(f"/api/tasks/{task['id']}/explanation", headers={"Accept-Language": "zh"})
    assert (answer.status_code, answer.json()["detail"]) == (404, "此任务目前没有可显示的解释")


def test_the_admin_reads_the_warning_and_the_figures(sign_in: Callable[..., Any], store: FeedbackStore) -> None:
    fill(store, "off")
    store.explain({3: Explained((1.5, -0.25), None, {"choice": 0})}, source="secret-reward", version="1")
    root = sign_in("root", "admin")
    plain = root.get("/admin/study").text.replace("&#39;", "'").replace("\n# ", " ")
    assert "Seeing a model's view sways judges" in plain, "also while it is off"
    assert "shown before the answer" not in root.get("/admin/study").text
    store.update_settings(explanations="before")
    assert "explanations are shown before the answer" in root.get("/admin/study").text
    store.add_annotator("ann")
    for choice in (0, 0, 1):
        task = store.claim("ann")
        assert task is not None
        store.offer_explanation(task.id)
        store.submit(task.id, "ann", {"choice": choice, "strength": 1}, key=f"ann-{task.id}")
    text = root.get("/admin").text
    assert "Explanations of a reward model" in text and "offered, not opened" in text and "withheld by lot" in text
    assert "offered, less that where it was withheld by lot: +100 points" in text
