"""The benchmark of contention runs its settings idle and busy, and ends its busy loops."""

from __future__ import annotations

import subprocess
from types import SimpleNamespace
from typing import Any

import pytest

from agents.training.threads import NUMBER, OWN, POLICY
from benchmarks import contention


def test_it_prints_the_ratio_of_each_setting(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    loops = []

    class Loop(subprocess.Popen[bytes]):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            loops.append(self)

    monkeypatch.setattr(subprocess, "Popen", Loop)
    monkeypatch.setattr(contention, "run", lambda *_: 2.0 if loops and loops[-1].poll() is None else 1.0)
    contention.main(["--repeats", "1", "--settings", "spin", "chosen"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[4:6] == ["| spin | 1.00 | 2.00 | 2.00 |", "| chosen | 1.00 | 2.00 | 2.00 |"]
    assert loops and all(loop.poll() is not None for loop in loops)


@pytest.mark.parametrize(
    ("setting", "told"), [("spin", {}), ("chosen", {}), ("one", {NUMBER: "1"}), ("passive", {POLICY: "passive"})]
)
def test_a_run_is_told_its_setting_and_no_other(
    monkeypatch: pytest.MonkeyPatch, setting: str, told: dict[str, str]
) -> None:
    seen: dict[str, str] = {}

    def run(command: list[str], env: dict[str, str], **_: Any) -> SimpleNamespace:
        seen.update({name: value for name, value in env.items() if name in OWN})
        return SimpleNamespace(stdout="2 0.5 0.7 9.0\n")

    for name in OWN:
        monkeypatch.setenv(name, "7")
    monkeypatch.setattr(subprocess, "run", run)
    assert contention.run(setting, "tiny", "full", "3") == 0.7
    assert seen == told


@pytest.mark.slow
def test_a_run_takes_time() -> None:
    assert contention.run("chosen", "tiny", "full", "1") > 0
