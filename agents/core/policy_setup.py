"""What a policy checks and finds before it is built: its arguments, its model, and whether the two go together."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from gymnasium import spaces

from .language_model import LanguageModel

__all__ = ["check_arguments", "check_sizes", "find_model"]

logger = logging.getLogger(__name__)


def find_model(model: Any, action_space: Any, max_length: int) -> tuple[Any, str | None]:
    """The model that `TokenPolicy`'s argument `model` means for an environment, and its name if it has one.

    Raises:
        ValueError: the environment's tokens are not those of the named model.
    """
    from rlhf_envs.models import load_causal_lm, load_config

    n_actions = int(action_space.n)
    if isinstance(model, Path):
        model = str(model)
    if model is None and load_config("tiny").vocab_size == n_actions and _has_tokens_of("tiny", action_space):
        model = "tiny"
    if isinstance(model, str):
        if not _has_tokens_of(model, action_space):
            raise ValueError(
                f"the environment's tokenizer ({n_actions} tokens) is not that of the model {model!r}: make "
                f"the environment with it, agents.make_vec_env(..., model={model!r})"
            )
        return load_causal_lm(model), model
    if model is not None:
        return model, None
    from ..training.pretrain import build_model

    logger.warning("TokenPolicy: no model given: a small fresh one for %d actions is built", n_actions)
    return build_model(n_actions, max_length, n_layer=2, n_embd=64, n_head=2), None


def _has_tokens_of(model: str, action_space: Any) -> bool:
    """Whether the environment's token ids are the model's, as far as the environment tells."""
    from rlhf_envs.models import has_tokenizer, load_tokenizer, vocabulary_fingerprint

    known = getattr(action_space, "vocabulary", None)
    return known is None or not has_tokenizer(model) or known == vocabulary_fingerprint(load_tokenizer(model))


def check_sizes(model: LanguageModel, name: str | None, n_actions: int, max_length: int) -> None:
    """Refuse a model whose vocabulary or positions do not go with the environment's.

    Raises:
        ValueError: they do not.
    """
    vocab_size = model.vocab_size
    if not n_actions <= vocab_size <= 1.1 * n_actions + 16:  # more than padding of the embedding
        raise ValueError(
            f"the environment has {n_actions} tokens and the model {name or 'given'!r} has "
            f"{vocab_size}: make the environment with the model's own tokenizer, gym.make(..., model=...)"
        )
    positions = getattr(model.config, "max_position_embeddings", None)
    if positions is not None and positions < max_length:
        raise ValueError(
            f"contexts reach {max_length} tokens and the model has {positions} positions: lower the "
            "environment's max_prompt_tokens or max_new_tokens"
        )


def check_arguments(
    observation_space: spaces.Space[Any],
    action_space: spaces.Space[Any],
    value: str,
    temperature: float,
    top_k: int | None,
    top_p: float | None,
    use_sde: bool,
) -> None:
    """Refuse spaces and arguments that no `TokenPolicy` has.

    Raises:
        ValueError: the message names the first one.
    """
    keys = set(observation_space.spaces) if isinstance(observation_space, spaces.Dict) else set()
    if not {"input_ids", "attention_mask"} <= keys or not isinstance(action_space, spaces.Discrete):
        raise ValueError(
            "TokenPolicy needs a token environment, observations Dict(input_ids, attention_mask) and Discrete actions; "
            f"got {observation_space} and {action_space}"
        )
    if value not in ("shared", "separate"):
        raise ValueError(f"value={value!r}: expected 'shared' or 'separate'")
    if not temperature > 0:
        raise ValueError(f"temperature={temperature}: expected a number above 0; for argmax use deterministic=True")
    if top_k is not None and top_k < 1:
        raise ValueError(f"top_k={top_k}: expected at least 1, or None")
    if top_p is not None and not 0 < top_p <= 1:
        raise ValueError(f"top_p={top_p}: expected a number in (0, 1], or None")
    if use_sde:
        raise ValueError("use_sde=True: state-dependent exploration is for continuous actions, tokens are discrete")
