"""Say what made a file: versions of packages, the commit of the checkout, the machine and the command line.

Nothing acts on these records: whoever reads a file knows how to make it again. They name no host and no user.
"""

from __future__ import annotations

import json
import os
import platform
import re
import shlex
import subprocess
import sys
from collections.abc import Mapping
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from rlhf_envs.files import replace_file

from .run_paths import as_typed

__all__ = [
    "MADE",
    "PACKAGES",
    "commit",
    "differences",
    "provenance",
    "read_records",
    "versions",
    "without_passwords",
    "write_settings",
]

PACKAGES = ("rlhf-envs", "torch", "transformers", "stable-baselines3", "gymnasium")
MADE = "made"  # the key of the records in a JSON file
ROOT = Path(__file__).parents[2]
# In the address of a database: all up to the last "@", for a password may hold one, and an argument of that name.
PASSWORD = re.compile(r"(?<=://)[^/?#\s'\"]+(?=@)|(?<=[?&]password=)[^&\s'\"]+", re.IGNORECASE)


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
    return PASSWORD.sub("***", text)


def provenance() -> dict[str, Any]:
    """Return versions, commit, machine, torch's threads and the command as JSON.

    Threads and the GPU are there once torch is loaded and uses them.
    """
    torch: Any = sys.modules.get("torch")
    machine = [f"{platform.system()} {platform.machine()}", _cpu(), f"{os.cpu_count()} CPUs"]
    if torch is not None and torch.cuda.is_available() and torch.cuda.is_initialized():
        machine.append(torch.cuda.get_device_name())
    return {
        **_code(),
        "machine": ", ".join(part for part in machine if part),
        "threads": None if torch is None else torch.get_num_threads(),
        "command": _command(),
    }


@cache
def _code() -> dict[str, Any]:
    """Return versions and commit. A process keeps the code it began with, so they are looked up once."""
    return {"versions": versions(), "commit": commit()}


@cache
def _cpu() -> str:
    """Return the name of the CPU, or "" where the system does not tell."""
    try:
        named = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(encoding="utf-8"), re.MULTILINE)
    except (OSError, UnicodeError):
        named = None
    return platform.processor() if named is None else named[1].strip()


def _command() -> str:
    """Return the command line, without passwords and with ~ for the user's home."""
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    started = ["python", "-m", spec.name.removesuffix(".__main__")] if spec else [Path(sys.argv[0]).name]
    command = without_passwords(shlex.join([*started, *sys.argv[1:]]))
    home = re.escape(os.path.expanduser("~"))
    return re.sub(rf"(?<![^\s'\"=:]){home}/", "~/", command) if len(home) > 1 else command  # not within a longer path


def write_settings(file: Path, settings: Mapping[str, Any]) -> None:
    """Write settings as JSON, with a record under "made" of each command and machine that has worked with them.

    Paths that the file has stay as they stand there, whatever the working directory is now, see `.run_paths`.
    """
    old, now = _content(file), provenance()
    records = _records(old)
    settings = as_typed(settings, old, file.parent)
    if not records or records[-1] != now:
        records.append(now)
    text = json.dumps({**settings, MADE: records}, indent=2, ensure_ascii=False)
    replace_file(file, f"{text}\n".encode())


def read_records(file: Path) -> list[dict[str, Any]]:
    """Return the records in a file of settings, the newest last; none where there is no such file, or none in it."""
    return _records(_content(file))


def _content(file: Path) -> dict[str, Any]:
    """Return what a file of settings holds; nothing where it cannot be read."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def _records(content: Mapping[str, Any]) -> list[dict[str, Any]]:
    records = content.get(MADE)
    return [record for record in records if isinstance(record, dict)] if isinstance(records, list) else []


def differences(record: Mapping[str, Any]) -> list[str]:
    """Return in what a record differs from this process, in versions and threads, such as "torch 2.12 instead of 2.13".

    Only what both know is compared.
    """
    now, versions_then = provenance(), record.get("versions")
    before = {**(versions_then if isinstance(versions_then, dict) else {}), "threads": record.get("threads")}
    found = []
    for name, here in {**now["versions"], "threads": now["threads"]}.items():
        there = before.get(name)
        if here is not None and isinstance(there, str | int) and here != there:
            found.append(f"{name} {here} instead of {str(there)[:40]!r}")  # quoted: anybody may have written it
    return found
