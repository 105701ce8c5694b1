"""Rows are held out so that nothing equal is both fitted and measured, the same rows always alike."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from rlhf_envs.preferences.splitting import split_rows, whole_texts, without_shared
from rlhf_envs.preferences.training import NothingToFit


def texts_of(rows: Sequence[Any]) -> set[str]:
    return {text for row in rows for text in whole_texts(row)}


def prompts_of(rows: Sequence[Any]) -> set[str]:
    return {row["prompt"] for row in rows}


def test_a_prompt_stays_on_one_side() -> None:
    rows = [{"prompt": f"p{i % 7} ", "chosen": f"{i} good", "rejected": f"{i} bad"} for i in range(80)]
    fitted, held_out, warning = split_rows(rows)
    assert len(fitted) + len(held_out) == 80
    assert 11 <= len(held_out) <= 12  # one of 7 prompts
    assert not prompts_of(fitted) & prompts_of(held_out)
    assert warning is None


@pytest.mark.parametrize("seed", range(5))
def test_rows_without_a_prompt_that_share_a_text_are_on_one_side(seed: int) -> None:
    """Chains a-b, b-c, c-d of pairs, whose links lie far apart."""
    rows = [{"chosen": f"{n} of {i}", "rejected": f"{n + 1} of {i}"} for n in range(3) for i in range(20)]
    fitted, held_out, warning = split_rows(rows, seed=seed)
    assert len(held_out) == 6  # two chains
    assert len(fitted) == 54
    assert not texts_of(fitted) & texts_of(held_out)
    assert warning is None


def test_a_row_whose_whole_text_stands_with_a_prompt_elsewhere_is_on_its_side() -> None:
    with_prompt = [{"prompt": f"{i} ", "chosen": "good", "rejected": "bad"} for i in range(20)]
    without = [{"chosen": f"{i} good", "rejected": f"{i} fair"} for i in range(20)]
    fitted, held_out, _ = split_rows([*with_prompt, *without])
    assert len(held_out) == 4
    assert not texts_of(fitted) & texts_of(held_out)


def test_one_large_group_is_fitted_and_the_small_ones_are_held_out() -> None:
    rows = [{"prompt": "p" if i < 90 else f"p{i}", "completion": str(i), "label": 1.0} for i in range(100)]
    for seed in range(5):
        _, held_out, warning = split_rows(rows, seed=seed)
        assert prompts_of(held_out) == {f"p{i}" for i in range(90, 100)}
        assert warning is None


def test_prompts_that_come_again_with_old_and_new_completions_stay_on_one_side() -> None:
    rows = [{"prompt": f"{i % 20}", "chosen": f" {i % 3}", "rejected": f" {3 + i % 5}"} for i in range(140)]
    fitted, held_out, _ = split_rows(rows, 0.2)
    assert not texts_of(fitted) & texts_of(held_out)
    assert len(prompts_of(held_out)) == 4  # of 20
    assert len(fitted) + len(held_out) == 140


def test_the_order_of_the_rows_does_not_matter_and_the_seed_does() -> None:
    rows = [{"prompt": f"{i % 20}", "chosen": f" {i % 3}", "rejected": f" {3 + i % 5}"} for i in range(140)]
    fitted, held_out, _ = split_rows(rows, 0.2)
    assert split_rows(rows[::-1], 0.2) == (fitted[::-1], held_out[::-1], None)
    assert prompts_of(split_rows(rows, 0.2, seed=1).held_out) != prompts_of(held_out)


def test_most_of_what_is_held_out_stays_so_when_rows_are_added() -> None:
    rows = [{"prompt": f"{i}", "chosen": " a", "rejected": " b"} for i in range(400)]
    before, after = (prompts_of(split_rows(some, 0.2).held_out) for some in (rows[:200], rows))
    assert len(before & after) > 0.7 * len(before)  # by chance it would be a fifth


def test_of_one_prompt_no_text_is_on_both_sides() -> None:
    rows = [{"prompt": "p", "completion": str(i % 12), "label": float(i % 5)} for i in range(60)]
    fitted, held_out, warning = split_rows(rows, 0.2)
    assert len(texts_of(held_out)) == 2  # of 12
    assert not texts_of(fitted) & texts_of(held_out)
    assert "some prompts are in both parts" in str(warning)


def test_of_one_prompt_whose_texts_hang_together_no_pair_is_on_both_sides() -> None:
    rows = [{"prompt": "a", "chosen": str(i % 7), "rejected": str(7 + i % 5)} for i in range(70)]
    rows += [{**row, "chosen": row["rejected"], "rejected": row["chosen"]} for row in rows]
    fitted, held_out, warning = split_rows(rows, 0.2)
    pairs = [{frozenset(whole_texts(row)) for row in part} for part in (fitted, held_out)]
    assert not pairs[0] & pairs[1]
    assert len(pairs[1]) == 7  # of 35 different ones
    assert "nearly all rows share prompts or texts" in str(warning)


@pytest.mark.parametrize("rows", [[], [{"chosen": "a", "rejected": "b"}, {"chosen": "b", "rejected": "a"}]])
def test_where_all_texts_are_the_same_there_is_nothing_to_hold_out(rows: list[Any]) -> None:
    with pytest.raises(NothingToFit, match=f"{len(rows)} rows of the same texts"):
        split_rows(rows)


def test_rows_that_share_a_prompt_or_a_text_with_a_held_out_row_are_left_out() -> None:
    held_out = [{"prompt": "p ", "chosen": "a", "rejected": "b"}]
    same_prompt, same_text = {"prompt": "p ", "chosen": "x", "rejected": "y"}, {"chosen": "p a", "rejected": "z"}
    other = {"prompt": "q ", "chosen": "a", "rejected": "b"}
    assert without_shared([same_prompt, same_text, other], held_out) == [other]
