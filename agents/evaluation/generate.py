"""Let a policy complete chosen prompts, in batches."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from rlhf_envs.datasets.messages import Messages, Prompt, answer_to, said, shown
from rlhf_envs.dialogs import total_reward
from rlhf_envs.episodes import EpisodeBatch
from rlhf_envs.finished import FinishedEpisode
from rlhf_envs.rewards import check_signature
from rlhf_envs.rewards.state import frozen_rewards

from ..core.base_policy import LanguageModelPolicy
from ..core.observations import PIXELS
from .prompting import open_prompts
from .source import Source

__all__ = ["Completion", "generate", "generate_in", "held_out_indices", "pad_completions"]

CHUNK = 256  # episodes side by side


@dataclass(frozen=True)
class Completion:
    """Hold one finished episode.

    Attributes:
        index: the row of the data.
        prompt: the prompt as text, a conversation as people read it.
        completion: what was written after it, as text.
        input_ids: (length,) int64, the prompt, the completion and any replies.
        columns: (n_actions,) the position in `input_ids` after which each action was taken: action i is
            `input_ids[columns[i] + 1]`.
        log_probs: (n_actions,) float32, of the actions under the policy with its decoding.
        model_log_probs: (n_actions,) float32, of the actions under its language model; None if not asked for.
        row: the contents of that row.
        metrics: the task's metrics of the episode.
        extra: what the reward gave to `log_extra`.
        messages: the prompt's messages; None if it is a string.
        turns: the completion's messages where somebody replied to the agent; None elsewhere.
        action_masks: (n_actions, ceil(V / 8)) uint8, `np.packbits` of the masks that held; None if none did.
        pixel_values: the picture that the model saw, as in observations; None if there was none.
    """

    index: int
    prompt: str
    completion: str
    finish_reason: str
    reward: float
    components: dict[str, float]
    input_ids: np.ndarray = field(repr=False)
    columns: np.ndarray = field(repr=False)
    log_probs: np.ndarray = field(repr=False)
    row: dict[str, Any] = field(repr=False)
    model_log_probs: np.ndarray | None = field(default=None, repr=False)
    action_masks: np.ndarray | None = field(default=None, repr=False)
    pixel_values: np.ndarray | None = field(default=None, repr=False)
    metrics: dict[str, float] = field(default_factory=dict)
    extra: dict[str, Any] = field(default_factory=dict, repr=False)
    messages: Messages | None = field(default=None, repr=False)
    turns: Messages | None = field(default=None, repr=False)

    @property
    def asked(self) -> Prompt:
        """Return the prompt as rewards get it."""
        return self.messages or self.prompt

    @property
    def answered(self) -> Prompt:
        """Return the completion as rewards get it."""
        return self.turns or answer_to(self.asked, self.completion)

    def to_dict(self) -> dict[str, Any]:
        """Return the entry of a JSON report. A conversation has the `messages` of its prompt too, and its `turns`."""
        entry = {name: getattr(self, name) for name in ("prompt", "completion", "reward", "finish_reason")}
        more = {"messages": self.messages, "turns": self.turns}
        return {**entry, **{name: value for name, value in more.items() if value is not None}}


def held_out_indices(rows: int | EpisodeBatch, n_episodes: int) -> np.ndarray:
    """Return the rows that an evaluation takes, `(n_episodes,)`: always the same, each once before any comes twice.

    Args:
        rows: the number of rows, or the episodes whose data they are: those of a mixture are in its tasks' shares.
        n_episodes: how many to take.
    """
    if not isinstance(rows, int):
        if rows.sampler.tasks is not None:
            return rows.sampler.tasks.held_out(n_episodes)
        rows = len(rows.rows)
    return np.resize(np.random.default_rng(0).permutation(rows), n_episodes)


def generate(
    source: Any,
    env: Any = None,
    n_prompts: int | None = None,
    indices: Sequence[int] | np.ndarray | None = None,
    seed: int = 0,
    deterministic: bool = False,
    split: str = "test",
    *,
    prompts: str | Sequence[Prompt | Mapping[str, Any]] | None = None,
    n: int = 1,
    temperature: float | None = None,
    top_k: int | None = None,
    top_p: float | None = None,
    max_new_tokens: int | None = None,
    env_kwargs: Mapping[str, Any] | None = None,
    trust: bool = False,
) -> list[Completion]:
    """Complete prompts, up to 256 side by side, and return the episodes in the order of the prompts.

    The prompts are those given, or else rows of an environment's data. Given prompts are scored where an environment or
    a reward is named, or where the best of several completions is kept; otherwise `reward` is 0 and `components` is
    empty.

    Each episode draws its tokens with its own random numbers, which are made from `seed` and its place in the list. It
    does not depend on the other episodes in its batch, and two policies that agree write the same.

    Args:
        source: an agent, a policy, a model, a run folder, a bundle or a model's name, see `Source`.
        env: an environment's id, opened with `split`; or a text environment that lends its task, data and reward. The
            source's own by default, else rlhf/Sentiment-v0.
        n_prompts: how many of the fixed `held_out_indices` to complete; 16 by default.
        indices: rows of the environment's data to complete instead.
        deterministic: take the most probable token.
        prompts: prompts to complete instead: one text, or a list of texts, of conversations (lists of messages) and of
            rows with a `prompt` and the columns that the reward reads.
        n: completions per prompt, which come one after the other.
        temperature, top_k, top_p: how tokens are drawn; by default as the agent or the run does it, else 1 and no
            limits.
        max_new_tokens: the room for the completion; by default the run's or the task's.
        env_kwargs: further arguments of the environment.
        trust: load an SB3 zip, which holds pickles.

    Raises:
        ValueError: an argument is out of range, there is no such source or environment, or the reward needs a column
            that prompts have not.
        TypeError: `env` is no environment.
    """
    if n < 1:
        raise ValueError(f"n={n}: expected at least one completion per prompt")
    if isinstance(env, list | tuple) or (isinstance(env, str) and " " in env):
        raise TypeError(f"env={env!r} is no environment: give prompts of your own by name, prompts={env!r}")
    source = source if isinstance(source, Source) else Source.of(source, trust)
    source = source.with_decoding({"temperature": temperature, "top_k": top_k, "top_p": top_p})
    if prompts is not None:
        if n_prompts is not None or indices is not None:
            raise ValueError("prompts are given: leave out n_prompts and indices, which choose rows of the data")
        batch = open_prompts(source, prompts, env, max_new_tokens, env_kwargs)
        if not all(isinstance(prompt, Mapping) for prompt in prompts):
            check_signature(batch.reward_fn, ())  # these have no columns, whatever the rows beside them have
        indices = range(len(batch.rows))
    else:
        limit = {} if max_new_tokens is None else {"max_new_tokens": max_new_tokens}
        env = (source.env or source.own_environment or "rlhf/Sentiment-v0") if env is None else env
        batch = source.open_episodes(env, split, {**(env_kwargs or {}), **limit})
    if indices is None:
        indices = held_out_indices(batch, 16 if n_prompts is None else n_prompts)
    with source.acting(batch) as policy:
        return generate_in(batch, policy, np.repeat(indices, n), seed, deterministic, source.best_of)


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
    on_step: Callable[[EpisodeBatch], None] | None = None,
    with_model: bool = False,
) -> list[Completion]:
    """Complete the prompts at `indices` of the data of `batch`, and keep the best of `best_of` completions of each.

    With `deterministic` only one is drawn. `first` is the place of the first prompt in a longer list. `on_step` is
    called after every step with the episodes, unless the best of several is kept. `with_model` asks for
    `Completion.model_log_probs`; the policy may have a temperature, but no masks, top-k or top-p.
    """
    if best_of > 1 and not deterministic:
        repeated, place = np.repeat(indices, best_of), first * best_of
        drawn = generate_in(batch, policy, repeated, seed, deterministic, first=place, with_model=with_model)
        groups = (drawn[i : i + best_of] for i in range(0, len(drawn), best_of))
        return [max(group, key=lambda done: done.reward) for group in groups]
    completions: list[Completion] = []
    for start in range(0, len(indices), CHUNK):
        chosen = indices[start : start + CHUNK]
        rows = batch if len(batch.ids) == len(chosen) else batch.copy(len(chosen))
        generators = [np.random.default_rng([seed, first + start + i]) for i in range(len(chosen))]
        uniforms = np.stack([generator.random(batch.max_new_tokens) for generator in generators])
        seeds = [int(generator.integers(2**63)) for generator in generators]  # of the users who reply
        completions += _complete(rows, policy, chosen, uniforms, deterministic, on_step, seeds, with_model)
    return completions


def _complete(
    batch: EpisodeBatch,
    policy: LanguageModelPolicy,
    indices: np.ndarray,
    uniforms: np.ndarray,
    deterministic: bool,
    on_step: Callable[[EpisodeBatch], None] | None,
    seeds: Sequence[int],
    with_model: bool,
) -> list[Completion]:
    """Complete the prompts at `indices` (n,), one per row of `batch`, with random numbers `uniforms` (n, steps).

    All completions are scored in one reward call, once the last has ended.
    """
    n = len(indices)
    for row, index in enumerate(indices):
        batch.start(row, int(index), seeds[row])
    finished: dict[int, tuple[FinishedEpisode, dict[str, Any]]] = {}  # by row: the episode, and fields of Completion
    types = np.int64, np.float32, np.float32
    columns, log_probs, model_log_probs = (np.zeros((n, batch.max_new_tokens), dtype) for dtype in types)
    masks: list[np.ndarray] = []  # one per step, (n, ceil(V / 8))
    idle = next(i for i in range(batch.vocab_size) if i not in batch.ends)  # fed to finished rows: it ends no episode
    for step in range(batch.max_new_tokens):
        columns[:, step] = batch.lengths - 1
        observations, allowed = batch.observe(), batch.action_masks() if policy.reads_action_masks else None
        if allowed is not None:
            observations["action_masks"] = allowed
            masks.append(np.packbits(allowed, axis=1))
        temperature = policy.temperature if with_model else 1.0
        actions, log_probs[:, step], model_log_probs[:, step] = _choose(
            policy, observations, uniforms[:, step], deterministic, temperature
        )
        over = np.isin(np.arange(n), [*finished])
        actions[over] = idle if allowed is None else _first_allowed(allowed[over], batch.ends)
        ended: list[FinishedEpisode] = []
        rewards, terminated, _ = batch.step(actions, ended)
        if on_step is not None:
            on_step(batch)
        for episode in ended:
            if (row := episode.row) not in finished:
                finished[row] = (
                    episode,
                    {
                        "reward": rewards[row],  # of the last turn: the score comes later
                        "input_ids": batch.ids[row, : batch.lengths[row]].copy(),
                        "columns": columns[row, : step + 1].copy(),
                        "log_probs": log_probs[row, : step + 1].copy(),
                        "model_log_probs": model_log_probs[row, : step + 1].copy() if with_model else None,
                        "action_masks": np.stack([mask[row] for mask in masks]) if masks else None,
                        "pixel_values": observations[PIXELS][row] if PIXELS in observations else None,
                    },
                )
        # Under masks a finished row waits at its prompt: further on they may allow nothing but an end.
        for row in np.flatnonzero(terminated if allowed is None else terminated | over).tolist():
            batch.start(row, int(indices[row]))
        if len(finished) == n:
            break
    return _scored(batch, [finished[row] for row in range(n)])


def _scored(batch: EpisodeBatch, finished: Sequence[tuple[FinishedEpisode, dict[str, Any]]]) -> list[Completion]:
    """Score finished episodes in one reward call, and return their completions."""
    scores = batch.score([episode for episode, _ in finished])
    completions: list[Completion] = []
    for (episode, fields), score in zip(finished, scores, strict=True):
        info = episode.info
        fields |= {key: info[key] for key in ("index", "finish_reason")}
        fields |= {key: info[key] for key in ("metrics", "extra") if key in info}
        fields["reward"] = total_reward(fields["reward"] + score, info)
        completions.append(
            Completion(
                **fields,
                prompt=shown(info["prompt"]),
                completion=said(info["completion"]),
                components=info["reward_components"],
                row=batch.rows[info["index"]],
                messages=info["prompt"] if isinstance(info["prompt"], list) else None,
                turns=info["completion"] if batch.dialogs and isinstance(info["completion"], list) else None,
            )
        )
    return completions


def _first_allowed(allowed: np.ndarray, ends: Sequence[int]) -> np.ndarray:
    """Return the first token that the masks (n, V) allow in each row, (n,); one that ends a turn where all do."""
    others = allowed.copy()
    others[:, list(ends)] = False
    return np.where(others.any(axis=1, keepdims=True), others, allowed).argmax(axis=1)


def _choose(
    policy: LanguageModelPolicy,
    observations: dict[str, np.ndarray],
    uniforms: np.ndarray,
    deterministic: bool,
    temperature: float,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Choose tokens (n,), by inverting the cumulative distribution at `uniforms` (n,).

    Add their log-probabilities, and those that they have without the temperature that divides the logits.
    """
    tensors = {key: torch.as_tensor(array, device=policy.device) for key, array in observations.items()}
    log_probs = policy.get_distribution(tensors).distribution.logits  # (n, vocabulary), normalised
    if deterministic:
        actions = log_probs.argmax(dim=-1)
    else:
        cumulative = log_probs.exp().cumsum(dim=-1)
        points = torch.as_tensor(uniforms, dtype=cumulative.dtype, device=cumulative.device).clamp(max=1 - 1e-6)
        points = points[:, None] * cumulative[:, -1:]
        actions = torch.searchsorted(cumulative, points, right=True).squeeze(1).clamp(max=log_probs.shape[1] - 1)
    taken = without = log_probs.gather(1, actions[:, None]).squeeze(1)
    if temperature != 1:
        without = temperature * taken - (temperature * log_probs).logsumexp(dim=-1)
    return actions.cpu().numpy(), taken.cpu().numpy(), without.cpu().numpy()


def pad_completions(completions: Sequence[Completion], device: torch.device | str = "cpu") -> dict[str, torch.Tensor]:
    """Return completions as a policy's `evaluate_actions` reads them.

    `input_ids` and `attention_mask` (n, length) int64 are right-padded; `rows` and `columns` (n_actions,) int64 are the
    place of every action, episode by episode. With pictures there is `pixel_values` too, one per completion.
    """
    length = max(len(c.input_ids) for c in completions)
    ids, mask = (np.zeros((len(completions), length), dtype=np.int64) for _ in range(2))
    for row, c in enumerate(completions):
        ids[row, : len(c.input_ids)], mask[row, : len(c.input_ids)] = c.input_ids, 1
    rows = np.repeat(np.arange(len(completions)), [len(c.columns) for c in completions])
    columns = np.concatenate([c.columns for c in completions])
    arrays = {"input_ids": ids, "attention_mask": mask, "rows": rows, "columns": columns}
    if pictures := [c.pixel_values for c in completions if c.pixel_values is not None]:
        arrays[PIXELS] = np.stack(pictures)
    return {name: torch.as_tensor(array, device=device) for name, array in arrays.items()}
