"""Every example line of the guide "Files of feedback" is imported, and becomes what the guide says."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from rlhf_envs.feedback import FeedbackStore
from rlhf_envs.feedback.formats.exporting import item_rows
from rlhf_envs.feedback.formats.importing import FORMATS, import_file
from rlhf_envs.feedback.kinds import KINDS

GUIDE = Path(__file__).parents[4] / "docs" / "guides" / "feedback" / "files.md"
LINE = re.compile(r"^\| `([\w-]+)` \| `(\{.*\})` \| (.*) \|$", re.M)


def documented(heading: str) -> list[tuple[str, str, str]]:
    section = re.split(r"^## ", GUIDE.read_text(encoding="utf-8"), flags=re.M)
    (text,) = [part for part in section if part.startswith(heading)]
    return LINE.findall(text)


FORMAT_LINES = documented("A line of each format")
GOLD_LINES = documented("Gold questions")


@pytest.mark.parametrize(("format", "line", "becomes"), FORMAT_LINES)
def test_a_documented_line_becomes_what_the_guide_says(
    store: FeedbackStore, tmp_path: Path, format: str, line: str, becomes: str
) -> None:
    (tmp_path / "rows.jsonl").write_text(line)
    done = import_file(store, tmp_path / "rows.jsonl")
    assert (done.bad, done.format, done.items) == ((), format, 1)
    (row,) = item_rows(store.items(), store.judgements()).rows
    kind, _, answer = becomes.partition(", ")
    assert kind == f"`{row['kind']}`"
    if answer == "a question":
        assert row["judgements"] == []
    else:
        (judgement,) = row["judgements"]
        value = judgement["value"]
        if row["kind"] == "pairwise" and value["choice"] is not None:  # pairs are stored in the order of their texts
            assert row["completions"][value["choice"]] == "Blue."
            value = {**value, "choice": 0}
        assert f"`{json.dumps(value)}`" == answer


@pytest.mark.parametrize(("kind", "line", "expected"), GOLD_LINES)
def test_a_documented_gold_question_has_its_answer(
    store: FeedbackStore, tmp_path: Path, kind: str, line: str, expected: str
) -> None:
    (tmp_path / "rows.jsonl").write_text(line)
    assert import_file(store, tmp_path / "rows.jsonl", gold=True).bad == ()
    (item,) = store.items()
    assert (item.kind, f"`{json.dumps(item.gold)}`") == (kind, expected)


def test_all_documented_lines_stand_in_one_file(store: FeedbackStore, tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text("\n".join(line for _, line, _ in FORMAT_LINES))
    done = import_file(store, tmp_path / "rows.jsonl")
    again = ("duplicate", "contradiction")  # several lines judge the same texts
    assert [bad.reason for bad in done.bad if not bad.reason.startswith(again)] == []
    assert set(done.format.split(", ")) == set(FORMATS)


def test_no_format_and_no_kind_lacks_its_line() -> None:
    assert {format for format, _, _ in FORMAT_LINES} == set(FORMATS)
    assert {kind for kind, _, _ in GOLD_LINES} == set(KINDS) - {"questions"}, "which have no expected answer"


def test_the_forty_points_are_counted_as_they_stand() -> None:
    text = (GUIDE.parent / "compared.md").read_text(encoding="utf-8")
    verdicts = re.findall(r"^\| (\d+) \| .* \| ([+=−]) \|$", text, re.M)
    assert [int(number) for number, _ in verdicts] == list(range(1, 41))
    n = {mark: sum(found == mark for _, found in verdicts) for mark in "+=−"}
    assert f"Ahead in {n['+']}, equal in {n['=']}, behind in {n['−']}:" in text
