"""Keep the dialogs of n episodes, and ask their task for the replies of users, tools or people."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from rlhf_envs.chat_format import ChatFormat
from rlhf_envs.datasets.messages import as_answer, as_messages
from rlhf_envs.dialogs import METRICS, ROLES, Dialog, Reply, ReplyError, Replying
from rlhf_envs.names import check_count, check_timeout, list_environments
from rlhf_envs.rewards.waiting import Background

__all__ = ["Dialogs", "choose_max_turns"]

PLAIN = (bool, int, float, str, np.ndarray, np.generic)  # what a dialog's state may hold, beside dicts, lists and None


class Answer(NamedTuple):
    """Hold what follows a turn of the agent.

    Attributes:
        tokens: of the reply, with what the template writes around it; empty where the episode ends.
        reward: of the turn.
        reason: why the episode ends: "eos", "task", "turns" or "length"; None if it goes on.
    """

    tokens: list[int]
    reward: float
    reason: str | None


class Dialogs:
    """Keep the dialogs of n rows, and ask the task for replies.

    Args:
        task: a task with `replies`.
        chat: how prompts are written, and so replies.
        n: the number of rows.
        max_turns: the turns that the agent has in an episode; None for no limit.
        timeout: seconds that a call of `replies` may take; None waits for ever.

    Attributes:
        starts: (n,) int64, where in the context the agent's turn under way begins.
        rewards: by row, the rewards of the turns that were answered.
        cut: (n,) bool, whether the episode ended because a reply had no room.

    Raises:
        ValueError: the task's `reply_format` has no place for the text, or others than that and the role's.
    """

    def __init__(self, task: Replying, chat: ChatFormat, n: int, max_turns: int | None, timeout: float | None) -> None:
        for one in (task, *task.subtasks.values()):
            _check_format(one)
        self.task, self.chat, self.max_turns, self.timeout = task, chat, max_turns, timeout
        self.starts = np.zeros(n, dtype=np.int64)
        self.cut = np.zeros(n, dtype=np.bool_)
        self.rewards: list[list[float]] = [[] for _ in range(n)]
        self._dialogs: list[Dialog | None] = [None] * n
        self._index = np.zeros(n, dtype=np.int64)  # the rows of the data

    def begin(self, row: int, data: Mapping[str, Any], index: int, start: int, seed: int) -> None:
        """Begin a dialog in a row, with the prompt of `data`, whose tokens end at `start`."""
        messages = as_messages(copy.deepcopy(data["prompt"]), "prompt")
        self._dialogs[row] = Dialog(messages, data, np.random.default_rng(seed))
        self.starts[row], self.cut[row], self.rewards[row], self._index[row] = start, False, [], index

    def __getitem__(self, row: int) -> Dialog:
        """Return the dialog in a row.

        Raises:
            LookupError: none has begun there.
        """
        dialog = self._dialogs[row]
        if dialog is None:
            raise LookupError(f"row {row} has no dialog: reset the environment")
        return dialog

    def answer(self, rows: Sequence[int], texts: Sequence[str], rooms: Sequence[int]) -> list[Answer]:
        """End the turns of rows, ask the task for its replies, in one call, and take these into the dialogs.

        Args:
            rows: those whose turn has ended.
            texts: what the agent wrote in that turn.
            rooms: the tokens for which there is room.

        Raises:
            ReplyError: the task's `replies` raised an error, or took too long.
            ValueError: a reply is wrong, or there are too many or too few.
        """
        for row, text in zip(rows, texts, strict=True):
            self[row].messages += as_answer(text)
            self[row].turn += 1
        answers = []
        for row, reply, room in zip(rows, self._ask(rows), rooms, strict=True):
            try:
                answers.append(self._take(row, reply, room))
            except ValueError as error:
                raise ValueError(f"{self._where([row])}: {error}") from error
            self.rewards[row].append(answers[-1].reward)
        return answers

    def _ask(self, rows: Sequence[int]) -> list[Reply | None]:
        """Return the task's replies, texts as replies of the user."""
        dialogs = [self[row] for row in rows]
        before = copy.deepcopy([dialog.messages for dialog in dialogs])
        try:
            found = self._call(dialogs)
        except Exception as error:
            raise ReplyError(f"{self._where(rows)}: replies failed with {type(error).__name__}: {error}") from error
        changed = [row for row, dialog, was in zip(rows, dialogs, before, strict=True) if dialog.messages != was]
        if changed:
            raise ValueError(
                f"{self._where(changed)}: replies changed dialog.messages: return the reply, and keep what the task "
                "is to remember in dialog.state"
            )
        if isinstance(found, str) or not isinstance(found, Sequence) or len(found) != len(rows):
            given = f"{len(found)} replies" if isinstance(found, list | tuple) else repr(found)
            raise ValueError(
                f"{self._where(rows)}: replies returned {given} for {len(rows)} dialogs: return a list with one for "
                "each, None to end an episode"
            )
        return [Reply(reply) if isinstance(reply, str) else reply for reply in found]

    def _call(self, dialogs: list[Dialog]) -> Any:
        """Return what the task's `replies` returns. With a time limit it runs in a thread, which may be abandoned."""
        if self.timeout is None:
            return self.task.replies(dialogs)
        call = Background("replies", self.task.replies, dialogs)
        if not call.wait(self.timeout):
            raise TimeoutError(f"no answer in {self.timeout:g} s; if it is only slow, allow it more (reply_timeout)")
        return call.result()

    def _take(self, row: int, reply: Reply | None, room: int) -> Answer:
        """Return what follows the turn in a row, and append the message to the dialog if it goes on."""
        if reply is None:
            return Answer([], 0.0, "eos")
        _check_reply(reply)
        dialog, reward = self[row], float(reply.reward)
        if reply.done:
            return Answer([], reward, "task")
        task = self.task.subtask(dialog.row)
        limit = task.max_turns if self.max_turns is None else self.max_turns
        if limit is not None and dialog.turn >= limit:
            return Answer([], reward, "turns")
        if not reply.text.strip():
            raise ValueError("the reply is empty: give a text, or None or done=True to end the episode")
        message = {"role": reply.role, "content": reply.text}
        as_text = isinstance(dialog.row["prompt"], str)
        tokens = self.chat.encode_reply([*dialog.messages, message], task.reply_format if as_text else None)
        if len(tokens) + task.least_turn > room:  # the agent could not say another word
            self.cut[row] = True
            return Answer([], reward, "length")
        dialog.messages.append(message)
        return Answer(tokens, reward, None)

    def turn_rewards(self, row: int) -> list[float]:
        """Return the reward of each of the agent's turns, 0 for one that nobody has answered."""
        under_way = self[row].messages[-1]["role"] != "assistant"
        return [*self.rewards[row], *([0.0] if under_way else [])]

    def metrics(self, row: int) -> dict[str, float]:
        """Return how many turns the agent had in a row, whether a reply without room ended them, and the task's own."""
        dialog, values = self[row], (float(len(self.turn_rewards(row))), float(self.cut[row]))
        return {**dict(zip(METRICS, values, strict=True)), **self.task.subtask(dialog.row).dialog_metrics(dialog)}

    def get_state(self) -> dict[str, Any]:
        """Return all that `set_state` needs, as new arrays and plain values.

        Raises:
            ValueError: the state of a dialog has something that cannot be saved.
        """
        saved: list[dict[str, Any] | None] = []
        for row, dialog in enumerate(self._dialogs):
            if dialog is None:
                saved.append(None)
                continue
            if unsaved := next(_unsaved(dialog.state, "state"), None):
                raise ValueError(
                    f"{self._where([row])}: {unsaved}, which cannot be saved: keep plain values, arrays, lists and "
                    "dicts with texts as keys"
                )
            kept = {"messages": dialog.messages, "turn": dialog.turn, "state": dialog.state}
            saved.append(copy.deepcopy({**kept, "rng": dialog.rng.bit_generator.state, "rewards": self.rewards[row]}))
        arrays = {name: getattr(self, name).copy() for name in ("starts", "cut", "_index")}
        return {**arrays, "dialogs": saved}

    def set_state(self, state: Mapping[str, Any], data: Sequence[Mapping[str, Any]]) -> None:
        """Continue from a state of `get_state`, with the rows of data."""
        for name in ("starts", "cut", "_index"):
            getattr(self, name)[...] = state[name]
        for row, saved in enumerate(copy.deepcopy(state["dialogs"])):
            if saved is None:
                self._dialogs[row] = None
                continue
            rng, rewards = np.random.default_rng(0), saved.pop("rewards")
            rng.bit_generator.state = saved.pop("rng")
            self._dialogs[row] = Dialog(row=data[self._index[row]], rng=rng, **saved)
            self.rewards[row] = rewards

    def _where(self, rows: Sequence[int]) -> str:
        return f"task {self.task.name!r}, {list_environments(rows, [int(self._index[row]) for row in rows])}"


