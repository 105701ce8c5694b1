from __future__ import annotations

import logging
import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from tokenizers.processors import TemplateProcessing

from rlhf_envs.dialogs import Dialog
from rlhf_envs.prompts import _warn_once
from rlhf_envs.rewards import Reward
from rlhf_envs.rewards.rules import TokenBanditReward
from rlhf_envs.tasks import Task, WordTask
from rlhf_envs.tasks.token_bandit import TokenBandit
from rlhf_envs.text_env import TextGenerationEnv
from rlhf_envs.vector_env import TextGenerationVectorEnv

PAD, EOS, A, B, C = range(5)


class Words(WordTask):
    """Prompts of one to three letters; the reward is the number of words of the completion."""

    name = "words"
    words = ("a", "b", "c", "d")
    prompts = ("a", "b c", "a b c")
    max_prompt_tokens = 3
    max_new_tokens = 5

    def reward(self, max_new_tokens: int) -> Any:
        return count_words


def count_words(prompts: list[str], completions: list[str], **columns: list[Any]) -> list[float]:
    return [float(len(completion.split())) for completion in completions]


class Echo(Words):
    """A user who answers "d d" until it has been said twice."""

    def replies(self, dialogs: Sequence[Dialog]) -> list[str | None]:
        return ["d d" if str(dialog.messages).count("d") < 4 else None for dialog in dialogs]


def context(obs: dict[str, np.ndarray]) -> list[int]:
    return obs["input_ids"][obs["attention_mask"] == 1].tolist()


def play(env: TextGenerationEnv, actions: Sequence[int], index: int = 0) -> tuple[Any, ...]:
    env.reset(seed=0, options={"index": index})
    for action in actions:
        result = env.step(action)
    return result


def test_an_episode_appends_actions_to_the_prompt_and_is_rewarded_at_eos() -> None:
    env = TextGenerationEnv(Words)
    obs, info = env.reset(options={"index": 1})
    assert obs["input_ids"].tolist() == [B, C, PAD, PAD, PAD, PAD, PAD, PAD]
    assert obs["attention_mask"].tolist() == [1, 1, 0, 0, 0, 0, 0, 0]
    assert info == {"index": 1}
    obs, reward, terminated, truncated, info = env.step(A)
    assert context(obs) == [B, C, A]
    assert (reward, terminated, truncated, info) == (0.0, False, False, {})
    obs, reward, terminated, truncated, info = env.step(EOS)
    assert context(obs) == [B, C, A, EOS]
    assert (reward, terminated, truncated) == (1.0, True, False)
    assert info == {
        "prompt": "b c",
        "completion": " a",
        "completion_ids": [A, EOS],
        "finish_reason": "eos",
        "reward_components": {"count_words": 1.0},
        "index": 1,
    }


@pytest.mark.parametrize(("index", "prompt_length"), [(0, 1), (2, 3)])
def test_the_limit_counts_new_tokens_whatever_the_prompts_length(index: int, prompt_length: int) -> None:
    env = TextGenerationEnv(Words)
    obs, reward, terminated, truncated, info = play(env, [A] * 5, index)
    assert (reward, terminated, truncated, info["finish_reason"]) == (5.0, True, False, "length")
    assert obs["attention_mask"].sum() == prompt_length + 5


def test_an_eos_as_the_last_token_allowed_is_an_eos() -> None:
    assert play(TextGenerationEnv(Words), [A, A, A, A, EOS])[4]["finish_reason"] == "eos"


def test_a_pad_chosen_by_the_agent_is_a_token_of_the_context() -> None:
    obs, *_ = play(TextGenerationEnv(Words), [PAD, A])
    assert context(obs) == [A, PAD, A]


def test_observations_are_never_shared() -> None:
    env = TextGenerationEnv(Words)
    first, _ = env.reset(options={"index": 0})
    kept = {key: value.copy() for key, value in first.items()}
    second, *_ = env.step(B)
    second["input_ids"][:] = 0
    third, *_ = env.step(C)
    assert all((first[key] == kept[key]).all() for key in kept)
    assert context(third) == [A, B, C]


@pytest.mark.parametrize("action", [-1, 6, 1.0, np.array([1, 2]), "a", True])
def test_an_action_outside_the_space_is_named(action: Any) -> None:
    env = TextGenerationEnv(Words)
    env.reset(seed=0)
    with pytest.raises(ValueError, match=r"action"):
        env.step(action)


def test_the_message_of_a_bad_action_has_the_value_and_the_space() -> None:
    env = TextGenerationEnv(Words)
    before, _ = env.reset(seed=0)
    with pytest.raises(ValueError, match=r"action 6 \(row 0\) is outside the space Discrete\(6\): .* 0 to 5"):
        env.step(6)
    obs, *_ = env.step(A)  # and nothing has changed
    assert context(obs) == [*context(before), A]


