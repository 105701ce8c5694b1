"""Run `rlhf feedback winrate`: which model people, or judges, would rather read."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import typer
from pydantic import Field
from rich.console import Console

from rlhf_envs.datasets.reading import BadRow, read_rows
from rlhf_envs.preferences.winrates import estimate_win_rates, outcomes_of_rows, outcomes_of_store

from ...training.fields import option
from ..options import fail
from ..tables import make_table
from .common import StoreConfig, open_store

if TYPE_CHECKING:
    from rlhf_envs.preferences.winrates import Outcome, WinRates

__all__ = ["WinrateConfig", "winrate"]


class WinrateConfig(StoreConfig):
    """Hold the flags of `rlhf feedback winrate`."""

    models: list[str] = Field(
        [],
        description="Models to compare, as the items name them. All by default.",
        json_schema_extra={"argument": True},
    )
    rows: str | None = option(
        None, "File of rows {prompt, model_a, model_b, winner, annotator, completion_a, completion_b}, not the store."
    )
    by: Literal["people", "judges", "all"] = option("all", "Whose choices in the store count.")
    resamples: int = option(1000, "How often prompts and annotators are drawn anew, for the intervals.", ge=100)
    seed: int = option(0, "Seeds the draws.", ge=0)
    output: str | None = option(None, "JSON file to write the win rates to.", "-o", "--output")


def winrate(config: WinrateConfig) -> None:
    """Show how often each model wins against each other one: wins and half of the ties, with 95% intervals.

    The intervals resample prompts and annotators. Two orders of a pair that an annotator decides differently are a tie.
    """
    outcomes, left_out = _outcomes(config)
    try:
        found = estimate_win_rates(outcomes, config.models, n_resamples=config.resamples, seed=config.seed)
    except ValueError as error:
        hint = "; an item names its models in meta.policies, as `rlhf feedback add RUN --against OTHER` writes it"
        fail(f"{error}{'' if config.rows else hint}")
    if config.output is not None:
        text = json.dumps(_plain(found, left_out), indent=2, allow_nan=False)
        Path(config.output).write_text(f"{text}\n", encoding="utf-8")
    for part in _tables(found):
        Console().print(part)
    _say(found, left_out)


def _outcomes(config: WinrateConfig) -> tuple[list[Outcome], int]:
    """Return the choices, and how many judgements were left out."""
    if config.rows is None:
        with open_store(config.store) as store:
            return outcomes_of_store(store.items(), store.judgements(), config.by)
    if config.by != "all":
        fail("--by is for a store, which knows who is a model")
    rows = []
    for row in read_rows(Path(config.rows)):
        if isinstance(row, BadRow):
            fail(f"{row.where}: {row.reason}")
        rows.append(row)
    try:
        return outcomes_of_rows(rows), 0
    except ValueError as error:
        fail(str(error))


def _tables(found: WinRates) -> list[Any]:
    """Return the table of pairs, and for more than two models that of strengths."""
    rows = [
        (
            f"{one.left} against {one.right}",
            _estimate(one.rate, one.low, one.high),
            _estimate(one.at_equal_length, one.equal_low, one.equal_high),
            str(one.n),
            str(one.prompts),
            str(one.ties),
        )
        for one in found.pairs
    ]
    tables = [make_table(("", "win rate", "at equal length", "choices", "prompts", "ties"), rows)]
    if len(found.strengths) > 2:
        ranked = [(one.model, _estimate(one.mean_rate, one.low, one.high)) for one in found.strengths]
        tables.append(make_table(("Bradley-Terry", "mean win rate against the others"), ranked))
    return tables


def _say(found: WinRates, left_out: int) -> None:
    """Say what the tables mean, and what they leave out."""
    for one in found.pairs:
        if math.isnan(one.low):
            typer.echo(f"{one.left} and {one.right}: one prompt gives no interval")
        elif one.is_decided:
            better, worse = (one.left, one.right) if one.rate > 0.5 else (one.right, one.left)
            typer.echo(f"{better} wins against {worse}")
        else:
            typer.echo(f"{one.left} and {one.right}: undecided, the interval holds 0.5")
    over = "prompts and annotators" if len(found.annotators) > 1 else f"prompts alone: {found.annotators[0]} chose"
    typer.echo(f"95% intervals over {over}")
    if not math.isnan(found.first):
        typer.echo(f"the text shown first was chosen in {found.first:.2f} of the choices that are no tie")
    if left_out:
        typer.echo(f"left out: {left_out} judgements of gold questions, of one model alone, or without models' names")


def _estimate(value: float, low: float, high: float) -> str:
    if math.isnan(value):
        return "-"
    return f"{value:.3f}" if math.isnan(low) else f"{value:.3f} ({low:.3f} to {high:.3f})"


def _plain(found: WinRates, left_out: int) -> dict[str, Any]:
    """Return the estimates as JSON has them, with None for what is not known."""

    def known(one: Any) -> dict[str, Any]:
        return {k: None if isinstance(v, float) and math.isnan(v) else v for k, v in one._asdict().items()}

    pairs = [{**known(one), "is_decided": one.is_decided} for one in found.pairs]
    strengths = [known(one) for one in found.strengths]
    return {**known(found), "pairs": pairs, "strengths": strengths, "left_out": left_out}
