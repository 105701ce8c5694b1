from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from rlhf_envs.feedback import Item, Judgement
from rlhf_envs.feedback.formats.exporting import kto_rows, preference_rows, rating_rows, sft_rows

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def item(i: int, kind: str = "pairwise", *completions: str, **fields: Any) -> Item:
    texts = completions or (("good", "bad") if kind == "pairwise" else ("text",))
    new = {"source": "", "policy": "", "meta": {}, "overlap": 1, "gold": None, "priority": 0.0, **fields}
    return Item(
        i,
        kind,
        fields.pop("prompt", f"prompt {i}"),
        texts,
        created=NOW,
        **{k: v for k, v in new.items() if k != "prompt"},
    )


def judged(of: Item, *values: Any) -> list[Judgement]:
    """Judgements of annotators a, b, c, ..."""
    return [
        Judgement(100 * of.id + i, of.id, "abcdefgh"[i], of.kind, value, 1.0, "", (), f"{of.id}-{i}", NOW)
        for i, value in enumerate(values)
    ]


def choice(index: int | None, strength: int = 1) -> dict[str, Any]:
    return {"choice": index, "strength": 0 if index is None else strength}


# Preferences


def test_each_judgement_is_a_row_and_what_is_left_out_is_counted() -> None:
    items = [
        item(1),
        item(2),
        item(3),
        item(4, gold=choice(0)),
        item(5),
        item(6, "rating"),
        item(7, "pairwise", "x", "x"),
    ]
    judgements = (
        judged(items[0], choice(0), choice(1, 3))
        + judged(items[1], choice(None), None)
        + judged(items[3], choice(0))
        + judged(items[5], {"rating": 3})
        + judged(items[6], choice(0))
    )  # fmt: skip
    export = preference_rows(items, judgements)
    assert export.rows == [
        {"prompt": "prompt 1", "chosen": "good", "rejected": "bad", "annotator": "a"},
        {"prompt": "prompt 1", "chosen": "bad", "rejected": "good", "annotator": "b"},
    ]
    assert export.dropped == {
        "tie": 1,
        "skip": 1,
        "gold question": 1,
        "not judged yet (item)": 2,
        "rating: nothing compared": 1,
        "chosen equals rejected (pair)": 1,
    }


def test_a_majority_decides_and_contradictions_are_counted() -> None:
    items = [item(1), item(2), item(3), item(4)]
    judgements = (
        judged(items[0], choice(0), choice(1), choice(1))
        + judged(items[1], choice(0), choice(1))
        + judged(items[2], choice(None), choice(None))
        + judged(items[3], choice(None), choice(1))
    )
    export = preference_rows(items, judgements, how="majority")
    assert [(row["prompt"], row["chosen"]) for row in export.rows] == [("prompt 1", "bad"), ("prompt 4", "bad")]
    assert export.dropped == {"contradictory: no majority": 2, "tie": 2}


def test_soft_labels_are_the_share_of_votes() -> None:
    items = [item(1), item(2), item(3)]
    judgements = (
        judged(items[0], choice(0), choice(1), choice(1))
        + judged(items[1], choice(0), choice(1))
        + judged(items[2], choice(0), choice(None))
    )
    export = preference_rows(items, judgements, how="soft")
    assert [row["probability"] for row in export.rows] == [pytest.approx(2 / 3), 0.5, 0.75]
    assert export.rows[0]["chosen"] == "bad" and export.rows[2]["chosen"] == "good" and export.dropped == {}


def test_too_few_judgements_are_counted() -> None:
    items = [item(1), item(2)]
    judgements = judged(items[0], choice(0), choice(0)) + judged(items[1], choice(0))
    export = preference_rows(items, judgements, how="majority", min_judgements=2)
    assert len(export.rows) == 1 and export.dropped == {"fewer than 2 judgements": 1}


def test_strength_becomes_a_margin_of_those_who_agree() -> None:
    items = [item(1)]
    judgements = judged(items[0], choice(0, 3), choice(0, 2), choice(1, 1))
    rows = preference_rows(items, judgements, how="majority", strength_margin=0.5).rows
    assert rows == [{"prompt": "prompt 1", "chosen": "good", "rejected": "bad", "margin": 0.75}]
    assert "margin" not in preference_rows(items, judgements).rows[0]


def test_a_ranking_gives_all_its_pairs_and_a_correction_one() -> None:
    items = [item(1, "ranking", "x", "y", "z"), item(2, "correction", "It is an film."), item(3, "correction", "fine")]
    judgements = (
        judged(items[0], {"order": [2, 0, 1]})
        + judged(items[1], {"text": "A film."})
        + judged(items[2], {"text": "fine"})
    )
    export = preference_rows(items, judgements)
    pairs = [(row["chosen"], row["rejected"]) for row in export.rows]
    assert pairs == [("z", "x"), ("z", "y"), ("x", "y"), ("A film.", "It is an film.")]
    assert export.dropped == {"chosen equals rejected (pair)": 1}


