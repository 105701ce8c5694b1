"""Copy a store while it is used, and bring a copy back."""

from __future__ import annotations

import contextlib
import os
import secrets
import shlex
import sqlite3
from collections.abc import Iterator
from pathlib import Path

from ...files import sync
from ..records import StoreError
from .database import Database, parse_url

__all__ = ["back_up", "restore_backup"]


def back_up(store_url: str | Path, path: str | Path) -> dict[str, int]:
    """Copy a store in SQLite to a file, as it is at one moment, while people write to it.

    SQLite's backup API copies it. The copy is checked, on the disk and readable for its owner alone before it gets its
    name. The secret of the cookies (`<store>.secret`) is not copied: without it people sign in again.

    Returns:
        How many rows the copy has of "items", "judgements" and "annotators".

    Raises:
        ValueError: the file exists, or the store is in PostgreSQL; the message has the command for that.
        StoreError: there is no such store, it is none, or it is damaged.
    """
    source, path = _sqlite_file(store_url, f"pg_dump --format=custom --file={shlex.quote(str(path))}"), Path(path)
    if path.exists():
        raise ValueError(f"{path} exists: give the copy a name of its own")
    return _copy(source, path)


def restore_backup(path: str | Path, store_url: str | Path) -> dict[str, int]:
    """Make a store of a copy that `back_up` has written. End the server first, and move the old store away.

    Returns:
        How many rows the store has of "items", "judgements" and "annotators".

    Raises:
        ValueError: there is a store of that name already, or the store is to be in PostgreSQL.
        StoreError: the file is no copy of a store, or it is damaged, or of a newer version of rlhf-envs.
    """
    target = _sqlite_file(store_url, f"pg_restore --clean --if-exists {shlex.quote(str(path))} --dbname")
    if there := [file for end in ("", "-wal", "-shm") if (file := target.with_name(target.name + end)).exists()]:
        names = " ".join(shlex.quote(str(file)) for file in there)
        raise ValueError(f"{there[0]} exists: end the server, and move it away (mkdir old && mv {names} old)")
    counts = _copy(Path(path), target)
    try:
        Database(target).close()  # brings an older schema up to date, and refuses a newer one
    except StoreError:
        target.unlink()
        raise
    return counts


def _sqlite_file(store_url: str | Path, command: str) -> Path:
    url = parse_url(store_url)
    if url.get_backend_name() != "sqlite":
        address = url.set(drivername="postgresql").render_as_string(hide_password=True).replace(":***@", "@")
        raise ValueError(f"PostgreSQL has its own program for this: {command} {shlex.quote(address)}")
    return Path(str(url.database))


def _copy(source: Path, path: Path) -> dict[str, int]:
    """Copy a database to a file that is not there, all or nothing."""
    if not source.is_file():
        raise StoreError(f"there is no file {str(source)!r}")
    draft = path.with_name(f"{path.name}.{secrets.token_hex(4)}")
    try:
        os.close(os.open(draft, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
        with _opened(source) as original, _opened(draft) as copy:
            _check(original, source)
            original.backup(copy)  # in one step: in WAL mode writers go on meanwhile, and none makes it begin anew
            copy.execute("PRAGMA journal_mode=DELETE")  # one file, without -wal and -shm
            if (found := copy.execute("PRAGMA quick_check").fetchone()[0]) != "ok":
                raise StoreError(f"{source} is damaged ({found}): restore an earlier backup")
            counts = {name: copy.execute(f"SELECT count(*) FROM {name}").fetchone()[0]
                      for name in ("items", "judgements", "annotators")}  # fmt: skip
        with draft.open("rb") as file:
            os.fsync(file.fileno())
        os.link(draft, path)  # and not rename: nothing that came there meanwhile is lost
        sync(path.parent)
    except FileExistsError as error:
        raise ValueError(f"{path} exists: give the copy a name of its own") from error
    except sqlite3.Error as error:
        raise StoreError(f"{source}: {error}: it is no store, or it is damaged") from error
    finally:
        for end in ("", "-wal", "-shm", "-journal"):
            draft.with_name(draft.name + end).unlink(missing_ok=True)
    return counts


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[sqlite3.Connection]:
    connection = sqlite3.connect(path, timeout=30)
    try:
        yield connection
    finally:
        connection.close()


def _check(connection: sqlite3.Connection, path: Path) -> None:
    tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    if not {"alembic_version", "items", "judgements", "annotators"} <= tables:
        raise StoreError(f"{path} is no store of feedback: it has the tables {', '.join(sorted(tables)) or 'none'}")
