"""Define the dialog bandit: two turns, what to ask and what to answer, so few that enumeration gives the optimum."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any

from rlhf_envs.dialogs import Dialog, Reply
from rlhf_envs.tasks.base import WordTask

__all__ = ["DialogBandit", "LateDialogBandit", "best_return"]

TELLING = {"p": "what", "q": "who"}  # the question that each customer answers
PLEASING = "when"  # a question that everybody likes, and that nobody answers
QUESTIONS = ("who", "what", "when")
SECRETS = ("x", "y", "z")
UNTOLD = "no"


class DialogBandit(WordTask):
    """Ask a customer one question, then name the customer's secret.

    ## Description
    The prompt is a customer, p or q, with a secret: x, y or z. In the first turn the agent asks, in the second it
    answers. A customer tells the secret only to the right question, "what" for p and "who" for q. Everybody likes
    "when", which earns 0.1 at once, and tells nothing. Naming the secret earns 1. So the best first turn is not the one
    that earns most: the best return is 1, and 0.43 without the right question (see `best_return`). All splits are the
    same.

    ## Observation space
    `input_ids` and `attention_mask`, (6,) each: a prompt of one token, and up to 5 tokens of two turns and a reply.

    ## Action space
    `Discrete(11)`: pad (0), EOS (1), the customers p and q, three questions, three secrets, and "no".

    ## Reward
    By turn: 0.1 for "when" as the question, 1 for the secret as the answer, 0 for all else, such as a turn of two
    words. The score at the end is 0. `task="rlhf_envs.tasks.dialog_bandit:LateDialogBandit"` pays all of it with the
    second turn.

    ## Episode end
    Two turns, or 5 new tokens with the reply.

    ## Arguments
    `gymnasium.make("rlhf/DialogBandit-v0")` needs none. It takes the arguments of `TextGenerationEnv` except `model`,
    because the task has its own vocabulary.

    ## Version history
    v0: the first version.
    """

    name = "dialog-bandit"
    words = (*TELLING, *QUESTIONS, *SECRETS, UNTOLD)
    max_prompt_tokens, max_new_tokens, max_turns = 1, 5, 2

    def rows(self, split: str, data: Sequence[Mapping[str, Any]] | None) -> list[dict[str, Any]]:
        """Return one row per customer and secret, or the rows of `data`, which need a `secret`."""
        if data is not None:
            return super().rows(split, data)
        return [{"prompt": customer, "secret": secret} for customer, secret in product(TELLING, SECRETS)]

    def replies(self, dialogs: Sequence[Dialog]) -> list[Reply]:
        """Return the customers' answers, with the reward of the turn."""
        return [self._reply(dialog) for dialog in dialogs]

    def _reply(self, dialog: Dialog) -> Reply:
        said, secret = dialog.messages[-1]["content"], str(dialog.row["secret"])
        if dialog.turn == 1:
            return Reply(tell(dialog.row["prompt"], said, secret), reward=liking(said))
        return Reply(reward=float(said == secret))


class LateDialogBandit(DialogBandit):
    """Play the dialog bandit with all rewards at the end of the second turn."""

    def _reply(self, dialog: Dialog) -> Reply:
        reply = super()._reply(dialog)
        dialog.state["owed"] = dialog.state.get("owed", 0.0) + reply.reward
        return Reply(reply.text, reward=dialog.state["owed"] if dialog.turn == self.max_turns else 0.0)


def tell(customer: str, question: str, secret: str) -> str:
    """Return what a customer says to a question."""
    return secret if question == TELLING[customer] else UNTOLD


def liking(question: str) -> float:
    """Return the reward of a question."""
    return 0.1 if question == PLEASING else 0.0


def best_return() -> dict[str, tuple[float, str]]:
    """Return for each customer the best expected sum of rewards and its question, by enumeration of both turns.

    To each reply that a question can get there is one answer, which names one of the secrets.
    """
    best = {}
    for customer in TELLING:
        values = []
        for question in DialogBandit.words:
            replies = {tell(customer, question, secret) for secret in SECRETS}
            values.append((liking(question) + len(replies) / len(SECRETS), question))
        best[customer] = max(values)
    return best
