"""Attribute a reward to the tokens of prompt and completion: integrated gradients, and leave-one-out.

Integrated gradients (Sundararajan et al. 2017, https://arxiv.org/abs/1703.01365) are captum's, on the input embeddings
of a reward model. They sum to the score less the score of a baseline, but for the error of the integral, which is
reported. The baseline has the mean embedding of the vocabulary at every place. We hook the embedding and call captum's
`IntegratedGradients`: its `LayerIntegratedGradients` takes baselines as token ids, and a causal classifier reads its
score at the last token that is no padding, so another text would be read elsewhere.

Leave-one-out (Li et al. 2016, https://arxiv.org/abs/1612.08220) deletes one piece of the text at a time and scores what
is left as a text. It serves for every reward. Its values need not sum to anything.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal, NamedTuple

import numpy as np
import torch

from rlhf_envs.datasets.messages import Prompt, answer_to
from rlhf_envs.rewards import RewardFunction, Scores, evaluate_reward
from rlhf_envs.rewards.ensemble import RewardEnsemble
from rlhf_envs.rewards.reward_model import SIGMOID, RewardModel, finished_texts, score_columns
from rlhf_envs.rewards.state import frozen_rewards
from rlhf_envs.tokens import encode_after

from .leaves import TOTAL, Leaf, leaves_of, name_of, refuse_people
from .units import Part, ReadText, Unit, cut_at, read_text, spread, word_starts

__all__ = ["METHODS", "Attributed", "Attribution", "Text", "attribute", "score_all"]

METHODS = ("integrated_gradients", "leave_one_out")
Method = Literal["integrated_gradients", "leave_one_out"]
STEPS, AT_ONCE = 64, 16  # points of the integral, and how many of them go through the model together
CHUNK = 256  # texts in one call of the reward


@dataclass(frozen=True)
class Text:
    """Hold what is explained: a prompt as the reward gets it, and the text of a completion.

    Attributes:
        prompt: a string, or messages, whose last one is explained.
        columns: further columns of the row, one value each; `finish_reasons` among them if it is known.
        tokenizer: the agent's, for rewards that read `completion_ids`; None without an agent.
    """

    prompt: Prompt
    completion: str
    columns: Mapping[str, Any] = field(default_factory=dict)
    tokenizer: Any = None

    @property
    def asked(self) -> str:
        """Return the text of the prompt, of messages the last one."""
        return self.prompt if isinstance(self.prompt, str) else self.prompt[-1]["content"]

    def with_texts(self, asked: str, completion: str) -> Text:
        """Return the same with another text of the prompt and of the completion."""
        prompt: Any = asked
        if not isinstance(self.prompt, str):
            prompt = [*self.prompt[:-1], {**self.prompt[-1], "content": asked}]
        return Text(prompt, completion, self.columns, self.tokenizer)

    def without(self, units: Sequence[Unit]) -> Text:
        """Return the same without some units."""
        texts = {"prompt": self.asked, "completion": self.completion}
        for unit in sorted(units, key=lambda u: -u.start):
            texts[unit.part] = texts[unit.part][: unit.start] + texts[unit.part][unit.end :]
        return self.with_texts(texts["prompt"], texts["completion"])


@dataclass(frozen=True)
class Attribution:
    """Hold what one component of a reward owes to each unit.

    Attributes:
        method: how it was found; of a composed reward "both" where its parts were found in different ways.
        weight: what its score is multiplied by in the reward; None where the reward is no weighted sum.
        score: its score of the text.
        baseline: integrated gradients: the score of the baseline; leave-one-out: of the text without any unit.
        values: (n_units,) in units of its score; NaN where the reward fails without the unit.
        rest: what special tokens and templates got.
    """

    method: str
    weight: float | None
    score: float
    baseline: float
    values: np.ndarray
    rest: float = 0.0

    @property
    def delta(self) -> float:
        """Return all known values less `score - baseline`: 0 where they explain the score in full."""
        return float(np.nansum(self.values) + self.rest - (self.score - self.baseline))

    def to_dict(self) -> dict[str, Any]:
        """Return the entry of a JSON report."""
        numbers = {"score": self.score, "baseline": self.baseline, "rest": self.rest, "delta": self.delta}
        known = {name: None if np.isnan(value) else value for name, value in numbers.items()}
        values = [None if np.isnan(value) else value for value in self.values.tolist()]
        return {"method": self.method, "weight": self.weight, **known, "values": values}


class Attributed(NamedTuple):
    """Hold the units of a text, what each component owes to them (the reward first), and remarks for the reader."""

    units: list[Unit]
    components: dict[str, Attribution]
    notes: list[str]


def attribute(reward: RewardFunction, text: Text, method: Method | None = None, n_steps: int = STEPS) -> Attributed:
    """Attribute a reward and each of its components to the tokens of a text.

    Args:
        reward: any reward. Units are the tokens of its first reward model; without one they are words.
        method: integrated gradients by default where a part of the reward is a reward model (the other parts by
            leave-one-out), else leave-one-out.
        n_steps: points of the integral.

    Raises:
        ValueError: no part of the reward is differentiable, or it is no weighted sum; or the reward asks people.
        ImportError: captum is not installed.
    """
    if method is not None and method not in METHODS:
        raise ValueError(f"method={method!r}: choose {' or '.join(METHODS)}")
    leaves, constant = leaves_of(reward)
    for leaf in leaves:
        refuse_people(leaf.reward)
    models = [
        leaf for leaf in leaves if type(leaf.reward) in (RewardModel, RewardEnsemble)
    ]  # a subclass may score anew
    notes: list[str] = []
    units = _units(models[0].reward if models else None, text, method, notes)
    linear = all(leaf.weight is not None for leaf in leaves)
    if method == "integrated_gradients" and not (models and linear):
        why = "is no weighted sum" if models else "has no part with a gradient (a Hugging Face classifier)"
        raise ValueError(f"the reward {name_of(reward)!r} {why}: take method='leave_one_out'")
    with frozen_rewards():
        if method == "leave_one_out" or not (models and linear):
            return Attributed(units, _leave_one_out(reward, leaves, text, units, notes), notes)
        found = {
            leaf.name: _integrated_gradients(leaf, text, units, n_steps)
            if leaf in models
            else _leave_one_out(leaf.reward, [leaf], text, units, notes)[TOTAL]
            for leaf in leaves
        }
        if len(leaves) == 1 and leaves[0].weight == 1 and not constant:
            return Attributed(units, {TOTAL: found[leaves[0].name]}, notes)
        return Attributed(units, {TOTAL: _weighted(found, constant), **found}, notes)


def _weighted(found: Mapping[str, Attribution], constant: float) -> Attribution:
    """Return the weighted sum of what the parts owe."""

    def total(of: Callable[[Attribution], Any]) -> Any:
        return sum((one.weight or 0.0) * of(one) for one in found.values())

    methods = {one.method for one in found.values()}
    return Attribution(
        methods.pop() if len(methods) == 1 else "both",
        1.0,
        constant + total(lambda one: one.score),
        constant + total(lambda one: one.baseline),
        total(lambda one: one.values),
        total(lambda one: one.rest),
    )


# Texts as reward models read them


class _Reading(NamedTuple):
    """Hold how one network reads a text, and where prompt and completion stand in it (-1: nowhere)."""

    read: ReadText
    starts: dict[Part, int]


def _reading(reward: Any, network: Any, text: Text) -> _Reading:
    """Return a text as `reward.score` gives it to a network."""
    prompts, completions = [text.prompt], [answer_to(text.prompt, text.completion)]
    reasons = [text.columns["finish_reasons"]] if "finish_reasons" in text.columns else None
    if isinstance(reward, RewardModel):
        (asked,), (answer,) = finished_texts(network, reward.tokenizer, prompts, completions, reasons)
    else:
        (asked,), answers = reward.as_texts(prompts, completions)
        (answer,) = reward.with_ending(answers, reasons)
    starts: dict[Part, int] = {
        "prompt": asked.rfind(text.asked) if text.asked else -1,
        "completion": (asked + answer).find(text.completion, len(asked)) if text.completion else -1,
    }
    return _Reading(read_text(network, reward.tokenizer, asked + answer), starts)


def _networks(reward: Any) -> list[Any]:
    return [reward.model] if isinstance(reward, RewardModel) else reward.networks


def _units(reward: Any, text: Text, method: str | None, notes: list[str]) -> list[Unit]:
    """Return the units: tokens of a reward model, else words. Add a note where a text is too long for the model."""
    texts: dict[Part, str] = {"prompt": text.asked, "completion": text.completion}
    try:
        reading = None if reward is None else _reading(reward, _networks(reward)[0], text)
    except ValueError:
        if method != "leave_one_out":
            raise
        reading = None
    units: list[Unit] = []
    for part, whole in texts.items():
        if reading is None:
            starts = word_starts(whole)
        else:
            starts = [span[0] - reading.starts[part] for span in reading.read.spans if span is not None]
            at = reading.starts[part]
            cut = reading.read.first - at
            if at >= 0 and cut > 0:  # the words that are not read are cut as words
                starts += [start for start in word_starts(whole) if start < cut]
        units += cut_at(part, whole, starts)
    if reading is not None and reading.read.first:
        notes.append(
            f"the reward model reads the last {len(reading.read.ids)} tokens: the first {reading.read.first} "
            "characters of what it is given do not count"
        )
    return units


# The two methods


def _integrated_gradients(leaf: Leaf, text: Text, units: Sequence[Unit], n_steps: int) -> Attribution:
    """Return the integrated gradients of a reward model's or an ensemble's score, averaged over its networks."""
    reward, values, numbers = leaf.reward, [], []
    for i, network in enumerate(_networks(reward)):
        reading = _reading(reward, network, text)
        tokens, score, baseline = _gradients(network, reading.read.ids, n_steps, partial(_finished, reward, i))
        own, rest = spread(tokens, reading.read.spans, units, reading.starts)
        values.append(own)
        numbers.append((score, baseline, rest))
    score, baseline, rest = np.mean(numbers, axis=0).tolist()
    return Attribution(METHODS[0], leaf.weight, score, baseline, np.mean(values, axis=0), rest)


def _finished(reward: Any, i: int, raw: torch.Tensor) -> torch.Tensor:
    """Return the scores that a reward makes of network i's raw ones: scaled, and of a cost the probability."""
    if isinstance(reward, RewardModel):
        scaled = raw * reward.gain + reward.bias
        return scaled.sigmoid() if reward.link == SIGMOID else scaled
    return raw * float(reward.gain) + float(reward.biases.mean() if reward.shared_trunk else reward.biases[i])


