"""Best of n: no training, many completions.

Paper: Stiennon et al. 2020, "Learning to summarize from human feedback", https://arxiv.org/abs/2009.01325, section 3;
its KL to the starting model is at most `log n - (n - 1) / n` (Beirami et al. 2024, https://arxiv.org/abs/2401.01879).
`agents.evaluate` and `agents.generate` draw n completions of every prompt and keep the one with the best reward of the
environment, the reward that others train against. That costs n times the tokens where the others have learned.

Departures: none in what it does. Where the most probable tokens are wanted (`deterministic=True`) all n would be the
same, and one is decoded. `predict` chooses one token, which the starting model does; the rollouts of `learn` are single
completions, for the log, and change nothing.
"""

from __future__ import annotations

from typing import Any

from ..core.policy import TokenPolicy
from .baselines import Untrained

__all__ = ["BestOfN"]


class BestOfN(Untrained):
    """The best of `best_of` completions, with SB3's interface.

    Args:
        best_of: completions that are drawn for a prompt, n.

    The other arguments are SB3's.

    Raises:
        ValueError: `best_of` is below 1.
    """

    def __init__(self, policy: Any = TokenPolicy, env: Any = None, best_of: int = 16, **kwargs: Any) -> None:
        if best_of < 1:
            raise ValueError(f"best_of={best_of}: expected at least one completion of a prompt")
        self.best_of = best_of
        super().__init__(policy, env, **kwargs)
