"""Run the steps of a loop (`.loop`) that people are in: asking, and fitting a reward model to the answers."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import TypeAdapter

from rlhf_envs.datasets.messages import answer_to, as_text, kept_prompt
from rlhf_envs.feedback import Item, Judgement, NewItem
from rlhf_envs.feedback.agreement import alpha_by_kind
from rlhf_envs.feedback.criteria import derive, find_criterion
from rlhf_envs.files import replace_json
from rlhf_envs.models import load_tokenizer, split_label
from rlhf_envs.preferences.crowd import aggregate_pairs, dawid_skene, find_spammers, pair_votes
from rlhf_envs.preferences.fitting import fit_reward
from rlhf_envs.rewards import get_reward
from rlhf_envs.rewards.state import frozen_rewards

from .aspects.steps import ROWS, check_rows, fit_round, judged_by_aspect, kinds_of_completions
from .served import read_served
from .simulated import ask_simulated, crowd
from .state import PAIRS, PROXY, SNAPSHOT, Loop, Metrics
from .waiting import wait_for_people

if TYPE_CHECKING:
    from rlhf_envs.feedback import FeedbackStore

__all__ = ["ask", "fit", "judged_pairs", "read_snapshot"]


def ask(loop: Loop, number: int, into: Path) -> Metrics:
    """Have the round's pairs judged, and keep all that was judged in the run so far.

    Raises:
        ValueError: simulated annotators are asked, and the store has unfinished items of others. Or fewer than two
            pairs were judged, or answers about an aspect tell no texts apart: people may still label, and the loop then
            goes on.
    """
    config = loop.config
    pairs = loop.read(number, "generate", PAIRS)
    numbered = list(enumerate(pairs))[: config.labels]
    if simulated := numbered[config.people :]:
        ask_simulated(loop, _queue(loop, loop.simulated, number, simulated))
    asked = _queue(loop, loop.store, number, numbered[: config.people])
    if asked:
        wait_for_people(loop, number, asked)
    everything, said = _judged(loop, number)
    pairs_asked = {item.id: item for item in everything if item.kind == "pairwise"}
    items, judgements = [*pairs_asked.values()], [entry for entry in said if entry.item_id in pairs_asked]
    served: list[Item] = []
    if config.from_serving is not None:
        served, about = read_served(config.from_serving)
        items, judgements = items + served, judgements + about
        loop.say(f"round {number}: {len(about)} comparisons of {len(served)} pairs are of the served model")
    if loop.aspects:
        judged = judged_by_aspect(loop, _items_by_store(loop, number))
        check_rows(number, judged)
        kept = {one.aspect.name: {"loss": one.loss, "harm": one.aspect.harm, "rows": one.rows} for one in judged}
        replace_json(into / ROWS, kept, exact=True)
    else:
        _check_answered(number, items, judgements)
    loop.store.withdraw([item.id for item in asked])
    replace_json(into / SNAPSHOT, {"items": _plain(items), "judgements": _plain(judgements)})
    return _counts(loop, number, everything, said) | ({} if config.from_serving is None else {"served": len(served)})


def _check_answered(number: int, items: Sequence[Item], judgements: Sequence[Judgement]) -> None:
    """Raise ValueError if fewer than two pairs have a judgement."""
    n_answered = len({judgement.item_id for judgement in judgements if judgement.value is not None})
    if n_answered < 2:
        raise ValueError(
            f"round {number}: {n_answered} of {len(items)} pairs have a judgement, a reward model needs 2 at least: "
            "label some more"
        )


def _counts(loop: Loop, number: int, items: Sequence[Item], judgements: Sequence[Judgement]) -> Metrics:
    """Return how much was said in a round, and by whom."""
    ids = {item.id for item in items if _round_of(loop, item) == number}
    ours = [judgement for judgement in judgements if judgement.item_id in ids]
    given = [judgement for judgement in ours if judgement.value is not None]
    names = {annotator.name for annotator in crowd(loop)}
    by_people = [judgement for judgement in given if judgement.annotator not in names]
    return {
        "judgements": len(given),
        "skips": len(ours) - len(given),
        "by_people": len(by_people),
        "people_seconds": round(sum(judgement.seconds for judgement in by_people), 1),
    }


def _plain(records: Sequence[Item] | Sequence[Judgement]) -> list[dict[str, Any]]:
    """Return records of the store as JSON takes them."""
    return [{**asdict(record), "created": record.created.isoformat()} for record in records]


def read_snapshot(snapshot: Mapping[str, Any]) -> tuple[list[Item], list[Judgement]]:
    """Return the items and the judgements that `ask` wrote."""
    items = TypeAdapter(list[Item]).validate_python(snapshot["items"])
    return items, TypeAdapter(list[Judgement]).validate_python(snapshot["judgements"])


def _round_of(loop: Loop, item: Item) -> int | None:
    """Return the round that an item of this run belongs to; None for the items of others."""
    return item.meta.get("round") if item.meta.get("loop") == loop.name else None


def _items_by_store(loop: Loop, number: int) -> dict[FeedbackStore, list[Item]]:
    """Return the run's items of all rounds up to `number`, by store: of simulated annotators and of people."""
    rounds = range(1, number + 1)
    return {
        store: [item for item in store.items() if _round_of(loop, item) in rounds]
        for store in dict.fromkeys((loop.simulated, loop.store))
    }


