"""Mask tokens so that what an agent writes is JSON of a schema, and is finished before its room is.

The schema becomes a regular expression and that a table of states by token, with outlines-core (Willard & Louf 2023,
https://arxiv.org/abs/2307.09702). Beyond that, each state knows how few tokens finish it, and no token is allowed after
which the room would be too short.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from rlhf_envs.interop.openenv.library import import_outlines
from rlhf_envs.interop.openenv.plain_schema import PlainSchemaError, plain_schema

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["JsonMasks"]

# JSON has numbers of any length. Python reads those beyond a float as infinite.
INTEGER = "-?(0|[1-9][0-9]{0,17})"
NUMBER = r"-?(0|[1-9][0-9]{0,14})(\.[0-9]{1,15})?([eE][+-]?[0-9]{1,2})?"


class JsonMasks:
    """Say which tokens may come next in turns that are JSON of a schema.

    Whatever is sampled under the masks is an object of the schema. They do not allow all of these: see
    `rlhf_envs.interop.openenv.plain_schema`.

    Args:
        schema: the JSON schema of an action.
        tokenizer: its vocabulary is the action space.
        ends: the token ids that end a turn.

    Attributes:
        least: the tokens of the shortest action, the one that ends it included.

    Raises:
        ValueError: the masks cannot be made of this schema, or for this tokenizer.
        ModuleNotFoundError: outlines-core is missing.
    """

    def __init__(self, schema: Mapping[str, Any], tokenizer: PreTrainedTokenizerBase, ends: Sequence[int]) -> None:
        try:
            plain = plain_schema(schema)
        except PlainSchemaError as error:
            raise ValueError(f"json_mask=True: {error}; leave out json_mask") from error
        self.vocab_size, self._ends = len(tokenizer), np.asarray(ends, dtype=np.int64)
        found = _table(json.dumps(plain), json.dumps(_vocabulary(tokenizer)), int(tokenizer.eos_token_id or ends[0]))
        self._start, self._final, self._next, self._tokens, self._needs, self.least = found

    def __call__(self, turns: Sequence[np.ndarray], rooms: np.ndarray) -> np.ndarray:
        """Return the masks of n turns under way, (n, V) bool. A turn that is no action any more is not masked.

        Args:
            turns: the tokens of each so far.
            rooms: (n,) the tokens for which there is room.

        Raises:
            ValueError: there is no room for an action.
        """
        masks = np.zeros((len(turns), self.vocab_size), dtype=np.bool_)
        for mask, turn, room in zip(masks, turns, rooms.tolist(), strict=True):
            state = self._walk(turn)
            if state is None:
                mask[:] = True
                continue
            mask[self._tokens[state][self._needs[state] < room]] = True
            mask[self._ends] = state in self._final
            if not mask.any():
                raise ValueError(
                    f"json_mask=True: there is room for {room} more tokens, and the shortest action has {self.least} "
                    "with its end: raise max_new_tokens"
                )
        return masks

    def _walk(self, turn: np.ndarray) -> int | None:
        """Return the state after the tokens of a turn; None if they begin no action."""
        state: int | None = self._start
        for token in turn.tolist():
            state = None if state is None else self._next[state].get(token)
        return state


def _vocabulary(tokenizer: PreTrainedTokenizerBase) -> dict[str, list[int]]:
    """Return the tokens by their bytes in hexadecimal, without those that were added, such as special tokens.

    Raises:
        ValueError: the tokenizer is none whose tokens are pieces of bytes.
    """
    decoder = json.loads(tokenizer.backend_tokenizer.to_str())["decoder"] or {}
    kinds = {one["type"] for one in decoder.get("decoders", [decoder]) if "type" in one}
    if "ByteLevel" not in kinds and "ByteFallback" not in kinds:
        raise ValueError(
            f"json_mask=True: the tokenizer's decoder is {', '.join(sorted(kinds)) or 'unknown'}, and only those of "
            "bytes (ByteLevel, ByteFallback) spell every text: leave out json_mask, or take another model"
        )
    letters = _letters() if "ByteLevel" in kinds else None
    found: dict[str, list[int]] = {}
    for piece, token in tokenizer.get_vocab().items():
        spelled = None if token in tokenizer.added_tokens_decoder else _spell(piece, letters)
        if spelled:
            found.setdefault(spelled.hex(), []).append(token)
    return found


def _spell(piece: str, letters: Mapping[str, int] | None) -> bytes | None:
    """Return the bytes of a piece of a vocabulary; None if it has none."""
    if letters is not None:
        return bytes(letters[letter] for letter in piece) if all(letter in letters for letter in piece) else None
    if len(piece) == 6 and piece.startswith("<0x") and piece.endswith(">"):
        return bytes.fromhex(piece[3:5])
    return piece.replace("\u2581", " ").encode()


def _letters() -> dict[str, int]:
    """Return the byte that each letter of a byte-level vocabulary stands for (GPT-2's `bytes_to_unicode`)."""
    shown = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in shown]
    return {**{chr(byte): byte for byte in shown}, **{chr(256 + i): byte for i, byte in enumerate(others)}}


@functools.lru_cache(maxsize=4)
def _table(plain: str, vocabulary: str, eos: int) -> tuple[Any, ...]:
    """Return the first state, the final ones, the next state by state and token, and by state tokens and their needs.

    A need is how many tokens finish the action after this one, at least, with the one that ends it. The last is the
    need of the first state.
    """
    core, schemas = import_outlines(""), import_outlines("json_schema")
    made = schemas.build_regex_from_schema(plain)
    regex = made.replace(schemas.NUMBER, NUMBER).replace(schemas.INTEGER, INTEGER)
    spelled = {bytes.fromhex(piece): tokens for piece, tokens in json.loads(vocabulary).items()}
    index = core.Index(regex, core.Vocabulary(eos, spelled))
    final = frozenset(index.get_final_states())
    table = {
        state: {token: after for token, after in row.items() if token != eos}
        for state, row in index.get_transitions().items()
    }
    followers = {state: {*row.values()} for state, row in table.items()}
    need = dict.fromkeys(final, 1)
    while True:
        before = dict(need)
        for state, after in followers.items():
            least = min((need[one] for one in after if one in need), default=None)
            if least is not None:
                need[state] = min(need.get(state, least + 1), least + 1)
        if need == before:
            break
    start = index.get_initial_state()
    if start not in need:
        raise ValueError("json_mask=True: the tokenizer has no tokens that spell an action: leave out json_mask")
    states = [state for state in table if state in need]
    following = {s: {token: after for token, after in table[s].items() if after in need} for s in states}
    tokens = {s: np.array([*row], dtype=np.int64) for s, row in following.items()}
    needs = {s: np.array([need[after] for after in row.values()], dtype=np.int64) for s, row in following.items()}
    for state in final - following.keys():
        following[state], tokens[state], needs[state] = {}, np.zeros(0, np.int64), np.zeros(0, np.int64)
    return start, final, following, tokens, needs, need[start]
