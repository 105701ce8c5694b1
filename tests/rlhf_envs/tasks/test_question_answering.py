from __future__ import annotations

import random
import re
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from rlhf_envs.tasks.answers import calibration_error, exact_match, is_abstention, share_found, squad_normal, token_f1
from rlhf_envs.tasks.stories import PEOPLE, make_stories
from rlhf_envs.testing import check_task

ENV = "rlhf/QuestionAnswering-v0"


@pytest.mark.parametrize(
    ("text", "right", "f1", "exact"),
    [
        (" school", ["school"], 1, 1), ("The School.", ["school"], 1, 1), ("the big school", ["school"], 2 / 3, 0),
        ("park", ["school"], 0, 0), ("park", ["school", "park"], 1, 1), ("a b b", ["b b c"], 0.8, 0),
        ("I don't know", ["school"], 0, 0), ("I don’t know.", ["I don't know"], 1, 1), ("", ["I don't know"], 1, 1),
        ("unknown", ["I don't know"], 1, 1), ("know", ["I don't know"], 0, 0), ("the", ["school"], 0, 0),
    ],
)  # fmt: skip
def test_answers_are_compared_as_squad_does(text: str, right: list[str], f1: float, exact: float) -> None:
    assert token_f1(text, right) == pytest.approx(f1)
    assert exact_match(text, right) == exact


def test_the_normal_form_is_that_of_squads_script() -> None:
    assert squad_normal("The  U.S.A., a   Theatre!") == "usa theatre"
    assert is_abstention("Not known.") and not is_abstention("nothing")


def test_calibration_is_the_mean_gap_of_the_bins() -> None:
    probabilities = np.array([0.95, 0.95, 0.95, 0.95, 0.25, 0.25])
    right = np.array([1, 1, 1, 0, 0, 1])
    assert calibration_error(probabilities, right) == pytest.approx((4 * 0.2 + 2 * 0.25) / 6)
    assert np.isnan(calibration_error(np.array([]), np.array([])))


def end_of(story: str) -> tuple[dict[str, str], dict[str, str]]:
    """Return where people are and who holds what, read from the sentences by another program than the generator."""
    places, holders = dict[str, str](), dict[str, str]()
    for sentence in story.rstrip(".").split(". "):
        if found := re.fullmatch(r"(\w+) (?:went|walked|came|ran) to the (\w+)", sentence):
            places[found[1]] = found[2]
        elif found := re.fullmatch(r"(\w+) gave the (\w+) to (\w+)", sentence):
            assert holders[found[2]] == found[1]
            holders[found[2]] = found[3]
        elif found := re.fullmatch(r"(\w+) (?:took|found|got) the (\w+)", sentence):
            assert found[2] not in holders
            holders[found[2]] = found[1]
        else:
            raise AssertionError(sentence)
    return places, holders


@pytest.mark.parametrize("split", [*PEOPLE])
def test_the_answers_of_stories_are_right(split: str) -> None:
    for row in make_stories(split, 400, 2, 6):
        places, holders = end_of(row["story"])
        found = re.fullmatch(r"Where is (?:the )?(\w+)\?|Who has the (\w+)\?", row["question"])
        assert found is not None
        about = found[1] or found[2]
        known = holders.get(about) if found[2] else places.get(holders.get(about, about))
        assert row["answer"] == (known or "I don't know"), row


def test_splits_have_people_of_their_own() -> None:
    rows = {split: gym.make(ENV, split=split).unwrapped.rows for split in PEOPLE}  # type: ignore[attr-defined]
    assert [len(found) for found in rows.values()] == [4000, 400, 600]
    for split, found in rows.items():
        others = {name for other in PEOPLE if other != split for name in PEOPLE[other]}
        words = {word for row in found for word in re.findall(r"\w+", row["question"])}
        assert not words & others
    kinds = [row["kind"] for row in rows["train"]]
    assert kinds.count("unknown") / len(kinds) == pytest.approx(0.2, abs=0.03)


def test_it_pays_to_abstain_only_where_one_does_not_know() -> None:
    env: Any = gym.make(ENV).unwrapped
    answer = ["park", "park", "park", "I don't know", "I don't know"]
    given = [" park", " school", " I don't know", " I don't know", " park"]
    assert env.reward_fn(completions=given, answer=answer) == [1, -0.5, 0, 1, -0.5]
    free: Any = gym.make(ENV, wrong_cost=0).unwrapped
    assert free.reward_fn(completions=given, answer=answer) == [1, 0, 0, 1, 0]


def test_no_answer_that_knows_nothing_beats_it() -> None:
    report = check_task(ENV, n=300)
    assert report.references == 1
    assert report.scores["shuffled"] < 0
    assert max(report.scores.values()) < 0.3  # always to abstain is right for the share of the unknown


