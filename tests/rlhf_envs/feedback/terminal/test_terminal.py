from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from rlhf_envs.feedback import FeedbackStore, NewItem, StoreError
from rlhf_envs.feedback.annotating import Response, work
from rlhf_envs.feedback.terminal.label import TerminalKeyboard, label
from rlhf_envs.feedback.terminal.visible import clip, clip_beginning, visible

ESC = "\x1b"


class Script:
    """A keyboard with its keys pressed beforehand; a callable among them is called first."""

    def __init__(self, *keys: Any, lines: Sequence[str] = (), edits: Sequence[str | None] = ()) -> None:
        self.keys, self.lines, self.edits, self.edited = list(keys), list(lines), list(edits), []  # type: ignore[var-annotated]

    def key(self) -> str:
        key = self.keys.pop(0) if self.keys else "q"
        if callable(key):
            key()
            return self.key()
        return str(key)

    def line(self, prompt: str) -> str:
        return self.lines.pop(0)

    def edit(self, text: str) -> str | None:
        self.edited.append(text)
        return self.edits.pop(0)


@pytest.fixture
def store(empty_store: Path) -> Iterator[FeedbackStore]:
    with FeedbackStore(empty_store, seed=0) as store:
        store.update_settings(next_item="age")  # the tests know which item comes next
        yield store


def add(store: FeedbackStore, kind: str, *completions: str, prompt: str = "The film was", **item: Any) -> int:
    return store.add_items([NewItem(kind, prompt, completions, **item)])[0]


def run(store: FeedbackStore, *keys: Any, width: int = 120, height: int = 50, **script: Any) -> tuple[str, int]:
    """What a session showed, and what it returned."""
    console = Console(file=io.StringIO(), width=width, height=height, color_system=None, legacy_windows=False)
    done = label(store, "ada", keyboard=Script(*keys, **script), console=console)
    return console.file.getvalue(), done  # type: ignore[attr-defined]


def values(store: FeedbackStore) -> list[Any]:
    return [judgement.value for judgement in store.judgements(include_skips=True)]


@pytest.mark.parametrize(
    ("key", "side", "strength"), [("1", 0, 3), ("2", 0, 2), ("3", 0, 1), ("5", 1, 1), ("6", 1, 2), ("7", 1, 3)]
)
def test_a_key_prefers_a_side_and_the_store_gets_the_completion(
    store: FeedbackStore, key: str, side: int, strength: int
) -> None:
    for i in range(4):
        add(store, "pairwise", f"good {i}", f"bad {i}")
    _, done = run(store, key, key, key, key)
    assert done == 4
    for judgement in store.judgements():
        assert judgement.value == {"choice": judgement.sides[side], "strength": strength}
    assert {judgement.sides for judgement in store.judgements()} == {(0, 1), (1, 0)}, "the sides are drawn"


def test_an_admin_answers_as_the_account_that_is_there(store: FeedbackStore) -> None:
    store.add_annotator("ada", "admin")
    add(store, "thumbs", "one")
    add(store, "thumbs", "two")
    _, done = run(store, "1", "q")
    assert done == 1
    assert work(store, "ada", lambda task: Response({"up": False})) == 1
    assert values(store) == [{"up": True}, {"up": False}]
    assert [(annotator.name, annotator.role) for annotator in store.annotators()] == [("ada", "admin")]


def test_the_first_side_shown_is_called_a(store: FeedbackStore) -> None:
    add(store, "pairwise", "good", "bad")
    sides = store.claim(store.add_annotator("ada").name).sides  # type: ignore[union-attr]
    shown, _ = run(store, "4", width=80)
    first = ("good", "bad")[sides[0]]
    assert shown.index("A") < shown.index(first) < shown.index(("good", "bad")[sides[1]])
    assert values(store) == [{"choice": None, "strength": 0}]


def test_a_ranking_is_picked_best_first_and_can_be_changed(store: FeedbackStore) -> None:
    item = add(store, "ranking", "x", "y", "z")
    shown, _ = run(store, "\r", "2", "\x7f", "3", "1", "\r")
    (judgement,) = store.judgements()
    a, b, c = judgement.sides
    assert judgement.value == {"order": [c, a, b]} and judgement.item_id == item
    assert "pick the completions from best to worst first" in shown
    assert "C > A > B" in shown


