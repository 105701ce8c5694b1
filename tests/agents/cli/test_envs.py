from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from agents.cli import app
from rlhf_envs.registration import ENVIRONMENTS
from rlhf_envs.tasks.results import gain_of, read_results
from tests.forked import run_python


def rlhf(*arguments: str) -> str:
    result = CliRunner().invoke(app, list(arguments), env={"COLUMNS": "400"})
    assert result.exit_code == 0, result.output
    return result.output


def test_the_list_has_every_environment() -> None:
    listed = rlhf("envs")
    assert all(env_id in listed for env_id in ENVIRONMENTS)


def test_what_was_measured_is_whole_in_a_terminal_of_80_columns() -> None:
    lines = CliRunner().invoke(app, ["envs"], env={"COLUMNS": "80"}).output.splitlines()
    for env_id, found in read_results().items():
        (line,) = (line for line in lines if line.split()[:2] == [env_id, found["metric"]])
        assert line.split()[2:] == f"{found['before']:.3f} {gain_of(found)}".split()


def test_how_it_was_measured_is_told_where_it_is_not_ppo_from_a_start() -> None:
    listed = rlhf("envs")
    for env_id, found in read_results().items():
        for what, said in (("algo", f"--algo {found['algo']}: "), ("start", "no start but the model: ")):
            lines = [line for line in listed.splitlines() if line.startswith(said)]
            named = any(env_id.removeprefix("rlhf/") in line for line in lines)
            assert named == (found[what] != {"algo": "ppo", "start": "sft"}[what])
        best = [line for line in listed.splitlines() if line.startswith(f"metric is best at {found.get('best')}: ")]
        assert any(env_id.removeprefix("rlhf/") in line for line in best) == ("best" in found)
        flagged = [line for line in listed.splitlines() if line.startswith(f"{found.get('flags')}: ")]
        assert any(env_id.removeprefix("rlhf/") in line for line in flagged) == ("flags" in found)
        for name, kept in found.get("kept", {}).items():
            said = f"{env_id.removeprefix('rlhf/')}, {name}: {kept['before']:.3f}, gain {gain_of(kept)}"
            assert said in listed.splitlines()


def test_a_new_task_passes_its_test_and_trains(tmp_path: Path) -> None:
    said = rlhf("envs", "new", "WordPlay", "--folder", str(tmp_path))
    assert "my/WordPlay-v0" in said
    assert len((tmp_path / "word_play_task.py").read_text().splitlines()) < 50
    tests = ["-q", "-p", "no:cacheprovider", "test_word_play_task.py"]
    done = run_python(f"import sys, pytest\nsys.exit(pytest.main({tests}))", tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "3 passed" in done.stdout
    flags = ["-n", "32", "--n-envs", "4", "--eval-freq", "0", "--test-episodes", "2", "--no-progress"]
    flags += ["-params", "n_steps:8", "-params", "batch_size:32"]
    env = "./word_play_task.py:my/WordPlay-v0"
    done = run_python(f"from agents.cli import app\napp({['train', '--env', env, *flags]})", tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "exact" in done.stdout


def test_files_that_are_there_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "weather_task.py").write_text("mine")
    result = CliRunner().invoke(app, ["envs", "new", "Weather", "--folder", str(tmp_path)])
    assert result.exit_code != 0
    assert [path.name for path in tmp_path.iterdir()] == ["weather_task.py"]
    assert (tmp_path / "weather_task.py").read_text() == "mine"


@pytest.mark.parametrize("name", ["weather", "my/Weather-v0", "We ather", ""])
def test_a_name_that_makes_no_class_is_refused(name: str, tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["envs", "new", name, "--folder", str(tmp_path)], env={"COLUMNS": "400"})
    assert result.exit_code != 0
    assert "such as Weather" in result.output
