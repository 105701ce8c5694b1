"""The configuration of the runs that the tests of the loop share: two short rounds on the bandit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from agents.experiments.loop.config import LoopConfig

SETTINGS: dict[str, Any] = dict(
    env="rlhf/TokenBandit-v0",
    n_timesteps=150,  # two rollouts of 96
    n_envs=32,
    hyperparams=dict(batch_size=48, n_epochs=2),
    kl_target=0.3,
    rounds=2,
    labels=12,
    annotators=4,
    random_share=0.25,
    aggregate="majority",  # the quickest
    reward_epochs=1,
    test_episodes=8,
    progress=False,
)


def config(folder: Path, **kwargs: Any) -> LoopConfig:
    return LoopConfig(**{"log_folder": str(folder), "run_name": "run", **SETTINGS, **kwargs})
