"""Explain the score of one completion, and how its policy came to write it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from rlhf_envs.datasets.messages import shown
from rlhf_envs.rewards import get_reward
from rlhf_envs.tokens import encode_after, keep_start, prompt_text

from ..generate import generate_in
from ..prompting import open_prompts
from ..reference import find_reference
from ..source import Source
from .attribution import Attribution, Method, Text, attribute
from .leaves import TOTAL, refuse_people
from .steps import Step, measure_steps
from .units import Unit

__all__ = ["Explanation", "explain", "explain_reward"]

TOP = 5


@dataclass(frozen=True)
class Explanation:
    """Hold the explanation of one completion.

    Attributes:
        source: what wrote it; None for a text that was given without an agent.
        reward_name: the reward that is explained.
        prompt: the prompt as people read it.
        completion: its text.
        units: the pieces of prompt and completion, in their order.
        components: what each component of the reward owes to the units; "reward" is all of it.
        reference: the model that the steps are compared with; None if there is none.
        steps: the tokens of the completion as the policy writes them; empty without an agent.
        notes: remarks for the reader, such as what was not read.
    """

    source: str | None
    reward_name: str
    prompt: str
    completion: str
    units: list[Unit]
    components: dict[str, Attribution]
    reference: str | None = None
    steps: list[Step] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def total(self) -> Attribution:
        """Return what the whole reward owes to the units."""
        return self.components[TOTAL]

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON report."""
        names = ("source", "reward_name", "prompt", "completion", "reference", "notes")
        return {
            **{name: getattr(self, name) for name in names},
            "units": [unit._asdict() for unit in self.units],
            "components": {name: found.to_dict() for name, found in self.components.items()},
            "steps": [step.to_dict() for step in self.steps],
        }


def explain_reward(
    reward: str | Callable[..., Any],
    text: str,
    completion: str | None = None,
    method: Method | None = None,
    columns: Mapping[str, Any] | None = None,
) -> Explanation:
    """Explain the score that a reward gives to a text.

    Args:
        reward: a reward function, or a name that `rlhf_envs.rewards.get_reward` knows.
        text: the text; with a `completion` the prompt.
        completion: what stands after the prompt. By default the text is a completion, after an empty prompt.
        method: see `attribute`.
        columns: further columns that the reward reads, one value each.

    Raises:
        ValueError: there is no such reward, it cannot be explained in this way, or it lacks a column.
    """
    found = get_reward(reward) if isinstance(reward, str) else reward
    prompt, said = ("", text) if completion is None else (text, completion)
    units, components, notes = attribute(found, Text(prompt, said, columns or {}), method)
    name = reward if isinstance(reward, str) else getattr(reward, "name", getattr(reward, "__name__", "reward"))
    return Explanation(None, name, prompt, said, units, components, notes=notes)


def explain(
    source: Any,
    text: str,
    completion: str | None = None,
    method: Method | None = None,
    env: Any = None,
    *,
    reference: Any = None,
    top: int = TOP,
    seed: int = 0,
    deterministic: bool = False,
    temperature: float | None = None,
    top_k: int | None = None,
    top_p: float | None = None,
    max_new_tokens: int | None = None,
    env_kwargs: Mapping[str, Any] | None = None,
    trust: bool = False,
) -> Explanation:
    """Explain which tokens earned the reward of a completion, and where the policy parts from its reference.

    Args:
        source: an agent, a policy, a model, a run folder, a bundle or a model's name, see `Source`.
        text: the prompt.
        completion: what is explained; by default the source writes it.
        method: see `attribute`.
        env: the environment whose reward is explained: the source's own, else rlhf/Sentiment-v0.
        reference: the model to compare with, see `agents.evaluate`.
        top: alternatives per token.
        seed, deterministic, temperature, top_k, top_p, max_new_tokens: how the completion is drawn.
        env_kwargs: further arguments of the environment, such as another `reward`.
        trust: load an SB3 zip, which holds pickles.

    Raises:
        ValueError: an argument is out of range, the reward cannot be explained in this way, or the task replies.
    """
    if top < 1:
        raise ValueError(f"top={top}: expected at least one alternative")
    source = Source.of(source, trust).with_decoding({"temperature": temperature, "top_k": top_k, "top_p": top_p})
    own = {} if env_kwargs is None else dict(env_kwargs)
    if env is None and source.env is None and not own.keys() & {"reward", "reward_fn"}:
        env = source.own_environment or "rlhf/Sentiment-v0"
    batch = open_prompts(source, [text], env, max_new_tokens, own)
    if batch.dialogs is not None:
        raise ValueError(
            f"the task {batch.task.name!r} replies to the agent, and one completion is explained: give --reward alone, "
            "with --text and --completion"
        )
    refuse_people(batch.reward_fn)
    notes: list[str] = []
    with source.acting(batch) as policy:
        name, logits = find_reference(source, policy, batch, reference)
        if completion is None:
            done = generate_in(batch, policy, np.array([0]), seed, deterministic)[0]
            ids, columns, said, reason = done.input_ids, done.columns, done.completion, done.finish_reason
            pixels = done.pixel_values
        else:
            ids, columns = _read(batch, policy, completion, notes)
            said, reason, pixels = completion, "eos", None
        steps = measure_steps(policy, logits, batch.tokenizer, ids, columns, top, pixels)
    prompt = batch.rows[0]["prompt"]
    if isinstance(prompt, str):  # as the reward gets it: cut, or in other letters, if the tokenizer changed them
        prompt = prompt_text(batch.tokenizer, ids[: columns[0] + 1].tolist() if len(columns) else ids.tolist(), prompt)
    explained = Text(prompt, said, {"finish_reasons": reason}, batch.tokenizer)
    units, components, remarks = attribute(batch.reward_fn, explained, method)
    reward_name = getattr(batch.reward_fn, "name", getattr(batch.reward_fn, "__name__", "reward"))
    return Explanation(
        source.name, reward_name, shown(prompt), said, units, components, name, steps, [*remarks, *notes]
    )


def _read(batch: Any, policy: Any, completion: str, notes: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """Return the tokens of the prompt and a given completion, and the places before its tokens.

    A completion that is longer than the model's room is cut, with a note.
    """
    batch.start(0, 0)
    prompt = batch.ids[0, : batch.lengths[0]]
    ids = encode_after(batch.tokenizer, completion)
    positions = getattr(policy.language_model.config, "max_position_embeddings", None)
    if positions is not None and len(prompt) + len(ids) > positions:
        kept = keep_start(batch.tokenizer, ids, positions - len(prompt))
        notes.append(f"the policy has {positions} positions: the last {len(ids) - len(kept)} tokens are not compared")
        ids = kept
    whole = np.array([*prompt, *ids], dtype=np.int64)
    return whole, np.arange(len(prompt) - 1, len(whole) - 1)
