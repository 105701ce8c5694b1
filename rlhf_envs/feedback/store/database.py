"""Connect to SQLite or PostgreSQL: transactions, migrations, and errors that say what to do."""

from __future__ import annotations

import contextlib
import logging
import os
import sqlite3
import stat
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, TypeVar
from weakref import WeakValueDictionary

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory

from ..records import StoreError
from .turns import Turns

__all__ = ["Database", "migration_config", "parse_url", "parts"]

T = TypeVar("T")

logger = logging.getLogger(__name__)

_BUSY_SECONDS = 30.0
_LOCK = 0x726C6866  # PostgreSQL's advisory lock for "one writer": any number, as long as it is always the same
_MIGRATING = threading.Lock()  # Alembic has one `context` per process
# The turns of each SQLite file's writers in this process, by its path, for as long as a database uses it.
_WRITERS: WeakValueDictionary[str, Turns] = WeakValueDictionary()
_FINDING = threading.Lock()  # the turns of a file


class Database:
    """Open a database whose writes are whole, durable and in order.

    SQLite runs with WAL and `synchronous=FULL`: a commit is on the disk when it returns. Writes begin with
    `BEGIN IMMEDIATE`, because a transaction that turns from reading to writing fails at once with "database is locked"
    instead of waiting.

    Args:
        url: a path for SQLite, or a URL ("sqlite:///...", "postgresql://...").
        migrate: bring an older schema up to date. If False, an older schema is refused.

    Raises:
        StoreError: the database is out of reach or locked, the file is no database, or its schema is newer (or older,
            unless `migrate`).
    """

    def __init__(self, url: str | Path, *, migrate: bool = True) -> None:
        self.url = parse_url(url)
        self.is_sqlite = self.url.get_backend_name() == "sqlite"
        self.place = str(self.url.database) if self.is_sqlite else self.url.render_as_string(hide_password=True)
        if self.is_sqlite:
            _keep_private(Path(self.place))
        self.engine = _engine(self.url, self.is_sqlite)
        # SQLite has one writer. Threads wait for their turns here; SQLite's own waiting polls, more rarely the longer
        # it lasts, so that who comes later is often first.
        self._writer = _writer_of(self.place) if self.is_sqlite else None
        try:
            self._check_schema(migrate)
        except BaseException:
            self.close()
            raise

    @contextmanager
    def read(self) -> Iterator[sa.Connection]:
        """Open a transaction that sees one state of the database and changes nothing."""
        with self._errors(), self.engine.connect() as connection:
            if not self.is_sqlite:
                connection = connection.execution_options(isolation_level="REPEATABLE READ")
            with connection.begin():
                yield connection

    @contextmanager
    def write(self) -> Iterator[sa.Connection]:
        """Open a transaction that is on the disk when the block ends. After an exception nothing of it remains."""
        with (
            self._errors(),
            self._turn(),
            self.engine.connect().execution_options(rlhf_write=True) as connection,
            connection.begin(),
        ):
            yield connection

    @contextmanager
    def _turn(self) -> Iterator[None]:
        """Wait for this program's other writers, no longer than for another program, whoever they wait for."""
        if self._writer is None:
            yield
            return
        if not self._writer.acquire(timeout=_BUSY_SECONDS):
            raise StoreError(
                f"{self.place}: other calls of this program have written to the file for {_BUSY_SECONDS:.0f} s, or "
                "waited for another program that does. Nothing of this call was stored: try again"
            )
        try:
            yield
        finally:
            self._writer.release()

    def one_writer(self, connection: sa.Connection) -> None:
        """Wait until no other transaction is past this line. In SQLite there is never another."""
        if not self.is_sqlite:
            connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_LOCK)))

    def close(self) -> None:
        """Close all connections."""
        self.engine.dispose()

    def _check_schema(self, migrate: bool) -> None:
        scripts = _migrations()
        newest = scripts.get_current_head()
        with self.read() as connection:
            current = _revision(connection)
        if current == newest:
            return
        known = {script.revision for script in scripts.walk_revisions()}
        if current is not None and current not in known:
            raise StoreError(
                f"{self.place} has schema {current!r}, which this version of rlhf-envs (schema {newest!r}) does not "
                "know: it was written by a newer one. Upgrade rlhf-envs to open it."
            )
        if not migrate:
            state = "no schema" if current is None else f"the older schema {current!r}"
            raise StoreError(
                f"{self.place} has {state}, but this version of rlhf-envs needs {newest!r}: keep a copy of the "
                "database, then open it with migrate=True"
            )
        config = migration_config()
        with self.write() as connection:  # in one transaction, so that a failed migration leaves nothing behind
            self.one_writer(connection)
            self._refuse_foreign(connection)
            config.attributes["connection"] = connection
            config.attributes["is_new"] = _revision(connection) is None  # 0009 keeps what an older store did
            with _MIGRATING:
                command.upgrade(config, "head")
        if current is not None:
            logger.info("migrated %s from schema %s to %s", self.place, current, newest)

    def _refuse_foreign(self, connection: sa.Connection) -> None:
        """Raise a StoreError if another program has its tables in the database."""
        tables = sa.inspect(connection).get_table_names()
        if tables and "alembic_version" not in tables:
            raise StoreError(
                f"{self.place} holds tables of another program ({', '.join(sorted(tables)[:5])}): give the store a "
                "file or a database of its own"
            )

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except sa.exc.IntegrityError:
            raise  # a bug of ours, not a state of the database
        except (sa.exc.DatabaseError, sa.exc.TimeoutError) as error:
            reason = str(getattr(error, "orig", None) or error).strip()
            raise StoreError(f"{self.place}: {reason}. {self._remedy(reason)}") from error

    def _remedy(self, reason: str) -> str:
        if "lock timeout" in reason:
            return "Other transactions have held what this call needs. Nothing of this call was stored: try again."
        if not self.is_sqlite:
            return "Check that PostgreSQL runs and that the address, user and database are right, then try again."
        remedies = {
            "locked": f"Another program has held the file for {_BUSY_SECONDS:.0f} s: end that program (or close the "
            "database browser with unsaved changes) and try again.",
            "readonly": "Make the file and its folder writable for this user (SQLite writes -wal and -shm files next "
            "to it), or copy it to a place where you may write.",
            "unable to open": "Check that the folder exists and that this user may read and write it.",
            "not a database": "The file is damaged or is something else: give another path, or restore a backup.",
            "malformed": "The file is damaged: restore a backup, or try `sqlite3 FILE .recover`.",
            "full": "Free some space on the disk and try again. Nothing that was acknowledged is lost.",
        }
        return next((remedy for word, remedy in remedies.items() if word in reason), "Nothing of this call was stored.")


