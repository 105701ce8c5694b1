"""Define the configuration of a search for settings: one documented pydantic model, whose fields are the flags."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from ...training.config import LogFolder, Pairs, TrainConfig
from .space import parse_range

__all__ = ["TuneConfig"]

# Fields that another call of the same study may change: how long it goes on, and what is done with its findings.
FREE = ("trials", "log_folder", "output", "storage", "study", "confirm_seeds", "threads", "progress")


class TuneConfig(BaseModel):
    """Hold the configuration of a search: one algorithm on one environment."""

    model_config = ConfigDict(extra="forbid", protected_namespaces=())

    env: str = Field("rlhf/Sentiment-v0", description="Environment id, see `rlhf envs`.")
    algo: str = Field("ppo", description="Algorithm.")
    trials: int = Field(20, gt=0, description="Trials in all, those of an earlier call among them.")
    tokens: int = Field(20_000, gt=0, description="Tokens that a trial trains for, per seed.")
    seeds_per_trial: int = Field(1, gt=0, description="Seeds per trial, whose mean counts.")
    confirm_seeds: int = Field(
        3, ge=0, description="New seeds, with which the best settings and the defaults are run again."
    )
    sampler: Literal["tpe", "random"] = Field("tpe", description="How settings are proposed: tpe or random.")
    pruner: Literal["median", "halving", "none"] = Field(
        "median", description="Which trials end early: median, halving or none."
    )
    metric: str = Field("reward", description="What is maximised on the validation split: reward, or a judge's name.")
    kl_limit: float | None = Field(None, gt=0, description="Highest KL per episode, in nats, of settings that count.")
    evaluations: int = Field(4, gt=0, description="Evaluations of a trial, at each of which it may be pruned.")
    episodes: int = Field(128, ge=2, description="Held-out prompts of an evaluation.")
    space: list[str] = Field(
        [], description="Range of an argument: name:low..high or name:choice,choice; repeat the flag."
    )
    only: list[str] = Field([], description="Search this argument, and no other that is not named; repeat the flag.")
    hyperparams: Pairs = Field(
        {},
        description="Arguments that are the same in all trials; repeat the flag.",
        json_schema_extra={"flags": ["-params", "--hyperparams"]},
    )
    settings: str | None = Field(None, description="YAML file of settings to start from, instead of ours.")
    n_envs: int | None = Field(None, gt=0, description="Episodes side by side.")
    env_kwargs: Pairs = Field({}, description="Arguments of the environment; repeat the flag.")
    seed: int = Field(0, ge=0, description="First seed of the trials, and seed of the sampler.")
    storage: str | None = Field(
        None, description="Optuna's storage, such as sqlite:///study.db. By default study.db in the search's folder."
    )
    study: str | None = Field(None, description="Name of the study; <algo>-<Env> by default.")
    log_folder: LogFolder = "logs"
    output: str | None = Field(
        None,
        description="YAML file whose section the best settings become. By default <Env>.yml in the search's folder.",
        json_schema_extra={"flags": ["-o", "--output"]},
    )
    device: str = Field("auto", description="auto, cpu or cuda.")
    threads: int | None = Field(None, gt=0, description="CPU threads of torch; all cores by default.")

    @field_validator("space")
    @classmethod
    def _ranges(cls, value: list[str]) -> list[str]:
        for text in value:
            parse_range(text)
        return value

    @property
    def env_name(self) -> str:
        """Return the environment's id without its namespace."""
        return self.env.rpartition(":")[2].rpartition("/")[2]

    @property
    def study_name(self) -> str:
        """Return the name of the study."""
        return self.study or f"{self.algo}-{self.env_name}"

    def folder(self) -> Path:
        """Return the folder of the search."""
        return Path(self.log_folder) / "tune" / self.algo / (self.study or self.env_name)

    def storage_url(self) -> str:
        """Return the URL of Optuna's storage."""
        return self.storage or f"sqlite:///{self.folder().as_posix()}/study.db"

    def settings_file(self) -> Path:
        """Return the YAML file that the best settings go into."""
        return Path(self.output) if self.output is not None else self.folder() / f"{self.env_name}.yml"

    def fixed(self) -> dict[str, Any]:
        """Return what all trials of a study share, as JSON. A later call has to agree."""
        return dict(json.loads(self.model_dump_json(exclude=set(FREE) & set(type(self).model_fields))))

    def run(self, seed: int, chosen: dict[str, Any]) -> TrainConfig:
        """Return the configuration of one training run with chosen settings."""
        shared = self.model_dump(include={"algo", "env", "n_envs", "settings", "env_kwargs", "device", "threads"})
        hyperparams = {**self.hyperparams, **chosen}
        return TrainConfig(**shared, n_timesteps=self.tokens, seed=seed, hyperparams=hyperparams, progress=False)
