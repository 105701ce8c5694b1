"""Say in the log of a run that other processes slow it down."""

from __future__ import annotations

import logging
import os

import torch
from stable_baselines3.common.callbacks import BaseCallback

from .threads import OWN, ThreadTimes

__all__ = ["ContentionWarning"]

logger = logging.getLogger(__name__)

MAX_SHARE = 0.3  # one busy core of two is about that


class ContentionWarning(BaseCallback):
    """Warn once if torch's threads wait for the cores while they spin: then an iteration takes several times longer.

    What a rollout and its update waited is looked at when the next rollout begins. A run with one thread, and one whose
    user has chosen (`agents.training.threads.OWN`), is left alone.
    """

    def _on_training_start(self) -> None:
        watches = torch.get_num_threads() > 1 and not any(name in os.environ for name in OWN)
        self._times = ThreadTimes() if watches else None
        self._begun = self.num_timesteps

    def _on_rollout_start(self) -> None:
        share = 0.0 if self._times is None or self.num_timesteps == self._begun else self._times.waiting_share()
        if share > MAX_SHARE:
            logger.warning(
                "other processes hold the cores: this run's threads waited for them %.0f%% of the time, and spin while "
                "they wait for each other. It is faster with as many threads as there are idle cores: stop the run "
                "(Ctrl-C), and go on with it (rlhf train --resume), which counts them",
                100 * share,
            )
            self._times = None

    def _on_step(self) -> bool:
        return True
