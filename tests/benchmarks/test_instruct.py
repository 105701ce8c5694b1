"""The task of the benchmark on instruct models: its rows, its answers and its metrics."""

from __future__ import annotations

import importlib
import math

import pytest

from rlhf_envs.datasets import load_rows


def test_answers_are_held_against_people_and_not_against_the_reward() -> None:
    benchmark = importlib.import_module("benchmarks.instruct")
    task = benchmark.FilmOpinion()
    rows = task.rows("test", None)
    opinions = [row["opinion"] for row in rows]
    assert opinions.count("positive") == opinions.count("negative") == len(rows) // 2
    means = {row["text"]: row["mean"] for row in load_rows("rated_snippets", "test", required=("text",))}
    assert all((means[row["text"]] > 1) == (row["opinion"] == "positive") for row in rows)
    said = ["Positive.", "Not negative, but positive", "I cannot tell"]
    columns = {"opinion": ["positive", "positive", "negative"]}
    assert task.metrics([""] * 3, said, columns) == {"right": [1.0, 0.0, 0.0], "answered": [1.0, 1.0, 0.0]}
    said = ["negative", [{"content": "Positive."}], "It is positive", "?"]
    assert task.reward(6)(completions=said, text=["a masterpiece."] * 4) == [0.0, 1.0, 0.5, -0.5]


def test_one_seed_has_no_standard_error() -> None:
    benchmark = importlib.import_module("benchmarks.instruct")
    assert benchmark.standard_error([1.0, 3.0]) == pytest.approx(1.0)
    assert math.isnan(benchmark.standard_error([1.0]))