def _gradients(
    network: Any, ids: list[int], n_steps: int, finish: Callable[[torch.Tensor], torch.Tensor]
) -> tuple[np.ndarray, float, float]:
    """Return the attributions of a text's tokens, (n,), and the scores of the text and of the baseline.

    Args:
        finish: returns the scores that count of the network's raw ones.

    Raises:
        ImportError: captum is not installed.
    """
    try:
        from captum.attr import IntegratedGradients
    except ImportError as error:
        raise ImportError(
            'integrated gradients need captum: pip install "rlhf-envs[explain]", or take leave_one_out'
        ) from error
    embedding = network.get_input_embeddings()
    weight = embedding.weight.detach()
    tokens = torch.tensor([ids], device=weight.device)
    with torch.no_grad():
        vectors = embedding(tokens).detach()  # (1, n, width)
        scale = vectors.norm() / weight[tokens].norm().clamp(min=1e-12)  # some embeddings multiply what they look up
    baseline = (weight.float().mean(dim=0) * scale).to(vectors.dtype).expand_as(vectors)

    def score(given: torch.Tensor) -> torch.Tensor:
        hook = embedding.register_forward_hook(lambda *_: given)
        try:
            return finish(score_columns(network, [ids] * len(given)).mean(dim=1))
        finally:
            hook.remove()

    at_once = 1 if network.config.pad_token_id is None else AT_ONCE
    found = IntegratedGradients(score).attribute(vectors, baseline, n_steps=n_steps, internal_batch_size=at_once)
    with torch.no_grad():
        scores = [float(score(given)) for given in (vectors, baseline)]
    return found[0].sum(dim=-1).double().cpu().numpy(), scores[0], scores[1]


