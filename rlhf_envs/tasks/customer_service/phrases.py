"""Hold what the simulated customers say, and what the demonstrations do: other words in every split."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

__all__ = ["GOALS", "ITEMS", "NAMES", "OPENINGS", "VOICES", "Voice"]

GOALS = ("broken", "late", "unwanted", "person")

NAMES = (
    *("john", "mary", "james", "sarah", "peter", "anna", "david", "jane", "robert", "lisa", "michael", "emma"),
    *("george", "kate", "paul", "julia", "frank", "helen", "jack", "rose", "tom", "alice", "sam", "grace"),
)

ITEMS = {
    "train": ("lamp", "phone", "watch", "camera", "guitar", "coat", "clock", "radio", "book", "chair", "table", "bag"),
    "validation": ("piano", "bike", "dress", "mirror"),
    "test": ("computer", "hat", "ring", "painting"),
}

# What a customer wants, by goal and split. Validation and test share the subject with train and not the sentence.
OPENINGS: dict[str, dict[str, tuple[str, ...]]] = {
    "broken": {
        "train": (
            "my {item} came broken.",
            "the {item} is broken.",
            "the {item} you sent does not work.",
            "i got a broken {item}.",
            "there is a crack in my {item}.",
            "the new {item} stopped working.",
            "my {item} is in two pieces.",
            "the {item} has a crack and does not work.",
        ),
        "validation": ("i think the {item} is broken.", "my {item} has stopped working already."),
        "test": (
            "when i opened the box the {item} was broken.",
            "what a crack, this {item} is no good to me.",
            "this {item} never worked at all.",
            "all i have is the pieces of a {item}.",
        ),
    },
    "late": {
        "train": (
            "my {item} did not come.",
            "where is my {item}?",
            "i am still waiting for the {item}.",
            "the {item} has not come yet.",
            "i never got my {item}.",
            "when does my {item} come?",
            "there is no {item} here, i have waited so long.",
            "the {item} is late.",
        ),
        "validation": ("why has my {item} not come?", "i wait and wait for my {item}."),
        "test": (
            "so where is the {item} that i bought?",
            "how long am i to wait for a {item}?",
            "the {item} is so late, nothing has come.",
            "nobody brought me a {item} yet, i never got it.",
        ),
    },
    "unwanted": {
        "train": (
            "i do not like the {item}.",
            "i do not want the {item} any more.",
            "i want to send the {item} back.",
            "can i give the {item} back?",
            "the {item} is not for me.",
            "i changed my mind about the {item}.",
            "i do not need the {item}.",
            "please take the {item} back.",
        ),
        "validation": ("i want to give back a {item}.", "we do not like this {item} any more."),
        "test": (
            "it turns out that i do not need a {item}.",
            "my wife does not like the {item}, so it goes back.",
            "how do i send back a {item}?",
            "i changed my mind, no {item} for me.",
        ),
    },
    "person": {
        "train": (
            "i want to talk to a person about the {item}.",
            "this {item} is a case for my lawyer.",
            "get me your boss, it is about a {item}.",
            "can i talk to somebody real about my {item}?",
            "my lawyer wants to know about the {item}.",
            "let me talk to your boss about the {item}.",
            "i talk about my {item} to a real person only.",
            "no machine please, a person, it is about the {item}.",
        ),
        "validation": ("is there a real person to talk to about a {item}?", "i will tell my lawyer about this {item}."),
        "test": (
            "you are a machine, and my {item} needs a person.",
            "my lawyer says you owe me a {item}.",
            "about that {item}, i want your boss.",
            "somebody real has to hear about this {item}.",
        ),
    },
}


@dataclass(frozen=True)
class Voice:
    """Hold the further sentences of the customers of a split.

    Attributes:
        facts: by the fact that is missing in the opening ("", "number" or "name"), what follows what they want.
        number: how they tell the order's number.
        name: how they tell their name.
        obstacles: by what holds an answer back ("worried", "curious" or "chatty"), what they say instead.
        puzzled: what they say to a turn that asks for nothing.
    """

    facts: Mapping[str, tuple[str, ...]]
    number: tuple[str, ...]
    name: tuple[str, ...]
    obstacles: Mapping[str, tuple[str, ...]]
    puzzled: tuple[str, ...]


VOICES = {
    "train": Voice(
        facts={
            "": ("order {number}, {name}.", "my order is {number}, i am {name}.", "this is {name}, order {number}."),
            "number": ("i am {name}.", "my name is {name}.", "this is {name}."),
            "name": ("order {number}.", "my order is {number}.", "it is order {number}."),
        },
        number=("order {number}.", "it is {number}.", "my order is {number}."),
        name=("i am {name}.", "my name is {name}.", "{name}."),
        obstacles={
            "worried": ("can you promise that it will be fine?", "will i get it tomorrow?", "will you make this good?"),
            "curious": ("when was it sent?", "first tell me when you sent it.", "how many days ago did you send it?"),
            "chatty": ("i had such a day.", "my dog is ill, you know.", "it is so cold here today."),
        },
        puzzled=("what?", "what do you mean?", "and now?"),
    ),
    "validation": Voice(
        facts={
            "": ("{name}, order {number}.", "it is order {number} and i am {name}."),
            "number": ("{name} here.",),
            "name": ("the order is {number}.",),
        },
        number=("the order is {number}.",),
        name=("it is {name}.",),
        obstacles={
            "worried": ("do you promise me that?",),
            "curious": ("tell me when you sent it.",),
            "chatty": ("my dog had such a day.",),
        },
        puzzled=("what now?",),
    ),
    "test": Voice(
        facts={
            "": ("i am {name} and the order is {number}.", "{name} here, with order {number}."),
            "number": ("{name} is my name.", "it is {name} again."),
            "name": ("i have order {number}.", "that was order {number}."),
        },
        number=("that is {number}.", "i have order {number}."),
        name=("{name} is my name.", "that is {name}."),
        obstacles={
            "worried": ("but will it be fine, do you promise?", "and i have it tomorrow?"),
            "curious": ("but when did you send it?", "say how many days ago it was sent."),
            "chatty": ("it is cold, and i am ill.", "you know, such a day, my poor dog."),
        },
        puzzled=("what is that?", "so what now?"),
    ),
}
