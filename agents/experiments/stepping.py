"""Run the steps of an experiment in rounds, each in a folder that is there whole or not at all."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rlhf_envs.files import BundleError, atomic_folder, find_folder, replace_json, verify

__all__ = ["METRICS", "is_whole", "run_step"]

logger = logging.getLogger(__name__)

METRICS = "figures.json"  # what a step measured
FORMAT, VERSION = "rlhf-envs loop step", 1


def run_step(place: Path, run: Callable[[Path], dict[str, Any]], say: Callable[[str], None]) -> None:
    """Let a step fill the folder `place`, and write its metrics there. Do nothing if the folder is whole."""
    if is_whole(place):
        return
    say(f"{place.parent.name}: {place.name}")
    started = time.perf_counter()
    with atomic_folder(place, format=FORMAT, version=VERSION, step=place.name) as into:
        metrics = {**run(into), "seconds": round(time.perf_counter() - started, 2)}
        replace_json(into / METRICS, metrics, exact=True)


def is_whole(place: Path) -> bool:
    """Return whether a step has finished there. Warn if its files are damaged: it then runs again.

    Raises:
        BundleError: another release of this package wrote the folder.
    """
    folder = find_folder(place)
    if not folder.exists():
        return False
    try:
        manifest = verify(folder)
    except BundleError as error:
        logger.warning("%s/%s runs again: %s", place.parent.name, place.name, error)
        return False
    if (manifest.get("format"), manifest.get("version")) != (FORMAT, VERSION):
        raise BundleError(
            f"{folder} is of the format {manifest.get('format')!r}, version {manifest.get('version')!r}; this release "
            f"writes {FORMAT!r}, version {VERSION}: move it away"
        )
    return True
