"""Make texts with private data, and without, to measure a masker that was not written against them.

The texts are messages as people write them: customer service, tickets, e-mails, forum posts and logs, in English and
Chinese. Every span is what a careful reader would call private data of its kind; a third of the texts has none. All
else is not private, though much of it looks so (`parts/others.py`).

A span holds the whole number with its signs, country code and extension. Of `password: x` and `api_key=x` it holds x,
of an IP address with a port the address. Names and street addresses are not marked: do not measure them here.
"""

from __future__ import annotations

import re
from random import Random
from typing import Literal, NamedTuple, get_args

from tests.rlhf_envs.privacy.parts import chinese, english
from tests.rlhf_envs.privacy.parts.contacts import DRAW
from tests.rlhf_envs.privacy.parts.others import OTHERS
from tests.rlhf_envs.privacy.parts.scenes import Scene

Kind = Literal["email", "phone", "card", "iban", "national_id", "ip", "key"]
KINDS: tuple[Kind, ...] = get_args(Kind)
SCENES = {"en": english.SCENES, "zh": chinese.SCENES}
SLOT = re.compile(r"\{(\w+(?::\w+)?)\}")


class Span(NamedTuple):
    """Private data of `kind` at `text[start:end]`."""

    start: int
    end: int
    kind: Kind


class Example(NamedTuple):
    """A text and its private data, in order of position."""

    text: str
    spans: list[Span]


def make(n: int, seed: int, language: Literal["en", "zh"]) -> list[Example]:
    """Return `n` texts, the same ones for the same seed.

    Raises:
        ValueError: If the language is neither "en" nor "zh".
    """
    if language not in SCENES:
        raise ValueError(f"language is {language!r}; there are texts in {', '.join(SCENES)}")
    r = Random(f"{language} {seed}")
    return [filled(r, template(r, r.choice(SCENES[language]), r.choice([0, 0, 1, 1, 2, 3]))) for _ in range(n)]


def template(r: Random, scene: Scene, n_private: int) -> str:
    """Return a message of the scene with `n_private` sentences that hold private data."""
    private = r.sample(scene.private, n_private)
    with_id = [sentence for sentence in private if "{national_id" in sentence]
    private = [sentence for sentence in private if sentence not in with_id[1:]]  # nobody writes ids of two countries
    body = private + r.sample(scene.public, r.choice([1, 2, 2, 3]))
    r.shuffle(body)
    if r.random() < 0.7:
        body.insert(0, r.choice(scene.opening))
    return r.choice(scene.frames).replace("{body}", joined(r, body))


def joined(r: Random, sentences: list[str]) -> str:
    """Return the sentences after one another; what does not end like a sentence gets a line of its own."""
    text = sentences[0]
    for sentence in sentences[1:]:
        between = " " if text[-1] in ".!?" else "" if text[-1] in "。！？，～" else "\n"
        alone = "\n" in sentence or sentence.startswith(('{"', '"')) or r.random() < 0.15
        text += ("\n" if alone else between) + sentence
    return text


def pasted(r: Random, value: str) -> str:
    """Return a number, now and then with the unbreakable spaces or dashes of a web page or a word processor."""
    if r.random() > 0.03:
        return value
    return value.replace(" ", "\u00a0").replace("-", r.choice("\u2011\u2013"))


def filled(r: Random, text: str) -> Example:
    """Return `text` with a value drawn for every slot, `{kind:form}`, and the spans of those that are private."""
    parts: list[str] = []
    spans: list[Span] = []
    length = at = 0
    for slot in SLOT.finditer(text):
        name = slot[1]
        value = OTHERS[name.removeprefix("no:")](r) if name.startswith("no:") else DRAW[name](r)
        if name.startswith(("phone", "card", "iban", "national_id")):
            value = pasted(r, value)
        parts += [text[at : slot.start()], value]
        at, length = slot.end(), length + slot.start() - at + len(value)
        spans += [Span(length - len(value), length, kind) for kind in KINDS if kind == name.split(":")[0]]
    return Example("".join([*parts, text[at:]]), spans)
