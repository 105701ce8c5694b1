"""The benchmark of the loop says what its runs came to, also where that is not what one hoped for."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def loop(monkeypatch: pytest.MonkeyPatch) -> Any:
    """`benchmarks.loop`, which is not installed."""
    monkeypatch.syspath_prepend(str(ROOT))
    return importlib.import_module("benchmarks.loop")


def report(golds: list[float], spammers: list[str]) -> dict[str, Any]:
    """A run's report with these figures of gold, round by round, in which b clicks at random."""
    rounds: list[dict[str, Any]] = []
    for number, gold in enumerate(golds):
        estimates = {"gold": {"mean": gold, "sem": 0.01}, "kl": {"mean": 2.0 * number, "sem": 0.1}}
        asked = {"judgements": 600, "planted": ["b"], "spammers": spammers} if number else {}
        rounds.append({"round": number, "tokens": 8192 * number, "estimates": estimates, **asked})
    return {"judges": ["gold"], "scorer": "gold", "rounds": rounds, "wall": 10.0}


@pytest.mark.parametrize(
    ("last", "rises", "beats"),
    [(0.7, "yes", "yes"), (0.65, "yes", "NO"), (0.55, "NO", "NO")],
)
def test_it_says_whether_gold_rises_and_beats_one_round(
    loop: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], last: float, rises: str, beats: str
) -> None:
    asked: list[tuple[Any, ...]] = []

    def run(name: str, seed: int, rounds: int, labels: int, tokens: int, folder: Path, further: Any) -> Any:
        asked.append((name, seed, rounds, labels, tokens, further))
        shift = 0.1 * seed  # what the seeds differ in is the same in both arms
        if name == "loop":
            return report([0.5 + shift, 0.55 + shift, 0.6 + shift, last + shift], ["b"])
        return report([0.5 + shift, 0.66 + shift], ["a", "b"])

    monkeypatch.setattr(loop, "run", run)
    loop.main(["--seeds", "2", "--noise", "0.2"])
    printed = capsys.readouterr().out
    assert {entry[:5] for entry in asked} == {
        ("loop", 0, 3, 200, 8192),
        ("loop", 1, 3, 200, 8192),
        ("one_round", 0, 1, 600, 24576),
        ("one_round", 1, 1, 600, 24576),
    }
    assert all(entry[5] == ["--noise", "0.2"] for entry in asked)
    assert f"| loop | 3 | 24,576 | {last + 0.05:.3f} ± 0.050 |" in printed
    assert f"it is {last - 0.66:.3f} ± 0.000 above one round" in printed
    assert "2 planted, 2 found, 0 others suspected" in printed
    assert f"gold rises every round on average: {rises}\n" in printed
    assert f"gold beats one round with as many labels on average: {beats}\n" in printed
    assert f"gold rises by 0.050 ± 0.000, 0.050 ± 0.000, {last - 0.6:.3f} ± 0.000 in the rounds" in printed


def test_a_difference_is_clear_by_a_t_interval(loop: Any) -> None:
    """By hand: three seeds take 4.303 standard errors. Here they are 2.6 (mean 1.5, deviation 1) and 5.2."""
    assert not loop.is_clear([0.5, 1.5, 2.5])
    assert loop.is_clear([2.0, 3.0, 4.0])
    assert not loop.is_clear([3.0])


@pytest.mark.slow
def test_it_runs(loop: Any, capsys: pytest.CaptureFixture[str]) -> None:
    small = ["--env", "rlhf/TokenBandit-v0", "--n-envs", "32", "-params", "batch_size:48", "--test-episodes", "4"]
    loop.main(["--seeds", "1", "--rounds", "2", "--labels", "8", "--tokens", "96", "--reward-epochs", "1", *small])
    printed = capsys.readouterr().out
    assert "| loop | 2 | 192 |" in printed
    assert "| one round | 1 | 192 |" in printed
    assert "token-bandit beats one round with as many labels on average: " in printed
