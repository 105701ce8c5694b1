"""Write rewards of your own: a class, a function with TRL's signature, and both composed.

    python examples/custom_reward.py [tokens]

A reward function gets the finished texts of a batch of episodes, `prompts` and `completions`, and the data's other
columns as keyword arguments. It returns one float per episode. TRL's reward functions have the same signature and work
unchanged.
"""

from __future__ import annotations

import sys
from typing import Any

from agents import evaluate, make, make_vec_env
from rlhf_envs import Reward, get_reward


class Mentions(Reward):
    """Score 1 for a completion that mentions one of some words, else 0. A `Reward` composes with +, - and *."""

    name = "mentions"

    def __init__(self, *words: str) -> None:
        self.words = set(words)

    def score(self, prompts: list[str], completions: list[str], **columns: list[Any]) -> list[float]:
        return [min(1.0, len(self.words & set(text.split()))) for text in completions]


def brevity(completions: list[str], **kwargs: Any) -> list[float]:
    """Prefer shorter completions. This function is written as for TRL."""
    return [-len(text.split()) / 20 for text in completions]


def main(n_timesteps: int) -> None:
    reward = 2.0 * Mentions("acting", "actors", "cast") + brevity + 0.2 * get_reward("tiny-reward")
    env = make_vec_env("rlhf/Sentiment-v0", n_envs=64, seed=0, reward_fn=reward)
    agent = make("ppo", env, kl_coef=0.05, learning_rate=1e-4, batch_size=512, seed=0)
    before = evaluate(agent, env, n_episodes=128)
    agent.learn(n_timesteps, progress_bar=True)
    after = evaluate(agent, env, n_episodes=128)
    for name, change in after.change_from(before).items():
        print(f"{name:20} {before.estimates()[name]}  ->  {after.estimates()[name]}   change {change}")
    for sample in after.completions[:4]:
        print(f"{sample.reward:+.2f}  {sample.prompt} |{sample.completion}")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 32_768)
