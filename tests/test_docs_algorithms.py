"""docs/algorithms.md, followed to the letter: its files are written, installed, checked, trained and evaluated."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "algorithms.md").read_text(encoding="utf-8")
FILES = dict(re.findall(r"^<!-- file: (\S+) -->\n```\w+\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL))
RUNS = re.findall(r"^<!-- run -->\n```sh\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("page")
    for name, text in FILES.items():
        (folder / name).write_text(text, encoding="utf-8")
    return folder


def run(folder: Path, *command: str, path: Path | None = None) -> str:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *([str(path)] if path else [])])}
    done = subprocess.run(
        [sys.executable, *command],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=500,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_every_block_of_the_page_is_followed() -> None:
    assert PAGE.count("```") == 2 * (len(FILES) + len(RUNS))
    assert set(FILES) == {"clipped_rewards.py", "register.py", "pyproject.toml", "check.py", "train.py"}


def test_the_algorithm_passes_the_checks(folder: Path) -> None:
    run(folder, "check.py")


def test_the_algorithm_learns(folder: Path) -> None:
    before, after = map(float, run(folder, "train.py").strip().split("\n")[-1].split(" -> "))
    assert after > before + 0.03


def test_the_package_is_installed_and_the_commands_run(folder: Path, tmp_path: Path) -> None:
    target = tmp_path / "target"
    pip = [
        "-m",
        "pip",
        "install",
        "--quiet",
        "--no-index",
        "--no-deps",
        "--no-build-isolation",
        "--target",
        str(target),
    ]
    run(folder, *pip, ".")
    (tmp_path / "elsewhere").mkdir()
    for line in RUNS[0].strip().split("\n"):
        program, *arguments = shlex.split(line)
        assert program == "rlhf"
        output = run(tmp_path / "elsewhere", "-m", "agents.cli", *arguments, path=target)
    assert "reward" in output
    progress = tmp_path / "elsewhere" / "logs" / "clipped_a2c" / "TokenBandit-v0_1" / "progress.csv"
    assert "train/clipped" in progress.read_text().split("\n")[0]
