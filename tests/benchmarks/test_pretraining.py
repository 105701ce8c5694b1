"""The benchmark of masked-LM pre-training at a toy size: what it compares starts equal and is told apart."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from benchmarks import pretraining
from rlhf_envs.datasets import load_rows


def test_the_table_has_both_accuracies_and_their_difference(capsys: pytest.CaptureFixture[str]) -> None:
    pretraining.main(["--toy", "--encoders", "small, from scratch", "--seeds", "2"])
    printed = capsys.readouterr().out
    header, row = ([cell.strip() for cell in line.strip("|").split("|")] for line in printed.splitlines()[-3::2])
    cells = dict(zip(header, row, strict=True))
    without, after, difference = (float(cells[name]) for name in ("accuracy without", "with", "difference"))
    assert after - without == pytest.approx(difference, abs=0.0011)
    assert 100 < float(cells["perplexity before"]) < 10_000
    seeds = re.findall(r"accuracy ([\d.]+) without, ([\d.]+) with", printed)
    assert len(seeds) == 2
    assert without == pytest.approx(sum(float(first) for first, _ in seeds) / 2, abs=0.001)
    assert printed.count("of the split 'test'") == 1, "the test split is not pre-trained on"


def test_texts_for_pre_training_have_no_ratings(tmp_path: Path) -> None:
    pretraining.write_texts(tmp_path / "texts.jsonl", 5)
    rows = load_rows(str(tmp_path / "texts.jsonl"), required=("text",))
    assert len(rows) == 15
    assert all(row.keys() == {"text", "split"} for row in rows)
