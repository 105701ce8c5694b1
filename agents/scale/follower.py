"""Be a rank of a run that is not the first: train with it, and write, print and evaluate nothing."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from stable_baselines3.common.logger import Logger

from rlhf_envs.registration import check_environment

from ..core import ranks
from ..core.text_metrics import TextMetrics
from ..saving.checkpoints import Checkpoints
from ..training.building import build_agent, load_agent
from ..training.checkpoint_callback import CheckpointCallback
from ..training.config import TrainConfig
from ..training.constraint import find_multipliers
from ..training.errors import RunInterrupted, RunStopped
from ..training.rank_states import RankStates
from ..training.run import check_start, resolve_config

__all__ = ["follow"]


class NoCheckpoints(Checkpoints):
    """Write nothing: the first rank does."""

    def write(self, captured: Mapping[str, Any], agent: Any) -> Path:
        """Return a folder by the name of the first rank's checkpoint, which is empty."""
        path = self.directory / str(captured["attributes"]["num_timesteps"])
        path.mkdir(exist_ok=True)
        return path


def follow(config: TrainConfig, resumed: bool) -> None:
    """Train as `agents.training.run.train` does on the first rank, and leave everything else to that.

    Args:
        config: the run's, the same as on the first rank.
        resumed: whether the first rank goes on with a run; it says from which bundle.

    Raises:
        RunInterrupted: a signal ended the run.
        RunStopped: training failed, or another rank has.
    """
    if resumed:
        check_environment(config.env)
        bundle = ranks.from_first(None)
    else:
        config, bundle = resolve_config(config), None
    agent = build_agent(config) if bundle is None else load_agent(config, bundle)
    check_start(config, agent)
    assert config.n_timesteps is not None
    agent.set_logger(Logger(None, []))
    with tempfile.TemporaryDirectory() as folder:
        metrics, states = TextMetrics(judges={}), RankStates()
        freq = config.save_freq if config.shard else 0  # a policy with shards is saved by all ranks together
        guard = CheckpointCallback(NoCheckpoints(folder), freq, callbacks=(metrics, states), until_closed=True)
        multiplier = find_multipliers(config, agent)
        tokens = config.n_timesteps - agent.num_timesteps
        try:
            with guard.stopping():
                if tokens > 0:
                    callbacks = [metrics, *multiplier, states, guard]
                    agent.learn(tokens, callbacks, log_interval=1, reset_num_timesteps=bundle is None)
        except Exception as error:
            raise RunStopped(f"rank {ranks.rank()} stopped: {str(error) or type(error).__name__}") from error
        finally:
            guard.close()
            agent.get_env().close()
    if guard.interrupted is not None:
        how = "ended, as another rank got" if guard.told else "was ended by"
        raise RunInterrupted(f"rank {ranks.rank()} {how} {guard.interrupted.name}", guard.interrupted)
