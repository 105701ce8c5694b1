"""Define the terminal's forms for a project's own questions, which are asked one after the other."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..questions import Question, asked_about, is_due
from .forms import LETTERS, Form, Keyboard, Value, form_of, rating_keys

if TYPE_CHECKING:
    from ..records import Assignment
    from ..settings import Settings

__all__ = ["Questionnaire", "form_with_questions"]


class _Asked(Form):
    """Collect the answer to one question. `press` returns it as `{"answer": ...}`."""

    def __init__(self, question: Question, assignment: Assignment, settings: Settings, keyboard: Keyboard) -> None:
        self.question = question
        super().__init__(assignment, settings, keyboard)


class _Choice(_Asked):
    def start(self) -> None:
        words = {3: "much better", 2: "better", 1: "slightly better" if self.question.grades == 7 else "better"}
        strengths = (3, 2, 1) if self.question.grades == 7 else (1,)
        self.options: list[tuple[int | None, int, str]] = [(0, n, f"A {words[n]}") for n in strengths]
        self.options += [(None, 0, "tie"), *((1, n, f"B {words[n]}") for n in reversed(strengths))]
        self.keys = {str(i + 1): words for i, (_, _, words) in enumerate(self.options)}

    def press(self, key: str) -> Value | None:
        side, strength, _ = self.options[int(key) - 1]
        choice = None if side is None else self.assignment.sides[side]
        return {"answer": {"choice": choice, "strength": strength}}


class _Rating(_Asked):
    def start(self) -> None:
        low, high = self.question.scale
        self.values = rating_keys(low, high)
        self.keys = {key: str(value) for key, value in self.values.items()}
        if high not in self.values.values():
            self.keys["e"] = "type the rating"
        self.given: list[int] = []

    def press(self, key: str) -> Value | None:
        self.message = ""
        rating = self.values[key] if key in self.values else self.type_rating(*self.question.scale)
        if rating is None:
            return None
        if not self.question.each:
            return {"answer": rating}
        n = len(self.assignment.sides)
        self.given = [*(self.given if len(self.given) < n else ()), rating]
        if len(self.given) < n:
            return None
        ratings = [0] * len(self.given)
        for side, given in zip(self.assignment.sides, self.given, strict=True):
            ratings[side] = given
        return {"answer": ratings}

    def state(self) -> str:
        low, high = self.question.scale
        ends = [f"{value} {end}".strip() for value, end in zip((low, high), self.question.ends, strict=True)]
        n = len(self.assignment.sides)
        which = f"{LETTERS[len(self.given) % 26]}, " if self.question.each and n > 1 and len(self.given) < n else ""
        return f"{which}from {ends[0]} to {ends[1]}"


class _Labels(_Asked):
    def start(self) -> None:
        labels, keys = self.question.labels, self.question.keys
        self.labels = dict(zip(keys, labels, strict=True)) if keys else _by_place(labels)
        self.keys = {key: label for key, label in self.labels.items()}
        if len(labels) > len(self.labels):
            self.keys["e"] = "type the label"
        self.chosen: set[str] = set()
        if self.question.multiple:
            self.keys["Enter"] = "go on"

    def press(self, key: str) -> Value | None:
        self.message = ""
        if key == "Enter":
            if not self.chosen:
                self.message = "choose one label or more"
                return None
            return {"answer": [label for label in self.question.labels if label in self.chosen]}
        label = self.labels.get(key) or self.keyboard.line("label: ").strip()
        if label not in self.question.labels:
            self.message = f"unknown: {label[:40]}; there are {', '.join(self.question.labels)}"
        elif not self.question.multiple:
            return {"answer": label}
        else:
            self.chosen ^= {label}
        return None

    def state(self) -> str:
        if not self.question.multiple:
            return ""
        return f"chosen: {', '.join(label for label in self.question.labels if label in self.chosen) or 'nothing'}"


class _Text(_Asked):
    def start(self) -> None:
        self.keys = {"e": "write"}

    def press(self, key: str) -> Value | None:
        text = self.keyboard.line(f"{self.question.text} ")
        return {"answer": text} if text.strip() else None


class _Spans(_Asked):
    def start(self) -> None:
        labels, keys = self.question.labels, self.question.keys
        self.labels = dict(zip(keys, labels, strict=True)) if keys else _by_place(labels)
        self.keys = {key: f"mark as {label}" for key, label in self.labels.items()}
        self.keys |= {"Backspace": "remove the last mark", "Enter": "go on"}
        self.spans: list[dict[str, Any]] = []

    def press(self, key: str) -> Value | None:
        self.message = ""
        if key == "Enter":
            if not self.spans:
                self.message = "mark a piece first"
                return None
            return {"answer": self.spans}
        if key == "Backspace":
            del self.spans[-1:]
        else:
            self._mark(self.labels[key])
        return None

    def _mark(self, label: str) -> None:
        places = self._places()
        several = f" (begin with {' or '.join(f'{name}:' for name in places)})" if len(places) > 1 else ""
        words = self.keyboard.line(f"the words that are {label}{several}: ").strip()
        name, colon, rest = words.partition(":")
        if len(places) > 1 and colon and name.strip() in places:
            places, words = {name.strip(): places[name.strip()]}, rest.strip()
        for completion, text in places.values():
            marked = {
                span["start"] for span in self.spans if (span["completion"], span["label"]) == (completion, label)
            }
            start = text.find(words)
            while start in marked:  # the next of several places with the same words
                start = text.find(words, start + 1)
            if words and start >= 0:
                span = {"completion": completion, "start": start, "end": start + len(words), "label": label}
                note = self.keyboard.line("note (or nothing): ").strip()
                self.spans.append({**span, "note": note} if note else span)
                return
        self.message = f"{words[:40]!r} does not stand there: type words as they are, on one line"

    def _places(self) -> dict[str, tuple[int | None, str]]:
        """Map the names of the texts that may be marked to (index of the completion, text)."""
        item, sides = self.assignment.item, self.assignment.sides
        found: dict[str, tuple[int | None, str]] = {}
        if self.question.field != "completion":
            found["prompt"] = (None, item.prompt)
        if self.question.field != "prompt":
            found |= {LETTERS[place % 26]: (side, item.completions[side]) for place, side in enumerate(sides)}
        return found

    def state(self) -> str:
        item = self.assignment.item
        texts: dict[int | None, str] = {None: item.prompt}
        texts.update(enumerate(item.completions))
        quoted = [f"{s['label']}: {texts[s['completion']][s['start'] : s['end']]!r}" for s in self.spans]
        return f"marked: {'; '.join(quoted) or 'nothing'}"


class _Nothing(Form):
    def start(self) -> None:
        self.keys = {"Enter": "send"}

    def press(self, key: str) -> Value | None:
        return {}


_FORMS: dict[str, type[_Asked]] = {
    "choice": _Choice,
    "rating": _Rating,
    "labels": _Labels,
    "text": _Text,
    "spans": _Spans,
}


class Questionnaire(Form):
    """Ask the question of the item's kind, and then the project's questions, one after the other.

    `press` returns the value of the kind when all is answered; `answers` has the rest.
    """

    def start(self) -> None:
        """Begin with the question of the kind, if it has one."""
        item = self.assignment.item
        self.answers: dict[str, Any] = {}
        self.value: Value = {}
        self.questions = asked_about(self.settings.questions, item.kind, len(item.completions))
        self.at = -1  # the place of the question that is asked; -1 is the kind's own
        self.current: Form
        if item.kind == "questions":
            if not self._go_on():  # the questions were removed meanwhile
                self._ask(_Nothing(self.assignment, self.settings, self.keyboard))
        else:
            self._ask(form_of(self.assignment, self.settings, self.keyboard))

    def press(self, key: str) -> Value | None:
        """Take one of the keys. Return the value of the kind if everything is answered."""
        if key == "-":
            self.start()
            return None
        found = {"answer": None} if key == "+" else self.current.press(key)
        if found is None:
            self.message = self.current.message
            return None
        if self.at < 0:
            self.value = found
        elif found["answer"] is not None:
            self.answers[self.questions[self.at].name] = found["answer"]
        return None if self._go_on() else self.value

    def state(self) -> str:
        """Describe the question that is asked, and the answer so far."""
        if self.at < 0:
            return "\n".join(
                filter(None, [self.settings.wording.get(self.assignment.item.kind, ""), self.current.state()])
            )
        question = self.questions[self.at]
        place = f"question {self.at + 1} of {len(self.questions)}: {question.text}"
        return "\n".join(filter(None, [place, question.help, self.current.state()]))

    def _go_on(self) -> bool:
        """Go to the next question that is asked. Return whether there is one."""
        for at in range(self.at + 1, len(self.questions)):
            question = self.questions[at]
            if is_due(question, self.answers):
                self.at = at
                self._ask(_FORMS[question.type](question, self.assignment, self.settings, self.keyboard))
                if not question.required:
                    self.keys["+"] = "no answer, go on"
                return True
        return False

    def _ask(self, form: Form) -> None:
        self.current, self.message = form, form.message
        self.keys = dict(form.keys)
        if self.at >= 0:
            self.keys["-"] = "begin again"


def form_with_questions(assignment: Assignment, settings: Settings, keyboard: Keyboard) -> Questionnaire:
    """Return an empty form for an assignment, with the project's questions."""
    return Questionnaire(assignment, settings, keyboard)


def _by_place(labels: tuple[str, ...]) -> dict[str, str]:
    return {str((i + 1) % 10): label for i, label in enumerate(labels[:10])}
