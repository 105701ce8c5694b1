"""Tell whether a summary says what its text says, by the model "summary-consistency", which agents never train against.

It is a lexical entailment model, in the manner of Glickman, Dagan and Koppel (2005, *A Probabilistic Classification
Approach for Lexical Textual Entailment*): each word of the summary is looked for in the text, as itself, as a word of
its family, or as a word that occurs in the same descriptions. A logistic regression on what was found, its squares and
its products says how probably the summary is consistent. `scripts/models/consistency.py` fits it. NumPy alone computes
it. Departure: order, negations, numbers and names are features too.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rlhf_envs.models import resolve
from rlhf_envs.overlap import FUNCTION_WORDS, overlap_words
from rlhf_envs.rewards.summary import expand, longest_copy

__all__ = ["FEATURES", "FOLDER", "NEGATIONS", "ConsistencyModel", "WordTable", "load_consistency"]

FOLDER = "summary-consistency"
MATCHES = (
    "support", "loose_support", "similarity", "lowest_similarity", "topic", "lowest_topic", "rarest_added",
    "next_rarest_added", "n_added", "added_commonness", "lowest_commonness", "n_added_unknown", "n_matched",
)  # fmt: skip
CLAIMS = (
    "new_numbers", "numbers", "new_names", "names", "negations", "new_negations", "wrong_negations", "lost_negations",
)  # fmt: skip
ORDER = ("near_pairs", "reversed_pairs", "far_pairs", "copied_pairs", "longest_copy", "same_role", "wrong_role")
FORM = ("words", "text_words")
FEATURES = (*MATCHES, *CLAIMS, *ORDER, *FORM)
NEGATIONS = frozenset(["no", "not", "never", "without", "cannot", "non", "nor", "neither", "t"])  # "t" as in "don't"
ROLES = frozenset(
    ["for", "to", "from", "in", "with", "by", "of", "on", "as", "using", "via", "into", "over", "between"]
)
STEM = 5  # characters by which words of one family are told
NEAR, REACH = 5, 3  # words between which a pair is near, and words that a negation reaches
LEAST_KNOWN = 0.45  # share of a text's words that the model has to know
MOST_WORDS = 60  # of a text: it learned from texts of 14 to 40 words


class WordTable:
    """Hold what is known of words: which descriptions they are in, and how often a synopsis adds them.

    Args:
        words: the words, (V,).
        vectors: (V, D), of words that occur in the same descriptions alike.
        rarity: (V,), the inverse document frequency in nats.
        commonness: (V,), the log-odds with which a synopsis that has the word has it not from its description.
        rarest: the rarity of a word that is not among them.
    """

    def __init__(
        self,
        words: Sequence[str],
        vectors: NDArray[np.floating],
        rarity: NDArray[np.floating],
        commonness: NDArray[np.floating],
        rarest: float,
    ) -> None:
        self.words, self.index = list(words), {word: i for i, word in enumerate(words)}
        norms = np.linalg.norm(np.asarray(vectors, np.float64), axis=1, keepdims=True)
        self.vectors = np.concatenate([vectors / np.maximum(norms, 1e-9), np.zeros((1, vectors.shape[1]))])
        self.rarity = np.append(np.asarray(rarity, np.float64), rarest)
        self.commonness = np.append(np.asarray(commonness, np.float64), min(float(np.min(commonness)), 0.0))

    def ids(self, words: Sequence[str]) -> NDArray[np.int64]:
        """Return the places of words, (n,); unknown ones have the last place."""
        return np.array([self.index.get(word, len(self.index)) for word in words], dtype=np.int64)


class ConsistencyModel:
    """Tell how probably a summary says nothing that its text does not say.

    Args:
        table: what is known of words.
        arrays: `mean` and `scale` of the features, (m,), `coef` of the expanded ones, (m + m (m + 1) / 2,), and
            `intercept`.
    """

    def __init__(self, table: WordTable, arrays: Mapping[str, NDArray[np.floating]]) -> None:
        self.table = table
        self.arrays = {name: np.asarray(array, np.float64) for name, array in arrays.items()}

    def probability(self, texts: Sequence[str], summaries: Sequence[str]) -> NDArray[np.float64]:
        """Return how probably each summary is consistent with its text, (n,) float64 in [0, 1].

        A summary without a word claims nothing, and is given 0. NaN stands for what the model does not know: a text of
        which it knows too few words, as in another language, or of more than `MOST_WORDS`.
        """
        found = 1 / (1 + np.exp(-self.log_odds(texts, summaries)))
        empty = np.array([not overlap_words(summary) for summary in summaries], dtype=bool)
        known = np.array([self.knows(text) for text in texts], dtype=bool)
        return np.where(known, np.where(empty, 0.0, found), np.nan)

    def knows(self, text: str) -> bool:
        """Return whether a text is like those from which the model learned: of few words, which it knows."""
        words = overlap_words(text)
        known = sum(word in self.table.index or word in FUNCTION_WORDS for word in words)
        return 0 < len(words) <= MOST_WORDS and known >= LEAST_KNOWN * len(words)

    def log_odds(self, texts: Sequence[str], summaries: Sequence[str]) -> NDArray[np.float64]:
        """Return the log-odds that the summaries are consistent, (n,) float64."""
        features = consistency_features(self.table, texts, summaries)
        expanded = expand((features - self.arrays["mean"]) / self.arrays["scale"])
        return np.asarray(expanded @ self.arrays["coef"] + self.arrays["intercept"])

    def save(self, folder: str | Path) -> None:
        """Write `weights.npz` and `words.json`. Vectors are in steps of 1/127, rarity and commonness of 1/16."""
        folder, table = Path(folder), self.table
        folder.mkdir(parents=True, exist_ok=True)
        bytes_of = {
            "vectors": np.round(table.vectors[:-1] * 127),
            "rarity": np.round(table.rarity[:-1] * 16),
            "commonness": np.round(table.commonness[:-1] * 16),
        }
        stored = {name: np.clip(values, -128, 255).astype(np.int16) for name, values in bytes_of.items()}
        stored["vectors"] = stored["vectors"].astype(np.int8)
        arrays = {name: array.astype(np.float32) for name, array in self.arrays.items()}
        np.savez_compressed(folder / "weights.npz", rarest=table.rarity[-1], **stored, **arrays)  # type: ignore[arg-type]
        text = json.dumps(table.words, ensure_ascii=False, separators=(",", ":"))
        (folder / "words.json").write_text(text + "\n", encoding="utf-8")

    @classmethod
    def load(cls, name: str = FOLDER) -> ConsistencyModel:
        """Load a model that `save` wrote, by the name of an embedded model or from a folder."""
        folder = Path(resolve(name))
        words = json.loads((folder / "words.json").read_text(encoding="utf-8"))
        with np.load(folder / "weights.npz", allow_pickle=False) as stored:
            vectors = stored["vectors"].astype(np.float64)
            table = WordTable(words, vectors, stored["rarity"] / 16, stored["commonness"] / 16, float(stored["rarest"]))
            return cls(table, {name: stored[name] for name in ("mean", "scale", "coef", "intercept")})


@cache
def load_consistency() -> ConsistencyModel:
    """Return the embedded model, loaded once."""
    return ConsistencyModel.load()


def consistency_features(table: WordTable, texts: Sequence[str], summaries: Sequence[str]) -> NDArray[np.float64]:
    """Return the features of n summaries, (n, len(FEATURES)) float64, in the order of `FEATURES`."""
    rows = []
    for text, summary in zip(texts, summaries, strict=True):
        source, given = overlap_words(text), overlap_words(summary)
        claims = [*claim_features(source, given, summary), *order_features(source, given)]
        rows.append([*match_features(table, source, given), *claims, np.log1p(len(given)), np.log1p(len(source))])
    return np.array(rows, dtype=np.float64).reshape(len(rows), len(FEATURES))


def content(words: Sequence[str]) -> list[str]:
    """Return the different words that are neither function words nor negations, in their order."""
    return [word for word in dict.fromkeys(words) if word not in FUNCTION_WORDS and word not in NEGATIONS]


def match_features(table: WordTable, source: Sequence[str], given: Sequence[str]) -> list[float]:
    """Return how well the words of a summary are found in the text, and how rare those are that are not."""
    ours, theirs = content(given), content(source)
    if not ours or not theirs:
        return [0.0] * len(MATCHES)
    own, there = table.ids(ours), table.ids(theirs)
    exact = np.array([word in {*theirs} for word in ours])
    stems = {word[:STEM] for word in theirs}
    loose = exact | np.array([word[:STEM] in stems for word in ours])
    likeness = np.where(exact, 1.0, (table.vectors[own] @ table.vectors[there].T).max(axis=1))
    topic = table.vectors[own] @ table.vectors[there].mean(axis=0)
    weight = table.rarity[own] / max(table.rarity[own].sum(), 1e-9)
    added, rarity = ~loose, np.sort(table.rarity[own][~loose])[::-1]
    common = table.commonness[own][added]
    return [
        float(weight @ exact),
        float(weight @ loose),
        float(weight @ likeness),
        float(likeness.min()),
        float(weight @ topic),
        float(topic.min()),
        float(rarity[0]) if len(rarity) else 0.0,
        float(rarity[1]) if len(rarity) > 1 else 0.0,
        float(added.sum()),
        float(common.mean()) if len(common) else 0.0,
        float(common.min()) if len(common) else 0.0,
        float((own[added] == len(table.index)).sum()),
        float(loose.sum()),
    ]


def claim_features(source: Sequence[str], given: Sequence[str], summary: str) -> list[float]:
    """Return how many numbers, names and negations a summary has, and how many are not the text's."""
    there = {*source}
    numbers = [word for word in given if any(letter.isdigit() for letter in word)]
    named = [word for word in summary.split()[1:] if any(letter.isupper() for letter in word)]
    names = [word for part in named for word in overlap_words(part)]
    ours, theirs = negated(given), negated(source)
    both = {*content(given)} & there
    negations = sum(word in NEGATIONS for word in given)
    return [
        float(sum(word not in there for word in numbers)),
        float(len(numbers)),
        float(sum(word not in there for word in names)),
        float(len(names)),
        float(negations),
        float(negations > 0 and not there & NEGATIONS),
        float(len((ours - theirs) & both)),
        float(len((theirs - ours) & both)),
    ]


