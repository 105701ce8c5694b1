"""Answer the agent in a chat: as people did to turns like its own, by a language model, or as a person at the keyboard.

A partner is called with the dialogs whose turn has ended, and returns for each what it says, or None to leave.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlhf_envs.datasets import load_rows
from rlhf_envs.datasets.messages import Messages, opening
from rlhf_envs.dialogs import Dialog
from rlhf_envs.models import NAMES, has_place, load_causal_lm, load_tokenizer, model_ends
from rlhf_envs.names import find_name, import_attribute, nearest
from rlhf_envs.overlap import overlap_words

__all__ = ["ModelPartner", "Partner", "People", "Person", "check_partner", "check_said", "find_partner", "is_sensible"]

Partner = Callable[[Sequence[Dialog]], Sequence[str | None]]
PEOPLE, PERSON = "people", "person"
KNOWN = (PEOPLE, PERSON, *(name for name in NAMES if name in ("tiny", "smollm2")))
ECHO = 3  # words
CANDIDATES = 8  # exchanges among which one is drawn
CONTEXT, ANSWER = 0.25, 0.25  # of the similarity, for what was said before, and for the answer itself
WARMTH = 0.05  # of the draw: differences of similarity below it hardly count
MAX_TOKENS = 32  # of a model's reply


def is_sensible(texts: Sequence[str]) -> bool:
    """Return whether the last turn of a chat is one that people answer.

    It is a line with a letter, nothing that its speaker has said already, and no echo of three words or more.

    Args:
        texts: what was said in turn.
    """
    words = overlap_words(texts[-1])
    own = [overlap_words(text) for text in texts[-3::-2]]
    theirs = [overlap_words(text) for text in texts[-2::-2]]
    said = words in own or (len(words) >= ECHO and words in theirs)
    return any(map(str.isalpha, "".join(words))) and "\n" not in texts[-1].strip() and not said


class People:
    """Say what a person said after the turn that is most like the agent's, or leave if that person left there.

    The similarity of two turns is the cosine of their words, weighted by inverse document frequency. It counts half;
    a quarter is that of the turns before them, and a quarter that of the agent's turn and the answer, which are then
    about the same. One of the eight most similar turns whose answer is new in the chat is drawn, the more similar the
    likelier. Without any word in common with what people said, the partner leaves.

    Args:
        chats: turns of chats, and whether each chat ended with the last one.
    """

    def __init__(self, chats: Sequence[tuple[Sequence[str], bool]]) -> None:
        self.replies: list[str | None] = []
        said, before = list[str](), list[str]()
        for turns, ended in chats:
            followed: list[str | None] = [*turns[1:], *([None] if ended else [])]
            for i, reply in enumerate(followed):
                self.replies.append(reply)
                said.append(turns[i])
                before.append(turns[i - 1] if i else "")
        answers = [reply or "" for reply in self.replies]
        self._said, self._before, self._answers = (_Index(texts) for texts in (said, before, answers))

    def __call__(self, dialogs: Sequence[Dialog]) -> list[str | None]:
        """Return what is answered to each dialog."""
        return [self._answer(dialog) for dialog in dialogs]

    def _answer(self, dialog: Dialog) -> str | None:
        texts = [message["content"] for message in dialog.messages]
        likeness = self._said.compare(texts[-1])
        if not likeness.any():
            return None
        likeness = (1 - CONTEXT - ANSWER) * likeness + ANSWER * self._answers.compare(texts[-1])
        likeness += CONTEXT * self._before.compare(texts[-2])
        best = np.argsort(-likeness, kind="stable")[: 4 * CANDIDATES]
        known = {" ".join(overlap_words(text)) for text in texts}
        new = [
            i for i in best if self.replies[i] is None or " ".join(overlap_words(self.replies[i] or "")) not in known
        ]
        found = np.array(new[:CANDIDATES], dtype=np.int64)
        if not len(found):
            return None
        weights = np.exp((likeness[found] - likeness[found[0]]) / WARMTH)
        return self.replies[int(dialog.rng.choice(found, p=weights / weights.sum()))]


class _Index:
    """Compare a text with n texts by the cosine of their weighted words."""

    def __init__(self, texts: Sequence[str]) -> None:
        self.n = len(texts)
        places = defaultdict[str, list[int]](list)
        for i, text in enumerate(texts):
            for word in {*overlap_words(text)}:
                places[word].append(i)
        self.idf = {word: math.log(1 + self.n / len(found)) for word, found in places.items()}
        self.places = {word: np.array(found, dtype=np.int32) for word, found in places.items()}
        squares = np.zeros(self.n)
        for word, found in self.places.items():
            squares[found] += self.idf[word] ** 2
        self.norms = np.sqrt(np.maximum(squares, 1e-9))

    def compare(self, text: str) -> NDArray[np.float64]:
        """Return the cosine with each text, (n,) float64 in [0, 1]; 0 for all if no word is known."""
        found, words = np.zeros(self.n), {*overlap_words(text)}
        for word in sorted(words & self.places.keys()):
            found[self.places[word]] += self.idf[word] ** 2
        unknown = math.log(1 + self.n)
        norm = math.sqrt(sum(self.idf.get(word, unknown) ** 2 for word in words)) or 1.0
        return found / (self.norms * norm)


class ModelPartner:
    """Let a causal language model speak as the partner, with the roles swapped. It is sampled, seeded by the dialog.

    Args:
        model: the name, folder or hub id of a language model.

    Raises:
        ValueError: there is no such model.
    """

    def __init__(self, model: str) -> None:
        self.tokenizer = load_tokenizer(model)
        self.model = load_causal_lm(model).eval()
        self.ends = model_ends(model) or [self.tokenizer.eos_token_id]

    def __call__(self, dialogs: Sequence[Dialog]) -> list[str | None]:
        """Return what the model says to each dialog; it leaves where it says nothing."""
        return [self._answer(dialog) for dialog in dialogs]

    def _answer(self, dialog: Dialog) -> str | None:
        import torch

        text = opening(swapped(dialog.messages), self.tokenizer)
        ids = self.tokenizer(text, return_tensors="pt", add_special_tokens=False)["input_ids"]
        room = (getattr(self.model.config, "max_position_embeddings", None) or 2048) - MAX_TOKENS
        with torch.inference_mode(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(dialog.rng.integers(2**62)))
            ids = ids[:, -room:]
            found = self.model.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                do_sample=True,
                temperature=0.7,
                max_new_tokens=MAX_TOKENS,
                eos_token_id=self.ends,
                pad_token_id=self.tokenizer.pad_token_id,
            )
        said = str(self.tokenizer.decode(found[0, ids.shape[1] :], skip_special_tokens=True))
        return next((line.strip() for line in said.split("\n") if line.strip()), None)


def swapped(messages: Messages) -> Messages:
    """Return a conversation as the partner sees it, from the agent's first turn on: the agent is the user."""
    roles = {"user": "assistant", "assistant": "user"}
    seen = [{**message, "role": roles.get(message["role"], message["role"])} for message in messages]
    first = next(i for i, message in enumerate(seen) if message["role"] == "user")
    return [message for message in seen[:first] if message["role"] == "system"] + seen[first:]


