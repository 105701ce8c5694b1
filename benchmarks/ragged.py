"""Compare rollouts whose completions end at random with a decode loop that waits for the longest.

When an episode begins, the number of its tokens is drawn from one seeded schedule, the same for both: geometric, cut at
the limit, with a mean of a third of the limit. EOS is forced there, whatever was sampled.

Ours is `collect_rollouts` of stock PPO, with environment and reward but without the reference's pass, because the loop
has none. An environment whose episode ends starts another, so every step adds a token to every row. The loop decodes
`n_envs` prompts until the last has ended, as `generate` does. Tokens that it samples for rows that have ended do not
count.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from transformers import DynamicCache

from agents import TokenPolicy

from .contenders import Ours
from .contenders.floor import Floor
from .work import Work
from .worker import Session

__all__ = ["RaggedOurs", "Waiting", "lengths"]


def lengths(limit: int, seed: int) -> Iterator[int]:
    """Yield endless random lengths from 1 to `limit`: a geometric distribution cut there, with mean `limit / 3`."""
    support = np.arange(1, limit + 1)

    def weights(stay: float) -> np.ndarray:
        raw = stay**support
        return raw / raw.sum()

    low, high = 0.0, 1.0  # the mean grows with the chance to stay: bisect
    for _ in range(60):
        stay = (low + high) / 2
        low, high = (stay, high) if weights(stay) @ support < max(limit / 3, 1.0) else (low, stay)
    rng, p = np.random.default_rng(seed), weights((low + high) / 2)
    while True:
        yield from rng.choice(support, size=1024, p=p).tolist()


class EndingPolicy(TokenPolicy):
    """Act as `TokenPolicy`, but end episodes on schedule: `left` counts down to each row's EOS."""

    schedule: Iterator[int]
    left: torch.Tensor
    eos: int

    def forward(self, obs: Any, deterministic: bool = False) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        actions, values, log_probs = super().forward(obs, deterministic)
        self.left -= 1
        ended = self.left == 0
        actions = torch.where(
            ended, self.eos, torch.where(actions == self.eos, (self.eos + 1) % self.n_actions, actions)
        )
        for row in ended.nonzero().flatten().tolist():
            self.left[row] = next(self.schedule)
        return actions, values, log_probs


class RaggedOurs(Ours):
    """Do our rollout, `new_tokens` steps of `n_envs` rows. Episodes that are under way continue in the next one."""

    policy = EndingPolicy

    def __init__(self, work: Work, session: Session) -> None:
        super().__init__(work, session)
        policy: Any = self.agent.policy
        policy.eos = self.task._tokenizer.eos_token_id
        policy.schedule = lengths(work.new_tokens, work.seed)
        policy.left = torch.tensor([next(policy.schedule) for _ in range(work.n_envs)], device=work.device)
        self.agent.rollout_buffer.compute_returns_and_advantage = lambda *args, **kwargs: None  # type: ignore[method-assign]


class Waiting(Floor):
    """Run the floor's decode loop until all rows have ended."""

    def __init__(self, work: Work, session: Session) -> None:
        super().__init__(work, session)
        self.schedule = lengths(work.new_tokens, work.seed)

    @torch.inference_mode()
    def rollout(self) -> None:
        """Decode until the longest row has ended. Only tokens up to a row's end count."""
        wanted = torch.tensor([next(self.schedule) for _ in range(self.work.n_envs)], device=self.prompts.device)
        ids = self.prompts[torch.randint(len(self.prompts), (self.work.n_envs,), device=self.prompts.device)]
        cache, done = DynamicCache(config=self.model.config), 0
        while (wanted > done).any():
            logits = self.model(ids, past_key_values=cache, use_cache=True, logits_to_keep=1).logits
            ids, done = self.sample(logits[:, -1]), done + 1
        self.session.tokens += int(wanted.sum())
