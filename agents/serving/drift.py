"""Test whether a window of traffic is like a reference window: prompts, lengths, scores and refusals.

One permutation test over all features. The null hypothesis is that the answers of both windows are exchangeable, as
independent draws of the same traffic are. Each feature has a statistic:

- numbers (lengths, scores): the distance D of Kolmogorov and Smirnov between the two windows;
- flags (refusals): the difference of the two shares, squared and divided by its variance;
- words of the prompts: the squared distance between the windows' mean vectors of hashed words, each bucket divided by
  its standard deviation over both windows.

Statistics become comparable by their asymptotic p-values (for the words: of a scaled chi-squared with the first two
moments of a quadratic form, Satterthwaite 1946, https://doi.org/10.2307/3002019). The windows are then shuffled, and a
feature has drifted if few shuffles have any feature as far out: the maximum over features of Westfall and Young
(1993), which is exact for features that depend on each other, and for ties, where Holm's correction would be
conservative. Shuffling ends as soon as the answer is known (Besag and Clifford 1991,
https://doi.org/10.1093/biomet/78.2.301).

The chance of a false alarm is for one window, or for `windows` successive ones together; then each window gets its
share of it (Bonferroni). It holds on average over references: with a fixed reference the windows share its luck. The
test says nothing of traffic that follows the clock: a night differs from a day. Take a reference of whole days, then.
"""

from __future__ import annotations

import io
import re
import unicodedata
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import special

from rlhf_envs.files import replace_file

__all__ = ["BUCKETS", "Drift", "DriftTest", "FeatureDrift", "Row", "Window", "hash_words"]

Array = NDArray[np.float64]

BUCKETS = 64
LONGEST = 20_000  # characters of a prompt whose words are hashed
FEWEST = 5  # values of a feature that each window needs
BLOCK = 100  # shuffles at a time
MOST_SHUFFLES = 100_000
TAIL = 10.0  # shuffles that may lie as far out at the level's edge
# Scripts that write no spaces have a word per character.
WORD = re.compile(
    r"[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff]|[^\W\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff]+"
)
FORMAT = 1


def hash_words(text: str) -> Array:
    """Return which words a text has, hashed: shape (BUCKETS,), of length 1, or all 0 for a text without a word.

    Each word counts once, so that a long text weighs as much as a short one. No text can be read from it.
    """
    words = set(WORD.findall(unicodedata.normalize("NFKC", text[:LONGEST]).casefold()))
    vector = np.bincount([zlib.crc32(word.encode("utf-8", "replace")) % BUCKETS for word in words], minlength=BUCKETS)
    return vector / max(float(np.linalg.norm(vector)), 1e-12)


@dataclass(frozen=True)
class Row:
    """Hold what is known of an answer.

    Attributes:
        words: (BUCKETS,) the prompt's words, see `hash_words`.
        values: maps features to numbers. A feature that is missing was not measured for this answer.
    """

    words: Array
    values: Mapping[str, float]


@dataclass(frozen=True)
class Window:
    """Hold the answers of a time.

    Attributes:
        words: (n, BUCKETS).
        values: maps features to (n,) numbers, NaN where one was not measured.
    """

    words: Array
    values: dict[str, Array] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.words.ndim != 2 or self.words.shape[1] != BUCKETS:
            raise ValueError(f"words must have the shape (n, {BUCKETS}), got {self.words.shape}")
        for name, values in self.values.items():
            if values.shape != (len(self),):
                raise ValueError(f"{name}: expected ({len(self)},) values, got {values.shape}")

    def __len__(self) -> int:
        return len(self.words)

    @classmethod
    def of(cls, rows: Sequence[Row], names: Sequence[str]) -> Window:
        """Make a window of answers, with features of these names."""
        values = {name: np.array([row.values.get(name, np.nan) for row in rows], float) for name in names}
        return cls(np.array([row.words for row in rows], float).reshape(-1, BUCKETS), values)

    def save(self, path: str | Path) -> None:
        """Write the window to a file of NumPy's format npz. It holds no text."""
        buffer = io.BytesIO()
        arrays = {f"value {name}": values for name, values in self.values.items()}
        np.savez_compressed(buffer, allow_pickle=False, format=np.array(FORMAT), words=self.words, **arrays)
        replace_file(Path(path), buffer.getvalue())

    @classmethod
    def load(cls, path: str | Path) -> Window:
        """Read what `save` has written.

        Raises:
            ValueError: the file is no window, or damaged.
        """
        try:
            with np.load(path, allow_pickle=False) as file:
                if int(file["format"]) != FORMAT:
                    raise ValueError(f"format {file['format']} instead of {FORMAT}")
                values = {n.removeprefix("value "): file[n].astype(float) for n in file.files if n.startswith("value ")}
                return cls(file["words"].astype(float), values)
        except FileNotFoundError:
            raise
        except Exception as error:  # zipfile, zlib and numpy have each errors of their own for a damaged file
            raise ValueError(f"{path} is no window of traffic, or damaged: {error}") from error


