"""Build the callbacks of a run: metrics, evaluations, early stopping, the alarm, human feedback, checkpoints."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from rlhf_envs.datasets import MissingSplitError

from ..core import ranks
from ..core.text_metrics import TextMetrics
from ..core.vec_env import make_vec_env
from ..evaluation.evaluate import find_judges
from ..saving.bundle import holds
from ..saving.checkpoints import Checkpoints
from ..saving.folders import BEST, CHECKPOINTS, REWARD_MODELS
from .callbacks import PeriodicEvaluation
from .checkpoint_callback import CheckpointCallback
from .config import TrainConfig
from .constraint import find_cost, find_multipliers, find_run_judges
from .early_stopping import EarlyStopping
from .hacking_alarm import HackingAlarm
from .human_feedback import HumanFeedback, RatingRefit, human_rewards
from .rank_states import RankStates

__all__ = ["ZIP", "build_callbacks"]

logger = logging.getLogger(__name__)

PATIENCE = 3
ZIP = "agent.zip"  # instead of AGENT, for an agent that bundles do not hold


def build_callbacks(config: TrainConfig, agent: Any, folder: Path) -> list[Any]:
    """Return the callbacks of a run: text metrics with the task's judges, evaluations, human feedback, checkpoints.

    Raises:
        ValueError: checkpoints, early stopping or an alarm that stops are asked for, and bundles do not hold the agent;
            or there is no metric, no judge or no validation split to go by.
    """
    callbacks: list[Any] = [TextMetrics(judges=find_judges(agent.get_env().get_attr("task", 0)[0], None))]
    if config.eval_freq > 0:
        env = _evaluation_environment(config)
        callbacks.append(
            PeriodicEvaluation(env, config.n_eval_episodes, config.eval_freq, folder, config.seed, config.verbose)
        )
        if config.early_stopping is not None:
            callbacks.append(_build_stopping(config, agent, env, folder))
        if config.alarm is not None:
            callbacks.append(_build_alarm(config, agent, env, folder))
            if config.early_stopping is not None:
                callbacks[-1].twin = callbacks[-2]  # both complete the same prompts: once is enough
    if ranks.size() > 1:
        callbacks.append(RankStates())
    guard = _build_guard(config, agent, folder, callbacks)
    callbacks += find_multipliers(config, agent)  # after the guard is built: the environment has its state
    if any(reward.store is not None for reward in human_rewards(agent.get_env())):
        refit = RatingRefit(folder / REWARD_MODELS, seed=config.seed)
        callbacks.append(HumanFeedback(guard, refit, verbose=config.verbose))
    return callbacks if guard is None else [*callbacks, guard]


def _evaluation_environment(config: TrainConfig) -> Any:
    """Return the environment of the evaluations during training: validation prompts, else test prompts."""
    n, kwargs = min(config.n_eval_episodes, 64), config.held_out_kwargs()
    try:
        return make_vec_env(config.env_id, n, **{"split": "validation", **kwargs})
    except MissingSplitError as error:
        # By test prompts these would choose the agent that the test prompts then judge.
        for flag, value in (("--early-stopping", config.early_stopping), ("--alarm", config.alarm)):
            if value is not None:
                raise ValueError(f"{flag} {value} needs validation prompts: {error}") from error
        logger.warning("%s. The evaluations during training take the split %r", error, config.test_split)
        return make_vec_env(config.env_id, n, **{"split": config.test_split, **kwargs})


def _build_stopping(config: TrainConfig, agent: Any, env: Any, folder: Path) -> EarlyStopping:
    """Return the callback that stops the run by validation prompts, once it has tried the metric on two of them."""
    assert config.early_stopping is not None
    if config.constraint is not None and config.early_stopping == find_cost(config).name:
        raise ValueError(
            f"--early-stopping {config.early_stopping}: this is the cost of --constraint, and the highest is kept; "
            "name the reward, a judge or a metric of the task"
        )
    stopping = EarlyStopping(
        config.early_stopping,
        config.eval_patience or PATIENCE,
        folder=folder / BEST,
        env=env,
        eval_freq=config.eval_freq,
        n_episodes=config.n_eval_episodes,
        judges=find_run_judges(config, folder),
        seed=config.seed,
    )
    stopping.check_metric(agent)
    return stopping


def _build_alarm(config: TrainConfig, agent: Any, env: Any, folder: Path) -> HackingAlarm:
    """Return the callback that compares the reward with the first judge on validation prompts."""
    named = find_run_judges(config, folder)
    judges = find_judges(agent.get_env().get_attr("task", 0)[0], named)
    if not judges:
        raise ValueError(
            f"--alarm {config.alarm}: the task of {config.env_id} has no judge to compare the reward with; name a "
            "reward that the agent does not train against, such as --judge gold or --judge my_module:score"
        )
    stop = config.alarm == "stop"
    return HackingAlarm(
        next(iter(judges)),
        stop=stop,
        folder=folder / BEST if stop else None,
        env=env,
        eval_freq=config.eval_freq,
        n_episodes=config.n_eval_episodes,
        judges=named,
        seed=config.seed,
    )


def _build_guard(config: TrainConfig, agent: Any, folder: Path, callbacks: list[Any]) -> CheckpointCallback | None:
    """Return the callback that saves the run and the state of `callbacks`, or None if bundles do not hold the agent."""
    if holds(type(agent)):
        checkpoints = Checkpoints(folder / CHECKPOINTS, config.keep_checkpoints)
        return CheckpointCallback(
            checkpoints, config.save_freq, tuple(callbacks), verbose=config.verbose, until_closed=True
        )
    name = f"{config.algo} ({type(agent).__name__})"
    stop = config.alarm if config.alarm == "stop" else None
    needs = (("--save-freq", config.save_freq), ("--early-stopping", config.early_stopping), ("--alarm", stop))
    for flag, value in needs:
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