def negated(words: Sequence[str]) -> set[str]:
    """Return the words that follow a negation closely."""
    places = [i for i, word in enumerate(words) if word in NEGATIONS]
    return {word for i in places for word in words[i + 1 : i + 1 + REACH]}


def order_features(source: Sequence[str], given: Sequence[str]) -> list[float]:
    """Return whether neighbouring words stand near each other in the text too, in the same order and role."""
    places: dict[str, list[int]] = {}
    for i, word in enumerate(source):
        places.setdefault(word, []).append(i)
    known = [word for word in given if word in places and word not in FUNCTION_WORDS and word not in NEGATIONS]
    near = reverse = far = 0
    for first, second in itertools.pairwise(known):
        steps = [b - a for a in places[first] for b in places[second]]
        ahead, back = (any(0 < sign * step <= NEAR for step in steps) for sign in (1, -1))
        near, reverse, far = near + ahead, reverse + (back and not ahead), far + (not ahead and not back)
    pairs, n = [*itertools.pairwise(given)], max(len(known) - 1, 1)
    copied = {*itertools.pairwise(source)}
    roles, told = role_pairs(given), role_pairs(source)
    shared = [(role, word) for role, word in roles if word in places]
    right = sum(pair in told for pair in shared)
    others = {word for _, word in told}
    wrong = sum(pair not in told and pair[1] in others for pair in shared)
    return [
        near / n,
        reverse / n,
        far / n,
        sum(pair in copied for pair in pairs) / max(len(pairs), 1),
        longest_copy(source, given) / max(len(given), 1),
        right / max(len(shared), 1),
        wrong / max(len(shared), 1),
    ]


def role_pairs(words: Sequence[str]) -> set[tuple[str, str]]:
    """Return the prepositions of a text, each with the words up to two places behind it."""
    return {(word, after) for i, word in enumerate(words) if word in ROLES for after in words[i + 1 : i + 3]}