@dataclass(frozen=True)
class FeatureDrift:
    """Hold what the test found of a feature.

    Attributes:
        reference: the mean in the reference; NaN for the words.
        window: the mean in the window.
        statistic: D, chi-squared, or the words' squared distance per degree of freedom.
        p: the p-value, corrected for all features; 1 where there were too few values.
        drifted: whether this is an alarm.
    """

    reference: float
    window: float
    statistic: float
    p: float
    drifted: bool


@dataclass(frozen=True)
class Drift:
    """Hold what the test found of a window, by feature."""

    features: dict[str, FeatureDrift]
    shuffles: int

    @property
    def drifted(self) -> list[str]:
        """Return the features that have drifted."""
        return [name for name, found in self.features.items() if found.drifted]


class DriftTest:
    """Test windows against a reference.

    Args:
        reference: the traffic to compare with.
        false_alarms: chance that any of `windows` successive windows of the same traffic raises an alarm.
        windows: how many windows that chance is for.
        flags: names of the features that are 0 or 1.
        seed: seeds the shuffles.
    """

    def __init__(
        self,
        reference: Window,
        false_alarms: float = 0.01,
        windows: int = 1,
        flags: Sequence[str] = ("refusal",),
        seed: int | None = None,
    ) -> None:
        if not 0 < false_alarms < 1:
            raise ValueError(f"false_alarms must be above 0 and below 1, got {false_alarms}")
        if windows < 1:
            raise ValueError(f"windows must be at least 1, got {windows}")
        if len(reference) < FEWEST:
            raise ValueError(f"a reference needs at least {FEWEST} answers, got {len(reference)}")
        self.reference, self.flags = reference, frozenset(flags)
        self.level = false_alarms / windows
        # So many shuffles that the level is a whole number of them: then the test is exact.
        self.shuffles = round(TAIL / self.level) - 1
        if self.shuffles > MOST_SHUFFLES:
            raise ValueError(
                f"a false alarm in {1 / self.level:.0f} windows would need {self.shuffles} shuffles, above "
                f"{MOST_SHUFFLES}: ask for {TAIL / MOST_SHUFFLES:g} per window or more"
            )
        self._rng = np.random.default_rng(seed)

    def test(self, window: Window) -> Drift:
        """Test a window. Features that one of the two lacks are left out.

        Raises:
            ValueError: the window has no answer.
        """
        if not len(window):
            raise ValueError("the window has no answer")
        features = self._features(window)
        n, n_reference = len(window) + len(self.reference), len(self.reference)
        inside = np.zeros((1, n), bool)
        inside[0, n_reference:] = True
        seen = {name: feature.surprise(inside)[0] for name, feature in features.items()}
        above, done = self._shuffle(list(features.values()), np.array([*seen.values()]), inside)
        found = {}
        for (name, feature), exceeded in zip(features.items(), above, strict=True):
            p = (1 + exceeded) / (1 + done) if feature.enough(inside[0]) else 1.0
            means = feature.means(inside[0])
            found[name] = FeatureDrift(*means, feature.shown(inside), float(p), bool(p <= self.level + 1e-12))
        return Drift(found, done)

    def _shuffle(self, features: list[_Feature], seen: Array, inside: NDArray[np.bool_]) -> tuple[Array, int]:
        """Shuffle until every feature's answer is known. Return how many shuffles were as far out, and of how many."""
        above, done, edge = np.zeros(len(seen)), 0, round(self.level * (self.shuffles + 1))
        while done < self.shuffles and above.min() < edge:
            block = self._rng.permuted(np.repeat(inside, min(BLOCK, self.shuffles - done), axis=0), axis=1)
            most = np.max([feature.surprise(block) for feature in features], axis=0)
            above += (most[None, :] >= seen[:, None] - 1e-9).sum(axis=1)
            done += len(block)
        return above, done

    def _features(self, window: Window) -> dict[str, _Feature]:
        features: dict[str, _Feature] = {"prompts": _Words(np.concatenate([self.reference.words, window.words]))}
        for name in self.reference.values:
            if name in window.values:
                pooled = np.concatenate([self.reference.values[name], window.values[name]])
                features[name] = _Flags(pooled) if name in self.flags else _Numbers(pooled)
        return features


