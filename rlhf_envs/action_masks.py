"""Which tokens may come next: the one implementation of the environments' `action_masks()`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from rlhf_envs.tasks.base import Task

__all__ = ["ActionMasks"]


class ActionMasks:
    """The masks of n episodes, (n, V) bool, True where a token is allowed.

    The padding token is masked where it is not EOS too, since a completion has no use for it. The other arguments mean
    what they do in Hugging Face's `generate`; the task's hook adds to them.

    Args:
        task: its `action_masks` hook is asked every time.
        tokenizer: whose vocabulary is the action space.
        max_new_tokens: the room for the agent's tokens.
        min_new_tokens: EOS is masked until the agent has taken so many actions; in a dialogue, of the whole episode.
        suppress_tokens: token ids that are masked always.

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
    ) -> None:
        vocab_size = len(tokenizer)
        if not _is_whole(min_new_tokens) or not 0 <= min_new_tokens <= max_new_tokens:
            raise ValueError(
                f"min_new_tokens must be a whole number from 0 to max_new_tokens={max_new_tokens}, got "
                f"{min_new_tokens!r}"
            )
        suppressed = [] if suppress_tokens is None else suppress_tokens
        if isinstance(suppressed, str) or not isinstance(suppressed, Sequence | np.ndarray):
            raise ValueError(f"suppress_tokens must be a list of token ids, got {suppress_tokens!r}")
        for token in suppressed:
            if not _is_whole(token) or not 0 <= token < vocab_size:
                raise ValueError(
                    f"suppress_tokens has {token!r}, which is no token id: they go from 0 to {vocab_size - 1}"
                )
        self.task = task
        self.min_new_tokens = int(min_new_tokens)
        self.suppress_tokens = None if suppress_tokens is None else [int(token) for token in suppressed]
        eos, pad = tokenizer.eos_token_id, tokenizer.pad_token_id
        self._eos = eos
        self._always = np.ones(vocab_size, dtype=np.bool_)
        if pad is not None and pad != eos:
            self._always[pad] = False
        self._always[np.asarray(suppressed, dtype=np.int64)] = False
        others = self._always.copy()
        if self.min_new_tokens and eos is not None:
            others[eos] = False
        if not others.any():
            raise ValueError(
                f"min_new_tokens={min_new_tokens} and {len(suppressed)} suppress_tokens mask all {vocab_size} tokens: "
                "leave at least one besides EOS and the padding"
            )

    def __call__(
        self, input_ids: np.ndarray, lengths: np.ndarray, prompt_lengths: np.ndarray, steps: np.ndarray
    ) -> np.ndarray:
        """The masks `(n, V)` of n episodes, a new array; the arguments are those of `Task.action_masks`.

        Raises:
            ValueError: a row is left without a token, or the task's masks have another shape or type.
        """
        masks = np.repeat(self._always[None], len(steps), axis=0)
        if self.min_new_tokens and self._eos is not None:
            masks[steps < self.min_new_tokens, self._eos] = False
        extra = self.task.action_masks(input_ids, lengths, prompt_lengths, steps)
        if extra is None:
            return masks
        extra = np.asarray(extra)
        if extra.dtype != np.bool_ or extra.shape not in (masks.shape, masks.shape[1:]):
            raise ValueError(
                f"task {self.task.name!r}: action_masks must give bools of shape {masks.shape}, or {masks.shape[1:]} "
                f"for all rows, got {extra.dtype} of {extra.shape}"
            )
        masks &= extra
        stuck = ~masks.any(axis=1)
        if stuck.any():
            row = int(stuck.argmax())
            raise ValueError(
                f"task {self.task.name!r}: no token may come next in row {row}, after "
                f"{input_ids[row, prompt_lengths[row] : lengths[row]].tolist()}: its action_masks, with "
                f"min_new_tokens={self.min_new_tokens} and suppress_tokens={self.suppress_tokens}, mask them all; "
                "allow at least one, such as EOS"
            )
        return masks


def _is_whole(value: object) -> bool:
    return isinstance(value, int | np.integer) and not isinstance(value, bool)