def test_stepping_without_an_episode_asks_for_a_reset() -> None:
    env = TextGenerationEnv(Words)
    with pytest.raises(gym.error.ResetNeeded):
        env.step(A)
    play(env, [EOS])
    with pytest.raises(gym.error.ResetNeeded):
        env.step(A)


def test_prompts_are_drawn_from_all_rows_and_reproducibly() -> None:
    env, other = TextGenerationEnv(Words), TextGenerationEnv(Words)
    draws = [env.reset(seed=3 if i == 0 else None)[1]["index"] for i in range(40)]
    assert draws == [other.reset(seed=3 if i == 0 else None)[1]["index"] for i in range(40)]
    assert set(draws) == {0, 1, 2}


@pytest.mark.parametrize("index", [-1, 3, 1.5, "1", True])
def test_an_index_without_a_row_is_named(index: Any) -> None:
    with pytest.raises(ValueError, match=r"options\['index'\] must be a row of the data, 0 to 2, got"):
        TextGenerationEnv(Words).reset(options={"index": index})


def test_an_unknown_option_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"unknown reset options prompt"):
        TextGenerationEnv(Words).reset(options={"prompt": "a"})


def test_a_reply_is_appended_after_eos_and_the_episode_goes_on() -> None:
    env = TextGenerationEnv(Echo, max_new_tokens=12)
    d = env.tokenizer.convert_tokens_to_ids("d")
    env.reset(options={"index": 0})
    env.step(B)
    obs, reward, terminated, _, info = env.step(EOS)
    assert context(obs) == [A, B, EOS, d, d]
    assert (reward, terminated, info) == (0.0, False, {})
    obs, *_ = env.step(C)
    obs, _, terminated, *_ = env.step(EOS)
    assert context(obs) == [A, B, EOS, d, d, C, EOS, d, d]
    assert not terminated
    obs, reward, terminated, _, info = env.step(EOS)
    assert terminated
    assert info["finish_reason"] == "eos"
    assert info["completion"] == " b d d c d d"
    assert reward == 6


@pytest.mark.parametrize(("room", "goes_on"), [(4, True), (3, False)])
def test_a_reply_needs_room_for_itself_and_an_action(room: int, goes_on: bool) -> None:
    obs, _, terminated, _, info = play(TextGenerationEnv(Echo, max_new_tokens=room), [EOS])
    assert terminated is not goes_on
    assert len(context(obs)) == (4 if goes_on else 2)
    assert goes_on or (info["finish_reason"], info["metrics"]) == ("length", {"turns": 1, "reply_cut": 1})


def test_long_prompts_lose_their_beginning_and_are_counted_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    _warn_once.cache_clear()
    with caplog.at_level(logging.WARNING):
        env, _ = TextGenerationEnv(Words, max_prompt_tokens=2), TextGenerationEnv(Words, max_prompt_tokens=2)
    assert [record.getMessage() for record in caplog.records] == [  # once
        "task 'words': 1 of 3 prompts are longer than max_prompt_tokens=2 and lose their beginning; the longest has 3 "
        "tokens, max_prompt_tokens=3 keeps all"
    ]
    obs, _ = env.reset(options={"index": 2})
    assert context(obs) == [B, C]
    assert play(env, [EOS], index=2)[4]["prompt"] == "b c"


def test_long_prompts_are_an_error_if_asked() -> None:
    with pytest.raises(ValueError, match=r"1 of 3 prompts are longer than max_prompt_tokens=2; .*row 2 with 3 tokens"):
        TextGenerationEnv(Words, max_prompt_tokens=2, on_long_prompt="error")
    with pytest.raises(ValueError, match="on_long_prompt must be 'truncate' or 'error', got 'drop'"):
        TextGenerationEnv(Words, on_long_prompt="drop")  # type: ignore[arg-type]


class Special(Words):
    """A tokenizer with a BOS before every prompt and, like Llama's, no pad token; its vocabulary is that of `Words`."""

    words = ("a", "b", "c", "<s>")

    def tokenizer(self, model: str | None) -> Any:
        tokenizer = super().tokenizer(model)
        tokenizer.add_special_tokens({"bos_token": "<s>"})
        tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
            "<s> $A <|eos|>", None, [("<s>", 5), ("<|eos|>", 1)]
        )
        tokenizer.pad_token = None
        return tokenizer


def test_bos_stays_an_eos_added_by_the_tokenizer_goes_and_padding_needs_no_pad_token() -> None:
    env = TextGenerationEnv(Special)
    obs, _ = env.reset(options={"index": 1})
    assert obs["input_ids"].tolist() == [5, B, C, 0, 0, 0, 0, 0]
    assert obs["attention_mask"].sum() == 3
    assert play(env, [A, EOS], index=1)[4]["prompt"] == "b c"
    obs, _ = TextGenerationEnv(Special, max_prompt_tokens=2).reset(options={"index": 2})
    assert context(obs) == [5, C]


