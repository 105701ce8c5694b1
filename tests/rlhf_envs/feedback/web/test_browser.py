"""The annotation page in headless Chromium: keys, kinds, hostile text, lost leases, phones."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest

from rlhf_envs.feedback import FeedbackStore, Judgement, NewItem

from .pages import PHONE, OpenPage, press, ready

KINDS = {"pairwise": 2, "ranking": 3, "rating": 1, "thumbs": 1, "correction": 1, "flags": 1}


def sign_in(page: Any) -> None:
    """Type a name and a password by keyboard; the browser focuses the first field only some time after loading."""
    page.wait_for_selector("input[name=name]:focus")
    page.keyboard.type("Zoë")
    press(page, "Tab")
    page.keyboard.type("long enough")
    press(page, "Enter")


def test_every_kind_by_keyboard(open_page: OpenPage, store: FeedbackStore) -> None:
    texts = ("first", "second", "third")
    items = [NewItem(kind, "p", texts[:n], priority=-i) for i, (kind, n) in enumerate(KINDS.items())]
    store.add_items([*items, NewItem("thumbs", "p", ("last",), priority=-9)])
    page = open_page()
    keys = [("6",), ("3", "1", "Enter"), ("4",), ("2",), ("e", "Control+A", "b", "Control+Enter"), ("2", "1", "Enter")]
    for kind, pressed in zip(KINDS, keys, strict=True):
        ready(page, kind)
        press(page, *pressed)
    ready(page, "thumbs")
    press(page, "s")
    ready(page, "none")
    pairwise, ranking, rating, thumbs, correction, flags, skip = store.judgements(include_skips=True)
    assert pairwise.value == {"choice": pairwise.sides[1], "strength": 2}  # 6: the second shown is better
    assert ranking.value == {"order": [ranking.sides[place] for place in (2, 0, 1)]}
    assert rating.value == {"rating": 4}
    assert thumbs.value == {"up": False}
    assert correction.value == {"text": "b"}
    assert flags.value == {"harms": ["hate", "harassment"]}
    assert skip.value is None
    assert all(0 < judgement.seconds < 30 for judgement in (pairwise, skip))


PAIRWISE = {"1": (0, 3), "2": (0, 2), "3": (0, 1), "4": (None, 0), "5": (1, 1), "6": (1, 2), "7": (1, 3)}


def test_pairwise_buttons_and_keys_say_the_same(open_page: OpenPage, store: FeedbackStore) -> None:
    store.add_items([NewItem("pairwise", "p", ("a", "b")) for _ in range(2 * len(PAIRWISE))])
    page = open_page()
    ready(page, "pairwise")
    for i, key in enumerate([*PAIRWISE, *PAIRWISE]):
        if i < len(PAIRWISE):
            press(page, key)
        else:
            page.locator("#controls button", has=page.locator(f"kbd:text-is('{key}')")).click()
        page.wait_for_selector(f"#count:has-text('{i + 1} by you')")
        page.wait_for_selector("#task[aria-busy=false]")
    judgements = store.judgements()
    assert {tuple(judgement.sides) for judgement in judgements} == {(0, 1), (1, 0)}
    for judgement, (side, strength) in zip(judgements, 2 * list(PAIRWISE.values()), strict=True):
        choice = None if side is None else judgement.sides[side]
        assert judgement.value == {"choice": choice, "strength": strength}


def test_shown_keys_never_collide_and_never_act_while_typing(open_page: OpenPage, store: FeedbackStore) -> None:
    texts = ("first", "second", "third")
    store.add_items([NewItem(kind, "p", texts[:n], priority=-i) for i, (kind, n) in enumerate(KINDS.items())])
    page = open_page()
    for done, kind in enumerate(KINDS):
        ready(page, kind)
        shown = page.locator("kbd:visible").all_text_contents()
        assert len(shown) == len(set(shown)), shown
        press(page, "?")
        listed = page.locator("#keys-list kbd").all_text_contents()
        assert len(listed) == len(set(listed)), listed
        assert set(shown) - {"Ctrl Enter", "Esc"} <= set(listed)
        press(page, "1", "s", "u", "Escape", "c")  # an open dialog takes no answers
        page.keyboard.type("12345 sugcemn?")
        assert page.input_value("#comment") == "12345 sugcemn?"
        press(page, "Escape")
        assert len(store.judgements(include_skips=True)) == done
        press(page, "s")
    ready(page, "none")
    assert {judgement.comment for judgement in store.judgements(include_skips=True)} == {"12345 sugcemn?"}


def test_undo_brings_back_what_was_answered(open_page: OpenPage, store: FeedbackStore) -> None:
    store.add_items([NewItem("correction", "p", (f"text {i}",)) for i in range(2)])
    page = open_page()
    ready(page, "correction")
    page.fill("#editor", "my version")
    page.fill("#comment", "why")
    press(page, "Control+Enter")
    page.wait_for_selector("#count:has-text('1 by you')")
    page.wait_for_selector("#task[aria-busy=false]")
    press(page, "u")
    page.wait_for_selector("#count:has-text('0 by you')")
    assert page.input_value("#editor") == "my version"
    assert page.input_value("#comment") == "why"
    press(page, "u")
    page.wait_for_selector("#notice:has-text('nothing to take back')")
    assert store.judgements() == []


def test_double_click_is_one_judgement_an_item(
    open_page: OpenPage, intercept: Callable[..., None], store: FeedbackStore
) -> None:
    store.add_items([NewItem("thumbs", "p", (str(i),)) for i in range(2)])
    page = open_page()
    ready(page, "thumbs")
    intercept(page, "**/judgement", lambda route: (page.wait_for_timeout(200), route.continue_()))
    page.locator("button.good").dblclick()
    page.wait_for_selector("#count:has-text('1 by you')")
    page.wait_for_timeout(300)
    assert len(store.judgements()) == 1


def test_answer_is_sent_again_until_the_server_is_back(
    open_page: OpenPage, intercept: Callable[..., None], store: FeedbackStore
) -> None:
    store.add_items([NewItem("rating", "p", (str(i),)) for i in range(2)])
    page = open_page()
    ready(page, "rating")
    tries: list[Any] = []

    def fail_then_pass(route: Any) -> None:
        tries.append(route.request.post_data_json["key"])
        if len(tries) == 1:
            route.abort("connectionrefused")
        elif len(tries) == 2:
            route.fetch()  # the server stores it, and its answer is lost
            route.abort("connectionreset")
        else:
            route.continue_()

    intercept(page, "**/judgement", fail_then_pass)
    press(page, "5")
    page.wait_for_selector("#count:has-text('1 by you')")
    assert len(tries) == 3
    assert len(set(tries)) == 1
    assert [judgement.value for judgement in store.judgements()] == [{"rating": 5}]


def test_lost_lease_keeps_what_was_typed(open_page: OpenPage, store: FeedbackStore) -> None:
    (first,) = store.add_items([NewItem("correction", "p", ("text",))])
    page = open_page()
    ready(page, "correction")
    page.fill("#editor", "an hour of work")
    store.withdraw([first])  # whoever comes first to the last place has it
    store.add_items([NewItem("thumbs", "p", ("next",))])
    task = store.claim("ada")
    assert task is not None
    store.release(task.id, "ada")
    press(page, "Control+Enter")
    page.wait_for_selector("#trouble:visible")
    assert "still on this page" in page.inner_text("#trouble")
    assert page.input_value("#editor") == "an hour of work"
    assert store.judgements() == []
    page.locator("#editor").blur()
    press(page, "n")
    ready(page, "thumbs")


def test_reload_resumes_with_the_draft(open_page: OpenPage, store: FeedbackStore) -> None:
    store.add_items([NewItem("ranking", "p", ("a", "b", "c")), NewItem("ranking", "p", ("d", "e", "f"))])
    page = open_page()
    ready(page, "ranking")
    press(page, "2")
    page.fill("#comment", "half a thought")
    text = page.inner_text("#panels .panel:nth-child(2) .text")
    page.reload()
    ready(page, "ranking")
    assert page.input_value("#comment") == "half a thought"
    assert page.inner_text("#panels .panel[data-place='1'] .text") == text


def test_items_appear_and_pause_ends_by_themselves(open_page: OpenPage, store: FeedbackStore) -> None:
    store.update_settings(paused=True)
    page = open_page()
    page.wait_for_selector("#question:has-text('Paused')")
    store.add_items([NewItem("thumbs", "p", ("c",))])
    store.update_settings(paused=False)
    ready(page, "thumbs")


FAMILY = "\U0001f469\u200d\U0001f469\u200d\U0001f467"  # joiners and tags that belong to a picture are no marks
ENGLAND = "\U0001f3f4" + "".join(chr(0xE0000 + ord(letter)) for letter in "gbeng") + "\U000e007f"
HEART = "\u2764\ufe0f"
HOSTILE = (
    "<script>alert(1)</script><img src=x onerror=alert(1)><a href='javascript:alert(1)'>x</a>"
    "</div><style>body{display:none}</style>&lt;b&gt;\r\n"
    "\u202eexe.gpj\u202c zero\u200bwidth \u2066\u2069 nul\x00 esc\x1b[31m \ufeff\U000e0041 \ud800 "
    f"{FAMILY} {ENGLAND} {HEART} שלום \u200b\u200b\u200b\u200b"
)


def test_hostile_text_is_shown_and_inert(open_page: OpenPage, store: FeedbackStore) -> None:
    store.add_items([NewItem("pairwise", HOSTILE, (HOSTILE, HOSTILE))])
    page = open_page()
    ready(page, "pairwise")
    for place in ("#prompt", "#panels .panel:nth-child(1) .text"):
        inside = page.locator(f"{place} *")
        assert set(inside.evaluate_all("all => all.map(e => e.tagName + '.' + e.className)")) == {"SPAN.mark"}
        text = page.locator(place).text_content()
        assert "<script>alert(1)</script><img src=x onerror=alert(1)><a href='javascript:alert(1)'>x</a>" in text
        assert "</div><style>body{display:none}</style>&lt;b&gt;\n" in text
        for code in ("202E", "202C", "200B", "2066", "2069", "0000", "001B", "FEFF", "E0041", "D800"):
            assert f"[U+{code}]" in text
        assert f"{FAMILY} {ENGLAND} {HEART} שלום [U+200B ×4]" in text
        left = text.replace(FAMILY, "").replace(ENGLAND, "").replace(HEART, "")
        assert not set(left) & set("\u202e\u202c\u200b\u2066\u2069\x00\x1b\ufeff\U000e0041\u200d\r")


def test_completion_of_one_megabyte_is_shown_piece_by_piece(open_page: OpenPage, store: FeedbackStore) -> None:
    long = "word \u200b" * (2**20 // 6)
    store.add_items([NewItem("pairwise", "p", (long, ""))])
    page = open_page()
    ready(page, "pairwise")
    box = page.locator("#panels .text", has=page.locator(".more"))
    assert "20,000 of 1,048,572 characters" in box.inner_text()
    press(page, "m")
    assert "40,000 of 1,048,572 characters" in box.inner_text()
    assert page.locator("#panels .text", has_text="empty").count() == 1
    press(page, "4")
    ready(page, "none")
    assert store.judgements()[0].value == {"choice": None, "strength": 0}


def test_phone_shows_everything_without_sideways_scrolling(open_page: OpenPage, store: FeedbackStore) -> None:
    texts = ("word " * 80, "x" * 300, "שלום " * 40, "last")
    shapes = {**KINDS, "ranking": 4}
    items = [NewItem(kind, "p " * 40, texts[:n], priority=-i) for i, (kind, n) in enumerate(shapes.items())]
    store.add_items(items)
    page = open_page(viewport=PHONE, is_mobile=True, has_touch=True)
    for kind in KINDS:
        ready(page, kind)
        assert page.locator("html").evaluate("e => e.scrollWidth") <= PHONE["width"]
        boxes = [panel.bounding_box() for panel in page.locator("#panels .panel:visible").all()]
        assert len(boxes) == {"pairwise": 1, "ranking": 4, "correction": 2}.get(kind, 1)  # A and B are tabs
        assert all(above["y"] + above["height"] <= below["y"] for above, below in itertools.pairwise(boxes))
        for button in page.locator("#controls :is(button, label.choice)").all():
            box = button.bounding_box()
            assert box["height"] >= 40
            assert box["x"] >= 0
            assert box["x"] + box["width"] <= PHONE["width"]
        page.locator("#skip").tap()
    ready(page, "none")
    assert [judgement.value for judgement in store.judgements(include_skips=True)] == [None] * len(KINDS)


def test_nothing_moves_from_one_item_to_the_next(open_page: OpenPage, store: FeedbackStore) -> None:
    store.add_items(
        [NewItem("pairwise", "p", ("short", "short")), NewItem("pairwise", "p", ("long " * 2000, "\n" * 200))]
    )
    page = open_page()
    ready(page, "pairwise")
    places = [page.locator(where).bounding_box() for where in ("#panels", "#controls", "#skip")]
    press(page, "s")
    page.wait_for_selector("#count:has-text('1 by you')")
    ready(page, "pairwise")
    assert [page.locator(where).bounding_box() for where in ("#panels", "#controls", "#skip")] == places


def test_arrows_scroll_both_texts(open_page: OpenPage, store: FeedbackStore) -> None:
    store.add_items([NewItem("pairwise", "p", ("long " * 2000, "\n" * 200))])
    page = open_page()
    ready(page, "pairwise")
    texts = page.locator("#panels .text")
    for key, moved in (("ArrowDown", True), ("ArrowUp", False)):
        press(page, key)
        assert texts.evaluate_all("all => all.map(e => e.scrollTop > 0)") == [moved, moved]


@pytest.mark.parametrize(
    ("scale", "key", "rating"), [((1, 10), "0", 10), ((0, 9), "0", 0), ((0, 9), "9", 9), ((1, 12), "0", 10)]
)
def test_the_tenth_rating_has_the_key_0(
    open_page: OpenPage, store: FeedbackStore, scale: tuple[int, int], key: str, rating: int
) -> None:
    store.update_settings(scale=scale)
    store.add_items([NewItem("rating", "p", ("c",))])
    page = open_page()
    ready(page, "rating")
    button = page.locator(f"#controls button[title='Rate {rating}']")
    assert button.locator("kbd").all_inner_texts() == [key]
    press(page, key)
    ready(page, "none")
    assert values(store) == [{"rating": rating}]


def test_the_tenth_text_and_the_tenth_harm_have_the_key_0_and_more_have_none(
    open_page: OpenPage, store: FeedbackStore
) -> None:
    names = [f"harm {i}" for i in range(11)]
    store.update_settings(harms=tuple(names))
    store.add_items([NewItem("flags", "p", ("c",), priority=1), NewItem("ranking", "p", tuple("abcdefghijk"))])
    page = open_page()
    ready(page, "flags")
    shown = page.locator("#controls label kbd").all_inner_texts()
    assert shown == [*"123456789", "0"]
    press(page, "0", "Enter")
    ready(page, "ranking")
    assert page.locator("#panels .pick kbd").all_inner_texts() == [*"123456789", "0"]
    press(page, "0", *"123456789", "Enter")
    ready(page, "none")
    flags, ranking = store.judgements()
    assert flags.value == {"harms": ["harm 9"]}
    assert ranking.value == {"order": [ranking.sides[place] for place in (9, *range(9), 10)]}


def test_scale_below_zero_has_keys_by_place(open_page: OpenPage, store: FeedbackStore) -> None:
    store.update_settings(scale=(-2, 2))
    store.add_items([NewItem("rating", "p", ("c",))])
    page = open_page()
    ready(page, "rating")
    assert page.locator("#controls button").nth(1).inner_text().split() == ["2", "-1"]
    press(page, "2")
    ready(page, "none")
    assert values(store) == [{"rating": -1}]


def test_focus_can_be_seen(open_page: OpenPage, store: FeedbackStore) -> None:
    store.add_items([NewItem("pairwise", "p", ("a", "b"))])
    page = open_page()
    ready(page, "pairwise")
    for _ in range(12):
        press(page, "Tab")
        width = page.locator(":focus-visible").evaluate("e => parseFloat(getComputedStyle(e).outlineWidth)")
        assert width >= 2


def test_sign_up_sign_in_and_judge_as_a_person_would(open_page: OpenPage, store: FeedbackStore, address: str) -> None:
    store.add_items([NewItem("thumbs", "p", ("c",))])
    page = open_page(f"/invite/{store.invite('admin')}", name="")
    sign_in(page)
    page.wait_for_url("**/admin")
    page.get_by_role("button", name="Sign out").click()
    page.wait_for_url("**/login")
    sign_in(page)
    page.wait_for_url("**/admin")
    page.get_by_role("link", name="Annotate").click()
    ready(page, "thumbs")
    press(page, "1")
    ready(page, "none")
    page.get_by_role("link", name="Admin").click()
    page.wait_for_selector("text=Krippendorff")
    page.get_by_role("button", name="Pause").click()
    page.wait_for_selector("text=paused")
    assert store.settings.paused
    page.get_by_role("button", name="Make a link").click()
    assert page.input_value(".link").startswith(f"{address}/invite/")
    page.get_by_role("link", name="Annotate").click()
    page.wait_for_selector("#question:has-text('Paused')")
    assert values(store) == [{"up": True}]


def values(store: FeedbackStore) -> list[dict[str, Any] | None]:
    found: list[Judgement] = store.judgements()
    return [judgement.value for judgement in found]
