"""Run the loop: generate, ask, fit, RL, evaluate, and again. Each step is on the disk before the next begins.

In the manner of Christiano et al., 2017 (https://arxiv.org/abs/1706.03741) and of the rounds of Bai et al., 2022
(https://arxiv.org/abs/2204.05862, section 4.5). The steps of a round:

1. **generate**: the policy as it is completes training prompts, twice each;
2. **ask**: people, simulated annotators or both say which of the two is better, through a `FeedbackStore`;
   what people said of a served model (`from_serving`) counts too;
3. **fit**: the judgements of all rounds so far are aggregated, and a new reward model is fitted to them;
4. **learn**: RL goes on against the new reward model; the reference of the KL penalty stays the very first model;
5. **evaluate**: held-out prompts are completed and scored by judges that the agent is not trained against.

Who labels and who measures: as in Gao et al., 2022 (https://arxiv.org/abs/2210.10760) simulated annotators have a
hidden preference, `scorer`, by default the task's judge ("gold" for sentiment). They choose by it with noise, and some
of them are spammers. The agent never meets the scorer, only reward models fitted to those choices. In such a run gold
is the truth by definition: its rise says that the agent learned what the annotators want, not that the text became
better. A second judge neither labels nor trains anything here: the task's own learned reward ("tiny-reward", fitted to
people's ratings and to reviews). Where people label, neither of the two judges does.

Departures: every round fits a new reward model, rounds are synchronous, and the policy goes on from where it was.

A step reads only the configuration, the store and the folders of the steps before it. Its own folder takes its place in
one rename (`rlhf_envs.files`). So a run that was killed at any point ends with the same numbers as one that was not:
finished steps are skipped, and the step that was cut short starts again.
"""

from __future__ import annotations

import os
import shlex
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from rlhf_envs.feedback import StoreError
from rlhf_envs.rewards import RewardError

from ...saving.folders import CONFIG
from ...saving.locks import take
from ...saving.provenance import write_settings
from ...training.run import RunInterrupted, RunStopped
from ...training.trackers import check_trackers, tracking
from ..stepping import is_whole, run_step
from .checks import check_new
from .config import LoopConfig
from .report import log_round, summary, write_report
from .state import Loop, name_run, with_defaults
from .steps import ROUND, START, save_model

__all__ = ["LoopConfig", "LoopResult", "run_loop"]


@dataclass(frozen=True)
class LoopResult:
    """Hold a finished loop.

    Attributes:
        metrics: the metrics of the rounds, one dict per round. The first is of the model before any round.
        report: the content of `report.json`.
        seconds: the wall time of this call.
    """

    config: LoopConfig
    folder: Path
    metrics: list[dict[str, Any]]
    report: dict[str, Any]
    seconds: float


def run_loop(config: LoopConfig, folder: str | Path | None = None, say: Callable[[str], None] = print) -> LoopResult:
    """Run the rounds, and write the run's folder: each step's outputs, TensorBoard events, report and model.

    To go on with a run, give its `folder` and the configuration that `LoopConfig.of_folder` returns. `say` gets a line
    of text about each step.

    Raises:
        ValueError, OSError: the configuration is wrong, or another process is at work on the run. Nothing is written.
        RunInterrupted: Ctrl-C, or SIGTERM during RL, ended the run. It goes on from there.
        RunStopped: a step failed; the message has the cause. The run goes on with that step.
    """
    config = with_defaults(config)
    check_trackers(config)
    length = check_new(config) if folder is None else f"{config.n_timesteps:,} tokens"
    path, lock = config.claim() if folder is None else (Path(folder), take(Path(folder), config.kind[0]))
    path = Path(os.path.abspath(path))  # as the places of bundles are
    try:
        return _run_in(path, config, f"{config.rounds} rounds of {length}, {path}", say)
    finally:
        lock.release()


def _run_in(path: Path, config: LoopConfig, size: str, say: Callable[[str], None]) -> LoopResult:
    started = time.perf_counter()
    write_settings(path / CONFIG, config.model_dump(mode="json"))  # first: with it alone --resume can begin
    name_run(path)
    say(f"{config.algo} on {config.env_id}: {size}")
    go_on = f"go on with: rlhf loop --resume {shlex.quote(str(path))}"
    try:
        report = _run_rounds(config, path, say)
    except KeyboardInterrupt:
        raise RunInterrupted(f"SIGINT: the steps that are done are saved in {path}; {go_on}", signal.SIGINT) from None
    except (ValueError, OSError, FloatingPointError, StoreError, RewardError) as error:
        raise RunStopped(f"the loop stopped: {error}; {go_on}") from error
    return LoopResult(config, path, report["rounds"], report, time.perf_counter() - started)


def _run_rounds(config: LoopConfig, folder: Path, say: Callable[[str], None]) -> dict[str, Any]:
    with tracking(config, folder) as trackers, Loop.open(config, folder, say, trackers) as loop:
        for number in range(config.rounds + 1):
            is_new = not is_whole(loop.place(number, "evaluate"))
            for name, step in (ROUND if number else START).items():
                run_step(loop.place(number, name), partial(step, loop, number), say)
            log_round(loop, number, is_new)
            say(summary(loop, number))
        save_model(loop)
        return write_report(loop)
