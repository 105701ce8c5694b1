"""Turn completions into items of the feedback store, which ask people about them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from rlhf_envs.datasets.messages import Messages
from rlhf_envs.feedback import NewItem
from rlhf_envs.registration import check_environment

from ..saving.folders import run_environment
from .generate import CHUNK, Completion, generate_in
from .source import Source

__all__ = ["generate_items"]


def generate_items(
    source: str,
    env: str | None = None,
    *,
    n_prompts: int = 64,
    n_completions: int = 2,
    kind: str | None = None,
    overlap: int = 1,
    against: str | None = None,
    split: str = "train",
    seed: int = 0,
    env_kwargs: dict[str, Any] | None = None,
) -> tuple[list[NewItem], int]:
    """Complete prompts of an environment, and return items that ask about the completions.

    Args:
        source: a run folder, a bundle, or a model's name or folder.
        env: the environment's id; by default the run's own, else rlhf/Sentiment-v0.
        n_prompts: the number of prompts, drawn from the environment's data with the seed, each once before any comes
            twice.
        n_completions: completions per prompt. A kind that asks about one completion makes one item for each of them.
        kind: the kind of the items; by default rating, pairwise or ranking, by the number of completions.
        overlap: judgements wanted per item.
        against: another model, which writes every other completion.

    Returns:
        The items, and the number of prompts that were left out because all their completions are the same.

    Raises:
        ValueError: there is no such model or environment, or the kind does not suit the number of completions.
    """
    kind = kind or ("rating" if n_completions == 1 else "pairwise" if n_completions == 2 else "ranking")
    if (kind == "pairwise" and n_completions != 2) or (kind == "ranking" and n_completions < 2):
        wanted = "2" if kind == "pairwise" else "2 or more"
        raise ValueError(f"n_completions={n_completions}: {kind} compares {wanted} completions per prompt")
    env_id = check_environment(env or run_environment(source) or "rlhf/Sentiment-v0")
    writers = [Source.of(name) for name in (source, against) if name is not None]
    batch = writers[0].open_episodes(env_id, split, env_kwargs, min(n_prompts, CHUNK))
    indices = np.resize(np.random.default_rng(seed).permutation(len(batch.rows)), n_prompts)
    policies = [writer.build_policy(batch) for writer in writers]
    columns = [
        generate_in(batch, policies[i % len(policies)], indices, seed=seed * 1000 + i) for i in range(n_completions)
    ]
    names = [writers[i % len(writers)].name for i in range(n_completions)]
    by_prompt = [_items_of(row, names, kind, env_id, overlap) for row in zip(*columns, strict=True)]
    return [item for items in by_prompt for item in items], sum(not items for items in by_prompt)


def _items_of(row: Sequence[Completion], names: list[str], kind: str, env_id: str, overlap: int) -> list[NewItem]:
    """Return the items about the completions of one prompt; none if a comparison would compare equal texts."""
    prompt, texts = row[0].prompt, tuple(completion.completion for completion in row)
    messages = {} if row[0].messages is None else {"messages": row[0].messages}
    meta = {"env": env_id, "index": int(row[0].index), **messages}
    turns = [completion.turns for completion in row]
    shared: dict[str, Any] = {"source": env_id, "overlap": overlap}
    if kind not in ("pairwise", "ranking"):
        each = zip(texts, names, turns, strict=True)
        return [
            NewItem(kind, prompt, (text,), policy=name, meta={**meta, **_turns([own])}, **shared)
            for text, name, own in each
        ]
    if len(set(texts)) == 1:
        return []
    policy = " | ".join(dict.fromkeys(names))
    return [NewItem(kind, prompt, texts, policy=policy, meta={**meta, **_turns(turns), "policies": names}, **shared)]


def _turns(turns: Sequence[Messages | None]) -> dict[str, Any]:
    """Return the meta that keeps the completions' turns, where somebody replied to the agent."""
    return {"turns": list(turns)} if any(turns) else {}
