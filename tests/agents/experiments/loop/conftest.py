"""What all tests of the loop share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True, scope="module")
def _no_pictures_of_rounds() -> Iterator[None]:
    """They take most of the time of so short a run, and have a test of their own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("agents.experiments.loop.report.plot_rounds", lambda *_: None)
        yield
