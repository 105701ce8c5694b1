"""Turn a crowd's judgements into preference rows, and find annotators who choose at random."""

from __future__ import annotations

import logging
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from itertools import combinations
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from rlhf_envs.datasets.messages import as_text, kept_prompt, kept_turns
from rlhf_envs.feedback.agreement import LEVELS, CrowdFigures, krippendorff_alpha

from .aggregation import TIE, Aggregate, PairVote, Vote, dawid_skene, majority_vote
from .ranking import Ranking, bradley_terry, noisy_bradley_terry
from .ratings import Rating
from .spam import SpamReport, find_spammers

if TYPE_CHECKING:
    from rlhf_envs.feedback.records import Item, Judgement

__all__ = [
    "TIE",
    "Aggregate",
    "PairVote",
    "Ranking",
    "Rating",
    "SpamReport",
    "Vote",
    "aggregate_pairs",
    "agreement",
    "bradley_terry",
    "crowd_figures",
    "dawid_skene",
    "dawid_skene_shares",
    "find_spammers",
    "majority_vote",
    "noisy_bradley_terry",
    "pair_votes",
]

logger = logging.getLogger(__name__)

COMPARES = ("pairwise", "ranking")


def agreement(
    answers: Sequence[Vote] | Sequence[Rating], level: Literal["nominal", "ordinal", "interval"] | None = None
) -> float:
    """Return Krippendorff's alpha of votes on pairs, or of ratings.

    Args:
        answers: a vote `TIE` lies between the two texts.
        level: how differences are measured. By default as in `rlhf_envs.feedback.agreement.alpha_by_kind`: "ordinal"
            for votes, "interval" for ratings. "nominal" is for votes on labels without an order.

    Returns:
        1 for full agreement, 0 for the agreement that chance gives, nan where nothing can be compared.
    """
    kind = "pairwise" if any(isinstance(answer, Vote) for answer in answers) else "rating"
    return krippendorff_alpha(((a.item, a.annotator, _number(a)) for a in answers), level or LEVELS[kind])


def _number(answer: Vote | Rating) -> float:
    if isinstance(answer, Rating):
        return float(answer.value)
    return 0.5 if answer.label == TIE else float(answer.label)


def pair_votes(items: Sequence[Item], judgements: Sequence[Judgement]) -> list[Vote]:
    """Read judgements of pairs and rankings as votes on pairs.

    A vote's item is `(item id, i, j)` with i < j. Its label is 0 if completion i is better, 1 if j is, `TIE` if
    neither. Skips give no vote.

    Raises:
        ValueError: the item of a judgement is not in `items`, or its kind compares nothing.
    """
    kinds = {item.id: item.kind for item in items}
    votes: list[Vote] = []
    for judgement in judgements:
        if judgement.value is None:
            continue
        kind = kinds.get(judgement.item_id)
        if kind == "pairwise":
            choice = judgement.value["choice"]
            label = TIE if choice is None else int(choice)
            votes.append(Vote((judgement.item_id, 0, 1), judgement.annotator, label))
        elif kind == "ranking":
            for better, worse in combinations(judgement.value["order"], 2):
                i, j = sorted((better, worse))
                votes.append(Vote((judgement.item_id, i, j), judgement.annotator, int(better == j)))
        elif kind is None:
            raise ValueError(f"judgement {judgement.id} is of item {judgement.item_id}, which is not among the items")
        else:
            raise ValueError(
                f"judgement {judgement.id} is a {kind!r}, which compares no two texts: pass judgements of kind "
                "'pairwise' and 'ranking', and export the others with rlhf_envs.feedback.formats.exporting"
            )
    return votes


