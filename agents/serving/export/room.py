"""Refuse models that this machine has no room for, by their shapes, before anything large is loaded or written."""

from __future__ import annotations

import shutil
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, PreTrainedConfig

from ...training.memory import show_bytes

__all__ = ["BYTES", "check_room", "count_weights", "free_memory"]

# Bytes per weight in a file: 8 bits with a float16 scale per 32 weights, 4 bits likewise.
BYTES = {None: 4.0, "float16": 2.0, "int8": 8.5 / 8, "int4": 4.5 / 8}
COPIES = 4  # in float32: the model, what is written, what is read back, and what a policy keeps of it as its reference
SPARE = 64 * 2**20  # bytes for the tokenizer, the card and what else a process needs


def count_weights(config: PreTrainedConfig) -> int:
    """Return the number of weights of a model, tied ones once, from its configuration alone."""
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
    return sum(parameter.numel() for parameter in model.parameters())


def check_room(weights: int, quantize: str | None, folder: Path) -> None:
    """Check that a model of so many weights can be exported to `folder` here.

    Raises:
        MemoryError: the memory that is free is too small. The message has both figures.
        OSError: the disk is.
    """
    needed, free = COPIES * 4 * weights + SPARE, free_memory()
    if free is not None and needed > free:
        raise MemoryError(
            f"a model of {weights:,} weights takes {show_bytes(needed)} of memory to export and measure, and "
            f"{show_bytes(free)} are free: export it on a larger machine"
        )
    place = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    written, left = int(BYTES[quantize] * weights) + SPARE, shutil.disk_usage(place).free
    if written > left:
        raise OSError(
            f"the export takes {show_bytes(written)}, and the disk of {place} has {show_bytes(left)} left: free some, "
            "or name a folder on another disk"
        )


def free_memory() -> int | None:
    """Return the bytes of memory that a process can still get; None where the system does not say (Linux does)."""
    found = []
    if (meminfo := Path("/proc/meminfo")).is_file():
        lines = dict(line.split(":", 1) for line in meminfo.read_text(encoding="ascii").splitlines())
        found.append(int(lines["MemAvailable"].split()[0]) * 1024)
    limit, used = (Path("/sys/fs/cgroup", name) for name in ("memory.max", "memory.current"))
    if limit.is_file() and (most := limit.read_text().strip()).isdigit():
        found.append(int(most) - int(used.read_text()))
    return min(found, default=None)
