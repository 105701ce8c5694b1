"""Run the steps of a loop (`.loop`) that people are in: asking, and fitting a reward model to the answers."""

from __future__ import annotations

import math
import time
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
from rlhf_envs.feedback.simulated import SimulatedAnnotator, annotate, simulated_crowd
from rlhf_envs.files import replace_json
from rlhf_envs.models import load_tokenizer, split_label
from rlhf_envs.preferences.crowd import aggregate_pairs, dawid_skene, find_spammers, pair_votes
from rlhf_envs.preferences.fitting import fit_reward
from rlhf_envs.rewards import get_reward

from ...saving.provenance import provenance
from .state import PAIRS, PROXY, SNAPSHOT, Loop, Metrics

if TYPE_CHECKING:
    from rlhf_envs.feedback import FeedbackStore

__all__ = ["ask", "fit", "read_snapshot"]


def ask(loop: Loop, number: int, into: Path) -> Metrics:
    """Have the round's pairs judged, and keep all that was judged in the run so far.

    Raises:
        ValueError: simulated annotators are asked, and the store has unfinished items of others. Or fewer than two
            pairs were judged: people may still label, and the loop then goes on.
    """
    config = loop.config
    pairs = loop.read(number, "generate", PAIRS)
    numbered = list(enumerate(pairs))
    if simulated := numbered[config.people :]:
        _ask_simulated(loop, _queue(loop, loop.simulated, number, simulated))
    asked = _queue(loop, loop.store, number, numbered[: config.people])
    if asked:
        _wait_for_people(loop, number, asked)
    items, judgements = _judged(loop, number)
    n_answered = len({judgement.item_id for judgement in judgements if judgement.value is not None})
    if n_answered < 2:
        raise ValueError(
            f"round {number}: {n_answered} of {len(items)} pairs have a judgement, a reward model needs 2 at least: "
            "label some more"
        )
    loop.store.withdraw([item.id for item in asked])
    replace_json(into / SNAPSHOT, {"items": _plain(items), "judgements": _plain(judgements)})
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


def crowd(loop: Loop) -> list[SimulatedAnnotator]:
    """Return the simulated annotators of a run. Some of them are spammers."""
    config = loop.config
    if not config.annotators:
        return []
    options: dict[str, Any] = {"seed": config.seed, "temperature": config.noise, "skip_rate": config.skip_rate}
    return simulated_crowd(get_reward(str(config.scorer)), config.annotators, config.random_share, **options)


def _round_of(loop: Loop, item: Item) -> int | None:
    """Return the round that an item of this run belongs to; None for the items of others."""
    return item.meta.get("round") if item.meta.get("loop") == loop.name else None


def _judged(loop: Loop, number: int) -> tuple[list[Item], list[Judgement]]:
    """Return the pairs of all rounds up to `number`, and their judgements, with skips."""
    items, judgements = [], []
    for store, sign in {loop.simulated: -1, loop.store: 1}.items():  # both count from 1, and no two may share an id
        found = [item for item in store.items() if _round_of(loop, item) in range(1, number + 1)]
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


def _queue(loop: Loop, store: FeedbackStore, number: int, pairs: Sequence[tuple[int, Mapping[str, Any]]]) -> list[Item]:
    """Put numbered pairs into a store, unless they are there already. Return their items, in the order of the pairs."""
    there = {item.meta["pair"]: item for item in store.items() if _round_of(loop, item) == number}
    new = [
        NewItem(
            "pairwise",
            pair["prompt"],
            tuple(pair["completions"]),
            source="rlhf loop",
            policy=f"round_{number - 1}",
            meta={"loop": loop.name, "round": number, "pair": place}
            | {name: pair[name] for name in ("messages", "turns") if name in pair},
            overlap=(overlap := loop.config.judgements_of_pair(by_people=place < loop.config.people)),
            max_overlap=overlap,  # the loop counts on it
        )
        for place, pair in pairs
        if place not in there
    ]
    added = store.items(store.add_items(new)) if new else []
    there |= {item.meta["pair"]: item for item in added}
    return [there[place] for place, _ in pairs]


def _ask_simulated(loop: Loop, items: Sequence[Item]) -> None:
    """Let the simulated annotators judge the items in turns. The one whose turn is next begins."""
    store, annotators = loop.simulated, crowd(loop)
    if references := _references(loop):
        annotators = [replace(annotator, references=references) for annotator in annotators]
    wanted = {item.id for item in items}
    judgements = store.judgements(include_skips=True)
    given = Counter(judgement.item_id for judgement in judgements if judgement.value is not None)
    others = [item for item in store.items() if item.id not in wanted and given[item.id] < item.overlap]
    if others:
        raise ValueError(
            f"the store {store.url} has {len(others)} unfinished items that are not of this round (item "
            f"{others[0].id} of {others[0].source or 'no source'!r}), which simulated annotators would answer: finish "
            "them first, or take a --store of its own"
        )
    names = {annotator.name for annotator in annotators}
    turn = sum(judgement.annotator in names for judgement in judgements) % len(annotators)
    annotate(store, annotators[turn:] + annotators[:turn])
    store.withdraw(sorted(wanted))  # the items that all of them have skipped


