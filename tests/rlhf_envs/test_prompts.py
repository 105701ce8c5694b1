from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from rlhf_envs.feedback import FeedbackStore, NewItem
from rlhf_envs.feedback.annotating import Response, work
from rlhf_envs.feedback.formats.exporting import export_file
from rlhf_envs.prompts import text_prompts
from rlhf_envs.tasks.sentiment import Sentiment
from rlhf_envs.text_env import TextGenerationEnv

USER = {"role": "user", "content": "Name a film"}


class Template:
    """A tokenizer that only has a chat template."""

    chat_template = "{# a template #}"

    def apply_chat_template(self, messages: list[dict[str, str]], tokenize: bool, add_generation_prompt: bool) -> str:
        assert not tokenize and add_generation_prompt
        return "".join(f"<{m['role']}>{m['content']}" for m in messages) + "<assistant>"


def zero(prompts: list[str], completions: list[str], **columns: Any) -> list[float]:
    return [0.0] * len(prompts)


def test_messages_are_written_in_the_chat_template_and_texts_stay() -> None:
    tokenizer: Any = Template()
    rows = [{"prompt": [USER], "n": 1}, {"prompt": "This film"}]
    assert text_prompts(rows, tokenizer, "t") == [
        {"prompt": "<user>Name a film<assistant>", "n": 1}, {"prompt": "This film"}
    ]  # fmt: skip
    with pytest.raises(ValueError, match="task 't': row 1: 'prompt' has a message of role 'tool'"):
        text_prompts([*rows[:1], {"prompt": [{"role": "tool", "content": ""}]}], tokenizer, "t")


def test_an_export_of_conversations_is_data_of_an_environment(tmp_path: Path) -> None:
    with FeedbackStore(tmp_path / "feedback.db") as store:
        store.add_items([NewItem("pairwise", "Name a film", ("Vertigo", "No"), meta={"messages": [USER]})])
        work(store, "ada", lambda task: Response({"choice": 0, "strength": 1}))
        for conversational in (True, False):
            path = tmp_path / f"{conversational}.jsonl"
            export_file(store, path, "preference", conversational=conversational)
    prompts = []
    for conversational in (True, False):
        env = TextGenerationEnv(Sentiment, data=tmp_path / f"{conversational}.jsonl", max_new_tokens=1, reward_fn=zero)
        env.reset(seed=0)
        prompts.append(env.step(env.tokenizer.eos_token_id)[-1]["prompt"])
    assert [prompt.lower() for prompt in prompts] == ["user: name a film\n\nassistant:"] * 2, "tiny reads small letters"
