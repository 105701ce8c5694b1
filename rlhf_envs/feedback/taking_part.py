"""Define the settings of how people take part: their consent, their training, and the panel that they come from."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

__all__ = ["Consent", "Panel", "Screening", "Training"]

_PARAMETER = re.compile(r"[A-Za-z][\w.-]{0,59}")
_GAP = re.compile(r"\{([^{}]*)\}")


@dataclass(frozen=True)
class Consent:
    """Hold what people agree to before their first item.

    Attributes:
        text: Markdown. Without it nobody is asked. Who agreed to another text is asked again.
        withdrawn_labels: what becomes of the labels of a person who withdraws. They leave all exports and counts. With
            "keep" they stay in the database, marked. With "delete" they and the person's name are deleted.
    """

    text: str = ""
    withdrawn_labels: Literal["keep", "delete"] = "keep"

    def __post_init__(self) -> None:
        if len(self.text) > 100_000:
            raise ValueError(f"text must have at most 100,000 characters, got {len(self.text):,}")


@dataclass(frozen=True)
class Training:
    """Hold how people are trained on gold questions that have an explanation (`meta.explanation`).

    Attributes:
        n_items: how many a person is asked in each try, before the first item of the project. 0 asks none.
        pass_mark: the share that must be right.
        tries: how many tries a person has. After the last an admin may let them in.
        items: ids of the gold questions to take. By default all that have an explanation.
    """

    n_items: int = 0
    pass_mark: float = 0.8
    tries: int = 2
    items: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if not 0 <= self.n_items <= 1000:
            raise ValueError(f"n_items must be from 0 to 1000, got {self.n_items}")
        if not 0 <= self.pass_mark <= 1:
            raise ValueError(f"pass_mark must be a share from 0 to 1, got {self.pass_mark}")
        if not 1 <= self.tries <= 100:
            raise ValueError(f"tries must be from 1 to 100, got {self.tries}")


@dataclass(frozen=True)
class Screening:
    """Hold a question that decides who of a panel takes part.

    Attributes:
        text: the question.
        options: the answers to choose from.
        accept: the answers with which a person goes on. Any other screens them out.
    """

    text: str
    options: tuple[str, ...]
    accept: tuple[str, ...]

    def __post_init__(self) -> None:
        if not self.text.strip() or len(self.text) > 1000:
            raise ValueError("text must have 1 to 1,000 characters")
        if not 2 <= len(self.options) <= 50 or len(set(self.options)) < len(self.options):
            raise ValueError(f"options must be 2 to 50 answers that differ, got {list(self.options)}")
        if any(not option.strip() or len(option) > 200 for option in self.options):
            raise ValueError("options must have 1 to 200 characters each")
        if unknown := [answer for answer in self.accept if answer not in self.options]:
            raise ValueError(f"accept: {unknown[0]!r} is none of the options {list(self.options)}")
        if not self.accept:
            raise ValueError("accept: write at least one of the options")


@dataclass(frozen=True)
class Panel:
    """Hold how people come from a panel such as Prolific, and go back to it.

    A person comes by a link `/panel?PROLIFIC_PID=...&STUDY_ID=...&SESSION_ID=...` and needs no password.

    Attributes:
        person: the parameter that tells who it is, such as "PROLIFIC_PID". Without it nobody can come from a panel.
        parameters: further parameters that the link must have and that are kept, such as "STUDY_ID".
        max_items: how many items a person is given. 0 gives all.
        screening: questions that decide who takes part, asked before everything but the consent.
        completion_code: shown at the end.
        completion_url: where the person goes at the end. `{PROLIFIC_PID}` in it stands for that parameter.
        screen_out_code: shown to who is screened out, by the questions or by the training.
        screen_out_url: where who is screened out goes.
    """

    person: str = ""
    parameters: tuple[str, ...] = ()
    max_items: int = 0
    screening: tuple[Screening, ...] = ()
    completion_code: str = ""
    completion_url: str = ""
    screen_out_code: str = ""
    screen_out_url: str = ""

    def __post_init__(self) -> None:
        names = (*((self.person,) if self.person else ()), *self.parameters)
        for name in names:
            if not _PARAMETER.fullmatch(name) or names.count(name) > 1:
                raise ValueError(f"parameter {name!r}: write a name of letters, digits and '_', each once")
        if not 0 <= self.max_items <= 1_000_000:
            raise ValueError(f"max_items must be from 0 to 1,000,000, got {self.max_items}")
        if max(len(self.completion_code), len(self.screen_out_code)) > 200:
            raise ValueError("a code must have at most 200 characters")
        for name in ("completion_url", "screen_out_url"):
            self._check_url(name, getattr(self, name), names)

    def _check_url(self, name: str, url: str, names: tuple[str, ...]) -> None:
        if url and (not re.match(r"https?://[^/\s]", url) or re.search(r"\s", url) or len(url) > 2000):
            raise ValueError(f"{name} must begin with https:// and have no spaces, got {url[:200]!r}")
        for gap in _GAP.findall(url):
            if gap not in names:
                raise ValueError(f"{name}: {{{gap}}} is no parameter; there are {', '.join(names) or 'none'}")
