from __future__ import annotations

import logging
import re
import sys
from collections import Counter
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from rlhf_envs.curriculum import Curriculum
from rlhf_envs.datasets import load_rows
from rlhf_envs.task_weights import WINDOW
from rlhf_envs.tasks.reasoning.scoring import UNSOUND, strict_score
from rlhf_envs.testing import check_task, check_text_env

ENV = "rlhf/ReasoningGym-v0"


@pytest.fixture
def package() -> None:
    pytest.importorskip("reasoning_gym", reason="pip install 'rlhf-envs[reasoning]'")


@pytest.mark.parametrize(
    ("completion", "right", "score"),
    [
        (" mother", "mother", 1), ("Mother.", "mother", 1), ('"mother"', "mother", 1), ("mother mother", "mother", 0),
        ("The answer is mother", "mother", 0), ("", "mother", 0), ("", "", 0), ("-5", "5", 0), ("5.0", "5", 1),
        ("+5", "5", 1), ("0.50", "0.5", 1), ("50", "5", 0), ("100", "100", 1), ("-0", "0", 1), ("15", "5", 0),
        ("1  2\n3 4\n", "1 2\n3 4", 1), ("1 2 3 4", "1 2\n3 4", 0), ("9" * 60, "9" * 60, 1), ("12:45", "12:30", 0),
    ],
)  # fmt: skip
def test_only_the_exact_answer_scores(completion: str, right: str, score: float) -> None:
    assert strict_score(completion, right) == score


def test_no_answer_that_knows_nothing_beats_the_default_task() -> None:
    report = check_task(ENV, n=200)
    assert report.references == 1
    assert max(report.scores.values()) < 0.4  # the most common of ten words


def test_splits_share_no_question_and_the_held_out_ones_have_the_next_level() -> None:
    rows = {split: gym.make(ENV, split=split).unwrapped.rows for split in ("train", "validation", "test")}  # type: ignore[attr-defined]
    assert Counter(row["level"] for row in rows["train"]) == {0: 600}
    assert Counter(row["level"] for row in rows["test"]) == {0: 150, 1: 150}
    prompts = [{row["prompt"] for row in found} for found in rows.values()]
    assert len(prompts[0] | prompts[1] | prompts[2]) == 600 + 300 + 300


def related(question: str) -> str:
    """Return what the first person is to the second, by another way than the package's: from the sentences alone."""
    couples = re.findall(r"(\w+) is married to (\w+)\.(?: They have (?:a child|children) called ([^.]+)\.)?", question)
    spouse = {a: b for one, other, _ in couples for a, b in ((one, other), (other, one))}
    parents = {child: (one, other) for one, other, children in couples for child in re.findall(r"[A-Z]\w+", children)}
    asked = re.search(r"(?:What is|How is|What relation is) (\w+) (?:related )?to (\w+)\?", question)
    assert asked is not None, question
    who, whose = asked.groups()
    if spouse.get(who) == whose:
        return "spouse"
    if who in parents.get(whose, ()):
        return "parent"
    if whose in parents.get(who, ()):
        return "child"
    if parents.get(who) == parents.get(whose) is not None:
        return "sibling"
    if any(who in parents.get(parent, ()) for parent in parents.get(whose, ())):
        return "grandparent"
    return "other"


KINDS = {"husband": "spouse", "wife": "spouse", "mother": "parent", "father": "parent", "son": "child"}
KINDS |= {"daughter": "child", "brother": "sibling", "sister": "sibling"}
KINDS |= {"grandmother": "grandparent", "grandfather": "grandparent"}


def test_bundled_answers_are_right() -> None:
    rows = [row for split in ("train", "validation", "test") for row in load_rows("reasoning", split)]
    wrong = [row for row in rows if related(row["prompt"]) != KINDS[row["answer"]]]
    assert len(rows) == 4500
    assert wrong == []


