"""The command `rlhf attack`: how robust a trained policy and its reward model are."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from pydantic import BaseModel, ConfigDict, Field, field_validator

from ..training.config import parse_pairs
from .options import add_command, user_errors

if TYPE_CHECKING:
    from rich.table import Table

    from ..evaluation.robustness import Robustness

__all__ = ["AttackConfig", "add_attack"]


class AttackConfig(BaseModel):
    """The configuration of `rlhf attack`."""

    model_config = ConfigDict(extra="forbid")

    source: str = Field(
        description="Run folder, bundle, model name or folder, hub id, or SB3 zip.",
        json_schema_extra={"argument": True},
    )
    env: str | None = Field(None, description="Environment id. The run's own, or rlhf/Sentiment-v0.")
    n_episodes: int = Field(
        128, ge=2, description="Held-out prompts.", json_schema_extra={"flags": ["-n", "--n-episodes"]}
    )
    attack: list[str] | None = Field(
        None, description="embeddings, random_embeddings, tokens or random_tokens; repeat. All by default."
    )
    epsilon: float = Field(0.1, gt=0, description="Change of a prompt token's embedding, in mean embedding norms.")
    steps: int = Field(10, ge=1, description="Gradient steps of the attack on embeddings.")
    swaps: int = Field(2, ge=1, description="Tokens that an attacker may swap.")
    candidates: int = Field(16, ge=1, description="Swaps tried for each one made.")
    threshold: float = Field(0.0, description="Reward from which on a completion is good.")
    split: str = Field("test", description="Split of the task's data.")
    judge: list[str] | None = Field(None, description="Registered reward that scores too; the task's by default.")
    seed: int = Field(0, ge=0, description="Seeds the attacks.")
    sample: bool = Field(False, description="Draw tokens, instead of taking the most probable.")
    env_kwargs: dict[str, Any] = Field({}, description="Arguments of the environment; repeat the flag.")
    trust: bool = Field(False, description="Load an SB3 zip: it holds pickles, which can run code.")
    output: str | None = Field(
        None, description="JSON file to write the figures to.", json_schema_extra={"flags": ["-o", "--output"]}
    )

    @field_validator("env_kwargs", mode="before")
    @classmethod
    def _pairs(cls, value: Any) -> Any:
        return parse_pairs(value)


def add_attack(app: typer.Typer) -> None:
    """Add `rlhf attack` to the command line."""
    add_command(app, AttackConfig, "attack")(_attack)


def _attack(config: AttackConfig) -> None:
    """Attack a policy through its prompts, and its reward model through bad completions: success rates.

    The policy's prompts get a small change of their embeddings, or a few other tokens; the reward model's bad
    completions get a few other tokens, until it likes them while the judge does not. Beside every attack stands its
    blind twin, which does not look at the gradient.
    """
    from rich.console import Console

    from rlhf_envs.registration import check_environment

    from ..saving.folders import run_environment

    with user_errors():
        env = check_environment(config.env or run_environment(config.source) or "rlhf/Sentiment-v0")
        if config.output is not None and not Path(config.output).parent.is_dir():
            raise ValueError(f"--output {config.output}: there is no folder {Path(config.output).parent}")
    from transformers.utils import logging

    from ..evaluation.robustness import ATTACKS, Budget, evaluate_robustness

    logging.disable_progress_bar()
    with user_errors():
        robustness = evaluate_robustness(
            config.source,
            env,
            n_episodes=config.n_episodes,
            budget=Budget(config.epsilon, config.steps, config.swaps, config.candidates),
            attacks=config.attack or ATTACKS,
            split=config.split,
            judges=config.judge,
            seed=config.seed,
            env_kwargs=config.env_kwargs,
            trust=config.trust,
            deterministic=not config.sample,
            threshold=config.threshold,
        )
    console = Console()
    for table in tables(robustness):
        console.print(table)
    if robustness.note:
        console.print(robustness.note, markup=False, soft_wrap=True)
    if config.output is not None:
        Path(config.output).write_text(json.dumps(robustness.to_dict(), indent=2) + "\n", encoding="utf-8")


def tables(robustness: Robustness) -> list[Table]:
    """One table of the attacks on the policy, and one of those on the reward model where there are any."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    b, scores = robustness.budget, list(robustness.clean.scores)
    title = f"{robustness.source} on {robustness.env_id}: {len(robustness.clean.kl)} prompts attacked"
    caption = f"embeddings: epsilon {b.epsilon}, {b.steps} steps; tokens: {b.swaps} swaps, {b.candidates} tries each"
    policy = Table("attack on the policy", title=Text(title), caption=Text(caption), box=box.SIMPLE)
    columns = ["kl", *(f"{score}{suffix}" for score in scores for suffix in ("", "_change", "_success"))]
    for column in columns:
        policy.add_column(column.replace("_", " "), justify="right")
    for name, row in robustness.estimates().items():
        policy.add_row(name.replace("_", " "), *(str(row[column]) if column in row else "" for column in columns))
    estimates = robustness.reward_model_estimates()
    if not estimates:
        return [policy]
    n = len(next(iter(robustness.reward_model.values())).success)
    reward = Table(
        "attack on the reward model",
        title=f"{n} bad completions, {b.swaps} swaps, mean ± standard error",
        box=box.SIMPLE,
    )
    for column in next(iter(estimates.values())):
        reward.add_column(column.replace("_", " "), justify="right")
    for name, row in estimates.items():
        reward.add_row(name.replace("_", " "), *(str(estimate) for estimate in row.values()))
    return [policy, reward]