def test_an_order_can_be_typed(store: FeedbackStore) -> None:
    add(store, "ranking", *[f"text {i}" for i in range(11)])
    shown, _ = run(store, "e", "e", "\r", lines=["K A", "k j i h g f e d c b a"])
    (judgement,) = store.judgements()
    assert judgement.value == {"order": list(judgement.sides)[::-1]}
    assert "name each of the 11 completions exactly once" in shown


@pytest.mark.parametrize(
    ("scale", "keys", "lines", "rating"), [((1, 5), "4", [], 4), ((-2, 20), "eee", ["99", "--5", "13"], 13)]
)
def test_ratings_are_the_scales(
    store: FeedbackStore, scale: tuple[int, int], keys: str, lines: list[str], rating: int
) -> None:
    store.update_settings(scale=scale)
    add(store, "rating", "fine")
    run(store, *keys, lines=lines)
    assert values(store) == [{"rating": rating}]


def test_thumbs_and_flags(store: FeedbackStore) -> None:
    store.update_settings(harms=("hate", "spam", "lies"))
    add(store, "thumbs", "fine")
    add(store, "flags", "fine")
    shown, _ = run(store, "2", "1", "3", "1", "\r")
    assert values(store) == [{"up": False}, {"harms": ["lies"]}]
    assert "flagged: hate, lies" in shown


def test_the_tenth_has_the_key_0(store: FeedbackStore) -> None:
    store.update_settings(scale=(1, 12), harms=tuple(f"harm {i}" for i in range(11)))
    add(store, "flags", "fine")
    add(store, "rating", "fine")
    add(store, "ranking", *"abcdefghijk")
    run(store, "0", "\r", "0", "0", *"123456789", "\r")
    *others, ranking = store.judgements()
    assert [judgement.value for judgement in others] == [{"harms": ["harm 9"]}, {"rating": 10}]
    assert ranking.value == {"order": [ranking.sides[place] for place in (9, *range(9), 10)]}


def test_a_correction_is_edited_and_must_change_something(store: FeedbackStore) -> None:
    add(store, "correction", "It is an film.")
    shown, _ = run(store, "\r", "e", "\r", "e", "\r", edits=[" ", "It is a film."])
    assert values(store) == [{"text": "It is a film."}]
    assert "nothing is changed yet" in shown and "your version is blank" in shown
    assert "your version: It is a film." in shown


def test_skip_comment_and_time_are_stored(store: FeedbackStore) -> None:
    add(store, "thumbs", "one")
    add(store, "thumbs", "two")
    ticks = iter([10.0, 14.5, 20.0, 21.0])
    console = Console(file=io.StringIO(), width=100, height=40)
    keyboard = Script("c", "s", "1", lines=["  cannot tell "])
    label(store, "ada", keyboard=keyboard, console=console, clock=lambda: next(ticks))
    first, second = store.judgements(include_skips=True)
    assert (first.value, first.comment, first.seconds) == (None, "cannot tell", 4.5)
    assert (second.value, second.comment, second.seconds) == ({"up": True}, "", 1.0)


def test_undo_takes_the_last_answer_back_and_asks_again(store: FeedbackStore) -> None:
    first, second = add(store, "thumbs", "one"), add(store, "thumbs", "two")
    _, done = run(store, "u", "1", "u", "2", "1", "x")
    assert [(judgement.item_id, judgement.value) for judgement in store.judgements()] == [
        (first, {"up": False}),
        (second, {"up": True}),
    ]
    assert done == 2


def test_undo_works_at_the_end_too(store: FeedbackStore) -> None:
    add(store, "thumbs", "one")
    shown, done = run(store, "1", "u", "2", "x")
    assert values(store) == [{"up": False}] and done == 1
    assert shown.count("nothing is left to judge") == 2


def test_quitting_gives_the_task_back(store: FeedbackStore) -> None:
    add(store, "thumbs", "one")
    _, done = run(store, "q")
    store.add_annotator("bob")
    assert done == 0 and store.claim("bob") is not None


