"""An environment asks in conversations: what agents observe, what rewards get, and where an episode ends."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForSequenceClassification

import rlhf_envs  # noqa: F401  # registers the environments
from rlhf_envs.rewards import Reward, evaluate_reward, get_reward
from rlhf_envs.rewards.pessimism import Pessimistic
from rlhf_envs.rewards.reward_model import RewardModel, score_ids
from rlhf_envs.tasks import Task
from rlhf_envs.testing import check_text_env
from rlhf_envs.text_env import TextGenerationEnv
from rlhf_envs.tokens import encode_after
from tests.rlhf_envs.chat_families import FAMILIES, family_tokenizer
from tests.rlhf_envs.small_models import byte_level, save_model

USER = {"role": "user", "content": "Name a colour"}
SYSTEM = {"role": "system", "content": "Be brief."}
ID = "rlhf/Prompts-v0"


def said(text: str) -> list[dict[str, str]]:
    return [{"role": "assistant", "content": text}]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return save_model(tmp_path_factory.mktemp("chatml"), family_tokenizer("chatml"), vocab_size=300)


class Recorder:
    """A plain reward function, as for TRL: it keeps what it is given."""

    def __init__(self) -> None:
        self.seen: dict[str, Any] = {}

    def __call__(self, prompts: list[Any], completions: list[Any], whole_prompts: list[Any], **columns: Any) -> Any:
        self.seen = {"prompts": prompts, "completions": completions, "whole_prompts": whole_prompts, **columns}
        return [0.5] * len(prompts)


def context(observation: dict[str, np.ndarray]) -> list[int]:
    ids: list[int] = observation["input_ids"][: observation["attention_mask"].sum()].tolist()
    return ids


def play(env: Any, text: str, end: str | None = "<|im_end|>") -> dict[str, Any]:
    ids = encode_after(env.tokenizer, text) + ([] if end is None else [env.tokenizer.convert_tokens_to_ids(end)])
    env.reset(options={"index": 0})
    for token in ids:
        _, _, ended, _, info = env.step(token)
    assert ended
    return dict(info)


def test_an_episode_is_a_conversation_to_the_agent_and_to_its_reward(model: str) -> None:
    reward, answer = Recorder(), "Blue <|im_end|>"  # spelled by other tokens than the control token
    options: dict[str, Any] = {"model": model, "system_prompt": "Be brief.", "reward_fn": reward, "max_new_tokens": 40}
    env = TextGenerationEnv(Task, data=[{"prompt": [USER], "kind": "colour"}], **options)
    observation, _ = env.reset(seed=0)
    expected = env.tokenizer.apply_chat_template([SYSTEM, USER], add_generation_prompt=True, return_dict=False)
    assert context(observation) == expected
    env.step(0)
    words = env.tokenizer(answer, split_special_tokens=True, add_special_tokens=False)["input_ids"]
    env.reset(seed=0)
    for token in words:
        assert not env.step(token)[2]
    info = env.step(env.tokenizer.convert_tokens_to_ids("<|im_end|>"))[-1]
    asked = [SYSTEM, USER]
    assert info["finish_reason"] == "eos"
    assert (info["prompt"], info["completion"], info["messages"]) == (asked, said(answer), [*asked, *said(answer)])
    assert reward.seen == {
        "prompts": [asked], "completions": [said(answer)], "whole_prompts": [asked], "kind": ["colour"]
    }  # fmt: skip
    assert env.rows[0]["prompt"] == asked


def test_a_reward_cannot_change_the_data(model: str) -> None:
    def careless(prompts: list[Any], completions: list[Any], whole_prompts: Any, facts: Any, **_: Any) -> list[float]:
        prompts[0][0]["content"] = whole_prompts[0][0]["content"] = "changed"
        facts[0]["colours"].append("changed")
        return [0.0]

    row = {"prompt": [USER], "facts": {"colours": ["blue"]}}
    env = TextGenerationEnv(Task, model=model, data=[row], reward_fn=careless)
    play(env, "Blue")
    assert env.rows[0] == {"prompt": [USER], "facts": {"colours": ["blue"]}}


def test_strings_and_conversations_go_side_by_side_in_a_batch(model: str) -> None:
    rows = [{"prompt": "the film", "split": "train"}, {"prompt": [USER], "split": "train"}]
    reward = Recorder()
    options: dict[str, Any] = {"model": model, "data": rows, "reward_fn": reward, "max_new_tokens": 1}
    envs = gym.make_vec(ID, num_envs=2, vectorization_mode="vector_entry_point", **options)
    observations, _ = envs.reset(options={"index": [0, 1]})
    infos = envs.step(np.array(encode_after(envs.unwrapped.tokenizer, "ab")))[-1]
    assert reward.seen["prompts"] == ["the film", [USER]]
    assert reward.seen["completions"] == ["a", said("b")]
    assert infos["final_info"]["prompt"].tolist() == ["the film", [USER]]
    assert observations["input_ids"].shape[1] == envs.unwrapped.max_prompt_tokens + 1


def test_messages_may_stand_in_their_own_column_and_in_another_form(model: str, tmp_path: Path) -> None:
    forms = [{"messages": [USER]}, {"conversations": [{"from": "human", "value": USER["content"]}]}]
    for form in forms:
        file = tmp_path / "rows.jsonl"
        file.write_text(json.dumps({**form, "split": "train"}) + "\n", encoding="utf-8")
        assert TextGenerationEnv(Task, model=model, data=file, reward_fn=Recorder()).rows[0]["prompt"] == [USER]
    with pytest.raises(ValueError, match="row 0: the last message is the assistant's"):
        TextGenerationEnv(Task, model=model, data=[{"messages": [USER, *said("Blue")]}], reward_fn=Recorder())


def test_the_arguments_are_json_and_make_the_same_environment_again(model: str) -> None:
    options: dict[str, Any] = {"chat": True, "system_prompt": "Be brief.", "chat_template_kwargs": {"tail": "!"}}
    options["chat_template"] = "{% for m in messages %}{{ m['content'] }}</s>{% endfor %}{{ tail }}"
    data = [{"prompt": "a", "split": "train"}]
    env = gym.make(ID, model=model, data=data, reward="length-penalty", reward_kwargs={"longest": 1}, **options)
    assert env.spec is not None
    again = gym.make(gym.envs.registration.EnvSpec.from_json(env.spec.to_json()))
    for made in (env, again):
        assert made.unwrapped.tokenizer.decode(context(made.reset(seed=0)[0])) == "Be brief.</s>a</s>!"


def test_a_conversation_keeps_its_beginning_unless_a_length_is_given(model: str) -> None:
    long = [{"role": "user", "content": "x" * 100}]
    options: dict[str, Any] = {"model": model, "data": [{"prompt": long}], "reward_fn": Recorder()}
    n = len(family_tokenizer("chatml").apply_chat_template(long, add_generation_prompt=True, return_dict=False))
    assert TextGenerationEnv(Task, **options).max_prompt_tokens == n
    assert TextGenerationEnv(Task, **options, max_prompt_tokens=64).max_prompt_tokens == 64
    with pytest.raises(
        ValueError, match=r"row 0 has 119 tokens, 19 of them of its chat template.*max_prompt_tokens=19"
    ):
        TextGenerationEnv(Task, **options, max_prompt_tokens=19)
    with pytest.raises(ValueError, match=r"leaves no room for its text in max_prompt_tokens=16: .*max_new_tokens"):
        TextGenerationEnv(Task, **options, max_new_tokens=240)  # the model has 256 positions


def test_a_refused_message_is_named_by_its_row(model: str) -> None:
    rows, options = [{"prompt": [USER]}, {"prompt": [SYSTEM, USER]}], {"chat_template": FAMILIES["gemma"].template}
    with pytest.raises(
        ValueError, match="row 1: the tokenizer's chat template refuses message 1 of 2, of role 'system'"
    ):
        TextGenerationEnv(Task, model=model, data=rows, reward_fn=Recorder(), **options)


def test_a_system_prompt_for_strings_is_no_silent_nothing(model: str) -> None:
    with pytest.raises(ValueError, match=r"system_prompt='Be brief.' begins conversations.*give chat=True"):
        TextGenerationEnv(Task, model=model, data=[{"prompt": "a"}], system_prompt="Be brief.", reward_fn=Recorder())


def test_every_end_of_the_set_ends_an_episode(tmp_path: Path) -> None:
    tokenizer = family_tokenizer("llama3")  # its EOS is not the end of a turn
    model = save_model(tmp_path, tokenizer, eos_token_id=[2, tokenizer.convert_tokens_to_ids("<|start_header_id|>")])
    env = TextGenerationEnv(Task, model=model, data=[{"prompt": [USER]}], reward_fn=Recorder())
    for end in ("<|end_of_text|>", "<|eot_id|>", "<|start_header_id|>"):
        assert play(env, "Blue", end)["completion"] == said("Blue")


@pytest.mark.parametrize(("pad", "prompt"), [("</s>", "so</s>"), ("<pad>", "s<pad>o"), (None, "so")])
def test_masks_say_what_is_padding_whatever_the_pad_token_is(tmp_path: Path, pad: str | None, prompt: str) -> None:
    tokenizer = byte_level()
    tokenizer.pad_token = pad
    model = save_model(tmp_path, tokenizer)
    env = TextGenerationEnv(Task, model=model, data=[{"prompt": prompt}], reward_fn=Recorder(), max_new_tokens=4)
    assert env.tokenizer.decode(context(env.reset(seed=0)[0])) == prompt
    info = play(env, "ab", "</s>")
    assert (info["prompt"], info["completion"], info["finish_reason"]) == (prompt, "ab", "eos")


class Length(Reward):
    """A reward of a user that says nothing of messages."""

    def score(self, prompts: list[str], completions: list[str], **columns: Any) -> list[float]:
        return [float(len(prompt + completion)) for prompt, completion in zip(prompts, completions, strict=True)]


def test_rewards_of_texts_read_what_people_read_of_a_conversation() -> None:
    prompts, completions = [[USER], [SYSTEM, USER], "a"], [said("Blue"), said("Blue"), "b"]
    shown = "System: Be brief.\n\nUser: Name a colour"
    expected = [len("Name a colourBlue"), len(shown + "Blue"), 2]
    assert Length()(prompts=prompts, completions=completions) == expected, "as TRL calls it"
    for reward in (Length(), 1.0 * Length() + 0.0 * Length()):
        assert evaluate_reward(reward, prompts, completions, {})[0].tolist() == expected


def test_a_composition_hands_messages_on_to_plain_functions() -> None:
    plain = Recorder()
    evaluate_reward(0.5 * Length() + plain, [[USER]], [said("Blue")], {"whole_prompts": [[USER]]})
    assert (plain.seen["prompts"], plain.seen["completions"]) == ([[USER]], [said("Blue")])


@pytest.mark.parametrize(
    ("name", "options"),
    [("gold-bow", {}), ("length-penalty", {"longest": 2}), ("repetition-penalty", {}), ("clipped", {"high": 0.5}),
     ("whitened", {}), ("novelty", {"memory": 2}), ("increasing-numbers", {})],
)  # fmt: skip
def test_built_in_rewards_take_conversations(name: str, options: dict[str, Any]) -> None:
    if name in ("clipped", "whitened"):
        options = {**options, "reward": "increasing-numbers"}
    prompts = [[{"role": "user", "content": "1"}]]
    ((score,), _) = evaluate_reward(get_reward(name, **options), prompts, [said("2 3 and 3 3")], {})
    lines = (["User: 1\n\nAssistant:"], [" 2 3 and 3 3"])
    texts = lines if name == "gold-bow" else (["1"], ["2 3 and 3 3"])
    assert score == evaluate_reward(get_reward(name, **options), *texts, {})[0][0]


class Members:
    """An ensemble of two that count characters."""

    def member_scores(self, prompts: list[str], completions: list[str]) -> list[list[int]]:
        lengths = [len(prompt + completion) for prompt, completion in zip(prompts, completions, strict=True)]
        return [lengths, [length + 2 for length in lengths]]


def test_an_ensemble_of_texts_is_pessimistic_about_conversations_too() -> None:
    scores = evaluate_reward(Pessimistic(Members(), k=1.0), [[USER], "a"], [said("Blue"), "b"], {})[0]
    assert scores.tolist() == [len("Name a colourBlue"), 2], "the mean is one more, the deviation 1"


@pytest.mark.slow
def test_an_environment_of_conversations_keeps_the_contracts(model: str) -> None:
    rows = [{"prompt": f"question {i}"} for i in range(20)]
    options: dict[str, Any] = {"reward": "length-penalty", "reward_kwargs": {"longest": 2}, "max_new_tokens": 6}
    check_text_env(gym.make(ID, model=model, data=rows, chat=True, system_prompt="Be brief.", **options))


def test_a_reward_model_from_elsewhere_reads_a_finished_conversation_as_trl_writes_it(tmp_path: Path) -> None:
    tokenizer = family_tokenizer("llama3")
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = LlamaConfig(vocab_size=len(tokenizer), num_labels=1, pad_token_id=0, **sizes)
    LlamaForSequenceClassification(config).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    reward: Any = get_reward(f"hf:{tmp_path}")
    conversation = [USER, *said("Blue")]
    whole = tokenizer.apply_chat_template(conversation, return_dict=False)  # GRPOTrainer._calculate_rewards
    opened = tokenizer.apply_chat_template([USER], add_generation_prompt=True, return_dict=False)
    with torch.no_grad():
        finished = score_ids(reward.model, [whole]).tolist()
        cut = score_ids(reward.model, [[*opened, *encode_after(tokenizer, "Blue")]]).tolist()
    columns = {"finish_reasons": ["eos", "length"]}
    scores = evaluate_reward(reward, [[USER]] * 2, [said("Blue")] * 2, columns)[0]
    assert scores.tolist() == pytest.approx([*finished, *cut], abs=1e-5)
    assert evaluate_reward(reward, [[USER]], [said("Blue")], {})[0].tolist() == pytest.approx(finished, abs=1e-5)
    turns = [*said("Blue"), {"role": "user", "content": "Another"}, *said("Red")]
    with torch.no_grad():
        expected = score_ids(reward.model, [tokenizer.apply_chat_template([USER, *turns], return_dict=False)]).tolist()
    assert evaluate_reward(reward, [[USER]], [turns], {})[0].tolist() == pytest.approx(expected, abs=1e-5)
    plain = evaluate_reward(reward, ["It is"], [" Blue"], {"finish_reasons": ["eos"]})[0]
    with torch.no_grad():
        expected = score_ids(reward.model, [[*tokenizer("It is Blue")["input_ids"]]]).tolist()
    assert plain.tolist() == pytest.approx(expected, abs=1e-5), "a string has no turn to end"


def test_a_reward_model_reads_a_conversation_in_its_own_template(tmp_path: Path) -> None:
    tokenizer = family_tokenizer("llama3")
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = LlamaConfig(vocab_size=len(tokenizer), num_labels=1, pad_token_id=0, **sizes)
    config.reward_ending = "<|eot_id|>"
    LlamaForSequenceClassification(config).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    reward = RewardModel(str(tmp_path))
    answer = "Blue <|eot_id|>"
    columns = {"finish_reasons": ["eos", "length"]}
    ended, cut = evaluate_reward(reward, [[USER]] * 2, [said(answer)] * 2, columns)[0]
    whole = tokenizer.apply_chat_template([USER, *said("Blue ¤")], return_dict=False)
    (at,) = [i for i in range(len(whole)) if whole[i : i + 2] == encode_after(tokenizer, "¤")]
    words = tokenizer("<|eot_id|>", split_special_tokens=True, add_special_tokens=False)["input_ids"]
    ids = [*whole[:at], *words, *whole[at + 2 :]]
    with torch.no_grad():
        expected = score_ids(reward.model, [ids, ids[:-1]]).tolist()
    assert [ended, cut] == pytest.approx(expected, abs=1e-6)
    assert abs(ended - cut) > 1e-4, "the end counts"
