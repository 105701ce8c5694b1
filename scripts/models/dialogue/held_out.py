"""Print how well a model of chats tells and rates chats of people it has not seen."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.stats import spearmanr

from scripts.datasets.chitchat import Chat
from scripts.models.dialogue.pairs import KINDS, Said, make_pairs, rated_pieces, turns_of

__all__ = ["print_held_out"]

TURNS = 1000


def print_held_out(
    log_odds: Callable[[Sequence[Said]], NDArray[np.float64]],
    rating: Callable[[Sequence[Said]], float],
    chats: Sequence[Chat],
    rng: random.Random,
) -> None:
    """Print a row per kind of `KINDS`, how often the person's turn wins and of how many pairs, and how ratings rank.

    Args:
        log_odds: scores n turns, (n,).
        rating: predicts the rating of a piece of a chat.
        chats: those of the test split.
        rng: draws the turns and what is set against them.
    """
    turns = turns_of(chats, rng)
    turns = rng.sample(turns, min(TURNS, len(turns)))
    for kind in KINDS:
        found = [*make_pairs(turns, 1, rng, kind)]
        lead = log_odds([(turn.before, turn.said) for turn, _ in found])
        lead = lead - log_odds([(turn.before, text) for turn, text in found])
        print(f"| {kind.__name__} | {(lead > 0).mean():.3f} | {len(found):,} |")
    pieces, ratings = rated_pieces(chats)
    rank = spearmanr([rating(piece) for piece in pieces], ratings).statistic
    print(f"rank correlation with held-out ratings: {rank:.3f} over {len(pieces)} pieces, mean {ratings.mean():.2f}")