def _judged(loop: Loop, number: int) -> tuple[list[Item], list[Judgement]]:
    """Return what was asked in all rounds up to `number`, and the judgements, with skips."""
    items, judgements = [], []
    for store, found in _items_by_store(loop, number).items():
        sign = 1 if store is loop.store else -1  # both count from 1, and no two may share an id
        answers = store.judgements(item_ids=[item.id for item in found], include_skips=True)
        if loop.config.criterion is not None:
            answers = _of_criterion(loop.config.criterion, store, found, answers)
        items += [replace(item, id=sign * item.id) for item in found]
        judgements += [replace(entry, id=sign * entry.id, item_id=sign * entry.item_id) for entry in answers]
    return items, judgements


def _of_criterion(name: str, store: FeedbackStore, items: list[Item], judgements: list[Judgement]) -> list[Judgement]:
    """Return the answers to a criterion as comparisons, and the skips, in the order in which they were given."""
    found = derive(items, judgements, find_criterion(store.versions(), name), "pairs")
    skips = [judgement for judgement in judgements if judgement.value is None]
    return sorted([*found.judgements, *skips], key=lambda judgement: judgement.id)


Place = tuple[int, str, int | None]  # of an item in a round: the pair, the kind, the completion if it asks about one


def _queue(loop: Loop, store: FeedbackStore, number: int, pairs: Sequence[tuple[int, Mapping[str, Any]]]) -> list[Item]:
    """Put numbered pairs into a store, unless they are there already. Return their items, in the order of the pairs.

    Aspects may also be asked about each completion by itself.
    """

    def of(item: Item) -> Place:
        return (item.meta["pair"], item.kind, item.meta.get("side"))

    beside = [(kind, side) for kind in kinds_of_completions(loop) for side in (0, 1)]
    wanted: dict[Place, Mapping[str, Any]] = {
        (place, kind, side): pair for place, pair in pairs for kind, side in (("pairwise", None), *beside)
    }
    there = {of(item): item for item in store.items() if _round_of(loop, item) == number}
    new = [_new_item(loop, number, place, pair) for place, pair in wanted.items() if place not in there]
    there |= {of(item): item for item in (store.items(store.add_items(new)) if new else ())}
    return [there[place] for place in wanted]


def _new_item(loop: Loop, number: int, place: Place, pair: Mapping[str, Any]) -> NewItem:
    """Return the item that asks about a pair, or about one of its completions."""
    of_round, kind, side = place
    texts, turns = pair["completions"], pair.get("turns")
    meta = {"loop": loop.name, "round": number, "pair": of_round}
    if side is not None:
        texts, turns = [texts[side]], None if turns is None else [turns[side]]
        meta["side"] = side
    kept = {name: value for name, value in (("messages", pair.get("messages")), ("turns", turns)) if value is not None}
    overlap = loop.config.judgements_of_pair(by_people=of_round < loop.config.people)
    policy = f"round_{number - 1}"
    return NewItem(
        kind,
        pair["prompt"],
        tuple(texts),
        source="rlhf loop",
        policy=policy,
        meta=meta | kept,
        overlap=overlap,
        max_overlap=overlap,  # the loop counts on it
    )


def judged_pairs(loop: Loop, number: int, turns: bool = False) -> list[dict[str, Any]]:
    """Return the pairs that were judged in the rounds up to `number`, a row each of all its judgements.

    With `turns`, completions of several turns are messages.
    """
    items, judgements = read_snapshot(loop.read(number, "ask", SNAPSHOT))
    return aggregate_pairs(items, judgements, method=loop.config.aggregate, messages=True, turns=turns)