def play(env: Any, rights: list[bool]) -> list[int]:
    """Answer the questions that are drawn, rightly or not, and return their levels."""
    levels, eos = [], env.tokenizer.eos_token_id
    for right in rights:
        _, info = env.reset()
        row = env.rows[info["index"]]
        levels.append(row["level"])
        for token in [*(env.tokenizer(row["reference"])["input_ids"] if right else []), eos]:
            env.step(token)
    return levels


def test_questions_without_levels_have_no_curriculum() -> None:
    rows = [{"prompt": f"what is {i}?", "answer": str(i)} for i in range(40)]
    with pytest.raises(ValueError, match="row 0 has the 'level' None, and curriculum=True needs a whole number"):
        gym.make(ENV, data=rows, curriculum=True)


def test_a_curriculum_opens_levels_on_success_and_resumes_exactly() -> None:
    env: Any = gym.make(ENV, curriculum=True).unwrapped
    env.reset(seed=0)
    assert {*play(env, [False] * 70)} == {0}
    assert env.episodes.sampler.tasks.level == 0
    play(env, [True] * WINDOW)
    assert env.episodes.sampler.tasks.level == 1
    assert {*play(env, [True] * 20)} == {0, 1}
    again: Any = gym.make(ENV, curriculum=True).unwrapped
    again.reset(seed=1)
    again.episodes.set_state(env.episodes.get_state())
    again.np_random.bit_generator.state = env.np_random.bit_generator.state
    assert isinstance(again.episodes.sampler.tasks, Curriculum)
    assert again.episodes.sampler.tasks.level == 1
    rights = [True] * 120
    assert play(env, rights) == play(again, rights)
    assert env.episodes.sampler.tasks.level == again.episodes.sampler.tasks.level > 1
    held_out: Any = gym.make(ENV, curriculum=True, split="test").unwrapped
    assert {row["level"] for row in held_out.rows} == {0, 1, 2, 3, 4}
    assert held_out.episodes.sampler.tasks is None


def test_accuracy_at_the_next_level_stands_apart() -> None:
    env: Any = gym.make(ENV, split="test").unwrapped
    rows = [env.rows[0], env.rows[-1], env.rows[-2]]
    columns = {name: [row[name] for row in rows] for name in ("answer", "level")}
    found = env.task.metrics([""] * 3, [rows[0]["answer"], rows[1]["answer"], "no"], columns)
    assert np.array_equal(found["accuracy"], [1, np.nan, np.nan], equal_nan=True)
    assert np.array_equal(found["next_accuracy"], [np.nan, 1, 0], equal_nan=True)


