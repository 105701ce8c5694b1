"""References and logged completions are read as the environment reads prompts and as the agent writes."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest

import agents
from agents.algorithms.common.logged_data import read_log
from agents.core.examples import IGNORED, encode_rows
from rlhf_envs.tokens import decode
from tests.rlhf_envs.small_models import byte_level, llama_style, save_model

ROWS = [
    {"prompt": "the film was", "reference": " good"},
    {"prompt": "the film (", "reference": "bad)"},
    {"prompt": "电影很", "reference": "好看</s>"},
]
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}</s>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
LOG = [{"prompt": row["prompt"], "completion": row["reference"], "label": 1.0} for row in ROWS]


def zero(prompts: list[str], completions: list[str], **columns: Any) -> list[float]:
    return [0.0] * len(prompts)


def make_env(folder: Path, tokenizer: Any, n_envs: int = 3, data: Any = ROWS, **options: Any) -> Any:
    model = save_model(folder, tokenizer)
    options = {"max_prompt_tokens": 24, "max_new_tokens": 20, "reward_fn": zero, "data": data} | options
    return agents.make_vec_env("rlhf/Sentiment-v0", n_envs, model=model, **options)


@pytest.mark.parametrize(
    "tokenizer", [byte_level(), byte_level(bos=True), llama_style()], ids=["bytes", "bos", "llama"]
)
def test_logs_and_references_are_learnt_as_they_are_written(tmp_path: Path, tokenizer: Any) -> None:
    env = make_env(tmp_path, tokenizer)
    episodes = env.get_attr("episodes", 0)[0]
    contexts, n_prompt, _ = read_log(LOG, env)
    agent = agents.make("sft", env, policy_kwargs=dict(model=str(tmp_path)), source="references")
    for i, row in enumerate(ROWS):
        episodes.start(0, i)
        shown = episodes.ids[0, : episodes.lengths[0]].tolist()
        assert contexts[i][: n_prompt[i]].tolist() == shown, "the prompt is the environment's"
        learnt = agent._references[i]
        assert [*learnt.context["input_ids"], learnt.actions[-1]] == contexts[i].tolist()
        text = decode(tokenizer, contexts[i].tolist()).removeprefix("<s>").removeprefix(" ")
        assert text == row["prompt"] + row["reference"].removesuffix("</s>") + "</s>", "one EOS"


def test_what_is_cut_is_counted_and_ends_with_a_whole_character(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tokenizer = byte_level()
    env = make_env(tmp_path, tokenizer, max_new_tokens=5)
    long = [*LOG, {"prompt": "a" * 25, "completion": "b", "label": 0}]
    with caplog.at_level(logging.WARNING):
        contexts, n_prompt, _ = read_log(long, env)
        agents.make("sft", env, policy_kwargs=dict(model=str(tmp_path)), source="references")
    assert [decode(tokenizer, ids[n:].tolist()) for ids, n in zip(contexts, n_prompt, strict=True)] == [
        " good",
        "bad)</s>",
        "好",
        "b</s>",
    ]
    assert "of 4 rows 1 lose the beginning of the prompt and 2 the end of the completion" in caplog.text
    assert "2 of 3 rows: completions that lost their end, and with it their EOS (max_new_tokens=5)" in caplog.text


ASKED = [{"role": "user", "content": "Name a colour"}]
BLUE = {"role": "assistant", "content": "Blue"}


@pytest.mark.parametrize("template", [None, CHATML], ids=["role lines", "template"])
@pytest.mark.parametrize("completion", ["Blue", [BLUE], BLUE, [*ASKED, BLUE]], ids=["text", "list", "one", "whole"])
def test_sft_learns_what_the_command_learns_of_the_same_row(tmp_path: Path, completion: Any, template: Any) -> None:
    """Of TRL's conversational rows too, and without the line break that a template writes after its EOS."""
    tokenizer = byte_level()
    tokenizer.chat_template = template
    rows = [{"prompt": ASKED, "completion": completion}]
    env = make_env(tmp_path, tokenizer, data=rows, max_prompt_tokens=90, chat_template=template or "roles")
    agent = agents.make("sft", env, policy_kwargs=dict(model=str(tmp_path)))
    (episode,) = agent._references
    ((example,), _) = encode_rows(tokenizer, rows, 120, [tokenizer.eos_token_id])
    ids = [*episode.context["input_ids"], episode.actions[-1]]
    assert ids == example.ids[: len(ids)]
    assert decode(tokenizer, example.ids[len(ids) :]).strip() == ""
    assert list(episode.actions) == [label for label in example.labels if label != IGNORED][: len(episode.actions)]
    assert decode(tokenizer, list(episode.actions)).lstrip() == "Blue</s>"
    both = agents.make("ppo", env, policy_kwargs=dict(model=str(tmp_path), sft_coef=1.0, sft_data=rows))
    assert both.policy.sft._examples == [example]


