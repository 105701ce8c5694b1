"""Be the user: talk with the agent in the terminal and rate each of its turns; it learns from your ratings.

python examples/person_in_the_dialog.py [tokens]
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from agents import make, make_vec_env
from rlhf_envs import Dialog, Reply, Task, register_task
from rlhf_envs.rendering import printable


class Person(Task):
    """Show every turn to the person at the terminal, and take the rating and the next message."""

    name, max_prompt_tokens, max_new_tokens, max_turns = "person", 24, 48, 3

    def rows(self, split: str, data: Any) -> list[dict[str, Any]]:
        return [{"prompt": [{"role": "user", "content": "tell me about the film"}]}]

    def replies(self, dialogs: Sequence[Dialog]) -> list[Reply]:
        return [self.ask(dialog) for dialog in dialogs]

    def ask(self, dialog: Dialog) -> Reply:
        for message in dialog.messages[-2:]:
            print(f"{message['role']}: {printable(message['content'].strip())}")
        rating = ask_for_number("rating, -1 to 1: ")
        text = input("your next message (empty ends the dialog): ").strip()
        return Reply(text, reward=rating, done=not text)


def ask_for_number(question: str) -> float:
    """Return the number from -1 to 1 that is typed, 0 for nothing; ask again for anything else."""
    while True:
        with suppress(ValueError):
            number = float(input(question).strip() or 0)
            if -1 <= number <= 1:
                return number


register_task("my/Person-v0", f"{__name__}:Person")


def main(n_timesteps: int) -> None:
    env = make_vec_env("my/Person-v0", 2, seed=0, chat_template="roles")  # two dialogs by turns
    agent = make("ppo", env, n_steps=32, kl_coef=0.05, seed=0)
    agent.learn(n_timesteps)
    rated = [episode["r"] for episode in agent.ep_info_buffer]
    print(f"{len(rated)} dialogs, their last ratings in sum: {', '.join(f'{r:.1f}' for r in rated[-5:])}")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 2048)
