"""Every example line of the guide "Files of feedback" is imported, and becomes what the guide says."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from rlhf_envs.feedback import FeedbackStore, NewItem
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
OF_POTATO = NewItem("pairwise", "Name a colour.", ("Blue.", "Loud."))  # its annotations have an id alone


@pytest.mark.parametrize(("format", "line", "becomes"), FORMAT_LINES)
def test_a_documented_line_becomes_what_the_guide_says(
    store: FeedbackStore, tmp_path: Path, format: str, line: str, becomes: str
) -> None:
    store.add_items([OF_POTATO] if format == "potato" else [])
    (tmp_path / "rows.jsonl").write_text(line)
    done = import_file(store, tmp_path / "rows.jsonl")
    assert (done.bad, done.format, done.items) == ((), format, 0 if format == "potato" else 1)
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
    store.add_items([OF_POTATO])
    (tmp_path / "rows.jsonl").write_text("\n".join(line for _, line, _ in FORMAT_LINES))
    done = import_file(store, tmp_path / "rows.jsonl")
    again = ("duplicate", "contradiction")  # several lines judge the same texts
    assert [bad.reason for bad in done.bad if not bad.reason.startswith(again)] == []
    assert set(done.format.split(", ")) == set(FORMATS)


def test_no_format_and_no_kind_lacks_its_line() -> None:
    assert {format for format, _, _ in FORMAT_LINES} == set(FORMATS)
    assert {kind for kind, _, _ in GOLD_LINES} == set(KINDS) - {"questions"}, "which have no expected answer"


COMPARED = (GUIDE.parent / "compared.md").read_text(encoding="utf-8")
POINTS = re.findall(r"^\| (\d+) \| [^|]* \| ([^|]*) \| (.*) \| (\+|\(\+\)|=|−) \|$", COMPARED, re.M)


def test_the_forty_points_are_counted_as_they_stand() -> None:
    assert [int(number) for number, *_ in POINTS] == list(range(1, 41))
    n = {mark: sum(found == mark for *_, found in POINTS) for mark in ("+", "(+)", "=", "−")}
    text = " ".join(COMPARED.split())
    assert (
        f"Ahead in {n['+']}, ahead or not as far as we know in {n['(+)']}, equal in {n['=']}, behind in {n['−']}."
        in text
    )
    assert f"ahead or equal in {n['+'] + n['=']} points with evidence, and in {40 - n['−']} if every ?" in text


def test_nobody_is_ahead_of_a_question_mark() -> None:
    open_ = {number for number, _, others, _ in POINTS if re.search(r"(^|\| )\?", others)}
    assert [number for number, *_, mark in POINTS if mark == "+" and number in open_] == []
    assert [number for number, *_, mark in POINTS if mark == "(+)" and number not in open_] == []


def test_every_point_that_ours_has_names_a_test_that_exists() -> None:
    held = re.findall(r"^\| (\d+) \| `(.+)::(.+)` \|$", COMPARED, re.M)
    assert [number for number, *_ in held] == [number for number, ours, *_ in POINTS if ours != "no"]
    for _, file, name in held:
        assert f"def {name}(" in (GUIDE.parents[3] / file).read_text(encoding="utf-8"), f"{file} has no {name}"
