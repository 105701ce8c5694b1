from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from sklearn.metrics import f1_score

from agents.saving.untrusted import read_env_kwargs
from rlhf_envs.datasets import load_rows
from rlhf_envs.registration import task_of
from rlhf_envs.tasks.classify import Classify, ClassifyNews, VoteReward, read_votes, sort_labels
from rlhf_envs.testing import check_task, check_text_env

MOODS = ("negative", "neutral", "positive")
TABLE = "text,mood\n" + "".join(f"text number {i},{('good', 'bad', 'so so')[i % 3]}\n" for i in range(30))
RENAMED = {"prompt": "text", "label": "mood"}


def make(path: Path, **kwargs: Any) -> Any:
    return gym.make("rlhf/Classify-v0", data=str(path), **kwargs).unwrapped


@pytest.fixture
def table(tmp_path: Path) -> Path:
    path = tmp_path / "moods.csv"
    path.write_text(TABLE, encoding="utf-8")
    return path


def test_a_csv_of_ones_own_needs_its_columns_named_and_nothing_else(table: Path) -> None:
    env = make(table, columns=RENAMED)
    assert env.task.labels == ["bad", "good", "so so"]
    assert env.rows[0]["prompt"].startswith("text number ")
    assert env.rows[0]["prompt"].endswith("\nLabel:")
    labels = [row["label"] for row in env.rows]
    assert env.reward_fn(completions=[f" {label}" for label in labels], label=labels) == [1.0] * len(labels)
    assert env.reward_fn(completions=["fine"] * len(labels), label=labels) == [-1.0] * len(labels)


def test_labels_and_template_are_stated(table: Path) -> None:
    stated = ["so so", "good", "bad"]
    env = make(table, columns=RENAMED, labels=stated, template="Review: {text}\nIt is")
    assert env.task.labels == stated
    assert env.rows[0]["prompt"].startswith("Review: text number ")
    check_text_env(env)


def test_masks_leave_the_labels_of_the_data(table: Path) -> None:
    env = make(table, columns=RENAMED)
    env.reset(seed=0)
    text = ""
    while True:
        allowed = np.flatnonzero(env.action_masks())
        _, _, ended, _, info = env.step(allowed[0])
        text += env.tokenizer.decode([allowed[0]], skip_special_tokens=True)
        if ended:
            break
    assert text.strip() in env.task.labels
    assert info["finish_reason"] == "eos"


def test_labels_that_are_numbers_are_sorted_by_size() -> None:
    assert sort_labels({"10", "9", "-1"}) == ["-1", "9", "10"]
    assert sort_labels({"10", "9", "good"}) == ["10", "9", "good"]
    rows = [{"prompt": f"a {i}", "label": i % 3} for i in range(6)]
    task = Classify()
    assert task.rows("train", rows)[4]["label"] == "1"
    assert task.labels == ["0", "1", "2"]


@pytest.mark.parametrize(
    ("value", "votes"),
    [
        (["good", "bad", "good"], {"good": 2, "bad": 1}),
        ({"good": 2, "bad": 1, "so so": None}, {"good": 2, "bad": 1}),
        ("good; bad;good", {"good": 2, "bad": 1}),
        ('["good", "bad", "good"]', {"good": 2, "bad": 1}),
        ('{"good": 2, "bad": 1}', {"good": 2, "bad": 1}),
    ],
)
def test_votes_are_read_from_lists_counts_and_cells(value: Any, votes: dict[str, float]) -> None:
    assert read_votes(value) == votes


@pytest.mark.parametrize("value", [{"good": -1}, {}, [], ";", 3, {"good": 0}, "{not json"])
def test_what_is_no_vote_is_named_with_its_row(value: Any) -> None:
    rows = [{"prompt": "a", "votes": ["good", "bad"]}, {"prompt": "b", "votes": value, "label": "good"}]
    with pytest.raises(ValueError, match=r"'classify': row 1: "):
        Classify().rows("train", rows)


def test_the_reward_is_the_mean_score_of_the_raters() -> None:
    votes, rng = {"good": 7.0, "bad": 2.0, "so so": 1.0}, np.random.default_rng(0)
    raters = rng.choice([*votes], 100_000, p=np.array([*votes.values()]) / 10)
    for answer in votes:
        expected = np.where(raters == answer, 1.0, -1.0).mean()
        found = VoteReward([*votes])(completions=[f" {answer}"], label=["good"], votes=[votes])
        assert found == [pytest.approx(expected, abs=0.01)]
    assert VoteReward([*votes])(completions=["none"], label=["good"], votes=[votes]) == [-1.0]


