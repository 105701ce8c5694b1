"""One training run from its configuration to its report: what `rlhf train` does, callable from Python."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .config import TrainConfig

if TYPE_CHECKING:
    from .evaluation import Evaluation

__all__ = ["Prepared", "TrainConfig", "TrainResult", "prepare", "train"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Prepared:
    """A run that is ready to start: the resolved configuration, its folder (not made yet), the agent, its callbacks."""

    config: TrainConfig
    folder: Path
    agent: Any
    callbacks: list[Any]
    before: Evaluation
    started: float


@dataclass(frozen=True)
class TrainResult:
    """A finished run: its folder, the agent, the held-out completions before and after, and how long it took."""

    config: TrainConfig
    folder: Path
    agent: Any
    before: Evaluation
    after: Evaluation
    seconds: float


def prepare(config: TrainConfig) -> Prepared:
    """Build everything a run needs and evaluate the untrained agent; nothing is written.

    Raises:
        ValueError, TypeError, FileExistsError: the configuration is wrong.
    """
    started = time.perf_counter()
    config = config.resolved()
    folder = config.folder()
    agent = build_agent(config)
    callbacks = build_callbacks(config, agent, folder)
    return Prepared(config, folder, agent, callbacks, _evaluate(config, agent), started)


def train(run: Prepared | TrainConfig) -> TrainResult:
    """Train, and write the run's folder: configuration, TensorBoard events, curves, samples, report, model, agent."""
    from . import reports

    run = run if isinstance(run, Prepared) else prepare(run)
    config, folder, agent = run.config, run.folder, run.agent
    _open_folder(config, folder, agent)
    if agent.policy.model_name is None:
        agent.policy.save_pretrained(folder / "start")  # nothing else says what a fresh model was: KL is measured to it
    try:
        agent.learn(config.n_timesteps, callback=run.callbacks, log_interval=1, progress_bar=config.progress)
    except BaseException:
        kept = _save(config, folder, agent)
        where = (
            f"what was learned until then is in {folder}" if kept else "its weights are not finite, nothing was saved"
        )
        logger.error("the run stopped after %d tokens; %s", agent.num_timesteps, where)
        raise
    finally:
        agent.logger.close()
    after = _evaluate(config, agent)
    _save(config, folder, agent)
    agent.get_env().close()
    result = TrainResult(config, folder, agent, run.before, after, time.perf_counter() - run.started)
    reports.write(result)
    return result


def _save(config: TrainConfig, folder: Path, agent: Any) -> bool:
    """Save the model and the agent, unless the weights have diverged."""
    import torch

    if not all(torch.isfinite(p).all() for p in agent.policy.parameters()):
        return False
    agent.policy.save_pretrained(folder / "model")
    agent.save(folder / config.env_id.rpartition("/")[2])
    return True


def _evaluate(config: TrainConfig, agent: Any) -> Evaluation:
    from .evaluation import evaluate

    return evaluate(agent, config.env_id, n_episodes=config.test_episodes, env_kwargs=config.held_out_kwargs())


def build_agent(config: TrainConfig) -> Any:
    """The agent of a resolved configuration. Names are checked before any model is loaded."""
    from .environments import check_environment

    check_environment(config.env)
    if config.model is not None:
        from rlhf_envs.models import resolve

        resolve(config.model)
    import torch

    from .registry import check_arguments, make
    from .vec_env import make_vec_env

    check_arguments(config.algo, config.agent_kwargs())
    _check_device(config.device)
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    assert config.n_envs is not None
    env = make_vec_env(config.env_id, config.n_envs, seed=config.seed, **config.environment_kwargs())
    return make(
        config.algo, env, seed=config.seed, device=config.device, verbose=config.verbose, **config.agent_kwargs()
    )


def _check_device(name: str) -> None:
    import torch

    if name == "auto":
        return
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:  # AssertionError: torch without CUDA
        raise ValueError(f"--device {name}: {str(error).splitlines()[0]}") from error


def build_callbacks(config: TrainConfig, agent: Any, folder: Path) -> list[Any]:
    """Text metrics with the task's judges, and SB3's evaluation and checkpoint callbacks."""
    from stable_baselines3.common.callbacks import CheckpointCallback, EvalCallback

    from .callbacks import TextMetrics
    from .evaluation import find_judges
    from .vec_env import make_vec_env

    n_envs = agent.get_env().num_envs
    callbacks: list[Any] = [TextMetrics(judges=find_judges(agent.get_env().get_attr("task", 0)[0], None))]
    if config.eval_freq > 0:
        kwargs = {"split": "validation", **config.held_out_kwargs()}
        env = make_vec_env(config.env_id, min(config.n_eval_episodes, 64), seed=config.seed, **kwargs)
        callbacks.append(
            EvalCallback(
                env,
                n_eval_episodes=config.n_eval_episodes,
                eval_freq=max(config.eval_freq // n_envs, 1),
                log_path=str(folder),
                deterministic=False,
                verbose=config.verbose,
            )
        )
    if config.save_freq > 0:
        steps = max(config.save_freq // n_envs, 1)
        callbacks.append(CheckpointCallback(steps, str(folder / "checkpoints"), verbose=config.verbose))
    return callbacks


def _open_folder(config: TrainConfig, folder: Path, agent: Any) -> None:
    from stable_baselines3.common.logger import configure

    folder.mkdir(parents=True)
    (folder / "config.json").write_text(config.model_dump_json(indent=2) + "\n", encoding="utf-8")
    formats = ["csv", "tensorboard"] + (["stdout"] if config.verbose else [])
    agent.set_logger(configure(str(folder), formats))
