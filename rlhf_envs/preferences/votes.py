"""What annotators answered, in the shape in which crowd-kit wants it."""

from __future__ import annotations

import warnings
from collections.abc import Hashable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["TIE", "Comparison", "Vote", "check_votes", "crowdkit", "frame_of"]

TIE = 2  # the label of a pair whose texts somebody found equal; 0 and 1 say which text won


class Vote(NamedTuple):
    """One annotator's answer to one item."""

    item: Hashable
    annotator: str
    label: int  # from 0; of a pair: the index of the text that won, or TIE


class Comparison(NamedTuple):
    """One annotator's choice between two items."""

    annotator: str
    left: Hashable  # as shown; any order where the sides are not known
    right: Hashable
    winner: Hashable  # `left` or `right`


@contextmanager
def crowdkit() -> Iterator[None]:
    """Import and call crowd-kit within: what is missing is explained, and of its old ways with pandas nothing said."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        warnings.simplefilter("ignore", FutureWarning)
        try:
            yield
        except ImportError as error:
            raise ImportError(
                f'aggregating answers needs crowd-kit ({error}): pip install "rlhf-envs[agreement]"'
            ) from error


def check_votes(votes: Sequence[Vote], n_labels: int | None = None) -> int:
    """Return the number of labels (at least 2), or raise a ValueError that names the first vote outside of them."""
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


def frame_of(votes: Sequence[Vote]) -> tuple[pd.DataFrame, dict[Any, int]]:
    """Return crowd-kit's table of the votes and the number by which it knows each item.

    Numbers, because crowd-kit sorts items and they may be of types that do not compare.
    """
    import pandas as pd

    codes: dict[Any, int] = {}
    tasks = [codes.setdefault(vote.item, len(codes)) for vote in votes]
    workers, labels = [vote.annotator for vote in votes], [int(vote.label) for vote in votes]
    return pd.DataFrame({"task": tasks, "worker": workers, "label": labels}), codes
