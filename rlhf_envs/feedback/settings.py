"""Hold the settings of a project: what is asked, of whom, and how the work is run."""

from __future__ import annotations

import base64
from dataclasses import dataclass, field
from typing import Literal
from urllib.parse import urlsplit

from .questions import Question, check_questions, check_wording
from .taking_part import Consent, Panel, Training

__all__ = [
    "ASKED_SETTINGS",
    "EVENTS",
    "LANGUAGES",
    "MOVING_SETTINGS",
    "NEXT_ITEM",
    "Cost",
    "Settings",
    "Webhooks",
]

# The settings that say what is asked. A change of them begins a new version, see `store.versions`.
ASKED_SETTINGS = ("scale", "harms", "questions", "wording")
# The settings on which the meaning of answers rests. An export takes them along to another store.
MOVING_SETTINGS = (*ASKED_SETTINGS, "guidelines")

# The languages of the annotators' page, by the name that each gives itself.
LANGUAGES = {"en": "English", "zh": "中文", "de": "Deutsch", "es": "Español", "fr": "Français", "ja": "日本語"}

# How the next of equally urgent items is chosen: by age, by lot, or by a score that `rlhf feedback prioritise` writes.
NEXT_ITEM = ("age", "random", "uncertainty", "disagreement", "gain")

# What a webhook can tell.
EVENTS = ("judgement.created", "judgement.undone", "item.finished", "project.finished")


@dataclass(frozen=True)
class Cost:
    """Say what labels cost.

    Attributes:
        per_label: money for each judgement; skips cost nothing by it.
        per_hour: money for each hour that people spend at items, skips included.
        currency: the name of the money, such as "EUR".
    """

    per_label: float = 0.0
    per_hour: float = 0.0
    currency: str = ""

    def __post_init__(self) -> None:
        if not (0 <= self.per_label < 1e9 and 0 <= self.per_hour < 1e9):
            raise ValueError(f"cost must be numbers of at least 0, got {self.per_label!r} and {self.per_hour!r}")
        if len(self.currency) > 10:
            raise ValueError(f"currency must have at most 10 characters, got {self.currency!r}")


@dataclass(frozen=True)
class Webhooks:
    """Say where a project's events are sent, by the Standard Webhooks specification. Without a `url` none are.

    Attributes:
        url: an address that begins with http:// or https://.
        events: which events are sent.
        secret: signs them: "whsec_" and the base64 of 24 to 64 bytes.
    """

    url: str = ""
    events: tuple[str, ...] = EVENTS
    secret: str = ""

    def __post_init__(self) -> None:
        try:
            parts = urlsplit(self.url)
            is_address = bool(parts.scheme in ("http", "https") and parts.hostname and parts.port != 0)
        except ValueError:
            is_address = False
        if self.url and not (is_address and self.url.isascii() and self.url.isprintable() and " " not in self.url):
            raise ValueError(f"webhooks: url must begin with http:// or https://, got {self.url!r}")
        if unknown := [event for event in self.events if event not in EVENTS]:
            raise ValueError(f"webhooks: unknown event {unknown[0]!r}; there are {', '.join(EVENTS)}")
        try:
            size = len(base64.b64decode(self.secret.removeprefix("whsec_"), validate=True))
        except ValueError:
            size = 0
        if (self.url or self.secret) and not (self.secret.startswith("whsec_") and 24 <= size <= 64):
            raise ValueError(
                'webhooks: secret must be "whsec_" and the base64 of 24 to 64 bytes; `rlhf feedback webhook-secret` '
                "draws one"
            )


