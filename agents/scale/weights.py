"""Say which tensors of a policy travel to its copies in workers, and bring them there."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from ..core.together import same_everywhere

__all__ = ["WeightSender", "base_checksum_entries", "load_weights"]

Packed = dict[str, np.ndarray]


class WeightSender:
    """Pack the tensors of a policy as arrays: all that a copy may lack once, and then what has changed since.

    A base below adapters which has a name never travels: each worker has loaded it by that name.
    """

    def __init__(self, policy: Any) -> None:
        self._policy = policy
        self._sent: dict[str, tuple[int, int]] = {}

    def pack_all(self) -> Packed:
        """Return all entries of the policy's state but those of a named base."""
        entries = _travelling(self._policy)
        self._sent = {name: _version(tensor) for name, tensor in entries.items()}
        return {name: _array(tensor) for name, tensor in entries.items()}

    def pack_changed(self) -> Packed:
        """Return what learns, and what else differs from what `pack_all` returned."""
        entries = _travelling(self._policy)
        changed = [name for name, tensor in entries.items() if self._sent.get(name) != _version(tensor)]
        learning = {name for name, tensor in entries.items() if tensor.requires_grad}
        return {name: _array(entries[name]) for name in entries if name in learning or name in changed}


def base_checksum_entries(policy: Any) -> dict[str, torch.Tensor]:
    """Return the entries of a policy's state that do not travel, and have to be equal in the workers."""
    stays = policy.base_entries() if policy.base_name is not None else set()
    return {name: tensor for name, tensor in same_everywhere(policy).items() if name in stays}


@torch.no_grad()
def load_weights(policy: Any, packed: Mapping[str, np.ndarray]) -> None:
    """Give a policy the tensors that `WeightSender` packed, and forget what it has computed with others.

    Raises:
        ValueError: the policy has no such entry, or one of another shape.
    """
    entries = policy.state_dict()
    for name, array in packed.items():
        if name not in entries or tuple(entries[name].shape) != array.shape:
            here = tuple(entries[name].shape) if name in entries else "missing"
            raise ValueError(f"the weights {name} are {array.shape} on the learner and {here} in the worker")
        tensor = torch.from_numpy(np.array(array))  # a copy: what comes from the object store is read-only
        entries[name].copy_(tensor.view(entries[name].dtype) if entries[name].dtype == torch.bfloat16 else tensor)
    policy.set_training_mode(True)  # empties the caches
    policy.set_training_mode(False)


def _travelling(policy: Any) -> dict[str, torch.Tensor]:
    """Return the entries of a policy's state that travel, tied ones once."""
    stays = policy.base_entries() if policy.base_name is not None else set()
    found: dict[tuple[Any, ...], tuple[str, torch.Tensor]] = {}
    alike = same_everywhere(policy).keys() - stays
    for name, tensor in policy.state_dict(keep_vars=True).items():
        if name in alike:
            key = (tensor.data_ptr(), tuple(tensor.shape)) if tensor.numel() else (name,)
            found.setdefault(key, (name, tensor))
    return dict(found.values())


def _version(tensor: torch.Tensor) -> tuple[int, int]:
    return tensor.data_ptr(), tensor._version


def _array(tensor: torch.Tensor) -> np.ndarray:
    tensor = tensor.detach().cpu()
    array: np.ndarray = (tensor.view(torch.int16) if tensor.dtype == torch.bfloat16 else tensor).numpy()
    return array
