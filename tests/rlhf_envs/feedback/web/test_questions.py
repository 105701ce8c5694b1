"""The project's own questions on the annotation page, in headless Chromium: keyboard, marks, drafts, undo, phone."""

from __future__ import annotations

import pytest

from rlhf_envs.feedback import FeedbackStore, Judgement, NewItem, Question

from .pages import PHONE, OpenPage, press, ready, until

HELPFUL = Question("helpful", "How helpful?", "rating", scale=(1, 7), ends=("not at all", "very"), each=True)
TRUER = Question("truer", "Which is truer?", "choice", grades=3)
HARM = Question("harm", "Harmful?", "labels", labels=("no", "yes"), help="Think of others.")
WHICH = Question("which", "Which harm?", "labels", labels=("lie", "insult"), multiple=True, when={"harm": ("yes",)})
FAULTS = Question("faults", "What is wrong?", "spans", labels=("untrue", "rude"), required=False, keys=("x", "y"))
WHY = Question("why", "Why?", "text", required=False)
ALL = (HELPFUL, TRUER, HARM, WHICH, FAULTS, WHY)
PAIR = NewItem("pairwise", "p", ("one two three", "four five six"))


def given(store: FeedbackStore, n: int = 1) -> Judgement:
    judgements = store.judgements()
    assert len(judgements) == n
    return judgements[-1]


def asking(store: FeedbackStore, *questions: Question, items: tuple[NewItem, ...] = (PAIR,)) -> None:
    store.update_settings(questions=questions)
    store.add_items(items)


def test_all_types_are_answered_by_keys_alone(open_page: OpenPage, store: FeedbackStore) -> None:
    asking(store, *ALL)
    page = open_page()
    ready(page)
    assert page.locator(".question.active .words").text_content() == "Which completion is better?"
    press(page, "6", "7", "2", "1", "2", "2", "1")  # B is better; A 7, B 2; A is truer; harm: yes: insult, lie
    assert page.locator(".question.active .words").text_content() == "Which harm?"
    press(page, "Tab", "ArrowRight", "ArrowRight", "Shift+ArrowRight", "x", "ArrowRight", "y", "w")
    page.keyboard.type("so there")
    press(page, "Escape", "Tab", "Tab")
    page.keyboard.type("Because 1 is 1.")
    press(page, "Control+Enter")
    ready(page, "none")
    judgement = given(store)
    first, second = judgement.sides
    assert judgement.value == {"choice": second, "strength": 2}
    helpful = [0, 0]
    helpful[first], helpful[second] = 7, 2
    words = PAIR.completions[first].split()
    places = [PAIR.completions[first].index(word) for word in words]
    next_text = PAIR.completions[second].split()[0]
    assert judgement.answers == {
        "helpful": helpful,
        "truer": {"choice": first, "strength": 1},
        "harm": "yes",
        "which": ["lie", "insult"],
        "faults": sorted(
            [
                {"completion": first, "start": places[1], "end": places[2] + len(words[2]), "label": "untrue"},
                {"completion": second, "start": 0, "end": len(next_text), "label": "rude", "note": "so there"},
            ],
            key=lambda span: span["completion"],
        ),
        "why": "Because 1 is 1.",
    }


def test_enter_goes_to_what_is_missing_and_sends_only_then(open_page: OpenPage, store: FeedbackStore) -> None:
    asking(store, HARM, WHICH)
    page = open_page()
    ready(page)
    press(page, "Enter")
    assert "Answer this first: Which completion is better?" in page.locator("#notice").text_content()
    press(page, "1", "2", "Enter")
    assert "Answer this first: Which harm?" in page.locator("#notice").text_content()
    assert store.judgements() == []
    press(page, "Shift+Tab", "1")  # no harm after all: the question that depends on it goes
    assert page.locator(".question:visible").count() == 2
    press(page, "Enter")
    ready(page, "none")
    assert given(store).answers == {"harm": "no"}


