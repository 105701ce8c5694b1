"""Make one answer of several people's answers: majority vote and Dawid-Skene, through crowd-kit.

Source: Dawid and Skene, 1979 (https://doi.org/10.2307/2346806). Departure: every annotator starts with some answered
gold questions, a Dirichlet prior on the confusion matrices. So an annotator with a single vote is neither trusted nor
distrusted outright.
"""

from __future__ import annotations

import warnings
from collections import defaultdict
from collections.abc import Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["TIE", "Aggregate", "PairVote", "Vote", "dawid_skene", "majority_vote"]

TIE = 2  # the label of a pair whose texts somebody found equal; 0 and 1 say which text won
RIGHT, WRONG = 3, 1  # answers a label that every annotator starts with: three right ones, one of each wrong label


class Vote(NamedTuple):
    """Hold one annotator's answer to one item."""

    item: Hashable
    annotator: str
    label: int  # from 0; for a pair the index of the text that won, or TIE


class PairVote(NamedTuple):
    """Hold one annotator's choice between two items."""

    annotator: str
    left: Hashable  # as shown; any order where the sides are not known
    right: Hashable
    winner: Hashable  # `left` or `right`


class Aggregate(NamedTuple):
    """Hold what the votes say together."""

    probabilities: dict[Any, np.ndarray]  # item -> (n_labels,) float64, sums to 1
    reliability: dict[str, float]  # annotator -> probability that an answer is right, 0 to 1
    confusion: dict[str, np.ndarray] = {}  # annotator -> (truth, answer) probabilities; Dawid-Skene only


def majority_vote(votes: Sequence[Vote], n_labels: int | None = None) -> Aggregate:
    """Count the votes: the probabilities of an item are the shares of its votes.

    Args:
        votes: at least one.
        n_labels: the number of labels; by default 1 more than the largest label, and at least 2.

    Returns:
        The shares, and as an annotator's reliability the mean share of the answers that they gave. Their own vote
        counts, so an annotator who is alone has 1.

    Raises:
        ValueError: there is no vote, or a label is not a whole number in `range(n_labels)`.
        ImportError: crowd-kit is not installed.
    """
    n_labels = _check_votes(votes, n_labels)
    with _crowdkit():
        from crowdkit.aggregation import MajorityVote

        frame, codes = _frame_of(votes)
        table = MajorityVote().fit_predict_proba(frame).reindex(columns=range(n_labels), fill_value=0.0)
    shares = table.sort_index().to_numpy(float)  # (items, n_labels): the codes are 0, 1, 2, ...
    probabilities = {item: shares[code] for item, code in codes.items()}
    given: dict[str, list[float]] = defaultdict(list)
    for vote in votes:
        given[vote.annotator].append(float(probabilities[vote.item][vote.label]))
    return Aggregate(probabilities, {annotator: float(np.mean(own)) for annotator, own in given.items()})


def dawid_skene(
    votes: Sequence[Vote],
    n_iter: int = 100,
    *,
    n_labels: int | None = None,
    gold: Mapping[Any, int] | None = None,
    symmetric: bool = False,
) -> Aggregate:
    """Estimate the answers and every annotator's confusion matrix together, by expectation maximisation.

    It starts from the majority's answers, or from gold answers where there are any, and draws nothing at random. An
    annotator who is wrong on purpose ends with a reliability near 0, and their answers count the other way round. Where
    most annotators are wrong on purpose, only gold answers can tell.

    Args:
        votes: at least one; if an annotator voted on an item twice, both votes count.
        n_iter: rounds, at most.
        n_labels: as in `majority_vote`.
        gold: the right label by item, for the items where it is known.
        symmetric: whether the labels are the texts of a pair (0 and 1, and 2 for a tie), whose order says nothing. An
            annotator then errs equally on both, which halves the parameters.

    Returns:
        The posterior probabilities, and each annotator's probability of a right answer.

    Raises:
        ValueError: as in `majority_vote`, or a gold item has no vote, or `symmetric` has more than 3 labels.
        ImportError: crowd-kit is not installed.
    """
    n_labels = _check_votes(votes, n_labels)
    truth = _check_gold(gold or {}, votes, n_labels)
    if symmetric and n_labels > 3:
        raise ValueError(f"symmetric is for pairs (labels 0, 1 and {TIE} for a tie), not for {n_labels} labels")
    rows, known = _with_prior(votes, truth, n_labels, symmetric)
    with _crowdkit():
        import pandas as pd
        from crowdkit.aggregation import DawidSkene

        frame, codes = _frame_of(rows)
        labels = pd.Series({codes[item]: label for item, label in known.items()})
        # With gold answers the annotators' own start from those: the majority may be wrong.
        model = DawidSkene(n_iter, initial_error_strategy="assign" if truth else None)
        model.fit(frame, labels, _confusion_by(frame, labels, n_labels) if truth else None)
    assert model.probas_ is not None and model.errors_ is not None and model.priors_ is not None
    posterior = model.probas_.reindex(columns=range(n_labels)).sort_index().to_numpy(float)
    posterior = posterior / posterior.sum(axis=1, keepdims=True)  # crowd-kit clips at 1e-10 without it
    errors = model.errors_.reindex(columns=range(n_labels))  # (annotator, answer) x truth
    priors = model.priors_.reindex(range(n_labels)).to_numpy(float)
    priors = priors / priors.sum()
    annotators = dict.fromkeys(vote.annotator for vote in votes)
    confusion = {name: errors.loc[name].sort_index().to_numpy(float).T for name in annotators}
    reliability = {name: float(priors @ np.diag(matrix)) for name, matrix in confusion.items()}
    return Aggregate({vote.item: posterior[codes["item", vote.item]] for vote in votes}, reliability, confusion)


