"""Provide empty stores."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from rlhf_envs.feedback import FeedbackStore


@pytest.fixture
def store(empty_store: Path) -> Iterator[FeedbackStore]:
    with FeedbackStore(empty_store, seed=0) as store:
        store.update_settings(next_item="age")  # the tests know which item comes next
        yield store


@pytest.fixture
def stores(tmp_path: Path) -> Iterator[tuple[FeedbackStore, FeedbackStore]]:
    with FeedbackStore(tmp_path / "one.db", seed=0) as one, FeedbackStore(tmp_path / "two.db", seed=0) as two:
        yield one, two
