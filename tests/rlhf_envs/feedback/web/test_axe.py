"""axe-core on every page, in both themes, on a desk and on a phone: no violation. A new page is a line in PAGES."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rlhf_envs.feedback import FeedbackStore, NewItem
from rlhf_envs.feedback.annotating import Response, work
from rlhf_envs.feedback.kinds import KINDS

package = pytest.importorskip("axe_playwright_python", reason="axe-core is missing: pip install axe-playwright-python")
AXE = (Path(package.__file__).parent / "axe.min.js").read_text(encoding="utf-8")

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
DESKTOP, PHONE = {"width": 1280, "height": 800}, {"width": 390, "height": 844}
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
        reduced_motion="reduce",
    )
    page.wait_for_selector(ready)
    if keys:
        page.keyboard.press(keys)
        page.wait_for_selector("dialog[open]")
    page.evaluate(AXE)
    wrong = []
    for theme, size in itertools.product(("light", "dark"), (DESKTOP, PHONE)):
        page.emulate_media(color_scheme=theme)
        page.set_viewport_size(size)
        found = page.evaluate("axe.run({rules: {'label-content-name-mismatch': {enabled: true}}})")
        assert len(found["passes"]) > 5, "axe has looked at something"
        for rule in found["violations"]:
            wrong += [f"{rule['id']}, {theme}, {size['width']}: {node['html'][:300]}" for node in rule["nodes"]]
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
    if kind == "":
        return 0  # nothing is left to do
    roles = ("system", "user", "assistant", "user")
    messages = [{"role": role, "content": MARKDOWN} for role in roles]
    meta = {"messages": messages}
    return store.add_items([NewItem("pairwise", "", (MARKDOWN, f"{MARKDOWN} and more"), priority=-1, meta=meta)])[0]


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
