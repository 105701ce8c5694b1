"""Splits of any data share no prompt: in generated files and objects, and in other processes."""

from __future__ import annotations

import csv
import gzip
import inspect
import io
import json
import logging
import os
import subprocess
import sys
import tempfile
import unicodedata
from collections import Counter
from pathlib import Path
from typing import Any

import datasets
import pyarrow
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from rlhf_envs.datasets import SPLITS, MissingSplitError, load_rows
from rlhf_envs.datasets.splits import log_once

Rows = list[dict[str, Any]]

# Few letters, so that prompts repeat; case, spaces, composed and decomposed letters, a line separator.
LETTERS = ["a", "B", "b", " ", "\u00e9", "e", "\u0301", "好", "\u2028", "\U0001f600"]
few = st.text(st.sampled_from(LETTERS), min_size=1, max_size=4)
any_text = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12)
prompts = st.one_of(few, any_text).filter(lambda text: bool(text.strip()))
NAMES = {"train": "train", " Train ": "train", "test": "test", "eval": "test", "Valid": "validation", "mine": "mine"}
plain = st.lists(st.fixed_dictionaries({"prompt": prompts, "label": st.integers(0, 1)}), min_size=1, max_size=60)
named = st.lists(
    st.fixed_dictionaries({"prompt": prompts, "split": st.sampled_from([*NAMES])}), min_size=1, max_size=30
)
FILES = ("jsonl", "jsonl.gz", "csv", "csv.gz", "json", "json.gz", "parquet")
kinds = st.sampled_from([*FILES, "rows", "Dataset", "DatasetDict"])


def as_data(rows: Rows, kind: str, folder: str) -> Any:
    """Write the rows as a file, or make an object of them."""
    path = Path(folder) / f"rows.{kind}"
    if kind == "rows":
        return rows
    if kind == "DatasetDict" and "split" in rows[0]:
        parts = {row["split"]: [other for other in rows if other["split"] == row["split"]] for row in rows}
        return datasets.DatasetDict({name: datasets.Dataset.from_list(part) for name, part in parts.items()})
    if kind in ("Dataset", "DatasetDict"):
        return datasets.Dataset.from_list(rows)
    if kind == "parquet":
        parquet.write_table(pyarrow.Table.from_pylist(rows), path)
        return path
    file = io.StringIO(newline="")
    if "csv" in kind:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    elif "jsonl" in kind:
        file.writelines(json.dumps(row) + "\n" for row in rows)
    else:
        json.dump(rows, file)
    text = file.getvalue().encode()
    path.write_bytes(gzip.compress(text) if ".gz" in kind else text)
    return path


def by_split(data: Any) -> dict[str, list[str]]:
    """The prompts of each split, sorted; none where there is no such split."""
    found: dict[str, list[str]] = {}
    for split in (*SPLITS, "mine"):
        try:
            found[split] = sorted(row["prompt"] for row in load_rows(data, split))
        except MissingSplitError:
            found[split] = []
    return found


def same(prompt: str) -> str:
    """What prompts share that count as equal."""
    return " ".join(unicodedata.normalize("NFKC", prompt).casefold().split())


def check_splits(rows: Rows, kind: str) -> dict[str, list[str]]:
    """Check that each row is in one split, equal prompts in the same, and that the log has the counts."""
    said: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: said.append(record.getMessage())  # type: ignore[method-assign]
    logger = logging.getLogger("rlhf_envs.datasets.splits")
    log_once.cache_clear()
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        with tempfile.TemporaryDirectory() as folder:
            splits = by_split(as_data(rows, kind, folder))
    finally:
        logger.removeHandler(handler)
        logger.setLevel(logging.NOTSET)
    place = {same(prompt): split for split, found in splits.items() for prompt in found}
    for split, found in splits.items():
        assert {place[same(prompt)] for prompt in found} <= {split}, "equal prompts are on one side"
    kept = Counter(prompt for found in splits.values() for prompt in found)
    if "split" in rows[0]:
        order = ["train", "test", "validation", "mine"]
        own = {same(row["prompt"]): len(order) for row in rows}
        for row in rows:
            own[same(row["prompt"])] = min(own[same(row["prompt"])], order.index(NAMES[row["split"]]))
        expected = [row["prompt"] for row in rows if own[same(row["prompt"])] == order.index(NAMES[row["split"]])]
        left_out = len(rows) - len(expected)
        assert any(f": {left_out} rows are left out" in line for line in said) is bool(left_out)
    else:
        expected = [row["prompt"] for row in rows]
        assert splits["train"], "there is always something to train on"
    assert kept == Counter(expected), "no row is lost, or in two splits"
    counts = ", ".join(f"{len(found)} {split}" for split, found in sorted(splits.items()) if found)
    assert any(line.endswith(f": {counts} rows") for line in said)
    return splits


def in_another_process(data: list[Rows]) -> list[dict[str, list[str]]]:
    """The splits of rows in a process whose hashes of strings are others."""
    code = (
        "import json, sys\nfrom typing import Any\n"
        "from rlhf_envs.datasets import SPLITS, MissingSplitError, load_rows\n"
        f"{inspect.getsource(by_split)}\n"
        "json.dump([by_split(rows) for rows in json.load(sys.stdin)], sys.stdout)"
    )
    env = os.environ | {"PYTHONHASHSEED": "5"}
    done = subprocess.run([sys.executable, "-c", code], input=json.dumps(data), capture_output=True, text=True, env=env)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)  # type: ignore[no-any-return]


@settings(max_examples=50, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(st.one_of(plain, named), kinds)
def test_no_prompt_is_in_two_splits(rows: Rows, kind: str) -> None:
    check_splits(rows, kind)


def test_splits_are_the_same_in_every_process() -> None:
    rows = [{"prompt": f"film number {i % 300} was 好"} for i in range(400)]
    assert in_another_process([rows]) == [by_split(rows)]


@pytest.mark.slow
def test_a_thousand_files_are_split_the_same_in_every_process() -> None:
    seen: list[Rows] = []
    splits: list[dict[str, list[str]]] = []

    @settings(max_examples=1000, deadline=None, suppress_health_check=[HealthCheck.too_slow])
    @given(st.one_of(plain, named), kinds)
    def check(rows: Rows, kind: str) -> None:
        splits.append(check_splits(rows, kind))
        seen.append(rows)

    check()
    assert len(seen) >= 1000
    assert in_another_process(seen) == splits
