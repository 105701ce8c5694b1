"""Save and restore the global random generators that training draws from: torch's, NumPy's legacy one and Python's."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

__all__ = ["get_generators", "isolated_generators", "set_generators"]


def get_generators() -> dict[str, Any]:
    """Return the states of all global generators, as new arrays and plain values."""
    version, internal, gauss_next = random.getstate()
    kind, keys, position, has_gauss, cached = np.random.get_state(legacy=True)
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() and torch.cuda.is_initialized() else []
    return {
        "torch": torch.get_rng_state().numpy(),
        "cuda": [state.numpy() for state in cuda],
        "numpy": {"kind": kind, "keys": keys, "position": position, "has_gauss": has_gauss, "cached": cached},
        "python": {"version": version, "internal": np.array(internal, np.uint32), "gauss_next": gauss_next},
    }


def set_generators(state: Mapping[str, Any]) -> None:
    """Restore the states that `get_generators` returned; CUDA devices that are not here are left out."""
    torch.set_rng_state(torch.from_numpy(state["torch"].copy()))
    if torch.cuda.is_available():
        for device, saved in enumerate(state["cuda"][: torch.cuda.device_count()]):
            torch.cuda.set_rng_state(torch.from_numpy(saved.copy()), device)
    n = state["numpy"]
    np.random.set_state((n["kind"], n["keys"], n["position"], n["has_gauss"], n["cached"]))
    p = state["python"]
    random.setstate((p["version"], tuple(int(word) for word in p["internal"]), p["gauss_next"]))


@contextmanager
def isolated_generators(seed: int | None = None) -> Iterator[None]:
    """Let the block draw from the global generators, seeded with `seed` if given, and restore them afterwards."""
    saved = get_generators()
    try:
        if seed is not None:
            random.seed(seed)
            np.random.seed(seed % 2**32)
            torch.manual_seed(seed)
        yield
    finally:
        set_generators(saved)
