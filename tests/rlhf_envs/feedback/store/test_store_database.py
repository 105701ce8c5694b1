"""What the store makes of databases that are old, new, locked, read-only, damaged or somebody else's."""

from __future__ import annotations

import json
import os
import sqlite3
import stat
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext

from rlhf_envs.feedback import FeedbackStore, NewItem, StoreError
from rlhf_envs.feedback.store.database import Database
from rlhf_envs.feedback.store.schema import metadata
from rlhf_envs.feedback.store.withdrawing import answers_of

OLD = "2026-01-01 00:00:00+00:00"


def insert(connection: sa.Connection, table: str, **values: object) -> None:
    columns = ", ".join(f'"{name}"' for name in values)
    connection.execute(
        sa.text(f"INSERT INTO {table} ({columns}) VALUES ({', '.join(f':{name}' for name in values)})"), values
    )


@pytest.fixture
def old_url(new_store_url: str, database_of_revision: Callable[[str], sa.Engine]) -> str:
    """A database of the first schema: item 1 is judged as often as it should be, item 2 is skipped, once undone."""
    engine = database_of_revision("0001")
    with engine.begin() as connection:
        insert(connection, "annotators", name="ann", role="admin", created=OLD)
        for prompt in ("first", "second"):
            insert(
                connection,
                "items",
                kind="rating",
                prompt=json.dumps(prompt),
                completions='["c"]',
                source='""',
                policy='""',
                meta="{}",
                overlap=1,
                priority=0.0,
                created=OLD,
            )
        answers = [(1, '{"rating": 4}', False), (2, '{"rating": 1}', True), (2, None, False)]
        for key, (item, value, undone) in enumerate(answers, start=1):
            insert(connection, "tasks", item_id=item, annotator_id=1, sides="[0]", expires=OLD, state="done")
            insert(
                connection,
                "judgements",
                task_id=key,
                item_id=item,
                annotator_id=1,
                value=value,
                seconds=1.0,
                comment='""',
                key=str(key),
                created=OLD,
                undone=undone,
            )
        insert(connection, "settings", name="guidelines", value='"Be fair."')
    engine.dispose()
    return new_store_url


def test_an_older_schema_is_migrated_with_what_it_holds(old_url: str) -> None:
    with FeedbackStore(old_url) as store:
        assert [item.prompt for item in store.items()] == ["first", "second"]
        assert [(j.item_id, j.value) for j in store.judgements(include_skips=True)] == [(1, {"rating": 4}), (2, None)]
        assert store.settings.guidelines == "Be fair."
        assert store.progress().finished == 1
        store.register(store.invite(), "bob", "hash")
        task = store.claim("bob")
        assert task is not None
        assert task.item.prompt == "second"
    FeedbackStore(old_url, migrate=False).close()


@pytest.mark.parametrize("revision", ["0001", "0008"])
@pytest.mark.parametrize("chosen", [None, "gain"])
def test_an_older_store_goes_on_in_its_order_and_a_new_one_draws_it(
    new_store_url: str, database_of_revision: Callable[[str], sa.Engine], revision: str, chosen: str | None
) -> None:
    engine = database_of_revision(revision)
    if chosen is not None:
        with engine.begin() as connection:
            insert(connection, "settings", name="next_item", value=json.dumps(chosen))
    engine.dispose()
    for _ in range(2):  # the second time nothing is migrated
        with FeedbackStore(new_store_url) as store:
            assert store.settings.next_item == (chosen or "age")
    if chosen is None:
        with FeedbackStore(new_store_url) as store:
            store.add_items([NewItem("rating", f"p{i}", ("c",)) for i in range(20)])
            assert [item.id for item in store.queue()] == list(range(1, 21))


