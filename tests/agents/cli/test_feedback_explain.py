"""`rlhf feedback explain`: the words on which a reward's scores rest, stored for the page."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

pytest.importorskip("sqlalchemy", reason='the store needs pip install "rlhf-envs[web]"')

from agents.cli import app
from rlhf_envs.feedback import FeedbackStore, NewItem

REWARD = """
def score(prompts, completions):
    texts = [c if isinstance(c, str) else c[-1]["content"] for c in completions]
    return [float(t.count("good") - t.count("bad")) for t in texts]
"""


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("rew.py").write_text(REWARD)


def feedback(*arguments: str, code: int = 0) -> str:
    result = CliRunner().invoke(app, ["feedback", *arguments], env={"COLUMNS": "250"})
    assert result.exit_code == code, result.output
    return str(result.output)


def fill(n: int = 1) -> None:
    messages = {"messages": [{"role": "user", "content": "Hi"}]}
    with FeedbackStore("feedback.db", seed=0) as store:
        store.add_items(
            [NewItem("pairwise", f"p{k}", ("a good good film", "a bad film")) for k in range(n)]
            + [NewItem("rating", "r", ("so good",)), NewItem("correction", "c", ("plain",), meta=messages)]
        )


def test_the_words_that_count_are_stored_and_the_call_goes_on() -> None:
    fill()
    said = feedback("explain", "./rew.py:score", "--limit", "1")
    assert "1 items explained by rew.py:score; nobody sees them" in said
    said = feedback("explain", str(Path("rew.py:score").resolve()))  # the page shows no place on this machine
    assert "2 items explained" in said and "1 were there" in said
    assert "0 items explained" in feedback("explain", "./rew.py:score")
    with FeedbackStore("feedback.db") as store:
        pair, rating, correction = sorted(store.explanations(), key=lambda one: one.item_id)
        assert (pair.scores, pair.value, pair.method) == ((2.0, -1.0), {"choice": 0, "strength": 3}, "leave_one_out")
        marked = [
            {text[start:end].strip(): value for start, end, value in own}
            for text, own in zip(("a good good film", "a bad film"), pair.marks or (), strict=True)
        ]
        assert marked == [{"good": 1.0}, {"bad": -1.0}] and len((pair.marks or ((),))[0]) == 2
        assert rating.scores == (1.0,) and rating.value is not None
        assert correction.value is None and correction.marks == ((),)
        assert [entry.action for entry in store.audit()].count("explain") == 3


def test_a_share_is_withheld_by_lot_and_the_status_compares() -> None:
    fill(20)
    said = feedback("explain", "./rew.py:score", "--share", "0.5", "--source", "rew")
    with FeedbackStore("feedback.db", seed=0) as store:
        found = store.explanations()
        withheld = sum(one.marks is None for one in found)
        assert f"22 items explained by rew, {withheld} of them withheld by lot" in said and 4 < withheld < 18
        assert all(len(one.scores) == (2 if one.item_id <= 20 else 1) for one in found)
        store.update_settings(explanations="before")
        store.add_annotator("ann")
        while (task := store.claim("ann")) is not None:
            offered = store.offer_explanation(task.id)
            value = {"choice": int(not offered), "strength": 1} if task.item.kind == "pairwise" else None
            store.submit(task.id, "ann", value, key=f"k{task.id}")
    said = feedback("status")
    assert "rew, pairwise, offered, not opened: people say the same as its scores in 100%" in said
    assert "explanation withheld by lot: people say the same as its scores in 0%" in said
    assert "offered, less that where it was withheld by lot: +100 points (95% interval" in said


def test_what_is_wrong_is_named() -> None:
    assert "there is no such file" in feedback("explain", "./rew.py:score", code=2)
    with FeedbackStore("feedback.db"):
        pass
    assert "no items to explain" in feedback("explain", "./rew.py:score", code=2)
    fill()
    assert "integrated_gradients" not in feedback("explain", "./rew.py:score", "--method", "leave_one_out")
    with FeedbackStore("feedback.db") as store:
        store.add_items([NewItem("rating", "new", ("good",))])
    said = feedback("explain", "./rew.py:score", "--method", "integrated_gradients", code=2)
    assert "take --method 'leave_one_out'" in said
