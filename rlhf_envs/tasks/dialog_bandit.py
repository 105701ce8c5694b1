"""Define the dialog bandit: two turns, what to ask and what to answer, so few that enumeration gives the optimum."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any

from rlhf_envs.dialogs import Dialog, Reply
from rlhf_envs.tasks.base import WordTask

__all__ = ["DialogBandit", "LateDialogBandit", "best_return"]

TELLING = {"p": "what", "q": "who"}  # the question to which each customer tells the secret
LIKING = {"what": 0.3, "who": 0.25}  # the rewards of questions, whoever is asked
SECRETS = ("x", "y")
UNTOLD = "no"


class DialogBandit(WordTask):
    """Ask a customer one question, then name the customer's secret.

    ## Description
    The prompt is a customer, p or q, with a secret, x or y. In the first turn the agent asks a question, in the
    second it names the secret, which earns 1; only the first word of a turn counts. To be asked "what" pleases
    customers (0.3 at once) more than "who" (0.25). p tells the secret if asked "what", q if asked "who"; otherwise they
    say "no".

    For p the question that earns most at once is the best. For q it is a trap: "what" and a guess earn 0.8, "who" and
    the secret 1.25. The best return is 1.275 on average (see `best_return`). All splits are the same.

    ## Observation space
    `input_ids` and `attention_mask`, (7,) each: a prompt of one token, and up to 6 tokens of two turns and a reply.

    ## Action space
    `Discrete(9)`: pad (0), EOS (1), the customers p and q, two questions, two secrets, and "no".

    ## Reward
    By turn: 0.3 or 0.25 for the question, 1 for the secret as the answer, 0 for anything else. The score at the end is
    0. `task="rlhf_envs.tasks.dialog_bandit:LateDialogBandit"` pays all of it with the second turn.

    ## Episode end
    Two turns, or 6 new tokens with the reply. A turn that this cuts earns nothing.

    ## Arguments
    `gymnasium.make("rlhf/DialogBandit-v0")` needs none. It takes the arguments of `TextGenerationEnv` except `model`,
    because the task has its own vocabulary.

    ## Version history
    v0: the first version.
    """

    name = "dialog-bandit"
    words = (*TELLING, *LIKING, *SECRETS, UNTOLD)
    max_prompt_tokens, max_new_tokens, max_turns = 1, 6, 2

    def rows(self, split: str, data: Sequence[Mapping[str, Any]] | None) -> list[dict[str, Any]]:
        """Return one row per customer and secret, or the rows of `data`, which need a `secret`."""
        if data is not None:
            return super().rows(split, data)
        return [{"prompt": customer, "secret": secret} for customer, secret in product(TELLING, SECRETS)]

    def replies(self, dialogs: Sequence[Dialog]) -> list[Reply]:
        """Return the customers' answers, with the reward of the turn."""
        return [self._reply(dialog) for dialog in dialogs]

    def _reply(self, dialog: Dialog) -> Reply:
        word = next(iter(dialog.messages[-1]["content"].split()), "")
        secret = str(dialog.row["secret"])
        if dialog.turn == 1:
            return Reply(tell(dialog.row["prompt"], word, secret), reward=LIKING.get(word, 0.0))
        return Reply(reward=float(word == secret))


class LateDialogBandit(DialogBandit):
    """Play the dialog bandit with all rewards at the end of the second turn."""

    def _reply(self, dialog: Dialog) -> Reply:
        reply = super()._reply(dialog)
        dialog.state["owed"] = dialog.state.get("owed", 0.0) + reply.reward
        return Reply(reply.text, reward=dialog.state["owed"] if dialog.turn == self.max_turns else 0.0)


def tell(customer: str, question: str, secret: str) -> str:
    """Return what a customer says to a question."""
    return secret if question == TELLING[customer] else UNTOLD


def best_return() -> dict[str, tuple[float, str]]:
    """Return for each customer the best expected sum of rewards and its question, by enumeration of both turns.

    To each reply that a question can get there is one answer, which names one of the secrets.
    """
    best = {}
    for customer in TELLING:
        values = []
        for question in DialogBandit.words:
            replies = {tell(customer, question, secret) for secret in SECRETS}
            values.append((LIKING.get(question, 0.0) + len(replies) / len(SECRETS), question))
        best[customer] = max(values)
    return best
