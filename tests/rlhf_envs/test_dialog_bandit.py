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
    for turn in (question, answer):
        for action in [*(WORDS[word] for word in turn.split()), 1]:
            _, reward, terminated, _, info = env.step(action)
        rewards.append(reward)
    assert terminated
    assert info["finish_reason"] == "turns"
    return rewards, info["messages"][2]["content"]


def strategies() -> Iterator[tuple[str, dict[str, str]]]:
    """Return every question of one word, and none, with every answer to every reply. Further words do not count."""
    replies = ("x", "y", "no")
    for question in ("", *DialogBandit.words):
        for answers in product("xy", repeat=len(replies)):
            yield question, dict(zip(replies, answers, strict=True))


def test_the_best_return_is_that_of_the_best_of_all_strategies() -> None:
    env = TextGenerationEnv(DialogBandit)
    questions = {question for question, _ in strategies()}
    played = {
        (index, question, answer): play(env, index, question, answer)
        for index, question, answer in product(range(4), questions, "xy")
    }
    for customer, (best, question) in best_return().items():
        rows = [i for i, row in enumerate(env.rows) if row["prompt"] == customer]
        values: dict[str, float] = {}
        for asked, answers in strategies():
            said = {i: played[i, asked, "x"][1] for i in rows}
            mean = sum(sum(played[i, asked, answers[said[i]]][0]) for i in rows) / len(rows)
            values[asked] = max(mean, values.get(asked, 0.0))
        assert best == pytest.approx(max(values.values()))
        assert [asked for asked, value in values.items() if value > best - 1e-9] == [question]
    assert best_return() == {"p": (1.3, "what"), "q": (1.25, "who")}


def test_for_q_what_earns_most_at_once_is_not_the_best_question() -> None:
    env = TextGenerationEnv(DialogBandit)
    assert play(env, 1, "what", "y") == ([0.3, 1.0], "y")
    assert play(env, 1, "who", "y") == ([0.25, 1.0], "no")
    assert play(env, 3, "what", "x") == ([0.3, 0.0], "no")
    assert play(env, 3, "who", "y") == ([0.25, 1.0], "y")


def test_the_late_one_pays_the_same_with_the_second_turn() -> None:
    assert play(TextGenerationEnv(LateDialogBandit), 3, "who", "y")[0] == [0.0, 1.25]


def test_only_the_first_word_of_a_turn_counts() -> None:
    env = TextGenerationEnv(DialogBandit)
    assert play(env, 1, "what who", "y") == ([0.3, 1.0], "y")
    assert play(env, 1, "who what", "y") == ([0.25, 1.0], "no")
    assert play(env, 1, "what", "x y") == ([0.3, 0.0], "y")


def test_a_turn_without_an_end_earns_nothing() -> None:
    env = TextGenerationEnv(DialogBandit)
    env.reset(options={"index": 0})
    steps = [env.step(WORDS["what"]) for _ in range(env.get_wrapper_attr("max_new_tokens"))]
    assert [reward for _, reward, *_ in steps] == [0.0] * len(steps)
    assert steps[-1][4]["finish_reason"] == "length"
