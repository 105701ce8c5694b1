"""The file of keys: hashes alone, private, whole whatever happens."""

from __future__ import annotations

import stat
import threading
from pathlib import Path

import pytest

from agents.serving.keys import KeyFile


def test_a_key_is_found_by_what_the_client_sends_and_by_nothing_in_the_file(tmp_path: Path) -> None:
    keys = KeyFile(tmp_path / "keys.json")
    key, secret = keys.add("ann", ["admin", "completions"], days=1, per_minute=5)
    assert keys.find(secret) == key and key.may("metrics") and key.scopes == ("completions", "admin")
    assert keys.find(key.hash) is None and keys.find(key.id) is None and keys.find("") is None
    assert secret not in keys.path.read_text() and len(secret) >= 48
    assert stat.S_IMODE(keys.path.stat().st_mode) == 0o600


def test_another_process_sees_changes_at_once(tmp_path: Path) -> None:
    ours, theirs = KeyFile(tmp_path / "keys.json"), KeyFile(tmp_path / "keys.json")
    assert ours.find("rlhf-x") is None, "a file that is missing has no keys"
    key, secret = theirs.add("ann")
    assert ours.find(secret) is not None
    assert theirs.revoke("ann") == 1 and ours.find(secret) is None
    assert theirs.revoke(key.id) == 0, "it is revoked already"
    assert ours.list()[0].revoked is not None


def test_keys_that_are_added_at_the_same_time_are_all_kept(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    threads = [threading.Thread(target=KeyFile(path).add, args=(f"n{i}",)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(key.name for key in KeyFile(path).list()) == [f"n{i}" for i in range(8)]


@pytest.mark.parametrize("content", ["", "{}", "[]", '{"format": "rlhf-envs keys", "version": 2, "keys": []}'])
def test_a_damaged_file_is_named(tmp_path: Path, content: str) -> None:
    path = tmp_path / "keys.json"
    path.write_text(content)
    with pytest.raises(ValueError, match=r"keys\.json is no file of keys"):
        KeyFile(path).find("rlhf-x")
    with pytest.raises(ValueError, match=r"keys\.json is no file of keys"):
        KeyFile(path).add("ann")
    assert path.read_text() == content


def test_what_is_wrong_with_a_new_key_is_said(tmp_path: Path) -> None:
    keys = KeyFile(tmp_path / "keys.json")
    with pytest.raises(ValueError, match="name 'a b'"):
        keys.add("a b")
    with pytest.raises(ValueError, match="there are completions, feedback, metrics, admin"):
        keys.add("ann", ["root"])  # type: ignore[list-item]
    with pytest.raises(ValueError, match="could do nothing"):
        keys.add("ann", [])
    with pytest.raises(ValueError, match="days=-1"):
        keys.add("ann", days=-1)
    with pytest.raises(ValueError, match="no key 'bob'"):
        keys.revoke("bob")
    assert not keys.path.exists()
