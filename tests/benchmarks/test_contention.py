"""The benchmark of contention runs its settings idle and busy, and ends its busy loops."""

from __future__ import annotations

import subprocess
from typing import Any

import pytest

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


@pytest.mark.slow
def test_a_run_takes_time() -> None:
    assert contention.run("chosen", "tiny", "full", "1") > 0
