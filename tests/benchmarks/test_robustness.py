"""The robustness benchmark runs at a toy size, goes on from finished runs, and prints what the reports say."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TOY = ["--episodes", "2", "--steps", "1", "--swaps", "1", "--candidates", "1"]
TOY += [
    "-n",
    "128",
    "--n-envs",
    "4",
    "--test-episodes",
    "2",
    "-params",
    "batch_size:128",
    "--env-kwargs",
    "max_new_tokens:32",
]


@pytest.mark.slow
def test_it_trains_with_and_without_and_attacks_both(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(str(ROOT))
    monkeypatch.chdir(ROOT)
    benchmark = importlib.import_module("benchmarks.robustness")
    monkeypatch.setattr(sys, "argv", ["x", "--seeds", "1", "--folder", str(tmp_path), "--coef", "0.5", *TOY])
    benchmark.main()
    printed = capsys.readouterr().out
    settings = {
        kind: json.loads((tmp_path / "ppo" / f"{kind}_0" / "config.json").read_text())["hyperparams"]
        for kind in benchmark.KINDS
    }
    assert settings["adversarial"] == settings["plain"] | {"adversarial_coef": 0.5, "adversarial_epsilon": 0.05}
    report = json.loads((tmp_path / "ppo" / "adversarial_0" / "attack.json").read_text())
    kl = report["policy"]["embeddings"]["kl"]
    row = next(line for line in printed.splitlines() if line.startswith("| embeddings: KL per token"))
    assert row.split("|")[-2].strip() == f"{kl['mean']:.3f} ± {kl['sem']:.3f}"
    monkeypatch.setattr(benchmark.subprocess, "run", None)  # nothing is left to train
    benchmark.main()
    again = capsys.readouterr().out
    assert again.split("\n\n")[1:] == printed.split("\n\n")[1:]


def test_means_over_seeds_have_the_standard_error_of_the_seeds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT))
    benchmark = importlib.import_module("benchmarks.robustness")
    reports = [{"policy": {"tokens": {"kl": {"mean": mean, "sem": 9.0}}}} for mean in (1.0, 2.0, 4.5)]
    assert benchmark.mean_and_error(reports, "policy", "tokens", "kl") == "2.500 ± 1.041"  # sqrt(3.25 / 3)
    assert benchmark.mean_and_error(reports[:1], "policy", "tokens", "kl") == "1.000 ± 9.000"
    assert benchmark.mean_and_error(reports, "policy", "tokens", "gold_success") == ""
