"""Show where a policy parts from its reference, token by token, and what it could have written instead."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from transformers.convert_slow_tokenizer import bytes_to_unicode

from ...core.base_policy import LanguageModelPolicy

__all__ = ["Alternative", "Step", "measure_steps"]

BYTES = {letter: byte for byte, letter in bytes_to_unicode().items()}  # how vocabularies of bytes write them


class Alternative(NamedTuple):
    """Hold a token that could come next, and its probability under the policy and the reference (None without one)."""

    token: str
    token_id: int
    probability: float
    reference: float | None


class Step(NamedTuple):
    r"""Hold one token of a completion.

    Attributes:
        token: its text; the bytes of a token that is no whole character, such as `\xd9`.
        log_prob: log pi(token), in nats.
        log_ratio: log pi(token) - log pi_ref(token), in nats; None without a reference.
        kl: KL(pi || pi_ref) over the whole vocabulary at this place, in nats; None without a reference.
        alternatives: the most probable tokens at this place.
    """

    token: str
    token_id: int
    log_prob: float
    log_ratio: float | None
    kl: float | None
    alternatives: list[Alternative]

    def to_dict(self) -> dict[str, Any]:
        """Return the entry of a JSON report."""
        return {**self._asdict(), "alternatives": [one._asdict() for one in self.alternatives]}


@torch.no_grad()
def measure_steps(
    policy: LanguageModelPolicy,
    reference: Callable[..., torch.Tensor] | None,
    tokenizer: Any,
    input_ids: np.ndarray,
    columns: np.ndarray,
    top: int,
    pixels: np.ndarray | None = None,
) -> list[Step]:
    """Return one step per action.

    Both models are read at the policy's temperature; top-k, top-p and masks are left out, as they would make the KL
    infinite.

    Args:
        reference: its logits, as `LanguageModel.logits`; None if there is none.
        input_ids: (length,) prompt and completion.
        columns: (n_actions,) the position after which each action was taken.
        top: how many alternatives a step shows.
        pixels: the picture that the model saw.
    """
    if not len(columns):
        return []
    ids = torch.as_tensor(input_ids, device=policy.device)[None].long()
    places = torch.as_tensor(columns, device=policy.device).long()
    inputs = [ids, torch.ones_like(ids), torch.zeros_like(places), places]
    inputs += [] if pixels is None else [torch.as_tensor(pixels, device=policy.device)[None]]

    def log_probs(logits: Callable[..., torch.Tensor]) -> torch.Tensor:
        return (logits(*inputs)[:, : policy.n_actions].double() / policy.temperature).log_softmax(dim=-1)

    actions = ids[0, places + 1][:, None]
    own = log_probs(policy.language_model.logits)  # (n_actions, V)
    other = None if reference is None else log_probs(reference)
    taken = own.gather(1, actions)[:, 0].tolist()
    probable = own.topk(min(top, own.shape[1]), dim=-1).indices
    steps = []
    for i, action in enumerate(actions[:, 0].tolist()):
        ratio = kl = None
        if other is not None:
            ratio = taken[i] - float(other[i, action])
            kl = max(float((own[i].exp() * (own[i] - other[i])).nan_to_num(0.0).sum()), 0.0)
        alternatives = [
            Alternative(
                _shown(tokenizer, token),
                token,
                float(own[i, token].exp()),
                None if other is None else float(other[i, token].exp()),
            )
            for token in probable[i].tolist()
        ]
        steps.append(Step(_shown(tokenizer, action), action, taken[i], ratio, kl, alternatives))
    return steps


def _shown(tokenizer: Any, token: int) -> str:
    r"""Return the text of a token, with special tokens; of a part of a character its bytes, such as `\xd9`."""
    text = str(tokenizer.decode([token], skip_special_tokens=False, clean_up_tokenization_spaces=False))
    if text and "\ufffd" not in text:
        return text
    written = str(tokenizer.convert_ids_to_tokens(token))
    return "".join(f"\\x{BYTES[letter]:02x}" for letter in written) if {*written} <= BYTES.keys() else written
