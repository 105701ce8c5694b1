"""Find annotators who answer at random or by the side, with few false accusations however often one looks.

Both checks are sequential tests by betting (Ramdas et al., 2023, https://doi.org/10.1214/23-STS894): the evidence is a
likelihood ratio that, for an annotator who does nothing wrong, ever exceeds 1 / alpha with probability alpha at most
(Ville's inequality), so an admin may look after every answer, and whoever was suspected once stays so. Each of m
annotators is asked for m times as much (Bonferroni).

- Side: that a pair's choice goes by the side, against an honest leaning of up to `SIDE_LEANING`. The sides are drawn at
  random, so without a leaning each is chosen half of the time. The alternative is a uniform prior over all shares.
- Random: that an answer does not depend on the texts, against an annotator who answers like the others but for a share
  of up to `LAPSES`. How the others answer given what the rest says is counted from them; annotators weigh less in this
  the more they seem to answer at random. That likelihood is estimated, so the bound holds about. It takes three
  annotators with items in common, most of whom read.

The answer's strength counts: calling the worse of two texts "much better" says more than "slightly better".
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from .records import Judgement

__all__ = ["ALPHA", "CANNOT_TELL", "AnnotatorCheck", "check_annotators", "describe_checks", "find_suspects"]

ALPHA = 0.01  # the probability of any false accusation, for each of the two checks over all annotators
SIDE_LEANING = 0.1  # from one half: how far an honest annotator's share of the left may lie
LAPSES = 0.05  # the share of answers that an honest annotator may give at random
ENOUGH = 10  # answers that others gave too, by three annotators; with fewer, nobody is called fine
CANNOT_TELL = f"cannot be told: it takes three annotators with {ENOUGH} answers that others gave too"
_PRIOR = 0.1  # expected share of annotators who answer at random
_ROUNDS = 12
_BINS = 7  # of what the others say
_MOST_LEVELS = 7  # of answers on a long scale
_GRID = np.linspace(0, 1, 101)  # shares of random answers
_HALF_DROP = 1.92  # of the log likelihood, at the ends of a 95% interval: half of chi-squared's 3.84


@dataclass(frozen=True)
class AnnotatorCheck:
    """Hold what one annotator's answers say about how they were made.

    Attributes:
        n: answers to something that others answered too; each pair of a ranking of k counts 2 / k.
        random_share: the share of them that seems to be given at random, nan if n is 0; with its 95% interval.
        random_evidence: the likelihood ratio for random answers against an honest annotator, as a logarithm, at its
            largest so far.
        left: how often the first shown won, of `sided` comparisons that had a winner.
        left_p: the p-value of the exact binomial test that it wins half of the time, times the number of annotators.
        side_evidence: the likelihood ratio for choosing by the side, as a logarithm, at its largest so far.
        at_random, by_side: whether the evidence suffices to say so.
    """

    n: float
    random_share: float
    random_interval: tuple[float, float]
    random_evidence: float
    left: int
    sided: int
    left_interval: tuple[float, float]
    left_p: float
    side_evidence: float
    at_random: bool
    by_side: bool


@dataclass(frozen=True)
class _Answers:
    """Hold the answers of one kind as arrays, one row per answer to a unit (an item, or a pair of a ranking)."""

    level: np.ndarray  # (n,) int64, from 0
    unit: np.ndarray  # (n,) int64
    who: np.ndarray  # (n,) int64, index of the annotator
    order: np.ndarray  # (n,) place in time
    weight: np.ndarray  # (n,) how much the answer counts
    n_levels: int
    symmetric: bool  # swapping the completions turns level k into n_levels - 1 - k


def check_annotators(judgements: Iterable[Judgement]) -> dict[str, AnnotatorCheck]:
    """Return the checks of everybody who answered, by name.

    Comparisons, ratings and thumbs count; corrections and flags do not. Gold questions may be among the items.
    """
    given = sorted((j for j in judgements if j.value is not None), key=lambda judgement: judgement.id)
    names = sorted({judgement.annotator for judgement in given})
    kinds = [answers for kind in _LEVELS if (answers := _read(kind, given, names)) is not None]
    log_random, shares, n = _compare(kinds, len(names))
    sides = [_side([j for j in given if j.annotator == name], len(names)) for name in names]
    bar = math.log(max(1, len(names)) / ALPHA)
    checks = {}
    for k, name in enumerate(names):
        left, sided, interval, p, evidence = sides[k]
        share, low, high = shares[k]
        checks[name] = AnnotatorCheck(
            n=float(n[k]),
            random_share=share,
            random_interval=(low, high),
            random_evidence=float(log_random[k]),
            left=left,
            sided=sided,
            left_interval=interval,
            left_p=p,
            side_evidence=evidence,
            at_random=bool(log_random[k] >= bar),
            by_side=evidence >= bar,
        )
    return checks


def describe_checks(checks: dict[str, AnnotatorCheck]) -> list[str]:
    """Return a sentence for each suspect, or one that says why there is none."""
    lines = []
    for name, check in checks.items():
        if check.by_side:
            low, high = check.left_interval
            lines.append(
                f"{name} seems to choose by the side: the first shown in {check.left} of {check.sided} comparisons "
                f"(95% interval {low:.0%} to {high:.0%}; p = {check.left_p:.1g} over all annotators)"
            )
        elif check.at_random:
            low, high = check.random_interval
            lines.append(
                f"{name} seems to click at random: {check.random_share:.0%} of the answers (95% interval {low:.0%} to "
                f"{high:.0%}), by {check.n:.0f} that others gave too"
            )
    if lines:
        return lines
    if not _can_tell(checks):
        return [f"who clicks at random {CANNOT_TELL}"]
    return ["nobody seems to click at random or to choose by the side"]


def find_suspects(judgements: Iterable[Judgement]) -> dict[str, AnnotatorCheck] | None:
    """Return the checks of those who seem to click at random or to choose by the side. None if that cannot be told."""
    checks = check_annotators(judgements)
    found = {name: check for name, check in checks.items() if check.at_random or check.by_side}
    return found if found or _can_tell(checks) else None


def _can_tell(checks: Mapping[str, AnnotatorCheck]) -> bool:
    return sum(check.n >= ENOUGH for check in checks.values()) >= 3


def _side(own: Sequence[Judgement], m: int) -> tuple[int, int, tuple[float, float], float, float]:
    """Return (first shown won, comparisons with a winner, interval, corrected p-value, log evidence)."""
    from scipy.special import betaln
    from scipy.stats import binomtest

    first_won = [int(won) for judgement in own if (won := _first_won(judgement)) is not None]
    left, n = sum(first_won), len(first_won)
    if n == 0:
        return 0, 0, (0.0, 1.0), 1.0, 0.0
    test = binomtest(left, n)
    interval = test.proportion_ci(method="wilson")
    seen = np.arange(1, n + 1)
    won = np.cumsum(first_won)
    share = np.clip(won / seen, 0.5 - SIDE_LEANING, 0.5 + SIDE_LEANING)  # the honest one that suits the answers best
    honest = won * np.log(share) + (seen - won) * np.log(1 - share)
    evidence = float((betaln(won + 1, seen - won + 1) - honest).max())
    return left, n, (float(interval.low), float(interval.high)), min(1.0, float(test.pvalue) * m), evidence


def _first_won(judgement: Judgement) -> bool | None:
    """Return whether the completion shown first was put above the second. None if neither was, or nothing compared."""
    value, sides = judgement.value, judgement.sides
    if value is None or len(sides) < 2:
        return None
    if judgement.kind == "pairwise":
        return None if value["choice"] is None else bool(value["choice"] == sides[0])
    if judgement.kind == "ranking":
        return bool(value["order"].index(sides[0]) < value["order"].index(sides[1]))
    return None


def _compare(kinds: Sequence[_Answers], m: int) -> tuple[np.ndarray, list[tuple[float, float, float]], np.ndarray]:
    """Return each annotator's log evidence for random answers, (share at random, low, high), and answers compared."""
    trust, evidence, n = np.ones(m), np.zeros(m), np.zeros(m)
    profile = np.zeros((m, len(_GRID)))
    for _ in range(_ROUNDS if kinds else 0):
        parts = [_likelihoods(answers, trust, m) for answers in kinds]
        who, order, blind, mixed, weight = (np.concatenate(column) for column in zip(*parts, strict=True))
        now = np.zeros(m)
        for a in range(m):
            own = np.flatnonzero(who == a)
            own = own[np.argsort(order[own], kind="stable")]
            if not len(own):
                continue
            n[a], profile[a] = weight[own].sum(), mixed[own].sum(axis=0)
            blindly = np.logaddexp.reduce(np.cumsum(blind[own], axis=0), axis=1) - math.log(blind.shape[1])
            honestly = np.cumsum(mixed[own][:, _GRID <= LAPSES], axis=0).max(axis=1)
            now[a], evidence[a] = (blindly - honestly)[-1], (blindly - honestly).max()
        before, trust = trust, 1 / (1 + np.exp(np.clip(now, -50, 50)) * _PRIOR / (1 - _PRIOR))
        if np.abs(trust - before).max() < 1e-3:
            break
    shares = []
    for k in range(m):
        inside = _GRID[profile[k] >= profile[k].max() - _HALF_DROP]
        best = float(_GRID[profile[k].argmax()]) if n[k] else math.nan
        shares.append((best, float(inside.min()), float(inside.max())))
    return evidence, shares, n


