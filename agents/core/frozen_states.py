"""Keep what a policy's frozen blocks make of the contexts of a rollout, so that no pass computes it again.

Where only the last blocks learn, the update and the reference start from the hidden states that enter them. Prefill and
decoding have computed these states already. `SlotStates` keeps them by slot of the KV cache, `LastCall` lets the
rollout buffer read them after a step, and `RolloutStates` holds the states of a whole rollout, without padding.
"""

from __future__ import annotations

from contextlib import AbstractContextManager

import numpy as np
import torch

from .split_trunk import SplitTrunk

__all__ = ["LastCall", "RolloutStates", "SlotStates"]


class SlotStates:
    """Hold the output of the frozen blocks for the contexts in a KV cache, `(slots, capacity, hidden_size)`.

    Attributes:
        calls: how often the cache was asked. The slots hold the contexts of the last call.
    """

    def __init__(self, split: SplitTrunk) -> None:
        self.split, self.calls = split, 0
        self.clear()

    def clear(self) -> None:
        """Forget all states."""
        self.states: torch.Tensor | None = None

    def recording(
        self, shape: torch.Size, slots: torch.Tensor, columns: torch.Tensor
    ) -> AbstractContextManager[object]:
        """Keep the states of the pass that runs in a `with` block.

        Args:
            shape: slots and capacity of the cache.
            slots: `(n,)`, one per row of the pass.
            columns: where its tokens stand in their contexts, `(n, width)` or `(width,)`.
        """

        def take(states: torch.Tensor) -> None:
            if self.states is None:
                self.states = states.new_zeros((*shape, states.shape[2]))
            self.states[slots[:, None], columns] = states

        return self.split.watched(take)

    def copy(self, sources: torch.Tensor, targets: torch.Tensor, length: int) -> None:
        """Copy the first `length` positions of some slots into others."""
        assert self.states is not None
        self.states[targets, :length] = self.states[sources, :length]


class LastCall:
    """Read the states of the contexts of one call, as long as no other call has come after it."""

    def __init__(self, kept: SlotStates) -> None:
        self._kept, self._number = kept, kept.calls

    def read(self, rows: np.ndarray, columns: np.ndarray) -> torch.Tensor | None:
        """Return the states `(n, hidden_size)` at these places; None if the slots hold them no more."""
        states = self._kept.states
        if states is None or self._kept.calls != self._number:
            return None
        rows_and_columns = torch.from_numpy(np.stack([rows, columns])).to(states.device)
        return states[rows_and_columns[0], rows_and_columns[1]]


class RolloutStates:
    """Hold the output of the frozen blocks for the segments of a rollout, `(tokens, hidden_size)` without padding."""

    def __init__(self) -> None:
        self._parts: list[tuple[torch.Tensor, np.ndarray, np.ndarray]] = []  # states, their segments, their columns
        self._is_whole = True
        self._states: torch.Tensor | None = None
        self._lengths = self._offsets = np.zeros(0, np.int64)  # by segment

    def __bool__(self) -> bool:
        return self._states is not None

    def add(self, last_call: LastCall | None, segments: np.ndarray, first: np.ndarray, last: np.ndarray) -> None:
        """Take the states of the tokens that a step has added, row by row; without them, take none of this rollout.

        Args:
            last_call: of the cache, with the contexts of the step.
            segments: `(n_envs,)` the segment of each row.
            first, last: `(n_envs,)` the columns of the first and of the last token that is new.
        """
        if not self._is_whole:
            return
        n_new = last - first + 1
        rows = np.repeat(np.arange(len(n_new)), n_new)
        columns = np.arange(len(rows)) + np.repeat(last + 1 - np.cumsum(n_new), n_new)
        states = None if last_call is None else last_call.read(rows, columns)
        if states is None:
            self._parts, self._is_whole = [], False
        else:
            self._parts.append((states, segments[rows], columns))

    def lay_out(self, lengths: np.ndarray, sources: np.ndarray) -> np.ndarray:
        """Bring the states of a rollout into the order of its segments, and return the segments without states.

        Args:
            lengths: `(n_segments,)` the tokens of each segment.
            sources: `(n_segments,)` the numbers under which `add` was given them; -1 for none.
        """
        self._lengths, self._offsets, self._states = lengths, np.cumsum(lengths) - lengths, None
        parts, self._parts = self._parts, []
        number = np.full(1 + max((int(part[1].max(initial=0)) for part in parts), default=0), -1)
        known = (sources >= 0) & (sources < len(number))
        number[sources[known]] = np.flatnonzero(known)
        found = np.zeros(len(lengths), np.int64)
        while parts:
            states, segments, columns = parts.pop()
            segments = number[segments]
            wanted = np.flatnonzero(segments >= 0)
            segments = segments[wanted]
            self._write(states[torch.from_numpy(wanted).to(states.device)], segments, columns[wanted])
            found += np.bincount(segments, minlength=len(lengths))
        return np.flatnonzero(found != lengths)

    def fill(self, chosen: np.ndarray, states: torch.Tensor) -> None:
        """Take the states `(n, length, hidden_size)` of some segments, computed anew."""
        rows, columns = np.nonzero(np.arange(states.shape[1]) < self._lengths[chosen][:, None])
        inside = torch.from_numpy(np.stack([rows, columns])).to(states.device)
        self._write(states[inside[0], inside[1]], chosen[rows], columns)

    def _write(self, states: torch.Tensor, segments: np.ndarray, columns: np.ndarray) -> None:
        if self._states is None:
            self._states = states.new_zeros((int(self._lengths.sum()), states.shape[1]))
        self._states[torch.from_numpy(self._offsets[segments] + columns).to(states.device)] = states

    def read(self, chosen: np.ndarray, length: int) -> torch.Tensor:
        """Return the states of some segments, `(n, length, hidden_size)`; behind its end a segment's last one stands.

        Padding is seen by nothing, so that its states do not matter.
        """
        assert self._states is not None
        columns = np.minimum(np.arange(length), self._lengths[chosen][:, None] - 1)
        places = self._offsets[chosen][:, None] + columns
        return self._states[torch.from_numpy(places).to(self._states.device)]
