"""Train with Kahneman-Tversky optimisation (KTO), offline, on completions that people called good or bad."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from stable_baselines3.common.type_aliases import Schedule

from ..core import ranks
from ..core.observations import PIXELS
from .common.episode_buffer import EpisodeSamples
from .common.offline import OfflinePreferences
from .common.preference_data import LABELS, Rows

__all__ = ["KTO", "as_labels"]

logger = logging.getLogger(__name__)


class KTO(OfflinePreferences):
    """Train with Kahneman-Tversky optimisation (KTO), offline, on completions with a label, good or bad.

    Paper: Ethayarajh et al. 2024, "KTO: Model Alignment as Prospect Theoretic Optimization",
    https://arxiv.org/abs/2402.01306, equation 7. With the log-ratio `r = log pi/pi_ref`, a good completion costs
    `1 - sigmoid(beta (r - z))` and a bad one `1 - sigmoid(beta (z - r))`. z estimates the KL to the reference: the mean
    log-ratio of the batch's prompts with completions of other prompts of the batch, at least 0 and without gradient.

    Departures: the reference is the policy as it stands when the agent is made, and stays so. Each prompt of a
    minibatch gets the completion of the row before it in the minibatch, as in TRL, whose loss and gradient this is. A
    minibatch of one row has z = 0. The rows' column `weight` multiplies their weights; TRL reads none. Completions are
    cut at the environment's `max_new_tokens`, and learned as the plain model decodes, at temperature 1. Of completions
    of several turns the assistant's tokens are learned, as by `dpo`.

    When to use it: with thumbs up and down, or flags of harm, and no pairs. With pairs take `dpo`.

    `learn(total_timesteps)` counts the tokens of the completions, one pass after another.

    Args:
        data: rows `{prompt, completion, label}` with the label true or false, or the path of a file of them, as `rlhf
            feedback export --format kto` writes them. None takes the environment's training data, if they have such
            columns. Messages and pictures are as in `dpo`.
        beta: weight of the KL to the reference in the loss.
        desirable_weight: weight of the good completions.
        undesirable_weight: weight of the bad ones. The paper keeps (number of good ones * desirable_weight) / (number
            of bad ones * undesirable_weight) between 1 and 4/3; the log says what it is.
        assistant_only_loss: learn the assistant's tokens alone; False learns all tokens from its first turn on.

    Defaults: `learning_rate=1e-4`, `batch_size=512`, `data=None`, `beta=0.1`, `desirable_weight=1.0`,
    `undesirable_weight=1.0`, `assistant_only_loss=True`. All other arguments and defaults are as in `PolicyGradient`.

    Raises:
        ValueError: an argument is out of range, or a row cannot be read; the message names the row.
        FileNotFoundError: there is no such file.
    """

    columns = LABELS
    shardable = False

    def __init__(
        self,
        policy: Any = None,
        env: Any = None,
        learning_rate: float | Schedule | None = None,
        batch_size: int | None = 512,
        data: str | Path | Rows | None = None,
        beta: float = 0.1,
        desirable_weight: float = 1.0,
        undesirable_weight: float = 1.0,
        assistant_only_loss: bool = True,
        **kwargs: Any,
    ) -> None:
        for name, weight in dict(desirable_weight=desirable_weight, undesirable_weight=undesirable_weight).items():
            if not 0 <= weight < float("inf"):
                raise ValueError(f"{name}={weight}: expected a number of at least 0")
        self.desirable_weight, self.undesirable_weight = desirable_weight, undesirable_weight
        super().__init__(policy, env, learning_rate, batch_size, data, beta, assistant_only_loss, **kwargs)

    def set_data(self, data: str | Path | Rows) -> None:
        """Learn from these rows from now on, and log how many are good and bad."""
        super().set_data(data)
        good = sum(row.share > 0.5 for row in self._logged)
        bad = len(self._logged) - good
        balance = good * self.desirable_weight / (bad * self.undesirable_weight) if bad * self.undesirable_weight else 0
        message = "kto: %d good and %d bad completions; with their weights %.3g to 1, the paper keeps it in 1 to 4/3"
        logger.info(message, good, bad, balance)

    def set_pairs(self, pairs: Rows) -> None:
        """Learn from the texts of pairs from now on: the chosen ones are good, the rejected ones bad."""
        self.set_data(as_labels(pairs))

    def _loss(self, samples: EpisodeSamples) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        _, log_prob, entropy = self.policy.evaluate_actions(samples.observations, samples.actions)
        ratios = samples.sum_by_episode(log_prob - samples.reference_log_prob)
        good = samples.one_by_episode(samples.returns) > 0.5
        weights = samples.one_by_episode(samples.advantages)
        weights = weights * torch.where(good, self.desirable_weight, self.undesirable_weight)
        kl = self._kl(samples)
        losses = 1 - torch.sigmoid(self.beta * torch.where(good, ratios - kl, kl - ratios))
        loss = (weights * losses).mean()
        rewards, sums = self.beta * ratios.detach(), samples.sum_by_episode(log_prob.detach())
        metrics = {"kl": kl, "entropy_loss": -entropy.mean()}
        for name, of in (("chosen", good), ("rejected", ~good)):
            if n := of.sum():  # over all ranks
                metrics |= {f"rewards/{name}": (rewards * of).sum() / n, f"logps/{name}": (sums * of).sum() / n}
        if metrics.keys() >= {"rewards/chosen", "rewards/rejected"}:
            metrics["rewards/margins"] = metrics["rewards/chosen"] - metrics["rewards/rejected"]
        return loss, metrics

    @torch.no_grad()
    def _kl(self, samples: EpisodeSamples) -> torch.Tensor:
        """Return z: the mean log-ratio of prompts with other prompts' completions, at least 0; 0 for a single row."""
        n = len(samples.observations["input_ids"])
        if ranks.total(n) == 1:
            return samples.reference_log_prob.new_zeros(())
        obs, actions = mismatched(samples)
        ratios = self.policy.log_prob(obs, actions) - self.policy.reference_log_prob(obs, actions)
        by_row = ratios.new_zeros(n).index_add(0, obs["rows"], ratios)
        return ranks.parts(by_row).mean().clamp(min=0)


