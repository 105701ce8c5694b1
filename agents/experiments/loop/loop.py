"""The loop that closes: generate, ask, fit, RL, evaluate, and again, each step on the disk before the next begins.

In the manner of Christiano et al., 2017 (https://arxiv.org/abs/1706.03741) and of the rounds of Bai et al., 2022
(https://arxiv.org/abs/2204.05862, section 4.5). Every round

1. **generate**: the policy as it is completes training prompts, twice each;
2. **ask**: which of the two is better, people, simulated annotators, or both, through a `FeedbackStore`;
3. **fit**: the judgements of all rounds so far are aggregated and a reward model is fitted to them, from the start;
4. **learn**: RL goes on against the new reward model, with the KL measured to the model of the very beginning;
5. **evaluate**: held-out prompts, with judges that the agent is not trained against.

What labels, and what measures. As in Gao et al., 2022 (https://arxiv.org/abs/2210.10760) simulated annotators have a
hidden preference, `scorer`, by default the task's judge ("gold" for sentiment): they choose by it with noise, and a
share of them clicks at random. The agent never meets it, only reward models fitted to those choices. So in such a run
gold is the truth by definition, and its rise says that what the annotators want has arrived, not that the text became
better. For that a second judge is reported which neither labels nor trains anything here: the task's own learned reward
("tiny-reward", fitted to people's ratings and to reviews). Where people label, neither of the two has.

Departures: reward models are fitted anew each round and not trained on, on whole rounds and not asynchronously; the
policy goes on from where it was.

A step reads nothing but the configuration, the store and the folders of the steps before it, and its own folder takes
its place in one rename (`rlhf_envs.files`). So a run that was killed, at whatever point, goes on to the figures of one
that was not: what is whole is skipped, and the step that was cut short starts over.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from rlhf_envs.files import BundleError, atomic_folder, find_folder, replace_file, verify

from .config import CONFIG, LoopConfig, find_loop
from .state import FIGURES, Loop, name_run, resolve

__all__ = ["LoopConfig", "LoopResult", "find_loop", "run_loop"]

logger = logging.getLogger(__name__)

FORMAT, VERSION = "rlhf-envs loop step", 1


@dataclass(frozen=True)
class LoopResult:
    """A finished loop.

    Attributes:
        figures: what each round came to, one dict a round; the first is of the model before any.
        report: what is in `report.json`.
    """

    config: LoopConfig
    folder: Path
    figures: list[dict[str, Any]]
    report: dict[str, Any]
    seconds: float


def run_loop(config: LoopConfig, folder: str | Path | None = None, say: Callable[[str], None] = print) -> LoopResult:
    """Run the rounds, and write the run's folder: each step's outputs, TensorBoard events, report and model.

    Args:
        config: the configuration; of a run that goes on, what `find_loop` gave.
        folder: of a run to go on with; a new one by default.
        say: is told what is going on.

    Raises:
        ValueError, FileExistsError: the configuration is wrong; nothing is written.
        RunInterrupted: Ctrl-C, or SIGTERM during RL, ended it. It goes on from there.
        RunStopped: a step failed; the message has the cause. It goes on with that step.
    """
    from rlhf_envs.feedback import StoreError
    from rlhf_envs.rewards import RewardError

    from ...training.run import RunInterrupted, RunStopped

    started = time.perf_counter()
    config = resolve(config)
    path = Path(config.folder() if folder is None else folder).absolute()  # the places of bundles are too
    path.mkdir(parents=True, exist_ok=folder is not None)
    name_run(path)
    replace_file(path / CONFIG, (config.model_dump_json(indent=2) + "\n").encode("utf-8"))
    say(f"{config.algo} on {config.env_id}: {config.rounds} rounds, {path}")
    go_on = f"go on with: rlhf loop --resume {path}"
    try:
        report = _run_rounds(config, path, say)
    except KeyboardInterrupt:
        raise RunInterrupted(f"SIGINT: the steps that are done are saved in {path}; {go_on}") from None
    except (ValueError, OSError, FloatingPointError, StoreError, RewardError) as error:
        raise RunStopped(f"the loop stopped: {error}; {go_on}") from error
    return LoopResult(config, path, report["rounds"], report, time.perf_counter() - started)


def _run_rounds(config: LoopConfig, folder: Path, say: Callable[[str], None]) -> dict[str, Any]:
    from .report import log_round, summary, write_report
    from .steps import ROUND, START, save_model

    with Loop.open(config, folder, say) as loop:
        for number in range(config.rounds + 1):
            for name, step in (ROUND if number else START).items():
                run_step(loop.place(number, name), partial(step, loop, number), say)
            log_round(loop, number)
            say(summary(loop, number))
        save_model(loop)
        return write_report(loop)


def run_step(place: Path, run: Callable[[Path], dict[str, Any]], say: Callable[[str], None]) -> None:
    """Let a step fill the folder `place` and keep its figures there; nothing, where the folder is whole."""
    if is_whole(place):
        return
    say(f"{place.parent.name}: {place.name}")
    started = time.perf_counter()
    with atomic_folder(place, format=FORMAT, version=VERSION, step=place.name) as into:
        figures = {**run(into), "seconds": round(time.perf_counter() - started, 2)}
        (into / FIGURES).write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


def is_whole(place: Path) -> bool:
    """Whether a step has finished there; one whose files are damaged is run again, with a warning."""
    folder = find_folder(place)
    if not folder.exists():
        return False
    try:
        manifest = verify(folder)
    except BundleError as error:
        logger.warning("%s/%s runs again: %s", place.parent.name, place.name, error)
        return False
    if (manifest.get("format"), manifest.get("version")) != (FORMAT, VERSION):
        raise BundleError(
            f"{folder} is of the format {manifest.get('format')!r}, version {manifest.get('version')!r}; this release "
            f"writes {FORMAT!r}, version {VERSION}: move it away"
        )
    return True