def _likelihoods(answers: _Answers, trust: np.ndarray, m: int) -> tuple[np.ndarray, ...]:
    """Return for each answer that others gave too how likely it is.

    Returns:
        Who gave it (n,), its place in time (n,), the log likelihoods of answering blindly in three ways (n, 3) and of
        each share of random answers (n, grid), and its weight (n,).
    """
    level, who, k = answers.level, answers.who, answers.n_levels
    weights = trust[who]
    position = 2 * level / (k - 1) - 1  # -1 to 1
    totals = np.bincount(answers.unit, weights * position)[answers.unit] - weights * position
    counts = np.bincount(answers.unit, weights)[answers.unit] - weights
    others = totals / (counts + 1)  # little said by few lies near the middle
    shared = np.bincount(answers.unit)[answers.unit] > 1
    table = _conditional(answers, others, shared, trust, m)
    marginal = (np.bincount(level, weights, minlength=k) + 1) / (weights.sum() + k)
    if answers.symmetric:
        marginal = (marginal + marginal[::-1]) / 2
    guess = (marginal + 1 / k) / 2
    blind, honest = np.zeros((len(level), 3)), np.ones(len(level))
    for a in range(m):
        own = np.flatnonzero((who == a) & shared)
        x = level[own]
        blind[own] = np.stack([np.full(len(x), -math.log(k)), np.log(marginal[x]), np.log(_own_habit(x, k))], axis=1)
        honest[own] = table(a, own)
    mixed = np.log((1 - _GRID) * honest[shared, None] + _GRID * guess[level[shared]][:, None])
    w = answers.weight[shared]
    return who[shared], answers.order[shared], w[:, None] * blind[shared], w[:, None] * mixed, w


