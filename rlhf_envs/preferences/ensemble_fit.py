"""Fit ensembles of reward models: each member to its own bootstrap of the pairs, from its own start."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from rlhf_envs.rewards.ensemble import RewardEnsemble, set_head
from rlhf_envs.rewards.reward_model import find_head

from .bradley_terry import Pair, PairMetrics, encode_pairs, fit_encoded, measure_differences, pair_texts
from .splitting import MAX_REFERENCES
from .training import check_fit, load_backbone

if TYPE_CHECKING:
    from transformers import PreTrainedModel
    from typing_extensions import Unpack

    from .training import TrainingOptions

__all__ = ["ensemble_differences", "evaluate_ensemble", "fit_ensemble"]


def fit_ensemble(
    model: str,
    pairs: Sequence[Pair],
    held_out: Sequence[Pair],
    *,
    members: int = 5,
    shared_trunk: bool = True,
    bootstrap: bool = True,
    references: Sequence[str] | None = None,
    max_length: int | None = None,
    device: str = "cpu",
    **options: Unpack[TrainingOptions],
) -> RewardEnsemble:
    """Fit an ensemble to preference pairs by the Bradley-Terry model, and return it.

    Args:
        model: name of the backbone, see `rlhf_envs.preferences.training.load_backbone`.
        pairs: as `fit_bradley_terry` takes them.
        held_out: pairs that are not in `pairs`; the metrics on them become `ensemble.metrics`.
        members: how many, at least 2.
        shared_trunk: whether the members are heads of one model, which cost as much as one model, or separate models.
        bootstrap: whether each member sees the pairs as often as its own draw with replacement holds them.
        references: texts over which the scores get mean 0 and standard deviation 1. By default the texts of the
            held-out pairs and then of the pairs, the first 1,000.
        max_length: tokens read of each text (its last ones), the model's positions by default.
        device: where the ensemble is fitted and lives.
        **options: see `rlhf_envs.preferences.training.optimise`; `seed` also draws the heads and the bootstraps.

    Raises:
        ValueError: as in `fit_bradley_terry`, or there are fewer than 2 members.
    """
    if members < 2:
        raise ValueError(f"members is {members}: an ensemble has at least 2; fit_bradley_terry fits one model")
    seed = options.get("seed", 0)
    seeds = np.random.SeedSequence(seed).generate_state(members).tolist()  # ensembles of neighbouring seeds share none
    networks: list[PreTrainedModel] = []
    for member in range(1 if shared_trunk else members):
        network, tokenizer = load_backbone(model, seeds[member])
        network.to(device)  # type: ignore[arg-type]
        length = check_fit(network, tokenizer, len(pairs), len(held_out), "pairs", max_length)
        encoded = encode_pairs(tokenizer, pairs, length)
        _draw_heads(network, members if shared_trunk else 1, seeds[member])
        n = len(encoded.rows)
        counts = _bootstraps(members, n, seed) if bootstrap else torch.ones(members, n)
        weights = counts if shared_trunk else counts[member : member + 1]
        fit_encoded(network, encoded, weights, {**options, "seed": seeds[member]})
        networks.append(network)
    texts = list(references) if references is not None else pair_texts([*held_out, *pairs], tokenizer)[:MAX_REFERENCES]
    ensemble = RewardEnsemble.from_networks(networks, tokenizer, texts)
    ensemble.metrics = evaluate_ensemble(ensemble, held_out)
    return ensemble


def evaluate_ensemble(ensemble: RewardEnsemble, pairs: Sequence[Pair]) -> PairMetrics:
    """Measure the mean of an ensemble on pairs."""
    if not pairs:
        raise ValueError("no pairs to measure on")
    return measure_differences(ensemble_differences(ensemble, pairs), pairs)


def ensemble_differences(ensemble: RewardEnsemble, pairs: Sequence[Pair]) -> NDArray[np.float64]:
    """Return the members' mean raw score of each chosen text minus the rejected text's, (n,)."""
    scores = ensemble.raw_scores(pair_texts(pairs, ensemble.tokenizer)).mean(axis=0).reshape(-1, 2)
    return scores[:, 0] - scores[:, 1]


def _bootstraps(members: int, n: int, seed: int) -> torch.Tensor:
    """Return how often each member sees each pair, (members, n), by n draws with replacement per member."""
    generator = np.random.default_rng(seed)
    return torch.from_numpy(generator.multinomial(n, np.full(n, 1 / n), size=members)).float()


def _draw_heads(network: PreTrainedModel, n: int, seed: int) -> None:
    """Give a model n different heads, so that the members disagree where the pairs say nothing."""
    head = find_head(network)[1]
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        drawn = torch.nn.Linear(head.in_features, n)
    bias = None if head.bias is None else torch.zeros(n)
    set_head(network, drawn.weight.detach(), bias)
