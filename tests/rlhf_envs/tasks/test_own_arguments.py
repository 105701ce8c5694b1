from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import gymnasium as gym
import pytest
from gymnasium.envs.registration import EnvSpec

import agents
from agents.saving.untrusted import read_env_kwargs
from agents.training.sft import fine_tune
from rlhf_envs import register_task
from rlhf_envs.episodes import EpisodeBatch
from rlhf_envs.tasks.base import WordTask
from rlhf_envs.tasks.lookup import demonstrations, environment_rows, find_task, task_of
from rlhf_envs.testing import check_text_env

ENV = "rlhf/Levels-v0"


def count_words(completions: Sequence[str], **columns: Any) -> list[float]:
    return [float(len(text.split())) for text in completions]


class Levels(WordTask):
    """Write the words of a level."""

    name, max_prompt_tokens, max_new_tokens = "levels", 1, 2
    words = ("easy", "hard")

    def __init__(self, level: str = "easy") -> None:
        self.prompts = (level,)

    def demonstrations(self, split: str) -> list[dict[str, Any]]:
        return [{"prompt": prompt, "completion": " easy"} for prompt in self.prompts]

    def reward(self, max_new_tokens: int) -> Callable[..., Any]:
        return count_words


@pytest.fixture(autouse=True)
def registered() -> Iterator[None]:
    register_task(ENV, f"{__name__}:Levels")
    yield
    gym.registry.pop(ENV, None)


def prompts(env: Any) -> set[str]:
    return {row["prompt"] for row in env.unwrapped.rows}


def test_an_argument_of_the_tasks_class_is_one_of_its_environments() -> None:
    assert prompts(gym.make(ENV)) == {"easy"}
    env = gym.make(ENV, level="hard")
    assert prompts(env) == {"hard"}
    assert env.spec is not None
    assert prompts(gym.make(EnvSpec.from_json(env.spec.to_json()))) == {"hard"}
    assert agents.make_vec_env(ENV, 2, level="hard").env.rows == [{"prompt": "hard"}]
    check_text_env(env)


def test_an_argument_that_neither_has_is_named() -> None:
    with pytest.raises(TypeError, match=r"the environment takes no argument 'levle'.*level"):
        gym.make(ENV, levle="hard")
    with pytest.raises(ValueError, match="level='hard' is no argument of environments in general or for task"):
        EpisodeBatch(1, "rlhf_envs.tasks.token_bandit:TokenBandit", level="hard")
    with pytest.raises(ValueError, match="weights='progress' is for rlhf/Mixture-v0, not for task"):
        gym.make(ENV, weights="progress")


def test_rows_and_tasks_are_found_without_making_the_environment() -> None:
    task: Any = task_of(ENV, level="hard")
    assert task.prompts == ("hard",)
    assert environment_rows(f"{__name__}:Levels", "test", level="hard", model=None) == [{"prompt": "hard"}]


def test_sft_learns_the_demonstrations_of_the_task_that_they_say(tmp_path: Any) -> None:
    task = find_task(ENV, level="hard")
    assert task is not None
    assert {row["prompt"] for row in demonstrations(task)} == {"hard"}
    with pytest.raises(TypeError, match="the task of rlhf/Levels-v0 takes no argument 'levle'"):
        find_task(ENV, levle="hard")
    with pytest.raises(ValueError, match="are of an environment, and the data is none"):
        fine_tune([{"prompt": "a", "completion": "b"}], tmp_path / "start", env_kwargs={"level": "hard"})


def test_a_mixture_hands_each_task_its_own() -> None:
    tasks = [{"id": ENV, "level": "hard", "name": "b"}, {"id": ENV, "name": "a"}]
    env = gym.make("rlhf/Mixture-v0", tasks=tasks)
    assert prompts(env) == {"easy", "hard"}
    with pytest.raises(TypeError, match="task 'levels' of the mixture takes no argument 'levle'"):
        gym.make("rlhf/Mixture-v0", tasks=[{"id": ENV, "levle": "hard"}, ENV])


def test_files_may_have_them_for_their_own_environment_alone() -> None:
    assert read_env_kwargs({"level": "hard"}, "it", env_id=ENV) == {"level": "hard"}
    assert read_env_kwargs({"tasks": [{"id": ENV, "level": "hard"}]}, "it")
    with pytest.raises(ValueError, match="argument 'level' is not taken from it"):
        read_env_kwargs({"level": "hard"}, "it", env_id="rlhf/Sentiment-v0")
    with pytest.raises(ValueError, match="level names 'someone/else', which is not followed"):
        read_env_kwargs({"level": "someone/else"}, "a bundle", follow_paths=False, env_id=ENV)


def test_a_bundle_remakes_its_environment_with_them(tmp_path: Any) -> None:
    agent = agents.make("reinforce", agents.make_vec_env(ENV, 2, level="hard"))
    agents.save(agent, tmp_path / "agent")
    assert agents.load(tmp_path / "agent").get_env().env.rows == [{"prompt": "hard"}]


@pytest.mark.parametrize("path", ["C:/data/rows.jsonl", "D:\\rows/a.csv", "s3:bucket/rows.jsonl", "rows.jsonl"])
def test_a_file_with_a_colon_is_no_environment(path: str) -> None:
    assert find_task(path) is None


@pytest.mark.parametrize(
    ("env_id", "columns"),
    [
        ("rlhf/SpamFilter-v0", {"label": "ham"}),
        ("rlhf/Classify-v0", {"label": "good"}),
        ("rlhf/ChineseReview-v0", {"label": "好评"}),
        ("rlhf/ImageQA-v0", {"label": "red"}),
        ("rlhf/Bias-v0", {"options": ["a", "b", "c"], "label": 0, "unknown": 1, "stereotype": 2}),
        ("rlhf/ReasoningGym-v0", {"answer": "1"}),
        ("rlhf/QuestionAnswering-v0", {"answer": "1"}),
    ],
)
def test_a_task_with_a_prompt_of_its_own_refuses_messages(env_id: str, columns: dict[str, Any]) -> None:
    row = {"prompt": [{"role": "user", "content": "很好 or not?"}], **columns}
    with pytest.raises(ValueError, match=r"row 0 has the prompt .*: give a text"):
        gym.make(env_id, data=[row], validation_share=0, test_share=0)
