"""`benchmarks.gpu`: its checks fail where something is wrong, it keeps to its time, and all of it runs on a CPU."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

sys.path.append(str(Path(__file__).resolve().parents[2]))  # benchmarks are no part of the wheel
from benchmarks.gpu import __main__ as command
from benchmarks.gpu import checks
from benchmarks.gpu.parts import Outcome, Part, Setting, SkippedPart, run_parts, show

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")  # peft's

SMALL = Setting("cpu", small=True)


def skip(setting: Setting) -> Outcome:
    raise SkippedPart("no peft")


def fall(setting: Setting) -> Outcome:
    raise RuntimeError("CUDA is out of memory\nand more lines")


PARTS = [
    Part("equal", 1, lambda _: Outcome.at_most(difference=(1e-6, 1e-4))),
    Part("unequal", 1, lambda _: Outcome.at_most(difference=(0.5, 1e-4))),
    Part("no number", 1, lambda _: Outcome.at_most(difference=(float("nan"), 1e-4))),
    Part("broken", 1, fall),
    Part("lacking", 1, skip),
    Part("long", 1000, lambda _: Outcome({"tokens/s": 1.0})),
    Part("speed", 1, lambda _: Outcome({"tokens/s": 12345.6})),
]


def test_a_failed_check_is_shown_with_its_figures_and_the_others_go_on() -> None:
    rows = list(run_parts(PARTS, Setting("cpu"), limit=100))
    assert [row.state for row in rows] == ["ok", "FAIL", "FAIL", "FAIL", "skipped", "skipped", ""]
    lines = [show(row) for row in rows]
    assert "difference 0.5 (at most 0.0001)" in lines[1]
    assert "RuntimeError: CUDA is out of memory" in lines[3]
    assert "no peft" in lines[4]
    assert "s left, may need 1000" in lines[5]
    assert "tokens/s 12,346" in lines[6]


@pytest.mark.parametrize(("parts", "code"), [(PARTS, 1), ([PARTS[0], *PARTS[4:]], 0)], ids=["failed", "passed"])
def test_a_failed_check_is_exit_code_1_and_stands_in_the_files(
    parts: list[Part], code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(command, "PARTS", parts)
    assert command.main(["--device", "cpu", "--out", str(tmp_path / "out")]) == code
    printed = capsys.readouterr().out
    assert (tmp_path / "out" / "gpu.txt").read_text() == printed
    rows = json.loads((tmp_path / "out" / "gpu.json").read_text())["rows"]
    assert [row["part"] for row in rows] == [part.name for part in parts]
    assert [row["state"] for row in rows].count("FAIL") == 3 * code
    assert f"1 checks passed, {3 * code} failed, 1 measurements, 2 skipped" in printed


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_so_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        command.main([])
    assert end.value.code == 2
    assert "device 'cuda': " in capsys.readouterr().err


@pytest.mark.parametrize("part", checks.PARTS, ids=lambda part: part.name)
def test_the_checks_pass_on_any_device(part: Part, any_device: str) -> None:
    outcome = part.run(Setting(any_device, small=True))
    assert outcome.passed, outcome


def test_the_checks_notice_what_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    right = checks.TokenPolicy.evaluate_actions

    def wrong(self: Any, *args: Any) -> Any:
        values, log_probs, entropies = right(self, *args)
        return values, log_probs + 1e-3, entropies

    monkeypatch.setattr(checks.TokenPolicy, "evaluate_actions", wrong)
    assert not checks.check_ratio(SMALL).passed
    assert not checks.check_adapters(SMALL).passed


@pytest.mark.slow  # it starts processes for the iterations
def test_all_of_it_runs_in_tiny_sizes(any_device: str, tmp_path: Path) -> None:
    assert command.main(["--device", any_device, "--small", "--out", str(tmp_path)]) == 0
    rows = json.loads((tmp_path / "gpu.json").read_text())["rows"]
    assert [row["state"] for row in rows] == ["ok"] * 9 + [""] * (len(command.PARTS) - 9)
    assert all(value is not None for row in rows for value in row["figures"].values())
    assert {"update: backward %", "peak GB"} <= rows[-1]["figures"].keys()
