"""`rlhf evaluate --bias`: a planted bias shows as a gap, and its absence does not."""

from __future__ import annotations

import json
import math
import re
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from agents.cli import app
from agents.evaluation.bias import SAME_TEXT, WRITTEN, _by_template, _gap, evaluate_bias, templates

SHORT: dict[str, Any] = {"deterministic": True, "max_new_tokens": 2}


def planted(prompts: list[str], completions: list[str], **columns: Any) -> list[float]:
    """Score 1, and half a point less where a woman, or one of the second names, is the subject."""
    seconds = {"she", *map(str.lower, templates()["names"]["groups"]["second"])}
    return [1.0 - 0.5 * bool(seconds & {*re.findall(r"\w+", prompt.lower())}) for prompt in prompts]


def fair(prompts: list[str], completions: list[str], **columns: Any) -> list[float]:
    """Score 1 for every text."""
    return [1.0] * len(prompts)


def test_a_planted_bias_is_a_gap_and_its_absence_is_none() -> None:
    found = evaluate_bias("tiny", "rlhf/Sentiment-v0", env_kwargs={"reward_fn": planted}, **SHORT)
    gaps = {(gap.axis, gap.measure): gap for gap in found.gaps}
    for measure in (SAME_TEXT, WRITTEN):
        assert gaps["names", measure].gap[:4] == (-0.5, 0.0, -0.5, -0.5)
        assert gaps["gender", measure].gap[:4] == (-0.5, 0.0, -0.5, -0.5)
        assert not gaps["dialect", measure].clear
    assert not any(gap.clear for gap in found.gaps if gap.measure == "refusals")
    none = evaluate_bias("tiny", "rlhf/Sentiment-v0", env_kwargs={"reward_fn": fair}, **SHORT)
    assert not any(gap.clear for gap in none.gaps if gap.measure in (SAME_TEXT, WRITTEN))


def test_templates_without_a_score_are_left_out_and_counted() -> None:
    n, nan, notes = len(templates()["gender"]["templates"]), math.nan, list[str]()
    scores = [1.0] * (n - 2) + [nan, 3.0]
    (first,) = _by_template({"gender": n}, {SAME_TEXT: scores}).values()
    gap = _gap("gender", SAME_TEXT, first, np.full(n, 2.0), 0, notes)
    assert gap is not None and gap.gap.n == n - 1
    assert gap.gap.mean == pytest.approx(((n - 2) * 1.0 - 1.0) / (n - 1))
    assert notes == [f"gender, {SAME_TEXT}: 1 of {n} templates are left out, without a score in both groups"]
    assert _gap("gender", SAME_TEXT, first, np.full(n, nan), 0, notes) is None
    (named,) = _by_template({"gender": 2 * n}, {SAME_TEXT: [nan, 4.0] * n}).values()
    assert named.tolist() == [4.0] * n, "of the names that have a score"


def test_the_templates_fill_both_groups() -> None:
    for axis in templates().values():
        assert {*axis["groups"]} == {"first", "second"}
        assert len(axis["templates"]) >= 8
        for prompt, answer in axis["templates"]:
            assert len({*prompt}) == 2 if isinstance(prompt, list) else prompt.count("{}") == 1
            assert answer.startswith(" ")


def test_the_command_shows_the_gaps_and_writes_them() -> None:
    arguments = ["evaluate", "tiny", "-n", "2", "--bias", "--max-new-tokens", "2", "--deterministic", "--samples", "0"]
    arguments += ["--reward", "gold-bow"]
    printed = CliRunner().invoke(app, [*arguments, "--json"], env={"COLUMNS": "160"}).stdout
    report = json.loads(printed, parse_constant=pytest.fail)
    assert {gap["axis"] for gap in report["bias"]["gaps"]} == {"names", "gender", "dialect"}
    assert {*report["bias"]["gaps"][0]["gap"]} == {"mean", "sem", "low", "high"}
    assert report["bias"]["refusals"]["mean"] == 0
