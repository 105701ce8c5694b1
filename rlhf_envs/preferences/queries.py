"""Choose which pairs to ask people about next.

Sources: Christiano et al., 2017 (https://arxiv.org/abs/1706.03741, section 2.2.4) for the disagreement of an ensemble;
Lewis and Gale, 1994 (https://arxiv.org/abs/cmp-lg/9407020) for uncertainty; Sener and Savarese, 2018
(https://arxiv.org/abs/1708.00489, algorithm 1) for k-centre greedy.
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
        strategy: "random", or one of three. "disagreement": the members of an ensemble differ most in how likely the
            first text is to win. "uncertainty": their mean prediction is nearest to one half. "diverse": no other pair
            is far from a chosen one.
        n: pairs to choose, at most as many as there are.
        scores: the rewards of both texts by each member, (members, pairs, 2); for "disagreement" (2 members or more)
            and "uncertainty".
        embeddings: (pairs, d), for "diverse": the difference of the two texts' embeddings, say, or both concatenated.
        labelled: embeddings of pairs that have been asked already, (m, d); "diverse" keeps its distance from them.
        n_pairs: how many pairs there are; needed for "random" without scores and embeddings.
        seed: seeds the random choice, the order among equals, and the first pair of "diverse" with none labelled.

    Returns:
        The indices of n different pairs, (n,) int64, the best to ask first.

    Raises:
        ValueError: the strategy is unknown; scores or embeddings are missing, of another shape or not finite; or there
            are fewer pairs than n.
    """
    if strategy not in STRATEGIES:
        raise ValueError(f"unknown strategy {strategy!r}: choose {', '.join(STRATEGIES)}")
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
    shuffled = generator.permutation(len(value))  # equals in random order, not in the order of the file
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
    """Return the entropy, in nats, of the mean prediction that the first text wins.

    Args:
        scores: (members, pairs, 2).

    Returns:
        (pairs,), 0 to log 2.
    """
    p = np.clip(_first_wins(scores).mean(axis=0), 1e-12, 1 - 1e-12)
    return np.asarray(-(p * np.log(p) + (1 - p) * np.log1p(-p)))


def k_centre_greedy(points: np.ndarray, n: int, *, labelled: np.ndarray | None = None, seed: int = 0) -> np.ndarray:
    """Choose n points, each the farthest (Euclidean) from all points that are chosen or labelled before it.

    The largest distance of a point to its nearest centre is at most twice the distance that the best n centres leave.

    Args:
        points: (pairs, d).
        n: points to choose, at most the number of points.
        labelled: centres that are there already, (m, d); without them the first point is drawn at random.
        seed: seeds that draw.

    Returns:
        Different indices, (n,) int64, in the order in which they were chosen.
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
        nearest[chosen] = -1.0  # where points coincide, choose another one all the same
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