def test_accuracy_and_calibration_are_of_the_answers_alone() -> None:
    env: Any = gym.make(ENV).unwrapped
    columns = {"answer": ["park", "park", "park", "park"], "log_probs": np.log([0.75, 0.75, 0.5, 0.9])}
    given = ["park", "school", "", "I don't know"]
    assert env.task.metrics([""] * 4, given, columns) == {"exact_match": [1, 0, 0, 0], "abstained": [0, 0, 1, 1]}
    found = env.task.corpus_metrics([""] * 4, given, columns)
    assert found["answered_accuracy"] == 0.5
    assert found["calibration_error"] == pytest.approx(0.25)
    assert found["brier"] == pytest.approx((0.25**2 + 0.75**2) / 2)
    silent = env.task.corpus_metrics(["", ""], ["", ""], {"answer": ["park"] * 2, "log_probs": np.zeros(2)})
    assert all(np.isnan(value) for value in silent.values())


def test_questions_of_your_own_may_have_several_right_answers() -> None:
    data = [{"question": f"Who is {i}?", "solution": ["A. B. Smith", "Smith"], "split": "train"} for i in range(3)]
    env: Any = gym.make(ENV, data=data, columns={"prompt": "question", "answer": "solution"}).unwrapped
    assert env.rows[0]["reference"] == " A. B. Smith"
    assert env.reward_fn(completions=["smith"], answer=[env.rows[0]["answer"]]) == [1]


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"wrong_cost": -1}, "wrong_cost=-1: give a number of at least 0"),
        ({"wrong_cost": True}, "wrong_cost=True: give a number"),
        ({"split": "dev2"}, "no split 'dev2'"),
        (
            {"data": [{"prompt": "Who?", "reply": "he"}]},
            "row 0 has the answer None, in its columns 'prompt', 'reply': .*columns={'answer': 'solution'} ",
        ),
        ({"data": [{"prompt": "Who?", "answer": 3}]}, "row 0 has the answer 3"),
        ({"data": [{"prompt": "Who?", "answer": [" "]}]}, r"row 0 has the answer \[' '\]"),
        ({"data": [{"prompt": [{"role": "user", "content": "Who?"}], "answer": "he"}]}, "give a text"),
        ({"data": []}, "no rows"),
        ({"data": [{"prompt": "Who?", "answer": "he", "parts": "he"}]}, "row 0 has the parts 'he': give a list"),
        ({"data": [{"prompt": "Who?", "answer": "he", "parts": []}]}, r"row 0 has the parts '\[\]': give a list"),
        ({"data": [{"prompt": "Who?", "answer": "he", "parts": ["he", 3]}]}, "row 0 has the parts .* give a list"),
        (
            {"data": [{"prompt": "Who?", "answer": "he", "parts": ["he"]}, {"prompt": "When?", "answer": "now"}]},
            "row 1 has no 'parts', and other rows have",
        ),
    ],
)
def test_bad_arguments_and_data_are_named(kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        gym.make(ENV, **kwargs)


def test_stories_are_the_same_everywhere() -> None:
    random.seed(1)
    first = make_stories("test", 5, 2, 4)
    random.seed(2)
    assert make_stories("test", 5, 2, 4) == first


def test_parts_of_an_answer_are_found_as_whole_words() -> None:
    parts = ["Pat Burrell", "Right", "1,200", "The Who"]
    assert share_found("pat burrell: right-handed; 1200, Who", parts) == 0.75
    assert share_found("Pat Burrell - right; 1,200, the Who.", parts) == 1
    assert share_found("bright pat burrells", parts) == 0
    assert share_found("", parts) == 0
    assert share_found("of the people", ["The"]) == 1


def test_answers_of_several_parts_have_metrics_of_their_own() -> None:
    rows = [
        {
            "prompt": f"Which hand has each of team {i}?",
            "answer": "Ann: left; Bob: right",
            "parts": ["Ann", "left", "Bob"],
        }
        for i in range(20)
    ]
    env: Any = gym.make(ENV, data=rows, max_new_tokens=32).unwrapped
    told = ["Ann: left", "Ann left, Bob right", "I don't know"]
    columns = {name: [row[name] for row in env.rows[:3]] for name in env.rows[0]}
    found = env.task.metrics(["p"] * 3, told, columns)
    assert found["parts_found"] == pytest.approx([2 / 3, 1, 0])
    assert found["all_parts"] == [0, 1, 0]
    scores = env.reward_fn(told, answer=columns["answer"])
    assert list(scores) == pytest.approx([2 / 3, 1, 0])  # two of the four words, and none
