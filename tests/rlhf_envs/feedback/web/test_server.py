"""`serve` and the secret that it keeps."""

from __future__ import annotations

import importlib
import logging
import re
import stat
from pathlib import Path

import pytest
import uvicorn

from rlhf_envs.feedback import FeedbackStore, web
from rlhf_envs.feedback.web.server import find_secret, serve


def test_secret_is_made_once_beside_the_store_and_only_its_owner_reads_it(tmp_path: Path) -> None:
    path = tmp_path / "feedback.db"
    secret = find_secret(path)
    assert len(secret) == 32
    assert find_secret(f"sqlite:///{path}") == secret
    assert [file.name for file in tmp_path.iterdir()] == ["feedback.db.secret"]
    assert stat.S_IMODE((tmp_path / "feedback.db.secret").stat().st_mode) == 0o600
    assert find_secret(tmp_path / "another.db") != secret


def test_secret_of_the_environment_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RLHF_FEEDBACK_SECRET", "given")
    assert find_secret(tmp_path / "feedback.db") == b"given"
    assert list(tmp_path.iterdir()) == []


def test_postgresql_without_a_secret_says_what_it_costs(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        assert len(find_secret("postgresql://localhost/x")) == 32
    assert "RLHF_FEEDBACK_SECRET is not set: a restart of the server will sign everyone out" in caplog.text


def test_serve_invites_the_first_admin_and_only_the_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(uvicorn.Server, "run", lambda self, sockets: [listener.close() for listener in sockets])
    path = tmp_path / "feedback.db"
    serve(path, port=0)
    link = re.search(r"http://localhost:\d+/invite/(\S+)", capsys.readouterr().out)
    assert link
    with FeedbackStore(path) as store:
        assert store.register(link[1], "ada", "hash").role == "admin"
    serve(path, port=0)
    assert "/invite/" not in capsys.readouterr().out


def test_missing_extra_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise ModuleNotFoundError("No module named 'fastapi'", name="fastapi")

    monkeypatch.setattr(importlib, "import_module", missing)
    with pytest.raises(ImportError, match=r'needs fastapi: pip install "rlhf-envs\[web\]"'):
        web.create_app  # noqa: B018
