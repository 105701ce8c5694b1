"""The time from a key to the next item: what the store is filled with, and a short run in Chromium."""

from __future__ import annotations

import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from rlhf_envs.feedback import FeedbackStore


def test_the_store_has_all_kinds_and_a_tenth_of_it_is_judged(benchmark: Any, tmp_path: Path) -> None:
    module = benchmark("key_to_next")
    with FeedbackStore(tmp_path / "feedback.db") as store:
        module.fill(store, 60, 4)
        assert Counter(item.kind for item in store.items()) == dict.fromkeys(module.KEYS, 10)
        judgements = store.judgements()
        assert len({judgement.item_id for judgement in judgements}) == 6
        assert Counter(judgement.annotator for judgement in judgements).keys() == {f"annotator-{k}" for k in range(4)}
        assert store.progress().finished == 6
        assert store.password_hash("typist") is not None


@pytest.mark.slow
def test_a_short_run_times_every_kind(benchmark: Any, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("playwright")
    if shutil.which("chromium") is None:
        pytest.skip("no chromium on this machine")
    module = benchmark("key_to_next")
    median = module.main(["--answers", "12", "--items", "60", "--annotators", "4"])
    out = capsys.readouterr().out
    assert 0 < median < 5
    for kind in module.KEYS:
        assert f"| {kind} | 2 | " in out
    assert f"median {median:.3f} s (" in out
    assert ", 12 answers in " in out
