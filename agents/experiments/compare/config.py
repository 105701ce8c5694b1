"""Define the configuration of a comparison: what is equal for all runs, and what each algorithm has of its own."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from rlhf_envs.names import find_name

from ...registry import available
from ...training.aspects import ASPECTS, with_aspects
from ...training.fields import Environment, Model, Pairs, Part, Settings, Trackers, option, parse_pairs
from ..joining import check_unchanged, read_saved

__all__ = ["CompareConfig", "join_existing"]

LABEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")
ADDED = {"algos", "seeds", "kl_coefs", "overrides", "folder"}  # what an existing comparison may get more of
CHANGED = {
    "jobs",
    "ray",
    "ray_address",
    "metric",
    "threshold",
    "keep_agents",
    "prune",
    "tracker",
    "project",
}  # what it may change; all else has to agree


class CompareConfig(Settings):
    """Hold the configuration of a comparison.

    `algos` names algorithms, in any case, or labels of variants. For a label, `overrides[label]` has the algorithm
    under `algo`, and next to it the variant's own arguments of the algorithm, the policy or the buffer.
    """

    env: Environment = option("rlhf/Sentiment-v0", "Environment id, see `rlhf envs`.")
    algos: list[str] = Field(
        [], description="Algorithms, or labels of variants, with commas between.", json_schema_extra={"type": "text"}
    )
    seeds: int = option(5, "Runs per algorithm, with the seeds 0, 1, ...; intervals need 2.", ge=1)
    tokens: int = option(60_000, "Tokens that every run trains for.", "-n", "--tokens", "--n-timesteps", gt=0)
    kl_coefs: list[float] = Field(
        [],
        description="Coefficients of the KL penalty, with commas between: each algorithm runs with every one, for the "
        "frontier of reward against KL. Each algorithm's own by default.",
        json_schema_extra={"type": "text"},
    )
    jobs: int | None = option(
        None,
        "Runs side by side, each in a process with one thread: 2 by default, with --ray as many as the cluster holds.",
        ge=1,
    )
    ray: bool = option(False, "Do the runs on a Ray cluster, each with one CPU; with --device cuda, one GPU too.")
    ray_address: str | None = option(
        None, "Address of the Ray cluster: RAY_ADDRESS, or else one started on this machine, by default."
    )
    folder: str | None = option(
        None, "Folder of the comparison; one that exists goes on. logs/compare/<Env> by default.", "-f", "--folder"
    )
    model: Model | None = option(None, "Model to train: tiny, smollm2, a folder or a hub id.")
    train: Part = None
    n_envs: int | None = option(None, "Episodes side by side. Each algorithm's own by default.", gt=0)
    temperature: float | None = option(
        None, "Divides the logits, of all. That of `rlhf train --algo ppo` by default.", gt=0
    )
    top_k: int | None = option(None, "Draw from the k most probable tokens.", ge=1)
    top_p: float | None = option(None, "Draw from the smallest set of this probability.", gt=0, le=1)
    hyperparams: Pairs = option({}, "Further arguments of all algorithms; repeat the flag.", "-params", "--hyperparams")
    overrides: dict[str, dict[str, Any]] = option(
        {}, "Arguments of one algorithm, such as ppo.n_epochs:4; repeat the flag.", "--override"
    )
    env_kwargs: Pairs = option({}, "Arguments of the environment; repeat the flag.")
    aspects: str | None = option(None, ASPECTS)
    evaluations: int = option(10, "Evaluations per run, at equal steps; the last is after training.", ge=1)
    test_episodes: int = option(128, "Held-out prompts of an evaluation, the same ones each time.", ge=2)
    test_split: Literal["test", "validation", "train"] = option(
        "test", "Split of these prompts; with train, tables call them training prompts."
    )
    metric: str | None = option(
        None, "What is compared: reward, a judge or a metric of the task. The task's first judge by default."
    )
    threshold: float | None = option(
        None, "Metric to reach, for time and tokens to a threshold. Half of the best rise by default."
    )
    prune: bool = option(
        False,
        "Give no further seeds to an algorithm that is clearly behind the best one; the report says which.",
        "--prune/--no-prune",
    )
    device: str = option("auto", "auto, cpu or cuda.")
    tracker: Trackers = []
    project: str = option("rlhf-envs", "Project of the trackers; in MLflow the experiment.")
    keep_agents: bool = option(False, "Keep agents with their optimizers too, not only their models.")

    @field_validator("algos", "kl_coefs", mode="before")
    @classmethod
    def _split(cls, value: Any) -> Any:
        return [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value

    @field_validator("overrides", mode="before")
    @classmethod
    def _nested(cls, value: Any) -> Any:
        if not isinstance(value, list | tuple):
            return value
        nested: dict[str, dict[str, Any]] = {}
        for key, argument in parse_pairs(value).items():
            label, _, name = key.partition(".")
            if not name:
                raise ValueError(f"{key!r} names no algorithm and argument, such as ppo.n_epochs:4")
            nested.setdefault(label, {})[name] = argument
        return nested

    @field_validator("algos")
    @classmethod
    def _names(cls, value: list[str]) -> list[str]:
        return [find_name(label, available()) for label in value]

    @field_validator("overrides")
    @classmethod
    def _override_names(cls, value: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
        found: dict[str, dict[str, Any]] = {}
        for label, arguments in value.items():
            algo = {"algo": find_name(arguments["algo"], available())} if isinstance(arguments.get("algo"), str) else {}
            found.setdefault(find_name(label, available()), {}).update(arguments | algo)
        return found

    @field_validator("algos", "kl_coefs")
    @classmethod
    def _no_doubles(cls, value: list[Any]) -> list[Any]:
        doubles = sorted({str(entry) for entry in value if value.count(entry) > 1})
        if doubles:
            raise ValueError(f"{', '.join(doubles)}: given twice; give each once, or variants with other labels")
        return value

    @field_validator("kl_coefs")
    @classmethod
    def _coefficients(cls, value: list[float]) -> list[float]:
        if any(not 0 <= coefficient < float("inf") for coefficient in value):
            raise ValueError("a coefficient is a number of at least 0")
        return sorted(value)

    @field_validator("algos")
    @classmethod
    def _labels(cls, value: list[str]) -> list[str]:
        if wrong := [label for label in value if not LABEL.fullmatch(label)]:
            raise ValueError(f"{wrong[0]!r} is the name of a folder too: take letters, digits, - and _")
        return value

    @model_validator(mode="after")
    def _with_aspects(self) -> Self:
        if self.aspects is not None:
            self.env_kwargs = with_aspects(self.env_kwargs, self.aspects)
        return self

    @property
    def env_id(self) -> str:
        return self.env.rpartition(":")[2]

    @property
    def uses_ray(self) -> bool:
        return self.ray or self.ray_address is not None

    @property
    def path(self) -> Path:
        return Path(self.folder or Path("logs") / "compare" / self.env_id.rpartition("/")[2])

    @property
    def steps(self) -> list[int]:
        """Return the tokens at which runs are evaluated; the last is the whole budget."""
        return sorted({max(1, round(self.tokens * k / self.evaluations)) for k in range(1, self.evaluations + 1)})


def join_existing(config: CompareConfig) -> CompareConfig:
    """Return the configuration joined with the folder's: algorithms, seeds, coefficients and overrides add up.

    Raises:
        ValueError: the folder holds something else, or its comparison has other settings.
    """
    saved = read_saved(config, config.path, "comparison", needs="algos")
    if saved is None:
        return config
    _check_joins(config, saved)
    given = config.model_fields_set
    joined = saved.model_dump() | {name: getattr(config, name) for name in CHANGED & given}
    joined |= {
        "algos": [*saved.algos, *(label for label in config.algos if label not in saved.algos)],
        "seeds": max(saved.seeds, config.seeds) if "seeds" in given else saved.seeds,
        "kl_coefs": sorted({*saved.kl_coefs, *config.kl_coefs}),
        "overrides": saved.overrides | config.overrides,
        "folder": str(config.path),
        "ray": config.ray,  # where runs are done says nothing about them: each call says it anew
        "ray_address": config.ray_address,
    }
    return CompareConfig(**joined)


def _check_joins(config: CompareConfig, saved: CompareConfig) -> None:
    """Raise ValueError, with the setting and both values, if the configuration is not the folder's comparison."""
    alike = "one comparison has one environment, budget and evaluation"
    check_unchanged(config, saved, ADDED | CHANGED, f"comparison in {config.path}", alike)
    for label in config.overrides.keys() & set(saved.algos):
        if config.overrides[label] != saved.overrides.get(label, {}):
            raise ValueError(
                f"{label} is in the comparison in {config.path} with {saved.overrides.get(label, {})}, not "
                f"{config.overrides[label]}: give the variant a label of its own"
            )
    if "kl_coefs" in config.model_fields_set and saved.algos and bool(config.kl_coefs) != bool(saved.kl_coefs):
        raise ValueError(
            f"kl_coefs={config.kl_coefs}, and the comparison in {config.path} has {saved.kl_coefs}: all its algorithms "
            "run with given coefficients, or all with their own. Choose another folder"
        )