class Person:
    """Ask a person at the keyboard. An empty line, or the end of the input, leaves."""

    def __call__(self, dialogs: Sequence[Dialog]) -> list[str | None]:
        """Show the agent's turns, and return what the person types."""
        return [self._ask(dialog) for dialog in dialogs]

    def _ask(self, dialog: Dialog) -> str | None:
        shown = dialog.messages if dialog.turn == 1 else dialog.messages[-1:]
        names = {"user": "you", "assistant": "agent"}
        for message in shown:
            print(f"{names.get(message['role'], message['role'])}: {as_line(message['content'])}", flush=True)
        try:
            return input("you: ").strip() or None
        except EOFError:
            return None


def as_line(text: str) -> str:
    """Return a text without characters that steer a terminal."""
    return "".join(character if character.isprintable() else " " for character in text)


def check_partner(partner: str | Partner) -> None:
    """Raise a ValueError unless there is such a partner; no model is loaded."""
    if not isinstance(partner, str):
        if not callable(partner):
            raise ValueError(f"partner={partner!r} is no name, and no function from dialogs to what is said")
        return
    name = find_name(partner, KNOWN)
    if name in KNOWN or (":" not in name and has_place(name)):
        return
    if ":" not in name:
        raise ValueError(
            f"unknown partner {partner!r}: {nearest(name, KNOWN)} (or give 'module:function', or a model's folder)"
        )
    found = import_attribute(name, f"partner {name!r}")
    if not callable(found):
        raise ValueError(f"partner {name!r} is {found!r}, which cannot be called with dialogs")


def find_partner(partner: str | Partner) -> Partner:
    """Return the partner of this name, the model of this name, the function at this address, or the one given.

    Args:
        partner: "people", "person", "module:function", "file.py:function", a language model's name or folder, or a
            function.

    Raises:
        ValueError: there is no such partner.
    """
    check_partner(partner)
    return _named_partner(find_name(partner, KNOWN)) if isinstance(partner, str) else partner


@cache
def _named_partner(name: str) -> Partner:
    """Return the partner of a name that `check_partner` has passed; it is made once."""
    if name == PEOPLE:
        rows = load_rows("chats", "train")
        return People([([row["prompt"], *row["turns"]], row["ended"]) for row in rows])
    if name == PERSON:
        return Person()
    if ":" not in name:
        return ModelPartner(name)
    found: Any = import_attribute(name, f"partner {name!r}")
    return found() if isinstance(found, type) else found


def check_said(said: Sequence[str | None], n: int, partner: Any) -> list[str | None]:
    """Return what a partner says, after checking that it is a text or None for each of n dialogs."""
    if isinstance(said, str | Mapping) or not isinstance(said, Sequence) or len(said) != n:
        raise ValueError(
            f"partner {partner!r} returned {said!r} for {n} dialogs: return a list with a text or None each"
        )
    if wrong := [text for text in said if not isinstance(text, str | None)]:
        raise ValueError(f"partner {partner!r} said {wrong[0]!r}: return a text, or None to leave")
    return [*said]
