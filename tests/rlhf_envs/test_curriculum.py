from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest

from rlhf_envs.curriculum import NEWEST, Curriculum, curriculum_of
from rlhf_envs.task_weights import WINDOW

LEVELS = [2, 3, 3, 4, 4, 4]


def test_it_begins_with_the_easiest_level_and_opens_the_next_on_success() -> None:
    curriculum = Curriculum(LEVELS, success=0.5)
    assert curriculum.probabilities().tolist() == [1, 0, 0]
    curriculum.learn(["2"] * (WINDOW - 1), [1.0] * (WINDOW - 1))
    assert curriculum.level == 2  # not 64 episodes yet
    curriculum.learn(["2"], [0.0])
    assert curriculum.level == 3
    curriculum.learn(["2"] * WINDOW, [1.0] * WINDOW)  # success on an older level opens nothing
    assert curriculum.level == 3
    curriculum.learn(["3"] * WINDOW, [0.0, 1.0] * (WINDOW // 2))
    assert curriculum.level == 4
    curriculum.learn(["4"] * WINDOW, [0.0] * WINDOW)  # and failure closes none
    assert curriculum.probabilities() == pytest.approx([(1 - NEWEST) / 2, (1 - NEWEST) / 2, NEWEST])


def test_rows_are_drawn_from_the_open_levels_alone() -> None:
    curriculum, rng = Curriculum(LEVELS, success=0.5), np.random.default_rng(0)
    assert {curriculum.draw(rng) for _ in range(50)} == {0}
    curriculum.learn(["2"] * WINDOW, [0.5] * WINDOW)
    drawn = Counter(curriculum.draw(rng) for _ in range(600))
    assert {*drawn} == {0, 1, 2}
    assert drawn[0] == pytest.approx(300, abs=50)  # four standard deviations


def test_a_state_goes_on_exactly_and_fits_its_own_levels_alone() -> None:
    first = Curriculum(LEVELS, success=0.5)
    first.learn(["2"] * WINDOW + ["3"] * 40, [1.0] * (WINDOW + 40))
    again = Curriculum(LEVELS, success=0.5)
    again.set_state(first.get_state())
    for one in (first, again):
        one.learn(["3"] * (WINDOW - 40), [1.0] * (WINDOW - 40))
    assert first.level == again.level == 4
    with pytest.raises(ValueError, match="the state is of the tasks 2, 3, 4, and here are 1"):
        Curriculum([1]).set_state(first.get_state())
    with pytest.raises(ValueError, match="success=0: give a mean reward above 0"):
        Curriculum(LEVELS, success=0)


def test_levels_of_a_table_are_read_in_training_alone() -> None:
    curriculum = curriculum_of([{"level": "10"}, {"level": 2.0}, {"level": 3}], "training", "mine")
    assert curriculum is not None and curriculum.tasks == ["2", "3", "10"]
    assert curriculum_of([{}], "eval", "mine") is None


@pytest.mark.parametrize("row", [{}, {"level": None}, {"level": "hard"}, {"level": 1.5}, {"level": float("nan")}])
def test_a_row_without_a_level_is_named(row: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"task 'mine': row 1 has the 'level' {row.get('level')!r}, and"):
        curriculum_of([{"level": 1}, row], "train", "mine")
