"""Two hundred thousand tokens of training take no more memory than the first tenth of them."""

from __future__ import annotations

import ctypes
import gc
import sys
from typing import Any

import numpy as np
import pytest
from stable_baselines3.common.callbacks import BaseCallback

import agents
from agents.training.checkpoint_callback import CheckpointCallback

psutil = pytest.importorskip("psutil")
MIB = 2**20


def release() -> None:
    """Give freed memory back: what glibc keeps of the many sizes of minibatches is slack, and no leak."""
    gc.collect()
    if sys.platform == "linux":
        ctypes.CDLL(None).malloc_trim(0)


class Memory(BaseCallback):
    """The resident memory, and the number of Python's objects, before every rollout."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens: list[int] = []
        self.resident: list[int] = []
        self.objects: list[int] = []

    def _on_step(self) -> bool:
        return True

    def _on_rollout_start(self) -> None:
        release()
        self.tokens.append(self.num_timesteps)
        self.resident.append(psutil.Process().memory_info().rss)
        self.objects.append(len(gc.get_objects()))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("env_id", "env_kwargs", "tokens", "kwargs"),
    [
        ("rlhf/TokenBandit-v0", {}, 200_000, dict(n_envs=256, batch_size=192)),
        ("rlhf/IncreasingNumbers-v0", {}, 200_000, dict(n_envs=64, n_steps=32, batch_size=512)),
        ("rlhf/Sentiment-v0", dict(reward="gold", max_new_tokens=8), 20_000, dict(n_envs=32, batch_size=256)),
    ],
    ids=["bandit", "numbers", "sentiment"],
)
def test_memory_stays_flat(
    env_id: str, env_kwargs: dict[str, Any], tokens: int, kwargs: dict[str, Any], tmp_path: Any
) -> None:
    """The median of the last tenth lies at most 16 MiB and 1% of the objects above that of the second tenth.

    Over 200,000 tokens that is less than 100 bytes and a fiftieth of an object a token.
    """
    env = agents.make_vec_env(env_id, kwargs.pop("n_envs"), seed=0, **env_kwargs)
    agent = agents.make("ppo", env, seed=0, n_epochs=2, device="cpu", tensorboard_log=str(tmp_path), **kwargs)
    memory = Memory()
    checkpoints = agents.Checkpoints(tmp_path / "checkpoints", keep=2)
    saving = CheckpointCallback(checkpoints, save_freq=tokens // 20, signals=False)
    agent.learn(tokens, callback=[memory, saving])
    where, resident, objects = (np.array(values) for values in (memory.tokens, memory.resident, memory.objects))
    early, late = (where >= 0.1 * tokens) & (where < 0.2 * tokens), where >= 0.9 * tokens
    assert early.sum() > 3
    assert late.sum() > 3
    grown = (np.median(resident[late]) - np.median(resident[early])) / MIB
    print(f"{env_id}: {np.median(resident[early]) / MIB:.0f} MiB, {grown:+.1f} MiB over the run")
    assert grown < 16
    assert np.median(objects[late]) < 1.01 * np.median(objects[early])
