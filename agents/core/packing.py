"""Put several sequences into a row, so that a pass over sequences of many lengths computes little padding.

The positions of a sequence begin at 0. From that transformers tells where a sequence begins, and masks attention with
one block per sequence. A model is asked once whether it keeps sequences apart; one that does not is given padding.
"""

from __future__ import annotations

import logging
from bisect import bisect_left, insort
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch

from .precision import computing_type

__all__ = ["MIN_SAVED", "Packing", "fill_rows", "keeps_apart", "pack", "without_mask_warning"]

MIN_SAVED = 0.1  # share of a pass's positions; below it sequences stay in rows of their own
WIDTHS = 9  # widths of rows that are tried, from the longest sequence to twice that
MASKED = ("sdpa", "eager")  # attention that takes a mask of blocks in any number of rows


class Packing(NamedTuple):
    """Say where the tokens of sequences stand in shared rows, and where they stood in rows of their own.

    Attributes:
        rows, starts: `(n,)` the row of each sequence, and the column of its first token.
        sources: `(rows, width)` the places of tokens among the `n * length` places of padded sequences. Where a row has
            no token left, a place of padding or of any token: nothing reads what is computed there.
        positions: `(rows, width)` the place of each token in its sequence; what is left of a row is further sequences.
    """

    rows: torch.Tensor
    starts: torch.Tensor
    sources: torch.Tensor
    positions: torch.Tensor

    def take(self, padded: torch.Tensor) -> torch.Tensor:
        """Return `(n, length, ...)` values of padded sequences as `(rows, width, ...)`."""
        return padded.flatten(0, 1)[self.sources]


def pack(lengths: torch.Tensor, length: int) -> Packing | None:
    """Pack sequences into rows up to twice as wide as the longest; return None where that saves less than `MIN_SAVED`.

    Args:
        lengths: `(n,)` the tokens of each sequence, at least 1.
        length: the width of the padded sequences, at least the longest.
    """
    sizes = lengths.cpu().numpy()
    n, longest = len(sizes), int(sizes.max())
    most = (1 - MIN_SAVED) * n * longest
    if int(sizes.sum()) > most:  # no packing saves that much
        return None
    bins, width = _tightest(sizes, longest)
    if len(bins) * width > most:
        return None
    order = np.concatenate([np.array(members) for members in bins])
    in_row = np.repeat(np.arange(len(bins)), [len(members) for members in bins])
    ends = np.cumsum(sizes[order])
    used = np.bincount(in_row, sizes[order], len(bins)).astype(np.int64)
    first = ends - sizes[order] - (np.cumsum(used) - used)[in_row]
    rows, starts = np.empty(n, np.int64), np.empty(n, np.int64)
    rows[order], starts[order] = in_row, first
    owners = np.repeat(order, sizes[order])
    columns = np.arange(int(ends[-1])) - np.repeat(ends - sizes[order], sizes[order])
    positions = np.maximum(np.arange(width) - used[:, None], 0) % longest  # the model may have no place beyond
    sources = np.zeros_like(positions)
    places = rows[owners], starts[owners] + columns
    positions[places], sources[places] = columns, owners * length + columns
    return Packing(*(torch.from_numpy(array).to(lengths.device) for array in (rows, starts, sources, positions)))


def _tightest(sizes: np.ndarray, longest: int) -> tuple[list[list[int]], int]:
    """Return the sequences of each row and the rows' width, with the fewest positions among `WIDTHS` widths."""
    lengths, found = sizes.tolist(), []
    for room in np.unique(np.linspace(longest, 2 * longest, WIDTHS).astype(int)).tolist():
        bins = fill_rows(lengths, room)
        width = max(sum(lengths[i] for i in members) for members in bins)
        found.append((len(bins) * width, width, bins))
    _, width, bins = min(found, key=lambda one: one[:2])  # of equal ones the narrowest: attention costs least
    return bins, width


def fill_rows(lengths: Sequence[int], room: int) -> list[list[int]]:
    """Put sequences into as few rows as best-fit decreasing finds: each into the fullest row that still takes it.

    Return the numbers of the sequences in each row.
    """
    rows: list[list[int]] = []
    free: list[tuple[int, int]] = []  # (room left, row), sorted
    for i in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        at = bisect_left(free, (lengths[i], -1))
        left, row = free.pop(at) if at < len(free) else (room, len(rows))
        if row == len(rows):
            rows.append([])
        rows[row].append(i)
        insort(free, (left - lengths[i], row))
    return rows


@torch.no_grad()
def keeps_apart(
    run: Callable[[torch.Tensor, torch.Tensor], torch.Tensor], config: Any, parameter: torch.Tensor
) -> bool:
    """Return whether a model computes two sequences in one row as it computes them alone.

    Args:
        run: what the model computes, `(batch, length, size)`, from ids and positions, `(batch, length)` each.
        config: the configuration of the model's text part.
        parameter: any of the model's, for its device and type.
    """
    n_positions = getattr(config, "max_position_embeddings", None) or 4
    if getattr(config, "_attn_implementation", None) not in MASKED or n_positions < 4:
        return False
    # Without the id 0, often padding: at the edge of a row transformers would warn that there is no mask.
    ids = torch.arange(12, device=parameter.device).reshape(2, 6) % max(config.vocab_size - 1, 1) + 1
    ids = ids.clamp(max=config.vocab_size - 1)
    positions = torch.tensor([[0, 1, 2, 0, 1, 2], [0, 1, 0, 1, 2, 3]], device=parameter.device)
    dtype = computing_type(parameter)
    tolerance = 1e-4 if dtype.itemsize >= 4 else 2 * torch.finfo(dtype).eps
    try:
        together = run(ids, positions).float()
        for row, start in ((0, 3), (1, 2)):
            alone = run(ids[row : row + 1, start:], positions[row : row + 1, start:]).float()[0]
            if not (together[row, start:] - alone).norm() <= tolerance * alone.norm():
                return False
    except TypeError:  # a model without positions as an argument
        return False
    return True


@contextmanager
def without_mask_warning() -> Iterator[None]:
    """Keep transformers from warning that ids with the padding id come without a mask: it masks by the positions."""
    logger = logging.getLogger("transformers.modeling_utils")
    logger.addFilter(_is_no_mask_warning)
    try:
        yield
    finally:
        logger.removeFilter(_is_no_mask_warning)


def _is_no_mask_warning(record: logging.LogRecord) -> bool:
    return "passing in an `attention_mask`" not in str(record.msg)
