"""Copies of a store that people write to, and stores made of copies."""

from __future__ import annotations

import itertools
import sqlite3
import stat
import threading
from pathlib import Path

import pytest

from rlhf_envs.feedback import FeedbackStore, NewItem, StoreError
from rlhf_envs.feedback.store.backup import back_up, restore_backup


def filled(path: Path, n: int = 4) -> FeedbackStore:
    store = FeedbackStore(path)
    store.add_items([NewItem("thumbs", f"p{i}", ("c",)) for i in range(n)])
    store.add_annotator("ada")
    return store


def answer(store: FeedbackStore, who: str, key: str) -> bool:
    task = store.claim(who)
    if task is not None:
        store.submit(task.id, who, {"up": True}, key=key)
    return task is not None


def test_a_backup_under_writes_holds_all_that_was_acknowledged_before_it_and_no_half_of_anything(
    tmp_path: Path,
) -> None:
    """Four writers go on while ten copies are made; each copy is one moment of the store."""
    store = filled(tmp_path / "feedback.db", 100_000 // 50)
    acknowledged: list[str] = []
    stop = threading.Event()

    def write(who: str) -> None:
        store.add_annotator(who)
        for i in itertools.count():
            if stop.is_set() or not answer(store, who, f"{who}-{i}"):
                return
            acknowledged.append(f"{who}-{i}")

    writers = [threading.Thread(target=write, args=(f"w{i}",)) for i in range(4)]
    for writer in writers:
        writer.start()
    seen = []
    for i in range(10):
        before = list(acknowledged)
        counts = back_up(tmp_path / "feedback.db", tmp_path / f"copy{i}.db")
        with FeedbackStore(tmp_path / f"copy{i}.db") as copy:
            judgements = copy.judgements()
            keys = {judgement.key for judgement in judgements}
            assert keys >= set(before) and counts["judgements"] == len(keys)
            progress = copy.progress()
            assert progress.finished == len(judgements), "an item needs one judgement: both are of one moment"
        seen.append(len(keys))
    stop.set()
    for writer in writers:
        writer.join()
    assert seen == sorted(seen) and seen[-1] > seen[0], "the writers went on meanwhile"
    assert len(store.judgements()) == len(acknowledged)


def test_a_store_made_of_a_backup_is_the_store(tmp_path: Path) -> None:
    store = filled(tmp_path / "feedback.db")
    answer(store, "ada", "first")
    back_up(tmp_path / "feedback.db", tmp_path / "copy.db")
    answer(store, "ada", "later")
    counts = restore_backup(tmp_path / "copy.db", tmp_path / "new.db")
    assert counts == {"items": 4, "judgements": 1, "annotators": 1}
    with FeedbackStore(tmp_path / "new.db") as new:
        assert new.items() == store.items() and new.judgements() == store.judgements()[:1]
        assert answer(new, "ada", "goes on")
    assert stat.S_IMODE((tmp_path / "copy.db").stat().st_mode) == 0o600
    assert not [path for path in tmp_path.iterdir() if path.name.startswith("copy.db.")]


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    store = filled(tmp_path / "feedback.db")
    back_up(tmp_path / "feedback.db", tmp_path / "copy.db")
    with pytest.raises(ValueError, match=r"copy\.db exists: give the copy a name of its own"):
        back_up(tmp_path / "feedback.db", tmp_path / "copy.db")
    with pytest.raises(ValueError, match=r"feedback\.db exists: end the server, and move it away \(mkdir old && mv "):
        restore_backup(tmp_path / "copy.db", tmp_path / "feedback.db")
    store.close()
    (tmp_path / "feedback.db").unlink(missing_ok=True)
    (tmp_path / "feedback.db-wal").write_bytes(b"left over")
    with pytest.raises(ValueError, match=r"feedback\.db-wal exists"):
        restore_backup(tmp_path / "copy.db", tmp_path / "feedback.db")


@pytest.mark.parametrize("content", [b"no database", b"", None, "tables of another program"])
def test_what_is_no_store_is_refused_and_leaves_nothing_behind(tmp_path: Path, content: bytes | str | None) -> None:
    source = tmp_path / "source"
    if isinstance(content, str):
        with sqlite3.connect(source) as connection:
            connection.execute("CREATE TABLE cats (name)")
    elif content is not None:
        source.write_bytes(content)
    for copy in (lambda: back_up(source, tmp_path / "copy"), lambda: restore_backup(source, tmp_path / "copy")):
        with pytest.raises(StoreError, match=r"no store|there is no file"):
            copy()
    assert [path.name for path in tmp_path.iterdir()] == ["source"] * (content is not None)


def test_a_damaged_store_is_not_copied_as_a_good_one(tmp_path: Path) -> None:
    filled(tmp_path / "feedback.db", 2000).close()
    content = bytearray((tmp_path / "feedback.db").read_bytes())
    content[len(content) // 2 : len(content) // 2 + 8192] = b"\x55" * 8192
    (tmp_path / "feedback.db").write_bytes(content)
    with pytest.raises(StoreError, match="damaged"):
        back_up(tmp_path / "feedback.db", tmp_path / "copy.db")
    assert not (tmp_path / "copy.db").exists()


def test_a_backup_of_a_newer_version_is_refused(tmp_path: Path) -> None:
    filled(tmp_path / "feedback.db").close()
    with sqlite3.connect(tmp_path / "feedback.db") as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    with pytest.raises(StoreError, match="written by a newer one"):
        restore_backup(tmp_path / "feedback.db", tmp_path / "new.db")
    assert not (tmp_path / "new.db").exists()


def test_postgresql_names_its_own_programs(tmp_path: Path) -> None:
    url = "postgresql://ada:secret@host/name"
    with pytest.raises(ValueError, match="pg_dump --format=custom --file='/x/a b' postgresql://ada@host/name") as told:
        back_up(url, "/x/a b")
    assert "secret" not in str(told.value)
    with pytest.raises(ValueError, match="pg_restore --clean --if-exists copy --dbname postgresql://ada@host/name"):
        restore_backup("copy", url)
