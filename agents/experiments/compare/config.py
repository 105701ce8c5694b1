"""The configuration of a comparison: what is equal for all of its runs, and what each algorithm has of its own."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from ...training.config import parse_pairs
from ...training.hyperparams import parse_yaml

__all__ = ["CONFIG", "CompareConfig", "join_existing", "read_settings"]

CONFIG = "config.json"
LABEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")
# What has to agree with the comparison that a folder holds already; algorithms, seeds and coefficients may be added.
EQUAL = (
    "env",
    "env_kwargs",
    "tokens",
    "model",
    "train",
    "n_envs",
    "temperature",
    "top_k",
    "top_p",
    "hyperparams",
    "evaluations",
    "test_episodes",
    "test_split",
    "device",
)


class CompareConfig(BaseModel):
    """The configuration of a comparison.

    `algos` are algorithms, or labels of variants: `overrides[label]` then says under `algo` which one it is, and any
    argument of the algorithm, the policy or the buffer that is its own.
    """

    model_config = ConfigDict(extra="forbid", protected_namespaces=())

    env: str = Field("rlhf/Sentiment-v0", description="Environment id, see `rlhf envs`.")
    algos: list[str] = Field(
        [], description="Algorithms, or labels of variants, with commas between.", json_schema_extra={"type": "text"}
    )
    seeds: int = Field(5, ge=1, description="Runs an algorithm, with the seeds 0, 1, ...; intervals need 2.")
    tokens: int = Field(60_000, gt=0, description="Tokens that every run trains for.")
    kl_coefs: list[float] = Field(
        [],
        description="Coefficients of the KL penalty, with commas between: each algorithm runs with every one, for the "
        "frontier of reward against KL. Each algorithm's own by default.",
        json_schema_extra={"type": "text"},
    )
    jobs: int = Field(2, ge=1, description="Runs side by side, each in a process with one thread.")
    folder: str | None = Field(
        None,
        description="Folder of the comparison; one that exists goes on. logs/compare/<Env> by default.",
        json_schema_extra={"flags": ["-f", "--folder"]},
    )
    model: str | None = Field(None, description="Model to train: tiny, smollm2, a folder or a hub id.")
    train: int | str | None = Field(
        None, description="What learns: full, head, or a number of last blocks.", json_schema_extra={"type": "text"}
    )
    n_envs: int | None = Field(None, gt=0, description="Episodes side by side. Each algorithm's own by default.")
    temperature: float | None = Field(
        None, gt=0, description="Divides the logits, of all. That of `rlhf train --algo ppo` by default."
    )
    top_k: int | None = Field(None, ge=1, description="Draw from the k most probable tokens.")
    top_p: float | None = Field(None, gt=0, le=1, description="Draw from the smallest set of this probability.")
    hyperparams: dict[str, Any] = Field(
        {},
        description="Further arguments of all algorithms; repeat the flag.",
        json_schema_extra={"flags": ["-params", "--hyperparams"]},
    )
    overrides: dict[str, dict[str, Any]] = Field(
        {},
        description="Arguments of one algorithm, such as ppo.n_epochs:4; repeat the flag.",
        json_schema_extra={"flags": ["--override"]},
    )
    env_kwargs: dict[str, Any] = Field({}, description="Arguments of the environment; repeat the flag.")
    evaluations: int = Field(10, ge=1, description="Evaluations a run, at equal steps; the last is after training.")
    test_episodes: int = Field(128, ge=2, description="Held-out prompts of an evaluation, the same ones each time.")
    test_split: Literal["test", "validation"] = Field("test", description="Split of these held-out prompts.")
    metric: str | None = Field(
        None, description="What is compared: a judge's name or reward. The task's first judge by default."
    )
    threshold: float | None = Field(
        None, description="Metric to reach, for time and tokens to a threshold. Half of the best rise by default."
    )
    device: str = Field("auto", description="auto, cpu or cuda.")
    keep_agents: bool = Field(False, description="Keep agents with their optimizers too, not only their models.")

    @field_validator("algos", "kl_coefs", mode="before")
    @classmethod
    def _split(cls, value: Any) -> Any:
        return [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value

    @field_validator("hyperparams", "env_kwargs", mode="before")
    @classmethod
    def _pairs(cls, value: Any) -> Any:
        return parse_pairs(value)

    @field_validator("overrides", mode="before")
    @classmethod
    def _nested(cls, value: Any) -> Any:
        if not isinstance(value, list | tuple):
            return value
        nested: dict[str, dict[str, Any]] = {}
        for key, argument in parse_pairs(value).items():
            label, dot, name = key.partition(".")
            if not dot or not name:
                raise ValueError(f"{key!r} names no algorithm and argument, such as ppo.n_epochs:4")
            nested.setdefault(label, {})[name] = argument
        return nested

    @field_validator("train", mode="before")
    @classmethod
    def _blocks(cls, value: Any) -> Any:
        return int(value) if isinstance(value, str) and value.isdecimal() else value

    @field_validator("algos", "kl_coefs")
    @classmethod
    def _no_doubles(cls, value: list[Any]) -> list[Any]:
        doubles = sorted({str(entry) for entry in value if value.count(entry) > 1})
        if doubles:
            raise ValueError(
                f"{', '.join(doubles)} stands there twice: each once, or variants with labels of their own"
            )
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
        for label in value:
            if not LABEL.fullmatch(label):
                raise ValueError(f"{label!r} names folders too: take letters, digits, - and _")
        return value

    @property
    def env_id(self) -> str:
        """The environment's id, without the module before it."""
        return self.env.rpartition(":")[2]

    @property
    def path(self) -> Path:
        """The folder."""
        return Path(self.folder or Path("logs") / "compare" / self.env_id.rpartition("/")[2])

    @property
    def steps(self) -> list[int]:
        """The tokens at which runs are evaluated; the last is the whole budget."""
        return sorted({max(1, round(self.tokens * k / self.evaluations)) for k in range(1, self.evaluations + 1)})


