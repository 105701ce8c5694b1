"""Fit "summary-reward", the embedded preference model of one-line summaries, on Debian's package descriptions.

    python -m scripts.models.summary_reward Translation-en

`scripts/datasets/debian/descriptions.py` says where the file comes from. A pair is a maintainer's synopsis and
something else for the same description: another package's synopsis, a part of the description, or a damaged synopsis.
The descriptions are those of packages outside the bundled sample. The trigram model learns from synopses that are in no
pair.
"""

from __future__ import annotations

import argparse
import math
import random
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression

from rlhf_envs.datasets import load_rows
from rlhf_envs.overlap import FUNCTION_WORDS, overlap_words
from rlhf_envs.rewards.ngrams import NgramModel
from rlhf_envs.rewards.summary import FOLDER, SummaryReward, expand, summary_features
from scripts.datasets.debian.descriptions import Row, read_paragraphs, read_rows
from scripts.datasets.writing import letters

TARGET = Path(__file__).resolve().parents[2] / "rlhf_envs/models" / FOLDER
HELD_OUT = 1000  # pairs' packages that only test the fit
MIN_DF = 5  # descriptions that a word of the idf table is in

Damage = Callable[[Row, Sequence[Row], random.Random], str]


def other(row: Row, rows: Sequence[Row], rng: random.Random) -> str:
    """Return another package's synopsis."""
    return rng.choice(rows)["reference"]


def similar(row: Row, rows: Sequence[Row], rng: random.Random) -> str:
    """Return the synopsis, among those of 200 packages, with most words of the description."""
    words = {*overlap_words(row["prompt"])} - FUNCTION_WORDS
    return max((r["reference"] for r in rng.sample(rows, 200)), key=lambda s: len(words & {*overlap_words(s)}))


def opening(row: Row, rows: Sequence[Row], rng: random.Random) -> str:
    """Return the first words of the description."""
    return " ".join(row["prompt"].split()[: rng.randint(3, 14)])


def span(row: Row, rows: Sequence[Row], rng: random.Random) -> str:
    """Return neighbouring words of the description."""
    words, n = row["prompt"].split(), rng.randint(2, 10)
    start = rng.randrange(max(len(words) - n, 1))
    return " ".join(words[start : start + n])


def keywords(row: Row, rows: Sequence[Row], rng: random.Random) -> str:
    """Return content words of the description in any order."""
    words = [word for word in overlap_words(row["prompt"]) if word not in FUNCTION_WORDS]
    return " ".join(rng.sample(words, min(len(words), rng.randint(2, 9))))


def shuffled(row: Row, rows: Sequence[Row], rng: random.Random) -> str:
    """Return the synopsis with its words in another order."""
    words = row["reference"].split()
    return " ".join(rng.sample(words, len(words)))


def cut(row: Row, rows: Sequence[Row], rng: random.Random) -> str:
    """Return the beginning of the synopsis, or nothing."""
    words = row["reference"].split()
    return " ".join(words[: rng.randrange(len(words))])


def shortened(row: Row, rows: Sequence[Row], rng: random.Random) -> str:
    """Return the synopsis without one word."""
    words = row["reference"].split()
    words.pop(rng.randrange(len(words)))
    return " ".join(words)


