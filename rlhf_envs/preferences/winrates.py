"""Estimate how often each of several models wins, from people's or judges' choices between two of their texts.

Sources: Bradley and Terry, 1952 (https://doi.org/10.2307/2334029), with a tie as half a win, through choix; Owen, 2007
(https://arxiv.org/abs/0712.1111), for intervals that resample prompts and annotators, both; Dubois et al., 2024
(https://arxiv.org/abs/2404.04475), for win rates at equal length. Departure from the last: one length term for all
models, and no term for a prompt's difficulty, which cancels between two texts to the same prompt but for interactions.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from itertools import combinations
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from rlhf_envs.feedback.records import MODEL_MARK, Item, Judgement

__all__ = ["Outcome", "Strength", "WinRate", "WinRates", "estimate_win_rates", "outcomes_of_rows", "outcomes_of_store"]

Floats = NDArray[np.float64]
N_RESAMPLES = 1000
WINNERS = {"model_a": 1.0, "model_b": 0.0, "tie": 0.5, "tie (bothbad)": 0.5}
ANNOTATORS, RESPONSES = ("annotator", "judge"), ("completion", "response")


class Outcome(NamedTuple):
    """Hold one choice between the texts of two models.

    Attributes:
        prompt: what tells the prompt from others.
        annotator: who chose.
        left: the one model.
        right: the other model.
        score: 1 if the left one won, 0 if the right one did, 0.5 for a tie.
        lengths: of both texts, in characters; None where they are not known.
        left_first: whether the left text was shown first; None where that is not known.
    """

    prompt: Hashable
    annotator: str
    left: str
    right: str
    score: float
    lengths: tuple[int, int] | None = None
    left_first: bool | None = None


class WinRate(NamedTuple):
    """Hold how often a model wins against another: wins, and half of the ties.

    Attributes:
        left: the model.
        right: the other one.
        n: the choices, the two orders of a pair as one.
        prompts: how many prompts they are on.
        ties: how many are ties.
        rate: the share that `left` wins.
        low: the lower bound of its 95% interval; NaN for a single prompt.
        high: the upper bound.
        at_equal_length: the same with the length's share taken out; NaN where lengths are not known.
        equal_low: the lower bound of its 95% interval.
        equal_high: the upper bound.
    """

    left: str
    right: str
    n: int
    prompts: int
    ties: int
    rate: float
    low: float
    high: float
    at_equal_length: float
    equal_low: float
    equal_high: float

    @property
    def is_decided(self) -> bool:
        """Return whether the interval leaves 0.5 out."""
        return self.low > 0.5 or self.high < 0.5


class Strength(NamedTuple):
    """Hold a model's Bradley-Terry strength, as its mean probability to win against the others, with 95% bounds."""

    model: str
    log_strength: float
    mean_rate: float
    low: float
    high: float


class WinRates(NamedTuple):
    """Hold the estimates.

    Attributes:
        pairs: one for every two models that were compared.
        strengths: the models, the strongest first.
        annotators: who chose. With one alone the intervals are over prompts.
        prompts: how many there are.
        first: the share of choices (ties left out) for the text shown first; NaN where that is not known.
    """

    pairs: list[WinRate]
    strengths: list[Strength]
    annotators: list[str]
    prompts: int
    first: float


def outcomes_of_store(
    items: Sequence[Item], judgements: Iterable[Judgement], by: str = "all"
) -> tuple[list[Outcome], int]:
    """Return the choices that a store's pairs and rankings hold, and how many judgements were left out.

    An item tells which model wrote each completion in `meta["policies"]`, as `rlhf feedback add` writes it. Gold
    questions, texts by the same model, and items without it are left out.

    Args:
        items: the items.
        judgements: what was said of them.
        by: "people", "judges" (annotators that are models) or "all".
    """
    by_id = {item.id: item for item in items}
    found: list[Outcome] = []
    left_out = 0
    for judgement in judgements:
        if judgement.value is None or judgement.kind not in ("pairwise", "ranking"):
            continue
        if by != "all" and judgement.annotator.startswith(MODEL_MARK) != (by == "judges"):
            continue
        item = by_id[judgement.item_id]
        names = item.meta.get("policies")
        if item.gold is not None or not isinstance(names, list) or len(names) != len(item.completions):
            left_out += 1
            continue
        before = len(found)
        found += _outcomes(item, [str(name) for name in names], judgement)
        left_out += len(found) == before
    return found, left_out


