"""Register a task of your own as a Gymnasium environment: alliteration.

    python examples/custom_task.py [tokens]
    rlhf train --env custom_task:my/Alliteration-v0          # in this folder; "module:id" imports the module

A task is its data, its reward and little else; the environment, single and batched, owns the loop.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import gymnasium as gym

from agents import evaluate, make
from rlhf_envs import Task
from rlhf_envs.testing import check_text_env


def alliteration(completions: list[str], letter: list[str], **columns: Any) -> list[float]:
    """Return the share of words that start with the letter of the prompt's row."""
    words = [text.split() for text in completions]
    return [sum(w[0] == first for w in ws) / max(len(ws), 5) for ws, first in zip(words, letter, strict=True)]


class Alliteration(Task):
    """Continue with words that begin with the letter of the prompt's last word."""

    name = "alliteration"
    max_prompt_tokens = 8
    max_new_tokens = 16

    def rows(self, split: str, data: Any) -> list[dict[str, Any]]:
        prompts = ["what a silly", "a film full of fun", "the plot is pretty", "my mother", "the acting and"]
        return [{"prompt": prompt, "letter": prompt.split()[-1][0]} for prompt in prompts]

    def reward(self, max_new_tokens: int) -> Callable[..., Any]:
        return alliteration


gym.register(  # rlhf_envs.register_task("my/Alliteration-v0", ...) is the short way
    "my/Alliteration-v0",
    entry_point="rlhf_envs.text_env:TextGenerationEnv",
    vector_entry_point="rlhf_envs.vector_env:TextGenerationVectorEnv",
    kwargs={"task": f"{__name__}:Alliteration"},
)


def main(n_timesteps: int) -> None:
    check_text_env(gym.make("my/Alliteration-v0"))
    agent = make("ppo", "my/Alliteration-v0", n_envs=64, kl_coef=0.02, learning_rate=5e-4, batch_size=256, seed=0)
    before = evaluate(agent, "my/Alliteration-v0", n_episodes=100)
    agent.learn(n_timesteps, progress_bar=True)
    after = evaluate(agent, "my/Alliteration-v0", n_episodes=100)
    print(f"share of alliterating words: {before.estimates()['reward']}  ->  {after.estimates()['reward']}")
    for sample in after.completions[:5]:
        print(f"{sample.reward:.2f}  {sample.prompt} |{sample.completion}")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 32_768)
