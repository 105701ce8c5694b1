"""Hold examples with pictures: one to a row, since a row of several has several pictures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.utils.data import Dataset

from rlhf_envs.pictures import PIXELS, Pictures

from ..core.examples import IGNORED, Example
from ..core.picture_grid import grid_of
from ..core.pictures import as_model_input, check_vision_model, try_pictures

__all__ = ["PictureExamples"]


class PictureExamples(Dataset[dict[str, torch.Tensor]]):
    """Hold a row of tokens and the pixels of its picture per example.

    Args:
        examples: what to learn; `row` is the picture of each.
        pictures: the pictures of the rows of data.
        pad: the id that fills rows.
        network: the model, which is tried with a picture to find the form that it takes pixels in.
    """

    def __init__(self, examples: Sequence[Example], pictures: Pictures, pad: int, network: Any) -> None:
        self.examples, self.pictures, self.pad = examples, pictures, pad
        self.length = max(len(example.ids) for example in examples)
        self._trunk, self._token = network.base_model, check_vision_model(network)
        self._nested = try_pictures(self._trunk, pictures.space.shape, self._token)

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        example = self.examples[index]
        left = self.length - len(example.ids)
        pixels = as_model_input(torch.tensor(self.pictures[example.row])[None], self._nested)
        assert pixels is not None
        ids = torch.tensor(example.ids + [self.pad] * left)
        shown = {PIXELS: pixels[0]}
        if (grid := grid_of(self._trunk)) is not None:  # the model finds the positions itself, from these
            sizes, kinds = grid.sizes(1, ids.device)[0], (ids == self._token).int()
            shown = {PIXELS: grid.patches(pixels)[0], "image_grid_thw": sizes, "mm_token_type_ids": kinds}
        return {
            "input_ids": ids,
            "attention_mask": torch.tensor([1] * len(example.ids) + [0] * left),
            "labels": torch.tensor(example.labels + [IGNORED] * left),
            **shown,
        }