def test_final_answers_and_the_training_of_a_store_without_own_questions_in_them(
    new_store_url: str, database_of_revision: Callable[[str], sa.Engine]
) -> None:
    engine, when = database_of_revision("0008"), "2026-01-01 00:00:00+00:00"
    value = {"value": json.dumps({"rating": 3}), "created": when}
    with engine.begin() as connection:
        insert(connection, "annotators", name="ann", role="annotator", created=when)
        texts = {name: json.dumps(text) for name, text in (("prompt", "p"), ("source", ""), ("policy", ""))}
        texts |= {"completions": '["c"]', "meta": '{"explanation": "why"}', "gold": '{"rating": 3}'}
        insert(connection, "items", kind="rating", overlap=1, priority=0.0, created=when, training=True, **texts)
        insert(connection, "adjudications", item_id=1, annotator_id=1, comment='"sure"', **value)
        insert(
            connection, "training_answers", item_id=1, annotator_id=1, attempt=1, is_right=True, seconds=2.0, **value
        )
    engine.dispose()
    with FeedbackStore(new_store_url) as store:
        final = store.adjudications()[1]
        assert (final.value, final.by, final.comment, final.answers, final.version) == (
            {"rating": 3}, "ann", "sure", {}, 1,
        )  # fmt: skip
        trained, adjudicated = answers_of(store, "ann")
        assert (trained["is_right"], trained["value"], trained["answers"]) == (True, {"rating": 3}, None)
        assert adjudicated["answers"] is None
        store.update_settings(questions=[{"name": "kind", "text": "Kind?", "type": "labels", "labels": ["yes", "no"]}])
        assert [len(asked.questions) for asked in store.versions().values()] == [0, 1]


def test_a_new_store_asks_in_a_drawn_order(store_url: str) -> None:
    with FeedbackStore(store_url) as store:
        assert store.settings.next_item == "random"


def test_an_older_schema_is_refused_without_leave_to_migrate(old_url: str) -> None:
    with pytest.raises(StoreError, match=r"older schema '0001'.*needs '\d{4}'.*migrate=True"):
        FeedbackStore(old_url, migrate=False)


def test_a_missing_database_is_refused_without_leave_to_migrate(new_store_url: str) -> None:
    with pytest.raises(StoreError, match="no schema"):
        FeedbackStore(new_store_url, migrate=False)


def test_a_newer_schema_is_refused_and_left_alone(new_store_url: str) -> None:
    FeedbackStore(new_store_url).close()
    database = Database(new_store_url)
    with database.write() as connection:
        connection.execute(sa.text("UPDATE alembic_version SET version_num = '9999'"))
    for migrate in (True, False):
        with pytest.raises(StoreError, match=r"schema '9999', which this version .*written by a newer one. Upgrade"):
            FeedbackStore(new_store_url, migrate=migrate)
    with database.read() as connection:
        assert connection.execute(sa.text("SELECT version_num FROM alembic_version")).scalar() == "9999"
    database.close()


def test_the_migrations_make_the_tables_that_the_store_uses(new_store_url: str) -> None:
    database = Database(new_store_url)
    with database.read() as connection:
        differences = compare_metadata(MigrationContext.configure(connection), metadata)
    database.close()
    assert differences == []


def test_the_tables_of_another_program_are_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "other.db"
    with sqlite3.connect(path) as other:
        other.execute("CREATE TABLE songs (title TEXT)")
    other.close()
    with pytest.raises(StoreError, match=r"other.db holds tables of another program \(songs\)"):
        FeedbackStore(path)


def test_a_locked_file_is_named_with_the_way_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rlhf_envs.feedback.store.database._BUSY_SECONDS", 0.1)
    path = tmp_path / "feedback.db"
    with FeedbackStore(path) as store:
        holder = sqlite3.connect(path, isolation_level=None)
        holder.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreError, match=r"feedback.db: database is locked. Another program has held the file"):
            store.add_items([NewItem("rating", "p", ("c",))])
        assert store.items() == []  # reading goes on
        holder.execute("ROLLBACK")
        holder.close()
        assert store.add_items([NewItem("rating", "p", ("c",))]) == [1]


