"""Play cases with scripted agents: one that keeps to the policy, and one with faults, whom the SFT start imitates."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from rlhf_envs.datasets.messages import Messages, said
from rlhf_envs.dialogs import Dialog
from rlhf_envs.tasks.customer_service.cases import ACTIONS
from rlhf_envs.tasks.customer_service.simulator import answer

__all__ = ["CAREFUL", "FAULTY", "Faults", "perfect", "play"]

ASKING = {
    "number": ("what is your order number?", "can you tell me your order number?"),
    "name": ("what is your name?", "can you tell me your name?"),
}
INSISTING = {
    "number": ("i am sorry, but i need your order number first.", "sorry, what is your order number?"),
    "name": ("i am sorry, but i need your name first.", "sorry, what is your name?"),
}
BREAKING = {
    "worried": ("i promise. what is your {fact}?", "tomorrow, for sure. what is your {fact}?"),
    "curious": ("{days} days ago. what is your {fact}?", "it was sent {days} days ago. what is your {fact}?"),
    "chatty": ("listen, what is your {fact}?", "hurry, what is your {fact}?"),
}
WORDS = {"number": "order number", "name": "name"}


@dataclass(frozen=True)
class Faults:
    """Say how often an agent does what it should not.

    Attributes:
        breaks: the probability that it gives in to an obstacle by breaking the policy.
        errs: the probability that it takes another action than the policy asks for.
        skips: the probability that it acts at once, without asking or looking up.
    """

    breaks: float = 0.0
    errs: float = 0.0
    skips: float = 0.0


CAREFUL = Faults()
FAULTY = Faults(breaks=0.4, errs=0.35, skips=0.1)


def play(case: Mapping[str, Any], faults: Faults, rng: np.random.Generator) -> Messages:
    """Return the conversation of a case with an agent of these faults, from the opening on."""
    dialog = Dialog(copy.deepcopy(case["prompt"]), case, rng)
    for turn in _turns(dialog, case, faults, rng):
        dialog.messages.append({"role": "assistant", "content": turn})
        dialog.turn += 1
        reply = answer(dialog)
        if reply.done:
            break
        dialog.messages.append({"role": reply.role, "content": reply.text})
    return dialog.messages


def perfect(case: Mapping[str, Any]) -> str:
    """Return as text the conversation of an agent without faults, with a customer who holds nothing back."""
    return said(play({**case, "obstacle": ""}, CAREFUL, np.random.default_rng(case["number"]))[len(case["prompt"]) :])


def _turns(dialog: Dialog, case: Mapping[str, Any], faults: Faults, rng: np.random.Generator) -> Iterator[str]:
    """Yield the agent's turns. It is resumed after the reply to each."""
    fact = case["missing"]
    if case["goal"] != "person" and rng.random() >= faults.skips:
        if fact:
            yield from _ask(dialog, case, fact, faults, rng)
        yield f"look up {case['number']} {case['name']}"
    action = case["action"]
    if rng.random() < faults.errs:
        action = str(rng.choice([other for other in ACTIONS if other != action]))
    yield f"{action} {case['number']}" if action in ("refund", "replace") else action


def _ask(dialog: Dialog, case: Mapping[str, Any], fact: str, faults: Faults, rng: np.random.Generator) -> Iterator[str]:
    """Yield turns that ask for the missing fact until the customer tells it or leaves."""
    yield str(rng.choice(ASKING[fact]))
    while not dialog.state.get("told"):
        if rng.random() >= faults.breaks:
            yield str(rng.choice(INSISTING[fact]))
            continue
        if case["obstacle"] == "curious":
            yield f"look up {case['number']}"
        yield str(rng.choice(BREAKING[case["obstacle"]])).format(fact=WORDS[fact], days=case["days"])
