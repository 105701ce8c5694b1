"""Train with direct preference optimisation (DPO), offline, on pairs that people or judges chose from."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import torch
from stable_baselines3.common.type_aliases import Schedule
from torch.nn import functional

from .common.episode_buffer import EpisodeSamples
from .common.offline import OfflinePreferences
from .common.preference_data import PAIRS, Rows

__all__ = ["DPO"]


class DPO(OfflinePreferences):
    """Train with direct preference optimisation (DPO), offline, on pairs of completions.

    Papers: Rafailov et al. 2023, "Direct Preference Optimization: Your Language Model is Secretly a Reward Model",
    https://arxiv.org/abs/2305.18290: `-log sigmoid(beta (log pi/pi_ref (chosen) - log pi/pi_ref (rejected)))`. Label
    smoothing is from Mitchell 2023, "A note on DPO with noisy preferences", https://ericmitchell.ai/cdpo.pdf; "robust"
    from Chowdhury et al. 2024, https://arxiv.org/abs/2403.00409; "ipo" from Azar et al. 2023,
    https://arxiv.org/abs/2310.12036, with log-ratios per token, as in TRL. The losses and gradients are TRL's.

    Departures: the reference is the policy as it stands when the agent is made, and stays so in later calls of `learn`
    and later rounds of `rlhf loop`. The rows' column `probability` (how likely `chosen` is the better one, from several
    annotators) weighs both orders of the pair, and `weight` the pair; TRL reads neither. A column `margin` is not read.
    A completion is cut at the environment's `max_new_tokens`, and the log says how many are. Pairs are learned as the
    plain model decodes, at temperature 1. Nothing is written and no reward is asked while it learns. Of completions of
    several turns the assistant's tokens are learned (each turn with its EOS), and what others say is context; TRL 1.16
    learns all of it, which `assistant_only_loss=False` does too.

    When to use it: with pairs that people have judged, and no reward model. It takes the least time per pair. What it
    gains is bounded by what the pairs show: new completions, judged anew, help more than passes (`rlhf loop`).

    `learn(total_timesteps)` counts the tokens of both completions of the pairs, one pass after another.

    Args:
        data: rows `{prompt, chosen, rejected}`, or the path of a file of them: texts or messages, as `rlhf feedback
            export --format preference` writes them. None takes the environment's training data, if they have such
            columns. Messages may be of several turns. Without a prompt, it is what both completions begin with. An
            `image` (or `images` with one) is shown with the prompt, if the environment has pictures.
        beta: weight of the KL to the reference in the loss. For "ipo" the paper's tau.
        loss_type: "sigmoid", "robust" or "ipo".
        label_smoothing: the share of the pairs that are thought to be the wrong way round, below 0.5.
        assistant_only_loss: learn the assistant's tokens alone; False learns all tokens from its first turn on.

    Defaults: `learning_rate=1e-4`, `batch_size=512`, `data=None`, `beta=0.1`, `loss_type="sigmoid"`,
    `label_smoothing=0.0`, `assistant_only_loss=True`. All other arguments and defaults are as in `PolicyGradient`.

    Raises:
        ValueError: an argument is out of range, or a row cannot be read; the message names the row.
        FileNotFoundError: there is no such file.
    """

    columns = PAIRS

    def __init__(
        self,
        policy: Any = None,
        env: Any = None,
        learning_rate: float | Schedule | None = None,
        batch_size: int | None = 512,
        data: str | Path | Rows | None = None,
        beta: float = 0.1,
        loss_type: Literal["sigmoid", "robust", "ipo"] = "sigmoid",
        label_smoothing: float = 0.0,
        assistant_only_loss: bool = True,
        **kwargs: Any,
    ) -> None:
        if loss_type not in ("sigmoid", "robust", "ipo"):
            raise ValueError(f"loss_type={loss_type!r}: expected 'sigmoid', 'robust' or 'ipo'")
        if not 0 <= label_smoothing < 0.5:
            raise ValueError(f"label_smoothing={label_smoothing}: expected a share of at least 0 and below 0.5")
        if loss_type == "ipo" and label_smoothing:
            raise ValueError(f"label_smoothing={label_smoothing} with loss_type='ipo', which has none: leave it out")
        self.loss_type, self.label_smoothing = loss_type, label_smoothing
        super().__init__(policy, env, learning_rate, batch_size, data, beta, assistant_only_loss, **kwargs)

    def _loss(self, samples: EpisodeSamples) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        _, log_prob, entropy = self.policy.evaluate_actions(samples.observations, samples.actions)
        ratios = samples.sum_by_episode(log_prob - samples.reference_log_prob).reshape(-1, 2)
        shares = samples.one_by_episode(samples.returns).reshape(-1, 2)[:, 0]
        weights = samples.one_by_episode(samples.advantages).reshape(-1, 2)[:, 0]
        scored = ratios
        if self.loss_type == "ipo":
            scored = ratios / samples.sum_by_episode(torch.ones_like(log_prob)).reshape(-1, 2)
        delta = scored[:, 0] - scored[:, 1]
        losses = shares * self._losses(delta) + (1 - shares) * self._losses(-delta)
        loss = (weights * losses).sum() / weights.sum()
        rewards = self.beta * ratios.detach()
        sums = samples.sum_by_episode(log_prob.detach()).reshape(-1, 2)
        return loss, {
            "rewards/chosen": rewards[:, 0].mean(),
            "rewards/rejected": rewards[:, 1].mean(),
            "rewards/margins": (rewards[:, 0] - rewards[:, 1]).mean(),
            "rewards/accuracies": (rewards[:, 0] > rewards[:, 1]).float().mean(),
            "logps/chosen": sums[:, 0].mean(),
            "logps/rejected": sums[:, 1].mean(),
            "entropy_loss": -entropy.mean(),
        }

    def _losses(self, delta: torch.Tensor) -> torch.Tensor:
        """Return the losses `(pairs,)` of differences of log-ratios `(pairs,)`, chosen less rejected."""
        if self.loss_type == "ipo":
            return (delta - 1 / (2 * self.beta)) ** 2
        right, wrong = (-functional.logsigmoid(sign * self.beta * delta) for sign in (1, -1))
        if self.loss_type == "robust":
            return ((1 - self.label_smoothing) * right - self.label_smoothing * wrong) / (1 - 2 * self.label_smoothing)
        return (1 - self.label_smoothing) * right + self.label_smoothing * wrong
