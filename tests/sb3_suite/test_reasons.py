"""The table of tests that cannot pass; the suites themselves run with `tox -e sb3-suite`."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest


@pytest.fixture
def reasons(monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parent)
    import reasons

    yield reasons
    del sys.modules["reasons"]


def test_only_the_asterisk_of_a_pattern_is_special(reasons):
    table = {"test_run.py::test_a[*-PPO]": "why", "test_run.py::test_b[*]": "also"}
    assert reasons.find_reason("test_run.py::test_a[ours-1.0-PPO]", table) == "why"
    assert reasons.find_reason("test_run.py::test_b[stock]", table) == "also"
    for other in ("test_run.py::test_a[ours-PPO-1]", "test_run.py::test_bb[ours]", "test_run.py::test_a-", "x"):
        assert reasons.find_reason(other, table) is None


def test_a_test_that_is_listed_twice_is_an_error(reasons):
    table = {"test_run.py::test_a[*]": "one", "test_run.py::test_a[ours*]": "other"}
    assert reasons.find_reason("test_run.py::test_a[stock]", table) == "one"
    with pytest.raises(ValueError, match="listed twice"):
        reasons.find_reason("test_run.py::test_a[ours]", table)


def test_a_pattern_without_a_test_is_found_where_its_file_was_collected(reasons):
    table = {"test_run.py::test_a[*]": "", "test_run.py::test_gone[*]": "", "test_other.py::test_c[*]": ""}
    assert reasons.unmatched(["test_run.py::test_a[ours]"], table) == ["test_run.py::test_gone[*]"]


def test_every_pattern_is_of_a_file_that_runs_and_has_a_reason(reasons):
    assert reasons.FILES.keys() == reasons.REASONS.keys()
    for suite, table in reasons.REASONS.items():
        for pattern, reason in table.items():
            assert pattern.partition("::")[0] in {f"test_{name}.py" for name in reasons.FILES[suite]}
            assert len(reason) > 20
