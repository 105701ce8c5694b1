from __future__ import annotations

from pathlib import Path
from typing import Any

from rlhf_envs.feedback import FeedbackStore, NewItem
from rlhf_envs.feedback.annotating import Response, work
from rlhf_envs.feedback.formats.exporting import export_file
from rlhf_envs.tasks.sentiment import Sentiment
from rlhf_envs.text_env import TextGenerationEnv

USER = {"role": "user", "content": "Name a film"}


def zero(prompts: list[str], completions: list[str], **columns: Any) -> list[float]:
    return [0.0] * len(prompts)


def test_an_export_of_conversations_is_data_of_an_environment(tmp_path: Path) -> None:
    with FeedbackStore(tmp_path / "feedback.db") as store:
        store.add_items([NewItem("pairwise", "Name a film", ("Vertigo", "No"), meta={"messages": [USER]})])
        work(store, "ada", lambda task: Response({"choice": 0, "strength": 1}))
        for conversational in (True, False):
            path = tmp_path / f"{conversational}.jsonl"
            export_file(store, path, "preference", conversational=conversational)
    prompts: list[str] = []
    for conversational in (True, False):
        options = {"data": tmp_path / f"{conversational}.jsonl", "max_new_tokens": 1, "chat_template": "roles"}
        env = TextGenerationEnv(Sentiment, **options, reward_fn=zero)
        env.reset(seed=0)
        prompts.append(env.episodes.texts([0])[0][0])
    assert [prompt.lower() for prompt in prompts] == ["user: name a film\n\nassistant:"] * 2, "tiny reads small letters"
