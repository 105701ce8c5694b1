"""Find the model of a policy (named, given, or a small fresh one), and write down how it draws tokens."""

from __future__ import annotations

import copy
import logging
from functools import cache
from pathlib import Path
from typing import Any

import torch
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedModel

from rlhf_envs.models import has_tokenizer, load_config, load_tokenizer, load_with_adapters, vocabulary_fingerprint
from rlhf_envs.models.vision import load_vision_model

__all__ = ["build_model", "find_model", "save_drawing"]

logger = logging.getLogger(__name__)


def find_model(
    model: Any, action_space: Any, max_length: int, dtype: torch.dtype, pictures: bool = False
) -> tuple[Any, str | None]:
    """Return the model that a policy's argument `model` means for an environment, and its name if it has one.

    A named model is loaded in the type `dtype`, with what reads `pictures` if there are any. Raise `ValueError` if the
    environment's tokens are not its own.
    """
    n_actions = int(action_space.n)
    if isinstance(model, Path):
        model = str(model)
    if (
        model is None
        and not pictures
        and load_config("tiny").vocab_size == n_actions
        and _has_tokens_of("tiny", action_space)
    ):
        model = "tiny"
    if isinstance(model, str):
        if not _has_tokens_of(model, action_space):
            raise ValueError(
                f"the environment's tokenizer ({n_actions} tokens) is not the model's, {model!r}: make "
                f"the environment with it, agents.make_vec_env(..., model={model!r})"
            )
        return load_vision_model(model, dtype) if pictures else load_with_adapters(model, dtype), model
    if model is not None:
        return model, None
    if pictures:
        raise ValueError("observations have pixel_values: name the model that reads them, such as model='tiny-vision'")
    _announce_fresh(n_actions)
    return build_model(n_actions, max_length, n_layer=2, n_embd=64, n_head=2), None


@cache
def _announce_fresh(n_actions: int) -> None:
    """Say once per process that a fresh model is built."""
    logger.warning("TokenPolicy: no model given: a small fresh one for %d actions is built", n_actions)


def _has_tokens_of(model: str, action_space: Any) -> bool:
    """Return whether the environment's token ids are the model's, as far as the environment tells."""
    known = getattr(action_space, "vocabulary", None)
    return known is None or not has_tokenizer(model) or known == vocabulary_fingerprint(load_tokenizer(model))


def build_model(vocab_size: int, n_positions: int, n_layer: int, n_embd: int, n_head: int) -> PreTrainedModel:
    """Build a GPT-2-shaped model without dropout; pad is token 0 and EOS is token 1, as in `train_tokenizer`."""
    shape: dict[str, Any] = {"n_positions": n_positions, "n_layer": n_layer, "n_embd": n_embd, "n_head": n_head}
    tokens: dict[str, Any] = {"vocab_size": vocab_size, "pad_token_id": 0, "eos_token_id": 1, "bos_token_id": None}
    no_dropout: dict[str, Any] = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
    return GPT2LMHeadModel(GPT2Config(activation_function="gelu_pytorch_tanh", **shape, **tokens, **no_dropout))


def save_drawing(
    model: Any, folder: str | Path, temperature: float, top_k: int | None, top_p: float | None, **others: Any
) -> None:
    """Write `generation_config.json`: the model's own, if it has one, which draws tokens in this way.

    Args:
        model: the model; its own configuration stays as it is.
        folder: where to write.
        temperature, top_k, top_p: as of a policy; None for no limit.
        **others: further fields, such as `max_new_tokens`.
    """
    config = copy.deepcopy(getattr(model, "generation_config", None))
    if config is not None:
        drawing = {"temperature": float(temperature), "top_k": top_k or 0, "top_p": top_p or 1.0}
        config.update(do_sample=True, **drawing, **others, _from_model_config=False)
        config.save_pretrained(folder)