def _leave_one_out(
    reward: Any, leaves: Sequence[Leaf], text: Text, units: Sequence[Unit], notes: list[str]
) -> dict[str, Attribution]:
    """Return what the score loses by the deletion of each unit, for the reward and for its components."""
    whole = score_all(reward, [text])
    changed = [text.without(units), *(text.without([unit]) for unit in units)]
    chunks = [changed[start : start + CHUNK] for start in range(0, len(changed), CHUNK)]
    found = [whole, *(scores for chunk in chunks for scores in _score_each(reward, chunk, notes))]
    columns = {TOTAL: np.concatenate([scores.totals for scores in found])}
    for name in whole.components if len(whole.components) > 1 else ():
        values = [scores.components.get(name, np.full(len(scores.totals), np.nan)) for scores in found]
        columns[f"{name}#2" if name == TOTAL else name] = np.concatenate(values)
    weights = {leaf.name: leaf.weight for leaf in leaves}
    alone = leaves[0].weight if len(leaves) == 1 else 1.0
    return {
        name: Attribution(
            METHODS[1],
            alone if name == TOTAL else weights.get(name),
            float(scores[0]),
            float(scores[1]),
            scores[0] - scores[2:],
        )
        for name, scores in columns.items()
    }


def _score_each(reward: Any, texts: Sequence[Text], notes: list[str]) -> list[Scores]:
    """Return the scores of texts. What a reward cannot score, such as an empty prompt, is NaN, and a note says so."""
    try:
        return [score_all(reward, texts)]
    except Exception as error:  # a reward is anybody's code
        if len(texts) > 1:
            return [scores for text in texts for scores in _score_each(reward, [text], notes)]
        note = f"the reward fails without some tokens, whose values are not known ({type(error).__name__}: {error})"
        if note not in notes:
            notes.append(note)
        return [Scores(np.array([np.nan]), {})]


def score_all(reward: Any, texts: Sequence[Text]) -> Scores:
    """Return the checked scores of texts, with the columns that rewards may read."""
    columns = {name: [text.columns[name] for text in texts] for name in texts[0].columns}
    if texts[0].tokenizer is not None:
        columns["completion_ids"] = [encode_after(text.tokenizer, text.completion) for text in texts]
        columns["whole_prompts"] = [text.prompt for text in texts]
    answers = [answer_to(text.prompt, text.completion) for text in texts]
    return evaluate_reward(reward, [text.prompt for text in texts], answers, columns)
