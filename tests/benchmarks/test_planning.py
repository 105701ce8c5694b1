"""The simulation gives the closed forms where there are some, and the page has what the script prints."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.planning import Costs, gpu_costs, main, parser, simulate_ranks, simulate_workers

PAGE = Path(__file__).parents[2] / "docs" / "guides" / "planning.md"
COSTS = Costs(rollout=5.0, update=3.0, broadcast=0.1, gather=0.2, sums=0.5)


def test_the_page_has_what_the_script_prints(capsys: pytest.CaptureFixture[str]) -> None:
    text = main([])
    assert capsys.readouterr().out == f"{text}\n"
    page = PAGE.read_text(encoding="utf-8")
    for table in text.split("\n\n"):
        assert table in page, "run python -m benchmarks.planning, and paste its tables"


@pytest.mark.parametrize("flags", [["--n-envs", "0"], ["--network", "-1"], ["--flops", "nan"], ["--update-gb", "500"]])
def test_numbers_that_make_no_plan_are_named(flags: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(flags)
    assert flags[0] in capsys.readouterr().err


def test_no_spread_is_a_plan() -> None:
    assert "SmolLM2-135M" in main(["--jitter", "0"])


def test_without_chance_ranks_take_a_rollout_an_update_and_the_sums() -> None:
    assert simulate_ranks(COSTS, 4).seconds == pytest.approx(5 + 3 + 0.5)
    assert simulate_ranks(COSTS, 1).seconds == pytest.approx(5 + 3)


def test_workers_in_turn_take_transfers_too_and_beside_the_learner_only_the_longer_half() -> None:
    """Four workers get weights and send rollouts one after the other, so that the last is received at 9.1 or later."""
    seconds = 4 * 0.1 + 5 + 0.2  # rollouts that end 0.1 apart are received 0.2 apart
    queued = max(0.1 * (k + 1) + 5 + 0.2 * (4 - k) for k in range(4))
    in_turn = simulate_workers(COSTS, 4, is_async=False).seconds
    assert in_turn == pytest.approx(max(seconds, queued) + 3)
    assert simulate_workers(COSTS, 4, is_async=True).seconds == pytest.approx(max(seconds, queued))
    slow = Costs(rollout=5.0, update=30.0)
    assert simulate_workers(slow, 4, is_async=True).seconds == pytest.approx(30)
    assert simulate_workers(slow, 4, is_async=True).learner == pytest.approx(1)


def test_stragglers_cost_more_the_more_there_are() -> None:
    costs = Costs(rollout=5.0, update=3.0, jitter=0.2)
    two, many = (simulate_ranks(costs, n) for n in (2, 64))
    assert 8 < two.seconds < many.seconds
    assert 0 < two.waits < many.waits < 0.5


def test_more_epochs_load_the_learner_and_more_environments_the_collectors() -> None:
    few, epochs, envs = (
        gpu_costs(parser().parse_args(flags), "SmolLM2-135M", 8, 7, 1)
        for flags in ([], ["--epochs", "8"], ["--n-envs", "512"])
    )
    assert epochs.update > 1.2 * few.update and epochs.rollout == few.rollout
    assert envs.rollout > few.rollout and envs.update == pytest.approx(2 * few.update - 0.0261)


def test_an_update_and_a_reward_read_the_prompts_too() -> None:
    """Without Python, 128 tokens after a prompt of 320 are 3.5 times the work of 128 tokens without one."""
    flags = ["--learn-us", "0", "--rest-ms", "0", "--bandwidth", "1e9"]
    long, short = (
        gpu_costs(parser().parse_args([*flags, "--context", context]), "SmolLM2-135M", 1, 1, 1)
        for context in ("384", "64")
    )
    assert long.update == pytest.approx(3.5 * short.update)
    seconds = 2 * 134_515_008 * 256 / (989e12 * 0.35)  # a pass over one token of each environment
    assert long.rollout - short.rollout == pytest.approx(2 * 320 * seconds)  # filled once, and scored
