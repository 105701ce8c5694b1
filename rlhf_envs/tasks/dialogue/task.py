"""Define the dialogue: a chat in turns with a partner, scored by turn and at the end."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from rlhf_envs.datasets.messages import as_messages
from rlhf_envs.dialogs import Dialog, Reply
from rlhf_envs.models import has_place, split_label
from rlhf_envs.names import find_name
from rlhf_envs.rewards.base import evaluate_reward
from rlhf_envs.rewards.registry import get_reward, list_rewards
from rlhf_envs.tasks.base import Task
from rlhf_envs.tasks.dialogue.judge import Turn, load_judge
from rlhf_envs.tasks.dialogue.partners import Partner, check_partner, check_said, find_partner, is_sensible
from rlhf_envs.words import ngrams, split_words

__all__ = ["Dialogue"]

MIN_OPENING = 3  # words
_ROLE = re.compile(r"^(?:User|Tool|System|Assistant): ")
_LINES = re.compile(r"\n\n(?=(?:User|Tool|System|Assistant): )")


class Dialogue(Task):
    """Chat with a partner about anything, in up to four turns, so that both like it.

    ## Description
    The prompts are what people said in chats: 300 for tests, 120 for validation, the others for training. The agent
    answers, the partner goes on or leaves. By default the partner does what a person did: it takes the eight turns of
    the training chats that are most like the agent's (what was said before and after them counts too), draws one, and
    says what the person there said next, or leaves if that person left. It leaves too after a turn that nobody answers:
    an empty one, one in several lines, one that repeats its own turn or echoes three words or more, or one without any
    word that people used.

    The chats are of chitchat-dataset (Myers, Etchart and Fulda, 2020), without anything that tells who wrote them: see
    `SOURCES.md`. No person of one split has written in another one, and the reward model, the partner and the
    demonstrations know training chats alone. `rlhf sft rlhf/Dialogue-v0 start --epochs 2 --learning-rate 1e-3` teaches
    a model to chat, from both sides of them.

    ## Observation space
    `input_ids` and `attention_mask`, (212,) each: an opening of up to 52 tokens and up to 160 of turns and replies. A
    longer opening loses its beginning.

    ## Action space
    `Discrete(V)` with the vocabulary of the `model`, by default the embedded "tiny". Models without a chat template
    read and write lines such as "User: Hello".

    ## Reward
    By turn: `turn_weight` (0.25) times "dialogue-turn", how probably a person said the turn after the chat before it.
    At the end: "dialogue-rating", the share of training chats that people would rate lower than one with the agent's
    turns, times the mean of "dialogue-turn". So four good turns earn up to 2. Both are within [0, 1], and of the same
    small reward model, which is linear in the words and pairs of words of a turn and of the one before it. It learned
    to tell what a person said from something else, and how people rated chats. A turn that nobody answers scores 0.
    Short turns that fit in many places ("i disagree.") may score more than what people said; said again they score 0.

    The metrics are by "dialogue-judge", which goes by how words follow each other and by the form of both turns, and
    learned from chats of other people:
    `judged_human` (how probably a person said a turn there, mean of the agent's turns), `judged_rating` (the rating,
    from 1 to 10, that people would give the chat) and `win_rate` (whether it finds the agent's first turn more human
    than what the person said, the column `reference`). Beside them stand `repetition` (the share of the agent's word
    pairs that it has said before in the chat), `turn_words`, and for how much the partner takes part `reply_words`
    (words per reply) and `turns` (until it leaves). The judge knows words and little of their meaning: read samples.

    ## Episode end
    The partner leaves ("task"), four turns ("turns"), or 160 new tokens with the partner's replies ("length").

    ## Arguments
    - `partner`: "people" as above; a language model's name, folder or hub id, which speaks with the roles swapped;
      "module:function" or a function from `rlhf_envs.Dialog`s to texts, or None to leave; "person" for you at the
      keyboard, as in `rlhf evaluate RUN -n 2 --env-kwargs partner:person`.
    - `turn_reward`: the name or folder of the reward that scores turns; "" for none.
    - `turn_weight`: what it is multiplied with.

    `data` takes openings of your own: `prompt` (a text, or messages that end with the partner's) and perhaps
    `reference` (what a person said then). It takes the other arguments of `TextGenerationEnv`, such as `model` and
    `reward`.

    ## Version history
    v0: the first version.

    Raises:
        ValueError: there is no such partner or reward, or the weight is not finite.
    """

    name = "dialogue"
    default_reward = "dialogue-rating"
    default_data = "chats"
    start = "--epochs 2 --learning-rate 1e-3"
    chat_template = "roles"
    max_prompt_tokens, max_new_tokens, max_turns = 52, 160, 4

    def __init__(
        self, partner: str | Partner = "people", turn_reward: str = "dialogue-turn", turn_weight: float = 0.25
    ) -> None:
        if isinstance(turn_weight, bool) or not isinstance(turn_weight, int | float) or not math.isfinite(turn_weight):
            raise ValueError(f"turn_weight={turn_weight!r}: give a number")
        check_partner(partner)
        known = find_name(turn_reward, list_rewards()) in list_rewards()
        if turn_reward and not known and not has_place(split_label(turn_reward)[0]):
            get_reward(turn_reward)  # raises, unless it is a function to import; models are loaded when they are needed
        self.partner, self.turn_reward, self.turn_weight = partner, turn_reward, float(turn_weight)

    def rows(self, split: str, data: Sequence[Mapping[str, Any]] | None) -> list[dict[str, Any]]:
        """Return the openings of a split as messages, or the rows of `data`.

        Raises:
            ValueError: a conversation of `data` does not end with what the partner says.
        """
        if data is not None:
            return [self._read(row, number) for number, row in enumerate(data)]
        answers = dict[str, str]()
        for row in super().rows(split, None):
            if len(row["prompt"].split()) >= MIN_OPENING:
                answers.setdefault(row["prompt"], row["turns"][0])
        return [{"prompt": as_messages(text, "prompt"), "reference": answer} for text, answer in answers.items()]

    def _read(self, row: Mapping[str, Any], number: int) -> dict[str, Any]:
        """Return a row of a user's data with its prompt as messages."""
        messages = as_messages(row["prompt"], "prompt")
        if messages[-1]["role"] != "user":
            raise ValueError(
                f"task {self.name!r}: the prompt of row {number} ends with the message of the "
                f"{messages[-1]['role']!r}: let it end with what the partner says, the role 'user'"
            )
        return {**row, "prompt": messages}

    def demonstrations(self, split: str) -> list[dict[str, Any]]:
        """Return the chats of a split as `messages`, each seen from both sides."""
        found = []
        for row in super().rows(split, None):
            turns = [row["prompt"], *row["turns"]]
            for first in (0, 1):
                said = turns[first:]
                said = said[: len(said) // 2 * 2]  # the last is the assistant's
                roles = ["user", "assistant"] * (len(said) // 2)
                messages = [{"role": role, "content": text} for role, text in zip(roles, said, strict=True)]
                found += [{"messages": messages}] * bool(messages)
        return found

    def replies(self, dialogs: Sequence[Dialog]) -> list[Reply]:
        """Return what the partner says, with the scores of the turns."""
        rewards = self._score_turns(dialogs)
        sensible = [is_sensible([message["content"] for message in dialog.messages]) for dialog in dialogs]
        asked = [dialog for dialog, answered in zip(dialogs, sensible, strict=True) if answered]
        said = iter(check_said(find_partner(self.partner)(asked), len(asked), self.partner) if asked else [])
        found = []
        for answered, reward in zip(sensible, rewards, strict=True):
            text = next(said) if answered else None
            found.append(Reply(text, reward=reward) if text and text.strip() else Reply(reward=reward, done=True))
        return found

    def _score_turns(self, dialogs: Sequence[Dialog]) -> list[float]:
        """Return the weighted score of the last turn of each dialog, in one call."""
        if not self.turn_reward:
            return [0.0] * len(dialogs)
        prompts = [dialog.messages[:-1] for dialog in dialogs]
        turns = [dialog.messages[-1:] for dialog in dialogs]
        scores, _ = evaluate_reward(get_reward(self.turn_reward), prompts, turns, {})
        return (self.turn_weight * np.asarray(scores)).tolist()

    def metrics(
        self, prompts: list[str], completions: list[str], columns: Mapping[str, list[Any]]
    ) -> dict[str, Sequence[float]]:
        """Return what the judge says of each chat, its repetition, and how much both say."""
        references = columns.get("reference") or [None] * len(completions)
        rows = [self._measure(*row) for row in zip(prompts, completions, references, strict=True)]
        return {name: [row[name] for row in rows] for name in rows[0]} if rows else {}

    def _measure(self, prompt: str, completion: str, reference: str | None) -> dict[str, float]:
        """Return the metrics of a chat."""
        before = [_ROLE.sub("", line) for line in _LINES.split(prompt)]
        chat = turns_of(completion)
        own = [text for role, text in chat if role == "assistant"]
        replies = [text for role, text in chat if role == "user"]
        judge, turns = load_judge(), list[Turn]()
        for i, (role, text) in enumerate(chat):
            if role == "assistant":
                turns.append(([*before, *(said for _, said in chat[:i])][-3:], text))
        human = judge.humanness(turns)
        wins = math.nan
        if reference:
            first, person = judge.log_odds([turns[0], (turns[0][0], reference)])
            wins = float(first > person) + 0.5 * float(first == person)
        return {
            "judged_human": float(human.mean()),
            "judged_rating": judge.rating(turns),
            "win_rate": wins,
            "repetition": repetition(own),
            "turn_words": float(np.mean([len(split_words(text)) for text in own])),
            "reply_words": float(np.mean([len(split_words(text)) for text in replies])) if replies else 0.0,
        }


def turns_of(completion: str) -> list[tuple[str, str]]:
    """Return the role and the text of each turn of a completion as people read it; the first is the agent's."""
    first, *others = _LINES.split(completion)
    named = [(name.lower(), text) for name, _, text in (line.partition(": ") for line in others)]
    return [("assistant", first.strip()), *named]


def repetition(turns: Sequence[str]) -> float:
    """Return the share of the word pairs of a speaker's turns that the speaker has said before; 0 without pairs."""
    pairs = [pair for text in turns for pair in ngrams(text, 2)]
    return 1 - len({*pairs}) / len(pairs) if pairs else 0.0
