"""Define `LastValues`: the values after a rollout, computed once it is known which of them count."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch.utils._pytree import tree_map_only

__all__ = ["LastValues"]


class LastValues(torch.Tensor):
    """Stand for the values `(n, 1)` of the contexts after a rollout.

    SB3 asks for them before it hands `dones` to the rollout buffer. Where an episode has just ended, the context is the
    next episode's prompt, and GAE multiplies its value by 0. So the buffer asks for `where_going_on(dones)`, which does
    not encode those prompts. Every function of torch takes the values of all contexts, as of any tensor.
    """

    policy: Any
    _obs: dict[str, torch.Tensor]

    @classmethod
    def of(cls, policy: Any, obs: dict[str, torch.Tensor]) -> LastValues:
        """Return the values of a policy for observations, not yet computed."""
        values = torch.full((len(obs["input_ids"]), 1), torch.nan).as_subclass(cls)
        values.policy, values._obs = policy, obs
        return values

    @torch.no_grad()
    def where_going_on(self, dones: np.ndarray) -> torch.Tensor:
        """Return the values `(n, 1)`, and 0 where `dones`, `(n,)` bool, says that the episode has ended."""
        if dones.all():
            return torch.zeros(len(dones), 1)
        going_on = torch.from_numpy(~dones).to(self.policy.device)
        values: torch.Tensor = self.policy.values_of(self._obs, going_on)
        return values.masked_fill(~going_on[:, None], 0.0)

    @classmethod
    def __torch_function__(
        cls, func: Callable[..., Any], types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Compute the values of all contexts, and call the function with them."""
        with torch.no_grad():
            args, kwargs = tree_map_only(cls, lambda one: one.policy.values_of(one._obs), (args, kwargs or {}))
        return func(*args, **kwargs)
