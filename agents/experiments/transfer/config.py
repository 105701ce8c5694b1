"""Define the configuration of a transfer experiment: the environments, and what all of its runs share."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from rlhf_envs.episode_options import EpisodeOptions
from rlhf_envs.names import check_arguments, find_name
from rlhf_envs.registration import text_environments

from ...saving.folders import CONFIG
from ...saving.untrusted import read_env_id, read_env_kwargs
from ...training.fields import Algorithm, Model, Pairs, Part, Settings, option
from ..joining import check_unchanged, read_saved

__all__ = ["ABOUT_ENVIRONMENT", "TransferConfig", "check_file_environments", "join_existing"]

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
RESERVED = ("start", "evaluations", "plots")  # folders of the experiment
ABOUT_ENVIRONMENT = ("id", "name")  # what an environment's dict has beside its arguments
ADDED = {"envs", "runs", "seeds", "folder"}  # what an existing experiment may get more of
CHANGED = {"jobs", "metric"}  # what it may change; all else has to agree


class TransferConfig(Settings):
    """Hold the configuration of a transfer experiment.

    `envs` are ids, or dicts with an `id`, perhaps a `name`, and arguments of that environment. `runs` are folders of
    finished runs of `rlhf train`, which are taken instead of training any.
    """

    runs: list[str] = Field(
        default=[],
        description="Finished runs of `rlhf train`, on different environments from one start, instead of --envs.",
        json_schema_extra={"argument": True},
    )
    envs: list[str | dict[str, Any]] = Field(
        default=[],
        description="Environments, with commas between; or a JSON list of dicts with id, name and arguments.",
        json_schema_extra={"type": "text"},
    )
    sequence: bool = option(False, "Train on the environments one after another, and measure what is forgotten.")
    algo: Algorithm = option("ppo", "Algorithm of all runs, see `rlhf algos`.")
    model: Model | None = option(None, "Start of all runs: tiny, smollm2, a folder or a hub id. The environments' own.")
    train: Part = None
    seeds: int = option(3, "Runs per environment, with the seeds 0, 1, ...; one gives intervals over prompts.", ge=1)
    n_timesteps: int | None = option(
        None, "Tokens per run. Each environment's own by default.", "-n", "--n-timesteps", "--tokens", gt=0
    )
    n_envs: int | None = option(None, "Episodes side by side. Each environment's own by default.", gt=0)
    kl_coef: float | None = option(None, "Coefficient of the KL penalty; 0 turns it off.", ge=0)
    learning_rate: float | None = option(None, "Learning rate.", gt=0)
    hyperparams: Pairs = option({}, "Further arguments of all runs; repeat the flag.", "-params", "--hyperparams")
    env_kwargs: Pairs = option({}, "Arguments of all environments; repeat the flag.")
    metric: Pairs = option(
        {}, "Metric of an environment, such as SpamFilter-v0:balanced_accuracy; repeat. Its first judge, or the reward."
    )
    test_episodes: int = option(128, "Held-out prompts of each evaluation, the same ones each time.", ge=2)
    test_split: Literal["test", "validation", "train"] = option(
        "test", "Split of these prompts; with train, tables call them training prompts."
    )
    jobs: int = option(2, "Runs side by side, each in a process with one thread.", ge=1)
    folder: str | None = option(
        None, "Folder of the experiment; one that exists goes on. logs/transfer/<names> by default.", "-f", "--folder"
    )
    device: str = option("auto", "auto, cpu or cuda.")

    @field_validator("envs", mode="before")
    @classmethod
    def _split(cls, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        if value.lstrip().startswith("["):
            try:
                return json.loads(value)
            except ValueError as error:
                raise ValueError(f"no JSON list of environments: {error}") from None
        return [part.strip() for part in value.split(",") if part.strip()]

    @field_validator("envs")
    @classmethod
    def _environments(cls, value: list[str | dict[str, Any]]) -> list[str | dict[str, Any]]:
        return [_read_environment(entry) for entry in value]

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.runs and self.sequence:
            raise ValueError(f"sequence with runs={self.runs}: each was trained alone; give --envs, to train in order")
        names = [self.name_of(entry) for entry in self.envs]
        if double := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"two environments are named {double[0]!r}: give one of them another 'name', in a dict")
        for name in names:
            if not NAME.fullmatch(name) or name in RESERVED:
                raise ValueError(f"{name!r} is the name of a folder too: take letters, digits, '-', '_' and '.'")
        return self

    @staticmethod
    def name_of(entry: str | Mapping[str, Any]) -> str:
        """Return what tables call an environment: its `name`, or the last part of its id."""
        if isinstance(entry, str):
            return entry.rpartition(":")[2].rpartition("/")[2]
        return str(entry.get("name", TransferConfig.name_of(entry["id"])))

    @property
    def path(self) -> Path:
        """Return the folder."""
        if self.folder is not None:
            return Path(self.folder)
        names = "-".join(self.name_of(entry).removesuffix("-v0") for entry in self.envs) or "runs"
        return Path("logs") / "transfer" / (f"{names}-sequence" if self.sequence else names)


def _read_environment(entry: str | dict[str, Any]) -> str | dict[str, Any]:
    """Return an entry of `envs`, with its id as it is registered."""
    if isinstance(entry, str):
        return find_name(entry, text_environments())
    if not isinstance(entry.get("id"), str):
        raise ValueError(f"{entry!r} has no 'id' of an environment")
    own = {name: value for name, value in entry.items() if name not in ABOUT_ENVIRONMENT}
    try:
        check_arguments(own, (*EpisodeOptions.__annotations__,), f"environment {entry['id']!r}")
    except TypeError as error:
        raise ValueError(str(error)) from None
    if "split" in own:
        raise ValueError(f"environment {entry['id']!r}: training is on 'train', and test_split says the other split")
    return {**entry, "id": find_name(entry["id"], text_environments())}


def check_file_environments(envs: Any, source: str) -> None:
    """Raise ValueError if environments that a file lists would import something, or are no list."""
    for entry in TransferConfig(envs=envs).envs:
        options = {"id": entry} if isinstance(entry, str) else entry
        read_env_id(options["id"], source, "give it again, in --envs")
        own = {name: value for name, value in options.items() if name not in ABOUT_ENVIRONMENT}
        read_env_kwargs(own, source, None, "give the environment again, in --envs")


def join_existing(config: TransferConfig) -> TransferConfig:
    """Return the configuration joined with the folder's: environments, runs and seeds add up.

    Raises:
        ValueError: the folder holds something else, or its experiment has other settings.
    """
    saved = read_saved(config, config.path, "transfer experiment", needs="sequence")
    if saved is None:
        return config
    check_file_environments([entry for entry in saved.envs if entry not in config.envs], str(config.path / CONFIG))
    alike = "all its runs and evaluations are alike"
    check_unchanged(config, saved, ADDED | CHANGED, f"experiment in {config.path}", alike)
    given = config.model_fields_set
    added = [entry for entry in config.envs if entry not in saved.envs]
    if added and saved.sequence:
        raise ValueError(
            f"envs={config.envs}, and the sequence in {config.path} has {saved.envs}: a sequence has one order. Choose "
            "another folder"
        )
    joined = saved.model_dump() | {name: getattr(config, name) for name in CHANGED & given}
    joined |= {
        "envs": [*saved.envs, *added],
        "runs": [*saved.runs, *(run for run in config.runs if run not in saved.runs)],
        "seeds": max(saved.seeds, config.seeds) if "seeds" in given else saved.seeds,
        "folder": str(config.path),
    }
    return TransferConfig(**joined)