def migration_config() -> Config:
    """Return Alembic's configuration, which stands in for an alembic.ini."""
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations").replace("%", "%%"))
    return config


@cache
def _migrations() -> ScriptDirectory:
    """Return the migrations, read once per process: to read them is most of the work of opening a store."""
    return ScriptDirectory.from_config(migration_config())


def parts(values: Sequence[T], size: int) -> list[Sequence[T]]:
    """Cut a sequence into parts of at most `size` values, since a statement takes a limited number of parameters."""
    return [values[start : start + size] for start in range(0, len(values), size)]


def parse_url(url: str | Path) -> sa.URL:
    """Return the address of a store, from a path for SQLite or a URL.

    Raises:
        StoreError: it is no URL, or of another database, or in memory.
    """
    if isinstance(url, Path) or "://" not in url:
        return sa.URL.create("sqlite", database=str(url))
    try:
        parsed = sa.make_url(url)
    except sa.exc.ArgumentError:
        raise StoreError("the address of the store is no URL: give a path, or postgresql://user@host/name") from None
    backend = parsed.drivername.partition("+")[0]
    if backend in ("postgresql", "postgres"):
        return parsed.set(drivername="postgresql+psycopg")
    if backend != "sqlite":
        raise StoreError(f"unknown database {backend!r}: the store lives in SQLite (a path) or in postgresql://...")
    if parsed.database in (None, "", ":memory:"):
        raise StoreError("a store in memory would be lost with its connection: give the path of a file")
    return parsed


def _writer_of(path: str) -> Turns:
    """Return the turns of a file's writers: the same for all databases of this process that have the file open."""
    with _FINDING:
        return _WRITERS.setdefault(os.path.realpath(path), Turns())


def _forget_locks() -> None:
    """Begin anew in a forked process, where nobody would release what a thread held at the fork."""
    global _MIGRATING
    _MIGRATING = threading.Lock()
    _WRITERS.clear()
    _FINDING.release()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_FINDING.acquire, after_in_parent=_FINDING.release, after_in_child=_forget_locks)


def _keep_private(path: Path) -> None:
    """Make the file readable for its owner alone, since it holds password hashes. SQLite makes -wal and -shm alike.

    A file that only the group shares was made so on purpose and stays.
    """
    with contextlib.suppress(OSError):  # SQLite says what is wrong with the path
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
        return
    try:
        mode = stat.S_IMODE(path.stat().st_mode)
        if os.name == "posix" and mode & stat.S_IRWXO and path.is_file():
            for file in (path, *(path.with_name(path.name + end) for end in ("-wal", "-shm"))):
                if file.exists():
                    file.chmod(0o600)
            logger.warning("%s could be read by every user (mode %o): it is 600 now", path, mode)
    except OSError as error:
        logger.warning("%s can be read by every user, and it holds password hashes (%s): chmod 600", path, error)


def _engine(url: sa.URL, is_sqlite: bool) -> sa.Engine:
    if not is_sqlite:
        try:
            engine = sa.create_engine(url, pool_pre_ping=True, pool_size=8, max_overflow=24)
        except ModuleNotFoundError as error:
            raise ImportError('a store in PostgreSQL needs psycopg: pip install "rlhf-envs[postgres]"') from error

        @sa.event.listens_for(engine, "connect")
        def limit_waiting(connection: Any, _record: object) -> None:
            limit = "SELECT set_config('lock_timeout', %s, false) WHERE current_setting('lock_timeout') = '0'"
            connection.execute(limit, [f"{1000 * _BUSY_SECONDS:.0f}"])  # else it has none; a role's own stays
            connection.commit()

        return engine
    engine = sa.create_engine(url, connect_args={"timeout": _BUSY_SECONDS}, pool_size=8, max_overflow=24)

    @sa.event.listens_for(engine, "connect")
    def configure(connection: Any, _record: object) -> None:
        connection.isolation_level = None  # Python's sqlite3 shall begin no transaction: `begin` below does
        _set_wal(connection)
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute("PRAGMA foreign_keys=ON")

    @sa.event.listens_for(engine, "begin")
    def begin(connection: sa.Connection) -> None:
        writes = connection.get_execution_options().get("rlhf_write", False)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")

    return engine


def _set_wal(connection: Any) -> None:
    """Turn write-ahead logging on. Of two that do so at once SQLite fails one, without waiting for its timeout."""
    end = time.monotonic() + _BUSY_SECONDS
    while True:
        try:
            connection.execute("PRAGMA journal_mode=WAL")
            return
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() > end:
                raise
        time.sleep(0.01)


def _revision(connection: sa.Connection) -> str | None:
    return MigrationContext.configure(connection).get_current_revision()
