"""Check that a GPU computes what the CPU computes, then measure how fast it is.

`python -m benchmarks.gpu` takes at most 8 minutes on an H200 and needs no network: models are in the package, or built
with random weights. It runs its parts in the order of their importance, first checks, then learning, then speed. Each
part names the seconds that it may need, and is skipped, in a line that says so, if they are not left. A check that
fails is a line with FAIL and its figures; the others go on, and the exit code is 1.

`--out FOLDER` also writes the table (`gpu.txt`) and its numbers with the versions (`gpu.json`). `--device cpu --small`
runs all parts in tiny sizes, only to see that they run.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import time
from pathlib import Path

import torch

from rlhf_envs.models.devices import find_device

from ..throughput import describe
from . import checks, decoding, learning, speed
from .parts import Part, Row, Setting, run_parts, show

__all__ = ["PARTS", "main"]

STATES = {"ok": "checks passed", "FAIL": "failed", "": "measurements", "skipped": "skipped"}
PARTS: list[Part] = [*checks.PARTS, *learning.PARTS, *decoding.PARTS, *speed.PARTS]
# TFLOP/s in dense bfloat16, from the makers' data sheets, by a part of the card's name; the first that fits counts.
PEAKS = {"B200": 2250, "H200": 989, "H100 PCIe": 756, "H100": 989, "A100": 312, "L40S": 362, "L4": 121, "4090": 165}


def main(arguments: list[str] | None = None) -> int:
    """Run the parts, print their table, and return the exit code: 1 if a check failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--small", action="store_true", help="tiny sizes, only to see that everything runs")
    parser.add_argument("--minutes", type=float, default=8.0, help="limit for all parts together")
    parser.add_argument("--only", default="", help="run only the parts whose names have this text")
    parser.add_argument("--peak", type=float, help="TFLOP/s in bfloat16, for a card that is not in the table")
    parser.add_argument("--out", type=Path, help="folder for gpu.txt and gpu.json")
    args = parser.parse_args(arguments)
    try:
        find_device(args.device)
    except ValueError as error:
        parser.error(str(error))
    chosen = [part for part in PARTS if args.only in part.name]
    if not chosen:
        parser.error(f"--only {args.only!r}: no part has that in its name: {', '.join(part.name for part in PARTS)}")
    machine = f"{card(args.device)}; {describe()}; {time.strftime('%Y-%m-%d')}"
    print(machine, flush=True)
    rows: list[Row] = []
    setting = Setting(args.device, args.small, find_peak(machine) if args.peak is None else 1e12 * args.peak)
    for row in run_parts(chosen, setting, 60 * args.minutes):
        print(show(row), flush=True)
        rows.append(row)
        if args.out is not None:  # after every part: whoever stops it keeps what there is
            write(args.out, machine, rows)
    print(summary(rows))
    return int(any(row.state == "FAIL" for row in rows))


def card(device: str) -> str:
    """Return the name of the device's hardware, with CUDA's version if it is a GPU."""
    if not device.startswith("cuda"):
        return platform.processor() or platform.machine()
    memory = torch.cuda.get_device_properties(device).total_memory / 1e9
    return f"{torch.cuda.get_device_name(device)}, {memory:.0f} GB, CUDA {torch.version.cuda}"


def find_peak(machine: str) -> float | None:
    """Return the FLOP/s of a card in bfloat16; None if it is not in the table."""
    return next((1e12 * peak for name, peak in PEAKS.items() if name in machine), None)


def summary(rows: list[Row]) -> str:
    """Return how many checks passed, failed and were skipped."""
    counted = [f"{sum(row.state == state for row in rows)} {what}" for state, what in STATES.items()]
    return f"{', '.join(counted)}; {sum(row.seconds for row in rows):.0f} s"


def write(folder: Path, machine: str, rows: list[Row]) -> None:
    """Write the table and its numbers into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = [machine, *map(show, rows), summary(rows)]
    (folder / "gpu.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    found = {"machine": machine, "rows": [row.to_dict() for row in rows]}
    (folder / "gpu.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
