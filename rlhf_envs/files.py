"""Write files and folders whole or not at all, and check folders by the checksums of their files."""

from __future__ import annotations

import errno
import gzip
import hashlib
import json
import math
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from io import TextIOWrapper
from pathlib import Path
from typing import Any

__all__ = [
    "MANIFEST",
    "BundleError",
    "atomic_folder",
    "check_size",
    "clear_unfinished",
    "discard",
    "find_folder",
    "is_replaceable",
    "replace_file",
    "replace_folder",
    "replace_json",
    "replacing",
    "sync",
    "to_json",
    "verify",
]

MANIFEST = "manifest.json"
MAX_JSON = 512 * 2**20  # bytes; read, it takes several times as much memory


class BundleError(ValueError):
    """Report a bundle that is damaged, or a folder that is none. The message names the file."""


def check_size(path: Path, most: int | None = None) -> None:
    """Check that a file of JSON is small enough to be read into memory, before it is.

    Raises:
        BundleError: it has more than `most` bytes (`MAX_JSON` by default). The message has the file and its size.
    """
    size, most = path.stat().st_size, MAX_JSON if most is None else most
    if size > most:
        raise BundleError(f"{path} has {size:,} bytes, and at most {most:,} are read: it is damaged or forged")


@contextmanager
def replace_folder(target: str | Path) -> Iterator[Path]:
    """Yield an empty folder, and put it in the place of `target` when the `with` block has succeeded.

    The folder is hidden beside `target`. After the block its files are synced to the disk and it is renamed. An older
    `target` is moved aside first; if the process dies between the two renames, `find_folder` finds it. Only one process
    at a time may write to a target.

    Raises:
        OSError: the folder could not be written. The message names the target and says what to do. `target` is as it
            was.
    """
    target = Path(os.path.abspath(target))
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        clear_unfinished(target.parent, target.name)
        folder = Path(tempfile.mkdtemp(prefix=f".{target.name}.tmp-", dir=target.parent))
    except OSError as error:
        raise _explained(error, target) from error
    try:
        yield folder
        mask = _umask()
        for path in [*folder.rglob("*"), folder]:
            os.chmod(path, (0o777 if path.is_dir() else 0o666) & ~mask)  # mkdtemp and safetensors keep others out
            sync(path)
        _put(folder, target)
    except OSError as error:
        raise _explained(error, target) from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)  # it is gone already where all went well


@contextmanager
def atomic_folder(target: Path, **manifest: Any) -> Iterator[Path]:
    """Yield a folder to fill, as `replace_folder` does, and add `manifest.json` to it.

    The manifest has the given entries, and the size and SHA-256 of every file; `verify` checks them.

    Raises:
        FileExistsError: `target` is neither an empty folder nor one that this function made. Nothing is written.
        OSError: the folder could not be written. The message names the target and says what to do. `target` is as it
            was.
    """
    if not is_replaceable(target):
        raise FileExistsError(
            f"{os.path.abspath(target)} exists and is no bundle: choose another name, or move it away"
        )
    with replace_folder(target) as folder:
        yield folder
        files = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}
        entries = {name: {"bytes": path.stat().st_size, "sha256": _sha256(path)} for name, path in files.items()}
        text = json.dumps({**manifest, "files": entries}, indent=2) + "\n"
        (folder / MANIFEST).write_text(text, encoding="utf-8")


def is_replaceable(target: Path) -> bool:
    """Return whether `atomic_folder` may replace `target`: it does not exist, is empty, or was made by it."""
    if not os.path.lexists(target):
        return True
    if not target.is_dir():
        return False
    try:
        text = (target / MANIFEST).read_text(encoding="utf-8")
    except FileNotFoundError:
        return not any(target.iterdir())
    try:
        return "files" in json.loads(text)
    except (ValueError, TypeError, RecursionError):  # a damaged manifest: the folder was made by `atomic_folder`
        return True


def _put(folder: Path, target: Path) -> None:
    """Rename `folder` to `target`. An older target is moved aside, and comes back if that fails."""
    aside = _aside(target)
    if target.exists():
        shutil.rmtree(aside, ignore_errors=True)
        os.rename(target, aside)
    try:
        os.rename(folder, target)
    except OSError:
        if aside.is_dir():
            os.rename(aside, target)
        raise
    sync(target.parent)
    shutil.rmtree(aside, ignore_errors=True)


def _aside(target: Path) -> Path:
    """Return where an older target stands while it is replaced."""
    return target.parent / f".{target.name}.old"


def find_folder(target: Path) -> Path:
    """Return `target`; if it is missing, the older one that was moved aside for a save that never finished."""
    target = Path(os.path.abspath(target))
    return _aside(target) if not target.exists() and _aside(target).is_dir() else target


