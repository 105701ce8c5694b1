"""Files and folders are there whole or not at all; `tests/agents/saving/test_checkpoints.py` kills who writes them."""

from __future__ import annotations

import gzip
import json
import math
import os
import stat
from pathlib import Path

import pytest

from rlhf_envs.files import (
    MANIFEST,
    BundleError,
    atomic_folder,
    clear_unfinished,
    discard,
    find_folder,
    replace_file,
    replace_folder,
    replace_json,
    to_json,
    verify,
)


def make(target: Path, text: str = "one") -> Path:
    with atomic_folder(target, kind="test") as folder:
        (folder / "inner").mkdir()
        (folder / "inner" / "file").write_text(text)
    return target


def test_a_folder_is_swapped_on_success_and_kept_on_failure(tmp_path: Path) -> None:
    target = tmp_path / "new" / "model"
    for text in ("one", "two"):
        with replace_folder(target) as folder:
            (folder / "file").write_text(text)
            assert not target.exists() or (target / "file").read_text() != text
        assert (target / "file").read_text() == text
    wrong = pytest.raises(IsADirectoryError, match=r"cannot write .*model: .*what was saved before is intact")
    with wrong, replace_folder(target) as folder:
        folder.write_text("a failure half-way")
    with pytest.raises(KeyError), replace_folder(target) as folder:
        raise KeyError("not about files")
    assert (target / "file").read_text() == "two"
    assert list(target.parent.iterdir()) == [target]


@pytest.mark.skipif(os.name == "nt", reason="Windows has no umask")
def test_others_may_read_what_the_umask_lets_them(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        target = make(tmp_path / "bundle")
    finally:
        os.umask(before)
    modes = [stat.S_IMODE(path.stat().st_mode) for path in (target, target / "inner", target / "inner" / "file")]
    assert modes == [0o750, 0o750, 0o640]


def test_the_manifest_has_the_entries_and_the_size_and_checksum_of_every_file(tmp_path: Path) -> None:
    target = make(tmp_path / "bundle", "abc")
    manifest = verify(target)
    assert manifest == json.loads((target / MANIFEST).read_text())
    digest = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"  # of "abc", FIPS 180-2
    assert manifest == {"kind": "test", "files": {"inner/file": {"bytes": 3, "sha256": digest}}}


def test_damage_is_named(tmp_path: Path) -> None:
    target = make(tmp_path / "bundle")
    (target / "inner" / "file").write_text("two")
    with pytest.raises(BundleError, match=r"inner.file has changed since it was saved"):
        verify(target)
    (target / "inner" / "file").unlink()
    with pytest.raises(BundleError, match=r"inner.file is missing"):
        verify(target)
    (target / MANIFEST).write_text("{")
    with pytest.raises(BundleError, match=r"manifest\.json cannot be read"):
        verify(target)
    (target / MANIFEST).unlink()
    with pytest.raises(BundleError, match=r"bundle is no bundle: it has no manifest\.json"):
        verify(target)


def test_a_manifest_cannot_point_outside_its_folder(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("x")
    target = make(tmp_path / "bundle")
    (target / MANIFEST).write_text(json.dumps({"files": {"../secret": {"sha256": "0"}}}))
    with pytest.raises(BundleError, match=r"secret is missing"):
        verify(target)


def test_what_is_no_bundle_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "mine").touch()
    (tmp_path / "file").touch()
    for name in ("folder", "file"):
        with pytest.raises(FileExistsError, match=f"{name} exists and is no bundle"):
            make(tmp_path / name)
    (tmp_path / "empty").mkdir()
    damaged = make(tmp_path / "damaged")
    (damaged / MANIFEST).write_text("{")
    for name in ("empty", "damaged"):
        verify(make(tmp_path / name))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["damaged", "empty", "file", "folder"]


def test_an_older_folder_is_found_where_a_save_died_between_its_renames(tmp_path: Path) -> None:
    target = make(tmp_path / "bundle", "old")
    os.rename(target, tmp_path / ".bundle.old")
    assert (find_folder(target) / "inner" / "file").read_text() == "old"
    make(target, "new")
    assert find_folder(target) == target
    assert (target / "inner" / "file").read_text() == "new"


def test_a_failed_rename_brings_the_older_folder_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target, rename = make(tmp_path / "bundle", "old"), os.rename

    def refuse(source: Path, to: Path) -> None:
        if ".tmp-" in str(source):
            raise PermissionError(13, "Permission denied")
        rename(source, to)

    monkeypatch.setattr(os, "rename", refuse)
    with pytest.raises(PermissionError, match=r"cannot write .*bundle: Permission denied"):
        make(target, "new")
    assert (target / "inner" / "file").read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_a_removed_folder_and_unfinished_ones_leave_nothing(tmp_path: Path) -> None:
    kept = make(tmp_path / "kept")
    discard(make(tmp_path / "bundle"))
    (tmp_path / ".bundle.tmp-abc").mkdir()
    (tmp_path / ".other.tmp-abc").mkdir()
    clear_unfinished(tmp_path, "bundle")
    assert {path.name for path in tmp_path.iterdir()} == {"kept", ".other.tmp-abc"}
    clear_unfinished(tmp_path)
    assert list(tmp_path.iterdir()) == [kept]


def test_a_file_is_replaced_whole_or_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    for data in (b"one", b"two"):
        replace_file(path, data)
        assert path.read_bytes() == data

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match=r"cannot write .*file: No space left on device\. Free space there"):
        replace_file(path, b"three")
    assert path.read_bytes() == b"two"
    assert list(tmp_path.iterdir()) == [path]


def test_a_compressed_file_has_the_same_bytes_every_time(tmp_path: Path) -> None:
    for name in ("a.gz", "b.gz"):
        replace_file(tmp_path / name, b"data")
    assert (tmp_path / "a.gz").read_bytes() == (tmp_path / "b.gz").read_bytes()
    assert gzip.decompress((tmp_path / "a.gz").read_bytes()) == b"data"


def test_json_has_null_where_a_number_is_not_finite(tmp_path: Path) -> None:
    content = {"mean": 0.5, "sem": math.nan, "bounds": (-math.inf, 1), "names": ["NaN"]}
    strict = {"mean": 0.5, "sem": None, "bounds": [None, 1], "names": ["NaN"]}
    assert json.loads(to_json(content, ensure_ascii=False), parse_constant=pytest.fail) == strict
    assert to_json(strict) == json.dumps(strict)
    replace_json(tmp_path / "report.json", content)
    assert json.loads((tmp_path / "report.json").read_text(), parse_constant=pytest.fail) == strict
    replace_json(tmp_path / "state.json", content, exact=True)
    assert math.isnan(json.loads((tmp_path / "state.json").read_text())["sem"])
