"""Hold the contexts of n episodes: the arrays that agents read, and the texts and messages that these stand for."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import gymnasium as gym
import numpy as np

from rlhf_envs.chat_format import ChatFormat
from rlhf_envs.datasets.messages import Messages, as_answer, as_messages
from rlhf_envs.models import vocabulary_fingerprint
from rlhf_envs.pictures import PIXELS, Pictures
from rlhf_envs.replies import Dialogs
from rlhf_envs.tasks.base import Task
from rlhf_envs.tokens import completion_texts, prompt_text, unescape_control_tokens

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["Contexts"]


class Contexts:
    """Hold n contexts and read them. `rlhf_envs.episodes.EpisodeBatch` documents the attributes."""

    task: Task
    tokenizer: PreTrainedTokenizerBase
    chat: ChatFormat
    rows: list[dict[str, Any]]
    dialogs: Dialogs | None
    pictures: Pictures | None
    ends: Sequence[int]
    vocab_size: int
    max_new_tokens: int
    max_turns: int | None
    reply_timeout: float | None
    _prompts: Sequence[np.ndarray]
    _rooms: np.ndarray  # (rows of data,) the tokens that may follow each prompt

    def _allocate(self, n: int, length: int) -> None:
        """Make the arrays of n rows of `length` tokens, and the spaces of one row."""
        pad = self.tokenizer.pad_token_id
        self._is_end = np.isin(np.arange(self.vocab_size), self.ends)
        self._pad = 0 if pad is None else int(pad)  # the attention mask marks padding, whatever its id
        self._prompt_texts: dict[int, str] = {}  # by the row of the data
        self.ids = np.full((n, length), self._pad, dtype=np.int64)
        self.mask = np.zeros((n, length), dtype=np.int8)
        self.lengths = np.zeros(n, dtype=np.int64)
        self.steps = np.zeros(n, dtype=np.int64)
        self.index = np.zeros(n, dtype=np.int64)
        self._prompt_lengths = np.zeros(n, dtype=np.int64)
        self._running = np.zeros(n, dtype=np.bool_)
        self._all = np.arange(n)
        limits = self.max_turns, self.reply_timeout
        self.dialogs = Dialogs(self.task, self.chat, n, *limits) if self.task.has_replies else None
        boxes: dict[str, gym.Space[Any]] = {
            "input_ids": gym.spaces.Box(0, self.vocab_size - 1, (length,), np.int64),
            "attention_mask": gym.spaces.Box(0, 1, (length,), np.int8),
        }
        if self.pictures is not None:
            boxes[PIXELS] = self.pictures.space
        self.observation_space = gym.spaces.Dict([*boxes.items()])
        self._pixels = np.zeros((n, *(self.pictures.space.shape if self.pictures else ())), dtype=np.float32)
        self.action_space = gym.spaces.Discrete(self.vocab_size)
        # A policy sees only the spaces. This tells it whether the token ids are its model's.
        self.action_space.vocabulary = vocabulary_fingerprint(self.tokenizer)  # type: ignore[attr-defined]

    def observe(self) -> dict[str, np.ndarray]:
        """Return copies of all contexts: `input_ids` (n, L) int64 and `attention_mask` (n, L) int8.

        With pictures there is `pixel_values` too, (n, *shape) float32, the picture of each row's prompt.
        """
        pixels = {} if self.pictures is None else {PIXELS: self._pixels.copy()}
        return {"attention_mask": self.mask.copy(), "input_ids": self.ids.copy(), **pixels}

    def observe_row(self, row: int) -> dict[str, np.ndarray]:
        """Return a copy of one context: `input_ids` and `attention_mask`, (L,) each, and its picture if it has one."""
        pixels = {} if self.pictures is None else {PIXELS: self._pixels[row].copy()}
        return {"attention_mask": self.mask[row].copy(), "input_ids": self.ids[row].copy(), **pixels}

    def _show_picture(self, row: int) -> None:
        """Take the picture of the row's prompt, once an episode."""
        if self.pictures is not None:
            self._pixels[row] = self.pictures[int(self.index[row])]

    def texts(self, rows: Sequence[int] | np.ndarray) -> tuple[list[str], list[str]]:
        """Return the prompts and the completions so far of some rows as texts.

        A prompt is the data's text, or that of the chat template, or what is left of it where it was cut. A completion
        is what the tokens after the prompt add to it: without padding and without the EOS that ends it. An EOS inside,
        before a reply, is part of it if prompts have one too, since there it marks a turn.
        """
        rows = np.asarray(rows, dtype=np.int64)
        completions = self._texts_after(rows, self._prompt_lengths[rows])
        return [self.read_prompt(int(index)) for index in self.index[rows]], completions

    def conversations(self, rows: np.ndarray) -> list[Messages]:
        """Return the messages of rows so far: the prompt's, the replies, and the agent's turns with the last one."""
        talks = [copy.deepcopy(self._talk(row)) for row in rows.tolist()]
        under_way = [i for i, talk in enumerate(talks) if talk[-1]["role"] != "assistant"]
        for i, text in zip(under_way, self._turns(rows[under_way]) if under_way else [], strict=True):
            talks[i] += as_answer(text)
        return talks

    def _talk(self, row: int) -> Messages:
        """Return the messages of a row without the agent's turn that is under way."""
        if self.dialogs is not None:
            return self.dialogs[row].messages
        return as_messages(self.rows[self.index[row]]["prompt"], "prompt")

    def _turns(self, rows: np.ndarray) -> list[str]:
        """Return what the agent wrote in the last turn of rows, as the contents of messages."""
        starts = self._prompt_lengths if self.dialogs is None else self.dialogs.starts
        texts = [unescape_control_tokens(self.tokenizer, text) for text in self._texts_after(rows, starts[rows])]
        as_text = [isinstance(self.rows[index]["prompt"], str) for index in self.index[rows]]
        return [text.strip() if plain else text for text, plain in zip(texts, as_text, strict=True)]

    def _texts_after(self, rows: np.ndarray, starts: np.ndarray) -> list[str]:
        """Return the texts that the tokens of rows add to those before `starts` (k,), see `texts`."""
        lengths = self.lengths[rows]
        full = lengths - self._prompt_lengths[rows] >= self._rooms[self.index[rows]]
        cut = full & ~self._is_end[self.ids[rows, lengths - 1]]
        before = [self.ids[row, :start].tolist() for row, start in zip(rows, starts, strict=True)]
        shown = [self._shown(row, start) for row, start in zip(rows, starts, strict=True)]
        return completion_texts(self.tokenizer, before, shown, cut.tolist())

    def read_prompt(self, index: int) -> str:
        """Return the text of the prompt at `index` of the data as the agent reads it: what is left where it was cut."""
        if index not in self._prompt_texts:
            ids, given = self._prompts[index].tolist(), self.chat.text(self.rows[index]["prompt"])
            ids = ids if self.pictures is None else self.pictures.without(ids)
            self._prompt_texts[index] = prompt_text(self.tokenizer, ids, given)
        return self._prompt_texts[index]

    def _shown(self, row: int, start: int) -> list[int]:
        """Return the tokens of a row from `start` on that are part of the completion's text."""
        prompt, completion = self.ids[row, : self._prompt_lengths[row]], self.ids[row, start : self.lengths[row]]
        at_end = self._is_end[completion]
        left_out = at_end.copy()
        if self._is_end[prompt].any():
            left_out[:-1] = False
        if self.tokenizer.pad_token_id is not None:
            left_out |= (completion == self._pad) & ~at_end
        return completion[~left_out].tolist()
