"""Define the configuration of a search for settings: one documented pydantic model, whose fields are the flags."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, field_validator, model_validator

from ...training.config import TrainConfig
from ...training.fields import Algorithm, Environment, LogFolder, Pairs, Trackers, option
from .space import parse_range

__all__ = ["TuneConfig"]

# Fields that another call of the same study may change: how long it goes on, and what is done with its findings.
FREE = {"trials", "log_folder", "output", "storage", "study", "confirm_seeds", "threads"}
FREE |= {"jobs", "ray", "ray_address", "tracker", "project"}


class TuneConfig(BaseModel):
    """Hold the configuration of a search: one algorithm on one environment."""

    model_config = ConfigDict(extra="forbid", protected_namespaces=())

    env: Environment = option("rlhf/Sentiment-v0", "Environment id, see `rlhf envs`.")
    algo: Algorithm = option("ppo", "Algorithm, see `rlhf algos`.")
    trials: int = option(20, "Trials in all, with the ones of earlier calls.", gt=0)
    tokens: int = option(20_000, "Tokens that a trial trains for, per seed.", gt=0)
    seeds_per_trial: int = option(1, "Seeds per trial, whose mean counts.", gt=0)
    confirm_seeds: int = option(3, "New seeds, with which the best settings and the defaults are run again.", ge=0)
    sampler: Literal["tpe", "random"] = option("tpe", "How settings are proposed: tpe or random.")
    pruner: Literal["median", "halving", "none"] = option("median", "Which trials end early: median, halving or none.")
    metric: str = option("reward", "What is maximised on validation prompts: reward, a judge or a metric of the task.")
    kl_limit: float | None = option(None, "Highest KL per episode, in nats, of settings that count.", gt=0)
    evaluations: int = option(4, "Evaluations of a trial, at each of which it may be pruned.", gt=0)
    episodes: int = option(128, "Held-out prompts of an evaluation.", ge=2)
    space: list[str] = option([], "Range of an argument: name:low..high or name:choice,choice; repeat the flag.")
    only: list[str] = option([], "Search this argument, and no other that is not named; repeat the flag.")
    hyperparams: Pairs = option(
        {}, "Arguments that are the same in all trials; repeat the flag.", "-params", "--hyperparams"
    )
    settings: str | None = option(None, "YAML file of settings to start from, instead of ours.")
    n_envs: int | None = option(None, "Episodes side by side.", gt=0)
    env_kwargs: Pairs = option({}, "Arguments of the environment; repeat the flag.")
    seed: int = option(0, "First seed of the trials, and seed of the sampler.", ge=0)
    storage: str | None = option(
        None, "Optuna's storage, such as sqlite:///study.db. By default study.db in the search's folder."
    )
    study: str | None = option(None, "Name of the study; <algo>-<Env> by default.")
    log_folder: LogFolder = "logs"
    output: str | None = option(
        None,
        "YAML file whose section the best settings become. By default <Env>.yml in the search's folder.",
        "-o",
        "--output",
    )
    tracker: Trackers = []
    project: str = option("rlhf-envs", "Project of the trackers; in MLflow the experiment.")
    device: str = option("auto", "auto, cpu or cuda.")
    threads: int | None = option(
        None, "CPU threads of torch; all cores by default, with --ray one, and as many CPUs per trial.", gt=0
    )
    ray: bool = option(False, "Do trials on a Ray cluster; with --device cuda, each with one GPU.")
    ray_address: str | None = option(
        None, "Address of the Ray cluster: RAY_ADDRESS, or else one started on this machine, by default."
    )
    jobs: int | None = option(None, "Trials side by side with --ray; as many as the cluster has CPUs by default.", ge=1)

    @field_validator("space")
    @classmethod
    def _ranges(cls, value: list[str]) -> list[str]:
        for text in value:
            parse_range(text)
        return value

    @model_validator(mode="after")
    def _jobs_need_ray(self) -> TuneConfig:
        if self.jobs is not None and not self.uses_ray:
            raise ValueError("--jobs needs --ray; without it, give the command in several terminals with one --storage")
        return self

    @property
    def uses_ray(self) -> bool:
        return self.ray or self.ray_address is not None

    @property
    def env_name(self) -> str:
        """Return the environment's id without its namespace."""
        return self.env.rpartition(":")[2].rpartition("/")[2]

    @property
    def study_name(self) -> str:
        return self.study or f"{self.algo}-{self.env_name}"

    def folder(self) -> Path:
        return Path(self.log_folder) / "tune" / self.algo / (self.study or self.env_name)

    def storage_url(self) -> str:
        return self.storage or f"sqlite:///{self.folder().as_posix()}/study.db"

    def settings_file(self) -> Path:
        """Return the YAML file that the best settings go into."""
        return Path(self.output) if self.output is not None else self.folder() / f"{self.env_name}.yml"

    def fixed(self) -> dict[str, Any]:
        """Return what all trials of a study share, as JSON. A later call has to agree."""
        return self.model_dump(mode="json", exclude=FREE)

    def run(self, seed: int, chosen: dict[str, Any]) -> TrainConfig:
        """Return the configuration of one training run with chosen settings."""
        same = {"algo", "env", "n_envs", "settings", "env_kwargs", "device", "threads", "tracker", "project"}
        shared = self.model_dump(include=same) | {"log_folder": str(self.folder())}  # where trackers write
        hyperparams = self.hyperparams | chosen
        return TrainConfig(**shared, n_timesteps=self.tokens, seed=seed, hyperparams=hyperparams, progress=False)
