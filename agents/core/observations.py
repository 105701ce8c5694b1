"""Read observations: token ids and lengths, the places of the actions, and minibatches cut by their sequences."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch
from stable_baselines3.common.type_aliases import PyTorchObs

from .packing import pack, without_mask_warning

__all__ = [
    "check_appended",
    "check_token_ids",
    "gather_hidden",
    "last_columns",
    "micro_batches",
    "read_contexts",
    "same_until",
]

ACTION_KEYS = ("rows", "columns", "action_masks")  # these have one row per action, not one per sequence


def read_contexts(obs: PyTorchObs) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the ids `(batch, length)` and lengths `(batch,)` of an observation, whatever dtype SB3 has cast it to."""
    assert isinstance(obs, dict)
    mask = obs["attention_mask"]
    if mask.is_cpu:
        return obs["input_ids"].long(), torch.from_numpy(last_columns(mask.numpy()) + 1)
    return obs["input_ids"].long(), mask.sum(dim=1, dtype=torch.long).clamp(min=1)


def gather_hidden(
    run: Callable[..., torch.Tensor],
    obs: dict[str, torch.Tensor],
    packs: bool = False,
    states: torch.Tensor | None = None,
) -> torch.Tensor:
    """Return the hidden states at the places of `obs`, `(n, hidden_size)`, from one pass without a cache.

    Args:
        run: encodes ids, their mask or None, and their positions or None, `(batch, length)` int64 each, to `(batch,
            length, hidden_size)`; see `hidden_states`.
        obs: observations; `rows` and `columns` are the places, or else every row's last token is one.
        packs: whether sequences share rows where that saves much of the pass, see `agents.core.packing`.
        states: the frozen blocks' output, `(batch, length, hidden_size)`, which `run` is given first.
    """
    input_ids, lengths = read_contexts(obs)
    if "rows" in obs:
        rows, columns = obs["rows"], obs["columns"]
    else:
        rows, columns = torch.arange(len(input_ids), device=input_ids.device), lengths - 1
    if packs and (packing := pack(lengths, input_ids.shape[1])) is not None:
        given = () if states is None else (packing.take(states),)
        with without_mask_warning():
            hidden = run(*given, packing.take(input_ids), None, packing.positions)
        return hidden[packing.rows[rows], packing.starts[rows] + columns]
    length = int(lengths.max())
    mask = (torch.arange(length, device=input_ids.device) < lengths[:, None]).long()
    given = () if states is None else (states[:, :length],)
    return run(*given, input_ids[:, :length], mask, None)[rows, columns]


def check_token_ids(obs: PyTorchObs) -> None:
    """Raise `ValueError` if a wrapper has rescaled the ids: rounded to whole numbers, they would be other tokens."""
    assert isinstance(obs, dict)
    for key in ("input_ids", "attention_mask"):
        values = obs[key]
        if values.is_floating_point() and (values != values.floor()).any():  # the environment's own are integers
            wrong = values[values != values.floor()][0].item()
            raise ValueError(
                f"{key} has {wrong:.3g}, which is no whole number: a wrapper rescales the observations. Token ids are "
                "names: use VecNormalize(norm_obs=False), or no such wrapper"
            )


def last_columns(attention_mask: np.ndarray) -> np.ndarray:
    """Return the column of each context's last token, `(batch,)` int64, from masks `(batch, length)`."""
    # Counting bits is several times faster than adding up bytes.
    lengths = np.bitwise_count(np.packbits(attention_mask != 0, axis=1)).sum(axis=1, dtype=np.int64)
    return np.maximum(lengths, 1) - 1


def same_until(ids: np.ndarray, others: np.ndarray, last: np.ndarray) -> np.ndarray:
    """Return whether each pair of rows, `(batch, length)` ids, agrees up to the column `last`, `(batch,)`."""
    return ((ids == others) | (np.arange(ids.shape[1]) > last[:, None])).all(axis=1)


def check_appended(before: np.ndarray, after: np.ndarray, last: np.ndarray, envs: np.ndarray, instead: str) -> None:
    """Raise `ValueError`, which names the environment, if a context does not grow out of the one before it.

    Args:
        before, after: ids `(batch, length)`.
        last: `(batch,)` the column of the last token in `before`.
        envs: `(batch,)` the numbers of the environments.
        instead: the buffer that can store such contexts.
    """
    same = same_until(before, after, last)
    if not same.all():
        raise ValueError(
            f"environment {int(envs[~same][0])} changed its context in the middle of an episode: contexts may only "
            f"grow. Remove the wrapper that rewrites observations, or use {instead}"
        )


def micro_batches(obs: dict[str, torch.Tensor], size: int) -> Iterator[tuple[dict[str, torch.Tensor], torch.Tensor]]:
    """Cut a minibatch by its sequences into parts of at most `size` tokens with their padding, or one sequence.

    Yields:
        the observations of a part, and the places `(n,)` of its actions in the whole.
    """
    lengths = read_contexts(obs)[1]
    order = lengths.argsort()  # sequences of a length go together, so little of a part is padding
    ordered, start = lengths[order].tolist(), 0
    for end in range(1, len(ordered) + 1):
        if end == len(ordered) or (end + 1 - start) * ordered[end] > size:
            yield _part(obs, order[start:end], len(ordered))
            start = end


def _part(obs: dict[str, torch.Tensor], chosen: torch.Tensor, n: int) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """Return the `chosen` sequences among the n of a minibatch, and the places of their actions."""
    taken = {key: value[chosen] for key, value in obs.items() if "rows" not in obs or key not in ACTION_KEYS}
    if "rows" not in obs:  # one action per row
        return taken, chosen
    number = torch.full((n,), -1, device=chosen.device)  # of a sequence, in the part
    number[chosen] = torch.arange(len(chosen), device=chosen.device)
    rows = number[obs["rows"]]
    places = (rows >= 0).nonzero().squeeze(1)
    taken |= {key: obs[key][places] for key in ACTION_KEYS[1:] if key in obs}
    return taken | {"rows": rows[places]}, places