def test_a_missing_package_is_named_with_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "reasoning_gym", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'rlhf-envs\[reasoning\]'"):
        gym.make(ENV, dataset="chain_sum")


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"scorer": "kind"}, "scorer='kind': take 'strict' or 'package'"),
        ({"size": 3}, "size=3: give a whole number"),
        ({"config": {"seed": 1}}, "config has 'seed', which the split decides"),
        ({"difficulty": 1.5}, "difficulty=1.5: the levels of 'family_relationships' are 0 to"),
        ({"difficulty": 99}, "difficulty=99: the levels of 'family_relationships' are 0 to"),
        ({"difficulty": None, "curriculum": True}, "curriculum=True needs a difficulty"),
        ({"split": "dev2"}, "no split 'dev2'"),
        (
            {"data": [{"prompt": "1 + 1?", "solution": "2"}]},
            "row 0 has no column 'answer': it has 'prompt', 'solution'",
        ),
        ({"data": []}, "has no rows|no rows|empty"),
    ],
)
def test_bad_arguments_and_data_are_named(kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        gym.make(ENV, **kwargs)


def test_questions_of_your_own_need_no_package() -> None:
    data = [{"question": f"What is {i} + {i}?", "solution": i + i, "split": "train"} for i in range(4)]
    columns = {"prompt": "question", "answer": "solution"}
    env: Any = gym.make(ENV, data=data, columns=columns).unwrapped
    assert env.rows[3]["prompt"] == "What is 3 + 3?\nAnswer:"
    assert env.reward_fn(completions=["6", "7"], answer=["6", "6"]) == [1, 0]


def test_the_bundled_questions_are_the_packages(package: None) -> None:
    from rlhf_envs.tasks.reasoning.items import draw_rows

    bundled = [row for row in load_rows("reasoning", "test") if row["level"] == 2]
    drawn = draw_rows("family_relationships", 2, {}, "test", 150)
    assert [row["prompt"] for row in bundled] == [row["question"] for row in drawn]
    assert [(row["answer"], row["item"]) for row in bundled] == [(row["answer"], row["item"]) for row in drawn]


def test_any_dataset_is_an_environment_with_its_levels(package: None) -> None:
    env = gym.make(ENV, dataset="chain_sum", difficulty=1, config={"min_terms": 2, "max_terms": 2}, size=40)
    check_text_env(env)
    rows: list[dict[str, Any]] = env.unwrapped.rows  # type: ignore[attr-defined]
    assert all(re.search(r"\b\d\d [-+] \d\d =", row["prompt"]) for row in rows)
    test: Any = gym.make(ENV, dataset="chain_sum", size=40, split="test").unwrapped
    assert Counter(row["level"] for row in test.rows) == {0: 10, 1: 10}
    assert not {row["prompt"] for row in test.rows} & {row["prompt"] for row in rows}


def test_the_packages_score_pays_what_ours_does_not(package: None) -> None:
    env: Any = gym.make(ENV, dataset="chain_sum", scorer="package", size=40).unwrapped
    row = env.rows[0]
    columns = {name: [row[name]] for name in ("dataset", "level", "item", "answer")}
    sentence = f"It is {row['answer']}"
    (score,) = env.reward_fn(completions=[sentence], **columns)
    assert 0 < score < 1
    found = env.task.metrics([row["prompt"]], [sentence], columns)
    assert (found["accuracy"], found["package_score"]) == ([0.0], [score])
    assert env.reward_fn(completions=[f" {row['answer']}"], **columns) == [1.0]


def test_a_verifier_that_raises_gives_nothing_and_is_named(package: None, caplog: pytest.LogCaptureFixture) -> None:
    env: Any = gym.make(ENV, dataset="prime_factorization", scorer="package", size=40).unwrapped
    row = env.rows[0]
    columns = {name: [row[name]] for name in ("dataset", "level", "item")}
    with caplog.at_level(logging.WARNING):
        assert env.reward_fn(completions=["I don't know"], **columns) == [0.0]
    assert "the verifier of 'prime_factorization' fails on \"I don't know\", which gets 0" in caplog.text


@pytest.mark.parametrize("name", sorted(UNSOUND))
def test_verifiers_that_are_warned_of_are_beaten(package: None, name: str) -> None:
    kwargs: dict[str, Any] = {"dataset": name, "difficulty": None, "size": 64}
    assert check_task(ENV, n=64, strict=False, scorer="package", **kwargs).beaten_by
    assert check_task(ENV, n=64, scorer="strict", **kwargs).beaten_by == []


def test_datasets_that_cannot_be_scored_so_are_refused_or_warned_of(
    package: None, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(
        ValueError, match="dataset='rush_hour' has questions without a stated answer: give scorer='package'"
    ):
        gym.make(ENV, dataset="rush_hour", size=4)
    with pytest.raises(ValueError, match="dataset='chain_sums': did you mean 'chain_sum'"):
        gym.make(ENV, dataset="chain_sums")
    with pytest.raises(
        ValueError, match=r"reasoning-gym refuses dataset='chain_sum', difficulty=0, config=\{'terms': 2\}"
    ):
        gym.make(ENV, dataset="chain_sum", config={"terms": 2})
    with caplog.at_level(logging.WARNING):
        gym.make(ENV, dataset="coin_flip", scorer="package", size=4)
    assert "the verifier of 'coin_flip' gives '0' 0.97 on average: scorer='strict' does not" in caplog.text
