"""Read preference pairs and labelled completions as episodes that an environment's agent would have written."""

from __future__ import annotations

import hashlib
import logging
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from rlhf_envs.chat_format import ChatFormat
from rlhf_envs.datasets import load_rows
from rlhf_envs.datasets.messages import Messages, Prompt, as_answer, as_messages
from rlhf_envs.datasets.pictures import COLUMN
from rlhf_envs.datasets.rows import needed, read_dialog, read_dialog_pair, read_prompt
from rlhf_envs.episodes import EpisodeBatch
from rlhf_envs.pictures import Pictures
from rlhf_envs.tokens import check_text, encode_completion, keep_end, keep_start

from ...core.completions import LOST_END, has_loss, log_counts
from .episode_buffer import Episode
from .picture_rows import take_picture
from .turns import encode_turns

__all__ = ["LABELS", "PAIRS", "Columns", "Logged", "Rows", "as_episode", "fingerprint", "read_logged"]

logger = logging.getLogger(__name__)

Rows = Sequence[Mapping[str, Any]]

LOST_START = "prompts that lost their beginning"
SAME = "rows left out, because chosen and rejected are the same once cut"
TRUE, FALSE = ("true", "1", "1.0", "yes"), ("false", "0", "0.0", "no")  # labels that stand as text, as in a CSV


class Logged(NamedTuple):
    """Hold a row of data: its completions as episodes, and what people said about them.

    Attributes:
        episodes: the chosen and the rejected completion, or the one that has a label.
        share: how likely the first is the better one, or the label, 1 or 0.
        weight: how much the row counts.
    """

    episodes: tuple[Episode, ...]
    share: float
    weight: float

    @property
    def n_tokens(self) -> int:
        """Return the tokens of the completions."""
        return sum(len(episode.actions) for episode in self.episodes)


class Columns(NamedTuple):
    """Say how rows of one form are read.

    Attributes:
        names: the columns that a row must have, beside the prompt.
        n_completions: how many of them are completions.
        read: returns the prompt and the completions of a row, or raises ValueError.
        share: returns the row's `Logged.share`, or raises ValueError.
    """

    names: tuple[str, ...]
    n_completions: int
    read: Callable[[Mapping[str, Any]], tuple[Prompt, list[Prompt]]]
    share: Callable[[Mapping[str, Any]], float]


def _pair(row: Mapping[str, Any]) -> tuple[Prompt, list[Prompt]]:
    prompt, chosen, rejected = read_dialog_pair(row)
    return prompt, [chosen, rejected]


def _completion(row: Mapping[str, Any]) -> tuple[Prompt, list[Prompt]]:
    return read_dialog(read_prompt(row), {"completion": needed(row, "completion")})


def _probability(row: Mapping[str, Any]) -> float:
    given = _number(row, "probability", 1.0)
    if not 0 <= given <= 1:
        raise ValueError(f"probability={given}: expected a number from 0 to 1, how likely `chosen` is the better one")
    return given


def _label(row: Mapping[str, Any]) -> float:
    given = row["label"]
    text = str(given).strip().casefold()
    if text not in (*TRUE, *FALSE):
        raise ValueError(
            f"the label is {given!r}, expected true (good) or false (bad): of ratings, make labels by a threshold"
        )
    return float(text in TRUE)


PAIRS = Columns(("chosen", "rejected"), 2, _pair, _probability)
LABELS = Columns(("completion", "label"), 1, _completion, _label)


