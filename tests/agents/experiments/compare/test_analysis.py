"""What results of runs, made up here, come to: ranks, frontier, thresholds, notes, and the tables that show them."""

from __future__ import annotations

from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from agents.experiments.compare.analysis import analyse
from agents.experiments.compare.config import CompareConfig
from agents.experiments.compare.plan import Outcome, plan
from agents.experiments.compare.plots import draw_plots
from agents.experiments.compare.report import to_markdown
from agents.experiments.pages import to_html, to_png
from agents.saving.provenance import provenance

KL = {"ppo-kl0.1": 8.0, "ppo-kl1.0": 2.0, "a2c-kl0.1": 9.0, "a2c-kl1.0": 3.0}
GOLD = {"ppo-kl0.1": 0.9, "ppo-kl1.0": 0.5, "a2c-kl0.1": 0.7, "a2c-kl1.0": 0.6}


def config(tmp_path: Path, **given: Any) -> CompareConfig:
    chosen: dict[str, Any] = dict(algos=["ppo", "a2c"], kl_coefs=[0.1, 1.0], tokens=1000, seeds=5, evaluations=2)
    return CompareConfig(**{**chosen, "folder": str(tmp_path), **given})


def result(run: Any, tokens: int = 1000, start: float = 0.1, shift: float = 0.0) -> dict[str, Any]:
    """A run that rises straight from `start` to its arm's gold, a bit more for each seed; 500 tokens a second."""
    name = run.arm.name
    end = GOLD[name] + 0.01 * run.seed + shift
    evaluations = []
    for step, share in ((0, 0.0), (500, 0.5), (1000, 1.0)):
        figures = {"reward": end * share, "gold": start + share * (end - start), "kl": KL[name] * share}
        estimates = {key: {"mean": value, "sem": 0.0, "low": value, "high": value} for key, value in figures.items()}
        samples = [{"prompt": "I <i>saw</i> |", "completion": " a\u202e film", "reward": 1.0}]
        evaluations.append(
            {"step": step, "tokens": step, "seconds": step / 500, "estimates": estimates, "samples": samples}
        )
    settings = {"kl_coef": run.arm.kl_coef, "hyperparams": {"n_epochs": 2}, "seed": run.seed}
    found = {"tokens": tokens, "seconds": 2.0, "judges": ["gold"], "reference": "tiny", "prompts": "abc"}
    return {**found, "config": settings, "evaluations": evaluations}


def outcomes(found: CompareConfig) -> list[Outcome]:
    return [Outcome(run, result(run), None) for run in plan(found)]


def test_arms_are_ranked_by_the_judge(tmp_path: Path) -> None:
    found = config(tmp_path)
    report = analyse(found, outcomes(found))
    assert report.metric == "gold"
    assert [row.name for row in report.arms] == ["ppo-kl0.1", "a2c-kl0.1", "a2c-kl1.0", "ppo-kl1.0"]
    best = report.arms[0]
    assert best.metrics["gold"].mean == pytest.approx(0.92)  # the middle three of five seeds
    assert best.per_seed == pytest.approx({str(seed): 0.9 + 0.01 * seed for seed in range(5)})
    assert [point.metric.mean for point in best.curve] == pytest.approx([0.1, 0.51, 0.92])
    assert best.gain == pytest.approx({"mean": 0.82, "standard_error": 0.01 * 2.5**0.5 / 5**0.5})
    assert report.notes == []


def test_the_frontier_is_what_nothing_beats_at_its_kl(tmp_path: Path) -> None:
    """The second has less than the first at more KL; the others have the most for at most their KL."""
    found = config(tmp_path)
    rows = analyse(found, outcomes(found)).arms
    assert {row.name for row in rows if row.on_frontier} == {"ppo-kl0.1", "a2c-kl1.0", "ppo-kl1.0"}


@pytest.mark.parametrize(
    ("threshold", "expected", "reached"),
    [
        (None, 0.51, [5, 5, 5, 4]),  # halfway between the start, 0.1, and the best, 0.92
        (0.65, 0.65, [5, 5, 0, 0]),
        (0.93, 0.93, [2, 0, 0, 0]),
        (0.0, 0.0, [5, 5, 5, 5]),
    ],
)
def test_runs_reach_a_threshold(threshold: float | None, expected: float, reached: list[int], tmp_path: Path) -> None:
    found = config(tmp_path, threshold=threshold)
    report = analyse(found, outcomes(found))
    assert report.threshold == pytest.approx(expected)
    assert [row.reached.reached for row in report.arms] == reached
    first = report.arms[0].reached
    assert first.seconds == first.tokens / 500  # type: ignore[operator]