def test_rankings_of_several_annotators_are_taken_together_pair_by_pair() -> None:
    items = [item(1, "ranking", "x", "y", "z")]
    judgements = judged(items[0], {"order": [0, 1, 2]}, {"order": [0, 2, 1]}, {"order": [0, 2, 1]})
    rows = preference_rows(items, judgements, how="soft").rows
    assert {(row["chosen"], row["rejected"]): row["probability"] for row in rows} == {
        ("x", "y"): 1.0, ("x", "z"): 1.0, ("z", "y"): pytest.approx(2 / 3)
    }  # fmt: skip


@pytest.mark.parametrize("how", ["each", "majority", "soft"])
def test_preference_and_rating_rows_keep_their_items_id_when_asked(how: str) -> None:
    items = [item(7), item(8, "rating"), item(9)]
    judgements = judged(items[0], choice(1)) + judged(items[1], {"rating": 3}) + judged(items[2], choice(0))
    export = preference_rows(items, judgements, how=how, item_ids=True)
    assert [(row["item_id"], row["chosen"]) for row in export.rows] == [(7, "bad"), (9, "good")]
    assert [row["item_id"] for row in rating_rows(items, judgements, how=how, item_ids=True).rows] == [8]
    assert "item_id" not in preference_rows(items, judgements, how=how).rows[0]


def test_an_unknown_way_is_refused() -> None:
    with pytest.raises(ValueError, match="how='vote': choose each, majority, soft"):
        preference_rows([], [], how="vote")


# The other rows


def test_kto_rows_say_what_is_good_and_bad() -> None:
    items = [
        item(1, "thumbs"), item(2, "rating"), item(3), item(4, "ranking", "x", "y", "z"), item(5, "flags"),
        item(6, "correction", "worse"),
    ]  # fmt: skip
    judgements = (
        judged(items[0], {"up": True}, {"up": False})
        + judged(items[1], {"rating": 5}, {"rating": 3}, {"rating": 2})
        + judged(items[2], choice(1), choice(None))
        + judged(items[3], {"order": [1, 0, 2]})
        + judged(items[4], {"harms": ["hate"]}, {"harms": []})
        + judged(items[5], {"text": "better"})
    )
    export = kto_rows(items, judgements)
    assert [(row["completion"], row["label"]) for row in export.rows] == [
        ("text", True), ("text", False), ("text", True), ("text", False), ("bad", True), ("good", False),
        ("y", True), ("z", False), ("text", False), ("better", True), ("worse", False),
    ]  # fmt: skip
    assert export.dropped == {
        "rating in the middle of the scale": 1,
        "tie": 1,
        "flags: no harm does not make it good": 1,
    }


def test_rating_rows_are_each_or_the_mean() -> None:
    items = [item(1, "rating"), item(2)]
    judgements = judged(items[0], {"rating": 5}, {"rating": 2}, None) + judged(items[1], choice(0))
    each = rating_rows(items, judgements)
    assert [(row["label"], row["annotator"]) for row in each.rows] == [(5.0, "a"), (2.0, "b")]
    assert each.dropped == {"skip": 1, "pairwise: no rating": 1}
    mean = rating_rows(items, judgements, how="majority")
    assert mean.rows == [{"prompt": "prompt 1", "completion": "text", "label": 3.5}]


def test_sft_rows_are_corrections_and_thumbs_up() -> None:
    items = [item(1, "correction", "worse"), item(2, "thumbs"), item(3)]
    judgements = judged(items[0], {"text": "better"}) + judged(items[1], {"up": True}, {"up": False})
    export = sft_rows(items, judgements + judged(items[2], choice(0)))
    assert [row["completion"] for row in export.rows] == ["better", "text"]
    assert export.dropped == {"thumbs down": 1, "pairwise: no text to imitate": 1}


def test_messages_are_those_that_came_in() -> None:
    messages = [{"role": "system", "content": "s"}, {"role": "user", "content": "u"}]
    items = [item(1), item(2, meta={"messages": messages})]
    rows = preference_rows(items, [j for i in items for j in judged(i, choice(0))], conversational=True).rows
    assert rows[0]["prompt"] == [{"role": "user", "content": "prompt 1"}]
    assert rows[1]["prompt"] == messages
    assert rows[0]["chosen"] == [{"role": "assistant", "content": "good"}]


def test_an_aggregation_takes_the_place_of_the_share_of_votes() -> None:
    items = [item(1), item(2), item(3)]
    judgements = [j for i in items for j in judged(i, choice(0), choice(1), choice(1))]
    shares = {(1, "good", "bad"): 0.9, (2, "bad", "good"): 0.75}
    rows = preference_rows(items, judgements, how="soft", shares=shares).rows
    assert [(row["chosen"], row["probability"]) for row in rows] == [
        ("good", 0.9), ("bad", 0.75), ("bad", pytest.approx(2 / 3))
    ]  # fmt: skip