def test_a_single_question_keeps_its_one_key(open_page: OpenPage, store: FeedbackStore) -> None:
    asking(store, HARM, items=(NewItem("questions", "p", ("c",)), NewItem("questions", "p", ("d", "e"))))
    page = open_page()
    ready(page, "questions")
    press(page, "2")
    page.wait_for_selector("#count:has-text('1 by you')")
    ready(page, "questions")
    press(page, "1")
    ready(page, "none")
    assert [judgement.answers for judgement in store.judgements()] == [{"harm": "yes"}, {"harm": "no"}]
    assert [judgement.value for judgement in store.judgements()] == [{}, {}]


@pytest.mark.parametrize("kind", ["ranking", "correction", "flags", "rating", "thumbs"])
def test_every_kind_goes_with_questions(open_page: OpenPage, store: FeedbackStore, kind: str) -> None:
    texts = {"ranking": ("a", "b", "c")}.get(kind, ("a",))
    asking(store, HARM, items=(NewItem(kind, "p", texts),))
    page = open_page()
    ready(page, kind)
    main = {
        "ranking": ("2", "1", "Tab", "Tab", "Tab", "Tab", "Tab"),
        "correction": ("e", "End", "b", "Escape"),
        "flags": ("2",),
        "rating": ("4",),
        "thumbs": ("2",),
    }[kind]
    press(page, *main)
    page.get_by_role("radio", name="yes").focus()
    press(page, "2", "Enter")
    ready(page, "none")
    judgement = given(store)
    assert judgement.answers == {"harm": "yes"}
    side = judgement.sides
    assert (
        judgement.value
        == {
            "ranking": {"order": [side[i] for i in (1, 0, 2)]} if kind == "ranking" else None,
            "correction": {"text": "ab"},
            "flags": {"harms": ["harassment"]},
            "rating": {"rating": 4},
            "thumbs": {"up": False},
        }[kind]
    )


def test_marks_by_mouse_count_characters_of_the_text_itself(open_page: OpenPage, store: FeedbackStore) -> None:
    text = "a\r\n🙂\u200b\u200b word"  # shown with other characters: a line end, a mark for two that cannot be seen
    asking(store, Question("faults", "?", "spans", labels=("bad",)), items=(NewItem("questions", "p", (text,)),))
    page = open_page()
    ready(page, "questions")
    page.evaluate("""() => {
        const body = document.querySelector("#panels .text"), last = body.lastChild;
        document.getSelection().setBaseAndExtent(last, last.data.indexOf("word"), last, last.length);
    }""")
    until(page, """[...CSS.highlights.get("mark-cursor")].some((range) => range.toString() === "word")""")
    press(page, "1")
    page.evaluate("""() => {
        const body = document.querySelector("#panels .text");
        document.getSelection().setBaseAndExtent(body.firstChild, 0, body.querySelector(".mark").firstChild, 3);
    }""")
    until(page, """[...CSS.highlights.get("mark-cursor")].some((range) => range.toString().startsWith("a"))""")
    page.locator(".spans .choice").click()
    assert page.locator(".marks .quoted").all_text_contents() == ["word", "a\r\n🙂\u200b\u200b"]
    page.locator(".marks .remove").first.click()
    press(page, "Enter")
    ready(page, "none")
    [span] = given(store).answers["faults"]
    assert text[span["start"] : span["end"]] == "a\r\n🙂\u200b\u200b"
    assert (span["start"], span["end"]) == (0, 6)


def test_words_of_a_language_without_spaces_are_gone_through(open_page: OpenPage, store: FeedbackStore) -> None:
    text = "我喜欢巴塞罗那。"
    asking(store, Question("faults", "?", "spans", labels=("bad",)), items=(NewItem("questions", "p", (text,)),))
    page = open_page()
    ready(page, "questions")
    press(page, "ArrowRight", "ArrowRight", "1", "Backspace", "ArrowLeft", "1", "Enter")
    ready(page, "none")
    assert given(store).answers["faults"] == [{"completion": 0, "start": 0, "end": 1, "label": "bad"}]


