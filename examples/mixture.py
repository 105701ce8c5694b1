"""Train stock PPO on two tasks at once, drawn by its progress, and print what it gains on each.

python examples/mixture.py [tokens]
"""

from __future__ import annotations

import sys
from typing import Any

from stable_baselines3 import PPO

from agents import SequenceRolloutBuffer, TextMetrics, TokenPolicy, evaluate, make_vec_env

THINGS = ("plot", "story", "acting", "cast", "music", "script", "ending", "dialogue", "camera", "pace")
STARTS = ("In short,", "Briefly,", "In a few words,", "To sum it up,")
BRIEF: dict[str, Any] = {
    "id": "rlhf/Prompts-v0",
    "name": "brief",
    "data": [{"prompt": f"{start} the {thing} was"} for start in STARTS for thing in THINGS],
    "reward": "length-penalty",
    "reward_kwargs": {"shortest": 3, "longest": 6},
    "max_new_tokens": 16,
}
TASKS = ["rlhf/Sentiment-v0", BRIEF]


def main(n_timesteps: int) -> None:
    env = make_vec_env(TASKS, n_envs=16, seed=0, weights="progress")
    buffer: dict[str, Any] = {"rollout_buffer_class": SequenceRolloutBuffer, "rollout_buffer_kwargs": {"kl_coef": 0.05}}
    model = PPO(TokenPolicy, env, 3e-4, n_steps=64, batch_size=256, n_epochs=4, seed=0, **buffer)
    before = evaluate(model, "rlhf/Mixture-v0", n_episodes=128, env_kwargs={"tasks": TASKS}).estimates()
    model.learn(n_timesteps, TextMetrics())
    after = evaluate(model, "rlhf/Mixture-v0", n_episodes=128, env_kwargs={"tasks": TASKS}).estimates()
    for name in ("sentiment/reward", "sentiment/gold", "brief/reward", "kl"):
        print(f"{name:16}  {before[name]}  ->  {after[name]}")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 32_768)
