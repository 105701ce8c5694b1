"""The document task: its score by hand, its splits, its metrics and its errors."""

from __future__ import annotations

import csv
import json
import random
from pathlib import Path
from typing import Any

import gymnasium as gym
import pytest

from rlhf_envs.tasks.document import Document
from rlhf_envs.tasks.document.scoring import DocumentReward, edit_similarity, keeps_form, read_document
from rlhf_envs.tasks.document.templates import BODIES, OPENINGS, draw, fill, generate_documents
from rlhf_envs.testing import check_task

TEMPLATE = "dear [name], your [item] costs [price] dollars."
FACTS = {"price": "30", "name": "john", "day": "monday", "item": "lamp"}
RIGHT = "dear john, your lamp costs 30 dollars."


@pytest.mark.parametrize(
    ("text", "slots", "form"),
    [
        (RIGHT, 1, 1),
        ("  Dear JOHN , your lamp costs 30 dollars .", 1, 1),
        ("dear mary, your lamp costs 30 dollars.", 2 / 3, 2 * 6 / (6 + 7)),
        (TEMPLATE, 0, 2 * 6 / (6 + 15)),
        ("", 0, 0),
        ("john lamp 30", 0, 0),
        ("dear lamp, your john costs 30 dollars.", 1 / 3, None),
        ("dear john, your lamp lamp costs 30 dollars.", 2 / 3, 2 * 6 / (6 + 7)),
        ("dear john, your lamp costs 30 dollars. dear john,", 1, 2 * 6 / (6 + 9)),
    ],
)
def test_slots_and_form_by_hand(text: str, slots: float, form: float | None) -> None:
    found = read_document(text, TEMPLATE, FACTS)
    assert found.slots == pytest.approx(slots)
    assert form is None or found.form == pytest.approx(form)
    assert DocumentReward()([text], [TEMPLATE], [FACTS]) == [pytest.approx(found.slots * found.form)]


def test_the_form_is_kept_with_wrong_facts_and_not_with_other_words() -> None:
    assert keeps_form(RIGHT, TEMPLATE)
    assert keeps_form("dear mary, your red lamp costs 99 dollars.", TEMPLATE)
    assert not keeps_form(TEMPLATE, TEMPLATE)
    assert not keeps_form("dear john, the lamp costs 30 dollars.", TEMPLATE)
    assert not keeps_form(f"{RIGHT} thank you.", TEMPLATE)
    assert all(keeps_form(fill(row["template"], row["facts"]), row["template"]) for row in generate_documents("test"))


def levenshtein(one: str, other: str) -> int:
    """The textbook recursion."""
    table = {(i, 0): i for i in range(len(one) + 1)} | {(0, j): j for j in range(len(other) + 1)}
    for i in range(1, len(one) + 1):
        for j in range(1, len(other) + 1):
            costs = table[i - 1, j] + 1, table[i, j - 1] + 1, table[i - 1, j - 1] + (one[i - 1] != other[j - 1])
            table[i, j] = min(costs)
    return table[len(one), len(other)]


def test_the_edit_similarity_is_by_levenshteins_distance() -> None:
    rng = random.Random(0)
    for _ in range(50):
        one, other = ("".join(rng.choices("abc", k=rng.randint(1, 9))) for _ in range(2))
        right = 1 - levenshtein(one, other) / max(len(one), len(other))
        assert edit_similarity(one, other) == pytest.approx(right)
    assert edit_similarity("", "ab") == 0.0
    assert edit_similarity(" A  b", "a b") == 1.0


def test_no_sentence_stands_in_two_splits_and_all_are_whole() -> None:
    rng = random.Random(0)
    for parts in (OPENINGS, BODIES):
        drawn = {
            split: {draw(sentence, rng) for sentence in sentences for _ in range(200)}
            for split, sentences in parts.items()
        }
        for one, other in (("train", "test"), ("train", "validation"), ("validation", "test")):
            assert drawn[one].isdisjoint(drawn[other])
    assert draw("(a|b) [x] (c|) (|d ).", random.Random(0)) in {
        f"{one} [x]{two}{three}." for one in "ab" for two in (" c", "") for three in (" d", "")
    }
    task = Document()
    for split, size in (("train", 2000), ("validation", 200), ("test", 400)):
        rows = task.rows(split, None)
        assert len({row["prompt"] for row in rows}) == size
        assert rows == task.rows(split, None)
        scores = DocumentReward()(*([row[key] for row in rows] for key in ("reference", "template", "facts")))
        assert scores == [1.0] * size
    with pytest.raises(ValueError, match="no split 'half'"):
        task.rows("half", None)


def test_answers_that_know_nothing_do_not_win() -> None:
    report = check_task("rlhf/Document-v0", n=200)
    assert report.references == 1.0
    assert report.scores["near miss"] < 0.85
    rows = Document().rows("validation", None)
    columns = [row["template"] for row in rows], [row["facts"] for row in rows]
    for copied in ([row["template"] for row in rows], [row["prompt"] for row in rows]):
        assert max(DocumentReward()(copied, *columns)) < 0.35
    facts_alone = [", ".join(row["facts"].values()) for row in rows]
    assert max(DocumentReward()(facts_alone, *columns)) < 0.35


def test_the_metrics_of_an_episode() -> None:
    env: Any = gym.make("rlhf/Document-v0", data=[{"prompt": TEMPLATE, "facts": FACTS}] * 10).unwrapped
    env.reset(seed=0)
    for token in [*env.tokenizer.encode(f" {RIGHT}"), env.tokenizer.eos_token_id]:
        _, reward, terminated, _, info = env.step(token)
    assert terminated
    assert reward == 1.0
    assert info["metrics"] == {"exact_slots": 1.0, "form_kept": 1.0, "edit_similarity": 1.0}
    assert env.rows[0]["prompt"].endswith("item = lamp\nText:")


def test_a_table_can_hold_facts_as_json(tmp_path: Path) -> None:
    file = tmp_path / "letters.csv"
    with file.open("w", newline="", encoding="utf-8") as out:
        writer = csv.writer(out)
        writer.writerows([["prompt", "facts"], *([f"{i}: {TEMPLATE}", json.dumps(FACTS)] for i in range(40))])
    env: Any = gym.make("rlhf/Document-v0", data=str(file)).unwrapped
    assert env.rows[0]["facts"] == FACTS


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"prompt": TEMPLATE}, "row 0 has no column 'facts': it has 'prompt'; rename one"),
        ({"prompt": TEMPLATE, "facts": "name: john"}, "row 0: facts is 'name: john', which is no JSON"),
        ({"prompt": TEMPLATE, "facts": ["john"]}, r"row 0: facts is \['john'\]; it must be an object"),
        ({"prompt": "dear john", "facts": FACTS}, "row 0: the template 'dear john' has no slot"),
        ({"prompt": TEMPLATE, "facts": {"name": "john"}}, r"row 0: the slot \[item\] has no fact; there are name"),
        ({"prompt": TEMPLATE, "facts": {**FACTS, "item": " "}}, r"row 0: the slot \[item\] has no fact"),
    ],
)
def test_a_wrong_row_is_named(row: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        gym.make("rlhf/Document-v0", data=[row] * 10)
