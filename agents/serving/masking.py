"""Mask private data in what the engine writes, whole or as a stream. Each choice is a text of its own."""

from __future__ import annotations

import asyncio
from typing import Any

from rlhf_envs.privacy import Masker, MaskStream

from .errors import Refusal
from .requests import Request

__all__ = ["MaskedChoices", "refuse_unmasked"]

# What an answer keeps beside its choices. Whatever else an engine adds, such as its reasoning, may hold the same texts.
KEPT = ("object", "created", "usage")


def refuse_unmasked(request: Request) -> None:
    """Refuse what comes with the text a second time, in pieces that no mask could read.

    Raises:
        Refusal: log-probabilities or tools are asked for (400).
    """
    scored = "log-probabilities come with the tokens of the text"
    for name, is_asked, why in (
        ("logprobs", request.is_scored, scored),
        ("top_logprobs", getattr(request, "top_logprobs", None), scored),
        ("tools", getattr(request, "tools", None), "the arguments of a call are no text"),
    ):
        if is_asked:
            message = f"{name}: this server masks private data in texts (--mask-private), and {why}: ask without it"
            raise Refusal(400, "unsupported_parameter", message, param=name)


class MaskedChoices:
    """Mask the choices of one answer, and keep nothing of them but what was masked.

    Args:
        masker: makes the masks.
        is_chat: whether the answer is a message.
    """

    def __init__(self, masker: Masker, is_chat: bool) -> None:
        self._masker, self._is_chat = masker, is_chat
        self._streams: dict[int, MaskStream] = {}
        self._ended: set[int] = set()

    async def whole(self, index: int, choice: dict[str, Any], text: str) -> dict[str, Any]:
        """Return a whole choice. A long text takes a thread."""
        masked = await asyncio.to_thread(self._masker.mask, text) if len(text) > 2000 else self._masker.mask(text)
        return self._choice(index, choice, masked, "message")

    def part(self, index: int, choice: dict[str, Any], text: str) -> dict[str, Any]:
        """Return a part of a choice in a stream: the text that is safe to show now. The last part has the rest.

        Raises:
            Refusal: the engine goes on after the last part (502).
        """
        if index in self._ended:
            if text:
                raise Refusal(502, "engine_error", "the engine goes on with a completion after its end")
            return self._choice(index, choice, "", "delta")
        stream = self._streams.setdefault(index, self._masker.stream())
        shown = stream.feed(text)
        if choice.get("finish_reason"):
            shown += self._end(index)
        return self._choice(index, choice, shown, "delta")

    def rest(self) -> list[dict[str, Any]]:
        """Return what is still held back at the end of a stream whose engine named no last part."""
        left = [(index, self._end(index)) for index in sorted(self._streams.keys() - self._ended)]
        return [self._choice(index, {}, text, "delta") for index, text in left if text]

    def _end(self, index: int) -> str:
        self._ended.add(index)
        return self._streams[index].close()

    def _choice(self, index: int, choice: dict[str, Any], text: str, holder: str) -> dict[str, Any]:
        reason = choice.get("finish_reason")
        bare = {"index": index, "finish_reason": reason if isinstance(reason, str) else None}
        if not self._is_chat:
            return {**bare, "text": text, "logprobs": None}
        found = choice.get(holder)
        role = found.get("role") if isinstance(found, dict) else None
        return {**bare, holder: {"role": "assistant", "content": text} if role else {"content": text}}

    @staticmethod
    def envelope(content: dict[str, Any], choices: list[dict[str, Any]]) -> dict[str, Any]:
        """Return an answer with these choices, and nothing of the engine's that could hold a text."""
        return {name: content[name] for name in KEPT if name in content} | {"choices": choices}