def aggregate_pairs(
    items: Sequence[Item],
    judgements: Sequence[Judgement],
    method: Literal["majority", "dawid_skene", "soft"] = "dawid_skene",
    messages: bool = False,
    turns: bool = False,
) -> list[dict[str, Any]]:
    """Make one preference row of all the judgements of a pair.

    A tie is half a vote for either text. Gold questions give no rows; under "dawid_skene" their answers anchor it.

    Args:
        items: of kind "pairwise" or "ranking"; items without a judgement give no row.
        judgements: of these items, see `pair_votes`.
        method: how the probability is computed. "majority": 1 for the text with more votes, 0.5 where they are equal.
            "soft": the share of the votes. "dawid_skene": annotators are weighed by their reliability.
        messages: keep the prompt of a conversation as messages, for a reader that has a chat template. Otherwise it is
            written in role lines.
        turns: with `messages`, write completions of several turns of such conversations as messages too. Otherwise what
            follows their first turn is in role lines.

    Returns:
        `{"prompt", "chosen", "rejected", "probability", "item_id"}` in the order of the items. The probability, 0.5 to
        1, is how likely the chosen text is the better one.

    Raises:
        ValueError: there is no vote on any pair (all are skipped, say), the method is unknown, or see `pair_votes`.
    """
    rows = []
    if margins := sum("margin" in (judgement.value or {}) for judgement in judgements):
        logger.warning("%d votes have a margin, which the rows here leave out: `preference_rows` keeps them", margins)
    for item, chosen, rejected, probability in _aggregated(items, judgements, method):
        prompt = kept_prompt(item.prompt, item.meta)
        pair: dict[str, Any] = {"prompt": prompt, "chosen": chosen, "rejected": rejected}
        if turns and not isinstance(prompt, str):
            pair |= {name: kept_turns(pair[name], item.completions, item.meta) for name in ("chosen", "rejected")}
        if not messages:
            (text, better), (_, worse) = as_text(prompt, chosen), as_text(prompt, rejected)
            pair = {"prompt": text, "chosen": better, "rejected": worse}
        rows.append({**pair, "probability": probability, "item_id": item.id})
    return rows


def _aggregated(
    items: Sequence[Item], judgements: Sequence[Judgement], method: str
) -> Iterator[tuple[Item, str, str, float]]:
    """Yield each judged pair: the item, the text chosen, the one rejected, and the probability of the choice."""
    if method not in ("majority", "dawid_skene", "soft"):
        raise ValueError(f"unknown method {method!r}: one of 'majority', 'dawid_skene', 'soft'")
    votes = pair_votes(items, judgements)
    if not votes:
        raise ValueError(f"no votes in {len(judgements)} judgements of {len(items)} items: label some pairs first")
    if unsure := sum("probability" in (judgement.value or {}) for judgement in judgements):
        logger.warning("%d votes have a probability; each counts as a whole vote under %r", unsure, method)
    if method == "dawid_skene":
        probabilities = dawid_skene(votes, gold=_gold(items, votes), symmetric=True).probabilities
    else:
        probabilities = majority_vote(votes).probabilities
    for item in items:
        if item.gold is not None:
            continue
        for i, j in combinations(range(len(item.completions)), 2):
            shares = probabilities.get((item.id, i, j))
            if shares is None:
                continue
            first = float(shares[0] + (shares[TIE] / 2 if len(shares) > TIE else 0.0))
            if method == "majority":
                first = 0.5 + 0.5 * float(np.sign(round(first - 0.5, 9)))
            chosen, rejected = (i, j) if first >= 0.5 else (j, i)
            yield item, item.completions[chosen], item.completions[rejected], min(1.0, max(first, 1.0 - first))


def dawid_skene_shares(items: Sequence[Item], judgements: Sequence[Judgement]) -> dict[tuple[int, str, str], float]:
    """Return the probability that the chosen text is the better one by (item id, chosen, rejected).

    `rlhf_envs.feedback.formats.trainer_rows.preference_rows` takes it as `shares`. Items that compare nothing, and
    skips, are left out.

    Raises:
        ValueError: nothing is compared.
        ImportError: crowd-kit is not installed.
    """
    found = _aggregated(*_comparisons(items, judgements), "dawid_skene")
    return {(item.id, chosen, rejected): probability for item, chosen, rejected, probability in found}


