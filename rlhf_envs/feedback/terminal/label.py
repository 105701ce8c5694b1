"""Label in a terminal: one item at a time, one key per answer. Texts by models are only shown, never obeyed."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from rich.columns import Columns
from rich.console import Console, Group, RenderableType
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from ..annotating import join
from ..records import LeaseLost, StoreError
from .forms import BACKSPACE, ENTER, LETTERS, Form, Keyboard
from .questions import form_with_questions
from .visible import clip, clip_beginning, visible

if TYPE_CHECKING:
    from ..records import Assignment
    from ..store.store import FeedbackStore

__all__ = ["Keyboard", "TerminalKeyboard", "label"]

SIDE_BY_SIDE = 100  # columns from which on two completions are shown side by side
OTHER_LINES = 9  # lines for the header, the keys, the notices and the empty line at the bottom
QUICK = 4  # a read of at most so many characters is keys pressed quickly, a longer one a paste
COMMON = {
    "s": "skip",
    "u": "undo",
    "c": "comment",
    "m": "show all",
    "g": "guidelines",
    "q": "quit",
}


class TerminalKeyboard:
    """Read keys from the terminal. Texts are edited in $VISUAL or $EDITOR."""

    def __init__(self) -> None:
        self._pending: list[str] = []

    def key(self) -> str:
        """Return the next key pressed, or "q" for Ctrl-C, Ctrl-D and a closed terminal."""
        import click

        if not self._pending:
            try:
                read = click.getchar()
            except (KeyboardInterrupt, EOFError):
                return "q"
            # Keys pressed quickly come in one read. An escape sequence is one key, such as an arrow.
            self._pending = list(read) if len(read) <= QUICK and not read.startswith("\x1b") else [read]
        return self._pending.pop(0)

    def line(self, prompt: str) -> str:
        """Return a line of text, empty after Ctrl-C or Ctrl-D."""
        try:
            return input(prompt)
        except (KeyboardInterrupt, EOFError):
            return ""

    def edit(self, text: str) -> str | None:
        """Return the text as changed in the editor, or None if it was left as it was or there is no editor."""
        import click

        edited = click.edit(text, extension=".txt")
        if edited is None or text.endswith("\n"):
            return edited
        return edited.removesuffix("\n")  # editors end a file with a newline


def label(
    store: FeedbackStore,
    name: str,
    *,
    keyboard: Keyboard | None = None,
    console: Console | None = None,
    limit: int | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> int:
    """Show items and take answers until the annotator quits or nothing is left.

    Args:
        store: holds the items.
        name: who answers. A name that the store does not know is added as an annotator.
        keyboard: reads the keys, by default from the terminal.
        console: where items are shown.
        limit: the largest number of answers. Skips count.
        clock: returns seconds, to measure how long an answer takes.

    Returns:
        How many answers the store has taken, minus the answers taken back.

    Raises:
        ValueError: the name is not allowed, or the person has to agree to the consent or to be trained first.
        StoreError: the store cannot be read. An answer that cannot be stored is kept and can be sent again.
    """
    join(store, name)
    _check_step(store, name)
    session = _Session(store, name, keyboard or TerminalKeyboard(), console or Console(), clock)
    return session.run(limit)


def _check_step(store: FeedbackStore, name: str) -> None:
    """Raise a ValueError for who has to agree to the consent, or to be trained, which only the page does."""
    from ..store.steps import next_step

    words = {
        "consent": "has not agreed to the consent",
        "screening": "has not answered the screening questions",
        "training": "has not done the training",
        "held": "has not passed the training",
        "finished": "has come from a panel, and that part is over",
    }
    if reason := words.get(next_step(store, name)):
        raise ValueError(f"{name!r} {reason}: sign in on the annotation page (rlhf feedback serve) first")


class _Session:
    def __init__(
        self, store: FeedbackStore, name: str, keyboard: Keyboard, console: Console, clock: Callable[[], float]
    ) -> None:
        self.store, self.name, self.keyboard, self.console, self.clock = store, name, keyboard, console, clock
        self.done = 0
        self.notice = ""

    def run(self, limit: int | None) -> int:
        assignment: Assignment | None = None
        while True:
            if limit is not None and self.done >= limit:
                self._say(f"{self.done} answered: that was the limit")
                return self.done
            assignment = assignment or self.store.claim(self.name)
            if assignment is None:
                if not self._ask_at_the_end():
                    return self.done
                assignment = self._undo(None)
                continue
            step = self._answer(assignment)
            if step == "quit":
                self.store.release(assignment.id, self.name)
                self._say(f"{self.done} answered in this session; the rest waits for you")
                return self.done
            assignment = self._undo(assignment) if step == "undo" else None

    def _answer(self, assignment: Assignment) -> str:
        """Show an item until it is answered. Return what comes next: "next", "undo" or "quit"."""
        version, settings = self.store.asked()
        form, comment, everything = form_with_questions(assignment, settings, self.keyboard), "", False
        key, started = uuid.uuid4().hex, self.clock()
        while True:
            self._show(assignment, form, comment, everything)
            pressed = self._key(form)
            if pressed in ("q", "u"):
                return {"q": "quit", "u": "undo"}[pressed]
            if pressed == "c":
                comment = self.keyboard.line("comment: ").strip()
            elif pressed == "m":
                everything = not everything
            elif pressed == "g":
                self._guidelines()
            elif pressed == "s" or pressed in form.keys:
                value = None if pressed == "s" else form.press(pressed)
                if pressed != "s" and value is None:
                    continue
                given = {"seconds": self.clock() - started, "comment": comment, "version": version}
                if self._submit(assignment, value, key, given | {"answers": form.answers if value is not None else {}}):
                    return "next"
            else:
                self.notice = f"no key {visible(pressed).plain!r} here"

    def _submit(self, assignment: Assignment, value: dict[str, Any] | None, key: str, given: dict[str, Any]) -> bool:
        """Store an answer. Return False if it failed and can be tried again."""
        try:
            self.store.submit(assignment.id, self.name, value, key=key, **given)
        except LeaseLost:
            self.notice = "too late: your lease ran out and somebody else took the item. This is the next one"
            return True
        except (StoreError, ValueError) as error:
            self.notice = f"not stored: {error} Press the key again to retry"
            return False
        self.done += 1
        self.notice = "skipped" if value is None else "stored"
        return True

    def _undo(self, assignment: Assignment | None) -> Assignment | None:
        """Take the last answer back and return its assignment. If there is none, return the one given."""
        before = self.store.undo(self.name)
        if before is None:
            self.notice = "there is nothing to take back"
            return assignment
        self.done -= 1
        self.notice = "taken back: answer it again"
        return before

    def _key(self, form: Form) -> str:
        pressed = self.keyboard.key()
        if pressed in ENTER:
            return "Enter"
        if pressed in BACKSPACE:
            return "Backspace"
        return pressed if pressed in form.keys else pressed.lower()

    def _ask_at_the_end(self) -> bool:
        """Say that nothing is left. Return whether the annotator wants the last answer back."""
        why = "the project is paused" if self.store.settings.paused else "nothing is left to judge"
        self._say(f"{why}: u takes your last answer back, any other key ends")
        return self.keyboard.key().lower() == "u"

    # On the screen

    def _say(self, words: str) -> None:
        self.console.print(Text(words), soft_wrap=True)

    def _guidelines(self) -> None:
        self.console.print(Panel(visible(self.store.settings.guidelines or "none yet"), title="guidelines"))
        self._say("any key goes on")
        self.keyboard.key()

    def _show(self, assignment: Assignment, form: Form, comment: str, everything: bool) -> None:
        if self.console.is_terminal:
            self.console.clear()
        texts, hidden = self._texts(assignment, everything)
        parts: list[RenderableType] = [self._header(assignment), *texts]
        for words, style in ((form.state(), "bold"), (form.message, "yellow"), (self.notice, "yellow")):
            if words:
                parts.append(visible(words, style))
        if comment:
            parts.append(visible(f"comment: {comment}", "italic"))
        common = {key: words for key, words in COMMON.items() if key != "m" or hidden or everything}
        parts += [_keys(form.keys), _keys(common)]
        self.console.print(Group(*parts))
        self.notice = ""

    def _texts(self, assignment: Assignment, everything: bool) -> tuple[list[RenderableType], bool]:
        """Return the prompt and the completions, as far as the screen has room, and whether something is left out."""
        n, width = len(assignment.sides), self.console.width
        side_by_side = n == 2 and width >= SIDE_BY_SIDE
        room = self.console.height - OTHER_LINES - 2 * (2 if side_by_side else n + 1)
        whole = "\n".join([assignment.item.prompt, *_pictures(assignment)])
        # Its end is what the completions answer.
        prompt, hidden, used = (whole, 0, 0) if everything else clip_beginning(whole, width - 4, max(3, room // 3))
        lines = max(3, (room - used) // (1 if side_by_side else n))
        texts: list[Panel] = []
        first = _panel(prompt, "end of the prompt" if hidden else "prompt", "dim", hidden)
        hides = hidden > 0
        for place, side in enumerate(assignment.sides):
            text = assignment.item.completions[side]
            shown, hidden, _ = (
                (text, 0, 0) if everything else clip(text, (width // 2 if side_by_side else width) - 4, lines)
            )
            title = f"[bold]{LETTERS[place % 26]}[/bold]" if n > 1 else "completion"
            texts.append(_panel(shown, title, ("cyan", "magenta")[place % 2], hidden))
            hides = hides or hidden > 0
        return [first, *([_side_by_side(texts)] if side_by_side else texts)], hides

    def _header(self, assignment: Assignment) -> RenderableType:
        progress = self.store.progress(self.name)
        grid = Table.grid(padding=(0, 2))
        words = f"{progress.finished} of {progress.items} items done, {progress.mine} by you"
        bar = ProgressBar(total=max(1, progress.items), completed=progress.finished, width=24)
        grid.add_row(
            Text(self.name, "bold"), bar, Text(words), Text(f"{assignment.item.kind}, item {assignment.item.id}", "dim")
        )
        return grid


def _pictures(assignment: Assignment) -> list[str]:
    """Return a line for each picture of an item, which a terminal cannot show."""
    images = assignment.item.meta.get("images")
    entries = [image for image in images if isinstance(image, dict)] if isinstance(images, list) else []
    return [f"[picture {entry.get('name', '')}: {entry.get('alt') or 'see it on the web page'}]" for entry in entries]


def _panel(text: str, title: str, border: str, hidden: int) -> Panel:
    more = f"[yellow]{hidden:,} more characters: m[/yellow]" if hidden else None
    return Panel(visible(text), title=title, title_align="left", subtitle=more, border_style=border)


def _side_by_side(panels: list[Panel]) -> Table:
    grid = Table.grid(expand=True)
    for _ in panels:
        grid.add_column(ratio=1)
    grid.add_row(*panels)
    return grid


def _keys(keys: dict[str, str]) -> Columns:
    return Columns([Text.assemble((f" {key} ", "reverse"), f" {visible(words).plain}") for key, words in keys.items()])
