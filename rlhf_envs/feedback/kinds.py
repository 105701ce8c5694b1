"""Define the kinds of feedback: how many completions each needs, and what an answer must look like.

A skip is the value None, for every kind.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    StrictBool,
    StrictInt,
    StrictStr,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_serializer,
    model_validator,
)

from .questions import asked_about
from .records import NewItem
from .settings import Settings

__all__ = [
    "ANSWER_FIELDS",
    "KINDS",
    "answer_beside",
    "check_completions",
    "check_gold",
    "check_item",
    "check_value",
    "is_explained",
    "matches_gold",
]


_DEEPEST = 100


class Answer(BaseModel):
    """Serve as the base of the answers. The validation context has `n` (completions of the item) and `settings`."""

    model_config = ConfigDict(extra="forbid")


class Pairwise(Answer):
    """Say which of two completions is better: an index into the item's completions (never a side), None for a tie.

    `strength` is how much better it is in an annotator's words (1 to 3), `margin` by how much a reward model should
    tell the two apart, and `probability` how likely the chosen one is the better one. Data from elsewhere may have the
    last two. An answer without them (or with 0 and 1, which say the same) has no such keys.
    """

    choice: StrictInt | None = Field(ge=0, le=1)
    strength: StrictInt = Field(default=1, ge=0, le=3)
    margin: float | None = Field(default=None, ge=0, le=1e6, strict=True)
    probability: float | None = Field(default=None, gt=0.5, le=1, strict=True)

    @model_validator(mode="after")
    def _numbers_suit_choice(self) -> Self:
        if self.choice is None:
            if self.margin or self.probability:
                raise ValueError("a tie has neither margin nor probability")
            self.strength = 0
        elif self.strength == 0:
            raise ValueError("strength must be 1, 2 or 3 where a completion is chosen, got 0")
        return self

    @model_serializer(mode="wrap")
    def _without_defaults(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        defaults = {"margin": (None, 0), "probability": (None, 1)}
        return {name: value for name, value in handler(self).items() if value not in defaults.get(name, ())}


class Ranking(Answer):
    """List the indices of all completions, best first."""

    order: list[StrictInt]

    @field_validator("order")
    @classmethod
    def _is_permutation(cls, order: list[int], info: ValidationInfo) -> list[int]:
        n = _context(info)["n"]
        if sorted(order) != list(range(n)):
            raise ValueError(f"must hold each of 0 to {n - 1} once, best first, got {order}")
        return order


class Rating(Answer):
    """Rate a completion by a whole number on the scale of the settings."""

    rating: StrictInt

    @field_validator("rating")
    @classmethod
    def _is_on_scale(cls, rating: int, info: ValidationInfo) -> int:
        low, high = _context(info)["settings"].scale
        if not low <= rating <= high:
            raise ValueError(f"must be from {low} to {high}, got {rating}")
        return rating


class Thumbs(Answer):
    """Call a completion good or bad."""

    up: StrictBool


class Correction(Answer):
    """Give the person's own version of the completion."""

    text: StrictStr

    @field_validator("text")
    @classmethod
    def _is_not_blank(cls, text: str) -> str:
        if not text.strip():
            raise ValueError("must not be blank: write the better completion, or skip")
        return text


class Flags(Answer):
    """List the harms in the completion, as categories of the settings. An empty list says that there are none."""

    harms: list[StrictStr]

    @field_validator("harms")
    @classmethod
    def _are_categories(cls, harms: list[str], info: ValidationInfo) -> list[str]:
        known = _context(info)["settings"].harms
        if unknown := [harm for harm in harms if harm not in known]:
            raise ValueError(f"unknown categories {', '.join(unknown)}; there are {', '.join(known)}")
        return [harm for harm in known if harm in harms]  # without repeats, in the order of the settings


class Questions(Answer):
    """Answer only the questions of the project: the item has none of its own, and the value is `{}`."""


KINDS: dict[str, type[Answer]] = {
    "pairwise": Pairwise,
    "ranking": Ranking,
    "rating": Rating,
    "thumbs": Thumbs,
    "correction": Correction,
    "flags": Flags,
    "questions": Questions,
}

# The field that every answer of a kind has.
_NEEDED = {
    "pairwise": "choice",
    "ranking": "order",
    "rating": "rating",
    "thumbs": "up",
    "correction": "text",
    "flags": "harms",
}
ANSWER_FIELDS = tuple(_NEEDED.values())


def answer_beside(row: Mapping[str, Any], kind: str | None, n_completions: int) -> tuple[str, dict[str, Any]] | None:
    """Return (kind, answer) of a question whose answer stands beside its texts: `{"completions": [...], "choice": 0}`.

    Args:
        row: the question.
        kind: its kind. None tells it by the answer.
        n_completions: how many completions it has.

    Returns:
        The kind and the answer, which is not checked; None if there is no answer.
    """
    for name in _NEEDED if kind is None else {kind} & _NEEDED.keys():
        if row.get(_NEEDED[name]) is not None:
            with suppress(ValueError):
                check_completions(name, n_completions)
                fields = [field for field in KINDS[name].model_fields if row.get(field) is not None]
                return name, {field: row[field] for field in fields}
    return None


def check_completions(kind: str, n_completions: int) -> None:
    """Raise a ValueError unless the kind is known and suits the number of completions."""
    if kind not in KINDS:
        raise ValueError(f"unknown kind {kind!r}; there are {', '.join(KINDS)}")
    wanted, suits = {
        "pairwise": ("2 completions", n_completions == 2),
        "ranking": ("at least 2 completions", n_completions >= 2),
        "questions": ("at least 1 completion", n_completions >= 1),
    }.get(kind, ("1 completion", n_completions == 1))
    if not suits:
        raise ValueError(f"an item of kind {kind!r} must have {wanted}, got {n_completions}")


