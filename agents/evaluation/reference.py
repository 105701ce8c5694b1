"""Find the model that a policy is measured against, and measure: the KL per episode, and the reference's own nats."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from rlhf_envs.episodes import EpisodeBatch
from rlhf_envs.models import has_tokenizer, load_causal_lm, load_tokenizer, vocabulary_fingerprint
from rlhf_envs.models.vision import load_vision_model

from ..core.base_policy import LanguageModelPolicy
from ..core.language_model import LanguageModel
from ..core.observations import PIXELS
from ..core.segment_buffer import TOKENS_AT_ONCE
from .generate import Completion, pad_completions
from .source import Source

__all__ = ["Logits", "find_reference", "is_reference", "measure_against"]

Logits = Callable[..., torch.Tensor]
MAX_LOGITS = 2**25  # tokens x vocabulary at once


def find_reference(
    source: Source, policy: LanguageModelPolicy, batch: EpisodeBatch, reference: Any
) -> tuple[str | None, Logits | None]:
    """Return the reference model's name, and its logits as a function of `(input_ids, attention_mask, rows, columns)`.

    Both are None for a folder of weights on a task's own vocabulary, which does not say what it started from.
    """
    if reference is None:
        reference = source.start
    if reference is None and isinstance(source.model, str):
        default = batch.task.default_model
        reference = default if default is not None and _same_tokens(default, batch) else None
        if reference is None and batch.model_name is None:
            return None, None
    if reference is None:
        return policy.model_name or source.name, policy.reference_logits
    if isinstance(reference, str) and not _same_tokens(reference, batch):
        raise ValueError(
            f"the reference {reference!r} has another tokenizer than the environment: the token ids mean nothing to it"
        )
    if source.policy is not None and isinstance(reference, torch.nn.Module):
        trained = policy.language_model.trained_parameters().values()
        if not {*map(id, trained)}.isdisjoint(map(id, reference.parameters())):
            raise ValueError(
                "the reference is the model that the agent trains in place, so its KL would be 0: leave `reference` "
                "out for the model as it was before training, or give a copy or a name"
            )
    load = load_causal_lm if policy.picture is None else load_vision_model
    model = load(reference) if isinstance(reference, str) else reference
    picture = None if policy.picture is None else policy.picture.shape
    network = LanguageModel(model, picture=picture).to(policy.device)
    if network.vocab_size < policy.n_actions:
        raise ValueError(
            f"the reference {reference!r} has {network.vocab_size} tokens and the policy {policy.n_actions}: it has to "
            "be a model with the same tokenizer"
        )
    return reference if isinstance(reference, str) else model.name_or_path or type(model).__name__, network.logits


def is_reference(policy: LanguageModelPolicy) -> bool:
    """Return whether a policy is still its own reference, and draws tokens by nothing but a temperature."""
    if policy.language_model.adapters is not None or policy.top_k or policy.top_p or policy.reads_action_masks:
        return False
    return policy.is_language_model and all(torch.equal(*pair) for pair in policy.start_parameters().values())


def _same_tokens(model: str, batch: EpisodeBatch) -> bool:
    """Return whether the model's token ids are the environment's; a folder without a tokenizer is trusted."""
    known = vocabulary_fingerprint(batch.tokenizer)
    return not has_tokenizer(model) or vocabulary_fingerprint(load_tokenizer(model)) == known


@torch.no_grad()
def measure_against(
    logits: Logits, policy: LanguageModelPolicy, completions: list[Completion]
) -> tuple[np.ndarray, np.ndarray]:
    """Return per episode, (n,) each, log pi - log pi_ref with the policy's decoding, and -log p_ref without it."""
    order = np.argsort([len(c.input_ids) for c in completions], kind="stable")  # texts of a length: little padding
    longest = len(completions[order[-1]].input_ids)
    chunk = max(1, min(TOKENS_AT_ONCE, MAX_LOGITS // policy.language_model.vocab_size) // longest)
    kl, nll = np.zeros(len(completions)), np.zeros(len(completions))
    for start in range(0, len(completions), chunk):
        numbers = order[start : start + chunk]
        chosen = [completions[i] for i in numbers]
        obs = pad_completions(chosen, policy.device)
        ids, mask, rows, columns = (obs[name] for name in ("input_ids", "attention_mask", "rows", "columns"))
        actions = ids[rows, columns + 1]
        pictures = [obs[PIXELS]] if PIXELS in obs else []
        plain = logits(ids, mask, rows, columns, *pictures)[:, : policy.n_actions]
        if packed := [c.action_masks for c in chosen if c.action_masks is not None]:
            obs["action_masks"] = torch.as_tensor(np.concatenate(packed), device=policy.device)
        taken = np.concatenate([c.log_probs for c in chosen]).astype(np.float64)
        where = numbers[rows.cpu().numpy()]
        decoded = policy.reference_decoding_logits(plain, actions, *policy.masks(obs))
        np.add.at(kl, where, taken - _log_probs(decoded, actions))
        np.subtract.at(nll, where, _log_probs(plain, actions))
    return kl, nll


def _log_probs(logits: torch.Tensor, actions: torch.Tensor) -> np.ndarray:
    """Return the log-probabilities of `actions` (n,) under `logits` (n, vocabulary), float64."""
    taken = logits.gather(1, actions[:, None]).squeeze(1) - logits.logsumexp(dim=-1)
    return taken.double().cpu().numpy()
