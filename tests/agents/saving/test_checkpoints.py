"""Numbered checkpoints: the last ones stay, broken ones are passed over, and no moment is a bad one to die at."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import stable_baselines3

import agents
from agents import CheckpointCallback, Checkpoints, SequenceRolloutBuffer, TokenPolicy, make_vec_env
from rlhf_envs.files import BundleError, verify

ID = "rlhf/TokenBandit-v0"


def build(**kwargs: Any) -> Any:
    settings: dict[str, Any] = dict(n_steps=3, batch_size=12, n_epochs=1, seed=0, device="cpu")
    env = kwargs.pop("env", None) or make_vec_env(ID, 4, seed=0)
    return stable_baselines3.PPO(TokenPolicy, env, rollout_buffer_class=SequenceRolloutBuffer, **(settings | kwargs))


@pytest.fixture(scope="module")
def agent() -> Any:
    return build()


def save_at(checkpoints: Checkpoints, agent: Any, tokens: int) -> Path:
    agent.num_timesteps = tokens
    return checkpoints.save(agent)


def test_the_last_ones_stay(agent: Any, tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path / "checkpoints", keep=2)
    for tokens in (5, 40, 300, 2000):
        save_at(checkpoints, agent, tokens)
    assert sorted(os.listdir(tmp_path / "checkpoints")) == ["2000", "300"]
    assert checkpoints.load().num_timesteps == 2000
    with pytest.raises(ValueError, match="at least one"):
        Checkpoints(tmp_path, keep=0)


def test_broken_ones_are_passed_over_with_a_warning(
    agent: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    checkpoints = Checkpoints(tmp_path)
    good, cut, empty = (save_at(checkpoints, agent, tokens) for tokens in (10, 20, 30))
    os.truncate(cut / "policy.safetensors", 100)
    (empty / "manifest.json").unlink()
    assert checkpoints.latest() == good
    assert str(cut / "policy.safetensors") in caplog.text
    assert f"{empty} is no bundle: it has no manifest.json" in caplog.text
    (good / "agent.json").unlink()
    assert checkpoints.latest() is None
    save_at(checkpoints, agent, 30)  # the run comes by again
    assert checkpoints.latest() == empty
    (empty / "manifest.json").unlink()
    with pytest.raises(BundleError, match="holds no checkpoint that is whole"):
        checkpoints.load()


@pytest.mark.parametrize("name", ["fsync", "rename", "open", "chmod"])
def test_a_save_that_fails_leaves_the_old_bundle(
    name: str, agent: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full disk at each of the calls to the operating system that saving makes, one after the other."""
    save_at(Checkpoints(tmp_path), agent, 1)
    real, calls, fail_at = getattr(os, name), 0, 0

    def full(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == fail_at:
            raise OSError(28, "No space left on device")
        return real(*args, **kwargs)

    while calls >= fail_at:  # it got as far as the call that failed
        calls, fail_at = 0, fail_at + 1
        monkeypatch.setattr(os, name, full)
        try:
            agents.save(agent, tmp_path / "1")
            message = ""
        except OSError as error:
            message = str(error)
        monkeypatch.setattr(os, name, real)
        if message:
            assert f"cannot write {tmp_path / '1'}: " in message
            assert "Free space there or make it writable; what was saved before is intact" in message
            assert agents.load(tmp_path / "1").num_timesteps == 1
            assert not list(tmp_path.glob(".*tmp*")), "what was half written goes away, to give its space back"
    assert fail_at > 2


@pytest.mark.skipif(not hasattr(os, "fork"), reason="kills a forked process")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
@pytest.mark.parametrize("kills", [10, pytest.param(60, marks=pytest.mark.slow)])
@pytest.mark.parametrize("numbered", [False, True])
def test_a_kill_at_any_moment_leaves_a_checkpoint(kills: int, numbered: bool, agent: Any, tmp_path: Path) -> None:
    """A child saves as fast as it can, over one bundle or numbered ones, and is killed: what it leaves loads."""
    checkpoints, rng, tokens = Checkpoints(tmp_path / "run", keep=2), np.random.default_rng(0), 1
    target = tmp_path / "run" / "agent"
    agent.num_timesteps = tokens
    started = time.perf_counter()
    checkpoints.save(agent) if numbered else agents.save(agent, target)
    seconds = time.perf_counter() - started
    done = torn = 0
    while done < kills or (done < 10 * kills and not (torn and tokens > 1)):  # on a busy machine a child starts late
        done += 1
        child = os.fork()
        if child == 0:
            try:
                while True:
                    agent.num_timesteps += 1
                    checkpoints.save(agent) if numbered else agents.save(agent, target)
            finally:
                os._exit(1)
        time.sleep(rng.uniform(0, 2.5 * seconds) * max(1, done / kills))  # longer, where none was long enough
        os.kill(child, signal.SIGKILL)
        assert os.waitpid(child, 0)[1] == signal.SIGKILL, "the child failed before it was killed"
        torn += any(path.name.startswith(".") for path in target.parent.iterdir())
        loaded = checkpoints.load() if numbered else agents.load(target)
        assert loaded.num_timesteps >= tokens, "never older than what was there before"
        agent.num_timesteps = tokens = loaded.num_timesteps
    assert tokens > 1, "some saves came through"
    assert torn > 0, "some were cut short"
    checkpoints.save(agent) if numbered else agents.save(agent, target)
    assert not list(target.parent.glob(".*")), "what the killed ones left is cleared away"


def test_checkpoints_come_at_the_first_boundary_after_save_freq(tmp_path: Path) -> None:
    callback = CheckpointCallback(Checkpoints(tmp_path, keep=9), save_freq=30)
    build().learn(12 * 7, callback=callback)  # rollouts of 12 tokens
    assert sorted(map(int, os.listdir(tmp_path))) == [36, 60]
    for path in tmp_path.iterdir():
        verify(path)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_the_boundary_before_it(number: signal.Signals, tmp_path: Path) -> None:
    """Sent in the middle of the third rollout; what follows equals a run that was never stopped."""
    calls = 0

    def reward(prompts: list[str], completions: list[str], **_: Any) -> list[float]:
        nonlocal calls
        calls += 1
        if calls == stop_at:
            os.kill(os.getpid(), number)
        return [float("a" in completion) for completion in completions]

    stop_at = -1
    unbroken = build(env=make_vec_env(ID, 4, seed=0, score="step", reward_fn=reward)).learn(60)
    calls, stop_at = 0, 7
    handler = signal.getsignal(number)
    callback = CheckpointCallback(Checkpoints(tmp_path))
    build(env=make_vec_env(ID, 4, seed=0, score="step", reward_fn=reward)).learn(60, callback=callback)
    assert callback.interrupted == number
    assert signal.getsignal(number) is handler
    assert callback.saved is not None
    stop_at = -1
    resumed = agents.load(callback.saved, make_vec_env(ID, 4, reward_fn=reward))
    assert 0 < resumed.num_timesteps < 60
    assert resumed.num_timesteps % 12 == 0
    resumed.learn(60 - resumed.num_timesteps, reset_num_timesteps=False)
    for one, other in zip(unbroken.policy.parameters(), resumed.policy.parameters(), strict=True):
        assert (one == other).all()


def test_a_failure_in_a_rollout_saves_its_beginning_and_in_an_update_the_last_checkpoint(tmp_path: Path) -> None:
    class Broken(SequenceRolloutBuffer):
        rollouts = 0
        fail_at: tuple[str, int] = ("", 0)

        def compute_returns_and_advantage(self, *args: Any, **kwargs: Any) -> None:
            self.rollouts += 1
            if self.fail_at == ("rollout", self.rollouts):
                raise RuntimeError("in the rollout")
            super().compute_returns_and_advantage(*args, **kwargs)

        def get(self, *args: Any, **kwargs: Any) -> Any:
            for samples in super().get(*args, **kwargs):
                yield samples
                if self.fail_at == ("update", self.rollouts):
                    raise RuntimeError("in the update")

    for phase, save_freq, expected in (("rollout", 12, 24), ("rollout", 0, 24), ("update", 12, 24), ("update", 0, 36)):
        agent = build(n_epochs=2, batch_size=12)
        agent.rollout_buffer.__class__ = Broken
        agent.rollout_buffer.fail_at = (phase, 3)
        callback = CheckpointCallback(Checkpoints(tmp_path / f"{phase}-{save_freq}", keep=9), save_freq=save_freq)
        with pytest.raises(RuntimeError, match=f"in the {phase}"):
            agent.learn(60, callback=callback)
        path = callback.rescue()
        assert path is not None
        assert path.name == str(expected), (phase, save_freq)
        loaded = agents.load(path)
        if expected == 24:
            unbroken = build(n_epochs=2, batch_size=12).learn(24)
            for one, other in zip(
                unbroken.policy.state_dict().values(), loaded.policy.state_dict().values(), strict=True
            ):
                assert one.equal(other)
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


class MovedByHand(stable_baselines3.PPO):
    """Sets its weights without the optimizer, as TRPO's line search does, and fails."""

    def train(self) -> None:
        for _ in range(4):  # where memory is freed in between, a later tensor may take the first one's place
            for parameter in self.policy.parameters():
                parameter.data = parameter.data + 1.0
        raise RuntimeError("in the update")


def test_weights_that_moved_without_the_optimizer_are_no_boundary(tmp_path: Path) -> None:
    agent = build()
    agent.__class__ = MovedByHand
    before = {name: tensor.clone() for name, tensor in agent.policy.state_dict().items()}
    callback = CheckpointCallback(Checkpoints(tmp_path / "run"))
    with pytest.raises(RuntimeError, match="in the update"):
        agent.learn(60, callback=callback)
    path = callback.rescue()
    assert path is not None
    assert path.name == "12", "the agent as it stands, under its own name: the boundary at 0 is gone"
    loaded = agents.load(path, algorithm=MovedByHand)
    assert not loaded.policy.value_net.weight.equal(before["value_net.weight"])


def test_training_that_fails_before_it_begins_has_nothing_to_rescue(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert CheckpointCallback(Checkpoints(tmp_path / "run")).rescue() is None
    assert not caplog.messages


@pytest.mark.parametrize("kept", [True, False])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_in_an_update_ends_it_if_there_is_a_checkpoint(
    number: signal.Signals, kept: bool, tmp_path: Path
) -> None:
    class Second(Exception):
        pass

    def second(*_: object) -> None:
        raise Second

    class Twice(stable_baselines3.PPO):
        def train(self) -> None:
            super().train()
            os.kill(os.getpid(), number)
            assert callback.interrupted == number
            os.kill(os.getpid(), number)

    agent = build()
    if kept:
        Checkpoints(tmp_path).save(agent)
    agent.__class__ = Twice
    callback = CheckpointCallback(Checkpoints(tmp_path))
    before = signal.signal(number, second)
    try:
        with pytest.raises(Second) if kept else nullcontext():
            agent.learn(60, callback=callback)
        callback.close()
        assert signal.getsignal(number) is second
    finally:
        signal.signal(number, before)
    assert [path.name for path in tmp_path.iterdir()] == ["0" if kept else "12"]


HANGS = """
import ctypes, sys, time
from contextlib import nullcontext
from pathlib import Path
import agents
from agents.core.vec_env import make_vec_env
from agents.saving.checkpoints import Checkpoints
from agents.training.checkpoint_callback import CheckpointCallback

calls = 0
def reward(prompts, completions, **_):
    global calls
    calls += 1
    if calls == 7:
        print("hangs", flush=True)
        ctypes.CDLL(None).sleep(600) if HOW == "outside Python" else time.sleep(600)
        while HOW == "outside Python":  # a signal wakes the sleep
            ctypes.CDLL(None).sleep(600)
    return [0.0] * len(completions)

HOW = sys.argv[2]
agent = agents.make("ppo", make_vec_env("rlhf/TokenBandit-v0", 4, seed=0, reward_fn=reward), seed=0, device="cpu")
agent.learn(600, callback=CheckpointCallback(Checkpoints(sys.argv[1])))
"""


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="sends SIGTERM")
@pytest.mark.parametrize("how", ["in Python", "outside Python"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_acts_while_a_reward_hangs(number: signal.Signals, how: str, tmp_path: Path) -> None:
    command = [sys.executable, "-c", HANGS, str(tmp_path), how]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "hangs\n"
        process.send_signal(number)
        process.wait(30)  # 5 s, and what a busy machine takes to end a process
    if number == signal.SIGTERM:  # Ctrl-C is Python's own KeyboardInterrupt, unless `rlhf` catches it
        assert process.returncode == 143
    (checkpoint,) = tmp_path.iterdir()
    verify(checkpoint)


def test_a_second_signal_saves_at_once_though_the_reward_hangs(tmp_path: Path) -> None:
    calls = 0

    def reward(prompts: list[str], completions: list[str], **_: Any) -> list[float]:
        nonlocal calls
        calls += 1
        if calls == 3:
            os.kill(os.getpid(), signal.SIGTERM)
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(60)
        return [0.0] * len(completions)

    before = signal.getsignal(signal.SIGTERM)
    callback = CheckpointCallback(Checkpoints(tmp_path))
    agent = build(env=make_vec_env(ID, 4, seed=0, reward_fn=reward))
    with callback.stopping():
        agent.learn(60, callback=callback)
    assert callback.gave_up
    assert callback.saved is not None
    verify(callback.saved)
    assert signal.getsignal(signal.SIGTERM) is before


class StoppedInUpdate(stable_baselines3.PPO):
    """Gets SIGTERM in every update."""

    def train(self) -> None:
        super().train()
        os.kill(os.getpid(), signal.SIGTERM)


@pytest.mark.parametrize("until_closed", [False, True])
def test_a_signal_in_the_last_update_saves(until_closed: bool, tmp_path: Path) -> None:
    agent = build()
    agent.__class__ = StoppedInUpdate
    before = signal.getsignal(signal.SIGTERM)
    callback = CheckpointCallback(Checkpoints(tmp_path), until_closed=until_closed)
    agent.learn(12, callback=callback)
    agent.learn(12, callback=callback)  # a second training, with the handlers perhaps in place
    assert callback.saved == tmp_path / "12"
    assert not callback.gave_up
    assert callback._handlers.keys() == ({signal.SIGTERM, signal.SIGINT} if until_closed else set())
    callback.close()
    assert signal.getsignal(signal.SIGTERM) is before


def test_what_a_bundle_gave_is_used_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[Any] = []
    monkeypatch.setattr(
        "agents.training.checkpoint_callback.restore_metrics", lambda logger, saved: given.append(saved)
    )
    agent, callback = build(), CheckpointCallback(Checkpoints(tmp_path / "run"))
    agents.save(agent, tmp_path / "agent", {"logger": "figures"})
    callback.restore(tmp_path / "agent")
    agent.learn(12, callback=callback)
    agent.learn(12, callback=callback)
    assert given == ["figures"]


def test_a_rescue_that_fails_hides_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    callback = CheckpointCallback(Checkpoints(tmp_path))
    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr("agents.saving.checkpoints.write", lambda *_: {}["a bug"])

    class Fails(stable_baselines3.PPO):
        def train(self) -> None:
            raise RuntimeError("in the update")

    agent = build()
    agent.__class__ = Fails
    with pytest.raises(RuntimeError, match="in the update"):
        agent.learn(60, callback=callback)
    assert callback.rescue() is None
    assert "a bug" in caplog.text

    def unreadable(self: Checkpoints) -> None:
        raise PermissionError("unreadable")

    monkeypatch.setattr(Checkpoints, "latest", unreadable)
    assert callback.rescue() is None
    assert "no checkpoint can be read: unreadable" in caplog.text
    assert signal.getsignal(signal.SIGTERM) is before
