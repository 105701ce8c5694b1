"""The experiment on over-optimisation: its estimator against enumeration, and a toy run that goes on where it was."""

from __future__ import annotations

import importlib
import itertools
import json
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]
TOY = ["--seeds", "1", "--jobs", "1", "--pairs", "8", "--held-out", "8", "--members", "2", "--tokens", "256"]
TOY += ["--every", "256", "--n-envs", "16", "--episodes", "4", "--prompts", "2", "--pool", "4"]


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Import the module of `benchmarks`, which is not installed."""
    monkeypatch.syspath_prepend(str(ROOT))
    return importlib.import_module("benchmarks.overoptimisation")


@pytest.mark.parametrize("n", [1, 2, 3, 6])
def test_best_of_n_is_the_mean_over_all_draws_of_n(benchmark: Any, n: int) -> None:
    generator = np.random.default_rng(0)
    proxy, gold = generator.normal(size=(2, 3, 6))  # 3 prompts, a pool of 6
    best = [
        max(draw, key=lambda i: proxy[prompt, i]) for prompt in range(3) for draw in itertools.combinations(range(6), n)
    ]
    prompts = np.repeat(range(3), math.comb(6, n))
    point = benchmark.best_of_n(proxy, gold, n)
    assert point["proxy"] == pytest.approx(proxy[prompts, best].mean())
    assert point["gold"] == pytest.approx(gold[prompts, best].mean())
    assert point["kl"] == pytest.approx(math.log(n) - (n - 1) / n)


def test_the_weights_of_a_large_pool_sum_to_one(benchmark: Any) -> None:
    for n in (1, 2, 64, 1000):
        assert benchmark.best_of_n_weights(1000, n).sum() == pytest.approx(1)
    with pytest.raises(ValueError, match="best of 5 in a pool of 4 samples: n must be from 1 to 4"):
        benchmark.best_of_n_weights(4, 5)


@pytest.mark.slow
def test_a_toy_run_prints_its_tables_draws_its_curves_and_goes_on(
    benchmark: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (docs := tmp_path / "docs").mkdir()
    monkeypatch.setitem(benchmark.PPO, "batch_size", 256)
    monkeypatch.setitem(benchmark.FIT, "epochs", 1)
    monkeypatch.setattr(benchmark, "N_REFERENCES", 16)
    monkeypatch.setattr(sys, "argv", ["x", "--folder", str(tmp_path / "runs"), "--docs", str(docs), *TOY])
    benchmark.main()
    printed = capsys.readouterr().out
    assert "| tokens | KL, single | proxy, single | gold, single | KL, pessimistic |" in printed
    assert "| 512 |" in printed
    assert "| 4 | 0.64 |" in printed, "best of 4"
    assert printed.count("| 0 | single |") == printed.count("| 0 | pessimistic |") == 1
    assert (docs / "overoptimisation.png").read_bytes().startswith(b"\x89PNG")
    assert (docs / "overoptimisation.md").read_text().endswith(printed)

    finished = tmp_path / "runs" / "seed_0" / "ppo_single.json"
    points = json.loads(finished.read_text())
    points[0]["gold"] = 0.125
    finished.write_text(json.dumps(points))
    (tmp_path / "runs" / "seed_0" / "best_of_n.json").unlink()  # as if it had been interrupted
    monkeypatch.setattr(benchmark, "run_ppo", lambda *_: pytest.fail("a finished run was made again"))
    benchmark.main()
    assert "| 0.12 ± nan |" in capsys.readouterr().out
    monkeypatch.setattr(sys, "argv", [*sys.argv, "--k", "2"])
    with pytest.raises(SystemExit, match="results of other settings"):
        benchmark.main()
