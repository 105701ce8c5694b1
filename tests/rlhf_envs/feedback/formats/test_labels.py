"""What a label, a probability, a strength, a rating or a date means, however a file writes it."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from rlhf_envs.feedback import FeedbackStore
from rlhf_envs.feedback.formats.exporting import export_file
from rlhf_envs.feedback.formats.importing import import_file


def jsonl(tmp_path: Path, *rows: Any) -> Path:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    return path


def table(tmp_path: Path, *rows: dict[str, Any]) -> Path:
    path = tmp_path / "rows.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def values(store: FeedbackStore) -> list[Any]:
    return [judgement.value for judgement in store.judgements()]


def labelled(*labels: Any) -> list[dict[str, Any]]:
    return [{"prompt": "p", "completion": f"c{i}", "label": label} for i, label in enumerate(labels)]


UP, DOWN = {"up": True}, {"up": False}


@pytest.mark.parametrize("save", [jsonl, table])
def test_thumbs_are_read_in_every_spelling(store: FeedbackStore, tmp_path: Path, save: Any) -> None:
    good = [1, 1.0, "1", "1.0", True, "true", "TRUE", "True ", "yes", "Yes", "y", "up", "+1", "Good", "👍"]
    bad = [0, 0.0, "0", "0.0", False, "false", "FALSE", " False", "no", "No", "n", "down", "bad", "undesirable", "👎"]
    done = import_file(store, save(tmp_path, *labelled(*good, *bad)))
    assert (done.format, done.bad) == ("kto", ())
    assert values(store) == [UP] * len(good) + [DOWN] * len(bad)


def test_ones_and_zeros_come_out_as_the_labels_they_were(store: FeedbackStore, tmp_path: Path) -> None:
    assert import_file(store, jsonl(tmp_path, *labelled(1, 0)), format="kto").bad == ()
    rows = export_file(store, tmp_path / "out.jsonl", "kto").rows
    assert {row["completion"]: row["label"] for row in rows} == {"c0": True, "c1": False}


def test_a_file_of_numbers_is_ratings_where_any_is_no_thumb(store: FeedbackStore, tmp_path: Path) -> None:
    done = import_file(store, jsonl(tmp_path, *labelled(1, "5", 2.0)))
    assert (done.format, done.bad) == ("ratings", ())
    assert values(store) == [{"rating": 1}, {"rating": 5}, {"rating": 2}]


@pytest.mark.parametrize(("labels", "scale"), [([1, 1], (1, 5)), ([1, 0], (0, 4)), ([0], (-2, 2))])
def test_labels_that_may_be_thumbs_or_ratings_are_not_guessed(
    store: FeedbackStore, tmp_path: Path, labels: list[int], scale: tuple[int, int]
) -> None:
    store.update_settings(scale=scale)
    path = jsonl(tmp_path, *labelled(*labels))
    with pytest.raises(ValueError, match=r"rows\.jsonl:1: the labels are all .*--format kto\) or ratings from"):
        import_file(store, path)
    assert import_file(store, path, format="ratings").format == "ratings"
    assert values(store) == [{"rating": label} for label in labels]


@pytest.mark.parametrize(
    ("format", "label", "reason"),
    [
        ("kto", 4, "'label' must say true or false (or yes, no, up, down, 1, 0), got '4'"),
        ("kto", -1, "'label' must say true or false"),
        ("kto", None, "'label' is null"),
        ("ratings", True, "'label' must be a number, got 'True'"),
        ("ratings", "good", "'label' must be a number, got 'good'"),
        ("ratings", 9, "must be from 1 to 5, got 9"),
        ("ratings", 3.5, "the rating 3.5 is no whole number from 1 to 5: write ratings in whole steps (halves doubled, "
         "in a store with the scale 2 to 10)"),
    ],
)  # fmt: skip
def test_a_label_of_another_kind_is_refused(
    store: FeedbackStore, tmp_path: Path, format: str, label: Any, reason: str
) -> None:
    (bad,) = import_file(store, jsonl(tmp_path, *labelled(label)), format=format).bad
    assert reason in bad.reason


@pytest.mark.parametrize("save", [jsonl, table])
def test_a_probability_is_a_tie_a_vote_or_refused(store: FeedbackStore, tmp_path: Path, save: Any) -> None:
    given = [0.5, 0.75, 1, "", 0.1, -2, 1.5, "high"]
    rows = [{"prompt": f"p{i}", "chosen": "aa", "rejected": "bb", "probability": p} for i, p in enumerate(given)]
    done = import_file(store, save(tmp_path, *rows))
    choice = {"choice": 0, "strength": 1}
    assert values(store) == [{"choice": None, "strength": 0}, {**choice, "probability": 0.75}, choice, choice]
    assert [row.reason.partition(":")[2] for row in done.bad[:3]] == [
        " it contradicts 'chosen': swap chosen and rejected", " it is none", " it is none"
    ]  # fmt: skip
    assert "'probability' must be a number, got 'high'" in done.bad[3].reason


def test_a_strength_is_read_from_a_table(store: FeedbackStore, tmp_path: Path) -> None:
    given = ["3", "2.0", "", "2.5", "0"]
    rows = [{"prompt": f"p{i}", "chosen": "a", "rejected": "b", "strength": s} for i, s in enumerate(given)]
    done = import_file(store, table(tmp_path, *rows))
    assert [value["strength"] for value in values(store)] == [3, 2, 1]
    assert "'strength' must be a whole number, got '2.5'" in done.bad[0].reason
    assert "strength must be 1, 2 or 3 where a completion is chosen" in done.bad[1].reason


def test_nan_costs_a_row_only_where_it_is_needed(store: FeedbackStore, tmp_path: Path) -> None:
    nan = float("nan")
    row = {"prompt": "p", "chosen": "a", "rejected": "b", "score": nan, "more": [1.0, nan], "annotator": nan}
    done = import_file(store, jsonl(tmp_path, row, {**row, "prompt": "q", "chosen": nan}))
    (item,), (judgement,) = store.items(), store.judgements()
    assert item.meta == {"score": None, "more": [1.0, None]} and judgement.annotator == "import"
    assert [bad.reason for bad in done.bad] == ["'chosen' is null: fill it or remove the row"]


@pytest.mark.parametrize("zone", ["UTC", "Asia/Shanghai"])
def test_a_time_without_a_zone_is_utc_on_every_machine(
    store: FeedbackStore, tmp_path: Path, zone: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import time

    monkeypatch.setenv("TZ", zone)
    time.tzset()
    given = {"value": {"rating": 3}, "created": "2024-03-01 10:00:00"}
    row = {"prompt": "p", "completion": "c", "created": "2024-02-29", "judgements": [given]}
    import_file(store, jsonl(tmp_path, row))
    monkeypatch.undo()
    time.tzset()
    (item,), (judgement,) = store.items(), store.judgements()
    assert item.created.isoformat() == "2024-02-29T00:00:00+00:00"
    assert judgement.created.isoformat() == "2024-03-01T10:00:00+00:00"


def test_ties_of_a_soft_export_stand_in_both_orders_and_count_once(store: FeedbackStore, tmp_path: Path) -> None:
    rows = [
        {"prompt": "p", "chosen": "aa", "rejected": "bb", "probability": 0.5},
        {"prompt": "q", "chosen": "aa", "rejected": "bb"},
    ]
    import_file(store, jsonl(tmp_path, *rows))
    done = export_file(store, tmp_path / "out.jsonl", "preference", how="soft")
    found = [(row["prompt"], row["chosen"], row["probability"], row.get("weight", 1)) for row in done.rows]
    assert found == [("p", "aa", 0.5, 0.5), ("p", "bb", 0.5, 0.5), ("q", "aa", 1.0, 1)]
    assert (done.doubled, done.dropped) == (1, {})
    assert [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()] == done.rows


def test_minus_one_and_one_are_not_taken_for_ratings(store: FeedbackStore, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"the labels are -1, 1: write true and false, if they are thumbs"):
        import_file(store, jsonl(tmp_path, *labelled(1, -1)))
    with pytest.raises(ValueError, match=r"the labels are -1, 1: write true and false, if they are thumbs"):
        import_file(store, jsonl(tmp_path, *labelled("+1", "-1")))
    store.update_settings(scale=(-1, 1))
    assert import_file(store, jsonl(tmp_path, *labelled(1, -1))).format == "ratings"


@pytest.mark.parametrize("column", ["score", "rating", "stars"])
def test_a_rating_under_another_name_is_not_lost_in_silence(store: FeedbackStore, tmp_path: Path, column: str) -> None:
    path = jsonl(tmp_path, {"prompt": "p", "completion": "c", column: 4})
    with pytest.raises(ValueError, match=f"'{column}' looks like a rating or a choice: give --column label:{column}"):
        import_file(store, path)
    assert import_file(store, path, columns={"label": column}).format == "ratings"
    assert values(store) == [{"rating": 4}]


def test_labels_that_are_other_words_are_named_at_once(store: FeedbackStore, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="the labels are great, poor: write true and false, or ratings as numbers"):
        import_file(store, jsonl(tmp_path, *labelled("great", "poor")))


@pytest.mark.parametrize(
    "row",
    [
        {"completion": "c", "reward": 0.9},
        {"completion": "c", "thumbs": True},
        {"completions": ["c", "d"], "scores": [0.9, 0.1]},
        {"completions": ["c", "d"], "ranking": [1, 0]},
        {"response1": "c", "response2": "d", "preference": 1},
    ],
)
def test_answers_beside_questions_are_not_lost_in_silence(
    store: FeedbackStore, tmp_path: Path, row: dict[str, Any]
) -> None:
    path = jsonl(tmp_path, {"prompt": "p", **row})
    with pytest.raises(ValueError, match=f"'{list(row)[-1]}' looks like a rating or a choice: give .* or --format"):
        import_file(store, path)
    if "response1" not in row:
        assert import_file(store, path, format="items").items == 1


def test_completions_that_are_whole_texts_lose_their_prompts(store: FeedbackStore, tmp_path: Path) -> None:
    rows = [
        {"prompt": "a colour?", "completion": f"a colour? {name}", "label": name == "red"} for name in ("red", "dog")
    ]
    assert import_file(store, jsonl(tmp_path, *rows)).bad == ()
    assert [item.completions for item in store.items()] == [(" red",), (" dog",)]
