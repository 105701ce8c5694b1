"""Measure a model before and after an export, on the same held-out prompts with the same random numbers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from rlhf_envs.episodes import EpisodeBatch

from ...core.base_policy import LanguageModelPolicy
from ...core.distribution import TokenDistribution
from ...evaluation.evaluate import Completion, find_judges, judge_completions
from ...evaluation.generate import generate_in, held_out_indices, pad_completions
from ...evaluation.source import Source
from ...evaluation.statistics import Estimate, bootstrap_mean, bootstrap_perplexity

__all__ = ["Exported", "HeldOut", "Measured", "Reader", "weight_bytes"]

Reader = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
MAX_LOGITS = 2**24  # tokens x vocabulary at once
WEIGHTS = (".safetensors", ".gguf", ".onnx", ".data")


@dataclass(frozen=True)
class Measured:
    """Hold the measures of a model on n held-out prompts.

    Attributes:
        size: bytes of the files of weights.
        nats: (n,) -log p(y|x) of the completions that the model wrote before the export, at temperature 1.
        tokens: (n,) how many tokens those have.
        scores: (n,) each, the reward and the judges of what this model writes.
        sparsity: the share of the linear layers' weights that are 0.
        texts: n arrays (length,), the ids of each prompt with what this model writes.
    """

    size: int
    nats: np.ndarray
    tokens: np.ndarray
    scores: dict[str, np.ndarray]
    sparsity: float
    texts: list[np.ndarray]

    @property
    def perplexity(self) -> Estimate:
        """Return the exponential of all nats divided by all tokens."""
        return bootstrap_perplexity(self.nats, self.tokens, 0)

    def estimates(self) -> dict[str, Estimate]:
        """Return the means of the scores."""
        return {name: bootstrap_mean(values[~np.isnan(values)], 0) for name, values in self.scores.items()}

    def change_from(self, before: Measured) -> dict[str, Estimate]:
        """Return the mean differences of the scores, paired by prompt."""
        changes = {name: values - before.scores[name] for name, values in self.scores.items()}
        return {name: bootstrap_mean(change[~np.isnan(change)], 0) for name, change in changes.items()}

    def same_as(self, before: Measured) -> int:
        """Return how many completions are, token for token, those from before."""
        return sum(np.array_equal(now, was) for now, was in zip(self.texts, before.texts, strict=True))


@dataclass(frozen=True)
class Exported:
    """Hold what an export wrote and measured.

    Attributes:
        folder: where it is.
        counted: what was measured on, such as "64 held-out prompts".
        rows: the table: what, before, after, change.
        notes: what is to be known of the files, as sentences.
    """

    folder: Path
    counted: str
    before: Measured
    after: Measured
    rows: list[tuple[str, str, str, str]]
    notes: list[str]


class HeldOut:
    """Hold held-out prompts, and what a source wrote after them.

    Args:
        source: what is exported.
        env_id: the environment that asks, scores and judges.
        split: a split of its data.
        n: how many prompts.

    Attributes:
        batch: the open episodes.
        decoding: the temperature, top_k and top_p of the source.
        completions: what the source wrote.

    Raises:
        ValueError: the environment has no such split, or other tokens than the source.
    """

    def __init__(
        self, source: Source, env_id: str, split: str, n: int, env_kwargs: Mapping[str, Any] | None, seed: int
    ) -> None:
        self.batch: EpisodeBatch = source.open_episodes(env_id, split, env_kwargs)
        self.seed, self.indices = seed, held_out_indices(self.batch, n)
        self.judges = find_judges(self.batch.task, None)
        with source.acting(self.batch) as policy:
            self.decoding = {name: getattr(policy, name) for name in ("temperature", "top_k", "top_p")}
            self.masked = bool(policy.reads_action_masks)
            self.completions: list[Completion] = generate_in(self.batch, policy, self.indices, seed)

    def write(self, model: Any, read: Reader | None = None) -> list[Completion]:
        """Let a model complete the prompts, with the decoding and the random numbers that the source had.

        Args:
            model: a plain model.
            read: what computes the logits in its place, see `measure`; the model itself by default.
        """
        policy = Source("exported", model=model, decoding=self.decoding, masked=self.masked).build_policy(self.batch)
        writer = policy if read is None else _Reading(policy, read)
        return generate_in(self.batch, writer, self.indices, self.seed)

    def measure(self, size: int, read: Reader, completions: list[Completion], sparsity: float) -> Measured:
        """Return the measures of a model.

        Args:
            size: bytes of its weights.
            read: returns logits `(rows, length, vocab_size)` of ids and mask, `(rows, length)` int64, padded right.
            completions: what it wrote.
            sparsity: see `Measured`.
        """
        scores = {"reward": np.array([done.reward for done in completions], dtype=float)}
        scores |= judge_completions(self.judges, completions)
        tokens = np.array([len(done.columns) for done in self.completions])
        texts = [np.asarray(done.input_ids) for done in completions]
        return Measured(size, self._nats(read), tokens, scores, sparsity, texts)

    @torch.no_grad()
    def _nats(self, read: Reader) -> np.ndarray:
        """Return -log p(y|x) of every completion of the source, (n,)."""
        order = np.argsort([len(done.input_ids) for done in self.completions], kind="stable")
        longest = len(self.completions[order[-1]].input_ids)
        rows = max(1, MAX_LOGITS // (longest * self.batch.vocab_size))
        nats = np.zeros(len(order))
        for start in range(0, len(order), rows):
            chosen = order[start : start + rows]
            padded = pad_completions([self.completions[i] for i in chosen])
            ids, mask, row, column = (padded[name] for name in ("input_ids", "attention_mask", "rows", "columns"))
            logits = read(ids, mask)[row, column, : self.batch.vocab_size].float()
            taken = ids[row, column + 1][:, None]
            found = logits.logsumexp(dim=-1) - logits.gather(1, taken).squeeze(1)
            np.add.at(nats, chosen[row.numpy()], found.double().numpy())
        return nats


class _Reading:
    """Draw tokens as a policy does, from logits that something else computes from the whole text."""

    def __init__(self, policy: LanguageModelPolicy, read: Reader) -> None:
        self.policy, self.read = policy, read
        self.reads_action_masks, self.temperature, self.device = policy.reads_action_masks, policy.temperature, "cpu"

    def get_distribution(self, obs: dict[str, torch.Tensor]) -> TokenDistribution:
        """Return the distribution of the next token of every context."""
        longest = int(obs["attention_mask"].sum(dim=1).max())
        ids, mask = (obs[name][:, :longest].long() for name in ("input_ids", "attention_mask"))
        last = self.read(ids, mask)[torch.arange(len(ids)), mask.sum(dim=1) - 1]
        logits = self.policy.decoding_logits(last, None, *self.policy.masks(obs))
        return TokenDistribution(self.policy.n_actions).proba_distribution(logits)


def weight_bytes(folder: Path) -> int:
    """Return the bytes of the files of weights in a folder."""
    return sum(file.stat().st_size for file in folder.iterdir() if file.suffix in WEIGHTS)
