"""Modules, files of code and names are found by what users type."""

from __future__ import annotations

import pickle
import sys
from collections.abc import Iterator
from pathlib import Path

import gymnasium as gym
import pytest

from rlhf_envs.names import check_arguments, find_name, import_attribute, import_module, nearest
from rlhf_envs.registration import check_environment
from rlhf_envs.rewards import get_reward

TASK = """
from helper_of_task import WORDS
from rlhf_envs.registration import register_task
from rlhf_envs.tasks.base import WordTask

class Letters(WordTask):
    name, words, prompts, default_reward = "letters", WORDS, WORDS, "distinct-ngrams"

register_task("my/Letters-v0", "letters_task:Letters")
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Stand in an empty folder, and forget afterwards what was imported from it."""
    known = set(sys.modules)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    yield tmp_path
    for name in set(sys.modules) - known:
        if str(tmp_path) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


def test_a_reward_in_a_file_is_imported_once_and_pickles_by_its_name(folder: Path) -> None:
    (folder / "my_length.py").write_text("def score(prompts, completions, **columns):\n    return [1.0]\n")
    reward = get_reward("./my_length.py:score")
    assert reward is import_attribute(str(folder / "my_length.py") + ":score", "the reward")
    assert pickle.loads(pickle.dumps(reward)) is reward


def test_an_environment_in_a_file_finds_its_task_and_the_modules_beside_it(folder: Path) -> None:
    (folder / "deep").mkdir()
    (folder / "deep" / "letters_task.py").write_text(TASK)
    (folder / "deep" / "helper_of_task.py").write_text("WORDS = ['a', 'b']\n")
    assert check_environment("deep/letters_task.py:my/Letters-v0") == "my/Letters-v0"
    try:
        assert gym.make("my/Letters-v0").unwrapped.task.words == ["a", "b"]  # type: ignore[attr-defined]
    finally:
        del gym.registry["my/Letters-v0"]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nothing_here", r"reward 'x': there is no module 'nothing_here' in .*run from its folder"),
        ("./nothing_here.py", r"reward 'x': there is no file \S+/nothing_here.py"),
        ("my-module", "'my-module' is neither a module"),
        ("../my", "'../my' is neither a module"),
        ("json.py", "another module is named 'json': rename the file"),
        ("broken.py", r"'broken.py' is not valid Python: .*broken.py, line 1"),
        ("needs.py", "importing 'needs.py' failed: No module named 'nothing_there'"),
    ],
)
def test_what_cannot_be_imported_is_named_with_the_place(folder: Path, name: str, message: str) -> None:
    (folder / "json.py").write_text("")
    (folder / "broken.py").write_text("def :")
    (folder / "needs.py").write_text("import nothing_there")
    with pytest.raises(ValueError, match=message):
        import_module(name, "reward 'x'")
    assert not {"broken", "needs"} & sys.modules.keys()


@pytest.mark.parametrize("address", ["module", "module:", ":score", "module:a.b", "./my.py"])
def test_an_address_has_a_module_and_an_attribute(address: str) -> None:
    with pytest.raises(ValueError, match=r"is no 'module:attribute', and no 'file\.py:attribute'"):
        import_attribute(address, "reward")


def test_case_does_not_count_in_names() -> None:
    assert find_name("PPO", ["ppo", "trpo"]) == "ppo"
    assert find_name("A", ["a", "A"]) == "A"
    assert find_name("dqn", ["ppo"]) == "dqn"


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("Sentment-v0", "did you mean 'rlhf/Sentiment-v0'?"),
        ("RLHF/SENTIMENT", "did you mean 'rlhf/Sentiment-v0'?"),
        ("zzz", "there are rlhf/Sentiment-v0, tiny"),
    ],
)
def test_the_nearest_name_is_the_hint(name: str, hint: str) -> None:
    assert nearest(name, ["tiny", "rlhf/Sentiment-v0"]) == hint


def test_an_unknown_argument_is_an_error_with_the_nearest() -> None:
    check_arguments({"model": 1}, ["model"], "it")
    with pytest.raises(TypeError, match="it takes no argument 'modell'; did you mean 'model'"):
        check_arguments({"modell": 1}, ["model"], "it")
