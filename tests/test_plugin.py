"""Algorithms of third parties: installed, broken, and two of one name."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.forked import run_python

ROOT = Path(__file__).parent.parent
SMALL = ["--env", "rlhf/TokenBandit-v0", "-n", "96", "--n-envs", "16", "--test-episodes", "4", "--eval-freq", "0"]


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The example package in a folder of its own, as pip puts it there without a network."""
    target = tmp_path_factory.mktemp("plugin")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--no-build-isolation"]
    command = [*pip, "--target", str(target), str(ROOT / "examples" / "plugin")]
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL, capture_output=True)
    return target


def python(*arguments: str, path: Path | list[Path], cwd: Path) -> Any:
    paths = [str(ROOT), *map(str, path if isinstance(path, list) else [path])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "COLUMNS": "200"}
    return subprocess.run(
        [sys.executable, *arguments], env=environment, cwd=cwd, capture_output=True, text=True, check=False, timeout=500
    )


def plugin(folder: Path, distribution: str, name: str, value: str) -> Path:
    """An installed distribution with one entry point."""
    info = folder / f"{distribution.replace('-', '_')}-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[rlhf_envs.algorithms]\n{name} = {value}\n")
    return folder


def test_the_example_is_found_and_trains_on_the_command_line(installed: Path, tmp_path: Path) -> None:
    train = ["train", *SMALL, "--no-progress", "--threads", "1", "--algo", "expert_iteration", "-f", str(tmp_path)]
    done = run_python(f"from agents.cli import app\napp({train})", tmp_path, [installed])
    assert done.returncode == 0, done.stderr
    progress = (tmp_path / "expert_iteration" / "TokenBandit-v0_1" / "progress.csv").read_text()
    assert "train/imitation_loss" in progress.split("\n")[0]
    assert "rlhf/kl" in progress.split("\n")[0]


def test_the_example_imitates_the_best_episodes(monkeypatch: pytest.MonkeyPatch) -> None:
    import numpy as np

    import agents
    from agents import registry

    monkeypatch.syspath_prepend(str(ROOT / "examples" / "plugin"))
    monkeypatch.setattr(registry, "_ALGORITHMS", dict(registry._ALGORITHMS))
    agents.register("expert_iteration", "expert_iteration:ExpertIteration")
    agent = agents.make("expert_iteration", "rlhf/TokenBandit-v0", n_envs=16, kl_coef=0.0, top_share=0.25, seed=0)
    agent.learn(48)
    buffer = agent.rollout_buffer
    chosen = np.unique(buffer.segments[:, 0][buffer.advantages[:, 0] > 0])
    assert len(chosen) == round(0.25 * len(buffer.scores))
    assert buffer.scores[chosen].min() >= np.delete(buffer.scores, chosen).max()
    with pytest.raises(ValueError, match="top_share=0"):
        agents.make("expert_iteration", "rlhf/TokenBandit-v0", n_envs=16, top_share=0)


def test_a_plugin_that_cannot_be_imported_is_named_and_the_others_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "broken_module.py").write_text("raise RuntimeError('needs a newer moon')\n")
    folder = plugin(tmp_path, "broken-plugin", "broken", "broken_module:Algorithm")
    code = (
        "import agents\nassert agents.available()['broken'] == 'broken_module:Algorithm'\n"
        "agents.make('a2c', 'rlhf/TokenBandit-v0', n_envs=2).learn(6)\n"
        "try:\n    agents.make('broken', 'rlhf/TokenBandit-v0')\nexcept ImportError as error:\n    print(error)\n"
        f"from agents.cli import app\napp({['train', *SMALL, '--algo', 'broken', '-f', 'logs']})"
    )
    monkeypatch.setenv("COLUMNS", "200")
    done = run_python(code, tmp_path, [folder])
    assert (
        "the algorithm 'broken' of broken-plugin 1.0, entry point broken = 'broken_module:Algorithm', cannot be "
        "imported: RuntimeError: needs a newer moon"
    ) in done.stdout
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("rlhf: the algorithm 'broken' of broken-plugin 1.0")
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "logs").exists()


@pytest.mark.slow
def test_two_plugins_of_one_name_are_both_named(tmp_path: Path) -> None:
    paths = [plugin(tmp_path / part, f"the-{part}", "theirs", f"{part}:Algorithm") for part in ("first", "second")]
    done = python("-m", "agents.cli", "train", *SMALL, "--algo", "theirs", path=paths, cwd=tmp_path)
    assert done.returncode == 2
    message = "the algorithm 'theirs' is in the-first 1.0 (first:Algorithm) and the-second 1.0 (second:Algorithm)"
    assert message in done.stderr
    compare = ["-m", "agents.cli", "compare", "--env", "rlhf/TokenBandit-v0", "--algos", "ppo,theirs", "-f", "c"]
    done = python(*compare, path=paths, cwd=tmp_path)
    assert done.returncode == 2 and message in done.stderr
    assert not (tmp_path / "c").exists()


@pytest.mark.slow
def test_a_comparison_names_the_plugin_that_cannot_be_imported(tmp_path: Path) -> None:
    folder = plugin(tmp_path, "broken-plugin", "broken", "no_module_of_this_name:Algorithm")
    compare = ["-m", "agents.cli", "compare", "--env", "rlhf/TokenBandit-v0", "--algos", "broken,random", "-f", "c"]
    done = python(*compare, *("--tokens", "12", "--seeds", "1", "--test-episodes", "2"), path=folder, cwd=tmp_path)
    assert done.returncode == 1, done.stderr
    assert "the algorithm 'broken' of broken-plugin 1.0" in (tmp_path / "c/broken/seed_00.error.json").read_text()
    assert (tmp_path / "c/random/seed_00/result.json").is_file()


def test_an_environment_of_continuous_actions_is_refused() -> None:
    import gymnasium as gym

    import agents

    env = gym.make("Pendulum-v1")
    with pytest.raises(ValueError, match=r"ppo writes text, one token an action.*actions are Box"):
        agents.make("ppo", env)
