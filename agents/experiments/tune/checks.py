"""Check a search before anything is written: where its findings go, and what a trial begins with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError

from ...training.hyperparams import read_settings
from ...training.rehearsal import planned, rehearsed
from ...training.run import resolve_config
from .config import TuneConfig

__all__ = ["check_search"]


def check_search(config: TuneConfig, chosen: Mapping[str, Any]) -> str:
    """Check where a search writes, and that its first trial can begin. Return the tokens that this trains for, as text.

    The agent of the trial is built and thrown away; with Ray on the CPU, since this machine may have no GPU.

    Args:
        config: the search.
        chosen: the settings of the first trial.

    Raises:
        ValueError, TypeError, OSError: a setting is wrong, evaluations have no prompts, the storage is no address of a
            database, or the file of settings is none.
    """
    if config.storage is not None:
        try:
            make_url(config.storage).get_dialect()
        except (ArgumentError, ImportError) as error:
            reason = str(error).splitlines()[0]
            raise ValueError(
                f"storage={config.storage}: {reason}; give an address such as sqlite:///study.db"
            ) from error
    if config.settings_file().exists():
        read_settings(config.settings_file())  # it is written last
    run = resolve_config(config.run(config.seed, dict(chosen)))
    if config.uses_ray:
        run = run.model_copy(update={"device": "cpu"})
    assert run.n_timesteps is not None
    with rehearsed(run, ("validation", "test") if config.confirm_seeds else ("validation",)) as agent:
        return planned(agent, run.n_timesteps)
