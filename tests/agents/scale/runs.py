"""A small run on ranks, and ways to end it: what the tests of runs on several ranks share."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import numpy as np

from agents.core import ranks
from agents.scale.follower import follow
from agents.training.config import TrainConfig
from agents.training.resume import prepare_resumed
from agents.training.run import prepare, train
from rlhf_envs.rewards.rules import TokenBanditReward

ROLLOUT = 12 * 3  # 12 environments, episodes of 3 tokens
Weights = dict[str, np.ndarray]


def config(folder: Path, **kwargs: Any) -> TrainConfig:
    given: dict[str, Any] = dict(env="rlhf/TokenBandit-v0", n_timesteps=4 * ROLLOUT, n_envs=12, eval_freq=0)
    given |= dict(test_episodes=4, hyperparams=dict(batch_size=18, n_epochs=2), progress=False, kl_target=0.3)
    return TrainConfig(log_folder=str(folder), run_name="run", **(given | kwargs))


def run(settings: TrainConfig, resume: bool = False) -> dict[str, Any]:
    """Be one rank of a run. Return what the tests compare."""
    import agents.scale.follower as module

    seen: dict[str, Any] = {}
    folder = settings.folder() if not resume else Path(settings.log_folder) / settings.algo / "run"
    settings = TrainConfig.of_folder(folder, settings) if resume else settings
    if ranks.first():
        prepared = prepare_resumed(folder, settings) if resume else prepare(settings)
        seen["start"] = prepared.agent.num_timesteps
        agent = train(prepared).agent
    else:
        build = "load_agent" if resume else "build_agent"
        real = getattr(module, build)

        def watch(*args: Any) -> Any:
            seen["agent"] = real(*args)
            return seen["agent"]

        setattr(module, build, watch)
        follow(settings, resume)
        agent = seen.pop("agent")
    weights = {name: tensor.numpy().copy() for name, tensor in agent.policy.state_dict().items()}
    return seen | {
        "weights": weights,
        "tokens": agent.num_timesteps,
        "updates": agent._n_updates,
        "prompts": agent.env.env.episodes.index.tolist(),
        "actions": agent.rollout_buffer.actions.ravel().tolist(),
        "kl_coef": agent.rollout_buffer.controller.value,
    }


def end_in(rank: int, call: int, how: Any) -> None:
    """Do something in a rank's n-th call of the reward."""
    score, calls = TokenBanditReward.score, 0

    def counting(self: Any, *args: Any, **columns: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == call and ranks.rank() == rank:
            how()
        return score(self, *args, **columns)

    TokenBanditReward.score = counting  # type: ignore[method-assign]


def run_with(settings: TrainConfig, rank: int, call: int, how: Any) -> None:
    end_in(rank, call, how)
    run(settings)


def kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def stop() -> None:
    os.kill(os.getpid(), signal.SIGTERM)
