"""Every bundled sample has its source and its rights in SOURCES.md, with the number of its rows."""

from __future__ import annotations

import gzip
import json
import re
from collections import Counter
from pathlib import Path

import pytest

import rlhf_envs.datasets

FOLDER = Path(rlhf_envs.datasets.__file__).parent
SECTIONS = re.split(r"^## ", (FOLDER / "SOURCES.md").read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]
SAMPLES = sorted(path.name for path in (FOLDER / "data").glob("*.jsonl.gz"))


@pytest.mark.parametrize("name", SAMPLES)
def test_a_sample_has_its_rows_source_and_rights_written_down(name: str) -> None:
    (section,) = (text for text in SECTIONS if f"`data/{name}`" in text.splitlines()[0])
    assert (
        "- **Source:**" in section
        and re.search(r"- \*\*(Licence|Rights):\*\*", section)
        and "- **How drawn:**" in section
    )
    with gzip.open(FOLDER / "data" / name, "rt", encoding="utf-8") as lines:
        splits = Counter(json.loads(line)["split"] for line in lines)
    numbers = set(re.findall(r"\d+(?:,\d{3})*", section))
    assert f"{splits.total():,}" in numbers or {f"{count:,}" for count in splits.values()} <= numbers


def test_every_notice_is_of_a_sample_and_is_named() -> None:
    for notice in (FOLDER / "data").glob("*.LICENSE"):
        assert f"{notice.stem}.jsonl.gz" in SAMPLES
        assert any(f"data/{notice.name}" in section for section in SECTIONS)