def test_a_reload_and_undo_keep_all_answers(open_page: OpenPage, store: FeedbackStore) -> None:
    asking(store, *ALL, items=(PAIR, PAIR))
    page = open_page()
    ready(page)
    press(page, "6", "7", "2", "1", "2", "2", "Tab", "ArrowRight", "x", "Tab", "Tab")
    page.locator(".question textarea").focus()
    page.keyboard.type("why not")
    page.reload()
    ready(page)
    assert page.locator("[aria-checked=true]").count() == 6
    assert page.locator(".question textarea").input_value() == "why not"
    assert page.locator(".marks li").count() == 1
    press(page, "Enter")
    page.wait_for_selector("#count:has-text('1 by you')")
    ready(page)
    before = given(store)
    press(page, "u")
    page.wait_for_selector("#count:has-text('0 by you')")
    ready(page)
    press(page, "Enter")
    page.wait_for_selector("#count:has-text('1 by you')")
    after = given(store)
    assert (after.value, after.answers, after.item_id) == (before.value, before.answers, before.item_id)
    assert set(after.answers) == {"helpful", "truer", "harm", "which", "faults", "why"}


def test_settings_that_change_half_way_keep_the_open_page_whole(open_page: OpenPage, store: FeedbackStore) -> None:
    asking(store, HARM, items=(PAIR, PAIR))
    page = open_page()
    ready(page)
    press(page, "1")
    store.update_settings(questions=(Question("harm", "How harmful?", "rating"),), wording={"pairwise": "Better?"})
    press(page, "2", "Enter")
    page.wait_for_selector("#count:has-text('1 by you')")
    ready(page)
    assert page.locator(".question .words").all_text_contents() == ["Better?", "How harmful?"]
    press(page, "1", "5", "Enter")
    ready(page, "none")
    assert [(judgement.version, judgement.answers) for judgement in store.judgements()] == [
        (1, {"harm": "yes"}),
        (2, {"harm": 5}),
    ]


def test_a_choice_names_the_completion_and_not_the_side(open_page: OpenPage, store: FeedbackStore) -> None:
    asking(store, Question("truer", "Truer?", "choice"), items=tuple(PAIR for _ in range(6)))
    page = open_page()
    for i in range(6):
        ready(page)
        press(page, "1", "7", "Enter")
        page.wait_for_selector(f"#count:has-text('{i + 1} by you')")
    judgements = store.judgements()
    assert {judgement.sides for judgement in judgements} == {(0, 1), (1, 0)}
    for judgement in judgements:
        assert judgement.answers["truer"] == {"choice": judgement.sides[1], "strength": 3}


def test_a_phone_shows_everything_without_sideways_scrolling(open_page: OpenPage, store: FeedbackStore) -> None:
    wide = Question("wide", "W" * 60, "rating", scale=(0, 10), ends=("nothing at all of it", "everything"), each=True)
    many = Question("many", "Many?", "labels", labels=tuple(f"label number {i}" for i in range(15)), multiple=True)
    asking(store, *ALL, wide, many)
    page = open_page(viewport=PHONE, is_mobile=True, has_touch=True)
    ready(page)
    assert page.evaluate("[scrollX, scrollY]") == [0, 0]
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    for button in page.locator(".question button:visible").all():
        box = button.bounding_box()
        assert box["x"] >= 0 and box["x"] + box["width"] <= 390
        assert box["height"] >= 44 and box["width"] >= 20, button.get_attribute("aria-label")
    page.locator(".question button").nth(1).tap()
    page.locator("[aria-label='A: How helpful?'] button").nth(6).tap()
    assert page.locator("[aria-label='A: How helpful?'] [aria-checked=true]").text_content() == "7"


def test_keys_of_the_focused_question_are_listed(open_page: OpenPage, store: FeedbackStore) -> None:
    asking(store, FAULTS, items=(NewItem("questions", "p", ("a b",)),))
    page = open_page()
    ready(page, "questions")
    press(page, "?")
    listed = page.locator("#keys-list kbd").all_text_contents()
    assert len(listed) == len(set(listed))
    assert {"Tab", "x", "y", "→", "⇧ →", "Backspace", "w", "Enter", "s"} <= set(listed)