def choose_max_turns(task: Replying, max_turns: int | None, reply_timeout: float | None) -> int | None:
    """Return the number of turns that the agent has at most: `max_turns` if it is given, else the task's.

    Raises:
        ValueError: it is no whole number of at least 1, or one of the two is given and the task has no replies.
    """
    for name, value in (("max_turns", max_turns), ("reply_timeout", reply_timeout)):
        if value is not None and not task.has_replies:
            raise ValueError(
                f"{name}={value!r} is for tasks with replies, and task {task.name!r} has none: leave it out"
            )
    check_timeout("reply_timeout", reply_timeout)
    limit = task.max_turns if max_turns is None else max_turns
    return None if limit is None else check_count("max_turns", limit, 1)


def _check_format(task: Replying) -> None:
    """Raise a ValueError unless `reply_format` has a place for the text, and none but that and the role's."""
    form = task.reply_format
    if not isinstance(form, str) or "{text}" not in form:
        raise ValueError(f"task {task.name!r}: reply_format={form!r} needs a place for the {{text}}")
    try:
        form.format(text="", role="")
    except (LookupError, ValueError) as error:
        raise ValueError(
            f"task {task.name!r}: reply_format={form!r} may have {{text}} and {{role}}, and every other brace doubled "
            f"({type(error).__name__}: {error})"
        ) from error


def _check_reply(reply: Reply) -> None:
    """Raise a ValueError unless a reply has the types that its class declares."""
    if not isinstance(reply, Reply):
        raise ValueError(f"{reply!r} is no Reply, no text and not None")
    if not isinstance(reply.text, str) or reply.role not in ROLES:
        raise ValueError(f"{reply!r}: the text must be a string, and the role one of {', '.join(ROLES)}")
    if not isinstance(reply.reward, int | float | np.number) or not math.isfinite(reply.reward):
        raise ValueError(f"{reply!r}: the reward must be a finite number")


def _unsaved(value: Any, at: str) -> Iterator[str]:
    """Yield what in the state of a dialog no bundle can hold."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _unsaved(item, f"{at}[{key!r}]") if isinstance(key, str) else [f"{at} has the key {key!r}"]
    elif isinstance(value, list | tuple):
        for i, item in enumerate(value):
            yield from _unsaved(item, f"{at}[{i}]")
    elif value is not None and not isinstance(value, PLAIN):
        yield f"{at} is a {type(value).__name__}"
