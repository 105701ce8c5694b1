"""Check a new run of the loop before anything is written: what is asked, and what its agent begins with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from rlhf_envs import feedback
from rlhf_envs.feedback.masking import check_masking
from rlhf_envs.feedback.settings import Settings
from rlhf_envs.feedback.settings_file import read_setting, read_settings_file

from ...training.building import build_callbacks
from ...training.rehearsal import planned, rehearsed
from .aspects.steps import check_served
from .aspects.taking import find_aspects
from .config import LoopConfig
from .served import check_compared
from .state import check_asked

__all__ = ["check_new"]


def check_new(config: LoopConfig) -> str:
    """Check what a new run asks and learns, and return how many tokens each round learns from, as a text.

    The agent is built and thrown away. A store that is there is read, and nothing is written.

    Args:
        config: the run, with its defaults.

    Raises:
        ValueError, TypeError, OSError: the study cannot be read, its project does not ask what is to be fitted, a
            setting of the training is wrong, or people said too little of a served model that nobody else is asked
            about.
        StoreError: the store cannot be opened.
    """
    settings, versions = _project(config)
    check_asked(config, settings, versions)
    aspects = {} if config.aspects is None else find_aspects(config, config.aspects, settings, versions)
    if config.from_serving is not None and not config.labels:
        if aspects:
            check_served(config.from_serving, aspects.values())
        else:
            check_compared(config.from_serving)
    with rehearsed(config, ("train", config.test_split)) as agent:
        build_callbacks(config, agent, config.folder())
        assert config.n_timesteps is not None
        return planned(agent, config.n_timesteps)


def _project(config: LoopConfig) -> tuple[Settings, Mapping[int, Settings]]:
    """Return the settings that the run's store will have, and the versions of what it asks."""
    versions: Mapping[int, Settings] = {1: Settings()}
    if config.store is not None and ("://" in config.store or Path(config.store).exists()):
        with feedback.FeedbackStore(config.store) as store:
            versions = store.versions()
    newest = max(versions)
    if config.study is None:
        return versions[newest], versions
    changes = read_settings_file(config.study)
    settings = replace(versions[newest], **{name: read_setting(name, value) for name, value in changes.items()})
    check_masking(settings)
    return settings, {**versions, newest + 1: settings}