def read_logged(
    data: str | Path | Rows, batch: EpisodeBatch, columns: Columns, assistant_only: bool = True
) -> tuple[list[Logged], Pictures | None]:
    """Return the rows of data as episodes, and the pictures that they show: `Episode.row` is the one of each.

    Prompts and completions are cut as the environment's own; the log counts. Prompts lose their beginning beyond
    `max_prompt_tokens`, completions (with what others say between their turns) their end beyond `max_new_tokens`. A
    turn with room left ends with EOS.

    Args:
        data: rows, or a file of them.
        batch: the environment's episodes, which say how texts are read.
        columns: `PAIRS` or `LABELS`.
        assistant_only: whether the assistant's tokens alone are learned of completions of several turns, or all.

    Raises:
        ValueError: there are no rows, or one cannot be read; the message names it.
        FileNotFoundError: there is no such file.
    """
    source = str(data) if isinstance(data, str | Path) else "data"
    rows = list(load_rows(data, required=()) if isinstance(data, str | Path) else data)
    if not rows:
        raise ValueError(f"{source} has no rows: give rows of {', '.join(('prompt', *columns.names))}")
    reader, found = _Reader(batch, columns, assistant_only), []
    for number, row in enumerate(rows):
        try:
            found.append(reader.read(row))
        except ValueError as error:
            raise ValueError(f"{source}, row {number}: {error}") from None
    if pictures := reader.pictures(found):
        found = [one._replace(sides=reader.place(pictures, i, one.sides)) for i, one in enumerate(found)]
    logged = [one for one in (reader.as_logged(one, i) for i, one in enumerate(found)) if one is not None]
    room = f"max_prompt_tokens={batch.max_prompt_tokens}, max_new_tokens={batch.max_new_tokens}"
    log_counts(logger, +reader.counts, len(rows), room)
    if not logged:
        raise ValueError(f"{source}: none of its {len(rows)} rows is left: {', '.join(+reader.counts)} ({room})")
    return logged, pictures


class _Side(NamedTuple):
    """Hold the tokens of a prompt and of a completion, and which of the completion are learned."""

    start: list[int]
    rest: list[int]
    learned: list[bool]
    has_lost_start: bool


class _Read(NamedTuple):
    prompt: Prompt
    image: Any
    sides: list[_Side]
    share: float
    weight: float


class _Reader:
    """Read rows by an environment's options, and count what is cut or left out."""

    def __init__(self, batch: EpisodeBatch, columns: Columns, assistant_only: bool) -> None:
        self.batch, self.columns, self.assistant_only = batch, columns, assistant_only
        self.counts = Counter[str]()
        self._dialogs: ChatFormat | None = None
        self._room = batch.max_prompt_tokens - (0 if batch.pictures is None else len(batch.pictures.tokens))

    def read(self, row: Mapping[str, Any]) -> _Read:
        """Return a row in tokens.

        Raises:
            ValueError: it cannot be read.
        """
        columns, task = self.columns, self.batch.task.name
        if missing := [name for name in columns.names if row.get(name) is None]:
            names = ", ".join(columns.names)
            raise ValueError(f"there is no {missing[0]!r}, only {', '.join(row)}: rows are {{prompt, {names}}}")
        row, image = take_picture(row)
        _check_weights(row)
        asked, answers = columns.read(row)
        if all(isinstance(answer, str) for answer in answers):
            prompt: Prompt = self.batch.chat.read([{"prompt": asked}], task)[0]["prompt"]
            sides = [self._side(prompt, str(answer)) for answer in answers]
        else:
            both = [self._turns(as_messages(asked, "prompt") if asked else [], answer) for answer in answers]
            prompt, sides = both[0][0], [side for _, side in both]
        if not all(side.start and side.rest for side in sides):
            raise ValueError(f"the prompt or a completion has no tokens: {dict(row)!r:.200}")
        weight = _number(row, "weight", 1.0)
        if not 0 < weight < math.inf:
            raise ValueError(f"weight={weight}: expected a number above 0")
        self.counts[LOST_START] += any(side.has_lost_start for side in sides)
        return _Read(prompt, image, sides, columns.share(row), weight)

    def _side(self, prompt: Prompt, text: str) -> _Side:
        batch = self.batch
        head, tail = batch.chat.texts(prompt, text)
        for part in (head, tail):
            check_text(part, "its text")
        ids, cut = encode_completion(batch.tokenizer, tail, batch.max_new_tokens, batch.ends)
        self.counts[LOST_END] += cut
        return self._cut(batch.chat.encode([head], [prompt])[0], ids, [True] * len(ids))

    def _turns(self, prompt: Messages, answer: Prompt) -> tuple[Messages, _Side]:
        messages = [*prompt, *(as_answer(answer) if isinstance(answer, str) else answer)]
        for message in messages:
            check_text(message["content"], "its text")
        if self._dialogs is None:
            self._dialogs = self.batch.chat.for_dialogs(messages[:1])
        limit, task = self.batch.max_new_tokens, self.batch.task.name
        found = encode_turns(self._dialogs, messages, len(prompt), self.batch.ends, task)
        rest = keep_start(self.batch.tokenizer, found.rest, limit)
        self.counts[LOST_END] += len(rest) < len(found.rest)
        learned = found.learned[: len(rest)] if self.assistant_only else [True] * len(rest)
        return found.prompt, self._cut(found.start, rest, learned)

    def _cut(self, whole: list[int], rest: list[int], learned: list[bool]) -> _Side:
        start = keep_end(self.batch.tokenizer, whole, self._room)
        return _Side(start, rest, learned, len(start) < len(whole))

    def pictures(self, rows: Sequence[_Read]) -> Pictures | None:
        """Return the pictures of the rows; None if the environment has none.

        Raises:
            ValueError: a row has none, or it cannot be read.
        """
        if self.batch.pictures is None:
            if unread := sum(row.image is not None for row in rows):
                self.counts["pictures that are not read, because the environment shows none"] = unread
            return None
        shown = [{COLUMN: row.image, "prompt": row.prompt} for row in rows]
        found = Pictures(str(self.batch.model_name), shown, self.batch.task.name)
        if found.space.shape != self.batch.pictures.space.shape:
            ours, theirs = found.space.shape, self.batch.pictures.space.shape
            raise ValueError(
                f"pictures of the rows have the shape {ours} and the environment's {theirs}: give pictures of one size"
            )
        return found

    def place(self, pictures: Pictures, index: int, sides: Sequence[_Side]) -> list[_Side]:
        """Return the completions of a row with the tokens of its picture in their prompts.

        Raises:
            ValueError: where they belong is not found.
        """
        if any(side.start != sides[0].start for side in sides):
            raise ValueError(f"row {index}: the completions of a picture need one prompt: begin both with an answer")
        start = pictures.place(self.batch.chat, index, sides[0].start, sides[0].has_lost_start)
        return [side._replace(start=start) for side in sides]

    def as_logged(self, row: _Read, index: int) -> Logged | None:
        """Return a row as episodes, None if it says nothing."""
        if len(row.sides) == 2 and row.sides[0] == row.sides[1]:
            self.counts[SAME] += 1
            return None
        arrays = [(np.array(side.start, np.int64), np.array(side.rest, np.int64), side.learned) for side in row.sides]
        episodes = tuple(as_episode(*each, row=index) for each in arrays)
        return Logged(episodes, row.share, row.weight)


