"""What made a file: versions, commit, machine, command."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

from agents.saving import provenance as module
from agents.saving.provenance import (
    commit,
    differences,
    provenance,
    read_records,
    without_passwords,
    write_settings,
)
from agents.training.config import TrainConfig


def test_it_names_versions_and_the_command_without_passwords(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["/usr/bin/rlhf", "train", "--env-kwargs", "store:postgresql://me:secret@db/x y"])
    made: dict[str, Any] = provenance()
    assert str(made["command"]).endswith(" train --env-kwargs 'store:postgresql://***@db/x y'")
    assert made["versions"]["torch"] == version("torch")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("postgresql://me:secret@db/x", "postgresql://***@db/x"),
        ("postgresql://me:s@secret@db:5432/x", "postgresql://***@db:5432/x"),
        ('\'{"store": "postgresql://db/x?user=me&password=secret"}\'', None),
        ("postgresql://db/x?Password=secret&sslmode=require", "postgresql://db/x?Password=***&sslmode=require"),
        ("https://db/a@b", "https://db/a@b"),
    ],
)
def test_no_part_of_a_password_is_left(text: str, shown: str | None) -> None:
    found = without_passwords(text)
    assert "secret" not in found
    assert shown is None or found == shown


def test_it_names_threads_and_machine_but_neither_host_nor_user(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    home = os.path.expanduser("~")
    monkeypatch.setattr(sys, "argv", ["rlhf", "train", "--data", f"{home}/my.jsonl", f"other{home}/my.jsonl"])
    made = provenance()
    assert made["threads"] == torch.get_num_threads()
    assert f"{os.cpu_count()} CPUs" in made["machine"]
    assert str(made["command"]).endswith(f" train --data ~/my.jsonl other{home}/my.jsonl")
    assert platform.node() not in json.dumps({**made, "command": ""})


def test_a_file_of_settings_keeps_a_record_of_each_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "config.json"
    assert read_records(file) == []
    for argv in (["rlhf", "train"], ["rlhf", "train", "--resume", "run"], ["rlhf", "train", "--resume", "run"]):
        monkeypatch.setattr(sys, "argv", argv)
        write_settings(file, {"seed": 1})
    commands = [record["command"] for record in read_records(file)]
    assert [command.partition(" train")[2] for command in commands] == ["", " --resume run"]
    assert TrainConfig(**json.loads(file.read_text())) == TrainConfig(seed=1), "the records are no settings"


@pytest.mark.parametrize("made", [None, 3, "x", [], [3, None], {"versions": 3}])
def test_records_of_another_form_are_as_good_as_none(made: Any, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"made": made}))
    assert read_records(tmp_path / "config.json") == []
    assert differences({"versions": made}) == []


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
