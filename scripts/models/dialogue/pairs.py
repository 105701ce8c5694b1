"""Make pairs of turns of chats: what a person said there, and something else. Models of chats learn from them."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from scripts.datasets.chitchat import Chat
from scripts.datasets.writing import letters

__all__ = ["KINDS", "MAX_WORDS", "Said", "Turn", "make_pairs", "rated_pieces", "turns_of"]

MAX_WORDS = 30  # of a turn
PIECE = 6  # turns of a rated piece
COMMON = 150  # turns that are said most often
LOWEST = 5.0  # rating of the chats whose turns are imitated

Said = tuple[Sequence[str], str]  # what was said before, the last by the other, and what was said then


class Turn(NamedTuple):
    """Hold a turn: what was said before, the last by the partner, what was said, and all that the person said."""

    before: tuple[str, ...]
    said: str
    own: tuple[str, ...]


class Others(NamedTuple):
    """Hold turns of other chats: any, and those that are said most often."""

    turns: Sequence[str]
    common: Sequence[str]


Other = Callable[[Turn, Others, random.Random], str]


def turns_of(chats: Sequence[Chat], rng: random.Random) -> list[Turn]:
    """Return the turns of chats that are not rated below 5, each after one to three turns before it."""
    found = []
    for chat in (chat for chat in chats if chat.rating is None or chat.rating >= LOWEST):
        texts = [text.lower() for _, text in chat.turns]
        for i in range(1, len(texts)):
            before = tuple(texts[i - 3 if i >= 3 and rng.random() < 0.6 else i - 1 : i])
            if all(len(text.split()) <= MAX_WORDS for text in (*before, texts[i])):
                found.append(Turn(before, texts[i], tuple(texts[i % 2 :: 2])))
    return found


def any_other(turn: Turn, others: Others, rng: random.Random) -> str:
    """Return a turn of another chat."""
    return rng.choice(others.turns)


def common(turn: Turn, others: Others, rng: random.Random) -> str:
    """Return one of the turns that are said most often."""
    return rng.choice(others.common)


def elsewhere(turn: Turn, others: Others, rng: random.Random) -> str:
    """Return what the person said elsewhere in the chat."""
    return rng.choice(turn.own)


def shuffled(turn: Turn, others: Others, rng: random.Random) -> str:
    """Return the turn with its words in another order."""
    words = turn.said.split()
    return " ".join(rng.sample(words, len(words)))


def repeated(turn: Turn, others: Others, rng: random.Random) -> str:
    """Return the turn with some of its words said again, up to three times."""
    words = turn.said.split()
    start, n = rng.randrange(len(words)), rng.randint(1, 4)
    return " ".join([*words[: start + n], *words[start : start + n] * rng.randint(1, 3), *words[start + n :]])


def cut(turn: Turn, others: Others, rng: random.Random) -> str:
    """Return the turn without its last words."""
    words = turn.said.split()
    return " ".join(words[: rng.randrange(max(len(words) - 1, 1))])


def echo(turn: Turn, others: Others, rng: random.Random) -> str:
    """Return what the partner has just said, or a part of it."""
    words = turn.before[-1].split()
    return " ".join(words[rng.randrange(max(len(words) // 2, 1)) :])


def again(turn: Turn, others: Others, rng: random.Random) -> str:
    """Return the person's own turn before, or where that is not known what the partner has said."""
    return turn.before[-2] if len(turn.before) > 1 else turn.before[-1]


def joined(turn: Turn, others: Others, rng: random.Random) -> str:
    """Return the beginning of the turn and the end of another one."""
    words, more = turn.said.split(), rng.choice(others.turns).split()
    return " ".join([*words[: (len(words) + 1) // 2], *more[len(more) // 2 :]])


def run_on(turn: Turn, others: Others, rng: random.Random) -> str:
    """Return the turn and another one."""
    return f"{turn.said} {rng.choice(others.turns)}"


KINDS: Mapping[Other, float] = {
    any_other: 0.33, common: 0.14, elsewhere: 0.08, shuffled: 0.1, repeated: 0.07, cut: 0.05, echo: 0.06, again: 0.05,
    joined: 0.06, run_on: 0.06,
}  # fmt: skip


def make_pairs(
    turns: Sequence[Turn], n: int, rng: random.Random, kind: Other | None = None
) -> Iterator[tuple[Turn, str]]:
    """Yield turns, and for each n other things to say, of `kind` or of the kinds of `KINDS` by their shares."""
    counts = Counter(turn.said for turn in turns)
    others = Others([turn.said for turn in turns], [text for text, _ in counts.most_common(COMMON)])
    for turn in turns:
        for made in [kind] if kind else rng.choices([*KINDS], [*KINDS.values()], k=n):
            text = made(turn, others, rng)
            if letters(text) != letters(turn.said):
                yield turn, text


def rated_pieces(chats: Sequence[Chat]) -> tuple[list[list[Said]], NDArray[np.float64]]:
    """Return pieces of rated chats as their turns, each with up to three before it, and the chats' ratings, (n,)."""
    pieces, ratings = list[list[Said]](), list[float]()
    for chat in (chat for chat in chats if chat.rating is not None):
        texts = [text.lower() for _, text in chat.turns]
        for start in range(0, len(texts) - PIECE + 1, PIECE):
            piece = texts[start : start + PIECE]
            if all(len(text.split()) <= MAX_WORDS for text in piece):
                pieces.append([(piece[max(i - 3, 0) : i], piece[i]) for i in range(1, PIECE)])
                ratings.append(float(chat.rating or 0))
    return pieces, np.array(ratings)
