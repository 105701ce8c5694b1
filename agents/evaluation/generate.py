"""Completions of chosen prompts by a policy, batched, and where a policy comes from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from rlhf_envs.rewards.state import frozen_rewards

from ..core.base_policy import LanguageModelPolicy
from ..core.episodes import like_batch, open_batch
from .source import Source

if TYPE_CHECKING:
    from rlhf_envs.episodes import EpisodeBatch

__all__ = ["Completion", "generate", "held_out_indices"]

CHUNK = 256  # episodes side by side


@dataclass(frozen=True)
class Completion:
    """One finished episode.

    Attributes:
        input_ids: (length,) int64, the prompt, the completion and any replies.
        columns: (n_actions,) the position in `input_ids` after which each action was taken: action i is
            `input_ids[columns[i] + 1]`.
        log_probs: (n_actions,) float32, of the actions under the policy as it decoded.
        action_masks: (n_actions, ceil(V / 8)) uint8, `np.packbits` of the masks that held; None where none did.
        row: the row of the data.
    """

    index: int
    prompt: str
    completion: str
    finish_reason: str
    reward: float
    components: dict[str, float]
    input_ids: np.ndarray
    columns: np.ndarray
    log_probs: np.ndarray
    row: dict[str, Any] = field(repr=False)
    action_masks: np.ndarray | None = field(default=None, repr=False)


def held_out_indices(n_rows: int, n_episodes: int) -> np.ndarray:
    """The rows that an evaluation takes, `(n_episodes,)`: always the same, each once before any comes twice."""
    return np.resize(np.random.default_rng(0).permutation(n_rows), n_episodes)


def generate(
    source: Any,
    env: Any,
    n_prompts: int | None = None,
    indices: Sequence[int] | np.ndarray | None = None,
    seed: int = 0,
    deterministic: bool = False,
    split: str = "test",
) -> list[Completion]:
    """Complete prompts, up to 256 side by side.

    An episode draws its tokens with random numbers of its own, made from `seed` and its place in the list: it does not
    depend on what runs beside it, and two policies that agree write the same.

    Args:
        source: an agent, a policy, a model, a run folder or a model's name, see `Source`.
        env: an environment id, or a text environment whose task, data and reward are taken.
        n_prompts: how many of the fixed `held_out_indices`; 16 by default.
        indices: rows of the environment's data, instead.
        seed: of the sampling.
        deterministic: take the most probable token.
        split: of the task's data, where `env` is an id.

    Returns:
        The finished episodes, in the order of `indices`.
    """
    source = source if isinstance(source, Source) else Source.of(source)
    options = {**source.environment_options(), "split": split} if isinstance(env, str) else {}
    batch = open_batch(env, 1, **options)
    if indices is None:
        indices = held_out_indices(len(batch.rows), 16 if n_prompts is None else n_prompts)
    return generate_in(batch, source.build_policy(batch), np.asarray(indices), seed, deterministic, source.best_of)


@torch.no_grad()
@frozen_rewards()
def generate_in(
    batch: EpisodeBatch,
    policy: Any,
    indices: np.ndarray,
    seed: int,
    deterministic: bool = False,
    best_of: int = 1,
    first: int = 0,
) -> list[Completion]:
    """Complete the prompts at `indices` of the data of `batch`; of `best_of` completions each the best rewarded.

    With `deterministic` there is one completion to choose from, however many were drawn, and one is. `first` is the
    place of the prompts in a longer list.
    """
    if best_of > 1 and not deterministic:
        drawn = generate_in(batch, policy, np.repeat(indices, best_of), seed, deterministic, first=first * best_of)
        groups = (drawn[i : i + best_of] for i in range(0, len(drawn), best_of))
        return [max(group, key=lambda done: done.reward) for group in groups]
    completions: list[Completion] = []
    for start in range(0, len(indices), CHUNK):
        chosen = indices[start : start + CHUNK]
        rows = open_rows(batch, len(chosen))
        uniforms = np.stack(
            [np.random.default_rng([seed, first + start + i]).random(batch.max_new_tokens) for i in range(len(chosen))]
        )
        completions += _complete(rows, policy, chosen, uniforms, deterministic)
    return completions


def open_rows(batch: EpisodeBatch, n: int) -> EpisodeBatch:
    """`batch` itself if it has n rows, else one like it that has."""
    return batch if len(batch.ids) == n else like_batch(batch, n)


def _complete(
    batch: EpisodeBatch, policy: LanguageModelPolicy, indices: np.ndarray, uniforms: np.ndarray, deterministic: bool
) -> list[Completion]:
    """One episode a row of `batch`, from the prompts at `indices` (n,), with random numbers `uniforms` (n, steps)."""
    n = len(indices)
    for row, index in enumerate(indices):
        batch.start(row, int(index))
    finished: list[Completion | None] = [None] * n
    columns, log_probs = (np.zeros((n, batch.max_new_tokens), dtype) for dtype in (np.int64, np.float32))
    masks: list[np.ndarray] = []  # a step each, (n, ceil(V / 8))
    eos = batch.tokenizer.eos_token_id
    idle = 0 if eos != 0 else 1  # what rows that are done are fed: anything that does not end an episode
    for step in range(batch.max_new_tokens):
        columns[:, step] = batch.lengths - 1
        allowed = batch.action_masks() if policy.reads_action_masks else None
        if allowed is not None:
            masks.append(np.packbits(allowed, axis=1))
        actions, log_probs[:, step] = _choose(policy, batch.observe(), uniforms[:, step], deterministic, allowed)
        if allowed is None:  # under a mask a row that is done goes on with texts that may be
            actions[[done is not None for done in finished]] = idle
        rewards, terminated, infos = batch.step(actions)
        for row in np.flatnonzero(terminated).tolist():
            if finished[row] is None:
                ids = batch.ids[row, : batch.lengths[row]].copy()
                taken = (columns[row, : step + 1].copy(), log_probs[row, : step + 1].copy())
                held = np.stack([mask[row] for mask in masks]) if masks else None
                finished[row] = _completion(infos[row], float(rewards[row]), ids, *taken, held, batch.rows)
            batch.start(row, int(indices[row]))
        if None not in finished:
            break
    return [done for done in finished if done is not None]


def _completion(
    info: dict[str, Any],
    reward: float,
    ids: np.ndarray,
    columns: np.ndarray,
    log_probs: np.ndarray,
    action_masks: np.ndarray | None,
    rows: list[dict[str, Any]],
) -> Completion:
    return Completion(
        index=info["index"],
        prompt=info["prompt"],
        completion=info["completion"],
        finish_reason=info["finish_reason"],
        reward=reward,
        components=info["reward_components"],
        input_ids=ids,
        columns=columns,
        log_probs=log_probs,
        row=rows[info["index"]],
        action_masks=action_masks,
    )


def _choose(
    policy: LanguageModelPolicy,
    observations: dict[str, np.ndarray],
    uniforms: np.ndarray,
    deterministic: bool,
    action_masks: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Tokens (n,) and their log-probabilities (n,): the inverse of the cumulative distribution at `uniforms` (n,)."""
    if action_masks is not None:
        observations = observations | {"action_masks": action_masks}
    tensors = {key: torch.as_tensor(array, device=policy.device) for key, array in observations.items()}
    log_probs = policy.get_distribution(tensors).distribution.logits  # (n, vocabulary), normalised
    if deterministic:
        actions = log_probs.argmax(dim=-1)
    else:
        cumulative = log_probs.exp().cumsum(dim=-1)
        points = torch.as_tensor(uniforms, dtype=cumulative.dtype, device=cumulative.device).clamp(max=1 - 1e-6)
        points = points[:, None] * cumulative[:, -1:]
        actions = torch.searchsorted(cumulative, points, right=True).squeeze(1).clamp(max=log_probs.shape[1] - 1)
    taken = log_probs.gather(1, actions[:, None]).squeeze(1)
    return actions.cpu().numpy(), taken.cpu().numpy()
