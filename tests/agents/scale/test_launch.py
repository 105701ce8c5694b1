"""`rlhf train --nproc`, as a user starts it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from agents.scale.launch import LAUNCHER, _explain, leave_to_launcher

ROOT = Path(__file__).parents[3]
REWARD = """
import os, signal, time
from pathlib import Path

calls = 0

def score(completions, **_):
    global calls
    calls += 1
    if os.environ.get("RANK") == "1" and calls == 2:
        Path("killed").write_text(str(time.time()))
        os.kill(os.getpid(), signal.SIGKILL)
    return [float(len(text)) for text in completions]
"""
COMMAND = ["train", "--env", "rlhf/TokenBandit-v0", "--n-envs", "12", "-n", "360", "--nproc", "2", "--eval-freq", "0"]
COMMAND += ["--test-episodes", "4", "--no-progress"]


def rlhf(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    env = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "agents.cli", *arguments]
    return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, check=False, timeout=300)


@pytest.mark.slow
def test_a_killed_rank_ends_the_run_and_is_named(tmp_path: Path) -> None:
    (tmp_path / "dies.py").write_text(REWARD, encoding="utf-8")
    done = rlhf(tmp_path, *COMMAND, "--reward", "dies:score", "-params", "n_steps:6")
    assert time.time() - float((tmp_path / "killed").read_text()) < 60
    assert done.returncode == 1
    said = done.stderr.splitlines()
    assert said[-1].startswith("rlhf: rank 1 of 2 (process ")
    assert said[-1].endswith(") was killed by SIGKILL; the other was ended too")
    assert "Traceback" not in done.stderr
    assert "go on with: rlhf train --resume" in done.stdout + done.stderr  # said by rank 0


@pytest.mark.slow
def test_a_signal_to_the_launcher_ends_all_ranks_with_a_checkpoint(tmp_path: Path) -> None:
    env = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "agents.cli", *COMMAND, "-n", "100k", "--progress"]
    with (tmp_path / "said").open("w+", encoding="utf-8") as said:
        process = subprocess.Popen(command, cwd=tmp_path, env=env, stdout=said, stderr=said)
        for _ in range(3000):
            if "tokens/s" in (tmp_path / "said").read_text(encoding="utf-8") or process.poll() is not None:
                break
            time.sleep(0.1)
        process.terminate()
        assert process.wait(100) == 143
    text = (tmp_path / "said").read_text(encoding="utf-8")
    assert "SIGTERM: the run is saved in logs/ppo/TokenBandit-v0_1/checkpoints/" in text
    assert text.splitlines()[-1] == "SIGTERM: the 2 ranks were ended"
    assert len(list((tmp_path / "logs" / "ppo" / "TokenBandit-v0_1" / "checkpoints").iterdir())) == 1


def test_mistakes_are_told_once_and_before_ranks_start(tmp_path: Path) -> None:
    done = rlhf(tmp_path, *COMMAND, "--algo", "ppoo")
    assert done.returncode == 2
    assert done.stderr.count("unknown algorithm") == 1


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["-params", "n_stepz:6"], "ppo takes no argument 'n_stepz'; nearest: n_steps"),  # each rank sees it
        (["--log-folder", "file"], "cannot write the run's folder file/ppo/TokenBandit-v0_1: "),  # the first one alone
    ],
)
def test_a_mistake_that_ranks_find_is_told_once_with_the_code_of_one_process(
    tmp_path: Path, more: list[str], message: str
) -> None:
    (tmp_path / "file").touch()
    done = rlhf(tmp_path, *COMMAND, *more)
    errors = [line for line in done.stderr.splitlines() if line.startswith("rlhf: ")]
    assert done.returncode == 2 and len(errors) == 1 and message in errors[0]


def test_what_ranks_fail_by_is_told_once_before_what_became_of_them(tmp_path: Path) -> None:
    (tmp_path / "fails.py").write_text("def score(completions, **_):\n    raise OSError('no server')\n")
    done = rlhf(tmp_path, *COMMAND, "--reward", "fails:score", "-params", "n_steps:6", "--progress")
    errors = [line for line in done.stderr.splitlines() if line.startswith("rlhf: ")]
    assert done.returncode == 1 and "no server" in errors[0]
    assert len({*errors}) == len(errors) and "ended with the exit code 1, see above" in errors[-1]


def test_a_rank_whose_launcher_is_another_process_speaks_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv(LAUNCHER, f"{os.getpid()} {tmp_path}")
    assert not leave_to_launcher("wrong", 2) and not [*tmp_path.iterdir()]
    monkeypatch.setenv(LAUNCHER, f"{os.getppid()} {tmp_path}")
    assert not leave_to_launcher("interrupted", 130)
    assert leave_to_launcher("wrong", 2) and (tmp_path / "2-1").read_text() == "wrong"


@pytest.mark.parametrize(
    ("codes", "said"),
    [
        ((1, -signal.SIGTERM), "rank 0 of 2 (process 70) ended with the exit code 1, see above; "),
        ((-signal.SIGTERM, 2), "rank 1 of 2 (process 71) ended with the exit code 2, see above; "),
        ((1, -signal.SIGKILL), "rank 1 of 2 (process 71) was killed by SIGKILL; "),
        ((-signal.SIGTERM, -signal.SIGKILL), "rank 1 of 2 (process 71) was killed by SIGKILL; "),
        ((255, -signal.SIGTERM), "rank 0 of 2 (process 70) ended with the exit code 255, see above; "),
        ((143, 1), "rank 0 of 2 (process 70) ended with the exit code 143, see above; "),
    ],
)
def test_a_rank_that_the_launcher_ended_is_not_named_as_the_one_that_failed(codes: tuple[int, int], said: str) -> None:
    failures = {rank: SimpleNamespace(exitcode=code, pid=70 + rank, timestamp=0) for rank, code in enumerate(codes)}
    assert _explain(failures, 2) == said + "the other was ended too"


def test_a_signal_to_a_rank_is_told_as_what_it_is() -> None:
    failures = {rank: SimpleNamespace(exitcode=143, pid=70 + rank, timestamp=0) for rank in range(2)}
    assert _explain(failures, 2) == "a rank got SIGTERM, and all 2 have ended, see above"


@pytest.mark.slow
def test_a_signal_to_one_rank_ends_all_with_a_checkpoint_and_the_launcher_with_1(tmp_path: Path) -> None:
    (tmp_path / "signals.py").write_text(REWARD.replace("SIGKILL", "SIGTERM"), encoding="utf-8")
    done = rlhf(tmp_path, *COMMAND, "--reward", "signals:score", "-params", "n_steps:6")
    assert done.returncode == 1
    said = done.stderr.splitlines()
    assert said[-1] == "rlhf: a rank got SIGTERM, and all 2 have ended, see above"
    assert "rank 1 was ended by SIGTERM" in done.stdout + done.stderr
    assert "SIGTERM: the run is saved in logs/ppo/TokenBandit-v0_1/checkpoints/" in done.stdout + done.stderr
