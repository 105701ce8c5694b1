"""Questions for people out of what models write, and how far people are with them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from rlhf_envs.feedback import NewItem

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
    """Complete prompts of an environment, and ask about the completions.

    Args:
        source: a run folder, a bundle, or a model's name or folder.
        env: environment id; the run's own, or rlhf/Sentiment-v0.
        n_prompts: drawn from the environment's data with the seed, each once before any comes twice.
        n_completions: of each; an item of a kind that asks about one completion is made for each of them.
        kind: of the items. By default rating, pairwise or ranking, by the number of completions.
        overlap: judgements an item wants.
        against: another model, whose is every other completion.
        split: of the task's data.
        seed: of the prompts and the sampling.
        env_kwargs: the environment's arguments.

    Returns:
        The items, and how many prompts were left out because all their completions are the same.

    Raises:
        ValueError: there is no such model or environment, or the kind does not suit the number of completions.
    """
    from rlhf_envs.feedback import NewItem
    from rlhf_envs.registration import check_environment

    from ..core.episodes import open_batch
    from ..saving.folders import run_environment
    from .generate import CHUNK, generate_in
    from .source import Source

    kind = kind or ("rating" if n_completions == 1 else "pairwise" if n_completions == 2 else "ranking")
    compares = kind in ("pairwise", "ranking")
    if (kind == "pairwise" and n_completions != 2) or (kind == "ranking" and n_completions < 2):
        wanted = "2" if kind == "pairwise" else "2 or more"
        raise ValueError(f"n_completions={n_completions}: {kind} compares {wanted} completions a prompt")
    env_id = check_environment(env or run_environment(source) or "rlhf/Sentiment-v0")
    writers = [Source.of(name) for name in (source, against) if name is not None]
    options = {**writers[0].environment_options(), "split": split, **(env_kwargs or {})}
    batch = open_batch(env_id, min(n_prompts, CHUNK), **options)
    indices = np.resize(np.random.default_rng(seed).permutation(len(batch.rows)), n_prompts)
    policies = [writer.build_policy(batch) for writer in writers]
    columns = [
        generate_in(batch, policies[i % len(policies)], indices, seed=seed * 1000 + i) for i in range(n_completions)
    ]
    names = [writers[i % len(writers)].name for i in range(n_completions)]
    items, same = [], 0
    for row in zip(*columns, strict=True):
        prompt, texts = row[0].prompt, [completion.completion for completion in row]
        meta = {"env": env_id, "index": int(row[0].index)}
        shared: dict[str, Any] = {"source": env_id, "overlap": overlap}
        if not compares:
            items += [
                NewItem(kind, prompt, (text,), policy=name, meta=meta, **shared)
                for text, name in zip(texts, names, strict=True)
            ]
        elif len(set(texts)) == 1:
            same += 1
        else:
            policy = " | ".join(dict.fromkeys(names))
            items.append(NewItem(kind, prompt, tuple(texts), policy=policy, meta={**meta, "policies": names}, **shared))
    return items, same