def test_a_read_only_file_can_be_read_and_says_why_it_cannot_be_written(tmp_path: Path) -> None:
    path = tmp_path / "feedback.db"
    with FeedbackStore(path) as store:
        store.add_items([NewItem("rating", "p", ("c",))])
    # A URL, since the tests may run as root, who may write files of any mode.
    with FeedbackStore(f"sqlite:///file:{path}?mode=ro&uri=true") as store:
        assert [item.prompt for item in store.items()] == ["p"]
        with pytest.raises(StoreError, match=r"feedback.db.*: attempt to write a readonly database. Make the file"):
            store.add_items([NewItem("rating", "p", ("c",))])


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"not a database, but as long as the header of one" * 40, "not a database. The file is damaged")],
)
def test_a_file_that_is_no_database_is_named(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "notes.txt"
    path.write_bytes(content)
    with pytest.raises(StoreError, match=f"notes.txt: .*{message}"):
        FeedbackStore(path)
    assert path.read_bytes() == content


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"nowhere/feedback.db: unable to open database file. Check that the folder"):
        FeedbackStore(tmp_path / "nowhere" / "feedback.db")


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("mysql://localhost/x", "unknown database 'mysql'"),
        ("sqlite://", "a store in memory would be lost"),
        ("sqlite:///:memory:", "a store in memory would be lost"),
        ("://", "is no URL"),
    ],
)
def test_an_address_that_is_no_store_is_refused(url: str, message: str) -> None:
    with pytest.raises(StoreError, match=message):
        FeedbackStore(url)


def test_an_unreachable_server_is_named_without_its_password() -> None:
    pytest.importorskip("psycopg")
    with pytest.raises(StoreError, match="Check that PostgreSQL runs") as caught:
        FeedbackStore("postgresql://me:secret@127.0.0.1:1/feedback")
    assert "postgresql+psycopg://me:***@127.0.0.1:1/feedback" in str(caught.value)
    assert "secret" not in str(caught.value)


@pytest.mark.usefixtures("waits_for_the_disk")
def test_sqlite_commits_reach_the_disk_before_they_are_acknowledged(tmp_path: Path) -> None:
    with FeedbackStore(tmp_path / "feedback.db") as store, store._database.write() as connection:
        pragmas = {
            name: connection.exec_driver_sql(f"PRAGMA {name}").scalar()
            for name in ("journal_mode", "synchronous", "foreign_keys", "busy_timeout")
        }
    assert pragmas == {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1, "busy_timeout": 30_000}


def test_many_may_open_a_new_store_at_once(new_store_url: str) -> None:
    errors: list[Exception] = []

    def open_it() -> None:
        try:
            FeedbackStore(new_store_url).close()
        except Exception as error:
            errors.append(error)

    code = "import sys; from rlhf_envs.feedback import FeedbackStore; FeedbackStore(sys.argv[1]).add_annotator('ann')"
    processes = [subprocess.Popen([sys.executable, "-c", code, new_store_url]) for _ in range(2)]
    threads = [threading.Thread(target=open_it) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [process.wait() for process in processes] == [0, 0]
    assert errors == []
    with FeedbackStore(new_store_url) as store:
        assert [annotator.name for annotator in store.annotators()] == ["ann"]


def test_importing_the_package_needs_the_standard_library_only() -> None:
    code = (
        "import sys; import rlhf_envs.feedback; "
        "print([m for m in ('sqlalchemy', 'alembic', 'pydantic', 'torch', 'fastapi') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=os.environ)
    assert "sqlalchemy" not in done.stdout
    assert "torch" not in done.stdout


def test_without_sqlalchemy_the_error_says_what_to_install() -> None:
    code = "import sys; sys.modules['sqlalchemy'] = None; from rlhf_envs.feedback import FeedbackStore"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert 'ImportError: FeedbackStore needs sqlalchemy: pip install "rlhf-envs[web]"' in done.stderr


@pytest.mark.skipif(os.name != "posix", reason="modes are POSIX's")
def test_only_the_owner_reads_the_store(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "feedback.db"

    def modes() -> set[int]:
        files = list(tmp_path.iterdir())
        assert len(files) == 3  # with -wal and -shm
        return {stat.S_IMODE(file.stat().st_mode) for file in files}

    with FeedbackStore(path) as store:
        store.add_annotator("ada")
        assert modes() == {0o600}
        for file in tmp_path.iterdir():
            file.chmod(0o644)  # as older versions made them
        with FeedbackStore(path):
            assert modes() == {0o600}
    assert "could be read by every user (mode 644)" in caplog.text
    path.chmod(0o660)
    FeedbackStore(path).close()
    assert stat.S_IMODE(path.stat().st_mode) == 0o660
