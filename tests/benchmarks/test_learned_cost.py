"""The benchmark of learned costs: who flags what, what is fitted to the flags, and that the multiplier rises."""

from __future__ import annotations

import importlib
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rlhf_envs.rewards import get_reward

pytest.importorskip("sqlalchemy")

ROOT = Path(__file__).resolve().parents[2]
SUBJECTS = ("plot", "film", "cast", "score", "story", "movie", "script", "end")


@pytest.fixture
def learned_cost(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(ROOT))
    return importlib.import_module("benchmarks.learned_cost")


def test_people_flag_by_the_rule_with_errors_of_their_own(learned_cost: Any) -> None:
    reviews = learned_cost.flagged_reviews
    assert [reviews.exaggerates(text) for text in ("The BEST, ever!", "a greater everyday mostly verb")] == [
        True,
        False,
    ]
    for person in reviews.PEOPLE:
        for text, chance in (("a great film", person.caught), ("a film", person.false_alarms)):
            flags = [bool(person(f"prompt {i}", text)) for i in range(2000)]
            assert np.mean(flags) == pytest.approx(chance, abs=0.03)
            assert flags[:20] == [bool(person(f"prompt {i}", text)) for i in range(20)]
    assert reviews.flag_chance("a great film") == pytest.approx(0.88)
    assert reviews.flag_chance("a film") == pytest.approx(0.05)


def test_the_cost_of_prose_comes_from_what_several_people_flagged(learned_cost: Any, tmp_path: Path) -> None:
    texts = [
        (f"the {subject} {i} ", f"was {'very great' if i % 3 == 0 else 'fine'}")
        for i in range(20)
        for subject in SUBJECTS
    ]
    from rlhf_envs.feedback import FeedbackStore

    figures = learned_cost.flagged_reviews.fit_cost(texts, tmp_path, seed=0, epochs=1)
    with FeedbackStore(tmp_path / "feedback.db") as store:
        judged = list(store.judgements())
    assert {one.annotator for one in judged} == {person.name for person in learned_cost.flagged_reviews.PEOPLE}
    assert figures["rows fitted"] + figures["rows held out"] == len(judged) == 2 * len(texts)
    great, fine = get_reward(tmp_path / "flagged")(["the music "] * 2, ["was very great", "was fine"])
    assert great > 2 * fine


def test_the_multiplier_rises_above_zero_on_letters(learned_cost: Any, capsys: pytest.CaptureFixture[str]) -> None:
    learned_cost.main(["--seeds", "1", "--texts", "300", "--epochs", "2", "--tokens", "6144", "--episodes", "32"])
    cost, limited = capsys.readouterr().out.splitlines()
    assert float(re.search(r"held-out AUC ([\d.]+)", cost)[1]) > 0.6  # type: ignore[index]
    assert float(re.search(r"multiplier ([\d.]+)", limited)[1]) > 0.05  # type: ignore[index]


@pytest.mark.slow  # 75 s of CPU
def test_a_limit_on_a_cost_learned_on_prose_keeps_the_rule_more(
    learned_cost: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    short = ["--texts", "600", "--tokens", "24576", "--episodes", "128"]
    learned_cost.main(["--task", "reviews", "--seeds", "1", "--split", "validation", *short])
    start, limited = (
        {name: float(value) for name, value in re.findall(r"([a-z' ]+) ([\d.]+)(?:,|;)", line)}
        for line in capsys.readouterr().out.splitlines()[-2:]
    )
    assert limited[" multiplier"] > 0
    assert limited[" learned cost"] < start[" learned cost"]
    assert limited[" breaks the rule"] < 0.8 * start[" breaks the rule"]
