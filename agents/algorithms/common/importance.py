"""Correct for samples that are not quite the policy's own, by truncated importance weights."""

from __future__ import annotations

import logging
from typing import Any, Literal

import numpy as np

from ...core.segment_buffer import SegmentBuffer
from .episode_buffer import EpisodeRolloutBuffer

__all__ = ["ImportanceMode", "correct", "reweigh"]

logger = logging.getLogger(__name__)

ImportanceMode = Literal["token_truncate", "sequence_truncate"]
FAR = 0.1  # a mean |log ratio| per token above it is more than rounding
LEAST_LOG_PROB = -80.0  # SB3's ratios to a token of less may be above e^80, and overflow in float32


def correct(
    buffer: EpisodeRolloutBuffer, policy: Any, mode: ImportanceMode | None, clip_max: float, of_engine: bool = True
) -> tuple[np.ndarray, dict[str, float]]:
    """Put the policy's own log-probabilities in the place of an engine's, and return weights of the samples.

    An engine computes in other kernels, often in lower precision, and its weights may be older. So its samples are not
    quite the policy's. The weight of a token is `min(pi(a) / pi_engine(a), clip_max)`, as in Yao et al. 2025, "Your
    Efficient RL Framework Secretly Brings You Off-Policy RL Training", https://fengyao.notion.site/off-policy-rl; the
    modes have TRL's names. "sequence_truncate" takes the ratio of the whole completion, for algorithms to which a
    completion is one action. The weights multiply the advantages; ratios of the update are to the policy of before it.

    Args:
        buffer: the rollout; its `log_probs` and `values` are replaced.
        mode: None for weights of 1, for algorithms that learn from samples of any policy.
        clip_max: the most that a weight may be.
        of_engine: an engine drew the samples, and is warned of where its numbers are far off. Otherwise older weights
            of the policy did.

    Returns:
        weights, `(n, 1)`, and metrics for the log.
    """
    log_ratio = buffer.log_probs
    buffer.recompute(policy)
    log_ratio = buffer.log_probs.astype(np.float64) - log_ratio
    gap = float(np.abs(log_ratio).mean())
    if gap > FAR and of_engine:
        logger.warning(
            "the engine's log-probabilities are on average %.2g nats from the policy's. Episodes that a rollout cut or "
            "that waited for their group are of older weights. Else it may serve other weights, or count "
            "log-probabilities before the temperature, top_k and top_p (start vLLM with --logprobs-mode "
            "processed_logprobs, SGLang without SGLANG_RETURN_ORIGINAL_LOGPROB)",
            gap,
        )
    if mode == "sequence_truncate":
        log_ratio = buffer.sum_by_episode(log_ratio)[buffer.segments[:, 0]][:, None]
    ratio = np.exp(np.minimum(log_ratio, 50))
    weights = np.ones_like(ratio) if mode is None else np.minimum(ratio, clip_max)
    return weights, ({"engine_gap": gap} if of_engine else {}) | _describe(ratio)


def reweigh(buffer: SegmentBuffer, policy: Any, clip_max: float, centred: bool) -> dict[str, float]:
    """Weigh the advantages of a rollout of SB3's algorithms that older weights of the policy drew, token by token.

    As in Hilton et al. 2022, "Batch size-invariance for policy optimization", https://arxiv.org/abs/2110.00641: the
    buffer's `log_probs`, of the old weights, are replaced by the log-probabilities of `policy`, so that the update's
    ratios start at 1, and advantages are multiplied by `min(pi / pi_old, clip_max)`. The KL penalty and the values stay
    as they were. Log-probabilities below `LEAST_LOG_PROB` count as this: such a token's weight is next to 0, and the
    ratios of its update stay finite.

    Args:
        buffer: the rollout, with its advantages.
        centred: subtract the mean from the advantages first, because the algorithm does so in every minibatch, where it
            would be a mean of weighted ones.

    Returns:
        metrics for the log.
    """
    old = buffer.log_probs.astype(np.float64)
    buffer.compute_again(policy)
    buffer.log_probs = np.maximum(buffer.log_probs, np.float32(LEAST_LOG_PROB))
    ratio = np.exp(np.minimum(buffer.log_probs - old, 50))
    advantages = buffer.advantages - buffer.advantages.mean() if centred else buffer.advantages
    buffer.advantages = (np.minimum(ratio, clip_max) * advantages).astype(np.float32)
    return _describe(ratio)


def _describe(ratio: np.ndarray) -> dict[str, float]:
    found = {"mean": ratio.mean(), "max": ratio.max(), "min": ratio.min()}
    return {f"importance_ratio_{name}": float(value) for name, value in found.items()}
