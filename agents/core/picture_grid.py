"""Show pictures to models like Qwen2-VL, which number the tokens of a picture along three axes (M-RoPE).

Such a model (Wang et al. 2024, https://arxiv.org/abs/2409.12191, section 2.1)

- takes the patches of a picture, `(patches, values)`, and how many there are along time, height and width;
- gives a token of a picture the position of the picture's start plus its row and column in the picture, and goes on
  behind the picture with the largest position so far plus 1.

Observations have pictures of one shape, one per context. So positions are a function of the ids alone, and passes that
see no pixels (decoding, the last blocks) find the same ones. `find_grid` compares them with the model's own.
"""

from __future__ import annotations

import inspect
from typing import Any, NamedTuple

import torch

__all__ = ["PictureGrid", "find_grid", "grid_of", "picture_arguments", "positions_of"]


class PictureGrid(NamedTuple):
    """Describe the tokens of a picture, and the patches that they are made of.

    Attributes:
        token: the id at the places of a picture.
        height, width: of the picture, in tokens.
        merge: the patches along a side that make a token.
        patch: the pixels along the side of a patch.
        frames: how often a picture is repeated, because a patch of a film has several frames.
    """

    token: int
    height: int
    width: int
    merge: int
    patch: int
    frames: int

    def positions(self, input_ids: torch.Tensor) -> torch.Tensor:
        """Return the positions of whole contexts, `(3, batch, length)` int64: along time, height and width."""
        marks = input_ids == self.token
        seen = marks.long().cumsum(dim=1)  # the picture's tokens so far, with this one
        columns = torch.arange(input_ids.shape[1], device=input_ids.device)
        text = columns - seen + (seen > 0) * max(self.height, self.width)
        number = seen - 1
        inside = torch.stack([torch.zeros_like(number), number // self.width, number % self.width])
        return torch.where(marks, columns - number + inside, text)

    def patches(self, pixels: torch.Tensor) -> torch.Tensor:
        """Cut pictures, `(batch, channels, height, width)`, into patches, `(batch, patches, values)`.

        The patches of a token come one after another, as transformers' `Qwen2VLImageProcessor` orders them.
        """
        batch, channels = pixels.shape[:2]
        tokens = (self.height, self.merge, self.patch, self.width, self.merge, self.patch)
        cut = pixels.reshape(batch, channels, *tokens).permute(0, 2, 5, 3, 6, 1, 4, 7)
        cut = cut.unsqueeze(6).expand(*(-1,) * 6, self.frames, -1, -1)  # between channels and pixels
        return cut.reshape(batch, self.height * self.width * self.merge**2, -1)

    def sizes(self, batch: int, device: torch.device) -> torch.Tensor:
        """Return the patches along time, height and width of `batch` pictures, `(batch, 3)` int64."""
        return torch.tensor([[1, self.height * self.merge, self.width * self.merge]], device=device).repeat(batch, 1)


def grid_of(trunk: Any) -> PictureGrid | None:
    """Return the grid of the pictures that a trunk is shown; None for models with positions of one axis."""
    grid: PictureGrid | None = getattr(trunk, "picture_grid", None)
    return grid


def positions_of(trunk: Any, input_ids: torch.Tensor) -> torch.Tensor:
    """Return the positions that a trunk takes for whole contexts: `(batch, length)`, or with a grid `(3, ...)`."""
    if (grid := grid_of(trunk)) is not None:
        return grid.positions(input_ids)
    return torch.arange(input_ids.shape[1], device=input_ids.device)[None].expand_as(input_ids)


def picture_arguments(trunk: Any, pixels: torch.Tensor | None) -> dict[str, torch.Tensor]:
    """Return the arguments by which a trunk takes the pictures of a batch; without any there are none."""
    if pixels is None:
        return {}
    if (grid := grid_of(trunk)) is None:
        return {"pixel_values": pixels}
    sizes = grid.sizes(len(pixels), pixels.device)
    return {"pixel_values": grid.patches(pixels).flatten(0, 1), "image_grid_thw": sizes}


def find_grid(trunk: Any, shape: tuple[int, ...], token: int) -> PictureGrid | None:
    """Return the grid of pictures of the shape `(1, channels, height, width)`; None if the model's positions need none.

    Raises:
        ValueError: its positions have several axes, and pictures of this shape do not fit, or it numbers them in
            another way, or its blocks are shown the picture too.
    """
    config, name = trunk.config, type(trunk).__name__
    if "mrope_section" not in (getattr(config.get_text_config(), "rope_parameters", None) or {}):
        return None
    refused = f"{name} ({config.model_type}) gives tokens positions of several axes (mrope_section), and "
    instead = "; take a model like Qwen2-VL, LLaVA, Idefics3 or SmolVLM"
    names = ("spatial_merge_size", "patch_size", "temporal_patch_size")
    merge, patch, frames = (getattr(config.vision_config, size, None) for size in names)
    if not (merge and patch and frames and hasattr(trunk, "get_rope_index")):
        raise ValueError(f"{refused}not as Qwen2-VL does{instead}")
    if "deepstack_visual_embeds" in inspect.signature(trunk.get_decoder().forward).parameters:
        raise ValueError(f"{refused}its blocks are shown the picture a second time (deepstack){instead}")
    n, _, height, width = shape
    side = merge * patch
    if n != 1 or height % side or width % side:
        raise ValueError(f"{name} takes no pictures of the shape {shape}: it needs (1, 3, k * {side}, l * {side})")
    grid = PictureGrid(token, height // side, width // side, merge, patch, frames)
    others = [i for i in range(4) if i != token][:2]
    ids = torch.tensor([[others[0]] * 2 + [token] * (grid.height * grid.width) + [others[1]] * 3])
    kinds = (ids == token).int()
    own, _ = trunk.get_rope_index(ids, mm_token_type_ids=kinds, image_grid_thw=grid.sizes(1, ids.device))
    if not torch.equal(own.cpu(), grid.positions(ids)):
        raise ValueError(f"{refused}other ones than Qwen2-VL's{instead}")
    return grid
