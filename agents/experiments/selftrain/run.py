"""Train a model on its own best answers, in rounds: draw, score, choose, fine-tune, evaluate.

Rejection sampling in rounds: RAFT (Dong et al. 2023, https://arxiv.org/abs/2304.06767) with the best answer to each
prompt, ReST (Gulcehre et al. 2023, https://arxiv.org/abs/2308.08998) with those above a score, and, with `train_from`
"start", ReST-EM (Singh et al. 2023, https://arxiv.org/abs/2312.06585), which trains the start anew in every round.

Departures: a share is one of each prompt's answers, so that easy prompts do not crowd out hard ones. Only the answers
of the round are learned, not those of earlier rounds. The threshold of ReST does not rise from round to round.

Each step fills a folder that takes its place in one rename, as in `agents.experiments.loop`. A run that was killed at
any point goes on with the step that was cut short, a fine-tuning from its last checkpoint.
"""

from __future__ import annotations

import logging
import os
import shlex
import signal
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from rlhf_envs.files import replace_folder
from rlhf_envs.registration import check_environment
from rlhf_envs.rewards import RewardError, get_reward

from ...core.episodes import open_batch
from ...evaluation.source import Source
from ...saving.folders import CONFIG, START
from ...saving.locks import abandon, take
from ...saving.provenance import write_settings
from ...saving.untrusted import read_env_kwargs
from ...training.errors import RunInterrupted, RunStopped
from ..stepping import run_step
from .config import SelfTrainConfig
from .report import summary, write_report
from .steps import ROUND, START_STEPS, SelfTraining, save_model

__all__ = ["SelfTrainResult", "self_train"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class SelfTrainResult:
    """Hold a finished self-training.

    Attributes:
        report: the content of `report.json`. Its `rounds` begin with the model before any.
        seconds: the wall time of this call.
    """

    config: SelfTrainConfig
    folder: Path
    report: dict[str, Any]
    seconds: float


def self_train(
    config: SelfTrainConfig, folder: str | Path | None = None, say: Callable[[str], None] = print
) -> SelfTrainResult:
    """Run the rounds, and write the run's folder: answers and model of each round, report, TensorBoard, the last model.

    To go on with a run, give its `folder` and the configuration that `SelfTrainConfig.of_folder` returns. `say` gets a
    line of text about each step.

    Raises:
        ValueError, FileExistsError: the configuration is wrong, or another process is at work on the run. Nothing is
            written.
        RunInterrupted: Ctrl-C ended the run. It goes on from there.
        RunStopped: a step failed, or nothing is to be learned; the message has the cause, and how to go on.
    """
    started = time.perf_counter()
    if folder is None:
        config = with_defaults(config)
        path, lock = config.claim()
    else:
        path, lock = Path(folder), take(Path(folder), config.kind[0])
    try:
        write_settings(path / CONFIG, config.model_dump(mode="json"))  # first: with it alone --resume can begin
        _save_start(config, path)
    except BaseException:
        if folder is None:
            abandon(path, lock)
        lock.release()
        raise
    go_on = f"go on with: rlhf self-train --resume {shlex.quote(str(path))}"
    try:
        say(f"self-training on {config.env_id}: {config.rounds} rounds, {path}")
        report = _run_rounds(config, Path(os.path.abspath(path)), say)
    except KeyboardInterrupt:
        raise RunInterrupted(f"SIGINT: the steps that are done are saved in {path}; {go_on}", signal.SIGINT) from None
    except (ValueError, OSError, FloatingPointError, RewardError) as error:
        raise RunStopped(f"self-training stopped: {error}; {go_on}") from error
    finally:
        lock.release()
    return SelfTrainResult(config, path, report, time.perf_counter() - started)


def _run_rounds(config: SelfTrainConfig, path: Path, say: Callable[[str], None]) -> dict[str, Any]:
    run = SelfTraining(config, path)
    for number in range(config.rounds + 1):
        for name, step in (ROUND if number else START_STEPS).items():
            run_step(run.place(number, name), partial(step, run, number), say)
        for line in summary(run, number):
            say(line)
    save_model(run)
    return write_report(run)


def with_defaults(config: SelfTrainConfig) -> SelfTrainConfig:
    """Return the configuration with what the source says: model, environment with its arguments, and decoding.

    Raises:
        ValueError: there is no such source, it is no language model, its environment has replies or pictures, or no
            prompts to measure on, or the judge is the reward.
    """
    if config.model is None:
        raise ValueError("model=None: name what is trained, a run or a model, as in rlhf self-train tiny")
    source = Source.of(config.model)
    if source.policy is not None and not source.policy.is_language_model:
        raise ValueError(f"{config.model} holds more than a language model, which fine-tuning does not train")
    if source.tokenizer_name is None:
        raise ValueError(
            f"{config.model} has no tokenizer, so its answers are no texts to fine-tune on: take rlhf train"
        )
    env = config.env if "env" in config.model_fields_set else source.own_environment or config.env
    check_environment(env)
    env_id = env.rpartition(":")[2]
    own = read_env_kwargs(
        source.kwargs_in(env_id), "a run's file", config.env_kwargs, None, not source.is_bundle, env_id
    )
    env_kwargs = {k: v for k, v in {**own, **config.env_kwargs}.items() if k not in ("split", "model", "render_mode")}
    batch = open_batch(env_id, 1, **{"model": source.tokenizer_name, **env_kwargs, "split": "train"})
    if batch.dialogs is not None or batch.pictures is not None:
        what = "answers with replies between" if batch.dialogs is not None else "pictures"
        raise ValueError(f"env={env_id} has {what}, which self-training does not learn: take rlhf train")
    batch.rows_of(config.test_split)
    if config.prompts > len(batch.rows):
        logger.warning("prompts=%d: there are %d to train on, and a round takes these", config.prompts, len(batch.rows))
    found = {name: value for name, value in config.decoding.items() if value is not None}
    for name in config.decoding.keys() - found.keys():
        value = source.decoding.get(name, getattr(source.policy, name, None))
        found |= {} if value is None else {name: value}
    model = source.model if isinstance(source.model, str) else config.model
    model = str(Path(model).absolute()) if Path(model).is_dir() else model
    changed = {
        "env": env,
        "env_kwargs": env_kwargs,
        "judge": _judges(config.judge, env_kwargs, batch.task),
        "model": model,
        **found,
    }
    return SelfTrainConfig.model_validate(config.model_dump() | changed)


def _judges(given: list[str] | None, env_kwargs: Mapping[str, Any], task: Any) -> list[str]:
    """Return the judges that measure: those that are named, else the task's, and never the reward itself."""
    reward = env_kwargs.get("reward") or task.default_reward
    if given is not None and reward in given:
        raise ValueError(f"judge={reward} is the reward that answers are chosen by: name another one, or leave it out")
    judges = [name for name in task.judges if name != reward] if given is None else given
    for name in judges:
        get_reward(name)
    return judges


def _save_start(config: SelfTrainConfig, path: Path) -> None:
    """Write the model of a bundle, which no name loads."""
    assert config.model is not None
    if (path / START).is_dir():
        return
    source = Source.of(config.model)
    if source.policy is not None:
        with replace_folder(path / START) as folder:
            source.policy.save_pretrained(folder, merge=True)
