"""The comparison of settings on Sentiment: its arms, and what its report says of them."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import pytest

from agents.training.hyperparams import check_keys, default_hyperparams

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def defaults(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Import a module of `benchmarks`, which is not installed."""
    monkeypatch.syspath_prepend(str(ROOT))
    return importlib.import_module("benchmarks.defaults")


def test_every_arm_has_settings_that_its_algorithm_takes_and_one_of_them_is_the_default(defaults: Any) -> None:
    for algo, arms in defaults.ARMS.items():
        tried = [defaults.settings_of(algo, arm) for arm in ("former", *arms)]
        for settings in tried:
            check_keys("arms", algo, settings, algo)
        assert default_hyperparams(defaults.ENV, algo) in tried, algo
        assert all(tried.count(settings) == 1 for settings in tried), algo


def test_an_unknown_arm_is_refused_with_those_there_are(defaults: Any) -> None:
    with pytest.raises(ValueError, match=r"awr has no arm 'more': there are 'former', 'few, 2e-4'"):
        defaults.settings_of("awr", "more")


def result(defaults: Any, arm: str, seed: int, gain: float) -> dict[str, Any]:
    figures = dict.fromkeys(defaults.COLUMNS, 1.0) | {"gold gain": gain}
    return {"algo": "awr", "arm": arm, "seed": seed, "figures": figures, "samples": [["p", "a", f"b{seed}"]]}


def test_differences_count_the_seeds_of_both_arms_with_the_error_of_a_difference_of_means(defaults: Any) -> None:
    former = [result(defaults, "former", seed, gain) for seed, gain in ((0, 0.10), (1, 0.14), (2, 9.0))]
    few = [result(defaults, "few, 2e-4", seed, gain) for seed, gain in ((0, 0.20), (1, 0.26))]
    lines = defaults.report([*former, *few])
    assert any(line.startswith("| awr | few, 2e-4 | 2 | 0.230 ± 0.030 | 1.000 ± 0.000 |") for line in lines)
    # By hand: 0.23 - 0.12, and the root of 0.03 squared plus 0.02 squared.
    assert any(line.startswith("awr, few, 2e-4, less former, 2 seeds: gold gain +0.110 ± 0.036;") for line in lines)
    assert "- 'p': 'a' -> 'b0'" in lines


def test_what_a_folder_holds_is_not_run_again(defaults: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(defaults, "ProcessPoolExecutor", None)
    kept = result(defaults, "former", 3, 0.5)
    (tmp_path / "awr,former,seed=3.json").write_text(defaults.json.dumps(kept), encoding="utf-8")
    assert defaults.run_all(["awr"], ["former"], [3], tmp_path) == [kept]
    with pytest.raises(TypeError):
        defaults.run_all(["awr"], ["former"], [4], tmp_path)
