"""Find out what writes the completions: an agent, a policy, a run's folder, a bundle or a model."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from stable_baselines3.common.utils import get_device

from rlhf_envs.datasets import asked_key, split_name
from rlhf_envs.episodes import EpisodeBatch
from rlhf_envs.models import has_tokenizer, resolve
from rlhf_envs.models.adapters import adapter_base, is_adapter_folder
from rlhf_envs.registration import check_environment, task_of
from rlhf_envs.rewards.shaping import whole_number
from rlhf_envs.tasks.lookup import arguments_of, environment_rows

from ..algorithms.maskable_ppo import MaskableTokenPolicy
from ..core.base_policy import LanguageModelPolicy
from ..core.checks import check_decoding
from ..core.episodes import open_batch
from ..core.policy import TokenPolicy
from ..registry import available, describe, get_algorithm
from ..saving.folders import (
    CONFIG,
    DESCRIPTION,
    MODEL,
    START,
    check_no_folder_of_runs,
    find_bundle,
    is_bundle,
    read_config,
)
from ..saving.loading import load, load_policy, run_algorithm
from ..saving.run_paths import from_here
from ..saving.untrusted import read_env_id, read_env_kwargs

__all__ = ["DECODING", "Source"]

DECODING = ("temperature", "top_k", "top_p")
# Arguments that make a task, its data and its reward: another environment has its own.
OF_ONE_TASK = (
    *("tasks", "weights", "data", "columns", "validation_share", "test_share"),
    *("reward", "reward_kwargs", "max_turns"),
)
NO_DATA = dict.fromkeys(("model", "reward", "reward_kwargs"))  # arguments that do not change which rows there are

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Source:
    """Hold what writes completions: a policy, or the model and the options to build one.

    A policy from files is put on the GPU if there is one; a model that is given stays where it is.

    Attributes:
        policy: an existing policy, or None if one has to be built from `model`.
        model: a `PreTrainedModel`, or a name that `rlhf_envs.models.resolve` knows.
        start: the model that a run started from; it is the run's reference model.
        env_id: the environment's id in that run.
        env_kwargs: the environment's arguments in that run.
        rows: the data that an agent's environment has.
        decoding: the temperature, top_k and top_p of that run, or those to use instead of the policy's own.
        best_of: the number of completions drawn per prompt; the one with the best reward is kept.
        masked: whether that run's policy reads the environment's action masks.
        env: the environment that an agent has.
        is_bundle: whether `env_kwargs` are a bundle's, whose paths are not followed.
    """

    name: str
    policy: LanguageModelPolicy | None = None
    model: Any = None
    start: str | None = None
    env_id: str | None = None
    rows: Sequence[Mapping[str, Any]] = ()
    env_kwargs: dict[str, Any] = field(default_factory=dict)
    decoding: dict[str, Any] = field(default_factory=dict)
    best_of: int = 1
    masked: bool = False
    env: Any = None
    is_bundle: bool = False

    @classmethod
    def of(cls, source: Any, trust: bool = False) -> Source:
        """Return the source of an agent, policy, Hugging Face model, run, bundle, SB3 zip, or model's name or folder.

        A source is returned as it is.

        `trust` allows an SB3 zip. It holds pickles, which can run code: set this only for files of your own.

        Raises:
            ValueError: it is none of these.
        """
        if isinstance(source, cls):
            return source
        policy = getattr(source, "policy", source)
        if isinstance(policy, LanguageModelPolicy):
            name = f"{type(source).__name__} on {policy.model_name or 'a fresh model'}"
            env = getattr(source, "env", None)
            return cls(name, policy=policy, best_of=getattr(source, "best_of", 1), rows=_rows_of(env), env=env)
        if isinstance(source, torch.nn.Module) and hasattr(source, "config"):
            return cls(getattr(source.config, "name_or_path", "") or type(source).__name__, model=source)
        if not isinstance(source, str | Path):
            raise ValueError(
                f"cannot evaluate a {type(source).__name__}: expected an agent or a policy of this package, a Hugging "
                "Face causal language model, a run folder, a bundle, or a model's name or folder"
            )
        path = Path(source)
        if path.suffix == ".zip" and path.is_file():
            agent = load(path, algorithm=run_algorithm(path) or "ppo", trust_pickle=trust)  # their policies are alike
            return cls(str(source), policy=agent.policy, best_of=getattr(agent, "best_of", 1))
        if ((path / MODEL / "config.json").is_file() or is_adapter_folder(path / MODEL)) and not is_bundle(path):
            return cls._of_run(path)
        if bundle := find_bundle(path):
            policy, description = load_policy(bundle)
            policy = policy.to(get_device("auto"))
            env, best_of = description["env"], description["values"]["attributes"].get("best_of", 1)
            _check_drawing(f"{bundle / DESCRIPTION}: attributes", best_of)
            kwargs = {k: v for k, v in env.get("kwargs", {}).items() if k != "render_mode"}
            return cls(
                str(bundle), policy=policy, env_id=env.get("id"), env_kwargs=kwargs, best_of=best_of, is_bundle=True
            )
        check_no_folder_of_runs(path)
        return cls(str(source), model=resolve(str(source)))

    @classmethod
    def _of_run(cls, path: Path) -> Source:
        """Return the source of a run that has saved its model."""
        run = from_here(read_config(path), path)
        hyperparams, algorithm = run.get("hyperparams") or {}, None
        if run.get("algo") in available():
            with suppress(ImportError):  # its plugin is gone
                algorithm = describe(get_algorithm(run["algo"]))
        decoding = {name: hyperparams[name] for name in DECODING if name in hyperparams}
        best_of = hyperparams.get("best_of", algorithm.defaults.get("best_of", 1) if algorithm else 1)
        start = run["model"] if isinstance(run.get("model"), str) else None
        _check_drawing(f"{path / CONFIG}: hyperparams", best_of, decoding)
        return cls(
            str(path),
            model=str(path / MODEL),
            start=str(path / START) if (path / START).is_dir() else _reference_of(path / MODEL, start),
            env_id=run.get("env"),
            env_kwargs=run.get("env_kwargs") or {},
            decoding=decoding,
            masked=algorithm is not None and algorithm.reads_masks,
            best_of=best_of,
        )

    def with_decoding(self, decoding: Mapping[str, Any]) -> Source:
        """Return this source with another temperature, top_k or top_p, where they are not None.

        Raises:
            ValueError: a value is out of range.
        """
        given = {name: value for name, value in decoding.items() if value is not None}
        check_decoding(**given)
        return replace(self, decoding={**self.decoding, **given})

    @property
    def own_environment(self) -> str | None:
        """Return the id of the environment in that run, without the module before it, which a file may not import."""
        return None if self.env_id is None else self.env_id.rpartition(":")[2]

    def kwargs_in(self, env_id: str | None) -> dict[str, Any]:
        """Return the arguments of that run for an environment: what makes its task is for its own environment alone."""
        if env_id is None or env_id.rpartition(":")[2] == self.own_environment:
            return dict(self.env_kwargs)
        own = (*OF_ONE_TASK, *arguments_of(self.own_environment))
        return {name: value for name, value in self.env_kwargs.items() if name not in own}

    @property
    def tokenizer_name(self) -> str | None:
        """Return the model whose tokenizer the source uses; None if it has no tokenizer of its own."""
        names = [None if self.policy is None else self.policy.model_name, self.model, self.start]
        return next((name for name in names if isinstance(name, str) and has_tokenizer(name)), None)

    def open_episodes(
        self, env: Any, split: str, env_kwargs: Mapping[str, Any] | None = None, n: int = 1
    ) -> EpisodeBatch:
        """Return `n` rows of episodes of an environment.

        An environment's id is opened with the options of the run, with the model whose tokenizer the source uses, and
        with `env_kwargs`. A text environment lends its task, data and reward, and the other arguments do not count.
        """
        if not isinstance(env, str):
            return open_batch(env, n)
        model = {} if self.tokenizer_name is None else {"model": self.tokenizer_name}
        given = {**model, "split": split, **(env_kwargs or {})}
        saved = read_env_kwargs(self.kwargs_in(env), "a run's file", given, follow_paths=not self.is_bundle, env_id=env)
        return open_batch(env, n, **saved, **given)

    def training_prompts(self, batch: EpisodeBatch) -> set[str]:
        """Return the prompts that the source was trained on, each as a `rlhf_envs.datasets.asked_key`.

        For a model that does not say what it was trained on, and in the split "train", they are the prompts of "train".
        """
        rows = [*map(dict, self.rows), *self._rows_of_run()]
        if not rows or split_name(batch.split) == "train":
            with suppress(ValueError):  # the data has no such split
                rows += batch.rows_of("train")
        with suppress(ValueError):  # an environment without a chat template asks none of a run's conversations
            rows = batch.chat.read(rows, batch.task.name)
        return {asked_key(row) for row in rows}

    def _rows_of_run(self) -> list[dict[str, Any]]:
        """Return the data that the run trained on."""
        if self.env_id is None:
            return []
        try:
            follow, own = not self.is_bundle, self.own_environment
            saved = read_env_kwargs(self.env_kwargs, "a run's file", NO_DATA, follow_paths=follow, env_id=own)
            task = task_of(check_environment(read_env_id(self.env_id, "a run's file")), **saved)
            kwargs = {"split": "train", **saved, "task": task}
            return [] if task is None else environment_rows(**kwargs)
        except (ValueError, OSError) as error:
            logger.warning("%s: which prompts it was trained on is not known: %s", self.name, error)
            return []

    @contextmanager
    def acting(self, batch: EpisodeBatch, keep_cache: bool = False) -> Iterator[LanguageModelPolicy]:
        """Give the policy of `build_policy`; one that exists has its own decoding again after the `with` block.

        Its KV cache is emptied, so that a rollout that follows begins as without this, unless it is to be kept.
        """
        policy = self.build_policy(batch)
        own = {name: getattr(policy, name) for name in DECODING}
        vars(policy).update({**own, **self.decoding})
        try:
            yield policy
        finally:
            vars(policy).update(own)
            if not keep_cache:
                policy.set_training_mode(True)
            policy.set_training_mode(False)

    def build_policy(self, batch: EpisodeBatch) -> LanguageModelPolicy:
        """Return the policy; if there is none, build it to fit `batch`. Raise ValueError if it has other tokens."""
        if self.policy is None:
            policy_class = MaskableTokenPolicy if self.masked else TokenPolicy
            policy = policy_class(
                batch.observation_space, batch.action_space, lambda _: 0.0, model=self.model, **self.decoding
            )
            return policy.to(get_device("auto") if isinstance(self.model, str) else self.model.device)
        if self.policy.n_actions != batch.vocab_size:
            raise ValueError(
                f"the policy chooses among {self.policy.n_actions} tokens and the environment has {batch.vocab_size}: "
                "evaluate it in an environment with its own tokenizer"
            )
        return self.policy


def _reference_of(trained: Path, start: str | None) -> str | None:
    """Return what a run has as its reference: the model that it started from, of adapters their base."""
    folder = next((name for name in (trained, start) if name is not None and is_adapter_folder(name)), None)
    return start if folder is None else adapter_base(folder)


def _check_drawing(where: str, best_of: Any, decoding: Mapping[str, Any] | None = None) -> None:
    """Raise ValueError if a file says something impossible of how completions are drawn."""
    try:
        whole_number("best_of", best_of)
        check_decoding(**(decoding or {}))
    except (ValueError, TypeError) as error:
        raise ValueError(f"{where}: {error}") from error


def _rows_of(env: Any) -> Sequence[Mapping[str, Any]]:
    """Return the data of an agent's environment; none if it has no text environment."""
    with suppress(AttributeError):
        return [] if env is None else env.get_attr("rows", 0)[0]
    return []
