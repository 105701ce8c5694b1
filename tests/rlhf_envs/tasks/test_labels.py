from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from sklearn.metrics import balanced_accuracy_score, f1_score

from rlhf_envs.tasks.labels import LabelReward, balanced_accuracy, macro_f1, read_label
from rlhf_envs.tasks.spam_filter import SpamFilter

ROWS = [{"prompt": f"text {i}", "label": "spam" if i % 5 == 0 else "ham"} for i in range(50)]


@pytest.mark.parametrize(
    ("completion", "label"),
    [(" spam", "spam"), ("Spam.", "spam"), ("'ham'\n", "ham"), ("spam ham", None), ("spammer", None), ("", None)],
)
def test_an_answer_is_one_label_and_nothing_else(completion: str, label: str | None) -> None:
    assert read_label(completion, ("ham", "spam")) == label


def test_chinese_quotes_and_full_stops_may_stand_around_an_answer() -> None:
    answers = [" 好评。", "“好评”", "「差评」！", "\u3000差评", "好评，差评", "好评\ufffd", "好"]
    found = [read_label(answer, ("好评", "差评")) for answer in answers]
    assert found == ["好评", "好评", "差评", "差评", None, None, None]


def test_scores_of_all_answers_together_are_scikit_learns() -> None:
    rng = np.random.default_rng(0)
    labels = ["a", "b", "c"]
    true = rng.choice(labels, 60, p=[0.7, 0.2, 0.1]).tolist()
    answers = [label if rng.random() < 0.6 else str(rng.choice(labels)) for label in true]
    assert balanced_accuracy(true, answers) == pytest.approx(balanced_accuracy_score(true, answers))
    assert macro_f1(true, answers, labels) == pytest.approx(f1_score(true, answers, average="macro"))
    silent = [None if i % 7 == 0 else answer for i, answer in enumerate(answers)]
    said = [answer or "none" for answer in silent]
    expected = f1_score(true, said, labels=labels, average="macro", zero_division=0)
    assert macro_f1(true, silent, labels) == pytest.approx(expected)


def test_errors_on_a_rare_class_cost_as_much_as_all_errors_on_the_other() -> None:
    env: Any = gym.make("rlhf/SpamFilter-v0").unwrapped
    label = [row["label"] for row in env.rows]
    for constant in (" ham", " spam"):
        assert np.mean(env.reward_fn(completions=[constant] * len(label), label=label)) == pytest.approx(0, abs=1e-9)
    right = [f" {wanted}" for wanted in label]
    assert np.mean(env.reward_fn(completions=right, label=label)) == pytest.approx(1)
    assert np.mean(env.reward_fn(completions=["no"] * len(label), label=label)) == pytest.approx(-1)


def test_answers_of_a_conversation_are_read_too() -> None:
    reward = LabelReward(("ham", "spam"))
    assert reward(completions=[[{"role": "assistant", "content": "spam"}]], label=["spam"]) == [1.0]


def test_masks_leave_exactly_the_labels() -> None:
    env: Any = gym.make("rlhf/SpamFilter-v0").unwrapped
    eos = env.tokenizer.eos_token_id
    written: set[tuple[int, ...]] = set()

    def write(ids: tuple[int, ...]) -> None:
        env.reset(seed=0)
        for token in ids:
            _, _, terminated, _, _ = env.step(token)
            if terminated:
                written.add(ids)
                return
        for token in np.flatnonzero(env.action_masks()):
            write((*ids, int(token)))

    write(())
    texts = {env.tokenizer.decode([*ids], skip_special_tokens=True) for ids in written}
    assert texts == {" spam", " ham"}
    assert all(ids[-1] == eos for ids in written)


def test_a_completion_outside_the_labels_is_masked_by_nothing() -> None:
    env: Any = gym.make("rlhf/SpamFilter-v0").unwrapped
    env.reset(seed=0)
    env.step(7)
    assert env.action_masks().sum() > env.action_space.n - 10


def test_rows_of_ones_own_get_the_template_once() -> None:
    task = SpamFilter()
    rows = task.rows("train", ROWS)
    assert rows[0]["prompt"] == "Message: text 0\nSpam or ham:"
    assert rows[0]["reference"] == " spam"
    assert task.rows("train", rows) == rows


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"prompt": "a", "category": "spam"}], "row 0 has no column 'label': it has 'prompt', 'category'; rename one"),
        ([*ROWS, {"prompt": "b", "label": "Spam"}], "row 50 has the label 'Spam', which is not among 'ham', 'spam'"),
        ([row for row in ROWS if row["label"] == "ham"], "all 40 rows have the label 'ham': give at least two"),
    ],
)
def test_wrong_labels_are_named(rows: list[dict[str, str]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SpamFilter().rows("train", rows)


def test_the_brier_score_is_that_of_the_stated_probabilities() -> None:
    columns = {"label": ["spam", "ham", "ham"], "log_probs": np.log([0.9, 0.6, 0.2]).tolist()}
    found = SpamFilter().corpus_metrics(["p"] * 3, [" spam", " ham", " spam"], columns)
    assert found["brier"] == pytest.approx(np.mean([0.1**2, 0.4**2, 0.2**2]))
    assert found["balanced_accuracy"] == pytest.approx(0.75)


def test_no_message_of_the_sample_is_in_two_splits_whatever_its_digits_and_case() -> None:
    seen: dict[str, str] = {}
    for split in ("train", "validation", "test"):
        for row in SpamFilter().rows(split, None):
            key = "".join(character for character in row["text"].lower() if character.isalpha())
            assert seen.setdefault(key, split) == split
    assert len(seen) == 2512
