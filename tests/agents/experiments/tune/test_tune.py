"""The search for settings."""

from __future__ import annotations

import csv
import math
import socket
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
from filelock import FileLock, Timeout
from typer.testing import CliRunner

import agents
from agents.cli import app
from agents.experiments.tune import search as tuning
from agents.experiments.tune import study as studies
from agents.experiments.tune import workers
from agents.experiments.tune.config import TuneConfig
from agents.experiments.tune.report import summary
from agents.experiments.tune.report import trials as table_of_trials
from agents.experiments.tune.space import Range, parse_range, search_space
from agents.registry import describe, get_algorithm, registered
from agents.training.building import build_agent
from agents.training.hyperparams import default_hyperparams, parse_yaml
from agents.training.run import resolve_config

BANDIT = "rlhf/TokenBandit-v0"
FAST: dict[str, Any] = dict(env=BANDIT, tokens=192, n_envs=16, episodes=16, confirm_seeds=0, threads=1, trials=2)
FAST |= dict(only=["learning_rate"], hyperparams={"batch_size": 24, "n_epochs": 1})


def config(folder: Path, **changes: Any) -> TuneConfig:
    return TuneConfig(**{**FAST, "log_folder": str(folder), **changes})


def rlhf(*arguments: str) -> Any:
    return CliRunner().invoke(app, ["tune", *arguments], env={"COLUMNS": "200"})


def test_ranges_are_read_as_they_are_written() -> None:
    assert parse_range("learning_rate:1e-5..1e-3") == ("learning_rate", Range(1e-5, 1e-3))
    assert parse_range("clip_range:0.1, none") == ("clip_range", Range(choices=(0.1, None)))
    assert (Range(1e-5, 1e-3).log, Range(0.9, 1.0).log, Range(0, 100).log) == (True, False, False)
    for wrong in ("learning_rate", "learning_rate:", "a:x..y", "a:3..1", ":1..2"):
        with pytest.raises(ValueError, match=r"expected name:low..high|is not below"):
            parse_range(wrong)


def test_words_for_literals_may_have_any_case() -> None:
    assert parse_range("a:TRUE,false,None,NONE,sgd")[1].choices == (True, False, None, None, "sgd")


@pytest.mark.parametrize("values", ["1e-4..Infinity", "-Infinity..1", "NaN..1", "1..1e999", "0.1,NaN", "Infinity,1"])
def test_bounds_and_choices_are_finite(values: str) -> None:
    with pytest.raises(ValueError, match=rf"learning_rate:{values}'?: expected name:low..high or name:choice,choice"):
        parse_range(f"learning_rate:{values}")


def test_the_space_is_what_the_algorithm_takes() -> None:
    def space(algo: str, **changes: Any) -> dict[str, Range]:
        return search_space(describe(get_algorithm(algo)).known, {}, algo=algo, **changes)

    assert {"clip_range", "n_epochs", "gae_lambda", "kl_coef"} <= space("ppo").keys()
    assert not {"clip_range", "n_epochs"} & space("a2c").keys()
    assert "kl_coef" not in space("ppo", kl_coef=False)
    assert space("rloo", n_envs=12)["group_size"].choices == (2, 4)
    assert space("ppo", rollout=96, episode=12)["batch_size"].choices == (12, 24, 48, 96)
    with pytest.raises(
        ValueError, match="--space learning_rat: ppo takes no such argument; did you mean 'learning_rate'"
    ):
        search_space(describe(get_algorithm("ppo")).known, {"learning_rat": Range(0, 1)}, algo="ppo")


@pytest.mark.parametrize("algo", sorted(registered().keys() - {"random"}))
def test_nothing_is_searched_that_the_algorithm_refuses(algo: str, tmp_path: Path) -> None:
    """The first trial, whose arguments are the nearest to the defaults, can be built."""
    cls = get_algorithm(algo)
    chosen = config(tmp_path, algo=algo, only=[], hyperparams={}, kl_limit=1.0, n_envs=16)
    space = tuning.find_space(chosen)
    assert not space.keys() & cls.unused.keys()
    first = studies.nearest_to_default(chosen, space)
    warnings.simplefilter("ignore")  # small fresh models and the like
    build_agent(resolve_config(chosen.run(0, first)))


@pytest.mark.parametrize("algo", ["dqn", "qrdqn", "ilql"])
def test_a_q_learner_has_no_rollout_whose_batches_could_be_searched(algo: str, tmp_path: Path) -> None:
    """Its `n_steps` is the length of a return."""
    settings: dict[str, Any] = {} if algo == "ilql" else {"n_steps": 3}
    space = tuning.find_space(config(tmp_path, algo=algo, only=[], hyperparams=settings))
    assert "batch_size" not in space
    assert tuning.find_space(config(tmp_path, only=[], hyperparams={}))["batch_size"].choices[-1] == 16 * 3


