"""Measure counterfactual gaps: does a score change when nothing but a name, a gender or a dialect does?

The templates are `bias_templates.json`; it says how they were made, and what they cannot show. Each template is filled
for two groups. Two things are measured for both, and the difference (the second less the first) is a gap:

- the reward of the *same* text, prompt and completion, which the reward alone accounts for;
- what the policy writes after the prompt, with the same random numbers: its reward, how often it refuses, and how toxic
  it is (extra `safety`).

A template counts once: where a group has several names, they are averaged first. One without a score in either group
is left out, and counted. Intervals are bootstrapped over the templates, so that they tell about these templates and no
others.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from rlhf_envs.rewards import get_reward
from rlhf_envs.rewards.state import frozen_rewards

from .explain.attribution import Text, score_all
from .generate import Completion, generate
from .prompting import open_prompts
from .refusals import is_refusal
from .source import Source
from .statistics import Estimate, bootstrap_mean

__all__ = ["Bias", "Gap", "evaluate_bias", "templates"]

FILE = Path(__file__).with_name("bias_templates.json")
GROUPS = ("first", "second")
SAME_TEXT, WRITTEN, REFUSALS, TOXICITY = "reward of the same text", "reward of completions", "refusals", "toxicity"


@cache
def templates() -> dict[str, Any]:
    """Return the axes of the template file: their groups, what they mean, and their templates."""
    axes: dict[str, Any] = json.loads(FILE.read_text(encoding="utf-8"))["axes"]
    return axes


@dataclass(frozen=True)
class Gap:
    """Hold one measure on one axis: both groups' means and the second less the first, over the templates."""

    axis: str
    measure: str
    first: Estimate
    second: Estimate
    gap: Estimate

    @property
    def clear(self) -> bool:
        """Return whether the interval of the gap leaves out 0."""
        return self.gap.low > 0 or self.gap.high < 0

    def to_dict(self) -> dict[str, Any]:
        """Return the entry of a JSON report."""
        numbers = {name: getattr(self, name).to_dict() for name in ("first", "second", "gap")}
        return {"axis": self.axis, "measure": self.measure, **numbers, "clear": self.clear}


@dataclass(frozen=True)
class Bias:
    """Hold the gaps of a source in an environment, the rates over all completions, and what was not measured.

    Attributes:
        gaps: one per axis and measure.
        refusals: the share of all completions that read as a refusal.
        toxicity: their mean toxicity; None without the extra `safety`.
    """

    source: str
    gaps: list[Gap]
    refusals: Estimate
    toxicity: Estimate | None
    notes: list[str] = field(default_factory=list)

    @property
    def groups(self) -> dict[str, str]:
        """Return by axis what the first and the second group are."""
        return {name: axis["meaning"] for name, axis in templates().items()}

    def to_dict(self) -> dict[str, Any]:
        """Return the entry of a JSON report."""
        return {
            "gaps": [gap.to_dict() for gap in self.gaps],
            "refusals": self.refusals.to_dict(),
            "toxicity": None if self.toxicity is None else self.toxicity.to_dict(),
            "groups": self.groups,
            "notes": self.notes,
        }


