"""Fit "dialogue-reward", the embedded reward model of chats, to chats between people that they rated.

    python -m scripts.models.dialogue.reward chitchat_dataset-0.9.0-py3-none-any.whl

`scripts/datasets/chitchat.py` says where the file comes from, and which people are of which split; those of "train" are
learned from here. Two linear models share the hashed features of `rlhf_envs.tasks.dialogue.reward`: a logistic
regression tells what a person said from something else (see `pairs`), and a ridge regression gives the rating of a chat
from the mean features of the turns of a piece of it.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix
from sklearn.linear_model import LogisticRegression, Ridge

from rlhf_envs.tasks.dialogue.reward import BUCKETS, FOLDER, DialogueModel, hashed
from scripts.datasets.chitchat import chats_of_splits, read_chats
from scripts.models.dialogue.held_out import print_held_out
from scripts.models.dialogue.pairs import Said, make_pairs, rated_pieces, turns_of

TARGET = Path(__file__).resolve().parents[3] / "rlhf_envs/models" / FOLDER
TURNS, OTHERS = 50_000, 1.5  # turns that are learned from, and how many others are set against each


def as_matrix(turns: Sequence[Said]) -> csr_matrix:
    """Return the hashed features of turns, (n, BUCKETS)."""
    found = [hashed(before, said) for before, said in turns]
    ends = np.cumsum([0, *(len(places) for places, _ in found)])
    values = np.concatenate([np.full(len(places), value) for places, value in found])
    return csr_matrix((values, np.concatenate([places for places, _ in found]), ends), shape=(len(found), BUCKETS))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("wheel", type=Path)
    args = parser.parse_args()
    splits, rng = chats_of_splits(read_chats(args.wheel)), random.Random(0)
    turns = turns_of(splits["train"], rng)
    learned = rng.sample(turns, min(TURNS, len(turns)))
    pairs = [*make_pairs(learned, 2, rng)]
    pairs = rng.sample(pairs, min(len(pairs), round(OTHERS * len(learned))))
    inputs = as_matrix([(t.before, t.said) for t in learned] + [(t.before, other) for t, other in pairs])
    labels = np.repeat([1, 0], [len(learned), len(pairs)])
    model = LogisticRegression(C=1.0, max_iter=150, class_weight="balanced").fit(inputs, labels)
    pieces, ratings = rated_pieces(splits["train"])
    turn_of = np.repeat(np.arange(len(pieces)), [len(piece) for piece in pieces])
    shares = csr_matrix((1 / np.bincount(turn_of)[turn_of], (turn_of, np.arange(len(turn_of)))))
    means = shares @ as_matrix([turn for piece in pieces for turn in piece])
    ridge = Ridge(alpha=3.0).fit(means, ratings)
    arrays = {"turn": model.coef_[0], "intercept": model.intercept_[0], "rating": ridge.coef_}
    raw = means @ ridge.coef_
    reward = DialogueModel({**arrays, "mean": np.asarray(raw.mean()), "deviation": np.asarray(raw.std())})
    reward.save(TARGET)
    reward = DialogueModel.load(str(TARGET))
    print(f"{len(learned):,} turns, {len(pairs):,} others, {len(pieces):,} rated pieces")

    def log_odds(turns: Sequence[Said]) -> NDArray[np.float64]:
        return np.array([reward.log_odds(*turn) for turn in turns])

    print_held_out(log_odds, reward.rating, splits["test"], rng)


if __name__ == "__main__":
    main()
