"""Check actions, and mask the tokens that may not come next: the one implementation of `action_masks()`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from rlhf_envs.tasks.base import Task
from rlhf_envs.tokens import end_ids

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["ActionMasks", "check_actions"]


def check_actions(actions: np.ndarray, n: int, vocab_size: int) -> np.ndarray:
    """Return the actions of n rows as an array, after checking that each is a token id.

    Raises:
        ValueError: there are not n integers, or one is outside the vocabulary.
    """
    actions = np.asarray(actions)
    if actions.shape != (n,) or actions.dtype.kind not in "iu":
        raise ValueError(
            f"actions must be {n} token ids (integers), got shape {actions.shape} of {actions.dtype}: {actions!r}"
        )
    outside = (actions < 0) | (actions >= vocab_size)
    if outside.any():
        row = int(outside.argmax())
        raise ValueError(
            f"action {actions[row]} (row {row}) is outside the space Discrete({vocab_size}): an action is a token id "
            f"from 0 to {vocab_size - 1}"
        )
    return actions


class ActionMasks:
    """Make the masks of n episodes, (n, V) bool, True where a token is allowed.

    The padding token is masked unless it is EOS too, because a completion has no use for it. `min_new_tokens` and
    `suppress_tokens` mean what they do in Hugging Face's `generate`. The task's hook masks further tokens.

    Args:
        tokenizer: the tokenizer whose vocabulary is the action space.
        max_new_tokens: the room for the agent's tokens.
        min_new_tokens: EOS is masked until the agent has taken this many actions. In a dialogue the actions of the
            whole episode count.
        ends: the token ids that end an episode; the tokenizer's EOS by default.
        never: further token ids that no text has, such as the mark of a picture.

    Raises:
        ValueError: an argument is wrong, or no token is left.
    """

    def __init__(
        self,
        task: Task,
        tokenizer: PreTrainedTokenizerBase,
        max_new_tokens: int,
        min_new_tokens: int = 0,
        suppress_tokens: Sequence[int] | None = None,
        ends: Sequence[int] | None = None,
        never: Sequence[int] = (),
    ) -> None:
        suppressed = _check_suppressed(suppress_tokens, len(tokenizer))
        if not _is_whole(min_new_tokens) or not 0 <= min_new_tokens <= max_new_tokens:
            raise ValueError(
                f"min_new_tokens must be a whole number from 0 to max_new_tokens={max_new_tokens}, got "
                f"{min_new_tokens!r}"
            )
        self.task, self.min_new_tokens = task, int(min_new_tokens)
        self.suppress_tokens = None if suppress_tokens is None else suppressed
        self._max_new_tokens = max_new_tokens
        self._ends = np.asarray(end_ids(tokenizer, None) if ends is None else ends, dtype=np.int64)
        pad = tokenizer.pad_token_id
        self._always = np.ones(len(tokenizer), dtype=np.bool_)
        padding = [] if pad is None or pad in self._ends else [pad]
        self._always[np.asarray([*suppressed, *padding, *never], dtype=np.int64)] = False
        others = self._always.copy()
        if self.min_new_tokens:
            others[self._ends] = False
        if not others.any():
            raise ValueError(
                f"min_new_tokens={min_new_tokens} and {len(suppressed)} suppress_tokens mask all {len(tokenizer)} "
                "tokens: leave at least one besides EOS and the padding"
            )

    def __call__(
        self,
        input_ids: np.ndarray,
        lengths: np.ndarray,
        prompt_lengths: np.ndarray,
        steps: np.ndarray,
        rows: Sequence[Mapping[str, Any]] | None = None,
        starts: np.ndarray | None = None,
        rooms: np.ndarray | None = None,
    ) -> np.ndarray:
        """Return the masks of n episodes, a new (n, V) array. The first arguments are those of `Task.action_masks`.

        Args:
            rows: the episodes' rows of the data, by which a mixture finds the masks of its tasks. Without them these
                mask nothing.
            starts: (n,) where in the context the turn under way begins; after the prompt by default.
            rooms: (n,) the tokens for which there is room; as `max_new_tokens` leaves it by default.

        Raises:
            ValueError: no token is allowed in a row, or the task's masks have another shape or type.
        """
        masks = np.repeat(self._always[None], len(steps), axis=0)
        if self.min_new_tokens:
            masks[np.ix_(steps < self.min_new_tokens, self._ends)] = False
        starts = prompt_lengths if starts is None else starts
        rooms = self._max_new_tokens - (lengths - prompt_lengths) if rooms is None else rooms
        arrays = input_ids, lengths, prompt_lengths, steps, starts, rooms
        if rows is None:
            masks &= _masks_of(self.task, arrays, masks.shape[1])
        else:
            for name, task in self.task.subtasks.items():
                own = np.flatnonzero([row["task"] == name for row in rows])
                if len(own):
                    masks[own] &= _masks_of(task, [array[own] for array in arrays], masks.shape[1])
        if (stuck := ~masks.any(axis=1)).any():
            row = int(stuck.argmax())
            task = self.task if rows is None else self.task.subtask(rows[row])
            raise ValueError(
                f"task {task.name!r}: no token may come next in row {row}, after "
                f"{input_ids[row, prompt_lengths[row] : lengths[row]].tolist()}: its action_masks, with "
                f"min_new_tokens={self.min_new_tokens} and suppress_tokens={self.suppress_tokens}, mask them all; "
                "allow at least one, such as EOS"
            )
        return masks


def _masks_of(task: Task, arrays: Sequence[np.ndarray], vocab_size: int) -> np.ndarray | bool:
    """Return a task's masks for `arrays` of n episodes, (n, V) or (V,); True if it masks nothing."""
    input_ids, lengths, prompt_lengths, steps, starts, rooms = arrays
    masks = _check(
        task, "action_masks", task.action_masks(input_ids, lengths, prompt_lengths, steps), arrays, vocab_size
    )
    if getattr(task.turn_masks, "__func__", None) is Task.turn_masks:
        return masks
    turns = [row[start:end] for row, start, end in zip(input_ids, starts, lengths, strict=True)]
    return masks & _check(task, "turn_masks", task.turn_masks(turns, rooms), arrays, vocab_size)


def _check(
    task: Task, hook: str, masks: np.ndarray | None, arrays: Sequence[np.ndarray], vocab_size: int
) -> np.ndarray | bool:
    """Return what a hook of a task returned, after checking that it is masks; True for None."""
    if masks is None:
        return True
    masks, shape = np.asarray(masks), (len(arrays[0]), vocab_size)
    if masks.dtype != np.bool_ or masks.shape not in (shape, shape[1:]):
        raise ValueError(
            f"task {task.name!r}: {hook} must return bools of shape {shape}, or {shape[1:]} for all rows, got "
            f"{masks.dtype} of {masks.shape}"
        )
    return masks


def _check_suppressed(tokens: Sequence[int] | None, vocab_size: int) -> list[int]:
    """Return the tokens to suppress, none by default, after checking that each is a token id."""
    if tokens is None:
        return []
    if isinstance(tokens, str) or not isinstance(tokens, Sequence | np.ndarray):
        raise ValueError(f"suppress_tokens must be a list of token ids, got {tokens!r}")
    for token in tokens:
        if not _is_whole(token) or not 0 <= token < vocab_size:
            raise ValueError(f"suppress_tokens has {token!r}, which is no token id: they go from 0 to {vocab_size - 1}")
    return [int(token) for token in tokens]


def _is_whole(value: object) -> bool:
    """Return whether a value is an integer and no bool."""
    return isinstance(value, int | np.integer) and not isinstance(value, bool)