def _outcomes(item: Item, names: Sequence[str], judgement: Judgement) -> list[Outcome]:
    """Return the choices of a judgement between every two completions of different models."""
    value, texts = judgement.value or {}, item.completions
    if judgement.kind == "pairwise":
        scores = {(0, 1): {0: 1.0, 1: 0.0}.get(value["choice"], 0.5)}
    else:
        place = {index: rank for rank, index in enumerate(value["order"])}
        scores = {(i, j): float(place[i] < place[j]) for i, j in combinations(sorted(place), 2)}
    # a model is asked in an order of its own
    sides = () if judgement.annotator.startswith(MODEL_MARK) else judgement.sides
    shown = {index: at for at, index in enumerate(sides)}
    return [
        Outcome(
            item.prompt,
            judgement.annotator,
            names[i],
            names[j],
            score,
            (len(texts[i]), len(texts[j])),
            shown[i] < shown[j] if i in shown and j in shown else None,
        )
        for (i, j), score in scores.items()
        if names[i] != names[j]
    ]


def outcomes_of_rows(rows: Iterable[tuple[str, Mapping[str, Any]]]) -> list[Outcome]:
    """Return the choices in rows as Chatbot Arena has them.

    A row has "model_a", "model_b" and "winner" ("model_a", "model_b", "tie" or "tie (bothbad)"); and if it likes
    "prompt" (or "question_id"), "annotator" (or "judge"), and the texts, "completion_a" and "completion_b" (or
    "response_a" and "response_b"). Model a counts as the one shown first.

    Args:
        rows: each with where it stands, for messages.

    Raises:
        ValueError: a row is wrong; the message says where and why.
    """
    found = []
    for where, row in rows:
        models = row.get("model_a"), row.get("model_b")
        if not all(isinstance(name, str) and name for name in models) or models[0] == models[1]:
            raise ValueError(f"{where}: 'model_a' and 'model_b' must be two different names, got {models}")
        if row.get("winner") not in WINNERS:
            raise ValueError(f"{where}: 'winner' must be one of {', '.join(WINNERS)}, got {row.get('winner')!r}")
        prompt = next((row[name] for name in ("question_id", "prompt") if row.get(name) is not None), where)
        annotator = next((str(row[name]) for name in ANNOTATORS if row.get(name)), "?")
        texts = next(((row[f"{n}_a"], row[f"{n}_b"]) for n in RESPONSES if f"{n}_a" in row and f"{n}_b" in row), ())
        lengths = (len(texts[0]), len(texts[1])) if texts and all(isinstance(text, str) for text in texts) else None
        score = WINNERS[row["winner"]]
        found.append(Outcome(str(prompt), annotator, str(models[0]), str(models[1]), score, lengths, True))
    return found


def estimate_win_rates(
    outcomes: Sequence[Outcome], models: Sequence[str] = (), *, n_resamples: int = N_RESAMPLES, seed: int = 0
) -> WinRates:
    """Estimate win rates and Bradley-Terry strengths, with intervals over prompts and annotators.

    What an annotator said of the same two models on the same prompt counts as one choice: the mean, so that two orders
    that disagree are a tie. In the Bradley-Terry model every model also won and lost once against an imagined one.

    Args:
        outcomes: the choices.
        models: the models to compare, in the order in which they are shown. All by default, by their names.
        n_resamples: how often prompts and annotators are drawn anew.
        seed: seeds the draws.

    Raises:
        ValueError: a model has no choice, or fewer than two are there.
        ImportError: choix is not installed.
    """
    there = sorted({name for one in outcomes for name in (one.left, one.right)})
    models = list(dict.fromkeys(models)) or there
    if missing := [name for name in models if name not in there]:
        raise ValueError(f"nobody judged a text of {', '.join(missing)}: there are {', '.join(there) or 'no models'}")
    kept = [one for one in outcomes if one.left in models and one.right in models]
    if len(models) < 2 or not kept:
        raise ValueError(f"no choice between two of {', '.join(models) or 'the models'}: nothing to compare")
    table = _Table(_merged(kept, models), models)
    fits = _resampled(table, n_resamples, seed)
    orders = [(one.score, one.left_first) for one in kept if one.left_first is not None and one.score != 0.5]
    first = float(np.mean([(score > 0.5) == left_first for score, left_first in orders])) if orders else math.nan
    return WinRates(_pairs(table, fits), _strengths(table, fits), table.annotators, table.n_prompts, first)