class PadIsEos(Words):
    def tokenizer(self, model: str | None) -> Any:
        tokenizer = super().tokenizer(model)
        tokenizer.pad_token = tokenizer.eos_token
        return tokenizer


def test_a_pad_that_is_the_eos_ends_nothing() -> None:
    env = TextGenerationEnv(PadIsEos)
    obs, _ = env.reset(options={"index": 0})
    assert obs["input_ids"].tolist() == [A] + [EOS] * 7
    assert obs["attention_mask"].sum() == 1
    assert not env.step(B)[2]
    assert env.step(EOS)[2]


class Recorder:
    """A reward that keeps what it is called with."""

    def __init__(self) -> None:
        self.calls: list[dict[str, Any]] = []

    def __call__(self, **arguments: Any) -> list[float]:
        self.calls.append(arguments)
        return [0.0] * len(arguments["prompts"])


def test_the_reward_gets_the_rows_columns_as_lists() -> None:
    recorder = Recorder()
    data = [{"prompt": "a", "label": 1}, {"prompt": "b", "label": 0, "reference": "c"}]
    play(TextGenerationEnv(Words, data=data, reward_fn=recorder), [C, EOS])
    assert recorder.calls == [{"prompts": ["a"], "completions": [" c"], "label": [1], "reference": [None]}]


def test_a_reward_that_is_not_a_number_stops_the_episode_with_its_text() -> None:
    env = TextGenerationEnv(Words, reward_fn=lambda **_: [float("nan")])
    with pytest.raises(ValueError, match=r"reward '<lambda>' returned nan .* Prompt: 'a'. Completion: ' b'"):
        play(env, [B, EOS])


def test_rewards_compose_in_the_environment_and_can_be_replaced() -> None:
    env = TextGenerationEnv(Words, reward_fn=2 * TokenBanditReward() + count_words)
    reward, info = play(env, [B, EOS])[1::3]
    assert info["reward_components"].keys() == {"token-bandit", "count_words"}
    assert reward == pytest.approx(2 * info["reward_components"]["token-bandit"] + 1)
    env.reward_fn = count_words
    assert play(env, [B, B, EOS])[1] == 2


class Measured(Words):
    def metrics(self, prompts: list[str], completions: list[str], columns: Any) -> Any:
        return {"characters": np.array([len(completion) for completion in completions])}


def test_a_tasks_metrics_are_in_the_last_info() -> None:
    assert play(TextGenerationEnv(Measured), [B, EOS])[4]["metrics"] == {"characters": 2.0}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"reward": "token-bandit", "reward_fn": count_words}, "two rewards: give one"),
        ({"reward": "beauty"}, "unknown reward 'beauty'; there are"),
        ({"reward_fn": 3}, "reward_fn must be callable, got 3"),
        ({"data": []}, "the data: there are no rows"),
        ({"data": [{"prompt": "a"}, {"text": "a"}]}, r"row 1 of the data: no column 'prompt' \(it has: text\)"),
        ({"data": [{"prompt": " "}]}, "row 0 of the data: 'prompt' is empty"),
        ({"data": [{"prompt": "a", "completions": 1}]}, "has a column 'completions'"),
        ({"max_new_tokens": 0}, "max_new_tokens must be a whole number of at least 1, got 0"),
        ({"max_prompt_tokens": 2.5}, "max_prompt_tokens must be a whole number"),
        ({"render_mode": "video"}, "unknown render_mode 'video'; there are human, ansi, rgb_array"),
    ],
)
@pytest.mark.parametrize("batched", [False, True])
def test_bad_arguments_are_named_before_anything_runs(arguments: dict[str, Any], message: str, batched: bool) -> None:
    with pytest.raises(ValueError, match=message):
        TextGenerationVectorEnv(2, Words, **arguments) if batched else TextGenerationEnv(Words, **arguments)


@pytest.mark.parametrize(
    ("task", "message"),
    [
        ("sentiment", "'sentiment' is no 'module:attribute'"),
        ("no.such.module:Task", "there is no module 'no' in "),
        ("rlhf_envs.tasks.sentiment:Sentimant", "there is no 'Sentimant' in .*did you mean 'Sentiment'"),
    ],
)
def test_an_unknown_task_is_named_with_what_to_do(task: str, message: str) -> None:
    with pytest.raises(ValueError, match=f"unknown task '{task}': {message}"):
        TextGenerationEnv(task)