def test_progress_guidelines_and_keys_are_shown(store: FeedbackStore) -> None:
    store.update_settings(guidelines="Prefer [red]truth[/red].")
    add(store, "thumbs", "one")
    add(store, "thumbs", "two")
    shown, _ = run(store, "g", "x", "1", "z", "q")
    assert "Prefer [red]truth[/red]." in shown
    assert "0 of 2 items done, 0 by you" in shown and "1 of 2 items done, 1 by you" in shown
    assert "no key 'z' here" in shown
    for key in ("good", "bad", "skip", "undo", "comment", "guidelines", "quit"):
        assert key in shown


def test_a_limit_and_a_pause_end_the_session(store: FeedbackStore) -> None:
    for text in ("one", "two", "three"):
        add(store, "thumbs", text)
    console = Console(file=io.StringIO())
    assert label(store, "ada", keyboard=Script("1", "1"), console=console, limit=1) == 1
    store.update_settings(paused=True)
    shown, done = run(store, "x")
    assert done == 0 and "the project is paused" in shown


def test_a_lost_lease_is_said_and_the_next_item_comes(tmp_path: Path, clock: Any) -> None:
    with FeedbackStore(tmp_path / "feedback.db", clock=clock) as store:
        store.update_settings(next_item="age")
        first, second = add(store, "thumbs", "one"), add(store, "thumbs", "two")
        store.add_annotator("bob")

        def bob_takes_it() -> None:
            clock.forward(store.settings.lease_seconds + 1)
            task = store.claim("bob")
            assert task is not None and task.item.id == first
            store.submit(task.id, "bob", {"up": False}, key="bob")

        shown, done = run(store, bob_takes_it, "1", "1", "x")
        assert done == 1 and "your lease ran out" in shown
        assert {(j.item_id, j.annotator) for j in store.judgements()} == {(first, "bob"), (second, "ada")}


