"""Draw the curves of a run, finished or not."""

from __future__ import annotations

import math
from pathlib import Path

import gymnasium as gym

from rlhf_envs.registration import task_of

from ..evaluation.statistics import Estimate
from ..saving.folders import read_config, read_object
from .report import REPORT, Picture, TrainResult, draw_curves, read_progress

__all__ = ["plot"]

OWN_PANELS = ("reward", "kl", "length", "eos_share", "distinct_within", "perplexity", "distinct_bigrams")


def plot(run: str | Path | TrainResult, path: str | Path | None = None) -> Picture:
    """Draw reward, judges, KL, entropy, length and diversity of a run against its tokens.

    Args:
        run: a run's folder, also of one that is still training; or what `agents.train` returned.
        path: a file to write too; its extension decides the format, such as .png, .pdf or .svg.

    Returns:
        A figure of matplotlib, which notebooks show.

    Raises:
        ValueError: it is no run's folder, or has logged nothing yet.
    """
    folder = run.folder if isinstance(run, TrainResult) else Path(run)
    config, progress = read_config(folder), folder / "progress.csv"
    if not config or not progress.is_file():
        raise ValueError(f"{folder} is no run's folder with curves: it needs config.json and progress.csv")
    estimates, prompts = _held_out(folder)
    figure = draw_curves(
        read_progress(progress),
        title=f"{config.get('algo')} on {config.get('env')}, seed {config.get('seed')}",
        judges=_judges(estimates, str(config.get("env"))),
        kl_target=config.get("kl_target"),
        held_out=estimates,
        prompts=prompts,
    )
    if path is not None:
        figure.savefig(path, dpi=150)
    return figure


def _held_out(folder: Path) -> tuple[dict[float, dict[str, Estimate]], str]:
    """Return the estimates on held-out prompts by tokens, and what the prompts are; none if the run is not finished."""
    file = folder / REPORT
    if not file.is_file():
        return {}, ""
    report = read_object(file)
    try:
        parts = {0.0: report["before"], float(report["n_timesteps"]): report["after"]}
        estimates = {
            tokens: {name: Estimate(**_known(values), n=part["episodes"]) for name, values in part["estimates"].items()}
            for tokens, part in parts.items()
        }
        return estimates, str(report["after"]["prompts"])
    except (LookupError, TypeError, AttributeError, ValueError) as error:
        raise ValueError(f"{file} is no report of a run ({error!r}): the file is damaged") from error


def _known(values: dict[str, float | None]) -> dict[str, float]:
    """Return the numbers of an estimate: NaN for those that are not known, which JSON has as null."""
    return {name: math.nan if value is None else value for name, value in values.items()}


def _judges(estimates: dict[float, dict[str, Estimate]], env_id: str) -> tuple[str, ...]:
    """Return the names of judges and metrics of the task, without the parts of judges and rewards."""
    if not estimates:
        name = env_id.rpartition(":")[2]
        task = task_of(name) if name in gym.registry else None
        return tuple(getattr(task, "judges", ()))
    names = [name for name in next(iter(estimates.values())) if name not in OWN_PANELS]
    whole = ("reward", *names)
    return tuple(name for name in names if not any(name.startswith(f"{other}_") for other in whole))
