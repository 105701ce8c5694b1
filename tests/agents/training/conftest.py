"""Runs that the tests of training share."""

from __future__ import annotations

from pathlib import Path

import pytest

from agents.training.run import train
from tests.agents.training.runs import config


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a run that nothing interrupted."""
    return train(config(tmp_path_factory.mktemp("unbroken"))).folder
