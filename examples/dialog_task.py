"""Talk with a simulated user who asks, is answered and rates each turn; train with PPO, then with RLOO.

python examples/dialog_task.py [tokens]
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

from agents import evaluate, make, make_vec_env
from rlhf_envs import Dialog, Reply, Task, register_task

LETTERS = "abst"


class Letters(Task):
    """Answer with words that begin with the letter of the question, three times, each time another one."""

    name, max_prompt_tokens, max_new_tokens, max_turns = "letters", 24, 72, 3

    def rows(self, split: str, data: Any) -> list[dict[str, Any]]:
        return [{"prompt": [{"role": "user", "content": f"words with {letter}"}]} for letter in LETTERS]

    def replies(self, dialogs: Sequence[Dialog]) -> list[Reply]:
        return [self.rate(dialog) for dialog in dialogs]

    def rate(self, dialog: Dialog) -> Reply:
        asked, answered = (message["content"] for message in dialog.messages[-2:])
        words = answered.split()
        share = sum(word.startswith(asked[-1]) for word in words) / max(len(words), 5)
        return Reply(f"words with {dialog.rng.choice(list(LETTERS))}", reward=share)


register_task("my/Letters-v0", f"{__name__}:Letters")


def main(n_timesteps: int) -> None:
    settings: dict[str, dict[str, Any]] = {
        "ppo": {"learning_rate": 5e-4},
        "rloo": {"group_size": 4, "credit": "turn"},  # at 5e-4 a turn's probability is soon beyond any clip range
    }
    for algo, kwargs in settings.items():
        options = {"chat_template": "roles"}
        env = make_vec_env("my/Letters-v0", 32, seed=0, **options)
        agent = make(algo, env, kl_coef=0.02, seed=0, **kwargs)
        before = evaluate(agent, "my/Letters-v0", n_episodes=64, env_kwargs=options)
        agent.learn(n_timesteps)
        after = evaluate(agent, "my/Letters-v0", n_episodes=64, env_kwargs=options)
        print(f"{algo}: sum of three ratings {before.estimates()['reward']}  ->  {after.estimates()['reward']}")
    for turn in after.completions[0].turns or ():
        print(f"  {turn['role']}: {turn['content'].strip()}")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 32_768)
