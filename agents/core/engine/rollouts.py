"""Collect a rollout whose tokens an engine draws: they are the actions of the environment, step by step."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .client import Completion, CompletionsEngine, EngineError, Sampling
from .weights import Sync, WeightSync

__all__ = ["EngineRollouts"]


class EngineRollouts:
    """Let an engine draw the tokens of rollouts, in the place of the policy's `forward`.

    The environment is stepped as ever, one token per row. Every row has a stream of tokens of its own, which the engine
    writes ahead. Where a context is not what its stream goes on from (a new episode, a reply in a dialog, a new
    rollout) a new completion is asked for. A completion is asked to be no longer than what is left of the rollout, so
    that an episode that the rollout cuts goes on with new weights, as without an engine.

    Args:
        url: the server's address.
        sync: how the server gets new weights, see `WeightSync`: "vllm", "sglang" or "folder".
        folder: where they are written, see `WeightSync`.
        seeded: draw a seed for every completion from torch's generator, so that a server that heeds seeds gives the
            same completions again. It may be slower.
        importance_sampling_clip_max: the most that a token, or a completion, is weighted with, see
            `agents.algorithms.common.importance`.
        **options: arguments of `CompletionsEngine`: `model`, `api_key_env`, `timeout`, `retries`, `concurrency`.

    Raises:
        ValueError: an argument is wrong.
    """

    def __init__(
        self,
        url: str,
        sync: Sync = "folder",
        folder: str | Path | None = None,
        *,
        seeded: bool = False,
        importance_sampling_clip_max: float = 2.0,
        **options: Any,
    ) -> None:
        if not importance_sampling_clip_max >= 1:
            raise ValueError(f"importance_sampling_clip_max={importance_sampling_clip_max}: expected at least 1")
        self.engine = CompletionsEngine(url, **options)
        self.weights = WeightSync(self.engine, sync, folder)
        self.seeded, self.clip_max = seeded, importance_sampling_clip_max

    @contextmanager
    def instead_of(self, policy: Any, env: Any, n_steps: int) -> Iterator[None]:
        """Give the engine the policy's weights, and let it draw the tokens of a rollout of `n_steps` steps.

        Raises:
            EngineError: the engine does not take the weights.
            ValueError: the policy's decoding is not one that the engine's log-probabilities are of, or it has pictures.
        """
        if self.weights.kind == "sglang" and (policy.top_k is not None or policy.top_p is not None):
            raise ValueError(
                f"top_k={policy.top_k}, top_p={policy.top_p} with SGLang: its log-probabilities are from before these "
                "cuts; leave both out, or take vLLM"
            )
        if policy.picture is not None:
            raise ValueError("observations have pixel_values, which are not sent to an engine: train without one")
        self.weights.push(policy)
        episodes = env.get_attr("episodes", 0)[0]
        self._sampling = Sampling(
            policy.n_actions, [int(i) for i in episodes.ends], policy.temperature, policy.top_k, policy.top_p
        )
        self._longest, self._left = episodes.max_new_tokens, n_steps
        self._streams: list[Completion | None] = [None] * env.num_envs
        self._expected = np.zeros((env.num_envs, policy.max_length), np.int64)  # contexts that the streams go on from
        self._lengths = np.full(env.num_envs, -1)
        policy.draw_instead = self._draw
        try:
            yield
        finally:
            policy.draw_instead = None
            for stream in self._streams:
                if stream is not None:
                    stream.cancel()

    def _draw(self, obs: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return the next token of every context, as `TokenPolicy.forward`: actions, values (0), log-probabilities."""
        ids = obs["input_ids"].cpu().numpy().astype(np.int64)
        lengths = obs["attention_mask"].cpu().numpy().sum(axis=1, dtype=np.int64)
        inside = np.arange(ids.shape[1]) < lengths[:, None]
        goes_on = (lengths == self._lengths) & ((ids == self._expected) | ~inside).all(axis=1)
        for row in np.flatnonzero(~goes_on).tolist():
            self._start(row, ids[row, : lengths[row]].tolist())
        drawn = [self._take(row, ids[row, : lengths[row]]) for row in range(len(ids))]
        tokens, log_probs = (np.array(column) for column in zip(*drawn, strict=True))
        rows, fits = np.arange(len(ids)), lengths < ids.shape[1]
        self._expected = ids.copy()
        self._expected[rows[fits], lengths[fits]] = tokens[fits]
        self._lengths, self._left = lengths + 1, self._left - 1
        device = obs["input_ids"].device
        actions = torch.as_tensor(tokens, dtype=torch.int64, device=device)
        values = torch.zeros((len(ids), 1), device=device)
        return actions, values, torch.as_tensor(log_probs, dtype=torch.float32, device=device)

    def _start(self, row: int, context: Sequence[int]) -> None:
        """Ask for a completion of the row's context."""
        if (before := self._streams[row]) is not None:
            before.cancel()
        room = min(self._left, self._longest, max(1, self._expected.shape[1] - len(context)))
        seed = int(torch.randint(2**31, (1,))) if self.seeded else None
        self._streams[row] = self.engine.start(context, room, self._sampling._replace(seed=seed))

    def _take(self, row: int, context: np.ndarray) -> tuple[int, float]:
        """Return the row's next token with its log-probability."""
        taken = self._streams[row].take()  # type: ignore[union-attr]
        if taken is None:  # the completion is over, and the episode is not
            self._start(row, context.tolist())
            taken = self._streams[row].take()  # type: ignore[union-attr]
        if taken is None:
            raise EngineError(f"{self.engine.url} ended a completion without a token")
        return taken