def _references(loop: Loop) -> dict[str, list[float]]:
    """Return the scores over which simulated annotators spread the ratings that the project asks for."""
    ratings = [question.name for question in loop.simulated.settings.questions if question.type == "rating"]
    if not ratings:
        return {}
    pairs = loop.read(1, "generate", PAIRS)  # in every round, so that a rating keeps its meaning
    asked = [(kept_prompt(pair["prompt"], pair), text) for pair in pairs for text in pair["completions"]]
    reward = get_reward(str(loop.config.scorer))
    scores = reward([prompt for prompt, _ in asked], [answer_to(prompt, text) for prompt, text in asked])
    return {name: [float(score) for score in scores] for name in ratings}


def _wait_for_people(loop: Loop, number: int, items: Sequence[Item]) -> None:
    """Wait until people have given enough judgements or have nothing left to label. Say where to label."""
    config, store, ids = loop.config, loop.store, [item.id for item in items]
    wanted = math.ceil(config.enough * sum(item.overlap for item in items))
    seen, since = None, 0.0
    while True:
        judgements = store.judgements(item_ids=ids, include_skips=True)
        skips = sum(judgement.value is None for judgement in judgements)
        have = len(judgements) - skips
        if have >= wanted:
            return
        if seen is None:
            loop.say(
                f"round {number} waits for people: {wanted} judgements of {len(ids)} pairs. Label at the page of\n"
                f"  rlhf feedback serve --store {store.url}\nor here, in another terminal, with\n"
                f"  rlhf feedback label --store {store.url}\n"
                "To go on with half of them, stop the loop and resume it with --enough 0.5"
            )
        done = _done_with_all(items, judgements)
        status = f"round {number}: {have} of {wanted} judgements" + (f", {skips} skips" if skips else "")
        if (have, skips) != seen:
            seen, since = (have, skips), time.monotonic()
            waits = f"; nothing is left for {done}: it goes on in {config.patience:g} s unless somebody else labels"
            loop.say(status + (waits if done else ""))
        elif done and time.monotonic() - since >= config.patience:
            loop.say(f"{status}; nothing is left for {done}, and nobody else came: it goes on with these")
            return
        time.sleep(config.poll)


def _done_with_all(items: Sequence[Item], judgements: Sequence[Judgement]) -> str:
    """Return the names of all who labelled; "" if one of them can still label something that needs judgements."""
    given = Counter(judgement.item_id for judgement in judgements if judgement.value is not None)
    needy = {item.id for item in items if given[item.id] < item.overlap}
    seen: dict[str, set[int]] = {}
    for judgement in judgements:
        seen.setdefault(judgement.annotator, set()).add(judgement.item_id)
    return ", ".join(sorted(seen)) if all(needy <= theirs for theirs in seen.values()) else ""


def fit(loop: Loop, number: int, into: Path) -> Metrics:
    """Fit a reward model to the judgements of all rounds so far, and measure the last one on the new judgements.

    The scores are normalised to mean 0 and standard deviation 1 over what the first policy wrote. Raise ValueError if
    all judged pairs have the same texts, or prefer nothing.
    """
    config = loop.config
    items, judgements = read_snapshot(loop.read(number, "ask", SNAPSHOT))
    answered = {judgement.item_id for judgement in judgements if judgement.value is not None}
    judged = [item for item in items if item.id in answered]
    rows = aggregate_pairs(items, judgements, method=config.aggregate, messages=True)
    ids = {item.id for item in judged if item.meta["round"] == number}
    fresh = [row for row in rows if row["item_id"] in ids]
    before = {} if number == 1 else {"accuracy_fresh": _accuracy(loop.reward(loop.proxy(number - 1)), fresh)}
    fitted = fit_reward(
        rows,
        into / PROXY,
        model=config.reward_model,
        members=config.members,
        held_out_share=config.held_out,
        references=_texts(loop.read(1, "generate", PAIRS), config.reward_model),
        calibrate=False,
        epochs=config.reward_epochs,
        learning_rate=config.reward_learning_rate,
        seed=1000 * config.seed + number,
        made=provenance(),
    )
    if "warning" in fitted.metrics:
        loop.say(f"round {number}: {fitted.metrics['warning']}")
    accuracy = _accuracy(loop.reward(into / PROXY), fitted.held_out)
    simulated = {item.id for item in judged if item.meta["pair"] >= config.people}
    return {
        "pairs": len(fresh),
        "fitted_to": len(fitted.fitted),
        "held_out": len(fitted.held_out),
        **before,
        "accuracy_held_out": accuracy,
        **_crowd_metrics(judged, judgements, ids),
        **_truth_metrics(loop, [row for row in fresh if row["item_id"] in simulated]),
    }


def _texts(pairs: Sequence[Mapping[str, Any]], model: str) -> list[str]:
    """Return the prompt with either completion of each pair, as a model's tokenizer writes them."""
    tokenizer = load_tokenizer(split_label(model)[0])
    asked = [(kept_prompt(pair["prompt"], pair), pair["completions"]) for pair in pairs]
    return ["".join(as_text(prompt, text, tokenizer)) for prompt, texts in asked for text in texts]


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
