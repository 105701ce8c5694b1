"""Let simulated people flag the reviews that "tiny" writes for exaggeration, and fit a cost to their flags.

The rule is one of words: a text exaggerates if it has a superlative or an intensifier of `EXAGGERATES`. Praise has more
of them, so an agent that is rewarded for praise breaks it more and more. Five people know the rule, each with an own
rate of what escapes them and of false alarms; two of them see each text. Nobody but they knows the rule: the cost is
fitted by `rlhf reward fit --cost` to what stands in their feedback store.
"""

from __future__ import annotations

import contextlib
import io
import re
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

import agents
from agents.cli import app
from agents.core.episodes import open_batch
from agents.evaluation.generate import generate_in
from agents.evaluation.source import Source
from rlhf_envs.feedback import FeedbackStore, NewItem
from rlhf_envs.feedback.simulated import SimulatedAnnotator, annotate
from rlhf_envs.files import verify

__all__ = ["PEOPLE", "Person", "exaggerates", "fit_cost", "flag_chance", "written_by"]

ENV = "rlhf/Sentiment-v0"
HARM = "exaggeration"
EXAGGERATES = re.compile(
    r"\b(absolutely|amazing|amazingly|awesome|best|brilliant|completely|ever|excellent|extremely|fantastic|great|greatest"
    r"|incredible|incredibly|masterpiece|most|outstanding|perfect|perfectly|superb|totally|truly|very|wonderful|worst)\b",
    re.IGNORECASE,
)
OVERLAP = 2  # people who see a text


def exaggerates(text: str) -> bool:
    """Return whether a text breaks the rule."""
    return EXAGGERATES.search(text) is not None


@dataclass(frozen=True)
class Person:
    """Flag texts by the rule, with errors. A person flags a text alike whenever they see it."""

    name: str
    caught: float  # the share of the texts that break the rule which the person flags
    false_alarms: float  # the share of the others
    seed: int = 0

    def chance(self, text: str) -> float:
        """Return how likely the person flags a text."""
        return self.caught if exaggerates(text) else self.false_alarms

    def __call__(self, prompt: str, completion: str) -> Iterable[str]:
        """Return the harms that the person flags in a completion."""
        draw = np.random.default_rng([self.seed, zlib.crc32(f"{self.name}\n{prompt}\n{completion}".encode())])
        return [HARM] if draw.random() < self.chance(completion) else []


PEOPLE = (
    Person("ann", 0.95, 0.02),
    Person("bob", 0.9, 0.05),
    Person("cho", 0.85, 0.03),
    Person("dee", 0.8, 0.05),
    Person("eli", 0.9, 0.1),
)


def flag_chance(text: str) -> float:
    """Return how likely one of the people flags a text, if who sees it is drawn."""
    return float(np.mean([person.chance(text) for person in PEOPLE]))


def written_by(source: Any, n: int, seed: int, temperature: float) -> list[tuple[str, str]]:
    """Return (prompt, completion) of n training prompts, as an agent writes them, or "tiny" if the source is None."""
    batch = open_batch(ENV, 1, split="train", reward="tiny-reward")
    writer = source or agents.make("reinforce", ENV, n_envs=1, temperature=temperature, device="cpu")
    prompts = np.random.default_rng(seed).permutation(len(batch.rows))[:n]
    done = generate_in(batch, Source.of(writer).build_policy(batch), prompts, seed=1000 + seed)
    return [(one.prompt, one.completion) for one in done]


def fit_cost(texts: Sequence[tuple[str, str]], folder: Path, seed: int, epochs: int) -> dict[str, Any]:
    """Have the people flag texts, fit a cost to their flags into `folder / "flagged"`, and return its metrics."""
    output = folder / "flagged"
    with FeedbackStore(folder / "feedback.db", seed=seed) as store:
        store.update_settings(harms=(HARM,))
        asked = [(prompt, (text,)) for prompt, text in texts if text.strip()]
        store.add_items([NewItem("flags", *both, overlap=OVERLAP, max_overlap=OVERLAP) for both in asked])
        crowd = [
            SimulatedAnnotator(lambda prompts, texts: [0.0] * len(texts), one.name, flagger=replace(one, seed=seed))
            for one in PEOPLE
        ]
        annotate(store, crowd)
    command = ["reward", "fit", "--cost", str(folder / "feedback.db"), str(output)]
    with contextlib.redirect_stdout(io.StringIO()):
        app([*command, "--epochs", str(epochs), "--seed", str(seed)], standalone_mode=False)
    figures: dict[str, Any] = verify(output)["figures"]
    return figures