def test_data_comes_from_a_file_and_its_errors_name_the_line(tmp_path: Path) -> None:
    path = tmp_path / "prompts.jsonl"
    path.write_text('{"prompt": "a"}\n{"prompt": "b", "label": 1}\n', encoding="utf-8")
    assert [row["prompt"] for row in TextGenerationEnv(Words, data=str(path)).rows] == ["a", "b"]
    path.write_text('{"prompt": "a"}\n{"prompt": }\n', encoding="utf-8")
    with pytest.raises(ValueError, match=r"prompts.jsonl:2"):
        TextGenerationEnv(Words, data=str(path))
    path.write_text("", encoding="utf-8")
    with pytest.raises(ValueError, match=r"prompts.jsonl.*no rows"):
        TextGenerationEnv(Words, data=str(path))


class Openings(Task):
    """A task on a real tokenizer, with a reward that needs no model."""

    name = "openings"

    def rows(self, split: str, data: Any) -> list[dict[str, Any]]:
        return [{"prompt": "This film"}]

    def reward(self, max_new_tokens: int) -> Any:
        return count_words


def test_contexts_beyond_the_models_positions_are_an_error_with_the_numbers() -> None:
    with pytest.raises(ValueError, match=r"max_prompt_tokens=16 \+ max_new_tokens=241 is 257, beyond the 256 .*'tiny'"):
        TextGenerationEnv(Openings, max_new_tokens=241)
    TextGenerationEnv(Openings, max_new_tokens=240)


class Enlarged(Openings):
    def tokenizer(self, model: str | None) -> Any:
        tokenizer = pickle.loads(pickle.dumps(super().tokenizer(model)))
        tokenizer.add_tokens(["<extra>"])
        return tokenizer


def test_a_tokenizer_that_is_not_the_models_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"tokenizer has 3073 tokens, the model 'tiny' only 3072"):
        TextGenerationEnv(Enlarged)


def test_an_unknown_model_lists_those_that_exist() -> None:
    with pytest.raises(ValueError, match=r"unknown model 'huge'.*tiny"):
        TextGenerationEnv(Openings, model="huge")


def test_prompt_and_completion_join_to_the_decoded_text() -> None:
    env = TextGenerationEnv(Openings)
    ids = env.tokenizer(" was a great surprise!")["input_ids"]
    info = play(env, [*ids, EOS])[4]
    assert info["prompt"] == "this film"
    assert info["completion"] == " was a great surprise!"


def test_ansi_shows_prompt_and_completion_and_disarms_control_characters() -> None:
    env = TextGenerationEnv(Openings, render_mode="ansi")
    ids = env.tokenizer("\x1b[2J", add_special_tokens=False)["input_ids"]
    play(env, ids)
    assert env.render() == r"this film |\x1b[2j"


def test_rgb_array_draws_the_text() -> None:
    env = TextGenerationEnv(Words, render_mode="rgb_array")
    env.reset(options={"index": 0})
    before = env.render()
    env.step(B)
    after = env.render()
    assert isinstance(before, np.ndarray)
    assert isinstance(after, np.ndarray)
    assert before.shape == after.shape == (360, 640, 3)
    assert (before != after).any()


def test_human_prints_the_text_as_it_grows(capsys: pytest.CaptureFixture[str]) -> None:
    env = TextGenerationEnv(Words, render_mode="human")
    env.reset(options={"index": 1})
    env.step(A)
    assert env.render() is None
    env.step(EOS)
    env.reset(options={"index": 0})
    assert capsys.readouterr().out == "\nb c a [eos, reward 1]\na"


def test_render_without_a_mode_warns() -> None:
    env = TextGenerationEnv(Words)
    env.reset()
    with pytest.warns(UserWarning, match="render_mode"):
        assert env.render() is None


class Unpicklable(Reward):
    name = "unpicklable"

    def __init__(self) -> None:
        self.handle = lambda: None

    def score(self, prompts: list[str], completions: list[str], **columns: list[Any]) -> np.ndarray:
        return np.zeros(len(prompts))


def test_an_environment_is_pickled_in_the_middle_of_an_episode() -> None:
    env = TextGenerationEnv(Words)
    env.reset(seed=5, options={"index": 1})
    env.step(A)
    copy = pickle.loads(pickle.dumps(env))
    assert context(copy.step(B)[0]) == [B, C, A, B]
    assert [env.reset()[1]["index"] for _ in range(20)] == [copy.reset()[1]["index"] for _ in range(20)]
    with pytest.raises((pickle.PicklingError, AttributeError), match="lambda"):
        pickle.dumps(TextGenerationEnv(Words, reward_fn=Unpicklable()))


def test_bandit_by_class_object_and_address_are_the_same_task() -> None:
    for task in (TokenBandit, TokenBandit(), "rlhf_envs.tasks.token_bandit:TokenBandit"):
        assert TextGenerationEnv(task).task.name == "token-bandit"