def crowd_figures(items: Sequence[Item], judgements: Sequence[Judgement]) -> CrowdFigures:
    """Estimate annotators' ability and items' difficulty side by side, by Dawid-Skene, for each kind apart.

    Comparisons and rankings count as votes on pairs, thumbs as two labels, ratings as one label each on a scale of at
    most 11; corrections and flags do not count. Gold questions anchor the estimate of pairs. An annotator's ability is
    the probability of a right answer, over kinds by the number of votes. The difficulty of an item with at least two
    votes is how far the most probable answer is from certain: (1 - p) / (1 - 1 / labels), of a ranking the mean of its
    pairs. It says how much the answers leave open, so it falls with the number of answers that agree.

    Source: Dawid and Skene, 1979, as in `dawid_skene`, through crowd-kit.

    Returns:
        Nothing of kinds without an item that two annotators answered.

    Raises:
        ImportError: crowd-kit is not installed.
    """
    right: dict[str, float] = defaultdict(float)
    asked: Counter[str] = Counter()
    open_: dict[int, list[float]] = defaultdict(list)
    for votes, n_labels, gold in _votes_by_kind(items, judgements):
        voters: dict[Any, set[str]] = defaultdict(set)
        for vote in votes:
            voters[vote.item].add(vote.annotator)
        if all(len(names) < 2 for names in voters.values()):
            continue
        found = dawid_skene(votes, n_labels=n_labels, gold=gold, symmetric=gold is not None)
        for name, count in Counter(vote.annotator for vote in votes).items():
            right[name] += count * found.reliability[name]
            asked[name] += count
        for unit, names in voters.items():
            if len(names) > 1:
                labels = found.probabilities[unit]
                open_[unit[0]].append(float((1 - labels.max()) / (1 - 1 / len(labels))))
    ability = {name: (right[name] / n, n) for name, n in asked.items()}
    return CrowdFigures(ability, {item: float(np.mean(values)) for item, values in open_.items()})


def _votes_by_kind(
    items: Sequence[Item], judgements: Sequence[Judgement]
) -> Iterator[tuple[list[Vote], int, dict[Any, int] | None]]:
    """Yield (votes, number of labels, gold answers) of the kinds that have labels. Pairs alone have gold answers."""
    pairs = pair_votes(*_comparisons(items, judgements))
    if pairs:
        yield pairs, 3 if any(vote.label == TIE for vote in pairs) else 2, _gold(items, pairs)
    given = [judgement for judgement in judgements if judgement.value is not None]
    thumbs = [Vote((j.item_id,), j.annotator, int(j.value["up"])) for j in given if j.kind == "thumbs" and j.value]
    if thumbs:
        yield thumbs, 2, None
    rated = [j for j in given if j.kind == "rating"]
    levels = sorted({j.value["rating"] for j in rated if j.value})
    if 2 <= len(levels) <= 11:
        place = {level: label for label, level in enumerate(levels)}
        votes = [Vote((j.item_id,), j.annotator, place[j.value["rating"]]) for j in rated if j.value]
        yield votes, len(levels), None


def _comparisons(items: Sequence[Item], judgements: Sequence[Judgement]) -> tuple[list[Item], list[Judgement]]:
    """Return the items that compare texts, and their judgements without skips."""
    compared = [item for item in items if item.kind in COMPARES]
    ids = {item.id for item in compared}
    return compared, [j for j in judgements if j.item_id in ids and j.value is not None]


def _gold(items: Sequence[Item], votes: Sequence[Vote]) -> dict[Any, int]:
    voted = {vote.item for vote in votes}
    known: dict[Any, int] = {}
    for item in items:
        if item.gold is not None and item.kind == "pairwise" and (item.id, 0, 1) in voted:
            choice = item.gold["choice"]
            known[item.id, 0, 1] = TIE if choice is None else int(choice)
    return known