@dataclass(frozen=True)
class Settings:
    """Hold what applies to the whole project. `FeedbackStore.update_settings` changes it.

    Attributes:
        guidelines: the text that annotators are shown, in Markdown, at first and after each change.
        scale: the lowest and the highest rating, from -1000 to 1000 and at most 100 apart. Once there are ratings it
            cannot change.
        harms: the categories of "flags", each of 1 to 60 characters.
        lease_seconds: how long an annotator has for an item before another may take it.
        paused: whether no items are given out.
        language: the language of the page for annotators whose browser asks for none of the page's: "en", "zh", "de",
            "es", "fr", "ja".
        questions: what the project asks of its own about items, in this order, beside the question of their kind.
        wording: maps kinds of items to the words of their question: pairwise = "Which answer helps more?".
        next_item: which of equally urgent items is asked next. "random" takes the first in an order that is drawn
            as items are added, the same for all annotators. "age" takes the oldest. "uncertainty", "disagreement" and
            "gain" go by scores that `rlhf feedback prioritise` writes; items without a score come after the others, in
            random order. Stores that were made before "random" was the default keep "age".
        overlap: "fixed" asks as many annotators as an item says. "adaptive" asks two about every item that is added
            from then on, and one more at a time while their answers decide nothing. Gold questions and corrections
            stay fixed.
        max_overlap: up to how many are asked if the overlap adapts; an item that asks for more gets more.
        suggestions: "after" shows annotators what a model suggests (`rlhf feedback suggest`), after their own answer.
            "off" shows it to nobody.
        explanations: when annotators may look at the words on which a reward model's score rests
            (`rlhf feedback explain`): "before" their own answer, "after" it, or "off". Seeing a model's view sways
            judges, also where the model is wrong (Chen et al. 2023, https://arxiv.org/abs/2301.07255; Beck et al. 2025,
            https://arxiv.org/abs/2509.08514), so answers are marked by whether it was looked at before.
        render: how texts are shown until an annotator chooses: "plain", as they are, or "markdown", rendered with code,
            tables and formulas.
        consent: what people agree to before their first item.
        training: how people are trained before their first item.
        panel: how people come from a panel and go back to it.
        break_minutes: after how many minutes of work a break is suggested. 0 suggests none.
        mask_private: whether private data (e-mail addresses, phone numbers, cards and the like) is masked in the
            questions, answers and comments that come in from then on. It needs the extra `privacy`.
        adjudicators: names of annotators who, beside the admins, may give final answers to items.
        cost: what labels cost, for the admin's figures.
        webhooks: where the project's events are sent.
    """

    guidelines: str = ""
    scale: tuple[int, int] = (1, 5)
    harms: tuple[str, ...] = ("hate", "harassment", "violence", "sexual", "self-harm", "dangerous", "privacy")
    lease_seconds: float = 600.0
    paused: bool = False
    language: str = "en"
    questions: tuple[Question, ...] = ()
    wording: dict[str, str] = field(default_factory=dict)
    next_item: str = "random"
    overlap: str = "fixed"
    max_overlap: int = 3
    suggestions: str = "off"
    explanations: str = "off"
    render: Literal["plain", "markdown"] = "plain"
    consent: Consent = field(default_factory=Consent)
    training: Training = field(default_factory=Training)
    panel: Panel = field(default_factory=Panel)
    break_minutes: float = 0.0
    mask_private: bool = False
    adjudicators: tuple[str, ...] = ()
    cost: Cost = Cost()
    webhooks: Webhooks = Webhooks()

    def __post_init__(self) -> None:
        low, high = self.scale
        if not (type(low) is int and type(high) is int and low < high):  # True is an int, but no rating
            raise ValueError(f"scale must be two whole numbers, the lowest and the highest rating, got {self.scale!r}")
        if low < -1000 or high > 1000 or high - low > 100:
            raise ValueError(f"scale must lie within -1000 to 1000, its ends at most 100 apart, got {self.scale!r}")
        if isinstance(self.harms, str) or not all(isinstance(harm, str) and harm.strip() for harm in self.harms):
            raise ValueError(f"harms must be names of categories, got {self.harms!r}")
        if any(len(harm) > 60 for harm in self.harms) or len(set(self.harms)) < len(self.harms):
            raise ValueError(f"harms must have 60 characters at most and differ from each other, got {self.harms!r}")
        if not 0 < self.lease_seconds < float("inf"):
            raise ValueError(f"lease_seconds must be a number above 0, got {self.lease_seconds!r}")
        if not isinstance(self.guidelines, str):
            raise ValueError(f"guidelines must be text, got {self.guidelines!r}")
        _check_switches({"paused": self.paused, "mask_private": self.mask_private})
        if self.language not in LANGUAGES:
            raise ValueError(f"language must be one of {', '.join(LANGUAGES)}, got {self.language!r}")
        for name, choices in (
            ("next_item", NEXT_ITEM),
            ("overlap", ("fixed", "adaptive")),
            ("suggestions", ("off", "after")),
            ("explanations", ("off", "after", "before")),
        ):
            if getattr(self, name) not in choices:
                raise ValueError(f"{name} must be one of {', '.join(choices)}, got {getattr(self, name)!r}")
        if type(self.max_overlap) is not int or not 3 <= self.max_overlap <= 1000:
            raise ValueError(f"max_overlap must be a whole number from 3 to 1000, got {self.max_overlap!r}")
        check_questions(self.questions)
        check_wording(self.wording)
        if self.render not in ("plain", "markdown"):
            raise ValueError(f"render must be 'plain' or 'markdown', got {self.render!r}")
        if not 0 <= self.break_minutes <= 1440:
            raise ValueError(f"break_minutes must be from 0 to 1440, got {self.break_minutes!r}")
        if isinstance(self.adjudicators, str) or not all(isinstance(name, str) for name in self.adjudicators):
            raise ValueError(f"adjudicators must be names of annotators, got {self.adjudicators!r}")


def _check_switches(values: dict[str, object]) -> None:
    for name, value in values.items():
        if not isinstance(value, bool):
            raise ValueError(f"{name} must be True or False, got {value!r}")
