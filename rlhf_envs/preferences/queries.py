"""Which pairs to ask people about next.

Sources: Christiano et al., 2017 (https://arxiv.org/abs/1706.03741, section 2.2.4) for the disagreement of an ensemble;
Lewis and Gale, 1994 (https://arxiv.org/abs/cmp-lg/9407020) for uncertainty; Sener and Savarese, 2018
(https://arxiv.org/abs/1708.00489, algorithm 1) for k-centre greedy. Numpy only.
"""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np

__all__ = ["STRATEGIES", "Strategy", "disagreement", "k_centre_greedy", "select_pairs", "uncertainty"]

Strategy = Literal["random", "disagreement", "uncertainty", "diverse"]
STRATEGIES: tuple[Strategy, ...] = get_args(Strategy)


def select_pairs(
    strategy: Strategy,
    n: int,
    *,
    scores: np.ndarray | None = None,
    embeddings: np.ndarray | None = None,
    labelled: np.ndarray | None = None,
    n_pairs: int | None = None,
    seed: int = 0,
) -> np.ndarray:
    """Choose n pairs out of those not yet labelled.

    Args:
        strategy: "random"; "disagreement": where the members of an ensemble differ most in how likely the first text
            is to win; "uncertainty": where their mean prediction is nearest to a coin's; "diverse": pairs that leave
            no other pair far from a chosen one.
        n: how many, at most as many as there are.
        scores: (members, pairs, 2), the rewards of both texts by each member; for "disagreement" (2 members or more)
            and "uncertainty".
        embeddings: (pairs, d), for "diverse": such as the difference of the two texts' embeddings, or both, one behind
            the other.
        labelled: (m, d), embeddings of pairs that have been asked already, from which "diverse" keeps its distance.
        n_pairs: how many pairs there are; needed for "random" without scores and embeddings.
        seed: of the random choice, of the order among equals, and of the first pair of "diverse" with none labelled.

    Returns:
        (n,) int64 indices of different pairs, the best to ask first.

    Raises:
        ValueError: the strategy is unknown, what it needs is missing, of another shape or not finite, or there are
            fewer pairs than n.
    """
    if strategy not in STRATEGIES:
        raise ValueError(f"unknown strategy {strategy!r}: one of {', '.join(STRATEGIES)}")
    generator = np.random.default_rng(seed)
    if strategy == "diverse":
        points = _finite("embeddings", embeddings, strategy, 2)
        _check_number(n, len(points))
        return k_centre_greedy(points, n, labelled=labelled, seed=seed)
    if strategy == "random":
        known = next((len(a) for a in (embeddings, None if scores is None else scores[0]) if a is not None), n_pairs)
        if known is None:
            raise ValueError("'random' needs to know how many pairs there are: pass n_pairs (or scores, or embeddings)")
        _check_number(n, known)
        return generator.permutation(known)[:n]
    rewards = _finite("scores", scores, strategy, 3)
    if rewards.shape[2] != 2:
        raise ValueError(f"scores have shape {rewards.shape}, not (members, pairs, 2)")
    _check_number(n, rewards.shape[1])
    value = disagreement(rewards) if strategy == "disagreement" else uncertainty(rewards)
    shuffled = generator.permutation(len(value))  # equals in random order, not in that of the file
    return shuffled[np.argsort(-value[shuffled], kind="stable")][:n]


def disagreement(scores: np.ndarray) -> np.ndarray:
    """Return the variance over the members of the probability that the first text wins.

    Args:
        scores: (members, pairs, 2), 2 members or more.

    Returns:
        (pairs,), 0 to 1/4.
    """
    if len(scores) < 2:
        raise ValueError(f"{len(scores)} member cannot disagree: pass the scores of an ensemble, or take 'uncertainty'")
    return np.asarray(_first_wins(scores).var(axis=0))


def uncertainty(scores: np.ndarray) -> np.ndarray:
    """Return the entropy, in nats, of the mean prediction which text wins.

    Args:
        scores: (members, pairs, 2).

    Returns:
        (pairs,), 0 to log 2.
    """
    p = np.clip(_first_wins(scores).mean(axis=0), 1e-12, 1 - 1e-12)
    return np.asarray(-(p * np.log(p) + (1 - p) * np.log1p(-p)))


def k_centre_greedy(points: np.ndarray, n: int, *, labelled: np.ndarray | None = None, seed: int = 0) -> np.ndarray:
    """Choose n points, each the farthest (Euclidean) from those chosen and labelled before.

    The largest distance of a point to its nearest centre is at most twice what the best n centres leave.

    Args:
        points: (pairs, d).
        n: how many, at most the number of points.
        labelled: (m, d) centres that are there already; with none the first is drawn at random.
        seed: of that draw.

    Returns:
        (n,) int64 different indices, in the order in which they were chosen.
    """
    points = np.asarray(points, float)
    nearest = np.full(len(points), np.inf)  # squared distance to the nearest centre
    for centre in np.empty((0, points.shape[1])) if labelled is None else _finite("labelled", labelled, "diverse", 2):
        if len(centre) != points.shape[1]:
            raise ValueError(f"labelled have {len(centre)} dimensions, embeddings {points.shape[1]}")
        nearest = np.minimum(nearest, ((points - centre) ** 2).sum(axis=1))
    chosen: list[int] = []
    for _ in range(n):
        if np.isinf(nearest[0]) and not chosen:
            index = int(np.random.default_rng(seed).integers(len(points)))
        else:
            index = int(nearest.argmax())
        chosen.append(index)
        nearest = np.minimum(nearest, ((points - points[index]) ** 2).sum(axis=1))
        nearest[chosen] = -1.0  # where points coincide, still another one
    return np.array(chosen, dtype=np.int64)


def _first_wins(scores: np.ndarray) -> np.ndarray:
    lead = np.clip(scores[..., 0] - scores[..., 1], -500, 500)
    return np.asarray(1 / (1 + np.exp(-lead)))  # (members, pairs)


def _finite(name: str, values: np.ndarray | None, strategy: str, dimensions: int) -> np.ndarray:
    if values is None:
        raise ValueError(f"{strategy!r} chooses by {name}: pass them")
    array = np.asarray(values, float)
    if array.ndim != dimensions or not np.isfinite(array).all():
        what = f"of shape {array.shape}" if array.ndim != dimensions else "not all finite"
        raise ValueError(f"{name} are {what}: {strategy!r} needs {dimensions} dimensions of finite numbers")
    return array


def _check_number(n: int, pairs: int) -> None:
    if not 0 <= n <= pairs:
        raise ValueError(f"{n} of {pairs} pairs cannot be chosen: ask for 0 to {pairs}")