def test_without_a_label_it_is_what_most_raters_said_and_of_equals_the_first() -> None:
    rows = [{"prompt": "a", "votes": "yes;no;yes"}, {"prompt": "b", "votes": "yes;no"}, {"prompt": "c", "label": "yes"}]
    assert [row["label"] for row in Classify().rows("train", rows)] == ["yes", "no", "yes"]
    stated = Classify(labels=["yes", "no"])
    assert [row["label"] for row in stated.rows("test", rows)] == ["yes", "yes", "yes"]


def test_macro_f1_is_set_against_the_commonest_label() -> None:
    task = Classify(labels=MOODS)
    true = ["positive"] * 6 + ["negative"] * 3 + ["neutral"]
    given = ["positive"] * 5 + ["negative"] * 4 + ["positive"]
    found = task.corpus_metrics(["p"] * 10, given, {"label": true, "log_probs": [0.0] * 10})
    f1 = f1_score(true, given, average="macro", labels=MOODS, zero_division=0)
    always = f1_score(true, ["positive"] * 10, average="macro", labels=MOODS, zero_division=0)
    assert found["macro_f1"] == pytest.approx(f1)
    assert found["macro_f1_gain"] == pytest.approx(f1 - always)
    measured = task.metrics(["p"], [" neutral"], {"label": ["neutral"], "votes": [{"neutral": 3, "positive": 1}]})
    assert measured["agreement"] == [0.75]


@pytest.mark.parametrize(
    ("text", "kwargs", "message"),
    [
        ("", {}, r"moods.csv: there are no rows"),
        ("text,mood\n", {}, r"moods.csv: there are no rows"),
        (TABLE, {}, r"moods.csv:2: no column 'prompt' \(it has: text, mood\).*columns="),
        (TABLE, {"columns": {"prompt": "text"}}, r"row 0 has no label and no votes: it has 'prompt', 'mood'"),
        (TABLE, {"columns": {**RENAMED, "label": "feeling"}}, r"no column 'feeling' to rename \(it has: text, mood\)"),
        (TABLE.replace("bad", ""), {"columns": RENAMED}, r"row \d+ has no label and no votes"),
        (TABLE.replace("bad", "Good"), {"columns": RENAMED}, r"'Good' and 'good' are read as one answer"),
        (
            TABLE.replace("bad", "good").replace("so so", "good"),
            {"columns": RENAMED},
            r"all \d+ rows have the label 'good'",
        ),
        (
            TABLE.replace("bad", "x" * 80),
            {"columns": RENAMED},
            r"the label 'x+' has \d+ tokens, more than max_new_tokens=8",
        ),
        (
            TABLE,
            {"columns": RENAMED, "labels": ["good", "bad"]},
            r"row \d+ has the label 'so so', which",
        ),
        (TABLE, {"columns": RENAMED, "labels": "good"}, "give a list of at least two label words"),
        (TABLE, {"columns": RENAMED, "template": "Label:"}, "has no {text}"),
        (TABLE, {"columns": RENAMED, "template": "{text} {mood}:"}, "has braces that are not {text}"),
        (TABLE, {"columns": RENAMED, "template": "{text} {"}, "has braces that are not {text}"),
    ],
)
def test_bad_tables_are_refused_with_what_is_wrong(
    tmp_path: Path, text: str, kwargs: dict[str, Any], message: str
) -> None:
    path = tmp_path / "moods.csv"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=message):
        make(path, **kwargs)


def test_a_broken_encoding_is_named_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "moods.csv"
    path.write_bytes(TABLE.replace("number 3", "númber 3").encode("latin-1"))
    with pytest.raises(ValueError, match=r"moods.csv:5: .*UTF-8"):
        make(path, columns=RENAMED)


def test_a_column_of_texts_is_no_column_of_labels(tmp_path: Path) -> None:
    path = tmp_path / "moods.csv"
    path.write_text("a,label\n" + "".join(f"x {i},text {i}\n" for i in range(400)), encoding="utf-8")
    with pytest.raises(ValueError, match=r"\d+ different labels in \d+ rows, such as 'text"):
        make(path, columns={"prompt": "a"})


def test_a_vote_outside_the_stated_labels_is_named() -> None:
    rows: list[dict[str, Any]] = [
        {"prompt": "a", "label": "yes", "votes": ["yes", "perhaps"]},
        {"prompt": "b", "label": "no"},
    ]
    with pytest.raises(ValueError, match="row 0 has a vote for 'perhaps', which is not among 'yes', 'no'"):
        Classify(labels=["yes", "no"]).rows("train", rows)


