"""Carry the files of a run between machines that share no disk: those that have changed, in one archive."""

from __future__ import annotations

import os
import shutil
import stat
import tarfile
from collections.abc import Collection, Mapping
from pathlib import Path

from ...saving.folders import CHECKPOINTS, LOCK

__all__ = ["Marks", "move_paths", "pack", "scan", "unpack"]

Marks = dict[str, tuple[int, int]]  # by the path in the folder: the size, and the time of the last change in ns
INCOMING = ".incoming"


def scan(folder: Path) -> Marks:
    """Return what files a folder holds, checkpoints first. Locks and unfinished saves are left out.

    A run logs an evaluation before it writes the checkpoint. So a checkpoint that is read first never knows of an
    evaluation that the logs, which are read later, do not have.
    """
    found: Marks = {}
    for place, folders, files in os.walk(folder):  # it passes over folders that are removed meanwhile
        folders[:] = sorted(name for name in folders if not _is_unfinished(name))
        for path in (Path(place, name) for name in sorted(files) if name != LOCK and not _is_unfinished(name)):
            try:
                status = path.lstat()
            except FileNotFoundError:  # removed just now
                continue
            if stat.S_ISREG(status.st_mode):
                found[path.relative_to(folder).as_posix()] = status.st_size, status.st_mtime_ns
    return dict(sorted(found.items(), key=lambda one: not one[0].startswith(f"{CHECKPOINTS}/")))


def _is_unfinished(name: str) -> bool:
    return name.startswith(".") and ".tmp" in name


def pack(folder: Path, names: Collection[str], archive: Path) -> bool:
    """Write files of a folder into an archive. Return False if one of them was removed or cut meanwhile."""
    try:
        with tarfile.open(archive, "w") as into:
            for name in names:
                into.add(folder / name, name, recursive=False)
    except OSError:
        return False
    return True


def unpack(archive: Path, folder: Path, names: Collection[str] | None = None) -> None:
    """Put the files of an archive in a folder, each whole; remove those that are not among `names`, if these are given.

    What is removed goes last: whenever this ends, the folder has its old checkpoint or the new one.

    Raises:
        tarfile.TarError: the archive is damaged, or a file in it would be written elsewhere.
    """
    incoming = folder.parent / f".{folder.name}{INCOMING}"
    shutil.rmtree(incoming, ignore_errors=True)
    incoming.mkdir(parents=True)
    try:
        with tarfile.open(archive) as packed:
            order = packed.getnames()
            packed.extractall(incoming, filter="data")
        for name in order:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            os.replace(incoming / name, folder / name)
    finally:
        shutil.rmtree(incoming, ignore_errors=True)
    if names is not None:
        for gone in scan(folder).keys() - set(names):
            (folder / gone).unlink()
        for path in sorted((path for path in folder.rglob("*") if path.is_dir()), reverse=True):
            if not any(path.iterdir()):
                path.rmdir()


def move_paths(folder: Path, changes: Mapping[str, str]) -> None:
    """Replace folders that JSON files at the top of a folder name, and folders and files in these, by others."""
    for file in folder.glob("*.json"):
        text = before = file.read_text(encoding="utf-8")
        for old, new in changes.items():
            text = text.replace(f'"{old}"', f'"{new}"').replace(f'"{old}/', f'"{new}/')
        if text != before:
            file.write_text(text, encoding="utf-8")
