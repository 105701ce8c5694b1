"""Build the callbacks of a run: metrics, evaluations, early stopping, human feedback, checkpoints."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from rlhf_envs.datasets import MissingSplitError

from ..algorithms.ppo_lagrangian import LagrangeMultiplier
from ..core.text_metrics import TextMetrics
from ..core.vec_env import make_vec_env
from ..evaluation.evaluate import find_judges
from ..saving.bundle import holds
from ..saving.checkpoints import Checkpoints
from ..saving.folders import BEST, CHECKPOINTS
from .callbacks import PeriodicEvaluation
from .checkpoint_callback import CheckpointCallback
from .config import TrainConfig
from .early_stopping import EarlyStopping
from .human_feedback import HumanFeedback, RatingRefit, human_rewards

__all__ = ["ZIP", "build_callbacks"]

logger = logging.getLogger(__name__)

PATIENCE = 3
ZIP = "agent.zip"  # instead of AGENT, for an agent that bundles do not hold


def build_callbacks(config: TrainConfig, agent: Any, folder: Path) -> list[Any]:
    """Return the callbacks of a run: text metrics with the task's judges, evaluations, human feedback, checkpoints.

    Raises:
        ValueError: checkpoints or early stopping are asked for, and bundles do not hold the agent; or there is no
            metric or no validation split to stop by.
    """
    callbacks: list[Any] = [TextMetrics(judges=find_judges(agent.get_env().get_attr("task", 0)[0], None))]
    if config.eval_freq > 0:
        env = _evaluation_environment(config)
        callbacks.append(
            PeriodicEvaluation(env, config.n_eval_episodes, config.eval_freq, folder, config.seed, config.verbose)
        )
        if config.early_stopping is not None:
            callbacks.append(_build_stopping(config, agent, env, folder))
    guard = _build_guard(config, agent, folder, callbacks)
    if config.constraint is not None:
        callbacks.append(LagrangeMultiplier())  # after the guard is built: the environment has its state
    if any(reward.store is not None for reward in human_rewards(agent.get_env())):
        refit = RatingRefit(folder / "reward_models", seed=config.seed)
        callbacks.append(HumanFeedback(guard, refit, verbose=config.verbose))
    return callbacks if guard is None else [*callbacks, guard]


def _evaluation_environment(config: TrainConfig) -> Any:
    """Return the environment of the evaluations during training: validation prompts, else test prompts."""
    n, kwargs = min(config.n_eval_episodes, 64), config.held_out_kwargs()
    try:
        return make_vec_env(config.env_id, n, **{"split": "validation", **kwargs})
    except MissingSplitError as error:
        if config.early_stopping is not None:  # by test prompts it would choose the agent that they then judge
            raise ValueError(f"--early-stopping {config.early_stopping} needs validation prompts: {error}") from error
        logger.warning("%s. The evaluations during training take the split %r", error, config.test_split)
        return make_vec_env(config.env_id, n, **{"split": config.test_split, **kwargs})


def _build_stopping(config: TrainConfig, agent: Any, env: Any, folder: Path) -> EarlyStopping:
    """Return the callback that stops the run by validation prompts, once it has tried the metric on two of them."""
    assert config.early_stopping is not None
    stopping = EarlyStopping(
        config.early_stopping,
        config.eval_patience or PATIENCE,
        folder=folder / BEST,
        env=env,
        eval_freq=config.eval_freq,
        n_episodes=config.n_eval_episodes,
        seed=config.seed,
    )
    stopping.check_metric(agent)
    return stopping


def _build_guard(config: TrainConfig, agent: Any, folder: Path, callbacks: list[Any]) -> CheckpointCallback | None:
    """Return the callback that saves the run and the state of `callbacks`, or None if bundles do not hold the agent."""
    if holds(type(agent)):
        checkpoints = Checkpoints(folder / CHECKPOINTS, config.keep_checkpoints)
        return CheckpointCallback(
            checkpoints, config.save_freq, tuple(callbacks), verbose=config.verbose, until_closed=True
        )
    name = f"{config.algo} ({type(agent).__name__})"
    for flag, value in (("--save-freq", config.save_freq), ("--early-stopping", config.early_stopping)):
        if value:
            raise ValueError(
                f"{flag} {value}: checkpoints need an agent that bundles hold, and {name} is none; leave the flag out"
            )
    logger.warning(
        "%s is no agent that bundles hold: no checkpoints are written, a signal ends the run, and it is saved at the "
        "end, as %s",
        name,
        folder / ZIP,
    )
    return None
