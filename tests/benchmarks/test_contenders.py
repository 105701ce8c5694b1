"""The benchmarks run at a toy size, print what they claim, and give every contender the same work."""

from __future__ import annotations

import importlib
import itertools
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
TOY = ["--n-envs", "4", "--prompt-tokens", "4", "--new-tokens", "6", "--minibatches", "2", "--repeats", "1"]


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Import a module of `benchmarks`, which is not installed."""
    monkeypatch.syspath_prepend(str(ROOT))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    return lambda name: importlib.import_module(f"benchmarks.{name}")


@pytest.mark.parametrize(
    "train", ["full", pytest.param(1, marks=pytest.mark.slow), pytest.param("head", marks=pytest.mark.slow)]
)
def test_every_contender_samples_the_same_tokens_and_takes_the_same_steps(benchmark: Any, train: str | int) -> None:
    work = benchmark("work").Work(
        train=train, epochs=2, n_envs=4, prompt_tokens=4, new_tokens=6, minibatches=2, threads=1
    )
    for name in ("ours", "floor", "rows"):
        worker = benchmark("worker").Worker(benchmark("throughput").CONTENDERS[name], work)
        try:
            measured = worker.run("iterate")
        finally:
            worker.close()
        assert (measured.tokens, measured.optimizer_steps) == (4 * 6, 2 * 2), name
        assert measured.seconds > 0, name
        assert measured.peak > measured.above, name


def test_a_contender_that_did_other_work_is_an_error(benchmark: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    throughput, worker = benchmark("throughput"), benchmark("worker")
    short = worker.Measurement(1.0, 1.0, tokens=23, optimizer_steps=2, peak=2, above=1, profile={})
    monkeypatch.setattr(throughput, "interleave", lambda jobs, repeats: {n: {"iterate": [short]} for n in jobs})
    work = benchmark("work").Work(n_envs=4, new_tokens=6, minibatches=2)
    with pytest.raises(RuntimeError, match=r"ours did other work: .*\(23, 2\), not \(24, 2\)"):
        throughput.compare(work, ["ours"], 1)


def test_a_failing_contender_is_named(benchmark: Any) -> None:
    work = benchmark("work").Work(model="no-such-model", threads=1)
    worker = benchmark("worker").Worker("benchmarks.contenders.floor:Floor", work)
    try:
        with pytest.raises(
            RuntimeError, match=r"benchmarks\.contenders\.floor:Floor failed: ValueError: .*unknown model"
        ):
            worker.run("iterate")
    finally:
        worker.close()


def test_throughput_prints_contenders_and_ratios(benchmark: Any, capsys: pytest.CaptureFixture[str]) -> None:
    benchmark("throughput").main([*TOY, "--threads", "1", "--epochs", "1", "--contenders", "ours", "floor", "rows"])
    printed = capsys.readouterr().out
    for name in ("ours", "floor", "rows"):
        assert re.search(rf"^ +{name} \| +\d+ \(\d+-\d+\)", printed, re.MULTILINE), printed
    assert re.search(r"^ours / floor: \d+\.\d\d \(", printed, re.MULTILINE), printed


@pytest.mark.slow
def test_profile_names_every_part_and_the_parts_make_the_whole(
    benchmark: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    throughput = benchmark("throughput")
    throughput.main([*TOY, "--threads", "1", "--epochs", "1", "--profile"])
    rows = re.findall(r"^ *([a-zA-Z: ]+?) \| +([\d.]+) \| +([\d.]+) \|", capsys.readouterr().out, re.MULTILINE)
    parts = {name: (float(ours), float(floor)) for name, ours, floor in rows}
    assert set(parts) == {*throughput.PARTS, "whole"}
    whole = parts.pop("whole")
    for who in (0, 1):
        assert sum(times[who] for times in parts.values()) == pytest.approx(whole[who], rel=0.1, abs=1.0)
    for part in ("prefill and decode", "head and sampling", "reference KL", "update: forward", "update: backward"):
        assert min(parts[part]) > 0, part
    assert [parts[part][1] for part in ("environment", "buffer", "update: clipping")] == [0, 0, 0]


@pytest.mark.slow
def test_ragged_prints_both_rates(benchmark: Any, capsys: pytest.CaptureFixture[str]) -> None:
    benchmark("throughput").main([*TOY, "--threads", "1", "--ragged"])
    printed = capsys.readouterr().out
    assert re.search(r"ours \| .*tokens/s \| 24 \(24-24\) tokens per rollout", printed), printed
    assert re.search(r"^ours / waiting: \d", printed, re.MULTILINE), printed


def test_ragged_lengths_have_a_mean_of_a_third_of_the_limit(benchmark: Any) -> None:
    for limit in (9, 48):
        drawn = list(itertools.islice(benchmark("ragged").lengths(limit, seed=0), 20_000))
        assert (min(drawn), max(drawn)) == (1, limit)
        assert sum(drawn) / len(drawn) == pytest.approx(limit / 3, rel=0.03)
    again = list(itertools.islice(benchmark("ragged").lengths(48, seed=0), 20_000))
    assert drawn == again


@pytest.mark.slow
def test_scaling_prints_ratios_and_draws(benchmark: Any, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    picture = tmp_path / "scaling.png"
    benchmark("scaling").main(
        ["--toy", "--panels", "envs", "length", "trained", "--repeats", "1", "--threads", "1", "--output", str(picture)]
    )
    printed = capsys.readouterr().out
    for label in ("environments", "new tokens per completion"):
        assert f"{label} | rollout: ours" in printed
    assert re.search(r"from 2 to 4 environments: x \d", printed), printed
    assert re.search(r"from 2 to 4 new tokens: x [\d.]+ per token, the bare model x \d", printed), printed
    assert re.search(r"an epoch with k blocks trained, ours: \d+ \+ -?\d+ k microseconds per token", printed), printed
    assert picture.read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_memory_prints_the_ratio_and_the_large_peak(benchmark: Any, capsys: pytest.CaptureFixture[str]) -> None:
    benchmark("memory").main(["--toy", "--repeats", "1", "--threads", "1"])
    printed = capsys.readouterr().out
    assert re.search(r"^ +toy \| +-?\d+ \| +-?\d+ \| -?[\d.]+$", printed, re.MULTILINE), printed
    assert re.search(r"16 tokens in one minibatch, vocabulary 64: [\d.]+ GB", printed), printed


@pytest.mark.slow
def test_what_adapters_cost_is_printed(benchmark: Any, capsys: pytest.CaptureFixture[str]) -> None:
    benchmark("adapters").main(["--toy", "--repeats", "1", "--threads", "1"])
    printed = capsys.readouterr().out
    assert re.search(r"^\| lora \| [\d.]+ .+ \| [\d.]+ \| \d+ \| -?\d+ \|$", printed, re.MULTILINE), printed
    assert "time of an iteration, lora / full: " in printed


@pytest.mark.slow
def test_dialogs_and_groups_are_timed_in_two_builds(benchmark: Any, capsys: pytest.CaptureFixture[str]) -> None:
    benchmark("dialogs").main(["--toy", "--repeats", "1", "--before", str(ROOT)])
    printed = capsys.readouterr().out
    for build in ("before", "new"):
        assert re.search(rf"^\| {build} \| staggered \| [\d.]+ \| [\d.]+ \|  \|$", printed, re.MULTILINE), printed
        assert re.search(rf"^\| {build} \| group \| [\d.]+ \| [\d.]+ \| [\d.]+ \|$", printed, re.MULTILINE), printed
    assert printed.count("- no group / group, time: ") == 2


def test_floor_of_a_trained_part_equals_the_whole_model(benchmark: Any) -> None:
    torch = pytest.importorskip("torch")
    work, floor = benchmark("work"), benchmark("contenders.floor")
    fresh = work.Work(work.FreshModel(vocab_size=50, n_layer=3, n_embd=16, n_head=2), prompt_tokens=4, new_tokens=5)
    model, _ = fresh.load()
    ids = torch.arange(18).view(2, 9)
    expected = model(ids).logits[:, -5:]
    for train in ("full", 2, "head"):
        trunk, tail = floor.split(model, train)
        inputs = ids if trunk is None else trunk(ids)
        torch.testing.assert_close(tail(inputs, 5), expected)


@pytest.fixture
def checkouts(tmp_path: Path) -> list[str]:
    """Two folders whose `rlhf` says what it was called with and works for a while, or fails."""
    program = "import sys, time, pathlib\ndef app():\n    print('called', *sys.argv[1:])\n    {body}\n"
    bodies = {"works": "sum(range(10**6))", "fails": "raise ValueError('no such flag')"}
    for name, body in bodies.items():
        (tmp_path / name / "agents").mkdir(parents=True)
        (tmp_path / name / "agents" / "__init__.py").touch()
        (tmp_path / name / "agents" / "cli.py").write_text(program.format(body=body))
    return [str(tmp_path / name) for name in bodies]


@pytest.mark.skipif(shutil.which("taskset") is None, reason="needs Linux's taskset")
def test_side_by_side_prints_a_ratio_per_pair_and_a_failing_runs_error(
    benchmark: Any, checkouts: list[str], capfd: pytest.CaptureFixture[str]
) -> None:
    works, fails = checkouts
    core = str(min(os.sched_getaffinity(0)))
    benchmark("side_by_side").main(["--pairs", "2", "--cores", core, core, works, works, "train"])
    printed = capfd.readouterr().out
    assert re.search(r"^pair 2, seconds of CPU .*: old \d.*, new \d.*, ratio \d\.\d{3}$", printed, re.MULTILINE), (
        printed
    )
    assert re.search(r"^new / old in seconds of CPU: \d\.\d{3} ± \d\.\d{3}", printed, re.MULTILINE), printed
    with pytest.raises(subprocess.CalledProcessError):
        benchmark("side_by_side").main(["--pairs", "1", "--cores", core, core, works, fails])
    assert "ValueError: no such flag" in capfd.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("name", ["grpo", "rloo"])
@pytest.mark.parametrize(("train", "frozen"), [("full", False), (1, False), (1, True)])
def test_trl_samples_the_same_tokens_and_takes_the_same_steps(
    benchmark: Any, name: str, train: str | int, frozen: bool
) -> None:
    work = benchmark("work").Work(
        train=train, epochs=2, n_envs=4, prompt_tokens=4, new_tokens=6, minibatches=2, threads=1
    )
    worker = benchmark("worker").Worker(benchmark("throughput").CONTENDERS[name], work, frozen=frozen)
    try:
        for _ in range(2):
            measured = worker.run("iterate")
            assert (measured.tokens, measured.optimizer_steps) == (4 * 6, 2 * 2)
    finally:
        worker.close()
