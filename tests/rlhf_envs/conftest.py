"""What tests of several folders use: stores of feedback in files, and TRL."""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture
def empty_store(tmp_path: Path, _migrated: Path) -> Path:
    """The file of an empty store."""
    return Path(shutil.copy(_migrated, tmp_path / "feedback.db"))


@pytest.fixture(scope="session")
def _migrated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A migrated database, to be copied: migrating one a test takes longer than most tests."""
    from rlhf_envs.feedback import FeedbackStore

    path = tmp_path_factory.mktemp("empty") / "feedback.db"
    FeedbackStore(path).close()
    return path


@pytest.fixture
def trl(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """TRL, whose own warnings are not shown."""
    monkeypatch.setenv("TRL_EXPERIMENTAL_SILENCE", "1")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of theirs
        yield pytest.importorskip("trl")
