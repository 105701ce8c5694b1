"""What people said of a served model is learned from: `rlhf loop --from-serving`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("sqlalchemy", reason="the feedback store needs the extra web")
pytest.importorskip("crowdkit", reason="aggregation needs the extra agreement")

from agents.experiments.loop.config import LoopConfig
from agents.experiments.loop.loop import run_loop
from agents.experiments.loop.served import compared, read_served
from rlhf_envs.feedback import FeedbackStore, NewItem
from tests.agents.experiments.loop.runs import config


def say(
    store: FeedbackStore, kind: str, prompt: str, texts: tuple[str, ...], value: Any, who: str, **meta: Any
) -> None:
    """Put an item into the store and let somebody answer it."""
    store.add_annotator(who)
    store.add_items([NewItem(kind, prompt, texts, source="rlhf serve", policy="m@1", meta=meta)])
    task = store.claim(who)
    assert task is not None
    store.submit(task.id, who, value, key=f"{kind}:{prompt}:{texts}:{who}")
    store.withdraw([task.item.id])  # else a skip is asked again


@pytest.fixture
def url(tmp_path: Path) -> str:
    """Return a store with a correction, a comparison, and thumbs of two prompts."""
    path = tmp_path / "served.db"
    with FeedbackStore(path, seed=0) as store:
        say(store, "correction", "p1", ("dull",), {"text": "bright"}, "ann")
        say(store, "pairwise", "p2", ("x", "y"), {"choice": 1, "strength": 2}, "bob")
        say(store, "thumbs", "p3", ("good",), {"up": True}, "ann")
        say(store, "thumbs", "p3", ("bad",), {"up": False}, "bob")
        say(store, "thumbs", "p3", ("torn",), {"up": False}, "bob")
        say(store, "thumbs", "p3", ("torn",), {"up": True}, "ann")
        say(store, "thumbs", "p3", ("chat",), {"up": True}, "ann", messages=[{"role": "user", "content": "p3"}])
        say(store, "pairwise", "p4", ("x", "y"), None, "bob")  # skipped
        say(store, "correction", "p5", ("same",), {"text": "same"}, "bob")
        say(store, "pairwise", "of a loop", ("x", "y"), {"choice": 0}, "bob", loop="abc", round=1, pair=0)
    return str(path)


def test_corrections_comparisons_and_thumbs_become_pairs(url: str) -> None:
    items, judgements = read_served(url)
    found = {}
    for item, judgement in zip(items, judgements, strict=True):
        assert item.id == judgement.item_id and item.kind == judgement.kind == "pairwise" and judgement.value
        found[item.prompt] = (item.completions[judgement.value["choice"]], judgement.annotator)
        assert len(item.completions) == 2
    assert found == {"p1": ("bright", "ann"), "p2": ("y", "bob"), "p3": ("good", "ann")}
    assert [set(item.completions) for item in items if item.prompt == "p3"] == [{"good", "bad"}]
    assert compared([], []) == ([], [])


def test_a_round_learns_from_what_people_said_alone(url: str, tmp_path: Path) -> None:
    with FeedbackStore(url) as store:
        for i in range(6):
            say(store, "correction", f"q{i}", (f"3 {i}",), {"text": f"7 {i}"}, "cleo")
    said: list[str] = []
    done = run_loop(config(tmp_path, labels=0, rounds=1, from_serving=url), say=said.append)
    (_, metrics) = done.metrics
    assert metrics["asked"] == metrics["judgements"] == 0 and metrics["served"] == 9
    assert "round 1: 9 comparisons of 9 pairs are of the served model" in said
    assert metrics["fitted_to"] + metrics["held_out"] == 9 and metrics["tokens"] == 192
    assert "People labelled." in (done.folder / "report.md").read_text()
    kept = json.loads((done.folder / "round_1" / "ask" / "judgements.json").read_text())
    assert len(kept["items"]) == 9, "a resumed run fits to what was said then"
    assert json.loads((done.folder / "config.json").read_text())["from_serving"] == url


def test_what_people_said_counts_beside_the_rounds_own_pairs(url: str, tmp_path: Path) -> None:
    done = run_loop(config(tmp_path, rounds=1, from_serving=url), say=lambda _: None)
    (_, metrics) = done.metrics
    assert metrics["asked"] == 12 and metrics["judgements"] == 36 and metrics["served"] == 3
    assert 12 <= metrics["fitted_to"] + metrics["held_out"] <= 15 and metrics["labels_right"] is not None


@pytest.mark.parametrize("n", [0, 1])
def test_too_little_to_compare_is_said_before_anything_is_done(tmp_path: Path, n: int) -> None:
    path = tmp_path / "served.db"
    with FeedbackStore(path) as store:
        say(store, "thumbs", "p", ("good",), {"up": True}, "ann")  # nobody disliked another answer to it
        for i in range(n):
            say(store, "correction", f"q{i}", ("dull",), {"text": "bright"}, "ann")
    alone = config(tmp_path, labels=0, rounds=1, from_serving=str(path))
    with pytest.raises(ValueError, match=rf"served.db': people compared {n} pairs? in it, a reward model needs 2"):
        run_loop(alone, say=lambda _: None)
    assert [file.name for file in tmp_path.iterdir() if not file.name.startswith("served.db")] == []


@pytest.mark.parametrize(
    ("aspects", "message"),
    [
        ("pairwise,rude", r"users were not asked about aspect 'rude', and with labels=0 nobody else is"),
        ("pairwise,rating", r"aspect 'rating' has 0 answers, so no reward model can be fitted to them"),
    ],
)
def test_too_little_said_about_an_aspect_is_said_before_anything_is_done(
    url: str, tmp_path: Path, aspects: str, message: str
) -> None:
    (tmp_path / "study.toml").write_text('harms = ["rude"]\n')
    study = {"study": str(tmp_path / "study.toml"), "aspects": aspects, "annotators": 0, "aggregate": "dawid_skene"}
    with pytest.raises(ValueError, match=message):
        run_loop(config(tmp_path, labels=0, rounds=1, from_serving=url, **study), say=lambda _: None)
    assert not [file for file in tmp_path.iterdir() if file.is_dir()]


def test_what_cannot_be_read_is_said(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="at least 4 pairs, or none with from_serving"):
        LoopConfig(labels=0)
    with pytest.raises(ValueError, match="at least 4 pairs"):
        LoopConfig(labels=2, from_serving="x.db")
    with pytest.raises(ValueError, match="there is no such store"):
        run_loop(config(tmp_path, from_serving=str(tmp_path / "none.db")), say=lambda _: None)
    assert not (tmp_path / "none.db").exists()
