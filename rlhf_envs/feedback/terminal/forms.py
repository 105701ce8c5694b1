"""Define the terminal's form for each kind of feedback: its keys, and the answer so far.

The keys are the same as on the web page.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from ..records import Assignment
    from ..settings import Settings

__all__ = ["LETTERS", "Form", "Keyboard", "form_of", "rating_keys"]

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
ENTER, BACKSPACE = ("\r", "\n"), ("\x7f", "\b")

Value = dict[str, Any]


class Keyboard(Protocol):
    """Read keys and texts from a person."""

    def key(self) -> str:
        """Return the next key pressed."""

    def line(self, prompt: str) -> str:
        """Return a line of text."""

    def edit(self, text: str) -> str | None:
        """Return the text as a person has changed it in an editor, or None if it was left as it was."""


class Form:
    """Collect an answer, key by key.

    Attributes:
        keys: maps each key to a description of what it does, shown below the texts.
        message: the result of the last key, shown above the keys.
    """

    def __init__(self, assignment: Assignment, settings: Settings, keyboard: Keyboard) -> None:
        self.assignment, self.settings, self.keyboard = assignment, settings, keyboard
        self.keys: dict[str, str] = {}
        self.message = ""
        self.start()

    def start(self) -> None:
        """Set the keys."""

    def press(self, key: str) -> Value | None:
        """Take one of the keys. Return the answer if it is complete, else None."""
        raise NotImplementedError

    def state(self) -> str:
        """Describe the answer so far."""
        return ""

    def type_rating(self, low: int, high: int) -> int | None:
        """Return a rating that the person types; None, with a message, if it is not on the scale."""
        text = self.keyboard.line(f"rating from {low} to {high}: ").strip()
        if text.removeprefix("-").isdecimal() and low <= int(text) <= high:
            return int(text)
        self.message = f"{text[:20]!r} is no rating from {low} to {high}"
        return None


def rating_keys(low: int, high: int) -> dict[str, int]:
    """Return the rating of each key: its digit where all have one, else 1, 2, ... 0 for the first ten."""
    values = range(low, high + 1)
    if low >= 0 and high <= 9:
        return {str(value): value for value in values}
    return {str((i + 1) % 10): value for i, value in enumerate(values[:10])}


class _Pairwise(Form):
    def start(self) -> None:
        words = {3: "much better", 2: "better", 1: "slightly better"}
        self.answers = {str(4 - strength): (0, strength) for strength in (3, 2, 1)}
        self.answers |= {str(4 + strength): (1, strength) for strength in (1, 2, 3)}
        self.keys = {key: f"{LETTERS[side]} {words[strength]}" for key, (side, strength) in self.answers.items()}
        self.keys = dict(sorted({**self.keys, "4": "tie"}.items()))

    def press(self, key: str) -> Value | None:
        if key == "4":
            return {"choice": None, "strength": 0}
        side, strength = self.answers[key]
        return {"choice": self.assignment.sides[side], "strength": strength}


class _Ranking(Form):
    def start(self) -> None:
        self.picked: list[int] = []  # places on the screen, best first
        self.n = len(self.assignment.sides)
        self.keys = {str((i + 1) % 10): f"{LETTERS[i % 26]} is next best" for i in range(min(self.n, 10))}
        self.keys |= {"Backspace": "take the last back", "e": "type the whole order", "Enter": "send"}

    def press(self, key: str) -> Value | None:
        self.message = ""
        if key == "Enter":
            if len(self.picked) == self.n:
                return {"order": [self.assignment.sides[place] for place in self.picked]}
            self.message = "pick the completions from best to worst first"
        elif key == "Backspace":
            del self.picked[-2 if len(self.picked) == self.n else -1 :]
        elif key == "e":
            self._type()
        else:
            place = (int(key) - 1) % 10
            if place in self.picked:
                self.picked.remove(place)
            else:
                self.picked.append(place)
            if len(self.picked) == self.n - 1:
                self.picked += [place for place in range(self.n) if place not in self.picked]
        return None

    def state(self) -> str:
        return f"order, best first: {' > '.join(LETTERS[place % 26] for place in self.picked) or '...'}"

    def _type(self) -> None:
        text = self.keyboard.line("letters or numbers, best first: ").replace(",", " ").replace(">", " ")
        words = text.upper().split() if " " in text.strip() else list(text.upper().strip())
        places = [int(word) - 1 if word.isdecimal() else LETTERS.find(word) for word in words]
        if sorted(places) == list(range(self.n)):
            self.picked = places
        else:
            self.message = f"name each of the {self.n} completions exactly once"


class _Rating(Form):
    def start(self) -> None:
        low, high = self.settings.scale
        self.values = rating_keys(low, high)
        self.keys = {key: f"rate {value}" for key, value in self.values.items()}
        if high not in self.values.values():
            self.keys["e"] = "type the rating"
        self.message = f"from {low} (worst) to {high} (best)"

    def press(self, key: str) -> Value | None:
        if key != "e":
            return {"rating": self.values[key]}
        rating = self.type_rating(*self.settings.scale)
        return None if rating is None else {"rating": rating}


class _Thumbs(Form):
    def start(self) -> None:
        self.keys = {"1": "good", "2": "bad"}

    def press(self, key: str) -> Value | None:
        return {"up": key == "1"}


class _Correction(Form):
    def start(self) -> None:
        self.text = self.assignment.item.completions[0]
        self.keys = {"e": "edit", "Enter": "send your version"}

    def press(self, key: str) -> Value | None:
        self.message = ""
        if key == "e":
            edited = self.keyboard.edit(self.text)
            self.text = self.text if edited is None else edited
        elif self.text == self.assignment.item.completions[0]:
            self.message = "nothing is changed yet: e edits, s skips"
        elif not self.text.strip():
            self.message = "your version is blank: e edits, s skips"
        else:
            return {"text": self.text}
        return None

    def state(self) -> str:
        return "" if self.text == self.assignment.item.completions[0] else f"your version: {self.text}"


class _Flags(Form):
    def start(self) -> None:
        self.chosen: set[str] = set()
        self.harms = self.settings.harms
        self.keys = {str((i + 1) % 10): f"flag {harm}" for i, harm in enumerate(self.harms[:10])}
        if len(self.harms) > 10:
            self.keys["e"] = "type the harms"
        self.keys["Enter"] = "send"

    def press(self, key: str) -> Value | None:
        self.message = ""
        if key == "Enter":
            return {"harms": [harm for harm in self.harms if harm in self.chosen]}
        if key == "e":
            names = [name.strip() for name in self.keyboard.line("harms, between commas: ").split(",") if name.strip()]
            unknown = [name for name in names if name not in self.harms]
            self.message = f"unknown: {', '.join(unknown)}; there are {', '.join(self.harms)}" if unknown else ""
            self.chosen = self.chosen if unknown else set(names)
        else:
            self.chosen ^= {self.harms[(int(key) - 1) % 10]}
        return None

    def state(self) -> str:
        return f"flagged: {', '.join(harm for harm in self.harms if harm in self.chosen) or 'nothing'}"


_FORMS: dict[str, type[Form]] = {
    "pairwise": _Pairwise,
    "ranking": _Ranking,
    "rating": _Rating,
    "thumbs": _Thumbs,
    "correction": _Correction,
    "flags": _Flags,
}


def form_of(assignment: Assignment, settings: Settings, keyboard: Keyboard) -> Form:
    """Return an empty form for an assignment."""
    return _FORMS[assignment.item.kind](assignment, settings, keyboard)
