"""Say what made a file: versions of packages, the commit of the checkout, the machine and the command line."""

from __future__ import annotations

import os
import platform
import re
import shlex
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

__all__ = ["PACKAGES", "commit", "provenance", "versions", "without_passwords"]

PACKAGES = ("rlhf-envs", "torch", "transformers", "stable-baselines3", "gymnasium")
ROOT = Path(__file__).parents[2]
PASSWORD = re.compile(r"://[^/@\s]+@")  # in the address of a database


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that matter; "not installed" for those that are not."""
    found = {}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:  # a checkout that is on the path, but not installed
            found[package] = "not installed"
    return found | {"python": platform.python_version()}


def commit() -> str | None:
    """Return the commit of the checkout that this package runs from, with "-dirty" after changes; None without git."""
    if not (ROOT / ".git").exists():
        return None
    command = ["git", "-C", str(ROOT), "describe", "--always", "--abbrev=40", "--dirty", "--exclude=*"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None


def without_passwords(text: str) -> str:
    """Return the text without the names and passwords in addresses such as "postgresql://me:secret@host"."""
    return PASSWORD.sub("://***@", text)


def provenance() -> dict[str, object]:
    """Return versions, commit, machine and command as JSON."""
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    started = ["python", "-m", spec.name.removesuffix(".__main__")] if spec else [Path(sys.argv[0]).name]
    machine = f"{platform.system()} {platform.machine()}, {os.cpu_count()} CPUs"
    return {
        "versions": versions(),
        "commit": commit(),
        "machine": machine,
        "command": without_passwords(shlex.join([*started, *sys.argv[1:]])),
    }
