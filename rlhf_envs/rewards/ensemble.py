"""Score by an ensemble of reward models, whose disagreement says how far a score can be trusted.

Sources: Lakshminarayanan et al., 2017 (https://arxiv.org/abs/1612.01474) and Coste et al., 2023
(https://arxiv.org/abs/2310.02743) for ensembles of reward models; Osband et al., 2016
(https://arxiv.org/abs/1602.04621) for heads on one trunk, each with its own bootstrap of the data.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file

from rlhf_envs.datasets.messages import Prompt
from rlhf_envs.models import first_line, model_errors, no_progress_bars
from rlhf_envs.models.devices import find_device
from rlhf_envs.rewards.base import Reward
from rlhf_envs.rewards.reward_model import (
    RewardModel,
    as_model_texts,
    find_head,
    load_classifier,
    score_matrix,
    with_ending,
)

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

__all__ = ["RewardEnsemble", "is_ensemble", "load_reward", "set_head"]

_FILE, _HEADS = "reward_ensemble.json", "heads.safetensors"


def is_ensemble(folder: str | Path) -> bool:
    """Return whether a folder holds a `RewardEnsemble`."""
    return (Path(folder) / _FILE).is_file()


def load_reward(folder: str | Path, batch_size: int = 64, device: str = "auto") -> RewardModel | RewardEnsemble:
    """Load the ensemble or the single reward model in a folder; it is kept until the folder is written anew.

    Raises:
        ValueError: the folder holds no reward model.
    """
    config = Path(folder) / "config.json"
    changed = config.stat().st_mtime_ns if config.is_file() else 0
    return _load_reward(str(folder), str(Path(folder).resolve()), changed, batch_size, device)


@lru_cache(maxsize=4)
def _load_reward(
    folder: str, resolved: str, changed: int, batch_size: int, device: str
) -> RewardModel | RewardEnsemble:
    """Load a folder once for each place and time of change: a relative path means another place elsewhere."""
    return (RewardEnsemble if is_ensemble(folder) else RewardModel)(folder, batch_size, device)


def _read_description(file: Path) -> dict[str, Any]:
    """Return the description of an ensemble. Raise ValueError, with the file and what is wrong, for another content."""
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        biases = [float(bias) for bias in found["biases"]]
        if found["members"] != len(biases):
            raise ValueError(f"{found['members']!r} members and {len(biases)} biases")
        shared, gain = bool(found["shared_trunk"]), float(found["gain"])
    except (ValueError, LookupError, TypeError, RecursionError) as error:
        raise ValueError(f"{file} describes no ensemble ({error!r:.200}): the file is damaged") from error
    return {"members": len(biases), "biases": biases, "shared_trunk": shared, "gain": gain}


def set_head(model: PreTrainedModel, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
    """Replace the last linear map of a sequence classifier by one with weight (outputs, width) and bias (outputs,)."""
    name, head = find_head(model)
    # Without an initialisation, which would draw from the device's generator.
    new = torch.nn.utils.skip_init(
        torch.nn.Linear, head.in_features, len(weight), bias=bias is not None, device=head.weight.device
    )
    with torch.no_grad():
        new.weight.copy_(weight)
        if bias is not None:
            new.bias.copy_(bias)
    parent, _, attribute = name.rpartition(".")
    setattr(model.get_submodule(parent), attribute, new)


class RewardEnsemble(Reward):
    """Score by the mean of K reward models; `member_scores` and `std` tell how far they agree.

    With a shared trunk the members are K linear heads of one model, and a score costs one pass. The folder is then also
    a plain reward model whose head is the mean of the heads; the heads themselves are in `heads.safetensors`. Without a
    shared trunk the members are separate models: the folder itself is the first, and `member_1`, `member_2`, ... in it
    are the others.

    Scores are normalised: each member has mean 0 over the reference texts of `fit_ensemble` (a Bradley-Terry score has
    no zero of its own), and one gain for all members gives their mean the standard deviation 1.

    Args:
        folder: a folder that `save_pretrained` wrote.
        batch_size: texts per forward pass.
        device: where the models live, see `RewardModel`.

    Raises:
        ValueError: the folder holds no ensemble.
    """

    follows = True  # `follow` moves it
    metrics: Any = None  # the held-out metrics of the fit, a PairMetrics

    def __init__(self, folder: str | Path, batch_size: int = 64, device: str = "auto") -> None:
        self.follows, device = device == "auto", find_device(device)
        folder = Path(folder)
        if not is_ensemble(folder):
            raise ValueError(f"{str(folder)!r} is no ensemble, it has no {_FILE}: write one with fit_ensemble")
        described = _read_description(folder / _FILE)
        further = [] if described["shared_trunk"] else [f"member_{i}" for i in range(1, described["members"])]
        networks = []
        for place in (folder, *(folder / name for name in further)):
            network, tokenizer = load_classifier(str(place))
            networks.append(network)
        if described["shared_trunk"]:
            try:
                heads = load_file(folder / _HEADS)
                set_head(networks[0], heads["weight"], heads.get("bias"))
            except model_errors() as error:
                raise ValueError(f"{folder / _HEADS} holds no heads ({first_line(error)}): it is damaged") from error
        self._set(networks, tokenizer, described["gain"], described["biases"], batch_size)
        self.name = folder.name
        for network in networks:
            network.to(device)  # type: ignore[arg-type]

    @classmethod
    def from_networks(
        cls,
        networks: Sequence[PreTrainedModel],
        tokenizer: PreTrainedTokenizerBase,
        references: Sequence[str],
        batch_size: int = 64,
    ) -> RewardEnsemble:
        """Make an ensemble of models in memory: one with a head of K outputs, or K with a head of one output.

        Args:
            networks: the models, in evaluation mode.
            tokenizer: the tokenizer of all of them.
            references: texts over which the scores are normalised.
            batch_size: texts per forward pass.

        Raises:
            ValueError: there are fewer than two members, or their mean is the same for all references.
        """
        ensemble = cls.__new__(cls)
        ensemble._set(networks, tokenizer, 1.0, [], batch_size)
        raw = ensemble.raw_scores(references)
        mean = raw.mean(axis=0)
        deviation = float(mean.std()) if len(mean) > 1 else 0.0
        if len(raw) < 2 or not np.isfinite(deviation) or deviation < 1e-8:
            raise ValueError(
                f"{len(raw)} members whose mean has a standard deviation of {deviation} over {len(references)} "
                "references: it takes 2 members, and references that they tell apart"
            )
        ensemble.gain = 1.0 / deviation
        ensemble.biases = -raw.mean(axis=1) / deviation
        return ensemble

    def _set(
        self,
        networks: Sequence[PreTrainedModel],
        tokenizer: PreTrainedTokenizerBase,
        gain: float,
        biases: Sequence[float],
        batch_size: int,
    ) -> None:
        self.name = "ensemble"
        self.networks, self.tokenizer, self.batch_size = list(networks), tokenizer, batch_size
        self.gain, self.biases = gain, np.asarray(biases, dtype=np.float64)

    def follow(self, device: Any) -> None:
        """Move to the device of a policy, unless a device was asked for."""
        for network in self.networks if self.follows else ():
            network.to(device)

    @property
    def shared_trunk(self) -> bool:
        """Return whether the members are heads of one model."""
        return len(self.networks) == 1

    @property
    def members(self) -> int:
        """Return the number of members."""
        return len(self.biases)

    def raw_scores(self, texts: Sequence[str]) -> NDArray[np.float64]:
        """Return the members' scores before normalisation, (members, n); their differences are log-odds."""
        columns = [score_matrix(network, self.tokenizer, texts, self.batch_size) for network in self.networks]
        return np.concatenate(columns, axis=1).T

    def member_scores(self, prompts: Sequence[str], completions: Sequence[str]) -> NDArray[np.float64]:
        """Return the members' normalised scores, (members, n)."""
        if not len(prompts) and not len(completions):
            return np.empty((self.members, 0))
        texts = [prompt + completion for prompt, completion in zip(prompts, completions, strict=True)]
        return self.raw_scores(texts) * self.gain + self.biases[:, None]

    def as_texts(self, prompts: Sequence[Prompt], completions: Sequence[Prompt]) -> tuple[list[str], list[str]]:
        """Return the texts of prompts and completions, see `as_model_texts`."""
        return as_model_texts(self.tokenizer, prompts, completions)

    def score(
        self,
        prompts: Sequence[str],
        completions: Sequence[str],
        finish_reasons: Sequence[str] | None = None,
        **columns: object,
    ) -> NDArray[np.float64]:
        """Return the mean of the members, (n,)."""
        return self.member_scores(prompts, self.with_ending(completions, finish_reasons)).mean(axis=0)

    def with_ending(self, completions: Sequence[str], finish_reasons: Sequence[str] | None) -> list[str]:
        """Return completions that EOS ended as the members were fitted to ended texts."""
        return with_ending(self.networks[0], completions, finish_reasons)

    def std(self, prompts: Sequence[str], completions: Sequence[str]) -> NDArray[np.float64]:
        """Return the standard deviation of the members, (n,)."""
        return self.member_scores(prompts, completions).std(axis=0)

    def preferences(self, prompts: Sequence[str], first: Sequence[str], second: Sequence[str]) -> NDArray[np.float64]:
        """Return each member's probability that the first completion is better than the second, (members, n)."""
        difference = (self.member_scores(prompts, first) - self.member_scores(prompts, second)) / self.gain
        return np.exp(-np.logaddexp(0.0, -difference))

    def save_pretrained(self, folder: str | Path) -> None:
        """Write the ensemble; the folder is also a plain Hugging Face sequence classifier with one label."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        for i, network in enumerate(self.networks):
            bias = float(self.biases.mean() if self.shared_trunk else self.biases[i])
            network.config.reward_gain, network.config.reward_bias = float(self.gain), bias
            place = folder / f"member_{i}" if i else folder
            with no_progress_bars():
                self._save_plain(network, place)
            self.tokenizer.save_pretrained(place)
        described = {
            "members": self.members,
            "shared_trunk": self.shared_trunk,
            "gain": float(self.gain),
            "biases": self.biases.tolist(),
        }
        (folder / _FILE).write_text(json.dumps(described, indent=2) + "\n", encoding="utf-8")

    def _save_plain(self, network: PreTrainedModel, folder: Path) -> None:
        if not self.shared_trunk:
            network.save_pretrained(folder)
            return
        head = find_head(network)[1]
        weight, bias = head.weight.detach(), None if head.bias is None else head.bias.detach()
        set_head(network, weight.mean(dim=0, keepdim=True), None if bias is None else bias.mean(dim=0, keepdim=True))
        try:
            network.save_pretrained(folder)
        finally:
            set_head(network, weight, bias)
        heads = {"weight": weight, **({} if bias is None else {"bias": bias})}
        save_file({name: tensor.contiguous().cpu() for name, tensor in heads.items()}, folder / _HEADS)
