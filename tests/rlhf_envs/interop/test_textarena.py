"""TextArena's games as dialogs. The package is no part of the extra `dev`: most of this needs rlhf-envs[textarena]."""

from __future__ import annotations

import random
import re
import sys
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from rlhf_envs.interop.textarena import ENV_ID, TextArena

HIGHEST = {"max_number": 5, "max_turns": 6}
SPEC = gym.registry.pop(ENV_ID)  # the import registered it, and other tests go over all ids


@pytest.fixture(autouse=True)
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(gym.registry, ENV_ID, SPEC)


def test_without_the_package_the_message_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "textarena", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'rlhf-envs\[textarena\]'"):
        gym.make(ENV_ID)


@pytest.fixture
def arena() -> Any:
    return pytest.importorskip("textarena")


def play(env: gym.Env[Any, Any], moves: list[str], index: int = 0) -> tuple[float, dict[str, Any]]:
    """Play moves from the beginning of a game, and return the sum of rewards and the last info."""
    episodes: Any = env.unwrapped.episodes  # type: ignore[attr-defined]
    env.reset(seed=0, options={"index": index})
    total, info, terminated = 0.0, {}, False
    for move in moves:
        for token in [*episodes.tokenizer(move, add_special_tokens=False)["input_ids"], episodes.ends[0]]:
            if not terminated:
                _, reward, terminated, _, info = env.step(int(token))
                total += float(reward)
    assert terminated, "the moves do not end the game"
    return total, info


def in_the_package(arena: Any, game: str, seed: int, moves: list[str], **options: Any) -> float:
    """Return the reward that TextArena itself gives."""
    env = arena.make(game, **options)
    env.reset(num_players=1, seed=seed)
    for move in moves:
        env.get_observation()
        done, _ = env.step(action=move)
        if done:
            break
    return float(env.close()[0][0])


@pytest.mark.parametrize("moves", [["1", "2", "3", "4", "5"], ["3", "3", "9"], ["no", "no"]])
def test_the_rewards_are_the_games_own(arena: Any, moves: list[str]) -> None:
    env = gym.make(ENV_ID, disable_env_checker=True, options=HIGHEST, size=8, max_new_tokens=120, max_prompt_tokens=136)
    for index in range(3):
        total, info = play(env, moves, index)
        bracketed = [f"[{move}]" for move in moves]
        assert total == pytest.approx(in_the_package(arena, "GuessTheNumber-v0", index, bracketed, **HIGHEST))
        assert info["finish_reason"] == "task"


def test_replies_are_what_the_game_says_and_global_randomness_is_left_alone(arena: Any) -> None:
    random.seed(7)
    expected = random.random()
    random.seed(7)
    env = gym.make(ENV_ID, disable_env_checker=True, options=HIGHEST, size=8, max_new_tokens=120, max_prompt_tokens=136)
    _, info = play(env, ["1", "2", "3", "4", "5"])
    said = [message["content"] for message in info["messages"] if message["role"] == "user"][1:]
    assert all(re.fullmatch(r"The target number is (higher|lower)\.", text) for text in said)
    assert random.random() == expected


def test_splits_have_games_of_their_own_and_a_saved_game_goes_on_alike(arena: Any) -> None:
    task = TextArena(options=HIGHEST, size=8)
    seeds = {split: {row["game_seed"] for row in task.rows(split, None)} for split in ("train", "validation", "test")}
    assert not seeds["train"] & seeds["test"] and not seeds["validation"] & seeds["test"]
    one, two = (
        gym.make(ENV_ID, disable_env_checker=True, options=HIGHEST, size=8, max_new_tokens=120, max_prompt_tokens=136)
        for _ in range(2)
    )
    episodes: Any = one.unwrapped.episodes  # type: ignore[attr-defined]
    words = [episodes.tokenizer(word, add_special_tokens=False)["input_ids"] for word in "12345"]
    tokens = [token for word in words for token in (*word, episodes.ends[0])]
    one.reset(seed=0, options={"index": 4})
    two.reset(seed=1, options={"index": 0})
    for token in tokens[:3]:
        one.step(token)
    two.unwrapped.episodes.set_state(episodes.get_state())  # type: ignore[attr-defined]
    ended = False
    for token in tokens[3:]:
        if not ended:
            here, there = one.step(token), two.step(token)
            np.testing.assert_array_equal(here[0]["input_ids"], there[0]["input_ids"])
            ended = here[2]
            assert here[1:3] == there[1:3]
    assert ended


def test_games_that_cannot_be_played_are_refused_by_name(arena: Any) -> None:
    for game, words in {
        "Nim-v0": "several players",
        "Wordle-v0": "needs a download",
        "GuessWho-v0": "needs a download or an API",
        "GuesTheNumber-v0": "did you mean 'GuessTheNumber-v0'",
    }.items():
        with pytest.raises(ValueError, match=f"game='{game}'.*{words}"):
            TextArena(game=game)
    with pytest.raises(ValueError, match="refuses options"):
        TextArena(options={"highest": 5})
    with pytest.raises(ValueError, match="'game_seed'"):
        TextArena().rows("train", [{"prompt": "a"}])
