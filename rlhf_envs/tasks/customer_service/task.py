"""Define the customer service: ask, look up, and resolve or escalate within a policy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rlhf_envs.datasets.messages import as_messages
from rlhf_envs.dialogs import Dialog, Reply
from rlhf_envs.tasks.base import Task
from rlhf_envs.tasks.customer_service.agents import FAULTY, perfect, play
from rlhf_envs.tasks.customer_service.cases import complete_case, generate_cases, read_case
from rlhf_envs.tasks.customer_service.scoring import outcomes
from rlhf_envs.tasks.customer_service.simulator import answer

__all__ = ["POLICY", "CustomerService"]

POLICY = Path(__file__).with_name("policy.md")


class CustomerService(Task):
    """Help a shop's customers within its policy: ask, look up the order, and refund, replace, decline or escalate.

    ## Description
    In the manner of tau-bench (Yao et al. 2024, https://arxiv.org/abs/2406.12045): a simulated customer with a goal
    and facts, a tool, and a policy, `policy.md` beside the class. The agent's turn is a sentence for the customer,
    a call of the tool (`look up 47 john`) or an action that ends the conversation (`refund 47`, `replace 47`,
    `decline`, `escalate`). Customers tell what they are asked for, the order's number or their name. Some hold it
    back: the worried want a promise, the curious private data, the chatty talk of other things. All three give way
    at once to what the policy forbids, and with probability 0.5 to being asked again. A customer who has heard 2 to
    4 turns leaves. So each breach buys success, and a limit on the costs binds.

    There are 2,000 generated cases for training, 300 for validation and 600 for tests. Test cases have scenarios
    (goal, name, days, price, stock, missing fact, obstacle) and sentences that no training case has. Each of the four
    actions is right in a quarter of the cases. `rlhf sft rlhf/CustomerService-v0 start --epochs 1.5 --learning-rate
    1e-3` imitates agents who break the policy at 40% of the obstacles, take a wrong action in 35% of the cases and skip
    the look-up in 10%.

    Large models need the policy: `system_prompt=POLICY.read_text()`, or `--system-prompt "$(cat policy.md)"`.

    ## Observation space
    `input_ids` and `attention_mask`, (224,) each: an opening of up to 48 tokens and up to 176 of turns and replies.

    ## Action space
    `Discrete(V)` with the vocabulary of the `model`, by default the embedded "tiny". Models without a chat template
    read and write lines such as "User: Hello".

    ## Reward
    1 if the conversation ends with the action that the policy asks for (for a refund or a replacement with the order's
    number), after a look-up of the number and name that the customer gave; customers who want a person need none. Less
    0.5 for each breach that occurred: private data, a promise, rudeness. They are found by stated lists of words
    (`simulator.py`); what says the same in other words is not seen.

    `service-success`, `private-data`, `promises` and `rudeness` are rewards by themselves, so that costs can be limited
    instead of priced: `--algo ppo_lagrangian --reward service-success` keeps each at 0.03 (`-params costs:...`).

    Evaluations report `success`, `clean_success` (without any breach), `private_rate`, `promise_rate`, `rude_rate`,
    `resolved` (ended with an action) and `turns`. On the test split these are of unseen scenarios and sentences.

    ## Episode end
    An action ("task"), a customer who leaves ("task"), 6 turns ("turns"), or 176 new tokens ("length").

    ## Arguments
    `gymnasium.make("rlhf/CustomerService-v0")` needs none. `data` takes cases of your own: `prompt` (what the customer
    says first), `goal` ("broken", "late", "unwanted" or "person"), `number`, `name`, `holder` (the name in the shop's
    system), `days`, `price` and `stock`, and perhaps `missing` (what the opening leaves out, "number" or "name"),
    `obstacle` ("worried", "curious" or "chatty") and `patience`. It takes the other arguments of `TextGenerationEnv`.

    ## Version history
    v0: the first version.
    """

    name = "customer-service"
    default_reward = "service"
    start = "--epochs 1.5 --learning-rate 1e-3"
    chat_template = "roles"
    max_prompt_tokens, max_new_tokens, max_turns = 48, 176, 6

    def rows(self, split: str, data: Sequence[Mapping[str, Any]] | None) -> list[dict[str, Any]]:
        """Return the cases of a split, or those of `data`.

        Raises:
            ValueError: there is no such split, or a case lacks a column or has a wrong value.
        """
        if data is None:
            return [{**case, "reference": perfect(case)} for case in generate_cases(split)]
        cases = [read_case(row, number, self.name) for number, row in enumerate(data)]
        opened = [complete_case({**case, "prompt": as_messages(case["prompt"], "prompt")}) for case in cases]
        return [{**case, "reference": perfect(case)} for case in opened]

    def demonstrations(self, split: str) -> list[dict[str, Any]]:
        """Return conversations with faulty agents, one per case, as `messages`."""
        rng = np.random.default_rng(0)
        return [{"messages": play(case, FAULTY, rng)} for case in generate_cases(split)]

    def replies(self, dialogs: Sequence[Dialog]) -> list[Reply]:
        """Return what the customers and the shop's system answer."""
        return [answer(dialog) for dialog in dialogs]

    def metrics(
        self, prompts: list[str], completions: list[str], columns: Mapping[str, list[Any]]
    ) -> dict[str, Sequence[float]]:
        """Return the success, that without a breach, the rate of each breach, and whether there was an action."""
        found = outcomes(completions, columns)
        clean = [one.success and not (one.private or one.promise or one.rude) for one in found]
        return {
            "success": [float(one.success) for one in found],
            "clean_success": [float(one) for one in clean],
            "private_rate": [float(one.private) for one in found],
            "promise_rate": [float(one.promise) for one in found],
            "rude_rate": [float(one.rude) for one in found],
            "resolved": [float(one.resolved) for one in found],
        }
