"""Turn the pictures of rows into observations: pixels for the model, and its tokens for a picture in the prompt."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import gymnasium as gym
import numpy as np

from rlhf_envs.chat_format import ChatFormat
from rlhf_envs.datasets.pictures import COLUMN, check_picture, is_blank, open_picture, picture_key
from rlhf_envs.models import load_config
from rlhf_envs.models.vision import is_vision_model, load_processor

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["PIXELS", "Pictures", "find_pictures"]

PIXELS = "pixel_values"  # the observation's key
KEPT = 2**28  # bytes of pixels that are kept


class Pictures:
    """Hold the pictures of the rows of an environment: one each, read by the model's own processor.

    The processor resizes, crops and normalises; what it makes of a picture must have one shape for all pictures.

    Args:
        model: the name of a vision-language model.
        rows: the data, each row with an `image`.
        task: the task's name, for messages.

    Attributes:
        tokens: the ids that stand for a picture in a prompt.
        space: the pixels of one picture, `Box(low, high, (n, channels, height, width), float32)`; n is 1 but for models
            that cut a picture into parts.

    Raises:
        ValueError: the processor does not load, gives more than pixels of one shape, or a row has no picture.
    """

    def __init__(self, model: str, rows: Sequence[Mapping[str, Any]], task: str) -> None:
        from PIL import Image

        self.rows, self.task, self._model = rows, task, model
        self._processor = load_processor(model)
        self._kept: dict[str, np.ndarray] = {}
        self._keys: list[str] = []
        for i, row in enumerate(rows):
            if is_blank(row.get(COLUMN)):
                raise ValueError(
                    f"task {task!r}: row {i} has no {COLUMN!r}, and the model {model!r} reads a picture with every "
                    f"prompt: it has {', '.join(map(repr, row))}; rename one, columns={{{COLUMN!r}: 'picture'}}"
                )
            self._keys.append(picture_key(row[COLUMN]))
        different = sorted({key: i for i, key in reversed([*enumerate(self._keys)])}.values())
        for i in different:  # the first row of every picture
            check_picture(rows[i][COLUMN], f"task {task!r}: row {i}")
        size = self._size(0) if self._keeps_size and rows else (64, 64)
        dark, light = (self._read(Image.new("RGB", size, color), "a picture") for color in ("black", "white"))
        ends = np.stack([dark, light])
        self.space = gym.spaces.Box(float(ends.min()), float(ends.max()), dark.shape, np.float32)
        self.token_id, self._inner = self._find_tokens(Image.new("RGB", size))
        before, after = self._brackets()
        self.tokens = [*before, *self._inner, *after]
        if self._keeps_size:
            for other, i in {self._size(i): i for i in reversed(different)}.items():
                self._check_shape(self._read(Image.new("RGB", other), f"task {task!r}: row {i}"), i, other)

    def _size(self, index: int) -> tuple[int, int]:
        """Return the width and the height of the picture of a row, in pixels."""
        return open_picture(self.rows[index][COLUMN], f"task {self.task!r}: row {index}").size

    @property
    def _keeps_size(self) -> bool:
        """Return whether a larger picture gets more tokens, as with Qwen2-VL's processor."""
        return "image_grid_thw" in getattr(self._processor.image_processor, "model_input_names", ())

    def _find_tokens(self, picture: Image) -> tuple[int, list[int]]:
        """Return the id that marks the place of pixels, and the ids that the processor writes for a picture."""
        mark = str(self._processor.image_token)
        if self._keeps_size:
            token = int(self._processor.tokenizer.convert_tokens_to_ids(mark))
            side = self._processor.image_processor.patch_size * self._processor.image_processor.merge_size
            return token, [token] * (self.space.shape[-2] * self.space.shape[-1] // side**2)
        found = self._processor(images=[picture], text=[mark], add_special_tokens=False)["input_ids"][0]
        return int(self._processor.tokenizer.convert_tokens_to_ids(mark)), [int(i) for i in found]

    def _brackets(self) -> tuple[list[int], list[int]]:
        """Return the tokens that the model expects before and after a picture: its chat template writes them."""
        names, config = ("vision_start_token_id", "vision_end_token_id"), load_config(self._model)
        given = [getattr(config, name, None) for name in names] if self._keeps_size else []
        ids = [i for i in given if isinstance(i, int) and 0 <= i < len(self._processor.tokenizer)]
        return (ids[:1], ids[1:]) if len(ids) == 2 else ([], [])

    def _read(self, picture: Image, where: str) -> np.ndarray:
        """Return what the processor makes of a picture, `(n, channels, height, width)` float32."""
        try:
            found = self._processor.image_processor(images=[picture], return_tensors="np")
        except (ValueError, ZeroDivisionError) as error:
            raise ValueError(
                f"{where}: the processor of {self._model!r} does not read a picture of {picture.width} x "
                f"{picture.height} pixels: {error}"
            ) from error
        if "image_grid_thw" in found:
            return self._whole(np.asarray(found[PIXELS], dtype=np.float32), found["image_grid_thw"][0])
        mask = found.get("pixel_attention_mask")
        if (mask is not None and not np.all(mask)) or set(found) - {PIXELS, "pixel_attention_mask", "rows", "cols"}:
            others = ", ".join(sorted({*found} - {PIXELS}))
            raise ValueError(
                f"the processor of {self._model!r} gives {others} beside the pixels, which agents do not read: take a "
                "model of another kind, such as LLaVA's, or Idefics3's with do_image_splitting=False"
            )
        pixels = np.asarray(found[PIXELS], dtype=np.float32)
        return pixels[0] if pixels.ndim == 5 else pixels

    def _whole(self, patches: np.ndarray, grid: np.ndarray) -> np.ndarray:
        """Put the patches of a picture together, `(patches, values)` to `(1, channels, height, width)`.

        They stand in the order of transformers' `Qwen2VLImageProcessor`: those of a token one after another, each with
        a copy of the picture for every frame that a patch of a film has.
        """
        processor = self._processor.image_processor
        patch, merge, frames = processor.patch_size, processor.merge_size, processor.temporal_patch_size
        _, rows, columns = (int(n) for n in grid)
        parts = patches.reshape(rows // merge, columns // merge, merge, merge, -1, frames, patch, patch)
        return parts[:, :, :, :, :, 0].transpose(4, 0, 2, 5, 1, 3, 6).reshape(1, -1, rows * patch, columns * patch)

    def __getitem__(self, index: int) -> np.ndarray:
        """Return the pixels of a row of the data, float32 in the shape of `space`. Do not change them.

        Raises:
            ValueError: the picture cannot be read, or the processor makes another shape of it.
        """
        key = self._keys[index]
        if key not in self._kept:
            where = f"task {self.task!r}: row {index}"
            pixels = self._read(picture := open_picture(self.rows[index][COLUMN], where), where)
            self._check_shape(pixels, index, picture.size)
            if len(self._kept) >= max(KEPT // pixels.nbytes, 1):
                del self._kept[next(iter(self._kept))]
            self._kept[key] = np.clip(pixels, self.space.low, self.space.high)
        return self._kept[key]

    def _check_shape(self, pixels: np.ndarray, index: int, size: tuple[int, int]) -> None:
        """Raise ValueError if what the processor makes of the picture of a row has not the shape of the others."""
        if pixels.shape == self.space.shape:
            return
        others = "others: set a fixed size in its processor_config.json, without do_image_splitting"
        if self._keeps_size:
            others = "that of row 0: give pictures of one size"
        raise ValueError(
            f"task {self.task!r}: row {index}: the processor of {self._model!r} makes {pixels.shape} of a picture of "
            f"{size[0]} x {size[1]} pixels and {self.space.shape} of {others}"
        )

    def place(self, chat: ChatFormat, index: int, ids: Sequence[int], cut: bool = False) -> list[int]:
        """Return the tokens of a prompt with those of its picture.

        They stand where the prompt has the model's image token, else before the text of the first user's message, else
        before the text. A conversation that is `cut` has them at its beginning.

        Raises:
            ValueError: the prompt has several image tokens, or its chat template rewrites the message.
        """
        ids, prompt = list(ids), self.rows[index]["prompt"]
        marks = [at for at, token in enumerate(ids) if token == self.token_id]
        if len(marks) > 1:
            raise ValueError(f"task {self.task!r}: the prompt of row {index} has {len(marks)} image tokens: leave one")
        if marks:
            tokens = self._inner if self._has_brackets(ids, marks[0]) else self.tokens
            return [*ids[: marks[0]], *tokens, *ids[marks[0] + 1 :]]
        is_whole = isinstance(prompt, list) and not cut
        at = self._start(chat, index, ids) if is_whole else self._opening(chat, ids)
        return [*ids[:at], *self.tokens, *ids[at:]]

    def _has_brackets(self, ids: Sequence[int], at: int) -> bool:
        """Return whether the image token at a place of a prompt has the tokens around it that the model expects."""
        return [*ids[at - 1 : at], *ids[at + 1 : at + 2]] == [*self.tokens[:1], *self.tokens[-1:]]

    @staticmethod
    def _opening(chat: ChatFormat, ids: Sequence[int]) -> int:
        """Return how many special tokens begin the text."""
        opening = chat.tokenizer("")["input_ids"]
        return next((k for k in range(len(opening), 0, -1) if list(ids[:k]) == opening[:k]), 0)

    def _start(self, chat: ChatFormat, index: int, ids: Sequence[int]) -> int:
        """Return where the first message of a user begins in a conversation's tokens."""
        prompt = self.rows[index]["prompt"]
        said = next((message["content"] for message in prompt if message["role"] == "user"), None)
        whole = chat.text(prompt)
        before = "" if said is None or said not in whole else whole[: whole.index(said)].rstrip(" ")
        head = chat.encode([before], [prompt])[0] if before else []
        if not head or list(ids[: len(head)]) != list(head):
            raise ValueError(
                f"task {self.task!r}: row {index}: where the picture belongs is not found in its chat template: write "
                f"the image token into a prompt that is a string"
            )
        return len(head)

    def without(self, ids: Sequence[int]) -> list[int]:
        """Return the tokens of a prompt without those of its picture."""
        n = len(self.tokens)
        at = next((i for i in range(len(ids)) if list(ids[i : i + n]) == self.tokens), None)
        return list(ids) if at is None else [*ids[:at], *ids[at + n :]]


def find_pictures(model: str | None, rows: Sequence[Mapping[str, Any]], task: str, required: bool) -> Pictures | None:
    """Return the pictures of rows; None if they have none, or the model reads none.

    Args:
        model: the model's name; None if the task has a vocabulary of its own.
        rows: the data.
        task: the task's name, for messages.
        required: whether the task is nothing without its pictures.

    Raises:
        ValueError: they are required, and the model reads none; or as `Pictures`.
    """
    shown = required or any(COLUMN in row for row in rows)
    reads = shown and model is not None and is_vision_model(model)
    if required and not reads:
        raise ValueError(
            f"task {task!r} shows pictures, and the model {model!r} reads none: take model='tiny-vision', or another "
            "vision-language model"
        )
    return Pictures(str(model), rows, task) if reads else None