def _check_weights(row: Mapping[str, Any]) -> None:
    """Raise ValueError for a message with weight 0, which `rlhf sft` leaves out of the loss, and we would not."""
    for name in ("chosen", "rejected", "completion"):
        messages = row.get(name)
        if isinstance(messages, list) and not all(has_loss(message, name) for message in messages):
            raise ValueError(f"{name!r} has a message of weight 0: all turns of the assistant are learned; remove it")


def _number(row: Mapping[str, Any], name: str, default: float) -> float:
    """Return the number in a column that a row may have, and that a CSV has as a text."""
    given = row.get(name)
    if given is None or given == "":
        return default
    try:
        return float(given)
    except (TypeError, ValueError):
        raise ValueError(f"{name} is {given!r}, expected a number") from None


def as_episode(
    prompt: np.ndarray, completion: np.ndarray, learned: Sequence[bool] | None = None, row: int = -1
) -> Episode:
    """Return an episode without rewards from the token ids of a prompt and of a completion, int64 each.

    Args:
        prompt: the tokens before the first action.
        completion: the tokens from the first action on.
        learned: which tokens of the completion are actions, the first among them; None for all. Others are context.
        row: the row of the data, for its picture.
    """
    places = np.arange(len(completion)) if learned is None else np.flatnonzero(learned)
    columns = len(prompt) - 1 + places
    context, actions = np.concatenate([prompt, completion])[: columns[-1] + 1], completion[places]
    zeros, mask = np.zeros(len(actions), np.float32), np.ones(len(context), np.int8)
    return Episode({"input_ids": context, "attention_mask": mask}, columns, actions, zeros, zeros, zeros, row)


def fingerprint(data: Sequence[Logged]) -> str:
    """Return what tells whether data are the same: a hash of their tokens and numbers, in their order."""
    digest = hashlib.sha256()
    for row in data:
        digest.update(np.array([row.share, row.weight, *(len(e.actions) for e in row.episodes)]).tobytes())
        for episode in row.episodes:
            digest.update(episode.context["input_ids"].tobytes() + episode.actions.tobytes())
            if len(episode.columns) <= episode.columns[-1] - episode.columns[0]:  # of several turns
                digest.update(episode.columns.tobytes())
    return digest.hexdigest()
