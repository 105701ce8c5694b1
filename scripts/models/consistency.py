"""Fit "summary-consistency", which tells whether a summary says what its text says, on Debian's package descriptions.

    python -m scripts.models.consistency Translation-en
    python -m scripts.models.consistency Translation-en --other aclsum.jsonl

`scripts/datasets/debian/descriptions.py` says where the file comes from. The regression learns from the training split
of the bundled sample, from which "summary-reward" has learned nothing: a maintainer's synopsis or a piece of the
description, which are consistent with it, and other packages' synopses and damaged ones, which are not. What is known
of words comes from descriptions that are neither in the sample nor in a pair of "summary-reward". Held-out descriptions
test it, also with damage of kinds from which it did not learn (`UNSEEN`), and with `--other` the test split of a file
of other texts with summaries, such as `scripts/datasets/aclsum.py` writes.
"""

from __future__ import annotations

import argparse
import random
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix
from scipy.sparse.linalg import svds
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from rlhf_envs.datasets import load_rows
from rlhf_envs.overlap import overlap_words
from rlhf_envs.rewards.consistency import (
    FOLDER,
    NEGATIONS,
    ConsistencyModel,
    WordTable,
    consistency_features,
    content,
)
from rlhf_envs.rewards.summary import expand
from rlhf_envs.tasks.summarize import share_of
from scripts.datasets.debian.descriptions import Row, is_summary, read_paragraphs
from scripts.datasets.writing import letters
from scripts.models.summary_reward import half, opening, other, shortened, similar, span

TARGET = Path(__file__).resolve().parents[2] / "rlhf_envs/models" / FOLDER
WORDS, DIMENSIONS = 5000, 16  # of the table
LONGEST = 150  # words of a description that is counted
SMOOTHING = 3.0  # synopses that are added to both counts of a word's commonness
LEAST_LOG_ODDS = -6.0

Change = Callable[[Row, Sequence[Row], random.Random], str | None]


class Swaps:
    """Replace words of a text by such as stand after the same word in other synopses, or by other names and numbers."""

    def __init__(self, rows: Sequence[Row]) -> None:
        self.after: dict[str, list[str]] = {}
        self.names: list[str] = []
        for row in rows:
            words = row["reference"].split()
            for before, word in zip(["", *words], words, strict=False):
                self.after.setdefault(before.lower(), []).append(word)
            self.names += [word for word in words[1:] if is_name(word)]

    def fitting(self, words: Sequence[str], text: str, rng: random.Random, names: bool) -> str | None:
        """Return words with one content word replaced by one that neither they nor the text have; None if none is."""
        known = {word[:5] for word in overlap_words(text + " " + " ".join(words))}
        for at in rng.sample(range(len(words)), len(words)):
            if not content(overlap_words(words[at])) or (names and not is_name(words[at])):
                continue
            found = self.names if names else self.after.get(words[at - 1].lower() if at else "", [])
            for word in rng.sample(found, min(len(found), 8)):
                if (new := content(overlap_words(word))) and not known & {one[:5] for one in new}:
                    return " ".join([*words[:at], word, *words[at + 1 :]])
        return None


def is_name(word: str) -> bool:
    """Return whether a word has a capital letter or a digit."""
    return any(letter.isupper() or letter.isdigit() for letter in word)


def synopsis(row: Row, rows: Sequence[Row], rng: random.Random) -> str:
    """Return the maintainer's synopsis."""
    return row["reference"]


def dropped(row: Row, rows: Sequence[Row], rng: random.Random) -> str:
    """Return neighbouring words of the description without one of them that is no negation."""
    words = span(row, rows, rng).split()
    places = [i for i, word in enumerate(words) if not NEGATIONS & {*overlap_words(word)}]
    if len(words) > 2 and places:
        words.pop(rng.choice(places))
    return " ".join(words)


def negated(row: Row, rows: Sequence[Row], rng: random.Random) -> str | None:
    """Return the synopsis, or a piece of the description, with a negation, or without the one it has."""
    words = rng.choice([synopsis, span])(row, rows, rng).split()
    kept = [word for word in words if word.lower() not in NEGATIONS]
    if len(kept) < len(words):
        return " ".join(kept)
    places = [i for i, word in enumerate(words) if content(overlap_words(word))]
    if not places:
        return None
    at = rng.choice(places)
    return " ".join([*words[:at], rng.choice(["not", "no", "without", "never", "non", "cannot"]), *words[at:]])


