"""Runs that the tests of training share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from agents.training.run import train
from tests.agents.training.runs import config


@pytest.fixture(scope="module")
def _no_pictures() -> Iterator[None]:
    """Draw no curves: they take most of the time of so short a run, and have tests of their own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("agents.training.report.plot_curves", lambda *_, **__: None)
        yield


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory, _no_pictures: None) -> Path:
    """Return the folder of a run that nothing interrupted."""
    return train(config(tmp_path_factory.mktemp("unbroken"))).folder
