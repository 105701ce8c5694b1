"""The margin and the probability of a pair: kept by the store, by every format, and learned by a reward model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from rlhf_envs.feedback import FeedbackStore, NewItem
from rlhf_envs.feedback.formats.exporting import export_file, preference_rows
from rlhf_envs.feedback.formats.importing import import_file
from rlhf_envs.models import load_tokenizer
from rlhf_envs.preferences.bradley_terry import encode_pairs
from rlhf_envs.preferences.crowd import aggregate_pairs

ROWS: list[dict[str, Any]] = [
    {"prompt": "p0", "chosen": "good", "rejected": "bad", "margin": 1.5, "probability": 0.9},
    {"prompt": "p1", "chosen": "bad", "rejected": "good", "margin": 0.25, "probability": 1.0},
    {"prompt": "p2", "chosen": "good", "rejected": "bad", "margin": 0.0, "probability": 0.75},
]
VALUES = [
    {"choice": 1, "strength": 1, "margin": 1.5, "probability": 0.9},
    {"choice": 0, "strength": 1, "margin": 0.25},
    {"choice": 1, "strength": 1, "probability": 0.75},
]


def imported(store: FeedbackStore, path: Path, *rows: Any) -> tuple[str, ...]:
    """Import rows. Return why some were not taken."""
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    return tuple(bad.reason for bad in import_file(store, path).bad)


def values(store: FeedbackStore) -> list[Any]:
    return [judgement.value for judgement in store.judgements()]


def test_trls_rows_come_back_as_they_were(store: FeedbackStore, tmp_path: Path) -> None:
    assert imported(store, tmp_path / "in.jsonl", *ROWS) == ()
    assert values(store) == VALUES
    assert export_file(store, tmp_path / "out.jsonl", "preference", how="soft").rows == ROWS
    each = export_file(store, tmp_path / "each.jsonl", "preference").rows
    assert [row.get("probability") for row in each] == [0.9, None, 0.75]
    assert [row["margin"] for row in each] == [1.5, 0.25, 0.0]


@pytest.mark.parametrize(
    "name", ["preference.jsonl", "items.jsonl", "argilla.csv", "label-studio.csv"], ids=lambda name: Path(name).stem
)
def test_an_export_takes_them_to_another_store(
    stores: tuple[FeedbackStore, FeedbackStore], tmp_path: Path, name: str
) -> None:
    one, two = stores
    assert imported(one, tmp_path / "in.jsonl", *ROWS) == ()
    export_file(one, tmp_path / name, Path(name).stem)
    assert import_file(two, tmp_path / name).bad == ()
    assert values(two) == VALUES


def test_a_reward_model_is_fitted_to_them(store: FeedbackStore, tmp_path: Path) -> None:
    imported(store, tmp_path / "in.jsonl", *ROWS)
    encoded = encode_pairs(load_tokenizer("tiny"), export_file(store, tmp_path / "o.jsonl", "preference").rows, None)
    assert encoded.margin.tolist() == pytest.approx([1.5, 0.25, 0.0])
    assert encoded.probability.tolist() == pytest.approx([0.9, 1.0, 0.75])


def test_several_people_have_the_mean_of_their_probabilities_and_the_winners_margins(
    store: FeedbackStore, tmp_path: Path
) -> None:
    mine = [{**ROWS[0], "annotator": "ann"}, {**ROWS[0], "annotator": "bob", "probability": 0.6, "margin": 0.5}]
    other = {"prompt": "p0", "chosen": "bad", "rejected": "good", "annotator": "eve", "margin": 9}
    assert imported(store, tmp_path / "in.jsonl", *mine, other) == ()
    (row,) = preference_rows(store.items(), store.judgements(), how="soft").rows
    assert (row["chosen"], row["margin"]) == ("bad", 9)
    assert row["probability"] == pytest.approx((0.1 + 0.4 + 1) / 3)


def test_an_own_margin_goes_before_one_made_of_strength(store: FeedbackStore, tmp_path: Path) -> None:
    imported(store, tmp_path / "in.jsonl", ROWS[0], {"prompt": "q", "chosen": "a", "rejected": "b", "strength": 3})
    rows = preference_rows(store.items(), store.judgements(), strength_margin=0.5).rows
    assert [row["margin"] for row in rows] == [1.5, 1.0]


def test_a_crowd_counts_an_unsure_vote_whole_and_says_so(
    store: FeedbackStore, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pytest.importorskip("crowdkit")
    imported(store, tmp_path / "in.jsonl", *ROWS)
    rows = aggregate_pairs(store.items(), store.judgements(), method="majority")
    assert [row["probability"] for row in rows] == [1.0, 1.0, 1.0]
    assert "2 votes have a probability; each counts as a whole vote under 'majority'" in caplog.text
    assert "2 votes have a margin, which the rows here leave out" in caplog.text


def test_what_is_no_margin_is_refused_by_name(store: FeedbackStore, tmp_path: Path) -> None:
    given = [-1, "wide", 1e9, True]
    rows = [{"prompt": f"p{i}", "chosen": "a", "rejected": "b", "margin": margin} for i, margin in enumerate(given)]
    reasons = imported(store, tmp_path / "in.jsonl", *rows)
    assert reasons[0] == "'margin' is -1 where 0 or more is expected: swap chosen and rejected"
    assert reasons[1] == "'margin' must be a number, got 'wide'"
    assert "margin: Input should be less than or equal to 1000000" in reasons[2]
    assert reasons[3] == "'margin' must be a number, got 'True'"
    assert store.judgements() == []


def test_the_margin_of_a_tie_stays_with_the_item(store: FeedbackStore, tmp_path: Path) -> None:
    assert imported(store, tmp_path / "in.jsonl", {**ROWS[0], "probability": 0.5}) == ()
    assert values(store) == [{"choice": None, "strength": 0}]
    assert store.items()[0].meta == {"margin": 1.5, "probability": 0.5}


def test_an_annotators_program_may_say_them_too(store: FeedbackStore) -> None:
    store.add_items([NewItem("pairwise", "p", ("a", "b"))])
    store.add_annotator("ann")
    task = store.claim("ann")
    assert task is not None
    with pytest.raises(ValueError, match="a tie has neither margin nor probability"):
        store.submit(task.id, "ann", {"choice": None, "margin": 2}, key="key")
    given = {"choice": 0, "probability": 0.8, "margin": 2}
    assert store.submit(task.id, "ann", given, key="key").value == {"strength": 1, **given}