def read_settings(path: str | Path) -> dict[str, Any]:
    """The settings in a TOML, YAML or JSON file, whose names are the fields of `CompareConfig`.

    Raises:
        ValueError: it is none of these, or not well-formed (the message has the line), or a name is unknown.
        OSError: it cannot be read.
    """
    import difflib

    settings = _parse(Path(path))
    if not isinstance(settings, dict):
        raise ValueError(f"{path}: expected names and values, such as tokens: 60000")
    for name in settings:
        if name not in CompareConfig.model_fields:
            near = difflib.get_close_matches(str(name), CompareConfig.model_fields, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(CompareConfig.model_fields)}"
            raise ValueError(f"{path}: unknown setting {name!r}; {hint}")
    return settings


def _parse(path: Path) -> Any:
    text = path.read_text(encoding="utf-8")
    suffix = path.suffix.lower()
    if suffix not in (".toml", ".yaml", ".yml", ".json"):
        raise ValueError(f"{path}: expected a .toml, .yaml or .json file")
    try:
        if suffix == ".json":
            return json.loads(text)
        if suffix == ".toml":
            return tomllib.loads(text)
        return parse_yaml(text)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def join_existing(config: CompareConfig) -> CompareConfig:
    """The configuration with what its folder holds already: algorithms, seeds and coefficients add up.

    Raises:
        ValueError: the folder is something else's, or its comparison has other settings.
    """
    file = config.path / CONFIG
    if not file.is_file():
        if config.path.exists() and (not config.path.is_dir() or any(config.path.iterdir())):
            raise ValueError(f"{config.path} exists and is no comparison, it has no {CONFIG}: choose another folder")
        return config
    try:
        saved = CompareConfig(**json.loads(file.read_text(encoding="utf-8")))
    except (ValueError, TypeError, ValidationError) as error:
        raise ValueError(f"{file} is not the configuration of a comparison: {error}") from error
    given = config.model_fields_set
    for name in EQUAL:
        value, before = getattr(config, name), getattr(saved, name)
        if name in given and value != before:
            raise ValueError(
                f"{name}={value!r}, and the comparison in {config.path} has {before!r}: one comparison has one "
                "environment, budget and evaluation. Choose another folder, or leave the setting out"
            )
    for label in config.overrides.keys() & set(saved.algos):
        if config.overrides[label] != saved.overrides.get(label, {}):
            raise ValueError(
                f"{label} is in the comparison in {config.path} with {saved.overrides.get(label, {})}, not "
                f"{config.overrides[label]}: give the variant a label of its own"
            )
    if "kl_coefs" in given and saved.algos and bool(config.kl_coefs) != bool(saved.kl_coefs):
        raise ValueError(
            f"kl_coefs={config.kl_coefs}, and the comparison in {config.path} has {saved.kl_coefs}: all its algorithms "
            "run with given coefficients, or all with their own. Choose another folder"
        )
    own = {name: getattr(config, name) for name in ("jobs", "metric", "threshold", "keep_agents") if name in given}
    added = {
        "algos": [*saved.algos, *(label for label in config.algos if label not in saved.algos)],
        "seeds": max(saved.seeds, config.seeds) if "seeds" in given else saved.seeds,
        "kl_coefs": sorted({*saved.kl_coefs, *config.kl_coefs}),
        "overrides": saved.overrides | config.overrides,
        "folder": str(config.path),
    }
    return CompareConfig(**(saved.model_dump() | own | added))
