"""What a run shows of itself while it trains."""

from __future__ import annotations

import gc
import io
import os
import re
import sys
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

import agents
from agents import TextMetrics, make, make_vec_env
from agents.training.callbacks import PeriodicEvaluation
from agents.training.config import TrainConfig
from agents.training.early_stopping import EarlyStopping
from agents.training.phases import show_phase, without_collection
from agents.training.progress import ProgressDisplay, format_duration, planned_tokens, rollout_of
from agents.training.run import build_agent, resolve_config, train
from tests.agents.training.runs import BANDIT, config

LINE = re.compile(r"(\S+)/288 tokens  \S+ tokens/s  reward (-?\d+\.\d\d)  KL (-?\d+\.\d\d)  \d:\d\d left")


def learn(console: Console, algorithm: str = "ppo", tokens: int = 250, **kwargs: Any) -> Any:
    agent = make(algorithm, BANDIT, n_envs=32, seed=0, **kwargs)
    display = ProgressDisplay(console, min_seconds=0)
    agent.learn(tokens, display.watch([TextMetrics()]), log_interval=1)
    return agent


def test_without_a_terminal_each_rollout_has_a_line_with_reward_kl_and_the_time_left() -> None:
    file = io.StringIO()
    learn(Console(file=file, width=200), batch_size=48)
    found = [LINE.fullmatch(line) for line in file.getvalue().splitlines()]
    assert [match[1] for match in found if match] == ["96", "192", "288"]
    assert len(found) == 3


def test_lines_that_come_too_fast_are_left_out_but_the_last() -> None:
    file = io.StringIO()
    agent = make("ppo", BANDIT, n_envs=32, seed=0, batch_size=48)
    agent.learn(384, ProgressDisplay(Console(file=file, width=200), min_seconds=1e9), log_interval=1)
    assert [line.split("/")[0] for line in file.getvalue().splitlines()] == ["96", "384"]


def test_on_a_terminal_the_bar_names_the_phases(tmp_path: Path) -> None:
    file = io.StringIO()
    agent = make("ppo", BANDIT, n_envs=32, seed=0, batch_size=48)
    display = ProgressDisplay(Console(file=file, width=160, force_terminal=True))
    shown: list[str] = []
    show = display._show
    display._show = lambda phase: (shown.append(phase), show(phase))[1]  # type: ignore[method-assign]
    evaluation = PeriodicEvaluation(make_vec_env(BANDIT, 4), 4, 96, tmp_path, seed=0)
    stopping = EarlyStopping("reward", env=evaluation.eval_env, eval_freq=192, n_episodes=4)
    agent.learn(192, display.watch([TextMetrics(), evaluation, stopping]), log_interval=1)
    assert shown == ["evaluation", *["rollout", "evaluation", "update"] * 2, "evaluation", "done"]
    assert "192/192" in file.getvalue()


def test_a_stopped_bar_gives_the_terminal_back() -> None:
    console = Console(file=io.StringIO(), force_terminal=True)
    display = ProgressDisplay(console)

    class Failing(TextMetrics):
        def _on_rollout_end(self) -> None:
            raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        make("ppo", BANDIT, n_envs=32, seed=0, batch_size=48).learn(96, display.watch([Failing()]))
    display.close()
    display.close()
    assert display._bar is None
    written = console.file.getvalue()  # type: ignore[attr-defined]
    assert written.rfind("\x1b[?25h") > written.rfind("\x1b[?25l") > -1, "the cursor stays hidden"


@pytest.mark.parametrize(
    ("algorithm", "tokens", "planned"),
    [("ppo", 100, 192), ("rloo", 96, 96), ("best_of_n", 100, 192), ("dqn", 100, 192), ("qrdqn", 97, 192)],
)
def test_agents_train_for_whole_rollouts_as_their_settings_say(algorithm: str, tokens: int, planned: int) -> None:
    early = {"learning_starts": 0} if "dqn" in algorithm else {}  # else it warns that it has learned nothing
    config = resolve_config(TrainConfig(env=BANDIT, algo=algorithm, n_envs=32, n_timesteps=tokens, hyperparams=early))
    agent = build_agent(config)
    assert planned_tokens(agent, tokens) == (planned, rollout_of(config, 3))
    assert agent.learn(tokens).num_timesteps == planned


def test_steps_between_updates_are_read_in_all_their_forms() -> None:
    for train_freq, tokens in ((4, 128), ((4, "step"), 128)):
        assert planned_tokens(make("dqn", BANDIT, n_envs=32, seed=0, train_freq=train_freq), 100)[1] == tokens
    agent = make("dqn", BANDIT, n_envs=1, seed=0, train_freq=(2, "episode"))
    assert planned_tokens(agent, 100) == (100, 1), "an episode ends when it does"


def test_a_run_shows_lines_and_phases_on_stderr(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train(config(tmp_path, progress=True, n_timesteps=96, eval_freq=0, test_episodes=2))
    shown = capsys.readouterr()
    assert shown.out == ""
    before, rollout, after = shown.err.splitlines()
    assert (before, after) == ("evaluating before training", "evaluating after training")
    assert rollout.startswith("96/96 tokens")


def test_phases_outside_training_are_said(capsys: pytest.CaptureFixture[str]) -> None:
    with show_phase("thinking"):
        assert capsys.readouterr().err == "thinking\n"
    with show_phase("thinking", shown=False), show_phase("thinking", line=False):
        assert capsys.readouterr().err == ""


def test_durations_are_read_as_clocks() -> None:
    assert [format_duration(seconds) for seconds in (-1, 9.6, 60, 3661)] == ["0:00", "0:10", "1:00", "1:01:01"]


def test_a_backend_of_matplotlib_that_is_not_there_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    for backend, kept in (("module://a_notebook.backend", False), ("module://matplotlib.x", True), ("svg", True)):
        monkeypatch.setenv("MPLBACKEND", backend)
        agents._forget_missing_backend()
        assert ("MPLBACKEND" in os.environ) == kept


def test_what_a_process_has_loaded_is_never_searched_for_garbage(monkeypatch: pytest.MonkeyPatch) -> None:
    with without_collection():  # torch is there: this is no new process
        assert gc.isenabled()
    monkeypatch.delitem(sys.modules, "torch")
    gc.collect()  # what is frozen now stays, as what tests/conftest.py froze does: without garbage
    before = gc.get_freeze_count()
    with without_collection():
        assert not gc.isenabled()
    assert gc.isenabled()
    assert gc.get_freeze_count() > before
