"""Consent, guidelines, training, panels, breaks and withdrawal, as people meet them in the browser."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

import pytest
from fastapi.testclient import TestClient

from rlhf_envs.feedback import FeedbackStore, NewItem
from rlhf_envs.feedback.store.documents import list_readings
from rlhf_envs.feedback.store.panels import list_panelists
from rlhf_envs.feedback.store.training import list_trainees
from rlhf_envs.feedback.store.withdrawing import list_withdrawals

from .pages import OpenPage, ready

HOSTILE = (
    "# Title\n\n<script>alert(1)</script><img src=x onerror=alert(1)> **bold** `code`\n\n"
    "[link](javascript:alert(1)) ![pic](http://elsewhere.example/x.png) \u202eevil\u202c \ud800\n\n"
    "| a | b |\n|---|---|\n| 1 | 2 |\n"
)
QUESTION = {"text": "Do you read German?", "options": ["Yes", "No"], "accept": ["Yes"]}
PROLIFIC = {"person": "PROLIFIC_PID", "parameters": ["STUDY_ID", "SESSION_ID"], "completion_code": "C0DE"}
LINK = "/panel?PROLIFIC_PID=5f0c&STUDY_ID=s1&SESSION_ID=x1"


def thumbs(n: int) -> list[NewItem]:
    return [NewItem("thumbs", f"prompt {i}", (f"text {i}",)) for i in range(n)]


def explained(n: int) -> list[NewItem]:
    meta = {"explanation": "It is **polite**."}
    return [NewItem("pairwise", f"gold {i}", ("a", "b"), gold={"choice": 1}, meta=meta) for i in range(n)]


def test_first_sign_in_by_keyboard_consent_guidelines_training_work(open_page: OpenPage, store: FeedbackStore) -> None:
    store.add_items([*explained(2), *thumbs(1)])
    store.update_settings(
        consent={"text": "You may *withdraw* at any time."},
        guidelines="# How to judge\n\nBe **fair**.",
        training={"n_items": 2, "pass_mark": 0.5},
    )
    page = open_page()
    page.wait_for_selector("article[aria-busy=false] em:has-text('withdraw')")
    page.get_by_role("button", name="I agree").press("Enter")
    page.wait_for_selector("article[aria-busy=false] strong:has-text('fair')")
    assert page.locator("article h2").inner_text() == "How to judge"
    page.get_by_role("button", name="I have read the guidelines").press("Enter")
    ready(page, "pairwise")
    assert page.inner_text("#count") == "Training: 0 of 2"
    page.keyboard.press("1")  # wrong
    page.wait_for_selector("#training-result[data-right=false]")
    words = page.inner_text("#training-result")
    assert "Not quite" in words
    assert "Expected: B is better" in words
    assert "It is polite." in words
    assert page.locator("#training-result strong").inner_text() == "polite"
    page.keyboard.press("Enter")
    page.wait_for_selector("#count:has-text('Training: 1 of 2')")
    ready(page, "pairwise")
    assert page.locator("#panels .text").all_inner_texts() == ["a", "b"]  # in the order of which explanations speak
    page.keyboard.press("7")
    page.wait_for_selector("#training-result[data-right=true] .outcome:has-text('passed')")
    page.keyboard.press("Enter")
    ready(page, "thumbs")
    assert page.inner_text("#count") == "0 by you · 1 left"
    page.keyboard.press("1")
    page.wait_for_selector("#count:has-text('1 by you · 0 left')")
    assert [judgement.value for judgement in store.judgements()] == [{"up": True}]
    assert [reading.name for reading in list_readings(store)] == ["consent", "guidelines"]


def test_the_training_asks_own_questions_and_tells_their_right_answers(
    open_page: OpenPage, store: FeedbackStore
) -> None:
    each = {"name": "helpful", "text": "How helpful is each?", "type": "rating", "each": True}
    harm = {"name": "harm", "text": "Is one harmful?", "type": "labels", "labels": ["yes", "no"]}
    store.update_settings(questions=[each, harm], training={"n_items": 1, "tries": 2})
    gold = {"choice": 1, "answers": {"helpful": [2, 5], "harm": "no"}}
    meta = {"explanation": "It is **polite**."}
    store.add_items([NewItem("pairwise", "gold", ("a", "b"), gold=gold, meta=meta), *thumbs(1)])
    page = open_page()
    ready(page, "pairwise")
    for key in ("7", "2", "5", "1", "Enter"):  # all right but for the harm
        page.keyboard.press(key)
    page.wait_for_selector("#training-result[data-right=false]")
    assert page.locator("#training-result .expected li").all_inner_texts() == ["helpful: A 2, B 5", "harm: no"]
    page.keyboard.press("Enter")
    page.wait_for_selector("#training-result", state="detached")
    ready(page, "pairwise")
    for key in ("7", "2", "5", "2", "Enter"):
        page.keyboard.press(key)
    page.wait_for_selector("#training-result[data-right=true] .outcome:has-text('passed')")


def test_changed_guidelines_are_shown_before_the_next_item(open_page: OpenPage, store: FeedbackStore) -> None:
    store.add_items(thumbs(3))
    page = open_page()
    ready(page, "thumbs")
    store.update_settings(guidelines="New rules.")
    page.fill("#comment", "half a thought")
    page.locator("#comment").blur()
    page.keyboard.press("1")
    page.wait_for_url("**/guidelines")
    assert [judgement.comment for judgement in store.judgements()] == ["half a thought"]
    assert "Please read the guidelines" in page.inner_text("main")
    page.wait_for_selector("article[aria-busy=false]")
    store.update_settings(guidelines="Newer rules.")  # while they are being read
    page.get_by_role("button", name="I have read").click()
    page.wait_for_selector("text=has changed just now")
    page.wait_for_selector("article:has-text('Newer rules.')")
    page.get_by_role("button", name="I have read").click()
    ready(page, "thumbs")
    page.keyboard.press("g")
    page.wait_for_selector("#guidelines-text:has-text('Newer rules.')")


def test_hostile_guidelines_are_inert(open_page: OpenPage, store: FeedbackStore) -> None:
    store.add_items(thumbs(1))
    store.update_settings(guidelines=HOSTILE)
    page = open_page()
    page.wait_for_selector("article[aria-busy=false]")
    assert page.locator("article :is(script, img, a, iframe)").count() == 0
    text = page.inner_text("article")
    for piece in ("<script>alert(1)</script>", "javascript:alert(1)", "http://elsewhere.example/x.png", "[U+202E]"):
        assert piece in text
    assert "[U+D800]" in text
    assert page.locator("article :is(h2, strong, code, table td)").count() == 5
    page.get_by_role("button", name="I have read").click()  # and its digest, with a lone surrogate, is the same
    ready(page, "thumbs")


def test_who_does_not_agree_is_signed_out_and_may_come_back(open_page: OpenPage, store: FeedbackStore) -> None:
    store.update_settings(consent={"text": "Agree?"})
    page = open_page()
    page.get_by_role("button", name="I do not agree").click()
    page.wait_for_selector("text=You are not taking part")
    assert list_readings(store) == []
    page.goto(page.url.replace("/consent", "/annotate"))
    page.wait_for_url("**/login")


def test_failed_training_is_told_kindly_and_an_admin_lets_in(open_page: OpenPage, store: FeedbackStore) -> None:
    store.add_items([*explained(1), *thumbs(1)])
    store.update_settings(training={"n_items": 1, "tries": 1})
    page = open_page()
    ready(page, "pairwise")
    page.keyboard.press("u")
    page.wait_for_selector("#notice:has-text('nothing to take back')")
    page.keyboard.press("s")
    page.wait_for_selector("#training-result .outcome")
    page.keyboard.press("Enter")
    page.wait_for_url("**/held")
    assert "0 of 1 answers were right, and 1 are needed" in page.inner_text("main")
    admin = open_page("/admin/participation", "root", "admin")
    assert "held" in admin.inner_text("tr:has-text('ada')")
    admin.get_by_role("button", name="Let ada in").click()
    admin.wait_for_selector("tr:has-text('ada'):has-text('let on')")
    page.reload()
    ready(page, "thumbs")


def test_training_answer_survives_a_lost_reply(
    open_page: OpenPage, intercept: Callable[..., None], store: FeedbackStore
) -> None:
    store.add_items(explained(2))
    store.update_settings(training={"n_items": 2})
    page = open_page()
    ready(page, "pairwise")
    tries: list[str] = []

    def lose_first(route: Any) -> None:
        tries.append(route.request.url)
        if len(tries) == 1:
            route.fetch()
            route.abort("connectionreset")
        else:
            route.continue_()

    intercept(page, "**/api/training/**", lose_first)
    page.keyboard.press("4")
    page.wait_for_selector("#training-result")
    assert len(tries) == 2
    assert list_trainees(store)[0].done == 1


def test_a_key_pressed_while_the_next_item_is_on_its_way_answers_nothing(
    open_page: OpenPage, store: FeedbackStore
) -> None:
    explained = {"explanation": "It is short."}
    store.add_items([NewItem("thumbs", "p", ("a",), gold={"up": True}, meta=explained) for _ in range(2)])
    store.update_settings(training={"n_items": 2, "tries": 1})
    page = open_page()
    ready(page, "thumbs")
    page.keyboard.press("1")
    page.wait_for_selector("#training-result")
    page.evaluate(
        """() => {
          document.querySelector("#training-result").close();
          document.body.dispatchEvent(new KeyboardEvent("keydown", { key: "1", code: "Digit1", bubbles: true }));
        }"""
    )
    page.wait_for_selector("#count:has-text('Training: 1 of 2')")
    ready(page, "thumbs")
    sent = "performance.getEntriesByType('resource').filter((one) => one.name.includes('/api/training/')).length"
    assert page.evaluate(sent) == 1
    assert page.locator("#training-result").count() == 0


# ---- breaks


def test_a_break_is_suggested_and_holds_nobody_up(open_page: OpenPage, store: FeedbackStore) -> None:
    store.add_items(thumbs(4))
    store.update_settings(break_minutes=45.0)
    page = open_page()
    ready(page, "thumbs")
    page.keyboard.press("1")
    page.wait_for_selector("#count:has-text('1 by you')")
    assert page.locator("#break").is_hidden()
    minute = 60_000
    page.evaluate(f"sessionStorage.setItem('rlhf-began', String(Date.now() - {46 * minute}))")
    page.evaluate("sessionStorage.setItem('rlhf-last', String(Date.now()))")
    page.reload()
    ready(page, "thumbs")
    assert "46 minutes" in page.inner_text("#break")
    page.keyboard.press("2")
    page.wait_for_selector("#count:has-text('2 by you')")
    page.locator("#break-close").click()
    page.keyboard.press("1")
    page.wait_for_selector("#count:has-text('3 by you')")
    assert page.locator("#break").is_hidden()  # the next is suggested as much later


def test_pace_is_shown(open_page: OpenPage, store: FeedbackStore) -> None:
    store.add_items(thumbs(3))
    page = open_page()
    ready(page, "thumbs")
    assert page.inner_text("#pace") == ""
    task = store.claim("ada")
    assert task is not None
    store.submit(task.id, "ada", {"up": True}, key="k", seconds=12)
    page.reload()
    ready(page, "thumbs")
    assert page.inner_text("#pace") == "12 s each · 300 an hour"


# ---- panels


def test_from_the_panels_link_to_its_code(open_page: OpenPage, store: FeedbackStore, address: str) -> None:
    store.add_items(thumbs(3))
    store.update_settings(panel={**PROLIFIC, "screening": [QUESTION], "max_items": 2}, consent={"text": "Agree?"})
    page = open_page(LINK, name="")
    page.wait_for_url("**/consent")  # and no identifier stands in the address bar
    page.get_by_role("button", name="I agree").click()
    page.get_by_label("Yes").check()
    page.get_by_role("button", name="Next").click()
    ready(page, "thumbs")
    assert page.inner_text("#count") == "0 by you · 2 left"
    page.keyboard.press("1")
    page.wait_for_selector("#count:has-text('1 by you')")
    page.goto(address + LINK)  # the same link again goes on
    ready(page, "thumbs")
    page.keyboard.press("2")
    page.wait_for_url("**/finished")
    assert page.input_value("input.link") == "C0DE"
    (person,) = list_panelists(store)
    assert person.state == "completed"
    assert {judgement.annotator for judgement in store.judgements()} == {person.annotator}
    page.goto(address + LINK)
    page.wait_for_url("**/finished")


def test_a_panels_link_in_two_browsers_at_once(open_page: OpenPage, store: FeedbackStore) -> None:
    store.add_items([NewItem("correction", "p", ("one",)), NewItem("correction", "p", ("two",))])
    store.update_settings(panel=PROLIFIC)
    first, second = open_page(LINK, name=""), open_page(LINK, name="")
    for page in (first, second):
        ready(page, "correction")
        assert page.input_value("#editor") == "one"
        page.fill("#editor", "mine")
    first.keyboard.press("Control+Enter")
    first.wait_for_selector("#count:has-text('1 by you')")
    second.keyboard.press("Control+Enter")
    second.wait_for_selector("#trouble:has-text('answered in another window')")
    assert second.input_value("#editor") == "mine"
    assert len(store.judgements()) == 1
    second.locator("#editor").blur()
    second.keyboard.press("n")
    ready(second, "correction")
    assert second.input_value("#editor") == "two"
    assert len(list_panelists(store)) == 1


def test_who_is_screened_out_goes_back_with_another_code(open_page: OpenPage, store: FeedbackStore) -> None:
    back = "https://panel.example/out?pid={PROLIFIC_PID}"
    store.update_settings(panel={**PROLIFIC, "screening": [QUESTION], "screen_out_url": back})
    page = open_page(LINK, name="")
    page.get_by_label("No").check()
    page.get_by_role("button", name="Next").click()
    page.wait_for_url("**/finished")
    link = page.get_by_role("link", name="Go back to the panel")
    assert link.get_attribute("href") == "https://panel.example/out?pid=5f0c"
    assert "C0DE" not in page.inner_text("main")


def test_who_finds_nothing_left_may_finish(open_page: OpenPage, store: FeedbackStore) -> None:
    store.add_items(thumbs(1))
    store.update_settings(panel=PROLIFIC)
    page = open_page(LINK, name="")
    ready(page, "thumbs")
    page.keyboard.press("1")
    ready(page, "none")
    page.get_by_role("link", name="Finish").click()
    page.wait_for_url("**/finished")
    late = open_page(LINK.replace("5f0c", "late"), name="")
    ready(late, "none")
    late.get_by_role("link", name="Finish").click()
    late.wait_for_selector("text=Others have answered all items")
    assert [person.state for person in list_panelists(store)] == ["completed", "full"]


@pytest.mark.parametrize(
    ("link", "status", "words"),
    [
        ("/panel?PROLIFIC_PID=a&STUDY_ID=b", 422, "the link needs SESSION_ID"),
        ("/panel", 422, "the link needs PROLIFIC_PID"),
    ],
)
def test_a_bad_link_says_what_it_lacks(
    visitor: Callable[[], TestClient], store: FeedbackStore, link: str, status: int, words: str
) -> None:
    client = visitor()
    assert client.get(LINK).status_code == 404  # no panel yet
    store.update_settings(panel=PROLIFIC)
    answer = client.get(link)
    assert answer.status_code == status
    assert words in answer.text
    assert client.get("/annotate").headers["location"] == "/login"


def test_a_flood_of_links_from_one_address_is_stopped(visitor: Callable[[], TestClient], store: FeedbackStore) -> None:
    store.update_settings(panel=PROLIFIC)
    client = visitor()
    statuses = [client.get(LINK.replace("5f0c", str(i))).status_code for i in range(65)]
    assert statuses.count(303) == 60
    assert statuses[-1] == 429


# ---- my data


def test_my_data_shows_downloads_and_withdraws(open_page: OpenPage, store: FeedbackStore) -> None:
    store.add_items(thumbs(2))
    store.update_settings(consent={"text": "You may withdraw."})
    page = open_page()
    page.get_by_role("button", name="I agree").click()
    ready(page, "thumbs")
    page.keyboard.press("1")
    page.wait_for_selector("#count:has-text('1 by you')")
    page.get_by_role("link", name="My data").click()
    page.wait_for_url("**/me")
    assert "Consent, Version 1" in page.inner_text("dl")
    with page.expect_download() as download:
        page.get_by_role("link", name="Download my answers").click()
    held = json.loads(download.value.path().read_text())
    assert [answer["value"] for answer in held["answers"]] == [{"up": True}]
    page.get_by_role("button", name="Withdraw").click()
    page.wait_for_selector("text=Nothing has happened")
    assert len(store.judgements()) == 1
    page.get_by_label("I want to withdraw").check()
    page.get_by_role("button", name="Withdraw").click()
    page.wait_for_selector("text=You have withdrawn")
    assert store.judgements() == []
    (withdrawal,) = list_withdrawals(store)
    assert (withdrawal.annotator, withdrawal.by, withdrawal.judgements) == ("ada", "ada", 1)


def test_a_person_withdrawn_while_at_work_is_signed_out_and_the_item_goes_to_others(
    open_page: OpenPage, store: FeedbackStore
) -> None:
    store.add_items(thumbs(1))
    page = open_page()
    ready(page, "thumbs")
    admin = open_page("/admin/participation", "root", "admin")
    admin.get_by_role("button", name="Withdraw ada").click()
    admin.get_by_role("alertdialog").get_by_role("button", name="Withdraw ada").click()
    admin.wait_for_selector("text=ada has withdrawn")
    page.keyboard.press("1")
    page.wait_for_selector("#trouble:has-text('You are signed out')")
    assert store.judgements() == []
    task = store.claim("root")
    assert task is not None
    assert list_withdrawals(store)[0].by == "root"


def test_only_ones_own_answers_are_downloaded(sign_in: Callable[..., TestClient], store: FeedbackStore) -> None:
    store.add_items([NewItem("thumbs", "p", ("c",), overlap=2, gold={"up": False})])
    ada, ben = sign_in("ada"), sign_in("ben")
    for client in (ada, ben):
        task = client.post("/api/claim").json()["task"]
        client.post(f"/api/tasks/{task['id']}/judgement", json={"value": {"up": True}, "key": f"key-{task['id']:09}"})
    held = ada.get("/me/answers.json")
    assert len(held.json()["answers"]) == 1
    assert "gold" not in held.text
    assert "ben" not in held.text


def test_the_only_admin_cannot_withdraw(sign_in: Callable[..., TestClient], store: FeedbackStore) -> None:
    root = sign_in("root", "admin")
    csrf = re.search(r'name="csrf" content="([^"]+)"', root.get("/me").text)
    assert csrf is not None
    answer = root.post("/me/withdraw", data={"csrf": csrf[1], "confirm": "yes"})
    assert answer.status_code == 422
    assert "only admin" in answer.text
    assert root.post("/me/withdraw", data={"confirm": "yes"}).status_code == 403


@pytest.mark.parametrize("path", ["/admin/participation", "/admin/participation/panel.csv"])
def test_annotators_see_nothing_of_others(sign_in: Callable[..., TestClient], path: str) -> None:
    assert sign_in("ada").get(path).status_code == 403


def test_panel_table_tells_the_admin_who_is_who(sign_in: Callable[..., TestClient], store: FeedbackStore) -> None:
    store.update_settings(panel=PROLIFIC)
    admin, guest = sign_in("root", "admin"), sign_in("ada")
    assert guest.get(LINK).status_code == 303
    head, row = admin.get("/admin/participation/panel.csv").text.split("\r\n")[:2]
    assert head == "annotator,PROLIFIC_PID,STUDY_ID,SESSION_ID,state,answers,median_seconds,began,ended"
    assert row.split(",")[1:6] == ["5f0c", "s1", "x1", "active", "0"]
    assert "/panel?PROLIFIC_PID={{%PROLIFIC_PID%}}" in admin.get("/admin/participation").text


def test_programs_read_documents_by_the_api(sign_in: Callable[..., TestClient], store: FeedbackStore) -> None:
    client = sign_in("ada")
    assert client.get("/api/documents/consent").status_code == 404
    store.update_settings(consent={"text": "Agree?"})
    assert client.post("/api/claim").json()["step"] == "consent"
    assert client.post("/api/documents/consent", json={"digest": "0" * 64}).status_code == 409
    found = client.get("/api/documents/consent").json()
    assert found["nodes"] == [["p", {}, "Agree?"]]
    assert client.post("/api/documents/consent", json={"digest": found["digest"]}).status_code == 204
    assert client.post("/api/claim").json()["step"] == "work"


# ---- two tabs, a lost network


def test_two_tabs_answer_an_item_once(open_page: OpenPage, store: FeedbackStore) -> None:
    store.add_items(thumbs(2))
    page = open_page()
    ready(page, "thumbs")
    other = page.context.new_page()
    other.goto(page.url)
    ready(other, "thumbs")
    page.keyboard.press("1")
    page.wait_for_selector("#count:has-text('1 by you')")
    other.keyboard.press("2")
    other.wait_for_selector("#trouble:has-text('answered in another window')")
    other.keyboard.press("n")
    ready(other, "thumbs")
    other.keyboard.press("2")
    other.wait_for_selector("#count:has-text('2 by you')")
    assert [judgement.value for judgement in store.judgements()] == [{"up": True}, {"up": False}]


def test_network_lost_in_the_middle_of_a_correction(open_page: OpenPage, store: FeedbackStore) -> None:
    store.add_items([NewItem("correction", "p", ("text",)), *thumbs(1)])
    page = open_page()
    ready(page, "correction")
    page.fill("#editor", "half of my ver")
    page.context.set_offline(True)
    page.fill("#editor", "half of my version, and the rest")
    page.keyboard.press("Control+Enter")
    page.wait_for_selector("#notice:has-text('Trying again: no connection')")
    assert page.input_value("#editor") == "half of my version, and the rest"
    page.context.set_offline(False)
    ready(page, "thumbs")
    assert [judgement.value for judgement in store.judgements()] == [{"text": "half of my version, and the rest"}]


def test_network_lost_and_the_tab_closed_keeps_the_correction(open_page: OpenPage, store: FeedbackStore) -> None:
    store.add_items([NewItem("correction", "p", ("text",))])
    page = open_page()
    ready(page, "correction")
    page.context.set_offline(True)
    page.fill("#editor", "typed without a network")
    page.keyboard.press("Control+Enter")
    page.wait_for_selector("#notice:has-text('Trying again')")
    address = page.url
    again = page.context.new_page()
    page.close()
    again.context.set_offline(False)
    again.goto(address)
    ready(again, "correction")
    assert again.input_value("#editor") == "typed without a network"
    again.keyboard.press("Control+Enter")
    ready(again, "none")
    assert len(store.judgements()) == 1