def _conditional(answers: _Answers, others: np.ndarray, shared: np.ndarray, trust: np.ndarray, m: int) -> Any:
    """Count how honest annotators answer, given what the others say.

    Returns:
        `(annotator, rows) -> (rows,)`, the probability of each of the annotator's answers by everybody else's counts.
    """
    k = answers.n_levels
    said = np.concatenate([others[shared], -others[shared]]) if answers.symmetric else others[shared]
    edges = np.unique(np.quantile(said, np.arange(1, _BINS) / _BINS)) if len(said) else np.zeros(0)
    if answers.symmetric:
        edges = np.unique(np.round((edges - edges[::-1]) / 2, 9))
    place = np.searchsorted(edges, others)
    counts = np.zeros((m, len(edges) + 1, k))  # by annotator, so that their own can be left out
    rows = np.flatnonzero(shared)
    np.add.at(
        counts, (answers.who[rows], place[rows], answers.level[rows]), (trust[answers.who] * answers.weight)[rows]
    )
    if answers.symmetric:
        counts += counts[:, ::-1, ::-1]
    everybody = counts.sum(axis=0)

    def probability(annotator: int, rows: np.ndarray) -> np.ndarray:
        rest = everybody - counts[annotator]
        overall = (rest.sum(axis=0) + 1) / (rest.sum() + k)
        table = (rest + 2 * overall) / (rest.sum(axis=1, keepdims=True) + 2)
        return np.asarray(table[place[rows], answers.level[rows]])

    return probability


