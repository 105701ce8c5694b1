"""The dialog bandit's optimum is what playing every dialog finds."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product

import pytest

from rlhf_envs.tasks.dialog_bandit import DialogBandit, LateDialogBandit, best_return
from rlhf_envs.text_env import TextGenerationEnv

WORDS = {word: i for i, word in enumerate(DialogBandit.words, start=2)}  # after pad and EOS


def play(env: TextGenerationEnv, index: int, question: str, answer: str) -> tuple[list[float], str]:
    """Return the rewards of the two turns, and what the customer said."""
    env.reset(seed=0, options={"index": index})
    rewards = []
    for word in (question, answer):
        for action in [WORDS[word], 1]:
            _, reward, terminated, _, info = env.step(action)
        rewards.append(reward)
    assert terminated
    assert info["finish_reason"] == "turns"
    return rewards, info["messages"][2]["content"]


def strategies() -> Iterator[tuple[str, dict[str, str]]]:
    """Every question with every answer to every reply."""
    replies = ("x", "y", "z", "no")
    for question in ("who", "what", "when"):
        for answers in product("xyz", repeat=len(replies)):
            yield question, dict(zip(replies, answers, strict=True))


def test_the_best_return_is_that_of_the_best_of_all_strategies() -> None:
    env = TextGenerationEnv(DialogBandit)
    played = {
        (index, question, answer): play(env, index, question, answer)
        for index, question, answer in product(range(6), ("who", "what", "when"), "xyz")
    }
    for customer, (best, question) in best_return().items():
        rows = [i for i, row in enumerate(env.rows) if row["prompt"] == customer]
        values = {}
        for asked, answers in strategies():
            said = {i: played[i, asked, "x"][1] for i in rows}
            total = sum(sum(played[i, asked, answers[said[i]]][0]) for i in rows)
            values[asked, tuple(answers.items())] = total / len(rows)
        assert best == pytest.approx(max(values.values()))
        assert question == max(values, key=lambda key: values[key])[0]
    assert {customer: question for customer, (_, question) in best_return().items()} == {"p": "what", "q": "who"}


def test_what_earns_most_at_once_is_not_the_best_question() -> None:
    env = TextGenerationEnv(DialogBandit)
    assert play(env, 0, "when", "x") == ([0.1, 1.0], "no")
    assert play(env, 1, "when", "x") == ([0.1, 0.0], "no")
    assert play(env, 1, "what", "y") == ([0.0, 1.0], "y")


def test_the_late_one_pays_the_same_with_the_second_turn() -> None:
    assert play(TextGenerationEnv(LateDialogBandit), 0, "when", "x")[0] == [0.0, 1.1]


def test_a_turn_of_two_words_earns_and_tells_nothing() -> None:
    env = TextGenerationEnv(DialogBandit)
    env.reset(options={"index": 0})
    rewards = [env.step(action)[1] for action in (WORDS["when"], WORDS["when"], 1)]
    assert rewards == [0, 0, 0]
    assert env.episodes.dialogs is not None
    assert env.episodes.dialogs[0].messages[-1]["content"] == "no"
