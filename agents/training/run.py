"""Train one run from its configuration to its report: what `rlhf train` does, callable from Python."""

from __future__ import annotations

import logging
import shlex
import time
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from filelock import BaseFileLock

from rlhf_envs.files import is_replaceable
from rlhf_envs.rewards import RewardError

from ..algorithms.common.offline import OfflinePreferences
from ..core.random_state import set_generators
from ..core.ranks import RankLost
from ..evaluation.evaluate import Evaluation, evaluate
from ..registry import describe, get_algorithm
from ..saving.bundle import save
from ..saving.folders import AGENT, CONFIG, MODEL, START
from ..saving.locks import abandon
from ..saving.provenance import write_settings
from .building import ZIP, build_agent, build_callbacks
from .checkpoint_callback import CheckpointCallback
from .config import TrainConfig
from .constraint import find_held_out_judges
from .contention import ContentionWarning
from .early_stopping import EarlyStopping
from .errors import RunInterrupted, RunStopped
from .hacking_alarm import HackingAlarm
from .held_out_callback import HeldOutCallback
from .logger import log_held_out, open_logger
from .model_card import write_model_card
from .phases import show_phase
from .progress import ProgressDisplay, planned_tokens
from .report import TrainResult, write_report
from .trackers import RunTracker, check_trackers, finish_trackers, start_trackers

__all__ = [
    "Prepared",
    "RunInterrupted",
    "RunStopped",
    "TrainConfig",
    "TrainResult",
    "check_collector",
    "check_lag",
    "prepare",
    "prepare_in",
    "save_model",
    "train",
]

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Prepared:
    """Hold a run that is ready to start: its resolved configuration, folder, agent and callbacks.

    Attributes:
        folder: the run's folder.
        before: the evaluation of the untrained agent.
        started: `time.perf_counter()` when the preparation began.
        lock: keeps other processes out of the folder until `train` ends.
        generators: states of the global random generators to start training with; None in a new run.
        logs_held_out: whether `train` logs the evaluations before and after training, for TensorBoard and trackers, and
            ends the trackers. Otherwise the caller does.
        trackers: those that `train` has started.
    """

    config: TrainConfig
    folder: Path
    agent: Any
    callbacks: list[Any]
    before: Evaluation
    started: float
    lock: BaseFileLock
    generators: dict[str, Any] | None = None
    logs_held_out: bool = True
    trackers: list[RunTracker] = field(default_factory=list)

    @property
    def checkpoints(self) -> CheckpointCallback | None:
        """Return the callback that saves the run, or None if bundles do not hold its agent."""
        return next((callback for callback in self.callbacks if isinstance(callback, CheckpointCallback)), None)

    @property
    def stopping(self) -> EarlyStopping | None:
        """Return the callback that may stop the run early and keeps the best agent, or None if there is none."""
        return next((callback for callback in self.callbacks if isinstance(callback, EarlyStopping)), None)

    @property
    def alarm(self) -> HackingAlarm | None:
        """Return the callback that says when proxy and judge part, or None if there is none."""
        return next((callback for callback in self.callbacks if isinstance(callback, HackingAlarm)), None)

    @property
    def keeper(self) -> HeldOutCallback | None:
        """Return the callback that keeps the agent which is the run's result; None if that is the last agent."""
        watchers = [watcher for watcher in (self.stopping, self.alarm) if watcher is not None]
        return next((watcher for watcher in watchers if watcher.kept_timesteps is not None), None)


def prepare(config: TrainConfig, collector: Any = None) -> Prepared:
    """Claim the run's folder, build everything the run needs and evaluate the untrained agent.

    If it fails, the folder is removed.

    Args:
        collector: collects the rollouts where the configuration has workers, see `agents.scale.learner.collecting`.

    Raises:
        ValueError, TypeError, FileExistsError: the configuration is wrong.
        OSError: the folder cannot be made.
    """
    check_trackers(config)
    check_collector(config, collector)
    check_lag(config)
    config = resolve_config(config)
    try:
        folder, lock = config.claim()
    except FileExistsError:
        raise
    except OSError as error:
        raise _explain_folder(config.folder(), error) from error
    return prepare_in(folder, config, lock, collector)


def check_collector(config: TrainConfig, collector: Any) -> None:
    """Raise ValueError if workers are asked for and nothing has started them."""
    if config.workers and collector is None:
        raise ValueError(
            f"workers={config.workers}: `rlhf train` starts them, and agents.scale.learner.train in Python; take 0 here"
        )


def check_lag(config: TrainConfig) -> None:
    """Raise ValueError if rollouts of a new run lag and no workers collect them."""
    if config.async_rollouts and not config.workers:  # a run that goes on without its workers may have it
        raise ValueError(f"async_rollouts={config.async_rollouts}: rollouts of workers lag; give --workers too")


