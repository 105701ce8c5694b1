from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from stable_baselines3.common.logger import configure

from agents.evaluation.statistics import Estimate
from agents.training.report import plot_curves, read_progress


@pytest.fixture
def progress(tmp_path: Path) -> Path:
    logger = configure(str(tmp_path), ["csv"])
    for step in (100, 200, 300):
        logger.record("time/total_timesteps", step)
        logger.record("rlhf/reward", step / 100)
        logger.record("rlhf/samples", 'a "quoted", text\nover two lines', exclude=())
        if step == 300:
            logger.record("rlhf/kl", 1.5)
        logger.dump(step)
    logger.close()
    return tmp_path / "progress.csv"


def test_progress_is_read_as_it_was_logged(progress: Path) -> None:
    curves = read_progress(progress)
    np.testing.assert_array_equal(curves["rlhf/reward"], [[100, 200, 300], [1, 2, 3]])
    np.testing.assert_array_equal(curves["rlhf/kl"], [[300], [1.5]])
    assert "rlhf/samples" not in curves


def test_curves_are_drawn(progress: Path, tmp_path: Path) -> None:
    held_out = {0: {"reward": Estimate(0, 0.1, -0.2, 0.2, 9)}, 300: {"reward": Estimate(3, 0.1, 2.8, 3.2, 9)}}
    plain, full = tmp_path / "plain.png", tmp_path / "full.png"
    curves = read_progress(progress)
    plot_curves({"rlhf/reward": curves["rlhf/reward"]}, plain)
    plot_curves(curves, full, title="a run", kl_target=2.0, held_out=held_out)
    small, large = (np.asarray(Image.open(path).convert("RGB")) for path in (plain, full))
    assert large.shape[1] > small.shape[1]  # a second panel
    assert (np.abs(large.astype(int) - (0xC4, 0x50, 0x1B)).sum(axis=2) < 30).any()  # the held-out points
    assert (np.abs(small.astype(int) - (0x24, 0x63, 0xA6)).sum(axis=2) < 30).any()  # the curve


def test_a_run_without_rollouts_still_gets_a_picture(tmp_path: Path) -> None:
    assert plot_curves({}, tmp_path / "empty.png").is_file()
