"""Trust an ensemble of reward models only as far as its members agree."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from rlhf_envs.datasets.messages import Prompt
from rlhf_envs.rewards.base import Reward, RewardOfRewards
from rlhf_envs.rewards.registry import get_reward
from rlhf_envs.rewards.scores import Columns, ScoreError

__all__ = ["HasMembers", "Pessimistic"]


class HasMembers(Protocol):
    """Describe an ensemble: it scores texts several times, each time on the same scale."""

    def member_scores(self, prompts: Sequence[str], completions: Sequence[str]) -> Any:
        """Return scores, (members, n)."""


class Pessimistic(RewardOfRewards):
    """Score the mean of an ensemble's members minus k of their standard deviations, or their worst case.

    Source: Coste et al. 2023, "Reward Model Ensembles Help Mitigate Overoptimization"
    (https://arxiv.org/abs/2310.02743): uncertainty-weighted and worst-case optimisation. Departure: theirs weighs the
    variance, ours the deviation, which has the units of the reward.

    The components are the mean under the ensemble's name, `disagreement` (the deviation with ddof 0) and the
    pessimistic score.

    Args:
        ensemble: anything with `member_scores(prompts, completions) -> (members, n)`, or the folder of a saved
            `RewardEnsemble`.
        k: standard deviations to subtract.
        worst_case: take the lowest member instead, and do not use `k`.

    Raises:
        ValueError: `k` is below 0.
        TypeError: the ensemble has no `member_scores`.
    """

    def __init__(self, ensemble: HasMembers | str, k: float = 1.0, worst_case: bool = False) -> None:
        if isinstance(ensemble, str):
            ensemble = get_reward(ensemble)  # type: ignore[assignment]
        if not hasattr(ensemble, "member_scores"):
            raise TypeError(
                f"Pessimistic needs an ensemble with member_scores(prompts, completions), got {ensemble!r}: fit one "
                "with rlhf_envs.preferences.fit_ensemble"
            )
        if not k >= 0:
            raise ValueError(f"k must be a number of at least 0 (standard deviations), got {k!r}")
        self.ensemble, self.k, self.worst_case = ensemble, float(k), worst_case
        self._inner = str(getattr(ensemble, "name", "ensemble"))
        self.name = f"pessimistic_{self._inner}"

    def parts(self) -> tuple[Reward, ...]:
        """Return the ensemble, if it is a reward."""
        return (self.ensemble,) if isinstance(self.ensemble, Reward) else ()

    def evaluate(
        self, prompts: Sequence[Prompt], completions: Sequence[Prompt], columns: Columns
    ) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """Return the pessimistic scores, and by name also the members' mean and their disagreement."""
        reader = self.ensemble if isinstance(self.ensemble, Reward) else self
        asked, answers = reader.as_texts(prompts, completions)
        if hasattr(self.ensemble, "with_ending"):
            answers = self.ensemble.with_ending(answers, columns.get("finish_reasons"))
        members = self._members(asked, answers)
        mean, deviation = members.mean(axis=0), members.std(axis=0)
        scores = members.min(axis=0) if self.worst_case else mean - self.k * deviation
        return scores, {self._inner: mean, "disagreement": deviation, self.name: scores}

    def _members(self, prompts: list[str], completions: list[str]) -> np.ndarray:
        """Return the members' checked scores, (members, n) float64."""
        members = np.asarray(self.ensemble.member_scores(prompts, completions), dtype=np.float64)
        if members.ndim != 2 or members.shape[0] < 1 or members.shape[1] != len(prompts):
            raise ScoreError(
                f"the ensemble {self._inner!r} gave member scores of shape {members.shape} for {len(prompts)} "
                f"completions: expected (members, {len(prompts)})"
            )
        bad = ~np.isfinite(members)
        if bad.any():
            member, i = (int(index) for index in np.argwhere(bad)[0])
            raise ScoreError(
                f"member {member + 1} of the ensemble {self._inner!r} gave {members[member, i]} for completion "
                f"{i + 1} of {len(prompts)}. Prompt: {prompts[i]!r}. Completion: {completions[i]!r}.",
                index=i,
            )
        return members