def check_item(item: NewItem, settings: Settings) -> None:
    """Raise a ValueError that names the field unless the item can be stored and judged."""
    check_completions(item.kind, len(item.completions))
    if item.kind == "questions" and not asked_about(settings.questions, item.kind, len(item.completions)):
        raise ValueError(
            "an item of kind 'questions' asks the questions of the project, and there are none for it: "
            "rlhf feedback settings study.toml"
        )
    if item.kind == "questions" and item.gold is not None and not item.gold.get("answers"):
        raise ValueError(
            "gold: an item of kind 'questions' has no question of its own whose answer is known: write what is "
            'expected of the project\'s questions, as {"answers": {"helpful": 5}}'
        )
    for name, text in (("prompt", item.prompt), ("source", item.source), ("policy", item.policy)):
        if not isinstance(text, str):
            raise ValueError(f"{name} must be a string, got {_shown(text)}")
    if isinstance(item.completions, str) or not all(isinstance(text, str) for text in item.completions):
        raise ValueError(f"completions must be strings, got {_shown(item.completions)}")
    if isinstance(item.overlap, bool) or not isinstance(item.overlap, int) or not 1 <= item.overlap < 2**31:
        raise ValueError(f"overlap must be a whole number from 1 to 2147483647, got {_shown(item.overlap)}")
    most = item.max_overlap
    if most is not None and (type(most) is not int or not item.overlap <= most < 2**31):
        raise ValueError(f"max_overlap must be a whole number from the overlap ({item.overlap}) on, got {_shown(most)}")
    if isinstance(item.priority, bool) or not isinstance(item.priority, int | float) or not abs(item.priority) <= 1e300:
        raise ValueError(f"priority must be a number of at most 1e300, got {_shown(item.priority)}")
    if _is_deeper(item.meta, _DEEPEST):
        raise ValueError(f"meta is nested more than {_DEEPEST} levels deep")
    try:
        json.dumps(item.meta, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ValueError(f"meta must be something that JSON can hold: {error}") from None
    try:
        check_gold(item.kind, item.gold, len(item.completions), settings)
    except ValueError as error:
        raise ValueError(f"gold: {error}") from None


def _is_deeper(value: Any, levels: int) -> bool:
    """Return whether lists and objects are nested more than so many levels deep."""
    inside = [value]
    for _ in range(levels):
        inside = [
            part
            for outer in inside
            if isinstance(outer, dict | list)
            for part in (outer.values() if isinstance(outer, dict) else outer)
        ]
    return any(isinstance(part, dict | list) for part in inside)


def check_value(
    kind: str, value: Mapping[str, Any] | None, n_completions: int, settings: Settings | None = None
) -> dict[str, Any] | None:
    """Check an answer and return it in its one form.

    Args:
        kind: a key of `KINDS`.
        value: the answer, or None for a skip.
        n_completions: how many completions the item has.
        settings: the store's settings (the scale, the harms). Without them the defaults apply.

    Returns:
        The answer with defaults filled in, or None for a skip.

    Raises:
        ValueError: the value is no answer of this kind. The message names the field.
    """
    check_completions(kind, n_completions)
    if value is None:
        return None
    try:
        answer = KINDS[kind].model_validate(value, context={"n": n_completions, "settings": settings or Settings()})
    except ValidationError as error:
        found = "; ".join(
            f"{'.'.join(map(str, problem['loc'])) or kind}: {problem['msg'].removeprefix('Value error, ')}"
            for problem in error.errors()
        )
        raise ValueError(f"{_shown(value)} is not an answer of kind {kind!r}: {found}") from None
    return answer.model_dump()


def check_gold(
    kind: str, gold: Mapping[str, Any] | None, n_completions: int, settings: Settings | None = None
) -> dict[str, Any] | None:
    """Check what a gold question expects, as `check_value` does. Its "answers" are left as they are."""
    if gold is None or "answers" not in gold:
        return check_value(kind, gold, n_completions, settings)
    value = {name: part for name, part in gold.items() if name != "answers"}
    return {**(check_value(kind, value, n_completions, settings) or {}), "answers": gold["answers"]}


def is_explained(item: NewItem) -> bool:
    """Return whether an item is a gold question with an explanation, so that a training may use it."""
    explanation = item.meta.get("explanation")
    return item.gold is not None and isinstance(explanation, str) and bool(explanation.strip())


def matches_gold(kind: str, expected: Mapping[str, Any], value: Mapping[str, Any]) -> bool:
    """Return whether an answer is the expected one of a gold question. Strength and white space do not count.

    What it expects of the project's own questions is not looked at, see `answers.matches`.
    """
    expected = {name: part for name, part in expected.items() if name != "answers"}
    if kind == "pairwise":
        return bool(expected["choice"] == value["choice"])
    if kind == "flags":
        return set(expected["harms"]) == set(value["harms"])
    if kind == "correction":
        return " ".join(expected["text"].split()) == " ".join(value["text"].split())
    return expected == value


def _context(info: ValidationInfo) -> dict[str, Any]:
    assert info.context is not None, "answers are validated by check_value"
    return info.context


def _shown(value: object, limit: int = 200) -> str:
    text = repr(value)
    return text if len(text) <= limit else f"{text[:limit]}… ({len(text)} characters)"
