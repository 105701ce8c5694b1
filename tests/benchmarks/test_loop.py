"""The benchmark of the loop judges its runs rightly, also where the outcome is not what one hoped for."""

from __future__ import annotations

import importlib
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def loop(monkeypatch: pytest.MonkeyPatch) -> Any:
    """`benchmarks.loop`, which is not installed."""
    monkeypatch.syspath_prepend(str(ROOT))
    return importlib.import_module("benchmarks.loop")


def report(golds: list[float], spammers: list[str]) -> dict[str, Any]:
    """A run's report with these values of gold, round by round, in which b is a spammer."""
    rounds: list[dict[str, Any]] = []
    for number, gold in enumerate(golds):
        estimates = {"gold": {"mean": gold, "sem": 0.01}, "kl": {"mean": 2.0 * number, "sem": 0.1}}
        asked = {"judgements": 600, "planted": ["b"], "spammers": spammers} if number else {}
        rounds.append({"round": number, "tokens": 8192 * number, "estimates": estimates, **asked})
    return {"judges": ["gold"], "scorer": "gold", "rounds": rounds, "wall": 10.0}


@pytest.mark.parametrize(("last", "rises", "beats"), [(0.7, True, True), (0.65, True, False), (0.55, False, False)])
def test_it_judges_whether_gold_rises_and_beats_one_round(loop: Any, last: float, rises: bool, beats: bool) -> None:
    arms: dict[str, list[Any]] = {"loop": [], "one round": []}
    for shift in (0.0, 0.1):  # the difference between the seeds is the same in both arms, and so goes away
        arms["loop"].append(report([0.5 + shift, 0.55 + shift, 0.6 + shift, last + shift], ["b"]))
        arms["one round"].append(report([0.5 + shift, 0.66 + shift], ["a", "b"]))
    outcome = loop.judge(arms, seconds=loop.MAX_SECONDS + 1)
    np.testing.assert_allclose(outcome.rises, [[0.05, 0.05], [0.05, 0.05], [last - 0.6, last - 0.6]])
    np.testing.assert_allclose(outcome.better, [last - 0.66] * 2)
    assert (outcome.planted, outcome.found, outcome.wrong) == (2, 2, 0)
    assert list(outcome.checks.values()) == [rises, beats, beats, False]  # equal differences leave no doubt
    assert all(loop.judge(arms, seconds=1.0).checks.values()) == beats


def test_annotators_who_are_no_spammers_and_are_taken_for_some_are_counted(loop: Any) -> None:
    assert loop.count_spammers([report([0.5, 0.6], ["a", "b"]), report([0.5, 0.6], ["c"])]) == (2, 1, 2)


def test_both_arms_get_as_many_labels_and_tokens(loop: Any, tmp_path: Path) -> None:
    arms = loop.sizes(3, 200, 8192)
    assert {(rounds * labels, rounds * tokens) for rounds, labels, tokens in arms.values()} == {(600, 24576)}
    assert [rounds for rounds, _, _ in arms.values()] == [3, 1]
    line = loop.command("one_round", 1, arms["one round"], tmp_path, ["--noise", "0.2"])
    given = dict(pairwise(line))
    assert [given[flag] for flag in ("--rounds", "--labels", "-n", "--seed", "--noise", "-f")] == [
        "1",
        "600",
        "24576",
        "1",
        "0.2",
        str(tmp_path),
    ]


def test_a_difference_is_clear_by_a_t_interval(loop: Any) -> None:
    """By hand: three seeds take 4.303 standard errors. Here they are 2.6 (mean 1.5, deviation 1) and 5.2."""
    assert not loop.is_clear([0.5, 1.5, 2.5])
    assert loop.is_clear([2.0, 3.0, 4.0])
    assert not loop.is_clear([3.0])


@pytest.mark.slow
def test_it_runs(loop: Any, capsys: pytest.CaptureFixture[str]) -> None:
    small = ["--env", "rlhf/TokenBandit-v0", "--n-envs", "32", "-params", "batch_size:48", "--test-episodes", "4"]
    outcome = loop.main(
        ["--seeds", "1", "--rounds", "2", "--labels", "8", "--tokens", "96", "--reward-epochs", "1", *small]
    )
    printed = capsys.readouterr().out
    rows = [[cell.strip() for cell in line.split("|")[1:4]] for line in printed.splitlines() if line.startswith("| ")]
    assert rows[1:] == [
        ["loop", "0", "0"],
        ["loop", "1", "96"],
        ["loop", "2", "192"],
        ["one round", "0", "0"],
        ["one round", "1", "192"],
    ]
    assert np.shape(outcome.rises) == (2, 1)
    assert np.isfinite([*outcome.better, *np.ravel(outcome.rises)]).all()
