"""axe-core on every page, in both themes, on a desk and on a phone: no violation. A new page is a line in PAGES."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest

from rlhf_envs.feedback import FeedbackStore, NewItem
from rlhf_envs.feedback.annotating import Response, work
from rlhf_envs.feedback.kinds import KINDS
from rlhf_envs.feedback.records import Explained, Item
from tests.rlhf_envs.feedback.web.axe import DESKTOP, PHONE, THEMES, load_axe, violations

TEXTS = ("A **first** text.", "第二个 text, with `code`.", "A third.")
N = {"pairwise": 2, "ranking": 3}
ANSWERS: dict[str, dict[str, Any]] = {
    "pairwise": {"choice": 0, "strength": 2}, "ranking": {"order": [2, 0, 1]}, "rating": {"rating": 4},
    "thumbs": {"up": True}, "correction": {"text": "better"}, "flags": {"harms": ["hate"]},
}  # fmt: skip
CODE = "A **bold** word and `code`:\n\n```python\nx = 1  # one\n```"
MARKDOWN = f"{CODE}\n\n| a | b |\n|---|---|\n| $x^2$ | 2 |\n\n> said\n\n- one"
QUESTIONS = [
    {"name": "helpful", "text": "How helpful is it?", "type": "rating", "ends": ["not at all", "very"]},
    {"name": "harm", "text": "Is it harmful?", "type": "labels", "labels": ["yes", "no"], "keys": ["y", "x"]},
    {"name": "topics", "text": "What is it about?", "type": "labels", "labels": ["a", "b"], "multiple": True},
    {"name": "wrong", "text": "What is wrong?", "type": "spans", "labels": ["false", "rude"], "required": False},
    {"name": "why", "text": "Why?", "type": "text", "required": False, "help": "In a sentence."},
]
# A name, the path, the role, what must be there before the page is looked at, and keys pressed then.
PAGES = [
    ("sign in", "/login", None, "main", ""),
    ("an invitation", "/invite/{invitation}", None, "main", ""),
    ("an invitation that does not work", "/invite/nothing", None, "main", ""),
    *((kind, f"/annotate#{kind}", "annotator", "#task[aria-busy=false]", "") for kind in ANSWERS),
    ("nothing to do", "/annotate#", "annotator", ".empty", ""),
    ("keys", "/annotate#pairwise", "annotator", "#task[aria-busy=false]", "?"),
    ("guidelines", "/annotate#pairwise", "annotator", "#task[aria-busy=false]", "g"),
    ("a page that is none", "/nothing", "annotator", "main", ""),
    ("my data", "/me", "annotator", "main", ""),
    ("admin", "/admin", "admin", "main", ""),
    ("an export", "/admin/export?format=preference&how=each", "admin", "main", ""),
    ("settings as a file", "/admin/study", "admin", "main", ""),
    ("items", "/admin/items", "admin", "main", ""),
    ("an item", "/admin/items/1", "admin", "main", ""),
    ("answers", "/admin/answers", "admin", "main", ""),
    ("people", "/admin/people", "admin", "main", ""),
    ("a person", "/admin/people/1", "admin", "main", ""),
    ("audit", "/admin/audit", "admin", "main", ""),
    ("upload", "/admin/upload", "admin", "main", ""),
    ("adjudicate", "/admin/adjudicate", "admin", "main", ""),
    ("participation", "/admin/participation", "admin", "main", ""),
    ("webhooks", "/admin/webhooks", "admin", "main", ""),
    ("forecast", "/admin/forecast", "admin", "main", ""),
    ("adjudicating a conversation", "/admin/adjudicate?item={conversation}", "admin", "#task[aria-busy=false]", ""),
    ("adjudicating a correction", "/admin/adjudicate?item=5", "admin", "#task[aria-busy=false]", ""),
    ("the adjudicator's keys", "/admin/adjudicate", "admin", "#task[aria-busy=false]", "?"),
    ("an item that is a conversation", "/admin/items/{conversation}", "admin", ".rendered table", ""),
    ("an explanation", "/annotate#pairwise", "annotator", "#open-explanation:not([hidden])", "Shift+X"),
    ("own questions", "/annotate#questions", "annotator", "#task[aria-busy=false] .question", ""),
    ("keys of own questions", "/annotate#questions", "annotator", "#task[aria-busy=false] .question", "?"),
]  # fmt: skip


@pytest.mark.parametrize(("path", "role", "ready", "keys"), [page[1:] for page in PAGES], ids=[p[0] for p in PAGES])
def test_axe_finds_nothing_on_any_page(
    open_page: Callable[..., Any], store: FeedbackStore, path: str, role: str | None, ready: str, keys: str
) -> None:
    path, hash_, kind = path.partition("#")
    conversation = fill(store, kind if hash_ else None)
    page = open_page(
        path.replace("{invitation}", store.invite()).replace("{conversation}", str(conversation)),
        name="ada" if role else "",
        role=role or "",
    )
    page.wait_for_selector(ready)
    page.wait_for_selector(
        "[aria-busy=true]", state="detached"
    )  # until scripts have filled a page, its heading is blank
    if keys:
        page.keyboard.press(keys)
        page.wait_for_selector("dialog[open]")
    load_axe(page)
    wrong = []
    for theme, size in itertools.product(THEMES, (DESKTOP, PHONE)):
        page.emulate_media(color_scheme=theme, reduced_motion="reduce")
        page.set_viewport_size(size)
        wrong += [f"{theme}, {size['width']}: {found}" for found in violations(page, "label-content-name-mismatch")]
    assert wrong == []


def fill(store: FeedbackStore, kind: str | None) -> int:
    """Fill the store: two people have judged one item of each kind, with a comment, and one of `kind` is open.

    Return the id of a conversation, which nobody has judged.
    """
    store.update_settings(render="markdown")
    new = [NewItem(name, f"prompt of a {name}", TEXTS[: N.get(name, 1)], overlap=2) for name in ANSWERS]
    store.add_items(new)
    for who in ("ben", "cay"):
        work(store, who, lambda task: Response(ANSWERS[task.item.kind], seconds=2.0, comment="why not"))
    if kind == "questions":
        store.update_settings(questions=QUESTIONS)
    if kind:
        store.add_items([NewItem(kind, "an open prompt", TEXTS[: N.get(kind, 1)])])
    store.update_settings(explanations="before")
    shown = {item.id: explained(item) for item in store.items()}
    store.explain(shown, source="a reward", version="1")
    if kind == "":
        return 0  # nothing is left to do
    roles = ("system", "user", "assistant", "user")
    messages = [{"role": role, "content": MARKDOWN} for role in roles]
    meta = {"messages": messages}
    return store.add_items([NewItem("pairwise", "", (MARKDOWN, f"{MARKDOWN} and more"), priority=-1, meta=meta)])[0]


def explained(item: Item) -> Explained:
    """Marks of each strength that raise and lower, on an item of any kind."""
    marks = tuple((start, start + 1, value) for start, value in ((0, 1.0), (2, -0.5), (4, 0.2), (6, -1.0)))
    value = ANSWERS.get(item.kind)
    return Explained((1.0,) * len(item.completions), (marks,) * len(item.completions), value)


def test_every_kind_is_looked_at() -> None:
    assert set(ANSWERS) == set(KINDS) - {"questions"}


def test_who_waits_for_new_items_reads_on_while_the_page_asks_for_them(open_page: Callable[..., Any]) -> None:
    page = open_page("/annotate", name="ada", role="annotator")
    page.wait_for_selector(".empty")
    opacity = "getComputedStyle(document.getElementById('panels')).opacity"
    page.evaluate("document.getElementById('task').setAttribute('aria-busy', 'true')")
    assert page.evaluate(opacity) == "1"
    page.evaluate("document.querySelector('.empty').remove()")
    assert page.evaluate(opacity) == "0.55"  # an item that has just been answered
