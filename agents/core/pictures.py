"""Read pictures in a context: which vision-language models fit, and in what form they take pixels.

Everything is found by looking and trying, as in `agents.core.language_model`. A model fits if it

- replaces image tokens in the context by what it makes of `pixel_values`, as LLaVA, Idefics3 and SmolVLM do;
- attends from left to right over pictures too, so that a prompt is encoded once and decoding goes on from there;
- numbers positions from left to right, or as Qwen2-VL does, see `agents.core.picture_grid`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from rlhf_envs.models.vision import is_vision_config

from .picture_grid import find_grid, picture_arguments, positions_of

__all__ = ["as_model_input", "check_vision_model", "decoder_of", "try_pictures"]


def check_vision_model(model: Any) -> int:
    """Return the id of the image token of a model that reads pictures in its context.

    Raises:
        ValueError: it reads none, or in a way that does not fit.
    """
    config, name = model.config, f"this {type(model).__name__}"
    if not is_vision_config(config):
        raise ValueError(
            f"observations have pixel_values, and {name} ({config.model_type}) reads no pictures: take 'tiny-vision' "
            "or another AutoModelForImageTextToText, or leave them out, "
            "gymnasium.wrappers.FilterObservation(env, ['input_ids', 'attention_mask'])"
        )
    token = getattr(config, "image_token_id", None)
    if token is None:
        raise ValueError(f"{name} ({config.model_type}) has no image_token_id: a policy cannot place a picture")
    return int(token)


def decoder_of(trunk: nn.Module) -> nn.Module:
    """Return the part of a trunk that reads text: not an encoder of pictures, which may have as many blocks."""
    config: Any = getattr(trunk, "config", None)
    if config is None or getattr(config, "vision_config", None) is None:
        return trunk
    decoder: nn.Module = trunk.get_decoder()  # type: ignore[operator]
    return decoder


def as_model_input(pixels: torch.Tensor | None, nested: bool) -> torch.Tensor | None:
    """Return observations' `pixel_values`, `(batch, n, channels, height, width)`, in the form that a model takes."""
    return pixels if pixels is None or nested else pixels.squeeze(1)


@torch.no_grad()
def try_pictures(trunk: Any, shape: tuple[int, ...], token: int) -> bool:
    """Try a trunk with a picture of this shape, and return whether it takes pictures as `(batch, n, ...)`.

    A trunk whose positions have several axes remembers the grid of its pictures, as `picture_grid`.

    Raises:
        ValueError: it takes no such picture, or what comes after a picture's token changes the states before it.
    """
    name, generator = type(trunk).__name__, torch.Generator().manual_seed(0)
    parameter = next(trunk.parameters())
    pixels = torch.rand((1, *shape), generator=generator).to(parameter.device)
    trunk.picture_grid = find_grid(trunk, shape, token)
    reasons: list[str] = []
    for nested in (False, True):
        if not nested and shape[0] != 1:
            continue
        try:
            features = _features(trunk, as_model_input(pixels, nested))
        except Exception as error:  # whatever a foreign model raises here means: it does not take this form
            reasons.append(f"{type(error).__name__}: {error}")
            continue
        _check_order(trunk, as_model_input(pixels, nested), token, features, name)
        return nested
    raise ValueError(f"{name} takes no pictures of the shape {shape}: {'; '.join(reasons)}")


def _features(trunk: Any, pixels: torch.Tensor | None) -> int:
    """Return how many tokens a picture has."""
    found = trunk.get_image_features(**picture_arguments(trunk, pixels))
    found = getattr(found, "pooler_output", found)
    parts = found if isinstance(found, list | tuple) else [found]
    return sum(int(part.numel() // part.shape[-1]) for part in parts)


def _check_order(trunk: Any, pixels: torch.Tensor | None, token: int, n: int, name: str) -> None:
    """Raise ValueError if the states of a picture's tokens depend on the text after them."""
    others = [i for i in range(4) if i != token][:2]
    ids = torch.tensor([[token] * n + [others[0]] * 2, [token] * n + [others[1]] * 2])
    ids = ids.to(next(trunk.parameters()).device)
    assert pixels is not None
    given = picture_arguments(trunk, pixels.expand(2, *pixels.shape[1:]))
    given |= dict(input_ids=ids, attention_mask=torch.ones_like(ids), position_ids=positions_of(trunk, ids))
    hidden = trunk(**given, use_cache=False).last_hidden_state
    if not torch.allclose(hidden[0, :n], hidden[1, :n], atol=1e-4, rtol=1e-4):
        raise ValueError(
            f"{name} reads a picture with the text after it (it is bidirectional there), so the probabilities of a "
            "text are no product over its tokens; take a model like LLaVA, Idefics3 or SmolVLM"
        )