def test_an_answer_that_cannot_be_stored_can_be_sent_again(
    store: FeedbackStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    add(store, "thumbs", "one")
    submit: Callable[..., Any] = store.submit
    keys: list[str] = []

    def locked_once(*arguments: Any, key: str, **options: Any) -> Any:
        keys.append(key)
        if len(keys) == 1:
            raise StoreError("feedback.db: database is locked.")
        return submit(*arguments, key=key, **options)

    monkeypatch.setattr(store, "submit", locked_once)
    shown, done = run(store, "c", "1", "1", lines=["keep me"])
    (judgement,) = store.judgements()
    assert done == 1 and judgement.comment == "keep me"
    assert keys[0] == keys[1], "so that an answer which was stored after all is not stored twice"
    assert "not stored: feedback.db: database is locked." in shown


# Hostile text

HOSTILE = (
    f"{ESC}[2J{ESC}]0;title\x07{ESC}[31mred \u202eevil\u202c zero\u200bwidth \u2066x\u2069 [bold]markup[/bold] [/] "
    "[link=file:///etc]x[/link] :bomb: \x00 \x9b31m \r over \u2028 \ue000 \U000e0041 \ud800"
)


def test_nothing_that_a_model_wrote_reaches_the_terminal_as_a_command(store: FeedbackStore) -> None:
    add(store, "pairwise", HOSTILE, "plain", prompt=f"{ESC}[8mhidden")
    console = Console(file=io.StringIO(), width=200, height=60, color_system=None, force_terminal=False)
    label(store, "ada", keyboard=Script("m", "q"), console=console)
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    bad = [
        c
        for c in shown
        if (ord(c) < 32 and c != "\n")
        or 0x7F <= ord(c) < 0xA0
        or c in "\u202e\u202c\u200b\u2066\u2069\u2028\ue000\U000e0041\ud800"
    ]
    assert bad == []
    for mark in ("U+001B", "U+202E", "U+200B", "U+2066", "U+0000", "U+009B", "U+000D", "U+2028", "U+E000", "U+E0041"):
        assert f"[{mark}]" in shown
    assert "[bold]markup[/bold] [/]" in shown and "[link=file:///etc]" in shown and ":bomb:" in shown


def test_colours_of_ours_are_the_only_escapes(store: FeedbackStore) -> None:
    add(store, "thumbs", HOSTILE)
    console = Console(file=io.StringIO(), width=100, height=40, force_terminal=True, color_system="truecolor")
    label(store, "ada", keyboard=Script("q"), console=console)
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    assert ESC in shown
    for part in shown.split(ESC)[1:]:
        assert part.startswith("[") and part[1:].lstrip("0123456789;")[0] in "mHJ", repr(part[:12])
    assert f"{ESC}]" not in shown and f"{ESC}[8m" not in shown


@pytest.mark.parametrize("text", ["👩‍👩‍👧 ❤️ 1️⃣", "שלום עולם, مرحبا", "naïve café", "汉字", "a\tb\nc"])
def test_emoji_and_other_scripts_stay_as_they_are(text: str) -> None:
    assert visible(text).plain == text


def test_joiners_outside_of_emoji_are_marked() -> None:
    assert visible("pass\u200dword").plain == "pass[U+200D]word"
    assert visible("a\ufe0f").plain == "a[U+FE0F]"


def test_empty_and_blank_completions_say_so(store: FeedbackStore) -> None:
    add(store, "pairwise", "", " \n ")
    shown, _ = run(store, "q")
    assert "[empty]" in shown and "[white space only, 3 characters]" in shown


def test_a_megabyte_is_shown_in_part_and_the_rest_on_demand(store: FeedbackStore) -> None:
    add(store, "pairwise", "word " * 200_000 + "END", "short")
    shown, _ = run(store, "q")
    assert len(shown) < 20_000 and "more characters: m" in shown and "END" not in shown
    shown, _ = run(store, "m", "q")
    assert "END" in shown


def test_long_conversation_shows_its_last_question_and_names_its_pictures(store: FeedbackStore) -> None:
    prompt = "\n\n".join([*(f"User: {i}\n\nAssistant: yes" for i in range(100)), "User: What is this?"])
    images = [{"id": "0", "name": "cat.png", "alt": "a cat"}, {"id": "1", "name": "dog.png"}, None]
    add(store, "pairwise", "a", "b", prompt=prompt, meta={"images": images})
    shown, _ = run(store, "q")
    assert "end of the prompt" in shown and "User: What is this?" in shown and "User: 0\n" not in shown
    assert "[picture cat.png: a cat]" in shown and "[picture dog.png: see it on the web page]" in shown


def test_clip_beginning_counts_lines_and_characters() -> None:
    assert clip_beginning("abcdef", 3, 2) == ("abcdef", 0, 2)
    assert clip_beginning("abcdefg", 3, 2) == ("bcdefg", 1, 2)
    assert clip_beginning("a\nb\nc", 10, 2) == ("b\nc", 2, 2)
    assert clip_beginning("a\n\nb\n", 10, 9) == ("a\n\nb\n", 0, 3)
    assert clip_beginning("long line\nb", 4, 2) == ("ine\nb", 6, 2)
    assert clip_beginning("", 10, 2) == ("", 0, 1)


def test_clip_counts_lines_and_characters() -> None:
    assert clip("abcdef", 3, 2) == ("abcdef", 0, 2)
    assert clip("abcdefg", 3, 2) == ("abcdef", 1, 2)
    assert clip("a\nb\nc", 10, 2) == ("a\nb\n", 1, 2)
    assert clip("", 10, 2) == ("", 0, 1)


def test_quick_keys_are_taken_one_by_one_and_a_paste_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted() -> str:
        raise KeyboardInterrupt

    reads = iter([lambda: "12", lambda: "\x1b[A", lambda: "1111111", interrupted])
    monkeypatch.setattr("click.getchar", lambda: next(reads)())
    keyboard = TerminalKeyboard()
    assert [keyboard.key() for _ in range(5)] == ["1", "2", "\x1b[A", "1111111", "q"]


def test_an_editors_last_newline_is_not_the_persons(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("click.edit", lambda text, extension: text.upper() + "\n")
    assert TerminalKeyboard().edit("fine") == "FINE"