@pytest.mark.parametrize(("width", "least"), [(1280, 220), (1000, 60)])
def test_many_questions_leave_room_for_the_texts(
    open_page: OpenPage, store: FeedbackStore, width: int, least: int
) -> None:
    talk = "Human: one\n\nAssistant: two\n\nHuman: three\n\nAssistant: four\n\nHuman: five\n\nAssistant:"
    long = "\n".join(f"line {i}" for i in range(60))
    asking(store, *ALL, items=(NewItem("pairwise", talk, (long, f"{long}!")),))
    page = open_page(viewport={"width": width, "height": 800})
    ready(page)
    for text in page.locator("#panels .text").all():
        assert text.bounding_box()["height"] >= least
    panels, own = page.locator("#panels").bounding_box(), page.locator("#questions").bounding_box()
    beside = own["x"] >= panels["x"] + panels["width"]
    assert beside or own["y"] >= panels["y"] + panels["height"]
    assert beside == (width == 1280)
    assert page.locator("#questions").evaluate("box => box.scrollWidth <= box.clientWidth")


def test_enter_opens_the_language_menu_and_sends_nothing(open_page: OpenPage, store: FeedbackStore) -> None:
    asking(store, WHY)
    page = open_page()
    ready(page)
    press(page, "2")  # all that is required is answered: Enter sends
    page.locator("summary[title=Language]").focus()
    press(page, "Enter")
    page.wait_for_selector("details[open] > summary[title=Language]")
    press(page, "Tab", "Tab", "Enter")  # the second language
    page.wait_for_selector("html[lang=zh]")
    assert store.judgements() == []


def test_the_list_of_keys_begins_at_its_top(open_page: OpenPage, store: FeedbackStore) -> None:
    asking(store, *ALL)
    page = open_page(viewport={"width": 1280, "height": 600})
    ready(page)
    press(page, "?")
    page.wait_for_selector("#keys[open]")
    keys = page.locator("#keys")
    assert keys.evaluate("box => box.scrollHeight > box.clientHeight")
    assert keys.evaluate("box => box.scrollTop") == 0
    press(page, "Enter")
    page.wait_for_selector("#keys:not([open])", state="attached")


def test_on_a_phone_the_next_item_begins_at_its_top(open_page: OpenPage, store: FeedbackStore) -> None:
    asking(store, *ALL, items=(PAIR, PAIR))
    page = open_page(viewport=PHONE, is_mobile=True, has_touch=True)
    ready(page)
    press(page, "6", "7", "2", "1", "1")
    page.locator("#questions textarea").scroll_into_view_if_needed()
    assert page.evaluate("scrollY") > 0
    press(page, "Enter")
    page.wait_for_selector("#count:has-text('1 by you')")
    ready(page)
    assert page.evaluate("scrollY") == 0


def test_many_questions_leave_room_for_the_answers(open_page: OpenPage, store: FeedbackStore) -> None:
    questions = [{"name": f"q{i}", "text": "How good?", "type": "rating", "each": True} for i in range(8)]
    store.update_settings(questions=questions)
    messages = [{"role": role, "content": "A long message. " * 30} for role in ("user", "assistant", "user")]
    store.add_items([NewItem("pairwise", "", ("word " * 500, "text " * 500), meta={"messages": messages})])
    page = open_page(viewport={"width": 1000, "height": 800})
    ready(page, "pairwise")
    for prompt_open in (False, True):
        if prompt_open:
            page.locator("#open-prompt").click()
        shown = [page.locator(name).first for name in ("#prompt", ".panel .text", "#questions")]
        heights = [one.bounding_box()["height"] for one in shown]
        assert min(heights) >= 80, heights
        bottom = page.locator("#questions").bounding_box()
        assert bottom["y"] + bottom["height"] <= page.locator(".bottom").bounding_box()["y"] + 1