def added(row: Row, rows: Sequence[Row], rng: random.Random) -> str:
    """Return the synopsis and the last words of another one."""
    return f"{row['reference']} {' '.join(other(row, rows, rng).split()[-rng.randint(2, 4) :])}"


def make_swaps(rows: Sequence[Row]) -> tuple[Change, ...]:
    """Return three changes, each with words of these rows: a word of the synopsis, of a piece, and a name."""
    swaps = Swaps(rows)

    def swapped(row: Row, rows: Sequence[Row], rng: random.Random) -> str | None:
        """Return the synopsis with a word replaced by one that follows the same word in another synopsis."""
        return swaps.fitting(row["reference"].split(), row["prompt"], rng, names=False)

    def swapped_piece(row: Row, rows: Sequence[Row], rng: random.Random) -> str | None:
        """Return neighbouring words of the description with one of them replaced so."""
        return swaps.fitting(span(row, rows, rng).split(), row["prompt"], rng, names=False)

    def swapped_name(row: Row, rows: Sequence[Row], rng: random.Random) -> str | None:
        """Return the synopsis with a name or number of another one in the place of its own."""
        return swaps.fitting(row["reference"].split(), row["prompt"], rng, names=True)

    return swapped, swapped_piece, swapped_name


OPPOSITES = (
    "client server", "read write", "reader writer", "reading writing", "encoder decoder", "encode decode",
    "import export", "input output", "32-bit 64-bit", "static dynamic", "local remote", "synchronous asynchronous",
    "compress decompress", "compression decompression", "graphical textual", "gui command-line", "online offline",
    "runtime development", "free commercial", "fast slow", "simple complex", "small large", "high low", "new old",
    "upload download", "encrypt decrypt", "encryption decryption", "create delete", "add remove", "start stop",
    "open close", "public private", "single multiple", "modern ancient", "automatic manual",
    "multi-threaded single-threaded", "lightweight heavyweight", "minimal complete", "2d 3d", "audio video",
    "linux windows", "hardware software", "frontend backend", "front-end back-end", "kernel userspace", "binary text",
    "parallel sequential",
)  # fmt: skip
OPPOSITE = {a: b for pair in OPPOSITES for a, b in (pair.split(), pair.split()[::-1])}
LANGUAGES = (
    "Python", "Perl", "Ruby", "Java", "Haskell", "Go", "PHP", "JavaScript", "OCaml", "Rust", "Lua", "Erlang", "R",
)  # fmt: skip


def replaced(words: Sequence[str], others: Callable[[str], str | None]) -> str | None:
    """Return words with the first one for which there is another replaced by it; None if there is none."""
    for at, word in enumerate(words):
        if (new := others(word)) is not None:
            return " ".join([*words[:at], new, *words[at + 1 :]])
    return None


def opposite(row: Row, rows: Sequence[Row], rng: random.Random) -> str | None:
    """Return the synopsis with a word turned into its opposite, which the description does not have."""
    there = {*row["prompt"].lower().split()}

    def find(word: str) -> str | None:
        new = OPPOSITE.get(word.lower())
        return new if new not in there else None

    return replaced(row["reference"].split(), find)


def other_language(row: Row, rows: Sequence[Row], rng: random.Random) -> str | None:
    """Return the synopsis with another programming language, which the description does not name."""
    there = {*row["prompt"].replace(",", " ").replace(".", " ").split()}
    free = [name for name in LANGUAGES if name not in there]
    return replaced(row["reference"].split(), lambda word: rng.choice(free) if word in LANGUAGES else None)


def exchanged(row: Row, rows: Sequence[Row], rng: random.Random) -> str | None:
    """Return the synopsis with what stands before and behind a preposition exchanged: "A for B" is "B for A"."""
    words = row["reference"].split()
    places = [
        i for i, word in enumerate(words) if word in ("for", "from", "to", "in", "with", "of") if 0 < i < len(words) - 1
    ]
    if not places:
        return None
    at = rng.choice(places)
    return " ".join([*words[at + 1 :], words[at], *words[:at]])