def _own_habit(levels: np.ndarray, k: int) -> np.ndarray:
    """Return the probability of each answer by the annotator's answers before it (Krichevsky and Trofimov)."""
    before = np.zeros((len(levels), k))
    if len(levels) > 1:
        before[1:] = np.cumsum(np.eye(k)[levels], axis=0)[:-1]
    return np.asarray((before[np.arange(len(levels)), levels] + 0.5) / (np.arange(len(levels)) + k / 2))


def _pairwise(value: dict[str, Any]) -> list[tuple[Any, int]]:
    strength = int(value.get("strength", 1) or 1)
    return [(0, 3 if value["choice"] is None else 3 + strength * (1 if value["choice"] == 0 else -1))]


def _ranking(value: dict[str, Any]) -> list[tuple[Any, int]]:
    place = {completion: rank for rank, completion in enumerate(value["order"])}
    return [((i, j), int(place[i] < place[j])) for i, j in combinations(sorted(place), 2)]


# kind -> (parts of the item with their level, symmetric)
_LEVELS: dict[str, tuple[Any, bool]] = {
    "pairwise": (_pairwise, True),
    "ranking": (_ranking, True),
    "rating": (lambda value: [(0, int(value["rating"]))], False),
    "thumbs": (lambda value: [(0, int(value["up"]))], False),
}


def _read(kind: str, given: Sequence[Judgement], names: Sequence[str]) -> _Answers | None:
    """Return the answers of one kind, or None if there are none or all are alike."""
    read, symmetric = _LEVELS[kind]
    index = {name: k for k, name in enumerate(names)}
    units: dict[Any, int] = {}
    rows: dict[str, list[Any]] = defaultdict(list)
    for place, judgement in enumerate(given):
        if judgement.kind != kind or judgement.value is None:
            continue
        parts = read(judgement.value)
        for part, level in parts:
            rows["level"].append(level)
            rows["unit"].append(units.setdefault((judgement.item_id, part), len(units)))
            rows["who"].append(index[judgement.annotator])
            rows["order"].append(place)
            # The pairs of a ranking of k follow from k - 1 of them.
            rows["weight"].append(2 / len(judgement.value["order"]) if kind == "ranking" else 1.0)
    if not rows:
        return None
    level = np.array(rows["level"])
    if kind == "rating":
        low, high = int(level.min()), int(level.max())
        n_levels = min(_MOST_LEVELS, high - low + 1)
        level = np.minimum((level - low) * n_levels // max(1, high - low + 1), n_levels - 1)
    else:
        n_levels = 7 if kind == "pairwise" else 2
    if n_levels < 2:
        return None
    unit, who, order, weight = (np.array(rows[name]) for name in ("unit", "who", "order", "weight"))
    return _Answers(level, unit, who, order, weight, n_levels, symmetric)