class _Feature:
    """Hold a feature of all answers, of the reference and the window together.

    `surprise` says how far out a split is: minus the logarithm of its asymptotic p-value. Splits are (n splits, n)
    booleans, True for what counts as the window.
    """

    def __init__(self, values: Array) -> None:
        self.places = np.flatnonzero(np.isfinite(values))
        self.values = values[self.places]

    def surprise(self, splits: NDArray[np.bool_]) -> Array:
        raise NotImplementedError

    def shown(self, split: NDArray[np.bool_]) -> float:
        """Return the statistic of one split, as people read it."""
        raise NotImplementedError

    def enough(self, split: NDArray[np.bool_]) -> bool:
        """Return whether both windows have enough values."""
        n_window = int(split[self.places].sum())
        return min(n_window, len(self.places) - n_window) >= FEWEST

    def means(self, split: NDArray[np.bool_]) -> tuple[float, float]:
        """Return the means of the reference and of the window; NaN of nothing."""
        inside = split[self.places]
        a, b = self.values[~inside], self.values[inside]
        return float(a.mean()) if len(a) else float("nan"), float(b.mean()) if len(b) else float("nan")


class _Numbers(_Feature):
    def __init__(self, values: Array) -> None:
        super().__init__(values)
        order = np.argsort(self.values, kind="stable")
        self.sorted = self.places[order]
        ranked = self.values[order]
        self.ends = np.flatnonzero(np.append(ranked[1:] != ranked[:-1], True)) if len(ranked) else np.array([], int)

    def _distance(self, splits: NDArray[np.bool_]) -> tuple[Array, Array]:
        """Return D, and the factor that its distribution needs; both (n splits,)."""
        inside = np.cumsum(splits[:, self.sorted], axis=1, dtype=np.int32)[:, self.ends]  # (n splits, n values)
        n_window = inside[:, -1:].astype(float)
        n_reference = len(self.sorted) - n_window
        outside = (self.ends + 1)[None, :] - inside
        gaps = np.abs(inside / np.maximum(n_window, 1) - outside / np.maximum(n_reference, 1)).max(axis=1)
        factor = np.sqrt(n_window * n_reference / len(self.sorted))[:, 0]  # 0 where one of both has nothing
        return gaps, factor

    def surprise(self, splits: NDArray[np.bool_]) -> Array:
        if len(self.ends) < 2:
            return np.zeros(len(splits))
        gaps, factor = self._distance(splits)
        return _minus_log(special.kolmogorov(gaps * factor))

    def shown(self, split: NDArray[np.bool_]) -> float:
        return float(self._distance(split)[0][0]) if len(self.ends) > 1 else 0.0


class _Flags(_Feature):
    def _chi_squared(self, splits: NDArray[np.bool_]) -> Array:
        mean = self.values.mean() if len(self.values) else 0.0
        if not 0 < mean < 1:
            return np.zeros(len(splits))
        inside = splits[:, self.places]
        n_window = inside.sum(axis=1).astype(float)
        n_reference = len(self.places) - n_window
        hits = inside @ self.values
        gap = hits / np.maximum(n_window, 1) - (self.values.sum() - hits) / np.maximum(n_reference, 1)
        return gap**2 * (n_window * n_reference / len(self.places)) / (mean * (1 - mean))

    def surprise(self, splits: NDArray[np.bool_]) -> Array:
        return _minus_log(special.chdtrc(1, self._chi_squared(splits)))

    def shown(self, split: NDArray[np.bool_]) -> float:
        return float(self._chi_squared(split)[0])


class _Words(_Feature):
    """Compare mean vectors. The distance is a quadratic form, with the moments of the pooled correlations."""

    def __init__(self, words: Array) -> None:
        self.places = np.arange(len(words))
        self.values = np.full(len(words), np.nan)  # there is no mean to show
        spread = words.std(axis=0)
        used = spread > 1e-12
        self.vectors = ((words - words.mean(axis=0))[:, used] / spread[used]).astype(np.float32)
        correlations = self.vectors.T.astype(float) @ self.vectors / len(words)
        trace, square = float(np.trace(correlations)), float((correlations**2).sum())
        self.scale, self.freedom = (square / trace, trace**2 / square) if trace > 0 else (1.0, 0.0)

    def _distance(self, splits: NDArray[np.bool_]) -> Array:
        n_window = splits.sum(axis=1).astype(float)
        total = splits.astype(np.float32) @ self.vectors  # (n splits, n buckets); the sum over all answers is 0
        n = splits.shape[1]
        return (total.astype(float) ** 2).sum(axis=1) * n / (n_window * (n - n_window)) / self.scale

    def surprise(self, splits: NDArray[np.bool_]) -> Array:
        if not self.freedom:
            return np.zeros(len(splits))
        return _minus_log(special.chdtrc(self.freedom, self._distance(splits)))

    def shown(self, split: NDArray[np.bool_]) -> float:
        return float(self._distance(split)[0]) / self.freedom if self.freedom else 0.0


def _minus_log(p: Array) -> Array:
    return -np.log(np.maximum(p, 1e-300))