class _Table:
    """Hold the choices as arrays: left and right models, prompts and annotators as numbers, (choices,) each."""

    def __init__(self, outcomes: Sequence[Outcome], models: Sequence[str]) -> None:
        codes = {name: i for i, name in enumerate(models)}
        prompts = {prompt: i for i, prompt in enumerate(dict.fromkeys(one.prompt for one in outcomes))}
        self.models, self.annotators = list(models), sorted({one.annotator for one in outcomes})
        who = {name: i for i, name in enumerate(self.annotators)}
        self.left = np.array([codes[one.left] for one in outcomes])
        self.right = np.array([codes[one.right] for one in outcomes])
        self.score = np.array([one.score for one in outcomes])
        self.prompt = np.array([prompts[one.prompt] for one in outcomes])
        self.annotator = np.array([who[one.annotator] for one in outcomes])
        self.n_prompts = len(prompts)
        lengths = [one.lengths for one in outcomes]
        self.length: Floats | None = None  # the difference, from -1 to 1
        if all(pair is not None for pair in lengths):
            difference = np.array([pair[0] - pair[1] for pair in lengths if pair is not None], dtype=np.float64)
            self.length = np.tanh(difference / (difference.std() or 1.0))
        self.compared = sorted({(min(pair), max(pair)) for pair in zip(self.left, self.right, strict=True)})

    def of(self, i: int, j: int) -> NDArray[np.bool_]:
        """Return which choices are between two models; after `_merged` the first of the models is on the left."""
        return (self.left == i) & (self.right == j)


class _Fit(NamedTuple):
    rates: Floats  # (pairs,)
    scores: Floats  # (models,), log strengths
    equal: Floats  # (models,), log strengths at equal length


def _merged(outcomes: Sequence[Outcome], models: Sequence[str]) -> list[Outcome]:
    """Return one choice per prompt, annotator and two models, with the first of the models on the left."""
    place = {name: i for i, name in enumerate(models)}
    groups: dict[Any, list[Outcome]] = defaultdict(list)
    for one in outcomes:
        if place[one.left] > place[one.right]:
            lengths = one.lengths and (one.lengths[1], one.lengths[0])
            one = Outcome(one.prompt, one.annotator, one.right, one.left, 1 - one.score, lengths)
        groups[one.prompt, one.annotator, one.left, one.right].append(one)
    found = []
    for group in groups.values():
        known = [one.lengths for one in group if one.lengths is not None]
        lengths = known[0] if len(known) == len(group) else None
        found.append(group[0]._replace(score=float(np.mean([one.score for one in group])), lengths=lengths))
    return found


def _resampled(table: _Table, n_resamples: int, seed: int) -> list[_Fit]:
    """Return the fit to all choices, then those to choices whose prompts and annotators are drawn anew."""
    fit, random = _fitter(table), np.random.default_rng(seed)
    fits = [fit(np.ones(len(table.score)))]
    n_annotators = len(table.annotators)
    for _ in range(n_resamples if table.n_prompts > 1 else 0):
        times = random.multinomial(table.n_prompts, np.full(table.n_prompts, 1 / table.n_prompts))[table.prompt]
        if n_annotators > 1:
            times = times * random.multinomial(n_annotators, np.full(n_annotators, 1 / n_annotators))[table.annotator]
        fits.append(fit(times.astype(np.float64)))
    return fits