def prepare_in(folder: Path, config: TrainConfig, lock: BaseFileLock, collector: Any = None) -> Prepared:
    """Return a new run of a resolved configuration in a folder that is claimed. The folder goes if that fails."""
    started = time.perf_counter()
    try:
        with show_phase("loading", config.progress, line=False):
            agent = build_agent(config)
            check_start(config, agent)
            callbacks = build_callbacks(config, agent, folder)
            if collector is not None:
                collector.attach(config, agent, callbacks)
        with show_phase("evaluating before training", config.progress):
            before = evaluate_held_out(config, agent, folder)
        return Prepared(config, folder, agent, callbacks, before, started, lock)
    except BaseException:
        abandon(folder, lock)
        raise


def check_start(config: TrainConfig, agent: Any) -> None:
    """Raise ValueError if a run has no rows to learn from, or as `check_budget`."""
    if isinstance(agent, OfflinePreferences):
        agent.check_rows()
    check_budget(config, agent)


def check_budget(config: TrainConfig, agent: Any) -> None:
    """Raise ValueError if a run is shorter than one episode, or its only update would have a learning rate of 0."""
    env = agent.get_env()
    horizon = int(env.get_attr("max_new_tokens", 0)[0]) if env.has_attr("max_new_tokens") else 0  # 0: it is not ours
    assert config.n_timesteps is not None
    if config.n_timesteps < horizon:
        raise ValueError(
            f"--n-timesteps {config.n_timesteps} is less than one episode of {horizon} tokens: take at least that, "
            "or fewer with --env-kwargs max_new_tokens"
        )
    tokens, rollout = planned_tokens(agent, config.n_timesteps)
    if config.lr_schedule != "constant" and tokens == rollout:
        raise ValueError(
            f"--lr-schedule {config.lr_schedule}: SB3's last update has a rate of 0, and {tokens:,} tokens are one "
            "rollout, with one update: take a larger -n"
        )


def resolve_config(config: TrainConfig) -> TrainConfig:
    """Return the configuration with its defaults. `kl_coef` stays out if the algorithm does not use it."""
    given = config.kl_coef is not None or "kl_coef" in config.hyperparams
    if given or describe(get_algorithm(config.algo)).kl_argument == "kl_coef":
        return config.resolved()
    return config.resolved().model_copy(update={"kl_coef": None})


def train(run: Prepared | TrainConfig) -> TrainResult:
    """Train, and write the run's folder: configuration, TensorBoard events, curves, samples, report, model, agent.

    SIGTERM or SIGINT ends the training with a checkpoint. A run that fails also leaves one. In both cases
    `agents.training.resume.prepare_resumed` goes on from it, which is what `rlhf train --resume` does. An agent that
    bundles do not hold, such as a third party's off-policy agent, has no checkpoints: it is saved with its own `save`
    when training ends.

    Raises:
        RunInterrupted: a signal ended it.
        RunStopped: training failed.
        OSError: the folder cannot be written.
    """
    run = run if isinstance(run, Prepared) else prepare(run)
    config, folder, agent = run.config, run.folder, run.agent
    assert config.n_timesteps is not None
    resumed_at = 0 if run.generators is None else int(agent.num_timesteps)
    failure: BaseException | None = None
    try:
        _open_folder(run)
        if agent.num_timesteps < config.n_timesteps:
            _learn(run, config.n_timesteps - agent.num_timesteps)
        else:
            _complete(run)
        with show_phase("evaluating after training", config.progress):
            after = evaluate_held_out(config, agent, folder)
        agent.get_env().close()
        seconds = time.perf_counter() - run.started
        stopping, alarm = (None if found is None else found.summary() for found in (run.stopping, run.alarm))
        kept = None if run.keeper is None else run.keeper.kept_timesteps
        result = TrainResult(config, folder, agent, run.before, after, seconds, resumed_at, stopping, alarm, kept)
        if run.logs_held_out:
            log_held_out(folder, after, result.tokens_of_after, run.trackers)
        if (folder / MODEL).is_dir():
            write_model_card(folder / MODEL, result)
        write_report(result)  # the last thing that a run does
    except BaseException as error:
        failure = error
        raise
    finally:
        if run.logs_held_out:
            finish_trackers(run.trackers, failure)
        run.lock.release()
    return result


def _learn(run: Prepared, tokens: int) -> None:
    """Train for `tokens` more tokens, and save the agent and the model."""
    agent, guard, is_new, display = run.agent, run.checkpoints, run.generators is None, ProgressDisplay()
    if run.generators is not None:
        set_generators(run.generators)
    try:
        callbacks = [*(display.watch(run.callbacks) if run.config.progress else run.callbacks), ContentionWarning()]
        with nullcontext() if guard is None else guard.stopping():
            agent.learn(tokens, callbacks, log_interval=1, reset_num_timesteps=is_new)
        if guard is None:
            agent.save(run.folder / ZIP)
        elif not guard.gave_up:
            save(agent, run.folder / AGENT, guard.state())
        if guard is None or not guard.gave_up:
            _save_best_model(run)
    except Exception as error:
        raise RunStopped(_explain(run, error)) from error
    finally:
        display.close()
        if guard is not None:
            guard.close()
        agent.logger.close()
    if guard is not None and guard.interrupted is not None:
        where = guard.saved if guard.gave_up else run.folder / AGENT
        raise RunInterrupted(
            f"{guard.interrupted.name}: the run is saved in {where}; go on with: rlhf train --resume "
            f"{shlex.quote(str(run.folder))}",
            guard.interrupted,
        )


