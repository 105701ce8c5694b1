"""Register tasks of one vocabulary, say a, b or c, and one with other words; workers import this module too."""

from __future__ import annotations

from typing import Any

from rlhf_envs.registration import register_task
from rlhf_envs.tasks import WordTask


class SayA(WordTask):
    """Say a often."""

    name, word = "say-a", "a"
    words = ("a", "b", "c", "d")
    prompts = ("a", "b", "c", "d", "a b", "b a", "c d", "d c", "a c", "c a", "b d", "d b")
    max_prompt_tokens, max_new_tokens = 2, 4

    def reward(self, max_new_tokens: int) -> Any:
        def share(completions: list[Any], **columns: Any) -> list[float]:
            return [text.split().count(self.word) / max_new_tokens for text in completions]

        return share

    def metrics(self, prompts: list[str], completions: list[str], columns: Any) -> dict[str, Any]:
        return {"words": [float(len(text.split())) for text in completions]}

    def corpus_metrics(self, prompts: list[str], completions: list[str], columns: Any) -> dict[str, float]:
        return {"vocabulary": float(len({word for text in completions for word in text.split()}))}


class SayB(SayA):
    """Say b often."""

    name, word = "say-b", "b"


class SayC(SayA):
    """Say c often."""

    name, word = "say-c", "c"


class Other(WordTask):
    """Have other words."""

    name, words, prompts = "other", ("x", "y"), ("x",)
    max_prompt_tokens, max_new_tokens = 1, 2

    def reward(self, max_new_tokens: int) -> Any:
        return lambda completions, **columns: [0.0] * len(completions)


def broken(completions: list[Any], **columns: Any) -> list[float]:
    """Be a reward that fails."""
    raise ValueError("the scorer is <b>out</b>")


for env_id, task in {"SayA": SayA, "SayB": SayB, "SayC": SayC, "Other": Other}.items():
    register_task(f"words/{env_id}-v0", f"{__name__}:{task.__name__}")
