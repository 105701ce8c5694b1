from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from stable_baselines3.common.logger import configure

from agents import evaluate, make, plot
from agents.cli.tables import change_table
from agents.evaluation.statistics import Estimate
from agents.training.config import TrainConfig
from agents.training.report import TrainResult, plot_curves, read_progress

BANDIT = "rlhf/TokenBandit-v0"


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


def test_a_run_is_plotted_from_its_folder_while_it_trains_and_after(progress: Path, tmp_path: Path) -> None:
    run = {"algo": "ppo", "env": "rlhf/Sentiment-v0", "seed": 3, "kl_target": 2.0}
    (tmp_path / "config.json").write_text(json.dumps(run))
    titles = [axis.get_title(loc="left") for axis in plot(tmp_path).axes]
    assert titles == ["reward per episode", "KL to the reference, nats per episode"]
    estimate = {"mean": 1.0, "sem": 0.1, "low": 0.8, "high": 1.2}
    unknown = {"mean": 0.5, "sem": None, "low": None, "high": None}  # of a single value
    estimates = {"reward": estimate, "kl": unknown}
    part = {"episodes": 9, "prompts": "held-out prompts", "estimates": estimates}
    (tmp_path / "report.json").write_text(json.dumps({"n_timesteps": 300, "before": part, "after": part}))
    figure = plot(tmp_path, tmp_path / "plot.svg")
    assert [label.get_text() for label in figure.legends[0].texts][1] == "held-out prompts, 95%"
    assert figure._repr_png_().startswith(b"\x89PNG")
    assert "<svg" in (tmp_path / "plot.svg").read_text()


def test_what_is_no_run_is_not_plotted(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no run's folder with curves: it needs config.json and progress.csv"):
        plot(tmp_path)


def test_results_are_one_line_and_a_table_in_notebooks_where_models_write_no_markup() -> None:
    agent = make("ppo", BANDIT, n_envs=8, seed=0, batch_size=24)
    before, after = evaluate(agent, BANDIT, 8), evaluate(agent, BANDIT, 8, seed=1)
    hostile = replace(after.completions[0], completion="<script>\x1b[2J")
    after = replace(after, completions=[hostile, *after.completions[1:]])
    result = TrainResult(TrainConfig(env=BANDIT), Path("logs/run"), agent, before, after, 1.0)
    for shown in (repr(result), repr(after), repr(before.completions[0])):
        assert "array" not in shown
        assert len(shown) < 250
    assert repr(after).startswith(f"Evaluation(PPO on a fresh model on {BANDIT}, 8 ")
    assert f"reward {before.reward.mean():.3f} -> {after.reward.mean():.3f}" in repr(result)
    assert len(after.samples(8)) == after.different_prompts == 4, "each prompt once"
    assert "8 completions of 4 training prompts" in repr(after)
    assert change_table(result).caption is None
    agent.num_timesteps = 900
    resumed = change_table(replace(result, resumed_at=500))
    assert str(resumed.caption) == "before: 0 tokens; after: 900, of which 500 before this part of the run"
    for page in (result._repr_html_(), after._repr_html_()):
        assert str(after.estimates()["reward"]) in page
        assert "&lt;script&gt;\\x1b[2J" in page
        assert "<script>" not in page