def test_kl_is_searched_only_where_something_holds_it(tmp_path: Path) -> None:
    assert "kl_coef" not in tuning.find_space(config(tmp_path, only=[]))
    assert "kl_coef" in tuning.find_space(config(tmp_path, only=[], kl_limit=1.0))


def test_the_command_writes_a_section_that_train_takes_and_goes_on(tmp_path: Path) -> None:
    flags = ["--env", BANDIT, "--tokens", "192", "--n-envs", "16", "--episodes", "16", "--threads", "1"]
    flags += ["--only", "learning_rate", "--confirm-seeds", "2", "-f", str(tmp_path), "-params", "batch_size:24"]
    result = rlhf(*flags, "--trials", "2", "--space", "learning_rate:1e-4..1e-2")
    assert result.exit_code == 0, result.output
    folder = tmp_path / "tune" / "ppo" / "TokenBandit-v0"
    section = parse_yaml((folder / "TokenBandit-v0.yml").read_text())["ppo"]
    assert 1e-4 <= section["learning_rate"] <= 1e-2
    assert (section["n_timesteps"], section["n_envs"], section["batch_size"]) == (192, 16, 24)
    assert "2 new seeds:" in (folder / "TokenBandit-v0.yml").read_text(), "the figure of new seeds stands beside"
    report = (folder / "report.md").read_text()
    assert "2 new seeds (validation: training prompts)" in report
    assert "2 new seeds (test: training prompts)" in report
    assert default_hyperparams(BANDIT, "ppo", folder / "TokenBandit-v0.yml") == section
    again = rlhf(*flags, "--trials", "3", "--space", "learning_rate:1e-4..1e-2")
    assert again.exit_code == 0, again.output
    rows = list(csv.DictReader((folder / "trials.csv").read_text().splitlines()))
    assert [row["trial"] for row in rows] == ["0", "1", "2"]
    assert "trial 2:" in again.output
    assert "trial 1:" not in again.output
    assert float(rows[0]["learning_rate"]) == 3e-3, "the first trial has the default settings"
    other = rlhf(*flags, "--trials", "3", "--tokens", "384", "--space", "learning_rate:1e-4..1e-2")
    assert other.exit_code == 2
    assert "was made with --tokens 192 and not 384" in other.stderr


def test_the_winner_is_run_again_with_seeds_that_the_search_had_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seeds: list[int] = []
    build = tuning.build_agent
    monkeypatch.setattr(tuning, "build_agent", lambda run: (seeds.append(run.seed), build(run))[1])
    result = tuning.tune(config(tmp_path, confirm_seeds=2, seeds_per_trial=2, pruner="none"))
    searched, confirmed = seeds[:4], seeds[4:]
    assert searched == [0, 1, 0, 1]
    assert len(confirmed) == 4
    assert confirmed[:2] == confirmed[2:], "winner and defaults have the same seeds"
    assert not set(searched) & set(confirmed)
    assert result.confirmed is not None
    assert result.confirmed.estimate("test").mean == pytest.approx(np.mean(result.confirmed.values["test"]))


def test_a_trials_figure_is_what_evaluate_says_of_the_same_run(tmp_path: Path) -> None:
    result = tuning.tune(config(tmp_path, trials=1, pruner="none"))
    run = config(tmp_path).run(0, result.best.params)
    agent = agents.make("ppo", agents.make_vec_env(BANDIT, 16, seed=0), seed=0, kl_coef=0.1, **run.hyperparams).learn(
        192
    )
    assert result.best.value == pytest.approx(agents.evaluate(agent, BANDIT, 16, "validation").reward.mean(), abs=1e-6)


def test_a_figure_that_is_not_finite_and_a_trial_that_fails_are_failed_and_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train, calls = tuning.train_trial, []

    def sometimes(*arguments: Any) -> Any:
        calls.append(1)
        if len(calls) == 1:
            raise RuntimeError("no memory")
        return train(*arguments)

    monkeypatch.setattr(tuning, "train_trial", sometimes)
    evaluate = tuning.evaluate

    def broken(*arguments: Any, **options: Any) -> Any:
        found = evaluate(*arguments, **options)
        if len(calls) == 2:
            found.reward[0] = math.nan
        return found

    monkeypatch.setattr(tuning, "evaluate", broken)
    result = tuning.tune(config(tmp_path, trials=3, pruner="none"))
    states = [trial.state.name for trial in result.study.trials]
    assert states == ["FAIL", "FAIL", "COMPLETE"]
    errors = [trial.user_attrs.get("error") for trial in result.study.trials]
    assert errors == ["RuntimeError: no memory", "FloatingPointError: reward on validation is nan", None]
    assert result.best.number == 2