def test_the_threshold_is_half_of_the_best_arms_own_rise(tmp_path: Path) -> None:
    """An arm that begins far below, such as random tokens, does not set it."""
    found = config(tmp_path)
    starts = {"ppo-kl0.1": 0.3, "a2c-kl1.0": -5.0}
    made = [Outcome(run, result(run, start=starts.get(run.arm.name, 0.3)), None) for run in plan(found)]
    assert analyse(found, made).threshold == pytest.approx((0.3 + 0.92) / 2)


def test_an_arm_that_is_not_trained_sets_no_threshold(tmp_path: Path) -> None:
    """Such as the best of n, which ends where it began: half of its rise would be reached before any training."""
    found = config(tmp_path)
    flat = {"ppo-kl0.1": 0.9}  # the best
    made = [Outcome(run, result(run, start=flat.get(run.arm.name, 0.1)), None) for run in plan(found)]
    for outcome in made:
        if outcome.run.arm.name in flat:
            for entry in outcome.result["evaluations"]:  # type: ignore[index]
                entry["estimates"]["gold"]["mean"] = 0.9
    report = analyse(found, made)
    assert report.arms[0].name == "ppo-kl0.1"
    second = report.arms[1]
    assert report.threshold == pytest.approx((0.1 + second.metrics["gold"].mean) / 2)


def test_a_point_stands_at_the_tokens_it_was_trained_for(tmp_path: Path) -> None:
    """Whole rollouts pass the step that was asked for; what is not trained stands at the step."""
    found = config(tmp_path, algos=["ppo"], kl_coefs=[0.1])
    made = outcomes(found)
    for outcome, tokens in zip(made, (640, 640, 640, 0, 640), strict=True):
        outcome.result["evaluations"][1]["tokens"] = tokens
    (row,) = analyse(found, made).arms
    assert [(point.step, point.tokens) for point in row.curve] == [(0, 0), (500, 612), (1000, 1000)]
    line = draw_plots(analyse(found, made))["efficiency"].axes[0].lines[0]
    assert line.get_xdata().tolist() == [0, 612, 1000]


def test_every_pair_is_compared_the_better_first(tmp_path: Path) -> None:
    found = config(tmp_path)
    pairs = analyse(found, outcomes(found)).improvement
    assert len(pairs) == 6
    assert {probability.mean for _, _, probability in pairs} == {1.0}  # no seed of one comes up to a seed of the next


