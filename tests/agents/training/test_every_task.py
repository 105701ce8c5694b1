"""Every registered task trains, goes on exactly after a kill, and gets a random agent; on a small model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from agents.training.run import train
from rlhf_envs.registration import ENVIRONMENTS, task_of
from tests.agents.training.runs import config, finish, train_until_killed
from tests.rlhf_envs.extras import with_extras
from tests.rlhf_envs.small_models import byte_level, save_model

pytestmark = pytest.mark.usefixtures("few_rows")

SAME = {"rlhf/Prompts-v0", "rlhf/HumanSentiment-v0"}  # the data and the reward of rlhf/Sentiment-v0
IDS = sorted({*ENVIRONMENTS} - SAME)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> str:
    return save_model(tmp_path_factory.mktemp("models") / "base", byte_level())


def settings(env_id: str, base: str, **kwargs: Any) -> dict[str, Any]:
    """Return a run of two rollouts of eight tokens."""
    task = task_of(env_id)
    assert task is not None
    room = dict(max_prompt_tokens=32, max_new_tokens=12)
    reads_pictures = task.default_model == "tiny-vision"  # a small model itself
    own = dict(model=base, env_kwargs=room) if task.default_model and not reads_pictures else {}
    small: dict[str, Any] = dict(n_envs=2, n_timesteps=16, eval_freq=0, test_episodes=2, kl_target=None)
    return dict(env=env_id, save_freq=8, **own, **small) | kwargs


@pytest.mark.parametrize("env_id", with_extras(IDS))
def test_ppo_goes_on_exactly_after_a_kill(
    env_id: str, base: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = settings(env_id, base, hyperparams=dict(n_steps=4, batch_size=8, n_epochs=1))
    unbroken = train(config(tmp_path / "unbroken", **run)).folder
    train_until_killed(monkeypatch, config(tmp_path, **run), 8)
    folder = tmp_path / "ppo" / "run"
    assert not (folder / "report.json").exists()
    finish(folder)
    for name in ("agent/policy.safetensors", "agent/optimizer.safetensors"):
        assert (folder / name).read_bytes() == (unbroken / name).read_bytes(), name


@pytest.mark.parametrize("env_id", with_extras(IDS))
def test_a_random_agent_is_measured(env_id: str, base: str, tmp_path: Path) -> None:
    result = train(config(tmp_path, **settings(env_id, base, algo="random", hyperparams={})))
    task = task_of(env_id)
    assert task is not None
    assert {*result.after.estimates()} >= {"reward", "length", *task.judges}