def fit(loop: Loop, number: int, into: Path) -> Metrics:
    """Fit a reward model to the judgements of all rounds so far, and measure the last one on the new judgements.

    With aspects that is one model per aspect. The scores are normalised to mean 0 and standard deviation 1 over what
    the first policy wrote. Raise ValueError if all judged pairs have the same texts, or prefer nothing.
    """
    items, judgements = read_snapshot(loop.read(number, "ask", SNAPSHOT))
    answered = {judgement.item_id for judgement in judgements if judgement.value is not None}
    judged = [item for item in items if item.id in answered]
    rows = judged_pairs(loop, number) if judged else []
    ids = {item.id for item in judged if _round_of(loop, item) == number}
    fresh = [row for row in rows if row["item_id"] in ids]
    references = _texts(loop.read(1, "generate", PAIRS), loop.config.reward_model)
    if loop.aspects:
        metrics = fit_round(loop, number, into / PROXY, references)
    else:
        metrics = _fit_pairs(loop, number, into / PROXY, rows, fresh, references)
    of_run = {item.id: item.meta["pair"] for item in judged if _round_of(loop, item) is not None}
    simulated = [row for row in fresh if of_run[row["item_id"]] >= loop.config.people]
    return {
        "pairs": len(fresh),
        **metrics,
        **(_crowd_metrics(judged, judgements, ids) if judged else {"reliability": {}, "spammers": []}),
        **_truth_metrics(loop, simulated),
    }


def _fit_pairs(
    loop: Loop,
    number: int,
    place: Path,
    rows: Sequence[Mapping[str, Any]],
    fresh: Sequence[Mapping[str, Any]],
    references: Sequence[str],
) -> Metrics:
    """Fit one reward model to pairs, `fresh` ones of this round among them. Return its metrics."""
    before = {} if number == 1 else {"accuracy_fresh": _accuracy(loop.reward(loop.proxy(number - 1)), fresh)}
    settings = loop.fitting(number) | {"members": loop.config.members, "references": references}
    fitted = fit_reward(rows, place, calibrate=False, **settings)
    if "warning" in fitted.metrics:
        loop.say(f"round {number}: {fitted.metrics['warning']}")
    return {
        "fitted_to": len(fitted.fitted),
        "held_out": len(fitted.held_out),
        **before,
        "accuracy_held_out": _accuracy(loop.reward(place), fitted.held_out),
    }


def _texts(pairs: Sequence[Mapping[str, Any]], model: str) -> list[str]:
    """Return the prompt with either completion of each pair, as a model's tokenizer writes them."""
    tokenizer = load_tokenizer(split_label(model)[0])
    asked = [(kept_prompt(pair["prompt"], pair), pair["completions"]) for pair in pairs]
    return ["".join(as_text(prompt, text, tokenizer)) for prompt, texts in asked for text in texts]


@frozen_rewards()
def _accuracy(reward: Any, rows: Sequence[Mapping[str, Any]]) -> float | None:
    """Return the share of pairs that a reward orders as the annotators do, without ties. None if there is no pair."""
    clear = [row for row in rows if row["probability"] != 0.5]
    if not clear:
        return None
    prompts = [row["prompt"] for row in clear]
    sides = ([answer_to(row["prompt"], row[side]) for row in clear] for side in ("chosen", "rejected"))
    chosen, rejected = (np.asarray(reward(prompts, answers)) for answers in sides)
    return float(np.mean((chosen > rejected) + 0.5 * (chosen == rejected)))


def _crowd_metrics(items: Sequence[Item], judgements: Sequence[Judgement], fresh: set[int]) -> Metrics:
    """Return how far annotators agree on the `fresh` pairs, how reliable each one is, and who seems a spammer."""
    votes = pair_votes(items, judgements)
    alpha = alpha_by_kind(entry for entry in judgements if entry.item_id in fresh).get("pairwise", math.nan)
    reliability = dawid_skene(votes, symmetric=True).reliability
    n_judges = Counter(item for item, _ in {(vote.item, vote.annotator) for vote in votes})
    compared = {vote.annotator for vote in votes if n_judges[vote.item] > 1}  # the others would get the prior
    names = sorted(reliability, key=lambda name: (len(name), name))
    return {
        "agreement": None if math.isnan(alpha) else alpha,
        "reliability": {name: round(reliability[name], 4) if name in compared else None for name in names},
        "spammers": sorted(find_spammers(votes).spammers),
    }


def _truth_metrics(loop: Loop, rows: Sequence[Mapping[str, Any]]) -> Metrics:
    """Return what is known of simulated annotators: the spammers, and how often the joint labels are right."""
    if not loop.config.annotators:
        return {}
    return {
        "planted": sorted(annotator.name for annotator in crowd(loop) if annotator.clicks_at_random),
        "labels_right": _accuracy(get_reward(str(loop.config.scorer)), rows),
    }
