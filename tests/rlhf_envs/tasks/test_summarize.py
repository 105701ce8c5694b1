from __future__ import annotations

import re
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from rlhf_envs.tasks.summarize import Summarize
from rlhf_envs.testing import check_task

ROWS = [{"prompt": f"A long text about thing {i}.", "reference": f"thing {i}"} for i in range(3)]


def test_answers_that_know_nothing_score_less_than_the_maintainers() -> None:
    report = check_task("rlhf/Summarize-v0", n=256)
    assert report.references == pytest.approx(0, abs=0.25)
    assert max(report.scores.values()) < report.references - 0.3, report


def test_copying_the_opening_pays_less_than_summing_up() -> None:
    env: Any = gym.make("rlhf/Summarize-v0", split="test").unwrapped
    texts, references = ([row[name] for row in env.rows] for name in ("text", "reference"))
    for n in (4, 8, 16):
        openings = [" ".join(text.split()[:n]) for text in texts]
        assert (
            np.mean(env.reward_fn(texts, openings, text=texts))
            < np.mean(env.reward_fn(texts, references, text=texts)) - 1
        )


def test_a_long_summary_costs() -> None:
    env: Any = gym.make("rlhf/Summarize-v0").unwrapped
    row = env.rows[0]
    scores = [
        env.reward_fn.evaluate([row["prompt"]], [" ".join(["word"] * n)], {"text": [row["text"]]})[1]["length-penalty"][
            0
        ]
        for n in (12, 13, 20)
    ]
    assert scores == [0, -1, -8]


def test_metrics_by_hand() -> None:
    columns = {"reference": [" fast image viewer"] * 3, "text": ["An image viewer that starts quickly."] * 3}
    found = Summarize().metrics(["p"] * 3, [" fast image viewer", " image tool", ""], columns)
    assert found["rouge_l"] == pytest.approx([1, 0.4, 0])
    assert found["coverage"] == pytest.approx([1, 1 / 3, 0])
    assert found["support"] == pytest.approx([2 / 3, 1 / 2, 0])
    assert found["length_ratio"] == pytest.approx([1, 2 / 3, 0])
    one = {name: values[:1] for name, values in columns.items()}
    assert Summarize().metrics(["p"], [" image viewer"], one)["consistency"][0] > 0.9
    assert found["consistency"][2] == 0 < found["consistency"][1] < found["consistency"][0] < 0.5  # "fast" is added


def test_consistency_has_no_value_for_texts_in_other_languages() -> None:
    columns = {"reference": ["图像查看器"], "text": ["一个快速启动的图像查看器。"]}
    assert np.isnan(Summarize().metrics(["p"], ["图像查看器"], columns)["consistency"]).all()


def test_rows_of_ones_own_get_the_template_once_and_an_aspect_instead_of_summary() -> None:
    task = Summarize()
    rows = task.rows("train", [*ROWS, {**ROWS[0], "aspect": "challenge"}])
    assert rows[0]["prompt"] == "A long text about thing 0.\nSummary:"
    assert rows[0]["reference"] == " thing 0"
    assert rows[3]["prompt"] == "A long text about thing 0.\nChallenge:"
    assert task.rows("train", rows) == rows


def test_a_file_of_ones_own_with_other_names_of_columns(tmp_path: Any) -> None:
    path = tmp_path / "articles.csv"
    path.write_text(
        "article,highlights\n" + "\n".join(f"text {i} is long,text {i}" for i in range(40)), encoding="utf-8"
    )
    columns = {"prompt": "article", "reference": "highlights"}
    env: Any = gym.make("rlhf/Summarize-v0", data=str(path), columns=columns).unwrapped
    assert env.rows[0]["prompt"].endswith("\nSummary:")
    with pytest.raises(ValueError, match=re.escape("row 0 has no column 'reference'")):
        gym.make("rlhf/Summarize-v0", data=str(path), columns={"prompt": "article"})


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (
            {"prompt": "a text", "summary": "t"},
            "row 3 has no column 'reference', .* it has 'prompt', 'summary'; rename",
        ),
        ({"prompt": "a text", "reference": "  "}, "row 3 has the reference '  ', which is no text"),
        ({"prompt": "a text", "reference": None}, "row 3 has the reference 'None', which is no text"),
        (
            {"prompt": [{"role": "user", "content": "a"}], "reference": "b"},
            r"row 3 has the prompt .*, which is no text",
        ),
    ],
)
def test_rows_without_a_summary_are_named(row: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Summarize().rows("train", [*ROWS, row])


def test_an_empty_file_is_named(tmp_path: Any) -> None:
    path = tmp_path / "empty.jsonl"
    path.write_text("", encoding="utf-8")
    with pytest.raises(ValueError, match=r"empty\.jsonl.*there are no rows"):
        gym.make("rlhf/Summarize-v0", data=str(path))


def test_no_description_of_the_sample_is_nearly_in_another_split() -> None:
    splits = {split: Summarize().rows(split, None) for split in ("train", "validation", "test")}
    assert {split: len(rows) for split, rows in splits.items()} == {"train": 2700, "validation": 300, "test": 600}

    def triples(text: str) -> set[tuple[str, ...]]:
        words = text.lower().split()
        return {*zip(words, words[1:], words[2:], strict=False)}

    train = [triples(row["text"]) for row in splits["train"]]
    having: dict[tuple[str, ...], list[int]] = {}
    for i, own in enumerate(train):
        for triple in own:
            having.setdefault(triple, []).append(i)
    for row in splits["validation"] + splits["test"]:
        own = triples(row["text"])
        for i in {i for triple in own for i in having.get(triple, ())}:
            assert len(own & train[i]) < 0.5 * min(len(own), len(train[i])), (row["text"], splits["train"][i]["text"])
    synopses = [re.sub(r"\W", "", row["reference"].lower()) for rows in splits.values() for row in rows]
    assert len({*synopses}) == 3600