def own_word(row: Row, rows: Sequence[Row], rng: random.Random) -> str | None:
    """Return the synopsis with a content word replaced by another one of the description, so that it has all words."""
    words = row["reference"].split()
    free = [*{*content(overlap_words(row["prompt"]))} - {*overlap_words(row["reference"])}]
    places = [i for i, word in enumerate(words) if content(overlap_words(word))]
    if not places or not free:
        return None
    at = rng.choice(places)
    return " ".join([*words[:at], rng.choice(sorted(free)), *words[at + 1 :]])


CONSISTENT: tuple[Change, ...] = (synopsis, opening, span, dropped, shortened)
WRONG: tuple[Change, ...] = (other, similar, half, added, negated)
UNSEEN: tuple[Change, ...] = (opposite, other_language, exchanged, own_word)


def read_others(path: Path) -> list[tuple[str, str]]:
    """Return texts and synopses of packages that are neither in the sample nor in a pair of "summary-reward"."""
    sample = {letters(row["prompt"]) for row in load_rows("descriptions")}
    found = {letters(text): (text, synopsis) for _, synopsis, text in read_paragraphs(path) if text}
    pairs = [pair for key, pair in found.items() if key not in sample and not is_summary(pair[1], pair[0])]
    return [(text, synopsis) for text, synopsis in pairs if len(text.split()) <= LONGEST]


def make_table(pairs: Sequence[tuple[str, str]]) -> WordTable:
    """Return what pairs of text and synopsis tell of words: positive pointwise mutual information, factorised."""
    documents = [{*content(overlap_words(f"{text} {synopsis}"))} for text, synopsis in pairs]
    counts = Counter(word for words in documents for word in words)
    vocabulary = sorted(counts, key=lambda word: (-counts[word], word))[:WORDS]
    index = {word: i for i, word in enumerate(vocabulary)}
    found = [[index[word] for word in sorted(words) if word in index] for words in documents]
    ends = np.cumsum([0, *map(len, found)])
    flat = np.concatenate([np.array(ids, dtype=np.int64) for ids in found])
    matrix = csr_matrix((np.ones(len(flat), np.float32), flat, ends), shape=(len(found), len(vocabulary)))
    joint = (matrix.T @ matrix).tocoo()
    n = np.asarray(matrix.sum(axis=0)).ravel()
    information = np.log(joint.data * len(found) / (n[joint.row] * n[joint.col]))
    kept = (information > 0) & (joint.data >= 3)
    shape = (len(vocabulary), len(vocabulary))
    positive = csr_matrix((information[kept], (joint.row[kept], joint.col[kept])), shape=shape, dtype=np.float64)
    left, values, _ = svds(positive, k=DIMENSIONS, v0=np.ones(len(vocabulary)))
    rarity = np.log(len(found) / n)
    return WordTable(vocabulary, left * np.sqrt(values), rarity, commonness(pairs, vocabulary), np.log(len(found) / 2))


def commonness(pairs: Sequence[tuple[str, str]], vocabulary: Sequence[str]) -> NDArray[np.float64]:
    """Return the log-odds with which a synopsis that has a word has it not from its description, (V,)."""
    free, taken = Counter[str](), Counter[str]()
    for text, synopsis in pairs:
        there = {word[:5] for word in overlap_words(text)}
        for word in content(overlap_words(synopsis)):
            (taken if word[:5] in there else free)[word] += 1
    odds = [np.log((free[word] + SMOOTHING / 4) / (taken[word] + SMOOTHING)) for word in vocabulary]
    return np.maximum(np.array(odds), LEAST_LOG_ODDS)


def made(kinds: Sequence[Change], rows: Sequence[Row], rng: random.Random) -> Iterator[tuple[Row, str]]:
    """Yield a row and a changed text for each row and kind that gives one other than the synopsis."""
    for row in rows:
        for kind in kinds:
            text = kind(row, rows, rng)
            if text and (kind is synopsis or letters(text) != letters(row["reference"])):
                yield row, text


def features_of(table: WordTable, pairs: Sequence[tuple[Row, str]]) -> NDArray[np.float64]:
    """Return the features of texts and summaries, (n, m)."""
    return consistency_features(table, [row["prompt"] for row, _ in pairs], [text for _, text in pairs])


