"""Stores on SQLite and on PostgreSQL. The PostgreSQL cluster is the tests' own: made, started and stopped here."""

from __future__ import annotations

import getpass
import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("sqlalchemy", reason='the store needs pip install "rlhf-envs[web]"')


_TEMPLATE = "template_of_stores"


class Clock:
    """A clock that stands still until it is told to go on."""

    def __init__(self) -> None:
        self.now = datetime(2026, 1, 1, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.now

    def forward(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[str]:
    """The address of a cluster on loopback, without a database name."""
    try:
        programs = _postgres_programs()
    except FileNotFoundError as missing:
        if os.environ.get("CI"):
            pytest.fail(f"{missing} (in CI these tests are never skipped)")
        pytest.skip(str(missing))
    pytest.importorskip("psycopg", reason='PostgreSQL needs pip install "rlhf-envs[postgres]"')
    folder = Path(tempfile.mkdtemp(prefix="rlhf-postgres-"))  # pytest's own folders are closed to other users
    as_user = _another_user(folder)
    data, log = folder / "data", folder / "log"
    initdb = [programs / "initdb", "-D", data, "-U", "rlhf", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync"]
    _run([*as_user, *initdb], folder)
    port = _free_port()
    # Not durable: what the disk keeps is PostgreSQL's own affair, and a test's cluster is thrown away.
    options = f"-F -p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories='' -c max_connections=200"
    try:
        _run([*as_user, programs / "pg_ctl", "-D", data, "-l", log, "-w", "-t", "60", "-o", options, "start"], folder)
        yield f"postgresql://rlhf@127.0.0.1:{port}"
    finally:
        stop = [*as_user, programs / "pg_ctl", "-D", data, "-w", "-m", "immediate", "stop"]
        subprocess.run(stop, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def postgres_url(postgres_server: str) -> str:
    """The URL of an empty schema on PostgreSQL: a twentieth of the time that a database of its own takes to make."""
    import psycopg

    name = f"test_{os.urandom(6).hex()}"
    with psycopg.connect(f"{postgres_server}/postgres", autocommit=True) as connection:
        connection.execute(f"CREATE SCHEMA {name}")
    return _schema_url(postgres_server, name)


@pytest.fixture(params=["sqlite", "postgresql"])
def new_store_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The address of a store that is not there yet, on both databases."""
    return str(tmp_path / "feedback.db") if request.param == "sqlite" else request.getfixturevalue("postgres_url")


@pytest.fixture(params=["sqlite", "postgresql"])
def store_url(request: pytest.FixtureRequest) -> str:
    """The address of an empty store, on both databases."""
    return str(request.getfixturevalue("empty_store" if request.param == "sqlite" else "empty_postgres_url"))


@pytest.fixture
def empty_postgres_url(postgres_server: str, _migrated_dump: str, _emptied: list[str]) -> Iterator[str]:
    """The URL of an empty store on PostgreSQL.

    What an earlier test left is emptied rather than made again: that takes a fiftieth of the time.
    """
    import psycopg

    name = _emptied.pop() if _emptied else f"test_{os.urandom(6).hex()}"
    with psycopg.connect(f"{postgres_server}/postgres", autocommit=True) as connection:
        if not connection.execute("SELECT FROM pg_namespace WHERE nspname = %s", [name]).fetchall():
            connection.execute(_migrated_dump.replace(_TEMPLATE, name).encode())
        yield _schema_url(postgres_server, name)
        try:
            _empty(connection, name)
        except (AssertionError, psycopg.Error):
            return
    _emptied.append(name)


@pytest.fixture(scope="session")
def _emptied() -> list[str]:
    """The schemas that stores have left and are empty again."""
    return []


def _empty(connection: Any, schema: str) -> None:
    """Delete all rows of a schema whose tables are those of a new store, if they are few: deleted rows take space."""
    columns = "relname, relkind, relnatts, relchecks FROM pg_class WHERE relnamespace = %s::regnamespace"
    found, new = (set(connection.execute(f"SELECT {columns}", [name]).fetchall()) for name in (schema, _TEMPLATE))
    assert found == new
    assert not connection.execute(f"TABLE {_TEMPLATE}.alembic_version EXCEPT TABLE {schema}.alembic_version").fetchall()
    tables = [name for name, kind, *_ in found if kind == "r" and name != "alembic_version"]
    with connection.transaction():
        connection.execute("SET LOCAL lock_timeout = 1000; SET LOCAL session_replication_role = replica")
        assert sum(connection.execute(f"DELETE FROM {schema}.{name}").rowcount for name in tables) < 1000
        again = "setval(format('%%I.%%I', schemaname, sequencename)::regclass, start_value, false)"
        connection.execute(f"SELECT {again} FROM pg_sequences WHERE schemaname = %s", [schema])


@pytest.fixture(scope="session")
def _migrated_dump(postgres_server: str) -> str:
    """What makes an empty store on PostgreSQL, as SQL."""
    import psycopg

    from rlhf_envs.feedback import FeedbackStore

    with psycopg.connect(f"{postgres_server}/postgres", autocommit=True) as connection:
        connection.execute(f"CREATE SCHEMA {_TEMPLATE}")
    FeedbackStore(_schema_url(postgres_server, _TEMPLATE)).close()
    program, place = _postgres_programs() / "pg_dump", f"{postgres_server}/postgres"
    command = [program, "--inserts", "--no-owner", "-n", _TEMPLATE, "-d", place]
    dump = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return "\n".join(line for line in dump.splitlines() if not line.startswith("\\"))  # psql's own commands


@pytest.fixture
def database_of_revision(new_store_url: str) -> Callable[[str], Any]:
    """Make the tables of an older release at `new_store_url`, and return the engine."""
    import sqlalchemy as sa
    from alembic import command

    from rlhf_envs.feedback.store.database import migration_config

    def database_of_revision(revision: str) -> sa.Engine:
        url = sa.make_url(new_store_url if "://" in new_store_url else f"sqlite:///{new_store_url}")
        engine = sa.create_engine(url.set(drivername=url.drivername.replace("postgresql", "postgresql+psycopg")))
        config = migration_config()
        with engine.begin() as connection:
            config.attributes["connection"] = connection
            command.upgrade(config, revision)
        return engine

    return database_of_revision


def _schema_url(server: str, schema: str) -> str:
    return f"{server}/postgres?options=-csearch_path%3D{schema}"


def _postgres_programs() -> Path:
    """The folder of the newest PostgreSQL's programs."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]))
    in_path = shutil.which("initdb")
    if not found and in_path is None:
        raise FileNotFoundError("PostgreSQL is not installed: apt-get install postgresql")
    return found[-1].parent if found else Path(in_path or "").resolve().parent


def _another_user(folder: Path) -> list[str]:
    """What to put before a command, since PostgreSQL refuses to run as root; the folder is made that user's."""
    if os.geteuid() != 0:
        return []
    import pwd

    user = "postgres" if "postgres" in {entry.pw_name for entry in pwd.getpwall()} else "nobody"
    assert user != getpass.getuser()
    shutil.chown(folder, user)
    return ["setpriv", f"--reuid={user}", f"--regid={pwd.getpwnam(user).pw_gid}", "--clear-groups"]


def _run(command: list[object], folder: Path) -> None:
    # Output to a file: the server inherits it, and a pipe would stay open until it ends.
    with (folder / "output").open("w+") as output:
        done = subprocess.run([str(part) for part in command], cwd=folder, stdout=output, stderr=output)
        if done.returncode:
            output.seek(0)
            log = folder / "log"
            raise RuntimeError(f"{command}: {output.read()} {log.read_text() if log.exists() else ''}")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
