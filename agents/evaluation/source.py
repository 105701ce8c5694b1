"""Say what writes the completions: an agent, a run's folder, a bundle or a model."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ..algorithms.maskable_ppo import MaskableTokenPolicy
from ..core.base_policy import LanguageModelPolicy
from ..core.policy import TokenPolicy
from ..registry import reads_masks
from ..saving.folders import CONFIG, MODEL, START, find_bundle, is_bundle

if TYPE_CHECKING:
    from rlhf_envs.episodes import EpisodeBatch

__all__ = ["DECODING", "Source"]


DECODING = ("temperature", "top_k", "top_p")


@dataclass(frozen=True)
class Source:
    """What can be evaluated: an agent, a policy, a model, a run's folder, a bundle, or a model's name or folder.

    Attributes:
        name: for people.
        policy: an existing policy, or None where one has to be built from `model`.
        model: a `PreTrainedModel` or what `rlhf_envs.models.resolve` knows.
        start: the model that a run started from; its reference.
        env_kwargs: the environment's arguments in that run.
        decoding: temperature, top_k and top_p of that run.
        best_of: completions that are drawn for a prompt, of which the one with the best reward is kept.
        masked: whether that run's policy reads the environment's action masks.
    """

    name: str
    policy: LanguageModelPolicy | None = None
    model: Any = None
    start: str | None = None
    env_kwargs: dict[str, Any] = field(default_factory=dict)
    decoding: dict[str, Any] = field(default_factory=dict)
    best_of: int = 1
    masked: bool = False

    @classmethod
    def of(cls, source: Any, trust: bool = False) -> Source:
        """Find out what a source is.

        Args:
            source: see the class.
            trust: load an SB3 zip. It holds pickles, which can run code: say so for files of your own only.

        Raises:
            ValueError: it is none of these.
        """
        policy = getattr(source, "policy", source)
        if isinstance(policy, LanguageModelPolicy):
            name = f"{type(source).__name__} on {policy.model_name or 'a fresh model'}"
            return cls(name, policy=policy, best_of=getattr(source, "best_of", 1))
        if isinstance(source, torch.nn.Module) and hasattr(source, "config"):
            return cls(getattr(source.config, "name_or_path", "") or type(source).__name__, model=source)
        if not isinstance(source, str | Path):
            raise ValueError(
                f"cannot evaluate a {type(source).__name__}: expected an agent or a policy of this package, a Hugging "
                "Face causal language model, a run folder, a bundle, or a model's name or folder"
            )
        path = Path(source)
        if path.suffix == ".zip" and path.is_file():
            from ..saving.loading import load, run_algorithm

            algorithm = run_algorithm(path) or "ppo"  # policies alike: which algorithm it was matters little here
            agent = load(path, algorithm=algorithm, trust_pickle=trust)
            return cls(str(source), policy=agent.policy, best_of=getattr(agent, "best_of", 1))
        if (path / MODEL / "config.json").is_file() and not is_bundle(path):
            return cls._of_run(path)
        if bundle := find_bundle(path):
            return cls._of_bundle(bundle)
        from rlhf_envs.models import resolve

        return cls(str(source), model=resolve(str(source)))

    @classmethod
    def _of_run(cls, path: Path) -> Source:
        run = json.loads((path / CONFIG).read_text(encoding="utf-8")) if (path / CONFIG).is_file() else {}
        hyperparams = run.get("hyperparams", {})
        return cls(
            str(path),
            model=str(path / MODEL),
            start=str(path / START) if (path / START).is_dir() else run.get("model"),
            env_kwargs=run.get("env_kwargs", {}),
            decoding={name: hyperparams[name] for name in DECODING if name in hyperparams},
            masked=reads_masks(str(run.get("algo"))),
            best_of=hyperparams.get("best_of", _default_best_of(run.get("algo"))),
        )

    @classmethod
    def _of_bundle(cls, path: Path) -> Source:
        from ..saving.loading import load_policy

        policy, description = load_policy(path)
        kwargs = description["env"].get("kwargs", {})
        kwargs = {k: v for k, v in kwargs.items() if k != "render_mode"}
        best_of = description["values"]["attributes"].get("best_of", 1)
        return cls(str(path), policy=policy, env_kwargs=kwargs, best_of=best_of)

    def environment_options(self) -> dict[str, Any]:
        """What the environment has to be made with: the options of the run, and the model whose tokenizer it uses."""
        from rlhf_envs.models import has_tokenizer

        model = self.policy.model_name if self.policy is not None else None
        candidates = [name for name in (self.model, self.start) if isinstance(name, str) and has_tokenizer(name)]
        if model is None and candidates:
            model = candidates[0]
        return {**self.env_kwargs, **({} if model is None else {"model": model})}

    def build_policy(self, batch: EpisodeBatch) -> LanguageModelPolicy:
        """The policy, built for the spaces of `batch` where there is none yet.

        Raises:
            ValueError: the policy has another vocabulary.
        """
        if self.policy is None:
            policy_class = MaskableTokenPolicy if self.masked else TokenPolicy
            return policy_class(
                batch.observation_space, batch.action_space, lambda _: 0.0, model=self.model, **self.decoding
            )
        if self.policy.n_actions != batch.vocab_size:
            raise ValueError(
                f"the policy chooses among {self.policy.n_actions} tokens and the environment has {batch.vocab_size}: "
                "evaluate it in an environment with its own tokenizer"
            )
        return self.policy


def _default_best_of(algorithm: str | None) -> int:
    """The completions that an algorithm draws for a prompt, where a run does not say."""
    from ..registry import available, default_arguments, get_algorithm

    known = algorithm is not None and algorithm in available()
    try:
        return int(default_arguments(get_algorithm(str(algorithm))).get("best_of", 1)) if known else 1
    except ImportError:  # of a plugin that is gone
        return 1