@pytest.mark.parametrize("template", [None, CHATML], ids=["role lines", "template"])
def test_words_of_a_message_that_spell_an_eos_end_nothing(tmp_path: Path, template: Any) -> None:
    """In references, in logs and in `rlhf sft`: one EOS, at the end of the answer."""
    tokenizer = byte_level()
    tokenizer.chat_template = template
    row = {"prompt": [{"role": "user", "content": "</s>a<|im_start|>"}], "completion": "go</s>od", "label": 1}
    env = make_env(tmp_path, tokenizer, data=[row], max_prompt_tokens=90, chat_template=template or "roles")
    (episode,) = agents.make("sft", env, policy_kwargs=dict(model=str(tmp_path)))._references
    (logged,), _, _ = read_log([row], env)
    ((example,), _) = encode_rows(tokenizer, [row], 120, [tokenizer.eos_token_id])
    ids = [*episode.context["input_ids"], episode.actions[-1]]
    assert ids == logged.tolist() == example.ids[: len(ids)]
    answer = tokenizer("go</s>od", split_special_tokens=True)["input_ids"]
    assert list(episode.actions)[-len(answer) - 1 :] == [*answer, 2]
    turns = 0 if template is None else 1  # the user's turn ends with </s> too
    assert [ids.count(2), ids.count(3)] == [1 + turns, 2 * turns]


def test_a_turn_ends_where_any_end_of_the_model_stands(tmp_path: Path) -> None:
    """As in Qwen's base models, whose template ends turns with another token than the tokenizer's EOS."""
    tokenizer = byte_level()
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    env = make_env(tmp_path, tokenizer, data=[{"prompt": "a", "completion": "b<|im_end|>\n"}])
    env.get_attr("episodes", 0)[0].ends = [2, end]  # as its generation_config.json has it
    agent = agents.make("sft", env, policy_kwargs=dict(model=str(tmp_path)))
    (contexts, _, _) = read_log([{"prompt": "a", "completion": "b<|im_end|>\n", "label": 1}], env)
    assert agent._references[0].actions[-1] == contexts[0][-1] == end


def test_long_references_may_be_left_out_or_refused(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    env = make_env(tmp_path, byte_level(), max_new_tokens=5)
    given = dict(env=env, policy_kwargs=dict(model=str(tmp_path)))
    agent = agents.make("sft", **given, on_long_completion="drop")
    assert [decode(byte_level(), list(episode.actions)) for episode in agent._references] == ["bad)</s>"]
    assert "2 of 3 rows: rows left out, because the completion is too long (max_new_tokens=5)" in caplog.text
    with pytest.raises(ValueError, match="row 0 of the data: 'reference' has more than max_new_tokens=5 tokens"):
        agents.make("sft", **given, on_long_completion="error")
    with pytest.raises(TypeError, match="on_long_completion='keep': expected 'cut' or 'drop' or 'error'"):
        agents.make("sft", **given, on_long_completion="keep")


def test_a_row_whose_completion_cannot_be_read_is_named(tmp_path: Path) -> None:
    for completion, message in [
        (3, "row 1 of the data: 'completion' is int"),
        (" \ud83d", "row 1 of the data: 'completion' has half a character"),
        ([BLUE, ASKED[0], BLUE], "row 1 of the data: 'completion' has more than the answer to its prompt"),
    ]:
        rows = [{"prompt": ASKED, "completion": text} for text in ("b", completion)]
        env = make_env(tmp_path, byte_level(), data=rows, chat_template="roles")
        with pytest.raises(ValueError, match=message):
            agents.make("sft", env, policy_kwargs=dict(model=str(tmp_path)))


def test_half_a_character_in_a_log_names_its_row(tmp_path: Path) -> None:
    env = make_env(tmp_path, byte_level())
    with pytest.raises(ValueError, match=r"^data, row 1 has half a character"):
        read_log([LOG[0], {"prompt": "a", "completion": " \ud83d", "label": 1}], env)
