"""References and logged completions are read as the environment reads prompts and as the agent writes."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest

import agents
from agents.algorithms.common.logged_data import read_log
from rlhf_envs.tokens import decode
from tests.rlhf_envs.small_models import byte_level, llama_style, save_model

ROWS = [
    {"prompt": "the film was", "reference": " good"},
    {"prompt": "the film (", "reference": "bad)"},
    {"prompt": "电影很", "reference": "好看</s>"},
]
LOG = [{"prompt": row["prompt"], "completion": row["reference"], "label": 1.0} for row in ROWS]


def zero(prompts: list[str], completions: list[str], **columns: Any) -> list[float]:
    return [0.0] * len(prompts)


def make_env(folder: Path, tokenizer: Any, n_envs: int = 3, max_new_tokens: int = 20) -> Any:
    model = save_model(folder, tokenizer)
    options = {"max_prompt_tokens": 24, "max_new_tokens": max_new_tokens, "reward_fn": zero, "data": ROWS}
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
    assert "sft: 2 of 3 references are longer than max_new_tokens=5 and lose their end, and their EOS" in caplog.text


def test_half_a_character_in_a_log_names_its_row(tmp_path: Path) -> None:
    env = make_env(tmp_path, byte_level())
    with pytest.raises(ValueError, match=r"^data, row 1 has half a character"):
        read_log([LOG[0], {"prompt": "a", "completion": " \ud83d", "label": 1}], env)
