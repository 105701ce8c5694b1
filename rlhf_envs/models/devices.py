"""Find the device to compute on, or refuse it if this machine has none such."""

from __future__ import annotations

from typing import Any

__all__ = ["find_device"]


def find_device(device: Any) -> str:
    """Return the name of a device after making a tensor on it. "auto" is CUDA if it is available, else the CPU.

    Stable-Baselines3 takes the CPU in silence where "cuda" is asked for and missing.

    Raises:
        ValueError: there is no such device here; the message has torch's reason.
    """
    import torch

    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.zeros(1, device=device).tolist()
    except (RuntimeError, AssertionError) as error:  # AssertionError: torch without CUDA
        reason = str(error).splitlines()[0].partition(". ")[0]
        if reason.startswith("Expected one of"):  # and twenty names
            reason = "there is no such device"
        raise ValueError(f"device {str(device)!r}: {reason}; take auto, or a device that this machine has") from error
    return str(device)
