"""Run `rlhf feedback explain`: store which words a reward model's scores rest on, for the page of annotators."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Literal

import numpy as np
import typer

from rlhf_envs.datasets.messages import answer_to, kept_prompt
from rlhf_envs.feedback.explaining import is_drawn
from rlhf_envs.feedback.records import Explained, Item, Mark
from rlhf_envs.feedback.suggesting import source_of, suggest_answers, version_of
from rlhf_envs.rewards import evaluate_reward, get_reward

from ...training.fields import option
from ..explain import explaining
from ..options import argument, fail
from .common import StoreConfig, actor, open_store

__all__ = ["ExplainConfig", "explain"]

SMALLEST = 0.05  # of the largest value of an item: what counts less has no mark
AT_ONCE = 20  # items that are stored together
SEES = {
    "off": 'nobody sees them (setting explanations = "off")',
    "after": "annotators may look at them after their own answer",
    "before": "annotators may look at them before their own answer",
}


class ExplainConfig(StoreConfig):
    """Hold the flags of `rlhf feedback explain`."""

    reward: str = argument("Reward model: a folder, a name, or module:attribute.")
    method: Literal["integrated_gradients", "leave_one_out"] | None = option(
        None, "integrated_gradients (extra explain) where the reward has a reward model, else leave_one_out."
    )
    share: float = option(1.0, "Share of the items that annotators may look at, drawn at random.", ge=0, le=1)
    seed: int = option(0, "Seeds the draw.", ge=0)
    limit: int | None = option(None, "The most items in this call. All by default.", ge=1)
    source: str | None = option(
        None, "What the model is called on the page. The reward's name by default, of a folder its last part."
    )


def explain(config: ExplainConfig) -> None:
    """Store which words of each completion raised or lowered a reward model's score. The same call goes on.

    With the setting explanations = "before" or "after" annotators may look at it, and their answers are marked by
    whether they did. Seeing a model's view sways judges: with --share 0.5 half of the items, drawn at random, keep the
    scores alone, and `rlhf feedback status` compares how far people agree with the model on both.
    """
    explanations, _ = explaining()
    reward = get_reward(config.reward)
    version, source = version_of(config.reward), config.source or source_of(config.reward)
    with open_store(config.store) as store:
        there = store.explanations(with_marks=False)
        known = {one.item_id for one in there if (one.source, one.version) == (source, version)}
        items = store.items()
        if not items:
            fail(f"--store {config.store}: there are no items to explain; `rlhf feedback add` adds some")
        waiting = [item for item in items if item.id not in known][: config.limit]
        drawn = {item.id for item in waiting if is_drawn(item.id, config.share, config.seed)}
        values = _answers(items, waiting, reward, store.settings.scale)
        method: str = config.method or ""
        for part in (waiting[i : i + AT_ONCE] for i in range(0, len(waiting), AT_ONCE)):
            found: dict[int, Explained] = {}
            for item in part:
                scores, marks, method = _explained(item, config, reward, explanations, item.id in drawn, method)
                found[item.id] = Explained(scores, marks, values.get(item.id))
            store.explain(found, source=source, version=version, method=method)
        told = {"source": source, "version": version, "items": len(waiting), "offered": len(drawn)}
        store.log(actor(), "explain", after=told)
        shown = SEES[store.settings.explanations]
    withheld = f", {len(waiting) - len(drawn)} of them withheld by lot" if len(drawn) < len(waiting) else ""
    before = f"; {len(known)} were there" if known else ""
    typer.echo(f"{config.store}: {len(waiting)} items explained by {source}{withheld}{before}; {shown}")


def _answers(items: Sequence[Item], waiting: Sequence[Item], reward: Any, scale: tuple[int, int]) -> dict[int, Any]:
    """Return by item id the answer that the scores make. Quantiles are those of all rated items of the store."""
    rated = [item for item in items if item.kind in ("rating", "thumbs")]
    wanted = any(item.kind in ("rating", "thumbs") for item in waiting)
    reference = [float(score) for score in reward(*_texts(rated, 0))] if wanted else None
    return suggest_answers(waiting, reward, scale=scale, reference=reference)


def _texts(items: Sequence[Item], index: int) -> tuple[list[Any], list[Any]]:
    prompts = [kept_prompt(item.prompt, item.meta) for item in items]
    return prompts, [answer_to(p, item.completions[index]) for p, item in zip(prompts, items, strict=True)]


def _explained(
    item: Item, config: ExplainConfig, reward: Any, explanations: Any, is_shown: bool, method: str
) -> tuple[tuple[float, ...], tuple[tuple[Mark, ...], ...] | None, str]:
    """Return the scores of an item's completions, their marks unless they are withheld, and how they were found."""
    prompt = kept_prompt(item.prompt, item.meta)
    if not is_shown:
        answers = [answer_to(prompt, text) for text in item.completions]
        return tuple(evaluate_reward(reward, [prompt] * len(answers), answers, {}).totals.tolist()), None, method
    found = [explanations.explain_reward(reward, prompt, text, config.method) for text in item.completions]
    largest = max((abs(value) for one in found for _, value in _values(one)), default=0.0)
    marks = tuple(
        tuple(
            (unit.start, unit.end, round(value, 6))
            for unit, value in _values(one)
            if abs(value) >= SMALLEST * largest and value
        )
        for one in found
    )
    return tuple(float(one.total.score) for one in found), marks, found[0].total.method


def _values(explanation: Any) -> Iterator[tuple[Any, float]]:
    """Yield the pieces of the completion with their values; a reward that fails without a piece gives it none."""
    for unit, value in zip(explanation.units, explanation.total.values, strict=True):
        if unit.part == "completion" and not np.isnan(value):
            yield unit, float(value)
