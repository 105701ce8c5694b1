"""Stores of feedback in files, for the tests of the store and of what reads it."""

from __future__ import annotations

import shutil
from pathlib import Path

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