def replaced(row: Row, rows: Sequence[Row], rng: random.Random) -> str:
    """Return the synopsis with a third of its words from other synopses."""
    words = row["reference"].split()
    for at in rng.sample(range(len(words)), max(len(words) // 3, 1)):
        words[at] = rng.choice(rng.choice(rows)["reference"].split())
    return " ".join(words)


def repeated(row: Row, rows: Sequence[Row], rng: random.Random) -> str:
    """Return the synopsis with some of its words said again."""
    words = row["reference"].split()
    start, n = rng.randrange(len(words)), rng.randint(1, 4)
    return " ".join([*words[: start + n], *words[start : start + n], *words[start + n :]])


def lengthened(row: Row, rows: Sequence[Row], rng: random.Random) -> str:
    """Return the synopsis and a further one, or words of the description."""
    return f"{row['reference']} {rng.choice([other, span, keywords])(row, rows, rng)}"


def half(row: Row, rows: Sequence[Row], rng: random.Random) -> str:
    """Return the beginning of the synopsis and the end of another package's."""
    words, others = row["reference"].split(), rng.choice(rows)["reference"].split()
    return " ".join([*words[: len(words) // 2], *others[len(others) // 2 :]])


KINDS: tuple[Damage, ...] = (
    other, similar, opening, span, keywords, shuffled, cut, shortened, replaced, repeated, lengthened, half,
)  # fmt: skip


def make_idf(texts: Sequence[str]) -> dict[str, float]:
    """Return the inverse document frequency of words, and of a word in one text under the empty word."""
    counts = Counter(word for text in texts for word in {*overlap_words(text)} - FUNCTION_WORDS)
    found = {word: round(math.log(len(texts) / n), 2) for word, n in sorted(counts.items()) if n >= MIN_DF}
    return {"": round(math.log(len(texts) / 2), 2), **found}


def read(path: Path) -> tuple[list[Row], list[str], list[str]]:
    """Return the rows for pairs, the other packages' synopses, and descriptions for word frequencies."""
    sample = load_rows("descriptions")
    texts, synopses = ({letters(row[name]) for row in sample} for name in ("prompt", "reference"))
    rows = [row for row in read_rows(path) if letters(row["prompt"]) not in texts]
    paired = synopses | {letters(row["reference"]) for row in rows}
    found = [(s, text) for _, s, text in read_paragraphs(path) if text and letters(text) not in texts]
    others = {letters(s): s for s, _ in found if letters(s) not in paired}
    return rows, [*others.values()], [*{letters(text): text for _, text in found}.values()]


def fit(rows: Sequence[Row], language: NgramModel, idf: dict[str, float]) -> SummaryReward:
    """Return the preference model of the rows' pairs, not yet scaled."""
    rng, rare = random.Random(0), max(idf.values())
    pairs = [(row, kind(row, rows, rng)) for row in rows for kind in KINDS]
    pairs = [(row, worse) for row, worse in pairs if letters(worse) != letters(row["reference"])]
    texts = [row["prompt"] for row in rows]
    real = summary_features(language, idf, rare, texts, [row["reference"] for row in rows])
    place = {id(row): i for i, row in enumerate(rows)}
    bad = summary_features(language, idf, rare, [row["prompt"] for row, _ in pairs], [worse for _, worse in pairs])
    mean, scale = bad.mean(0), bad.std(0) + 1e-6
    better: NDArray[np.float64] = expand((real - mean) / scale)[[place[id(row)] for row, _ in pairs]]
    differences = better - expand((bad - mean) / scale)
    signs = np.where(np.arange(len(pairs)) % 2, 1, -1)
    model = LogisticRegression(C=0.02, fit_intercept=False, max_iter=300)
    model.fit(differences * signs[:, None], signs)
    return SummaryReward(language, idf, mean, scale, model.coef_[0])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("translation", type=Path)
    rows, others, texts = read(parser.parse_args().translation)
    rng = random.Random(0)
    rng.shuffle(rows)
    held_out, learned = rows[:HELD_OUT], rows[HELD_OUT:]
    print(f"{len(learned):,} descriptions in pairs, {len(held_out):,} held out, {len(others):,} other synopses")
    reward = fit(learned, NgramModel.fit(others), make_idf(texts))
    train = load_rows("descriptions", "train")
    scores = reward.raw([row["prompt"] for row in train], [row["reference"] for row in train])
    reward.gain, reward.shift = 1 / scores.std(), -scores.mean() / scores.std()
    reward.save(TARGET)
    reward = SummaryReward.load(str(TARGET))
    real = reward.raw([row["prompt"] for row in held_out], [row["reference"] for row in held_out])
    for kind in KINDS:
        worse = [kind(row, rows, rng) for row in held_out]
        same = np.array([letters(w) == letters(row["reference"]) for w, row in zip(worse, held_out, strict=True)])
        wins = (real > reward.raw([row["prompt"] for row in held_out], worse))[~same]
        print(f"prefers the synopsis to {kind.__name__}: {wins.mean():.3f} of {len(wins)}")


if __name__ == "__main__":
    main()
