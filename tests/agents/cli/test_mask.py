"""The command `rlhf mask`."""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

pytest.importorskip("phonenumbers")
pytest.importorskip("stdnum")

from agents.cli import app

MAIL = "ann@x.org"


@pytest.fixture(autouse=True)
def _in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def mask(*arguments: str, stdin: str | None = None, **env: str) -> Any:
    return CliRunner().invoke(app, ["mask", *arguments], input=stdin, env={"COLUMNS": "200", **env})


def test_a_text_is_masked_and_what_was_masked_is_counted() -> None:
    result = mask("-", "--pseudonyms", stdin=f"mail {MAIL}\nor {MAIL} or 13812345678\n")
    assert result.stdout == "mail [EMAIL_1]\nor [EMAIL_1] or [PHONE_1]\n"
    assert result.stderr == "masked: 2 email, 1 phone\n"


def test_a_file_that_is_no_utf8_is_named() -> None:
    Path("latin.txt").write_bytes("caf\xe9\n".encode("latin-1"))
    Path("latin.jsonl").write_bytes('{"a": "caf\xe9"}\n'.encode("latin-1"))
    for name in ("latin.txt", "latin.jsonl"):
        result = mask(name)
        assert result.exit_code == 2
        assert result.stderr.startswith(f"rlhf: {name} is not UTF-8 (") and "0xe9): save it as UTF-8" in result.stderr


def test_private_data_in_names_of_fields_is_said_to_stay() -> None:
    Path("rows.jsonl").write_text(json.dumps({"text": MAIL, "of": [{MAIL: {"b@y.org": "x"}}], "c@z.org": 1}) + "\n")
    result = mask("rows.jsonl")
    assert json.loads(result.stdout) == {"text": "[EMAIL]", "of": [{MAIL: {"b@y.org": "x"}}], "c@z.org": 1}
    said = "masked: 1 email\nNOT masked, in names of columns and fields, which stay as they are: 3 email"
    assert said in result.stderr
    assert "NOT masked" not in mask("rows.jsonl", "--column", "text").stderr, "other columns are not looked at"


def test_a_file_is_written_anew_and_line_ends_stay() -> None:
    Path("text.txt").write_bytes(f"mail {MAIL}\r\nend\r\n".encode())
    assert mask("text.txt", "-o", "out.txt").exit_code == 0
    assert Path("out.txt").read_bytes() == b"mail [EMAIL]\r\nend\r\n"
    assert mask("-", "-o", "out.txt", stdin="fine\n").exit_code == 0
    assert Path("out.txt").read_text() == "fine\n"


@pytest.mark.parametrize("before", [None, b"older\n"])
@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("rows.jsonl", b'{"a": "x"}\nno JSON\n'),
        ("rows.jsonl", b'{"a": "x"}\n{"b": "y"}\n'),
        ("rows.jsonl", b'{"a": "x"}\n{"a": "\xe9"}\n'),
        ("text.txt", b"x\n" * 100_000 + b"\xe9\n"),
    ],
)
def test_a_failure_leaves_no_part_of_a_file(name: str, content: bytes, before: bytes | None) -> None:
    Path(name).write_bytes(content)
    if before is not None:
        Path("out").write_bytes(before)
    assert mask(name, "-o", "out", *(["--column", "a"] if name == "rows.jsonl" else [])).exit_code == 2
    there = {path.name: path.read_bytes() for path in Path().iterdir()}
    assert there == {name: content, **({} if before is None else {"out": before})}


def test_a_written_file_keeps_its_permissions_and_its_links() -> None:
    Path("kept").write_text("older")
    Path("kept").chmod(0o600)
    Path("link").symlink_to("kept")
    for name in ("link", "kept"):
        assert mask("-", "-o", name, stdin=f"to {MAIL}\n").exit_code == 0
        assert Path("kept").read_text() == "to [EMAIL]\n" and Path("kept").stat().st_mode & 0o777 == 0o600
    assert Path("link").is_symlink()


def test_a_pipe_is_written_to_and_stays() -> None:
    os.mkfifo("pipe")
    reader = os.open("pipe", os.O_RDONLY | os.O_NONBLOCK)
    try:
        assert mask("-", "-o", "pipe", stdin=f"to {MAIL}\n").exit_code == 0
        assert os.read(reader, 100) == b"to [EMAIL]\n"
    finally:
        os.close(reader)
    assert Path("pipe").is_fifo()


def test_the_columns_of_rows_are_masked() -> None:
    row = {"prompt": MAIL, "messages": [{"role": "user", "content": MAIL}], "n": 1}
    Path("rows.jsonl").write_text(json.dumps(row) + "\n\n")
    assert json.loads(mask("rows.jsonl").stdout) == {
        "prompt": "[EMAIL]",
        "messages": [{"role": "user", "content": "[EMAIL]"}],
        "n": 1,
    }
    assert mask("rows.jsonl", "--column", "prompt", "-o", "out.jsonl").exit_code == 0
    assert json.loads(Path("out.jsonl").read_text()) == {**row, "prompt": "[EMAIL]"}
    assert mask("rows.jsonl", "--kind", "ip").stderr == "masked: nothing\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("no.txt",), "no.txt"),
        (("rows.jsonl", "--column", "text"), "rows.jsonl:1: there is no column 'text' (there are: prompt)"),
        (("rows.jsonl", "--column", "promt"), "(there are: prompt); did you mean 'prompt'?"),
        (("bad.jsonl",), "bad.jsonl:1: no JSON"),
        (("rows.jsonl", "-o", "rows.jsonl"), "it is the file that is read"),
        (("-", "--column", "a"), "has no columns"),
        (("rows.jsonl", "--kind", "mail"), "unknown kind 'mail'; did you mean 'email'?"),
    ],
)
def test_a_users_mistake_is_one_line(arguments: tuple[str, ...], message: str) -> None:
    Path("rows.jsonl").write_text('{"prompt": "a"}\n')
    Path("bad.jsonl").write_text("{\n")
    result = mask(*arguments, stdin="")
    assert result.exit_code == 2 and message in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert Path("rows.jsonl").read_text() == '{"prompt": "a"}\n'


def test_logs_of_a_command_are_masked_where_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    made = logging.getLogRecordFactory()
    seen: list[str] = []

    def note(*_: object) -> None:
        record = logging.getLogRecordFactory()("x", 30, "f", 1, "from %s", (MAIL,), None)
        seen.append(record.getMessage())

    monkeypatch.setattr("agents.cli.mask._text", lambda *_: note() or iter(()))
    mask("-", stdin="", RLHF_MASK_LOGS="1")
    mask("-", stdin="", RLHF_MASK_LOGS="0")
    assert seen == ["from [EMAIL]", f"from {MAIL}"]
    assert logging.getLogRecordFactory() is made