def evaluate_bias(
    source: Any,
    env_id: Any = "rlhf/Sentiment-v0",
    seed: int = 0,
    deterministic: bool = False,
    env_kwargs: Mapping[str, Any] | None = None,
    trust: bool = False,
    max_new_tokens: int | None = None,
    **decoding: float | int | None,
) -> Bias:
    """Fill the templates for both groups of every axis, and measure the gaps.

    Args:
        source: see `agents.evaluate`, as for all arguments.
        decoding: `temperature`, `top_k`, `top_p`.

    Raises:
        ValueError: the environment's reward reads columns that the templates have not, or an argument is wrong.
    """
    source = Source.of(source, trust).with_decoding(decoding)
    judge, notes = _toxicity()
    options: dict[str, Any] = {"max_new_tokens": max_new_tokens, "env_kwargs": env_kwargs}
    values: dict[str, dict[tuple[str, str], np.ndarray]] = {}
    written: list[str] = []
    for group in GROUPS:
        filled = {axis: _filled(about["templates"], about["groups"][group]) for axis, about in templates().items()}
        pairs = [pair for several in filled.values() for pair in several]
        prompts = [prompt for prompt, _ in pairs]
        batch = open_prompts(source, prompts, env_id, **options)
        done = generate(source, env_id, prompts=prompts, seed=seed, deterministic=deterministic, **options)
        same = [
            Text(c.asked, answer, {"finish_reasons": "eos"}, batch.tokenizer)
            for c, (_, answer) in zip(done, pairs, strict=True)
        ]
        with frozen_rewards():
            found = {SAME_TEXT: score_all(batch.reward_fn, same).totals, **_measured(done, judge)}
        written += [c.completion for c in done]
        values[group] = _by_template({axis: len(several) for axis, several in filled.items()}, found)
    first, second = (values[group] for group in GROUPS)
    gaps = [gap for key in first if (gap := _gap(*key, first[key], second[key], seed, notes)) is not None]
    toxicity = None if judge is None else bootstrap_mean(judge.score([""] * len(written), written), seed)
    refusals = bootstrap_mean(np.array([float(is_refusal(text)) for text in written]), seed)
    return Bias(source.name, gaps, refusals, toxicity, notes)


def _gap(axis: str, measure: str, first: np.ndarray, second: np.ndarray, seed: int, notes: list[str]) -> Gap | None:
    """Return a gap over the templates that have a score in both groups, and note the others; None without any."""
    there = np.isfinite(first) & np.isfinite(second)
    if not there.all():
        n = len(there) - int(there.sum())
        notes.append(f"{axis}, {measure}: {n} of {len(there)} templates are left out, without a score in both groups")
    if not there.any():
        return None
    first, second = first[there], second[there]
    return Gap(axis, measure, *(bootstrap_mean(values, seed) for values in (first, second, second - first)))


def _filled(lines: Sequence[Any], fillings: Sequence[Any]) -> list[tuple[str, str]]:
    """Return prompts and completions, template by template, each with every filling of a group."""
    return [
        (prompt[filling] if isinstance(prompt, list) else prompt.format(filling), answer)
        for prompt, answer in lines
        for filling in fillings
    ]


def _by_template(sizes: Mapping[str, int], found: Mapping[str, Any]) -> dict[tuple[str, str], np.ndarray]:
    """Return by axis and measure the mean over the fillings of each template, (n_templates,); NaN without a score.

    `sizes` are the numbers of filled templates of the axes, which follow each other in every measure.
    """
    means, start = {}, 0
    for axis, size in sizes.items():
        n = len(templates()[axis]["templates"])
        for name, scores in found.items():
            own = np.asarray(scores, dtype=np.float64)[start : start + size].reshape(n, -1)
            there = np.isfinite(own)
            sums, counts = np.where(there, own, 0.0).sum(axis=1), there.sum(axis=1)
            means[axis, name] = np.where(counts > 0, sums / np.maximum(counts, 1), np.nan)
        start += size
    return means


def _measured(done: Sequence[Completion], judge: Any) -> dict[str, Any]:
    """Return what the policy wrote, measured, one value per completion."""
    found: dict[str, Any] = {WRITTEN: [c.reward for c in done], REFUSALS: [is_refusal(c.completion) for c in done]}
    if judge is not None:
        found[TOXICITY] = judge.score([""] * len(done), [c.completion for c in done])
    return found


def _toxicity() -> tuple[Any, list[str]]:
    """Return the cost "toxicity", or None and a note without the extra `safety`."""
    try:
        return get_reward("toxicity"), []
    except ImportError as error:
        return None, [f"toxicity is not measured: {error}"]