def _complete(run: Prepared) -> None:
    """Save the agent and the model of a run that has trained all its tokens, and was stopped before it saved them."""
    assert run.checkpoints is not None and run.generators is not None
    set_generators(run.generators)
    save(run.agent, run.folder / AGENT, run.checkpoints.restored)
    _save_best_model(run)


def _save_best_model(run: Prepared) -> None:
    """Save the model: the one that a callback kept, if any, whose weights the agent in memory then has too."""
    if run.keeper is not None:
        run.keeper.load_best(run.agent.policy)
    save_model(run.agent, run.folder / MODEL)


def save_model(agent: Any, folder: Path) -> None:
    """Write the language model of an agent, or its adapters alone if their base has a name to load it by.

    The tokenizer has the environment's chat template, and `generation_config.json` the environment's options. A policy
    that is more than a language model is saved only within the agent.
    """
    policy = agent.policy
    if getattr(policy, "is_language_model", True):
        policy.save_pretrained(folder, merge=policy.base_name is None, **_generation_options(agent))
        if (tokenizer := _own_template(agent)) is not None:
            tokenizer.save_pretrained(folder)


def _own_template(agent: Any) -> Any:
    """Return the tokenizer of an environment that has a chat template of its own, None if it has none."""
    env = agent.get_env()
    chat = env.get_attr("episodes", 0)[0].chat if env.has_attr("episodes") else None
    return chat.tokenizer if chat is not None and chat.has_own_template else None


def _generation_options(agent: Any) -> dict[str, Any]:
    """Return the environment's part of a model's `generation_config.json`: the length, the EOS ids and the masks."""
    env = agent.get_env()
    if not env.has_attr("episodes"):  # it is not ours
        return {}
    episodes = env.get_attr("episodes", 0)[0]
    options = {"max_new_tokens": episodes.max_new_tokens, "eos_token_id": episodes.ends}
    masks = episodes.mask_options if getattr(agent.policy, "reads_action_masks", False) else {}
    return options | {name: value for name, value in masks.items() if value}


def _explain(run: Prepared, error: Exception) -> str:
    """Save what can be saved of a failed run, and return what happened and where the checkpoint is."""
    if not isinstance(error, ValueError | OSError | FloatingPointError | RewardError | RankLost):  # a bug
        logger.error("training failed", exc_info=error)
    checkpoint = None if run.checkpoints is None else run.checkpoints.rescue()
    if checkpoint is None:
        learned = "what the run has learned is lost" if run.agent.num_timesteps else "it had not learned anything yet"
        kept = f"no checkpoint could be written: {learned}"
    else:
        if not (run.folder / CONFIG).is_file():  # the folder was deleted, and made again for the checkpoint
            _write_config(run)
        kept = f"its last checkpoint is {checkpoint}; go on with: rlhf train --resume {shlex.quote(str(run.folder))}"
    return f"the run stopped after {run.agent.num_timesteps} tokens: {str(error) or type(error).__name__}; {kept}"


def evaluate_held_out(config: TrainConfig, agent: Any, folder: Path) -> Evaluation:
    """Return the evaluation of an agent on held-out prompts, each time with the same prompts and random numbers.

    Args:
        config: the run.
        agent: its agent.
        folder: the run's folder, whose configuration names the judges.
    """
    judges, kwargs = find_held_out_judges(config, agent, folder), config.held_out_kwargs()
    return evaluate(agent, config.env_id, config.test_episodes, config.test_split, judges, env_kwargs=kwargs)


def _open_folder(run: Prepared) -> None:
    """Write what the run's folder begins with, and let the agent log there."""
    config, folder, agent = run.config, run.folder, run.agent
    try:
        if not is_replaceable(folder / AGENT):  # better now than when the agent is to be saved
            raise FileExistsError(f"{folder / AGENT} is no bundle, or a broken one: move it away")
        _write_config(run)
        if agent.policy.model_name is None:  # a fresh model, which the KL is measured to, exists nowhere else
            with agent.policy.at_start():
                agent.policy.save_pretrained(folder / START, merge=True)
    except OSError as error:
        raise _explain_folder(folder, error) from error
    run.trackers.extend(start_trackers(config, folder))  # before the logger: W&B follows TensorBoard's writer
    run.callbacks.extend(tracker.callback for tracker in run.trackers if tracker.callback is not None)
    try:
        if run.logs_held_out and run.generators is None:
            log_held_out(folder, run.before, 0, run.trackers)
    except OSError as error:
        raise _explain_folder(folder, error) from error
    resumed_at = None if run.generators is None else agent.num_timesteps
    agent.set_logger(open_logger(folder, config.verbose > 0, resumed_at, run.trackers))


def _explain_folder(folder: Path, error: OSError) -> OSError:
    reason = error.strerror or error
    return OSError(f"cannot write the run's folder {folder}: {reason}; choose another --log-folder")


def _write_config(run: Prepared) -> None:
    write_settings(run.folder / CONFIG, run.config.model_dump(mode="json"))
