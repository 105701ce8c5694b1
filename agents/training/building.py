"""Build the parts of a run: its environment, its agent and its callbacks."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from rlhf_envs.datasets import MissingSplitError
from rlhf_envs.models import resolve as find_model
from rlhf_envs.models.devices import find_device
from rlhf_envs.registration import check_environment

from ..core import ranks
from ..core.schedules import falling_rate
from ..core.sharding import shard
from ..core.supervised import open_data
from ..core.text_metrics import TextMetrics
from ..core.together import seed_of_episodes
from ..core.vec_env import make_vec_env
from ..evaluation.evaluate import find_judges
from ..registry import check_arguments, describe, get_algorithm, make
from ..saving.bundle import holds
from ..saving.checkpoints import Checkpoints
from ..saving.folders import BEST, CHECKPOINTS, REWARD_MODELS
from ..saving.loading import load
from .callbacks import PeriodicEvaluation
from .checkpoint_callback import CheckpointCallback
from .config import TrainConfig
from .constraint import constrain_environment, find_cost, find_multipliers, find_run_judges
from .early_stopping import EarlyStopping
from .hacking_alarm import HackingAlarm
from .human_feedback import HumanFeedback, RatingRefit, human_rewards
from .rank_states import RankStates, check_ranks, envs_per_rank

__all__ = ["ZIP", "build_agent", "build_callbacks", "build_environment", "load_agent"]

logger = logging.getLogger(__name__)

PATIENCE = 3
ZIP = "agent.zip"  # instead of AGENT, for an agent that bundles do not hold


def build_agent(config: TrainConfig, share: tuple[int, int] = (0, 1)) -> Any:
    """Return the agent of a resolved configuration. All names are checked before a model is loaded.

    Args:
        share: which part of the run's environments it has, from 0, and of how many parts. `n_envs` are this part's.

    Raises:
        ValueError: the ranks of a data-parallel run are not alike, see `check_ranks`.
    """
    check_environment(config.env)
    if config.model is not None:
        find_model(config.model)
    arguments = config.agent_kwargs()
    check_arguments(config.algo, arguments)
    if config.lr_schedule != "constant":
        arguments["learning_rate"] = falling_rate(config.lr_schedule, _first_rate(config))
    find_device(config.device)
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    env = build_environment(config)
    env.share = share
    agent = make(config.algo, env, seed=config.seed, device=config.device, verbose=config.verbose, **arguments)
    check_ranks(config, agent)
    if config.shard:
        shard(agent)
    return agent


def load_agent(config: TrainConfig, bundle: Path, reward_fn: Callable[..., Any] | None = None) -> Any:
    """Return the agent of a bundle of this run, with the run's environment and file of data.

    Args:
        config: the run.
        bundle: the agent's folder.
        reward_fn: the environment's reward, which goes on with what the bundle's has learned; by default the run's.

    Raises:
        ValueError, FileNotFoundError, BundleError: as `agents.load`, and as `agents.core.supervised.open_data`.
    """
    given: dict[str, Any] = {"device": config.device, "verbose": config.verbose}
    if config.sft_data is not None:  # a bundle's own word for a file is not taken
        given["policy_kwargs"] = {"sft_data": config.sft_data}
    arguments = config.agent_kwargs()
    if isinstance(arguments.get("data"), str) and hasattr(get_algorithm(config.algo), "set_data"):
        given["data"] = arguments["data"]
    env = build_environment(config)
    if reward_fn is not None:
        env.set_attr("reward_fn", reward_fn)
    agent = load(bundle, env, algorithm=config.algo, **given)
    if arguments.get("engine") is not None:  # nor is its word for a server
        agent.set_engine(arguments["engine"], **(arguments.get("engine_kwargs") or {}))
    open_data(agent)
    check_ranks(config, agent)
    if config.shard:
        shard(agent)
    if agent._last_obs is None:  # another number of ranks has other environments, which begin with other prompts
        agent.get_env().seed(seed_of_episodes(config.seed, agent.num_timesteps))
    return agent


def _first_rate(config: TrainConfig) -> float:
    """Return the learning rate that a schedule begins with: the configured one, else the algorithm's default."""
    rate = config.learning_rate or describe(get_algorithm(config.algo)).defaults.get("learning_rate")
    if not isinstance(rate, int | float) or not rate:
        raise ValueError(
            f"--lr-schedule {config.lr_schedule}: {config.algo} has the learning rate {rate!r}, which cannot go down; "
            "leave it out, or give --learning-rate"
        )
    return float(rate)


def build_environment(config: TrainConfig) -> Any:
    """Return the training environment of a resolved configuration, with the constraint around its reward.

    The ranks of a data-parallel run have an equal part of its rows each.
    """
    assert config.n_envs is not None
    env = make_vec_env(config.env_id, envs_per_rank(config.n_envs), seed=config.seed, **config.environment_kwargs())
    if config.constraint is not None:
        constrain_environment(config, env)
    return env


def build_callbacks(config: TrainConfig, agent: Any, folder: Path) -> list[Any]:
    """Return the callbacks of a run: text metrics with the task's judges, evaluations, human feedback, checkpoints.

    Raises:
        ValueError: checkpoints, early stopping or an alarm that stops are asked for, and bundles do not hold the agent;
            or there is no metric, no judge or no validation split to go by.
    """
    callbacks: list[Any] = [TextMetrics(judges=find_judges(agent.get_env().get_attr("task", 0)[0], None))]
    if config.eval_freq > 0:
        env, n, seed = _evaluation_environment(config), config.n_eval_episodes, config.seed
        callbacks.append(PeriodicEvaluation(env, n, config.eval_freq, folder, seed, config.verbose))
        options: dict[str, Any] = dict(
            env=env, eval_freq=config.eval_freq, n_episodes=n, judges=find_run_judges(config, folder), seed=seed
        )
        if config.early_stopping is not None:
            callbacks.append(_build_stopping(config, agent, folder, options))
        if config.alarm is not None:
            callbacks.append(_build_alarm(config, agent, folder, options))
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


def _build_stopping(config: TrainConfig, agent: Any, folder: Path, options: dict[str, Any]) -> EarlyStopping:
    """Return the callback that stops the run by validation prompts, once it has tried the metric on two of them."""
    assert config.early_stopping is not None
    if config.constraint is not None and config.early_stopping == find_cost(config).name:
        raise ValueError(
            f"--early-stopping {config.early_stopping}: this is the cost of --constraint, and the highest is kept; "
            "name the reward, a judge or a metric of the task"
        )
    stopping = EarlyStopping(config.early_stopping, config.eval_patience or PATIENCE, folder=folder / BEST, **options)
    stopping.check_metric(agent)
    return stopping


def _build_alarm(config: TrainConfig, agent: Any, folder: Path, options: dict[str, Any]) -> HackingAlarm:
    """Return the callback that compares the reward with the first judge on validation prompts."""
    judges = find_judges(agent.get_env().get_attr("task", 0)[0], options["judges"])
    if not judges:
        raise ValueError(
            f"--alarm {config.alarm}: the task of {config.env_id} has no judge to compare the reward with; name a "
            "reward that the agent does not train against, such as --judge gold or --judge my_module:score"
        )
    stop = config.alarm == "stop"
    return HackingAlarm(next(iter(judges)), stop=stop, folder=folder / BEST if stop else None, **options)


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