def test_of_many_arms_each_is_compared_with_the_best(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agents.experiments.compare.analysis.MAX_PAIRED", 3)
    found = config(tmp_path)
    pairs = analyse(found, outcomes(found)).improvement
    assert [(better, than) for better, than, _ in pairs] == [
        ("ppo-kl0.1", name) for name in ("a2c-kl0.1", "a2c-kl1.0", "ppo-kl1.0")
    ]


def test_what_is_not_equal_is_said(tmp_path: Path) -> None:
    found = config(tmp_path)
    runs = plan(found)
    cut = replace(runs[0].arm, own_decoding=("top_k",))  # as Q-learners have
    runs = [replace(run, arm=cut) if run.arm.name == cut.name else run for run in runs]
    others: dict[str, dict[str, Any]] = {"a2c-kl0.1": {"tokens": 1200}, "ppo-kl1.0": {"start": 0.3}}
    made = [Outcome(run, result(run, **others.get(run.arm.name, {})), None) for run in runs]
    made[3].result["prompts"] = "others"
    made[-1].result["config"]["train"] = 2
    notes = " ".join(analyse(found, made).notes)
    assert "Tokens are not equal" in notes and "a2c-kl0.1 +20%" in notes
    assert "Before training ppo-kl1.0 wrote something else" in notes
    assert "The prompts of the evaluations differ between runs" in notes
    assert f"Not all decode alike: {cut.name} has a top_k of its own." in notes
    assert (
        "Not the same part of the model is trained" in notes and f"train=full, but {made[-1].run.arm.name} 2." in notes
    )


def test_the_report_says_what_ran_and_not_what_was_asked_for(tmp_path: Path) -> None:
    """Rollouts round tokens up, one of them may pass several steps, and few prompts are completed several times."""
    found = config(tmp_path, tokens=900, evaluations=10, test_episodes=64, seeds=2)
    made = outcomes(found)
    for outcome in made:
        outcome.result.update(described="held-out prompts", different_prompts=2)
    made[0].result["evaluations"].pop(1)
    report = analyse(found, made)
    text = to_markdown(report, ()).replace("\\", "")
    assert text.splitlines()[2] == "2 algorithms in 4 settings, 2 seeds, 1,000 tokens per run, on rlhf/Sentiment-v0."
    assert "on 64 completions of 2 held-out prompts that no run trains on" in text
    assert "Each run trained for 1,000 tokens (900 asked for)" in text
    assert "evaluated before training and 1 to 2 times from there on, on 64 completions of 2 held-out" in text
    assert "(10 asked for; steps that one rollout passes share one)" in text
    assert any(note.startswith("The split 'test' has 2 different prompts") for note in report.notes)


def test_two_seeds_give_a_probability_without_an_interval(tmp_path: Path) -> None:
    found = config(tmp_path, seeds=2)
    text = to_markdown(analyse(found, outcomes(found)), ())
    assert "| ppo-kl0.1 | a2c-kl0.1 | 1.000 – |" in text and "takes 3 runs of both" in text


def test_failed_and_missing_runs_are_counted_and_the_rest_compared(tmp_path: Path) -> None:
    found = config(tmp_path)
    made = outcomes(found)
    made[0] = Outcome(made[0].run, {}, "ValueError: no")
    made[1] = Outcome(made[1].run, {}, None)
    report = analyse(found, made)
    assert report.to_json()["failed"] == [{"run": made[0].run.name, "error": "ValueError: no"}]
    assert report.unfinished == [made[1].run.name]
    assert "1 of 20 runs failed and 1 are not finished" in report.notes[0]
    row = next(row for row in report.arms if row.name == made[0].run.arm.name)
    assert (row.finished, row.failed, row.runs) == (4, 1, 5)
    assert row.metrics["gold"].n == 4
    text = to_markdown(report, ())
    assert "| ppo-kl0.1 | 4 of 5, 1 failed |" in text.replace("\\", "")


def test_one_seed_has_no_intervals_anywhere(tmp_path: Path) -> None:
    found = config(tmp_path, seeds=1)
    report = analyse(found, outcomes(found))
    assert report.notes[0].startswith("One seed: no intervals are given")
    assert all(row["figures"]["gold"]["low"] is None for row in report.to_json()["arms"])
    text = to_markdown(report, tuple(plots := draw_plots(report)))
    assert "95%" not in text.replace("> - One seed", "")
    assert all(to_png(figure).startswith(b"\x89PNG") for figure in plots.values())


def test_what_coincides_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs that no seed changes, and algorithms that come to the same."""
    found = config(tmp_path)
    fixed = [Outcome(r, result(r, shift=-0.01 * r.seed * (r.arm.name == "a2c-kl0.1")), None) for r in plan(found)]
    (note,) = analyse(found, fixed).notes
    assert note.startswith("All runs of a2c-kl0.1 came to the same: nothing in them depends on the seed")
    monkeypatch.setitem(GOLD, "a2c-kl0.1", GOLD["ppo-kl0.1"])
    assert analyse(found, outcomes(found)).notes == [
        "ppo-kl0.1 and a2c-kl0.1 came to the same in every run: what tells them apart had no effect."
    ]


def test_an_arm_that_is_far_off_leaves_room_for_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = config(tmp_path)
    scales = []
    for kl in (9.0, 250.0):
        monkeypatch.setitem(KL, "a2c-kl0.1", kl)
        scales.append(draw_plots(analyse(found, outcomes(found)))["frontier"].axes[0].get_xscale())
    assert scales == ["linear", "symlog"]


def test_without_any_result_there_is_still_a_report(tmp_path: Path) -> None:
    found = config(tmp_path)
    report = analyse(found, [Outcome(run, {}, "no") for run in plan(found)])
    assert draw_plots(report) == {}
    text = to_markdown(report, ())
    assert "20 of 20 runs failed" in text and "trained for" not in text


def test_what_models_write_is_text_in_both_reports(tmp_path: Path) -> None:
    found = config(tmp_path)
    text = to_markdown(analyse(found, outcomes(found)), ())
    page = to_html(text, {})
    assert "I &lt;i&gt;saw&lt;/i&gt; |" in page
    assert "I &lt;i\\>saw&lt;/i\\> &#124;" in text
    assert "\u202e" not in page + text


def test_an_unknown_metric_is_named(tmp_path: Path) -> None:
    found = config(tmp_path, metric="reward_none")
    with pytest.raises(ValueError, match="no run has the metric 'reward_none': there are reward, gold, kl"):
        analyse(found, outcomes(found))


def test_an_algorithm_that_calls_no_callbacks_has_its_first_and_last_evaluation(tmp_path: Path) -> None:
    """Baselines that do not train are such; `finish` is all that they meet."""
    import agents
    from agents.experiments.compare.tracking import Tracker
    from agents.training.config import TrainConfig

    env = "rlhf/TokenBandit-v0"
    agent = agents.make("a2c", env, n_envs=4, seed=0)
    evaluation = agents.evaluate(agent, env, n_episodes=4)
    tracker = Tracker(tmp_path, "random", TrainConfig(algo="a2c", env=env, n_timesteps=960).resolved())
    tracker.finish(evaluation, evaluation, 0, 1.5)
    assert [(entry["step"], entry["tokens"], entry["seconds"]) for entry in tracker.records] == [
        (0, 0, 0),
        (960, 0, 1.5),
    ]
    events = EventAccumulator(str(tmp_path)).Reload()
    assert [event.step for event in events.Scalars("held_out/reward")] == [0, 960]
    assert "_hparams_/session_start_info" in events.summary_metadata


def test_every_run_is_a_ring_of_its_own(tmp_path: Path) -> None:
    found = config(tmp_path)
    report = analyse(found, outcomes(found))
    figure = draw_plots(report)["final"]
    rings = [line for line in figure.axes[0].lines if line.get_marker() == "o"]
    best = rings[-1]
    assert sorted(best.get_xdata()) == sorted(report.arms[0].per_seed.values())  # type: ignore[union-attr]
    assert len(set(best.get_ydata())) == found.seeds


def test_an_algorithm_has_the_same_colour_in_every_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for figures in (GOLD, KL):
        monkeypatch.setitem(figures, "trpo-kl0.1", 0.8)

    def colours(algos: list[str]) -> dict[str, str]:
        found = config(tmp_path / algos[0], algos=algos, kl_coefs=[0.1])
        report = analyse(found, outcomes(found))
        lines = draw_plots(report)["efficiency"].axes[0].lines
        return {str(line.get_label()).removesuffix("-kl0.1"): str(line.get_color()) for line in lines}

    both, other = colours(["ppo", "a2c"]), colours(["trpo", "ppo"])
    assert both["ppo"] == other["ppo"]
    assert both["ppo"] != both["a2c"] and other["ppo"] != other["trpo"]


def test_all_settings_are_shown_and_the_chosen_ones_stand_out(tmp_path: Path) -> None:
    found = config(tmp_path, algos=["ppo"], kl_coefs=[0.1])
    made = outcomes(found)
    for outcome in made:
        outcome.result["defaults"] = {"n_epochs": 4, "gamma": 1.0}
        outcome.result["config"]["hyperparams"] = {"n_epochs": 8, "gamma": 1.0}
    text = to_markdown(analyse(found, made), ()).replace("\\", "")
    assert "**n_epochs=8**" in text
    assert ", gamma=1.0" in text and "**gamma" not in text


def test_metrics_beside_the_compared_one_have_a_table_of_their_own(tmp_path: Path) -> None:
    found = config(tmp_path)
    made = outcomes(found)
    for outcome in made:
        for entry in outcome.evaluations:
            entry["estimates"]["perplexity"] = entry["estimates"]["kl"]
    text = to_markdown(analyse(found, made), ())
    first, second = text.split("## Other metrics at the end")
    assert "perplexity" not in first.split("## At the end")[1]
    assert "| algorithm | perplexity |" in second


def test_the_report_says_how_it_was_made(tmp_path: Path) -> None:
    found = config(tmp_path)
    report = replace(analyse(found, outcomes(found)), made=provenance())
    text = to_markdown(report, ()).split("## Reproduce")[1].replace("\\", "")
    assert f"torch {version('torch')}" in text
    assert "| seeds | seeds 0 to 4 |" in text
    assert "--config config.json" in text
    assert report.to_json()["made"]["command"]
