"""The timing of runs with workers, small."""

from __future__ import annotations

import re

import pytest

from benchmarks.workers import main

pytest.importorskip("ray")


@pytest.mark.slow
def test_a_run_with_workers_is_timed_against_one_process(capfd: pytest.CaptureFixture[str]) -> None:
    given = ["--model", "tiny", "--n-envs", "4", "--new-tokens", "4", "--rollouts", "1", "--repeats", "1"]
    main([*given, "--async", "1", "--learner-threads", "1"])
    alone, worked, *_, ratio = capfd.readouterr().out.splitlines()
    assert re.fullmatch(r"0 workers: [\d.]+ tokens/s, 16 tokens in [\d.]+ s, [\d.]+ s of CPU, load [\d.]+", alone)
    assert re.search(r"of CPU, waited [\d.]+%, transferred [\d.]+%, load", worked)
    assert re.fullmatch(r"2 workers: median [\d.]+ tokens/s, [\d.]+ times the first", ratio)