def fit(table: WordTable, rows: Sequence[Row], c: float) -> tuple[ConsistencyModel, int, int]:
    """Return the model of the rows' descriptions, and how many consistent and other texts it learned from."""
    rng = random.Random(0)
    right, wrong = [*made(CONSISTENT, rows, rng)], [*made((*WRONG, *make_swaps(rows)), rows, rng)]
    # A maintainer's synopsis is the form that counts, so that it weighs as much as all pieces of descriptions.
    weights = np.array([3.0 if text == row["reference"] else 1.0 for row, text in right])
    features = np.concatenate([features_of(table, right), features_of(table, wrong)])
    mean, scale = features.mean(0), features.std(0) + 1e-6
    labels = np.repeat([1, 0], [len(right), len(wrong)])
    balance = np.concatenate([weights / weights.sum(), np.full(len(wrong), 1 / len(wrong))]) * len(labels) / 2
    model = LogisticRegression(C=c, max_iter=400).fit(expand((features - mean) / scale), labels, sample_weight=balance)
    arrays = {"mean": mean, "scale": scale, "coef": model.coef_[0], "intercept": model.intercept_[0]}
    return ConsistencyModel(table, arrays), len(right), len(wrong)


def print_held_out(model: ConsistencyModel, rows: Sequence[Row], rng: random.Random) -> None:
    """Print how often each kind is judged rightly, and how well each wrong kind is told from the synopses.

    The AUC of `support`, the share of the content words that the description has, stands beside the model's.
    """
    synopses = [(row, row["reference"]) for row in rows]
    real = model.probability([row["prompt"] for row, _ in synopses], [text for _, text in synopses])
    shares: dict[bool, list[float]] = {True: [], False: []}
    swaps = make_swaps(rows)
    print("| text | is consistent | judged rightly | AUC against synopses | that of `support` | n |")
    print("|---|---|---|---|---|---|")
    for kind in (*CONSISTENT, *WRONG, *swaps, *UNSEEN):
        pairs = [*made([kind], rows, rng)]
        found = model.probability([row["prompt"] for row, _ in pairs], [text for _, text in pairs])
        good = kind in CONSISTENT
        right = float(((found > 0.5) == good).mean())
        if kind not in UNSEEN:
            shares[good].append(right)
        labels = np.repeat([1, 0], [len(real), len(found)])
        auc = roc_auc_score(labels, np.concatenate([real, found]))
        plain = roc_auc_score(labels, [share_of(text, row["prompt"]) for row, text in (*synopses, *pairs)])
        new = " (unseen)" if kind in UNSEEN else ""
        aucs = " | " if good else f"{auc:.3f} | {plain:.3f}"
        print(f"| {kind.__name__}{new} | {'yes' if good else 'no'} | {right:.3f} | {aucs} | {len(found)} |")
    print(
        f"balanced accuracy over the kinds that it learned from: {np.mean([np.mean(s) for s in shares.values()]):.3f}"
    )


def print_others(model: ConsistencyModel, rows: Sequence[Row]) -> None:
    """Print how well summaries of other texts are told from those of the text three rows before."""
    texts, own = ([row[name] for row in rows] for name in ("prompt", "reference"))
    true, false = model.log_odds(texts, own), model.log_odds(texts, own[3:] + own[:3])
    auc = roc_auc_score(np.repeat([1, 0], len(rows)), np.concatenate([true, false]))
    print(
        f"{len(rows)} other texts: AUC {auc:.3f}; of their own summaries {(true > 0).mean():.3f} are judged consistent"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("translation", type=Path)
    parser.add_argument("--regularisation", type=float, default=0.1, help="C of the logistic regression")
    parser.add_argument("--split", default="test", help="the split of the sample that is held out")
    parser.add_argument("--other", type=Path, help="a file of texts and summaries of another kind")
    args = parser.parse_args()
    table = make_table(read_others(args.translation))
    model, n_right, n_wrong = fit(table, load_rows("descriptions", "train"), args.regularisation)
    model.save(TARGET)
    size = sum(file.stat().st_size for file in TARGET.iterdir())
    print(f"{n_right:,} consistent texts, {n_wrong:,} others, {len(table.words):,} words, {size / 1e3:.0f} kB")
    model = ConsistencyModel.load(str(TARGET))
    print_held_out(model, load_rows("descriptions", args.split), random.Random(0))
    if args.other:
        print_others(model, load_rows(args.other, "test", ("prompt", "reference")))


if __name__ == "__main__":
    main()
