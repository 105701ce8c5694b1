"""What made a file: versions, commit, machine, command."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

from agents.saving import provenance as module
from agents.saving.provenance import commit, provenance


def test_it_names_versions_and_the_command_without_passwords(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["/usr/bin/rlhf", "train", "--env-kwargs", "store:postgresql://me:secret@db/x y"])
    made: dict[str, Any] = provenance()
    assert str(made["command"]).endswith(" train --env-kwargs 'store:postgresql://***@db/x y'")
    assert made["versions"]["torch"] == version("torch")


def test_the_commit_is_the_checkouts_and_says_if_it_was_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def git(*arguments: str) -> str:
        who = ["-c", "user.name=a", "-c", "user.email=a@b"]
        return subprocess.run(["git", "-C", str(tmp_path), *who, *arguments], capture_output=True, text=True).stdout

    monkeypatch.setattr(module, "ROOT", tmp_path)
    assert commit() is None, "an installed package has none"
    git("init")
    (tmp_path / "file").write_text("one")
    git("add", "file")
    git("commit", "-m", "one")
    git("tag", "v1")
    head = git("rev-parse", "HEAD").strip()
    assert commit() == head
    (tmp_path / "file").write_text("two")
    assert commit() == f"{head}-dirty"