def _fitter(table: _Table) -> Callable[[Floats], _Fit]:
    """Return what estimates everything from the choices' weights, (choices,)."""
    try:
        import choix
    except ImportError as error:
        raise ImportError(f'win rates need choix ({error}): pip install "rlhf-envs[agreement]"') from error
    masks = np.array([table.of(i, j) for i, j in table.compared])  # (pairs, choices)
    n = len(table.models)

    def fit(weights: Floats) -> _Fit:
        total = masks @ weights
        won = masks @ (weights * table.score)
        rates = np.divide(won, total, out=np.full(len(total), np.nan), where=total > 0)
        wins = np.zeros((n + 1, n + 1))
        wins[:n, n] = wins[n, :n] = 1.0  # against the imagined one
        for (i, j), w, t in zip(table.compared, won, total, strict=True):
            wins[i, j] += w
            wins[j, i] += t - w
        strengths = choix.ilsr_pairwise_dense(wins, alpha=0.0, max_iter=1000)
        return _Fit(rates, strengths[:n] - strengths[n], _at_equal_length(table, weights))

    return fit


def _at_equal_length(table: _Table, weights: Floats) -> Floats:
    """Return the log strengths of a model with a length term, (models,); NaN where lengths are not known."""
    from scipy.optimize import minimize  # here, since the command line reads this file at its start
    from scipy.special import expit, log_expit

    n, length = len(table.models), table.length
    if length is None:
        return np.full(n, np.nan)

    def loss(x: Floats) -> tuple[float, Floats]:
        scores, effect = x[:n], x[n]
        logits = scores[table.left] - scores[table.right] + effect * length
        value = -(weights * (table.score * log_expit(logits) + (1 - table.score) * log_expit(-logits))).sum()
        slope = weights * (expit(logits) - table.score)
        gradient = np.bincount(table.left, slope, n) - np.bincount(table.right, slope, n)
        prior = -(log_expit(x) + log_expit(-x)).sum()
        return value + prior, np.append(gradient, slope @ length) + 2 * expit(x) - 1

    return np.asarray(minimize(loss, np.zeros(n + 1), jac=True, method="L-BFGS-B").x[:n])


def _pairs(table: _Table, fits: Sequence[_Fit]) -> list[WinRate]:
    rates = np.array([fit.rates for fit in fits])  # (fits, pairs)
    equal = np.array([fit.equal for fit in fits])  # (fits, models)
    found = []
    for k, (i, j) in enumerate(table.compared):
        mask = table.of(i, j)
        low, high = _interval(rates[1:, k]) if len(set(table.prompt[mask].tolist())) > 1 else (math.nan, math.nan)
        same = _sigmoid(equal[:, i] - equal[:, j])
        found.append(
            WinRate(
                table.models[i],
                table.models[j],
                int(mask.sum()),
                len(set(table.prompt[mask].tolist())),
                int((table.score[mask] == 0.5).sum()),
                float(rates[0, k]),
                low,
                high,
                float(same[0]),
                *_interval(same[1:]),
            )
        )
    return found


def _strengths(table: _Table, fits: Sequence[_Fit]) -> list[Strength]:
    scores = np.array([fit.scores for fit in fits])  # (fits, models)
    beats = _sigmoid(scores[:, :, None] - scores[:, None, :])  # (fits, models, models)
    n = len(table.models)
    mean = (beats.sum(axis=2) - 0.5) / (n - 1)
    found = [
        Strength(name, float(scores[0, i]), float(mean[0, i]), *_interval(mean[1:, i]))
        for i, name in enumerate(table.models)
    ]
    return sorted(found, key=lambda one: -one.log_strength)


def _sigmoid(logits: Floats) -> Floats:
    return 0.5 + 0.5 * np.tanh(logits / 2)


def _interval(values: Floats) -> tuple[float, float]:
    """Return the bounds of the middle 95%; NaN twice without values."""
    known = values[~np.isnan(values)]
    if not len(known):
        return math.nan, math.nan
    low, high = np.percentile(known, [2.5, 97.5])
    return float(low), float(high)
