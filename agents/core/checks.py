"""Refuse arguments and models that do not fit, and numbers that are not finite."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Collection, Iterable
from typing import Any

import torch
from gymnasium import spaces
from torch import nn

from .arguments import check_value
from .language_model import LanguageModel
from .observations import PIXELS, read_contexts
from .picture_grid import grid_of

__all__ = [
    "check_arguments",
    "check_decoding",
    "check_gradients",
    "check_packing",
    "check_picture_space",
    "check_results",
    "check_rope",
    "check_sizes",
    "check_token_space",
]


def check_gradients(parameters: Iterable[tuple[str, nn.Parameter]]) -> None:
    """Raise `FloatingPointError` if the gradient of a named parameter is not finite."""
    named = [(name, getattr(p.grad, "_local_tensor", p.grad)) for name, p in parameters if p.grad is not None]
    finite = torch.stack(torch._foreach_norm([grad for _, grad in named])).isfinite() if named else torch.ones(1)
    if not finite.all():
        bad = (~finite).nonzero().flatten().tolist()
        # Clipping spoils every gradient if the total norm is not finite. If all are spoilt, no single one is named.
        which = "the gradient" if len(bad) == len(named) else f"the gradient of {named[bad[0]][0]}"
        raise FloatingPointError(
            f"{which} is not finite, and the step was not taken: the loss has overflowed; lower learning_rate, "
            "ent_coef or vf_coef, or look at the scale of the rewards"
        )


@torch.no_grad()
def check_results(
    obs: dict[str, torch.Tensor], evaluated: tuple[torch.Tensor, ...], decode: Callable[[torch.Tensor], Any]
) -> None:
    """Raise `FloatingPointError` if a result of `TokenPolicy.evaluate_actions` is not finite, and show the context.

    `evaluated` is what it returned for `obs`: values `(n, 1)`, log-probabilities `(n,)` and entropies `(n,)`.
    """
    results = torch.stack([result.flatten() for result in evaluated])  # (3, n)
    finite = results.isfinite()
    if finite.all():
        return
    what, action = (~finite).nonzero()[0].tolist()
    row, column = (int(obs[key][action]) if "rows" in obs else action for key in ("rows", "columns"))
    length = column + 1 if "rows" in obs else int(read_contexts(obs)[1][action])
    name = ("value", "log-probability", "entropy")[what]
    raise FloatingPointError(
        f"the {name} is {results[what, action].item()} in the update, after "
        f"{decode(obs['input_ids'][row, :length].long())!r}: the weights have diverged; lower "
        "learning_rate or max_grad_norm"
    )


def check_sizes(model: LanguageModel, name: str | None, n_actions: int, max_length: int) -> None:
    """Raise `ValueError` if a model's vocabulary or positions do not fit the environment."""
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
    check_rope(model.config, max_length)


def check_rope(config: Any, max_length: int) -> None:
    """Warn if a model reads the beginning of a context otherwise once the context is long, as Phi-3's long RoPE does.

    A rollout's log-probabilities would then be those of another model than an update's.
    """
    given = getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None) or {}
    ropes = [rope for rope in (given, *given.values()) if isinstance(rope, dict)]  # one, or one per kind of layer
    for rope in ropes:
        limit = rope.get("original_max_position_embeddings") or getattr(
            config, "original_max_position_embeddings", None
        )
        if rope.get("rope_type", rope.get("type")) == "longrope" and limit and max_length > limit:
            warnings.warn(
                f"the model's long RoPE takes other factors beyond {limit} tokens and contexts reach {max_length}: the "
                "log-probabilities of rollout and update will differ; keep max_prompt_tokens + max_new_tokens within "
                f"{limit}",
                stacklevel=4,
            )
            return


def check_token_space(space: spaces.Space[Any], reader: str) -> None:
    """Raise `ValueError`, which names the `reader`, if observations are not a token environment's."""
    if not isinstance(space, spaces.Dict) or "input_ids" not in space.spaces:
        raise ValueError(f"{reader} needs a token environment's Dict observations, got {space}")


def check_arguments(
    observation_space: spaces.Space[Any],
    action_space: spaces.Space[Any],
    temperature: float,
    top_k: int | None,
    top_p: float | None,
    use_sde: bool,
    keys: Collection[str] = ("input_ids", "attention_mask"),
) -> None:
    """Raise `ValueError` for the first space or argument that a policy does not take which reads these `keys`."""
    read = {"input_ids", "attention_mask"}
    boxes = observation_space.spaces if isinstance(observation_space, spaces.Dict) else {}
    is_token_space = read <= boxes.keys() and all(len(boxes[key].shape or ()) == 1 for key in read)
    if not is_token_space or not isinstance(action_space, spaces.Discrete):
        raise ValueError(
            "TokenPolicy needs a token environment, observations Dict(input_ids, attention_mask) and Discrete actions; "
            f"got {observation_space} and {action_space}"
        )
    if PIXELS in boxes and PIXELS not in keys:
        raise ValueError(
            f"observations have {PIXELS}, and agents that learn Q values (dqn, qrdqn, ilql) read no pictures: take one "
            "with TokenPolicy, such as 'ppo' or 'rloo', or make the environment with a model of text"
        )
    if ignored := sorted(boxes.keys() - set(keys)):
        raise ValueError(
            f"observations have {', '.join(ignored)}, which this policy does not read: leave it out, "
            "gymnasium.wrappers.FilterObservation(env, ['input_ids', 'attention_mask'])"
        )
    check_decoding(temperature, top_k, top_p)
    if use_sde:
        raise ValueError("use_sde=True: state-dependent exploration is for continuous actions, tokens are discrete")


def check_picture_space(space: spaces.Space[Any]) -> spaces.Box | None:
    """Return the space of the pictures in observations; None if they have none.

    Raises:
        ValueError: it is no space of pictures.
    """
    assert isinstance(space, spaces.Dict)
    if (found := space.spaces.get(PIXELS)) is None:
        return None
    if not isinstance(found, spaces.Box) or len(found.shape) != 4:
        raise ValueError(f"{PIXELS} is {found}: expected a Box of the shape (n, channels, height, width)")
    return found


def check_packing(language_model: LanguageModel, packing: bool | None) -> None:
    """Raise ValueError if sequences are to share rows, and the model's positions do not begin anew within a row."""
    if packing and grid_of(language_model.trunk) is not None:
        raise ValueError(
            f"packing=True: the positions of {type(language_model.model).__name__} have several axes (M-RoPE) and do "
            "not tell where a sequence begins in a shared row; leave packing out, which gives each a row of its own"
        )


def check_decoding(temperature: float = 1.0, top_k: int | None = None, top_p: float | None = None) -> None:
    """Raise ValueError for the first option of decoding that is out of range, TypeError for one of another type."""
    for name, value, hint in (("temperature", temperature, float), ("top_k", top_k, int | None)):
        check_value(name, value, hint)
    check_value("top_p", top_p, float | None)
    if not temperature > 0:
        raise ValueError(f"temperature={temperature}: expected a number above 0; for argmax use deterministic=True")
    if top_k is not None and top_k < 1:
        raise ValueError(f"top_k={top_k}: expected at least 1, or None")
    if top_p is not None and not 0 < top_p <= 1:
        raise ValueError(f"top_p={top_p}: expected a number in (0, 1], or None")