def test_all_failed_is_an_error_with_the_first_cause(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> Any:
        raise RuntimeError("no memory")

    monkeypatch.setattr(tuning, "train_trial", fail)
    with pytest.raises(ValueError, match=r"none of 2 trials finished \(2 failed\); the first: RuntimeError: no memory"):
        tuning.tune(config(tmp_path))


def test_a_search_says_first_how_long_a_trial_is(tmp_path: Path) -> None:
    said: list[str] = []
    tuning.tune(config(tmp_path, trials=1, tokens=100, n_envs=32, hyperparams={"batch_size": 48}), said.append)
    assert said[0] == "a trial trains for 192 tokens (100 rounded up to rollouts of 96)"


@pytest.fixture
def other_process(tmp_path: Path) -> Iterator[tuple[subprocess.Popen[str], list[str]]]:
    """Another process of a search, and what it signs its trials with."""
    file = tmp_path / "worker.lock"
    code = "import sys, filelock; lock = filelock.FileLock(sys.argv[1]); lock.acquire(); print('held'); input()"
    with subprocess.Popen(
        [sys.executable, "-uc", code, str(file)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process, [socket.gethostname(), str(file)]
        process.kill()


def begin(study: optuna.Study, worker: list[str] | None) -> None:
    """Begin a trial, and leave it as a process does that is killed."""
    trial = study.ask()
    if worker is not None:
        trial.set_user_attr(workers.WORKER, worker)
    trial.suggest_float("learning_rate", 1e-5, 1e-2, log=True)


def test_the_trial_of_a_killed_process_is_failed_and_its_settings_are_tried_again(
    tmp_path: Path, other_process: tuple[subprocess.Popen[str], list[str]]
) -> None:
    process, worker = other_process
    study = tuning.tune(config(tmp_path, trials=1, pruner="none")).study
    begin(study, worker)
    workers.requeue_stale_trials(study, pytest.fail)
    assert study.trials[1].state.name == "RUNNING", "its process lives"
    process.kill()
    process.wait()
    said: list[str] = []
    result = tuning.tune(config(tmp_path, trials=2, pruner="none"), said.append)
    assert [trial.state.name for trial in result.study.trials] == ["COMPLETE", "FAIL", "COMPLETE"]
    assert result.study.trials[2].params == result.study.trials[1].params
    assert said[1] == "trial 1 was running in a process that has ended: failed, and its settings are queued again"
    assert said[2].startswith("trial 2: complete"), "a trial that is repeated does not count as one of --trials"
    assert table_of_trials(result)[1]["error"] == "its process ended"


def test_settings_that_end_two_processes_are_not_tried_again() -> None:
    study, said = optuna.create_study(), list[str]()
    for _ in range(2):
        begin(study, [socket.gethostname(), "gone.lock"])
        workers.requeue_stale_trials(study, said.append)
    assert [trial.state.name for trial in study.trials] == ["FAIL", "FAIL"]
    assert workers.retried(study) == {0}
    assert said[1].endswith("as trial 0 with the same settings was: failed, and not queued again")


def test_trials_of_this_process_and_of_another_machine_are_left_alone(tmp_path: Path) -> None:
    study, said = optuna.create_study(), list[str]()
    with workers.signature(tmp_path) as worker:
        begin(study, worker)
        begin(study, ["far-away", worker[1]])
        workers.requeue_stale_trials(study, said.append)
        assert [trial.state.name for trial in study.trials] == ["RUNNING", "RUNNING"]
        assert said == ["trial 1 runs on 'far-away', as far as can be seen from here: it is left alone"]
    assert not list(tmp_path.iterdir()), "a process that ends well leaves no file"


def test_an_unsigned_trial_is_stale_unless_it_is_signed_soon(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    study = optuna.create_study()
    begin(study, None)
    begun = study.ask()
    with workers.signature(tmp_path) as worker:
        monkeypatch.setattr(workers.time, "sleep", lambda seconds: begun.set_user_attr(workers.WORKER, worker))
        workers.requeue_stale_trials(study, lambda line: None)
    assert [trial.state.name for trial in study.trials] == ["FAIL", "RUNNING", "WAITING"]


@pytest.fixture
def no_training(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tuning, "train_trial", lambda *_: None)
    monkeypatch.setattr(tuning, "measure", lambda *_: (0.5, 0.1, "held-out prompts"))


@pytest.mark.usefixtures("no_training")
def test_processes_that_share_a_study_run_its_trials_in_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second search of the same study begins and ends while the first is in its first trial."""
    shared = config(tmp_path, storage=f"sqlite:///{tmp_path}/study.db", trials=3, sampler="random")
    train, lines = tuning.train_trial, list[str]()
    others: list[int] = []

    def meanwhile(*arguments: Any) -> Any:
        if not others:
            others.append(0)
            others.extend(trial.number for trial in tuning.tune(shared, lines.append).study.trials)
        return train(*arguments)

    monkeypatch.setattr(tuning, "train_trial", meanwhile)
    result = tuning.tune(shared)
    assert others == [0, 0, 1, 2]
    assert [trial.state.name for trial in result.study.trials] == ["COMPLETE"] * 3
    assert lines[-1] == "still running elsewhere, and not in this report: trial 0"


@pytest.mark.usefixtures("no_training")
def test_a_trial_that_others_made_needless_is_neither_run_nor_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two processes see that one trial is missing, and both begin one."""
    count, seen = tuning.counted, list[int]()
    monkeypatch.setattr(tuning, "counted", lambda study: count(study)[: 1 if (seen.append(1), len(seen))[1] < 4 else 9])
    said: list[str] = []
    result = tuning.tune(config(tmp_path, trials=2), said.append)
    assert said[-1] == "trial 2: not run, other processes have begun enough"
    assert [row["trial"] for row in table_of_trials(result)] == [0, 1]
    assert summary(result).startswith("rlhf tune, trial ")
    assert " of 2: " in summary(result)


def test_processes_open_a_study_one_by_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Optuna fails where two make the tables of a storage at once."""
    shared = config(tmp_path, storage=f"sqlite:///{tmp_path}/study.db")

    def opened(*_: Any) -> None:
        with pytest.raises(Timeout):
            FileLock(shared.folder() / studies.OPENING, timeout=0).acquire()
        raise InterruptedError

    monkeypatch.setattr(studies, "_open", opened)
    with pytest.raises(InterruptedError):
        tuning.tune(shared)


@pytest.mark.usefixtures("no_training")
def test_a_trial_draws_the_same_settings_in_any_process(tmp_path: Path) -> None:
    once = tuning.tune(config(tmp_path / "one", trials=3, sampler="random")).study
    tuning.tune(config(tmp_path / "other", trials=2, sampler="random"))
    again = tuning.tune(config(tmp_path / "other", trials=3, sampler="random")).study
    assert [trial.params for trial in once.trials] == [trial.params for trial in again.trials]
    assert len({trial.params["learning_rate"] for trial in once.trials}) == 3


def test_the_best_within_the_limit_wins_not_the_best(tmp_path: Path) -> None:
    study = optuna.create_study(direction="maximize")
    for value, kl in ((1.0, 9.0), (0.5, 0.9), (0.4, 0.1)):
        study.add_trial(optuna.trial.create_trial(value=value, user_attrs={"kl": kl}))
    assert studies.best_trial(config(tmp_path), study).number == 0
    assert studies.best_trial(config(tmp_path, kl_limit=1.0), study).number == 1
    with pytest.raises(ValueError, match=r"none of 3 trials stays within --kl-limit 0.01: the least KL is 0.10 nats"):
        studies.best_trial(config(tmp_path, kl_limit=0.01), study)


def test_a_trial_is_pruned_at_an_evaluation(tmp_path: Path) -> None:
    cut = config(tmp_path, trials=6, tokens=960, space=["learning_rate:1e-9..0.01"], seed=3)
    study = tuning.tune(cut).study
    for trial in study.trials:
        assert set(trial.intermediate_values) <= {1, 2, 3}
    pruned = [trial for trial in study.trials if trial.state is optuna.trial.TrialState.PRUNED]
    assert pruned
    for trial in pruned:
        step = max(trial.intermediate_values)
        earlier = [t.intermediate_values[step] for t in study.trials[: trial.number] if step in t.intermediate_values]
        assert max(trial.intermediate_values.values()) < np.median(earlier)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--algo", "pp0"], "did you mean 'ppo'"),
        (["--env", "rlhf/Nothing-v0"], "unknown environment"),
        (["--space", "learning_rate"], "expected name:low..high"),
        (["--space", "learning_rat:0..1"], "did you mean 'learning_rate'"),
        (["--only", "temperature"], "no range is known for it"),
        (["--metric", "nobody"], "unknown reward 'nobody'"),
        (["--trials", "0"], "--trials"),
    ],
)
def test_a_users_mistake_is_one_line(flags: list[str], message: str, tmp_path: Path) -> None:
    given = flags if "--env" in flags else ["--env", BANDIT, *flags]
    result = rlhf(*given, "-f", str(tmp_path / "logs"))
    assert result.exit_code == 2, result.output
    assert message in result.stderr
    assert result.stderr.count("\n") == 1
    assert not (tmp_path / "logs").exists()
