"""Run the commands `rlhf evaluate` and `rlhf attack`: measure an agent on held-out prompts, as they are or attacked."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, Self

from pydantic import Field, field_validator, model_validator
from rich.console import Console
from rich.text import Text

from rlhf_envs.files import to_json
from rlhf_envs.registration import check_environment
from rlhf_envs.rewards import MissingColumnError

from ..saving.folders import run_environment
from ..training.data_flags import DataFlags
from ..training.fields import Pairs, option
from . import tables
from .generate import DecodingFlags
from .options import Flags, argument, fail, from_file

__all__ = ["AttackConfig", "EvaluateConfig", "EvaluateFlags", "attack", "evaluate"]


class HeldOutConfig(DataFlags, Flags):
    """Hold the flags that `rlhf evaluate` and `rlhf attack` share."""

    own_environment = None  # the run's own

    source: str = argument("Run folder, bundle, model name or folder, hub id, or SB3 zip.")
    env: str | None = option(None, "Environment id. The run's own, or rlhf/Sentiment-v0.")
    n_episodes: int = option(256, "Held-out prompts.", "-n", "--n-episodes", ge=2)
    split: str = option("test", "Split of the task's data.")
    judge: list[str] | None = option(None, "Registered reward that scores too; repeat. The task's by default.")
    seed: int = option(0, "Seeds the sampling (and the attacks, if any).", ge=0)
    env_kwargs: Pairs = option({}, "Arguments of the environment; repeat the flag.")
    trust: bool = option(False, "Load an SB3 zip: it holds pickles, which can run code.")
    output: str | None = option(None, "JSON file to write the metrics to.", "-o", "--output")

    def arguments(self, env: str | None = None) -> dict[str, Any]:
        """Return the arguments that `agents.evaluate` and `agents.evaluate_robustness` share. Hide progress bars.

        Args:
            env: the environment, if it is not that of the flags.

        Raises:
            ValueError, typer.Exit: there is no such environment, or no folder for the output.
        """
        default = "rlhf/Prompts-v0" if "data" in self.env_kwargs else "rlhf/Sentiment-v0"
        env = check_environment(env or self.env or run_environment(self.source) or default)
        if self.output is not None and not Path(self.output).parent.is_dir():
            fail(f"--output {self.output}: there is no folder {Path(self.output).parent}")
        from transformers.utils import logging

        logging.disable_progress_bar()
        shared = self.model_dump(include={"source", "n_episodes", "split", "seed", "env_kwargs", "trust"})
        return shared | {"env_id": env, "judges": self.judge}

    def write(self, metrics: dict[str, Any] | list[dict[str, Any]]) -> None:
        """Write the metrics to the output if one is given."""
        if self.output is not None:
            Path(self.output).write_text(to_json(metrics, indent=2) + "\n", encoding="utf-8")


def _measures() -> SimpleNamespace:
    """Return the modules that measure. They import torch, which flags and help do without."""
    from ..evaluation import bias, evaluate, robustness

    return SimpleNamespace(bias=bias, evaluate=evaluate, robustness=robustness)


class EvaluateConfig(HeldOutConfig, DecodingFlags):
    """Hold the flags of `rlhf evaluate`."""

    reference: str | None = option(None, "Model that KL and perplexity are measured against.")
    samples: int = option(4, "Completions to show, per environment.", ge=0)
    envs: list[str] = Field(
        default=[],
        description="Environments, with commas between, for a table of each and one of all.",
        json_schema_extra={"type": "text"},
    )
    bias: bool = option(False, "Measure gaps between names, genders and dialects too, refusals and toxicity.")
    json_output: bool = option(False, "Print the metrics as JSON, and nothing else.", "--json")

    @field_validator("envs", mode="before")
    @classmethod
    def _split(cls, value: Any) -> Any:
        return [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value

    @model_validator(mode="after")
    def _check_environments(self) -> Self:
        if self.envs and self.env is not None:
            raise ValueError(f"env={self.env} with envs={','.join(self.envs)}: give one of them")
        if len(self.envs) > 1 and "data" in self.env_kwargs:
            raise ValueError(f"data={self.env_kwargs['data']} with several envs: it is the data of one; give --env")
        if doubles := sorted({env for env in self.envs if self.envs.count(env) > 1}):
            raise ValueError(f"envs={','.join(self.envs)}: {doubles[0]} is there twice")
        return self


class EvaluateFlags(EvaluateConfig):
    """Hold the flags of `rlhf evaluate`, or the file that they are in."""

    config: str | None = option(None, "TOML, YAML or JSON file of these settings; flags come before it.")


def evaluate(flags: EvaluateFlags) -> None:
    """Complete held-out prompts: reward, judges, KL, perplexity, length and diversity, with bootstrap intervals.

    With --envs a source is measured on several environments, whose vocabulary it shares; --json and --output then hold
    a list.
    """
    given = flags.model_dump(exclude={"config"}, exclude_unset=True)
    config: EvaluateConfig = flags
    if flags.config is not None:
        config = from_file(EvaluateConfig, flags.config, given, EvaluateConfig)
    environments = [config.arguments(env) for env in config.envs] or [config.arguments()]
    measure = _measures()
    shared = {"reference": config.reference, "deterministic": config.deterministic, **config.decoding()}
    console = Console()
    found = []
    for arguments in environments:
        try:
            found.append(measure.evaluate.evaluate(**arguments, **shared, max_new_tokens=config.max_new_tokens))
        except ValueError as error:
            if not config.envs:
                raise
            fail(f"{arguments['env_id']}: {error}")
        if not config.json_output:
            console.print(tables.evaluation_table(found[-1]))
            for sample in found[-1].samples(config.samples):
                console.print(tables.sample_text(sample))
    if len(found) > 1 and not config.json_output:
        console.print(tables.evaluations_table(found))
    reports = [evaluation.to_dict() for evaluation in found]
    for arguments, report in zip(environments, reports, strict=True) if config.bias else ():
        report["bias"] = _bias(config, arguments, console)
    metrics = reports if config.envs else reports[0]
    if config.json_output:
        print(to_json(metrics, indent=2))
    config.write(metrics)


def _bias(config: EvaluateConfig, arguments: dict[str, Any], console: Console) -> dict[str, Any]:
    """Return the report of `rlhf evaluate --bias` in one environment, and print its tables."""
    given = {name: arguments[name] for name in ("source", "env_id", "seed", "env_kwargs", "trust")}
    try:
        found = _measures().bias.evaluate_bias(
            **given, deterministic=config.deterministic, max_new_tokens=config.max_new_tokens, **config.decoding()
        )
    except MissingColumnError as error:
        fail(f"--bias: {error}; its templates are texts without columns: name an environment or a reward of texts")
    if not config.json_output:
        for part in tables.bias_parts(found):
            console.print(part, soft_wrap=isinstance(part, Text))
    report: dict[str, Any] = found.to_dict()
    return report


class AttackConfig(HeldOutConfig):
    """Hold the flags of `rlhf attack`."""

    n_episodes: int = option(128, "Held-out prompts.", "-n", "--n-episodes", ge=2)
    attack: list[str] | None = option(
        None, "embeddings, random_embeddings, tokens or random_tokens; repeat. All by default."
    )
    epsilon: float = option(0.1, "Change of a prompt token's embedding, in mean embedding norms.", gt=0)
    steps: int = option(10, "Gradient steps of the attack on embeddings.", ge=1)
    swaps: int = option(2, "Tokens that an attacker may swap.", ge=1)
    candidates: int = option(16, "Swaps tried for each one made.", ge=1)
    threshold: float = option(0.0, "Reward from which on a completion is good.")
    sample: bool = option(False, "Draw tokens, instead of taking the most probable.")


def attack(config: AttackConfig) -> None:
    """Attack a policy through its prompts, and its reward model through bad completions: success rates.

    An attack on the policy changes the embeddings of a prompt a little, or swaps a few of its tokens. An attack on the
    reward model swaps a few tokens of a bad completion, until the reward model likes it while the judge does not. Each
    attack is shown with a random one of the same size, which does not look at the gradient.
    """
    arguments = config.arguments()
    measure = _measures().robustness
    robustness = measure.evaluate_robustness(
        **arguments,
        budget=measure.Budget(config.epsilon, config.steps, config.swaps, config.candidates),
        attacks=config.attack or measure.ATTACKS,
        deterministic=not config.sample,
        threshold=config.threshold,
    )
    console = Console()
    for table in tables.robustness_tables(robustness):
        console.print(table)
    if robustness.note:
        console.print(robustness.note, markup=False, soft_wrap=True)
    config.write(robustness.to_dict())
