"""Label pairs that nobody has judged by an ensemble, where it is sure.

Source: SURF (Park et al., 2022, https://arxiv.org/abs/2203.10050), with its threshold on the predicted preference.
Departure: the members' mean must pass the threshold, and every member must be on the same side.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from rlhf_envs.rewards.ensemble import RewardEnsemble

__all__ = ["pseudo_label"]


def pseudo_label(
    ensemble: RewardEnsemble,
    pairs: Sequence[Mapping[str, object]],
    *,
    threshold: float = 0.9,
    cap: int | None = None,
    weight: float = 1.0,
) -> list[dict[str, object]]:
    """Return preference rows for the pairs that the ensemble is sure about, the surest first.

    Args:
        ensemble: a fitted ensemble.
        pairs: `{"prompt", "completions": [first, second]}`; the prompt may be left out.
        threshold: the lowest probability of the preferred text, as the mean over the members.
        cap: rows to return, at most.
        weight: the weight of each row; a pair that a person has judged weighs 1.

    Returns:
        Rows of "prompt", "chosen", "rejected", "probability" (the ensemble's) and "weight".

    Raises:
        ValueError: the threshold, the cap or the weight is out of its range, or a pair is malformed.
    """
    if not 0.5 <= threshold <= 1.0 or (cap is not None and cap < 0) or not weight > 0:
        raise ValueError(f"threshold {threshold} must be 0.5 to 1, cap {cap} at least 0 and weight {weight} above 0")
    if not pairs:
        return []
    prompts, first, second = zip(*(_checked(pair, i) for i, pair in enumerate(pairs)), strict=True)
    probabilities = ensemble.preferences(prompts, first, second)  # (members, n)
    mean = probabilities.mean(axis=0)
    confidence = np.maximum(mean, 1 - mean)
    agreed = ((probabilities > 0.5) == (mean > 0.5)).all(axis=0)
    surest = np.argsort(-confidence, kind="stable")
    chosen = [int(i) for i in surest if agreed[i] and confidence[i] >= threshold][:cap]
    return [
        {
            "prompt": prompts[i],
            "chosen": first[i] if mean[i] > 0.5 else second[i],
            "rejected": second[i] if mean[i] > 0.5 else first[i],
            "probability": float(confidence[i]),
            "weight": weight,
        }
        for i in chosen
    ]


def _checked(pair: Mapping[str, object], index: int) -> tuple[str, str, str]:
    prompt, completions = pair.get("prompt", ""), pair.get("completions")
    if isinstance(prompt, str) and isinstance(completions, Sequence) and not isinstance(completions, str):
        first, *rest = completions
        if len(rest) == 1 and isinstance(first, str) and isinstance(rest[0], str):
            return prompt, first, rest[0]
    raise ValueError(f"pair {index} needs 'completions', two strings (and 'prompt', if there is one): {dict(pair)!r}")