def test_other_tasks_take_no_labels() -> None:
    with pytest.raises(TypeError, match="the environment takes no argument 'labels'"):
        gym.make("rlhf/Sentiment-v0", labels=["a", "b"])


def test_a_runs_file_keeps_the_labels_and_imports_nothing() -> None:
    kwargs: dict[str, Any] = {"labels": ["a", "b"], "template": "{text}\nLabel:"}
    read = read_env_kwargs(json.loads(json.dumps(kwargs)), "a run's file", env_id="rlhf/Classify-v0")
    assert read == kwargs
    task = task_of("rlhf/Classify-v0", **kwargs)
    assert isinstance(task, Classify)
    assert task.labels == ["a", "b"]
    with pytest.raises(ValueError, match="'os:system' is not imported"):
        read_env_kwargs({"labels": ["os:system", "b"]}, "a run's file", env_id="rlhf/Classify-v0")


def test_a_mixture_gives_each_task_its_labels(table: Path) -> None:
    own = {"id": "rlhf/Classify-v0", "name": "mine", "data": str(table), "columns": RENAMED}
    stated = {**own, "labels": ["so so", "good", "bad"]}
    env: Any = gym.make("rlhf/Mixture-v0", tasks=[stated, "rlhf/ClassifyNews-v0"]).unwrapped
    assert env.task.subtasks["mine"].labels == ["so so", "good", "bad"]
    assert env.task.subtasks["classify-news"].labels == list(MOODS)


@pytest.mark.parametrize(("env_id", "n"), [("rlhf/Classify-v0", 3873), ("rlhf/ClassifyNews-v0", 1800)])
def test_the_samples_are_sound(env_id: str, n: int) -> None:
    task = task_of(env_id)
    seen: dict[str, str] = {}
    assert isinstance(task, Classify)
    for split in ("train", "validation", "test"):
        for row in task.rows(split, None):
            votes = row["votes"]
            assert row["label"] == max(votes, key=votes.__getitem__)
            assert 2 * votes[row["label"]] >= sum(votes.values()) >= 20
            text = re.sub("@anonymous|http://url_removed", "", row["text"]).lower()
            key = "".join(character for character in text if character.isalnum())
            assert seen.setdefault(key, split) == split
    assert task.labels == list(MOODS)
    assert len(seen) == n


def test_topics_are_balanced_sections_that_no_other_sample_has() -> None:
    task = task_of("rlhf/Classify-v0", sample="topics")
    assert isinstance(task, Classify)
    rows = {split: task.rows(split, None) for split in ("train", "validation", "test")}
    assert {split: len(found) for split, found in rows.items()} == {"train": 648, "validation": 72, "test": 240}
    assert task.labels == ["editors", "fonts", "games", "graphics", "mail", "science", "sound", "web"]
    everything = [row for found in rows.values() for row in found]
    assert {*Counter(row["label"] for row in everything).values()} == {120}
    texts = {re.sub(r"\W", "", row["text"].lower()) for row in everything}
    assert len(texts) == 960
    assert not texts & {re.sub(r"\W", "", row["prompt"].lower()) for row in load_rows("descriptions")}
    assert task.demonstrations("train")[0].keys() == {"prompt", "completion"}
    report = check_task("rlhf/Classify-v0", n=200, sample="topics")
    assert report.beaten_by == []


def test_the_samples_of_the_two_ids_have_names() -> None:
    first, news = task_of("rlhf/Classify-v0", sample="mood"), task_of("rlhf/Classify-v0", sample="news")
    assert first is not None and news is not None
    assert first.rows("validation", None) == Classify().rows("validation", None)
    assert news.rows("validation", None) == ClassifyNews().rows("validation", None)


def test_a_sample_that_is_none_or_beside_data_is_refused() -> None:
    with pytest.raises(ValueError, match="sample='finance': there are mood, news, topics; data of your own are data"):
        gym.make("rlhf/Classify-v0", sample="finance")
    with pytest.raises(ValueError, match=r"sample=\['topics'\]: there are mood"):
        gym.make("rlhf/Classify-v0", sample=["topics"])
    with pytest.raises(ValueError, match=r"sample='topics' beside data=\.\.\.: give one of them"):
        gym.make("rlhf/Classify-v0", sample="topics", data=[{"prompt": "a", "label": "b"}] * 30)


@pytest.mark.parametrize("env_id", ["rlhf/Classify-v0", "rlhf/ClassifyNews-v0"])
def test_no_answer_that_knows_nothing_beats_the_task(env_id: str) -> None:
    report = check_task(env_id, n=200)
    assert report.beaten_by == []
    assert max(report.scores.values()) < 0.5 * report.references
