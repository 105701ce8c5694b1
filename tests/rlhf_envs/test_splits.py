"""Splits share no prompt, whatever the data looks like, and messages say what there is and what to do."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import datasets
import gymnasium as gym
import numpy as np
import pytest

from rlhf_envs.datasets import SPLITS, MissingSplitError, load_rows, prompt_key
from rlhf_envs.datasets.splits import log_once
from rlhf_envs.tasks import WordTask
from rlhf_envs.text_env import TextGenerationEnv

PROMPTS = [{"prompt": f"film number {i} was"} for i in range(400)]


class Films(WordTask):
    name = "films"
    default_reward = "repetition-penalty"
    words = ("film", "number", "was", *map(str, range(400)))


@pytest.fixture(autouse=True)
def _nothing_said_yet() -> None:
    log_once.cache_clear()


def by_split(data: Any, **options: Any) -> dict[str, list[dict[str, Any]]]:
    """The rows of each split; none where there is no such split."""
    found: dict[str, list[dict[str, Any]]] = {}
    for split in SPLITS:
        try:
            found[split] = load_rows(data, split, **options)
        except MissingSplitError:
            found[split] = []
    return found


@pytest.mark.parametrize("kind", ["jsonl", "dataset"])
def test_a_dataset_has_the_splits_of_the_file_and_shares_as_asked_for(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in PROMPTS))
    data = path if kind == "jsonl" else datasets.Dataset.from_list(PROMPTS)
    assert by_split(data) == by_split(PROMPTS)
    assert {split: len(rows) for split, rows in by_split(PROMPTS).items()} == {
        "train": pytest.approx(320, abs=25),
        "validation": pytest.approx(40, abs=20),
        "test": pytest.approx(40, abs=20),
    }
    larger = by_split(PROMPTS, validation_share=0.0, test_share=0.5)
    assert len(larger["test"]) == pytest.approx(200, abs=35)
    assert not larger["validation"]


def test_a_prompt_stays_where_it_is_when_rows_are_added_or_shuffled() -> None:
    fewer = [PROMPTS[i] for i in np.random.default_rng(0).permutation(400)[:200]]
    before, after = by_split(fewer), by_split(PROMPTS)
    for split in SPLITS:
        assert all(row in after[split] for row in before[split])


def test_ten_prompts_make_three_splits_and_fewer_are_all_for_training(caplog: pytest.LogCaptureFixture) -> None:
    assert all(by_split(PROMPTS[:10]).values())
    few = [{"prompt": "one"}, {"prompt": "two"}, {"prompt": "One "}]
    assert by_split(few) == {"train": few, "validation": [], "test": []}
    assert "too few prompts to hold any out" in caplog.text
    with pytest.raises(MissingSplitError, match=r"2 different prompts are too few for a test split: test_share=0\.1 n"):
        load_rows(few, "test")
    assert load_rows(few, "test", test_share=0.5)


def test_a_row_is_kept_in_the_split_that_it_names_and_other_names_are_said(caplog: pytest.LogCaptureFixture) -> None:
    rows = [{"prompt": "a", "split": "Train"}, {"prompt": "b", "split": "eval"}, {"prompt": "c", "split": "valid"}]
    assert by_split(rows) == {"train": rows[:1], "validation": rows[2:], "test": rows[1:2]}
    assert load_rows(rows, "eval") == load_rows(rows, "test")
    assert "'Train' as 'train', 'eval' as 'test', 'valid' as 'validation'" in caplog.text


def test_a_prompt_in_two_named_splits_is_kept_for_training_and_counted(caplog: pytest.LogCaptureFixture) -> None:
    rows = [{"prompt": p, "split": s} for p, s in (("a", "test"), ("b", "test"), (" A", "train"), ("c", "validation"))]
    assert by_split(rows) == {"train": rows[2:3], "validation": rows[3:], "test": rows[1:2]}
    assert "1 rows are left out" in caplog.text
    assert "row 0 of 'test', which is also in 'train': 'a'" in caplog.text


def test_unknown_splits_list_those_there() -> None:
    with pytest.raises(MissingSplitError, match="no row has split 'validation'; there are: test, train"):
        load_rows([{"prompt": "a", "split": "train"}, {"prompt": "b", "split": "test"}], "validation")
    with pytest.raises(MissingSplitError, match="no split 'fold 3': the rows have no column 'split', so there"):
        load_rows(PROMPTS, "fold 3")
    with pytest.raises(MissingSplitError, match="validation_share=0 leaves no validation rows"):
        load_rows(PROMPTS, "validation", validation_share=0)
    with pytest.raises(ValueError, match=r"validation_share=0\.5 and test_share=0\.5: expected shares from 0, below 1"):
        load_rows(PROMPTS, "train", validation_share=0.5, test_share=0.5)


def test_the_counts_are_logged_once(caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in PROMPTS))
    caplog.set_level(logging.INFO)
    counts = {split: len(rows) for split, rows in by_split(path).items()}
    said = [record.getMessage() for record in caplog.records]
    assert said == [f"{path}: {counts['test']} test, {counts['train']} train, {counts['validation']} validation rows"]


def test_an_environment_has_the_rows_of_its_split_only() -> None:
    envs = {split: TextGenerationEnv(Films, data=PROMPTS, split=split) for split in SPLITS}
    prompts = [row["prompt"] for env in envs.values() for row in env.rows]
    assert sorted(prompts) == sorted(row["prompt"] for row in PROMPTS)
    assert envs["test"].episodes.rows_of("train") == envs["train"].rows
    assert envs["test"].episodes.copy(3).rows == envs["test"].rows


def test_columns_are_renamed(tmp_path: Path) -> None:
    rows = [{"question": f"what is {i}?", "prompt_id": i} for i in range(3)]
    env: Any = gym.make("rlhf/Sentiment-v0", data=rows, columns={"prompt": "question"}, reward_fn=lambda **_: [0.0])
    assert env.unwrapped.rows == [{"prompt": row["question"], "prompt_id": row["prompt_id"]} for row in rows]
    with pytest.raises(ValueError, match=r"row 0 of the data: no column 'questions' to rename \(it has: question"):
        load_rows(rows, columns={"prompt": "questions"})
    with pytest.raises(ValueError, match="'question' cannot be renamed to 'prompt', which is a column too"):
        load_rows([{"prompt": "a", "question": "b"}], columns={"prompt": "question"})
    with pytest.raises(ValueError, match=r"columns=.* renames columns of data=..., which is not given"):
        gym.make("rlhf/Sentiment-v0", columns={"prompt": "question"}, reward_fn=len)


def test_shares_are_of_given_data() -> None:
    with pytest.raises(
        ValueError, match=r"test_share=0\.3 is of data=\.\.\., which is not given: the task splits its own"
    ):
        gym.make("rlhf/TokenBandit-v0", test_share=0.3)


def test_conversations_are_split_by_what_they_say() -> None:
    said = [{"role": "user", "content": "Name a film"}, {"role": "assistant", "content": "Alien"}]
    shared = [{"from": "human", "value": "name a film "}, {"from": "gpt", "value": "Alien"}]  # ShareGPT's names
    assert prompt_key(said) == prompt_key(shared) != prompt_key(said[:1])
    assert prompt_key(said[:1]) == prompt_key("Name a film")
    rows = [
        {"prompt": prompt} for prompt in (said, shared, *([{"role": "user", "content": f"{i}"}] for i in range(30)))
    ]
    splits = by_split(rows)
    assert sum(map(len, splits.values())) == 32
    keys = {split: {prompt_key(row["prompt"]) for row in of} for split, of in splits.items()}
    assert not any(keys[a] & keys[b] for a in SPLITS for b in SPLITS if a < b)
