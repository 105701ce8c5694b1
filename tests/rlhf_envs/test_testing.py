"""`check_text_env` must pass what is right and find what is broken: one environment a kind of fault."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from rlhf_envs.dialogs import Dialog, Reply
from rlhf_envs.tasks import WordTask
from rlhf_envs.testing import check_text_env
from rlhf_envs.text_env import TextGenerationEnv
from rlhf_envs.vector_env import TextGenerationVectorEnv

EOS = 1


class Words(WordTask):
    name = "words"
    words = ("a", "b", "c")
    prompts = ("a", "b c", "c a")
    max_prompt_tokens = 2
    max_new_tokens = 4

    def reward(self, max_new_tokens: int) -> Any:
        return count_words


class Answering(Words):
    def replies(self, dialogs: Sequence[Dialog]) -> list[Reply | None]:
        return [Reply("c", reward=1.0) if dialog.turn < 3 else None for dialog in dialogs]


def count_words(prompts: list[str], completions: list[str], **columns: list[Any]) -> list[float]:
    return [float(len(completion.split())) for completion in completions]


class Env(TextGenerationEnv):
    def __init__(self, render_mode: str | None = None, **options: Any) -> None:
        super().__init__(Words, render_mode=render_mode, **options)


class Truncates(Env):
    """Faults are overrides of step or reset."""

    def step(self, action: Any) -> Any:
        obs, reward, terminated, _, info = super().step(action)
        return obs, reward, False, terminated, info


class ForgetsTheFirstToken(Env):
    def step(self, action: Any) -> Any:
        obs, *rest = super().step(action)
        length = int(obs["attention_mask"].sum())
        obs["input_ids"][: length - 1] = obs["input_ids"][1:length].copy()
        obs["attention_mask"][length - 1] = 0
        return obs, *rest


class PadsOnTheLeft(Env):
    def reset(self, **kwargs: Any) -> Any:
        obs, info = super().reset(**kwargs)
        return {key: value[::-1].copy() for key, value in obs.items()}, info


class RewardsEveryToken(Env):
    def step(self, action: Any) -> Any:
        obs, reward, *rest = super().step(action)
        return obs, reward + 0.1, *rest


class RewardsWithNan(Env):
    def step(self, action: Any) -> Any:
        obs, reward, terminated, *rest = super().step(action)
        return obs, float("nan") if terminated else reward, terminated, *rest


class IgnoresEos(Env):
    def step(self, action: Any) -> Any:
        result = super().step(action)
        if action == EOS and result[2]:
            self.episodes._running[0] = True
            return result[0], 0.0, False, False, {}
        return result


class NamesTheWrongReason(Env):
    def step(self, action: Any) -> Any:
        result = super().step(action)
        if result[2]:
            result[4]["finish_reason"] = "length"
        return result


class EndsEarly(Env):
    def step(self, action: Any) -> Any:
        result = super().step(action)
        if self.episodes.steps[0] == 2 and not result[2]:
            finished = self.episodes._finish(np.array([0]), ["length"])
            self.episodes.score(finished)
            return result[0], 0.0, True, False, finished[0].info
        return result


class GoesOnForever(Env):
    """Its space is larger than max_new_tokens says."""

    max_new_tokens = 3  # type: ignore[assignment]


class LacksTheCompletion(Env):
    def step(self, action: Any) -> Any:
        result = super().step(action)
        result[4].pop("completion", None)
        return result


class ReportsNoComponents(Env):
    def step(self, action: Any) -> Any:
        result = super().step(action)
        if result[2]:
            result[4]["reward_components"] = {"words": None}
        return result


class ClipsActions(Env):
    def step(self, action: Any) -> Any:
        return super().step(int(np.clip(action, 0, self.action_space.n - 1)))  # type: ignore[attr-defined]


class ReusesItsArrays(Env):
    def step(self, action: Any) -> Any:
        _, *rest = super().step(action)
        return {"input_ids": self.episodes.ids[0], "attention_mask": self.episodes.mask[0]}, *rest


class IgnoresTheSeed(Env):
    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        obs, info = super().reset(seed=None if options is None else seed, options=options)
        self._np_random_seed = seed
        return obs, info


class AlwaysTheSamePrompt(Env):
    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        return super().reset(seed=seed, options=options or {"index": 1})


class IgnoresTheIndex(Env):
    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        return super().reset(seed=seed)


class HasAnotherDtype(Env):
    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        space = gym.spaces.Box(0, self.episodes.vocab_size - 1, (6,), np.int32)
        self.observation_space = gym.spaces.Dict({**self.observation_space.spaces, "input_ids": space})  # type: ignore[attr-defined]


class HasMoreActionsThanTokens(Env):
    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        vocabulary = gym.spaces.Box(0, 5, (6,), np.int64)
        self.observation_space = gym.spaces.Dict({**self.observation_space.spaces, "input_ids": vocabulary})  # type: ignore[attr-defined]
        self.action_space = gym.spaces.Discrete(6)  # type: ignore[assignment]


class ActsOnPairs(Env):
    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.action_space = gym.spaces.MultiDiscrete([5, 5])  # type: ignore[assignment]


class CannotBePickled(Env):
    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.handle = lambda: None


class AppendsAStrangeToken(Env):
    def step(self, action: Any) -> Any:
        obs, reward, terminated, *rest = super().step(action)
        if not terminated and action != EOS and self.episodes.lengths[0] < 5:
            obs["input_ids"][self.episodes.lengths[0]] = 2
            obs["attention_mask"][self.episodes.lengths[0]] = 1
        return obs, reward, terminated, *rest


@pytest.mark.parametrize(
    ("env", "message"),
    [
        (Truncates, "never truncated"),
        (ForgetsTheFirstToken, "only grow by appending"),
        (PadsOnTheLeft, "right-padded"),
        (RewardsEveryToken, "rewards fall at the end"),
        (RewardsWithNan, "finite float"),
        (IgnoresEos, "EOS without a reply must end"),
        (NamesTheWrongReason, "finish_reason must be 'eos'"),
        (EndsEarly, "ended by its length after 2 of max_new_tokens=4"),
        (GoesOnForever, "the space of 'input_ids' must be"),
        (LacksTheCompletion, "needs 'completion' of type str"),
        (ReportsNoComponents, "reward_components must map names to finite floats"),
        (ClipsActions, r"step\(-1\), outside .* must raise a ValueError"),
        (ReusesItsArrays, "share"),
        (IgnoresTheSeed, "same seed"),
        (AlwaysTheSamePrompt, "30 seeds all drew the same prompt"),
        (IgnoresTheIndex, "must take the prompt of row 0"),
        (HasAnotherDtype, "the space of 'input_ids' must be"),
        (HasMoreActionsThanTokens, "6 tokens and the tokenizer 5"),
        (ActsOnPairs, r"Discrete\(vocab_size\)"),
        (CannotBePickled, "cannot be pickled, though its reward can"),
        (AppendsAStrangeToken, "may only follow an EOS"),
    ],
)
def test_a_broken_environment_is_found(env: Callable[[], gym.Env[Any, Any]], message: str) -> None:
    with pytest.raises(AssertionError, match=message):
        check_text_env(env())


def test_right_environments_without_a_spec_pass() -> None:
    check_text_env(Env())
    check_text_env(TextGenerationEnv(Answering))
    check_text_env(Env(reward_fn=lambda prompts, **_: [1.0] * len(prompts)))  # cannot be pickled, nor need it be


class Forgets(Answering):
    def replies(self, dialogs: Sequence[Dialog]) -> list[Reply | None]:
        for dialog in dialogs:
            dialog.state["seen"] = {"a"}
        return super().replies(dialogs)


def test_a_dialogs_state_that_cannot_be_saved_is_found() -> None:
    with pytest.raises(AssertionError, match=r"cannot be saved: .*state\['seen'\] is a set"):
        check_text_env(TextGenerationEnv(Forgets))


class ReadsAFileTwice(Words):
    def rows(self, split: str, data: Any) -> Any:
        return [{"prompt": "a"}] if data is None else [{"prompt": word} for word in Path(data).read_text().split()]


class DropsData(Words):
    def rows(self, split: str, data: Any) -> Any:
        return [{"prompt": prompt} for prompt in (self.prompts if data is None else ["a"])]


class KnowsOneSplit(Words):
    def rows(self, split: str, data: Any) -> Any:
        return {"train": super().rows(split, data)}[split]


class MeasuresTheFirstWord(Words):
    def metrics(self, prompts: Any, completions: Any, columns: Any) -> Any:
        return {"a": [float(text.split()[0] == "a") for text in completions]}


@pytest.mark.parametrize(
    ("task", "message"),
    [
        (ReadsAFileTwice, r"rows\(split, data\) fails on rows that it made, TypeError"),
        (DropsData, r"rows\(split, data\) must return the rows of `data`"),
        (KnowsOneSplit, r"rows\('validation', None\) must return rows or raise a ValueError, not KeyError"),
        (MeasuresTheFirstWord, "metrics of an empty completion fail, IndexError"),
    ],
)
def test_a_task_that_evaluations_would_fail_on_is_found(task: type[Words], message: str) -> None:
    with pytest.raises(AssertionError, match=message):
        check_text_env(TextGenerationEnv(task))


class Unprintable(Env):
    def render(self) -> Any:
        return b"bytes"


class PaysMoreInBatches(TextGenerationVectorEnv):
    def __init__(self, num_envs: int, **options: Any) -> None:
        super().__init__(num_envs, Words, **options)

    def step(self, actions: np.ndarray) -> Any:
        obs, rewards, *rest = super().step(actions)
        return obs, rewards + 1, *rest


def right_batch(num_envs: int, **options: Any) -> TextGenerationVectorEnv:
    return TextGenerationVectorEnv(num_envs, Words, **options)


class WantsATask(TextGenerationEnv):
    """Registered with a task object, which does not go into JSON."""


@pytest.mark.parametrize(
    ("single", "batch", "kwargs", "message"),
    [
        (Env, right_batch, {}, None),
        (Env, None, {}, None),
        (Unprintable, right_batch, {}, "render_mode 'human' must print|'ansi' must return text"),
        (Env, PaysMoreInBatches, {}, "the batched environment differs from single ones"),
        (WantsATask, None, {"task": Words()}, "does not go into JSON"),
    ],
)
def test_a_registered_environment_is_checked_with_its_twin_its_spec_and_its_rendering(
    single: Any, batch: Any, kwargs: dict[str, Any], message: str | None
) -> None:
    path = f"{__name__}:"
    gym.register(
        "test/Words-v0",
        entry_point=path + single.__name__,
        vector_entry_point=batch and path + batch.__name__,
        kwargs=kwargs,
    )
    try:
        if message is None:
            check_text_env("test/Words-v0")
        else:
            with pytest.raises(AssertionError, match=message):
                check_text_env("test/Words-v0")
    finally:
        gym.registry.pop("test/Words-v0")