def clear_unfinished(parent: Path, name: str = "*") -> None:
    """Remove what interrupted saves to `parent / name` have left behind; by default for all names."""
    for stale in parent.glob(f".{name}.tmp-*"):
        shutil.rmtree(stale, ignore_errors=True)


def discard(target: Path) -> None:
    """Remove a folder. It is hidden first, so that an interruption leaves no half of it in sight."""
    gone = target.parent / f".{target.name}.tmp-gone"
    shutil.rmtree(gone, ignore_errors=True)
    os.rename(target, gone)
    shutil.rmtree(gone, ignore_errors=True)


def verify(folder: Path) -> dict[str, Any]:
    """Check every file of a folder that `atomic_folder` made, and return its manifest.

    Raises:
        BundleError: there is no manifest, or a file is missing or differs. The message names the file.
    """
    if not folder.is_dir():
        raise BundleError(f"{folder} is no bundle: there is no such folder")
    try:
        check_size(folder / MANIFEST)
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        files = {str(name): str(entry["sha256"]) for name, entry in manifest["files"].items()}
    except FileNotFoundError:
        raise BundleError(f"{folder} is no bundle: it has no {MANIFEST}") from None
    except BundleError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError, OSError, RecursionError) as error:
        raise BundleError(f"{folder / MANIFEST} cannot be read ({error}): the bundle is damaged") from error
    for name, digest in files.items():
        path = folder / name
        if Path(name).is_absolute() or ".." in Path(name).parts or not path.is_file():
            raise BundleError(f"{path} is missing: the bundle is damaged; take another checkpoint")
        if _sha256(path) != digest:
            raise BundleError(f"{path} has changed since it was saved (its SHA-256 differs): take another checkpoint")
    return dict(manifest)


def replace_file(path: Path, data: bytes) -> None:
    """Write a file whole or not at all: until all of it is on the disk, an older file stays as it was.

    A name that ends in .gz is compressed; the same data then give the same bytes.

    Raises:
        OSError: the file cannot be written. The message names it and says what to do.
    """
    if path.name.endswith(".gz"):
        data = gzip.compress(data, mtime=0)
    with replacing(path) as file:
        file.buffer.write(data)


@contextmanager
def replacing(path: Path) -> Iterator[TextIOWrapper]:
    """Yield a file for text in UTF-8, whose line ends stay, and put it in the place of `path` after the `with` block.

    The file is hidden beside `path`. After a failure it is gone, and an older file is as it was.

    Raises:
        OSError: the file cannot be written. The message names it and says what to do.
    """
    partial = path.with_name(f".{path.name}.tmp")
    try:
        with partial.open("w", encoding="utf-8", newline="") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except BaseException as error:
        partial.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise _explained(error, path) from error
        raise


def replace_json(path: Path, content: Any, indent: int = 1, exact: bool = False) -> None:
    """Write JSON to a file with `replace_file`.

    With `exact` NaN and infinities stay as Python writes and reads them, for files that this package alone reads. Else
    they are null, see `to_json`.
    """
    text = json.dumps(content, indent=indent) if exact else to_json(content, indent=indent)
    replace_file(path, f"{text}\n".encode())


def to_json(content: Any, **options: Any) -> str:
    """Return JSON with null where a number is NaN or infinite, which JSON cannot say and other programs refuse.

    `options` are those of `json.dumps`.
    """
    try:
        return json.dumps(content, allow_nan=False, **options)
    except ValueError:
        return json.dumps(_finite(content), allow_nan=False, **options)


def _finite(content: Any) -> Any:
    """Return content with None in place of numbers that are not finite."""
    if isinstance(content, float):
        return content if math.isfinite(content) else None
    if isinstance(content, dict):
        return {name: _finite(value) for name, value in content.items()}
    return [*map(_finite, content)] if isinstance(content, list | tuple) else content


def _sha256(path: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sync(path: Path) -> None:
    """Write a file, or the names in a folder, through to the disk."""
    if os.name == "nt" and path.is_dir():  # Windows opens no folders
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _umask() -> int:
    """Return the process's umask: the permissions that new files do not get."""
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _explained(error: OSError, target: Path) -> OSError:
    """Return an error of the same type that names the target and says what to do."""
    reason = error.strerror or str(error)
    if error.errno == errno.ENOENT and not target.parent.is_dir():
        return type(error)(error.errno, f"cannot write {target}: there is no folder {target.parent}: make it first")
    message = f"cannot write {target}: {reason}. Free space there or make it writable; what was saved before is intact"
    return type(error)(error.errno, message) if error.errno else OSError(message)