def _with_prior(
    votes: Sequence[Vote], truth: Mapping[Any, int], n_labels: int, symmetric: bool
) -> tuple[list[Vote], dict[Any, int]]:
    """Return the votes and the prior's votes, on items (kind, item), and the labels that are known."""
    rows = [vote._replace(item=("item", vote.item)) for vote in votes]
    known: dict[Any, int] = {("item", item): label for item, label in truth.items()}
    if symmetric:  # every pair is there again with its texts swapped, which makes all estimates symmetric
        rows += [Vote(("swapped", vote.item), vote.annotator, _swap(vote.label)) for vote in votes]
        known |= {("swapped", item): _swap(label) for item, label in truth.items()}
    annotators = dict.fromkeys(vote.annotator for vote in votes)
    for label in range(n_labels):
        others = [other for other in range(n_labels) if other != label]
        for k, answers in enumerate([[label]] * RIGHT + [others] * WRONG):
            item = ("prior", (label, k))
            known[item] = label
            rows += [Vote(item, name, answer) for name in annotators for answer in answers]
    return rows, known


def _confusion_by(frame: pd.DataFrame, known: pd.Series[int], n_labels: int) -> pd.DataFrame:
    """Return how often each annotator gave each label to items of each known label, in crowd-kit's shape."""
    answered = frame[frame["task"].isin(known.index)]
    table = answered.groupby(["worker", "label", answered["task"].map(known).rename("truth")]).size()
    return table.unstack("truth", fill_value=0).reindex(columns=range(n_labels), fill_value=0)


def _swap(label: int) -> int:
    return label if label == TIE else 1 - label


def _check_gold(gold: Mapping[Any, int], votes: Sequence[Vote], n_labels: int) -> dict[Any, int]:
    voted = {vote.item for vote in votes}
    for item, label in gold.items():
        if item not in voted:
            raise ValueError(f"a gold answer for item {item!r}, on which nobody voted: leave it out")
        if label not in range(n_labels):
            raise ValueError(f"the gold answer of item {item!r} is {label!r}: labels are 0 to {n_labels - 1}")
    return dict(gold)


@contextmanager
def _crowdkit() -> Iterator[None]:
    """Explain a missing crowd-kit, and silence its deprecation warnings, where it is imported and called inside."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        warnings.simplefilter("ignore", FutureWarning)
        try:
            yield
        except ImportError as error:
            raise ImportError(
                f'aggregating answers needs crowd-kit ({error}): pip install "rlhf-envs[agreement]"'
            ) from error


def _check_votes(votes: Sequence[Vote], n_labels: int | None = None) -> int:
    """Return the number of labels (at least 2), or raise a ValueError that names the first vote outside them."""
    if not votes:
        raise ValueError("no votes to aggregate: label some items first")
    n_labels = n_labels or max(2, 1 + max(int(vote.label) for vote in votes))
    for vote in votes:
        if vote.label not in range(n_labels):
            raise ValueError(
                f"the vote of {vote.annotator!r} on item {vote.item!r} is {vote.label!r}: "
                f"labels are whole numbers from 0 to {n_labels - 1}"
            )
    return n_labels


def _frame_of(votes: Sequence[Vote]) -> tuple[pd.DataFrame, dict[Any, int]]:
    """Return crowd-kit's table of the votes, and a number for each item.

    crowd-kit sorts the items, which may be of types that do not compare; so it is given numbers.
    """
    import pandas as pd

    codes: dict[Any, int] = {}
    tasks = [codes.setdefault(vote.item, len(codes)) for vote in votes]
    workers, labels = [vote.annotator for vote in votes], [int(vote.label) for vote in votes]
    return pd.DataFrame({"task": tasks, "worker": workers, "label": labels}), codes