class Completion(NamedTuple):
    """Hold a completion apart from its prompt.

    Attributes:
        ids: its tokens.
        places: which of them are actions, `(n,)` int64.
        actions: these, `(n,)` int64.
    """

    ids: np.ndarray
    places: np.ndarray
    actions: np.ndarray


def as_labels(pairs: Rows) -> list[dict[str, Any]]:
    """Return rows `{prompt, completion, label}` of pairs, the chosen text good and the rejected bad; of ties none."""
    clear = [pair for pair in pairs if pair.get("probability") != 0.5]
    rows = ((pair["prompt"], pair[side], side == "chosen") for pair in clear for side in ("chosen", "rejected"))
    return [{"prompt": prompt, "completion": text, "label": label} for prompt, text, label in rows]


def mismatched(samples: EpisodeSamples) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """Return observations and actions `(n,)` of each prompt with the completion of the row before it.

    A prompt ends where the first action was chosen. A completion of several turns has what stands between them too.
    The row before a rank's first one is the last one of the rank before it.
    """
    obs = {name: samples.observations[name].cpu().numpy() for name in ("input_ids", "rows", "columns")}
    ids, m, actions = obs["input_ids"], len(obs["input_ids"]), samples.actions.cpu().numpy()
    prompts, completions = [], []
    for row in range(m):
        columns = obs["columns"][obs["rows"] == row]
        start = columns[0] + 1
        own = actions[obs["rows"] == row]
        prompts.append(ids[row, :start])
        completions.append(Completion(np.append(ids[row, start : columns[-1] + 1], own[-1]), columns - columns[0], own))
    before = ranks.everywhere(completions[-1])[ranks.rank() - 1]
    pairs = list(zip(prompts, [before, *completions[:-1]], strict=True))
    contexts = [np.concatenate([prompt, completion.ids[:-1]]) for prompt, completion in pairs]
    lengths = np.array([len(context) for context in contexts])
    mask = np.arange(lengths.max()) < lengths[:, None]
    grid = np.zeros(mask.shape, np.int64)
    grid[mask] = np.concatenate(contexts)
    columns = np.concatenate([len(prompt) - 1 + completion.places for prompt, completion in pairs])
    arrays = {"input_ids": grid, "attention_mask": mask.astype(np.int64), "columns": columns}
    arrays["rows"] = np.repeat(np.arange(m), [len(completion.actions) for _, completion in pairs])
    device = samples.actions.device
    found = {name: torch.as_tensor(array, device=device) for name, array in arrays.items()}
    found |= {name: samples.observations[name] for name in (PIXELS,) if name in samples.observations}
    return found, torch.as_tensor(np.concatenate([completion.actions for _, completion in pairs]), device=device)
