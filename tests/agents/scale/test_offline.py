"""DPO, KTO and SFT on ranks: the update of one process, equal weights, exact resume, and one who writes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import agents
from agents.algorithms.kto import as_labels
from agents.core import ranks
from agents.training.rank_states import check_alike
from tests.agents.algorithms.test_dpo import bandit_pairs, labels, pairs
from tests.agents.scale.runs import ROLLOUT, config, run
from tests.agents.scale.test_runs import assert_equal
from tests.forked import on_ranks

ALL = 10**6  # a batch_size that makes one minibatch of a rollout
CASES: dict[str, dict[str, Any]] = {
    "dpo": {"data": pairs(40, weight=2.0, probability=0.8), "beta": 0.3},
    "dpo, ipo": {"data": pairs(40), "loss_type": "ipo"},
    "kto": {"data": labels(40), "beta": 0.4, "undesirable_weight": 1.5},
    "kto, few good ones": {"data": [row | {"label": i % 7 == 0} for i, row in enumerate(labels(40))]},
    "sft": {},
}
N_ENVS = 4


def learn(case: str) -> tuple[dict[str, np.ndarray], int, list[int], dict[str, float]]:
    """Train for four rollouts, less than a pass. Return weights, tokens, the rows of the pass, and what is logged."""
    name = case.split(",")[0]
    given: dict[str, Any] = {"max_new_tokens": 5}
    if name == "sft":
        rows = [{"prompt": row["prompt"], "reference": row["chosen"], "split": "train"} for row in pairs(40)]
        given |= {"data": rows, "on_long_prompt": "truncate"}
    task = "rlhf/IncreasingNumbers-v0" if name != "sft" else "rlhf/Prompts-v0"
    given |= {"reward": "length-penalty", "reward_kwargs": {"longest": 1}} if name == "sft" else {}
    env = agents.make_vec_env(task, N_ENVS // ranks.size(), seed=0, **given)
    settings = {"batch_size": ALL, "n_epochs": 2, "n_steps": 8, "learning_rate": 3e-3, **CASES[case]}
    # Adam divides by a gradient's size and this. With less, rounding is most of the step where a gradient is near 0.
    agent = agents.make(name, env, seed=0, policy_kwargs={"optimizer_kwargs": {"eps": 1e-4}}, **settings)
    agent.learn(4 * 8 * N_ENVS)
    weights = {name: tensor.numpy().copy() for name, tensor in agent.policy.state_dict().items()}
    logged = {n: v for n, v in agent.logger.name_to_value.items() if n.startswith(("rewards/", "logps/", "train/"))}
    return weights, agent.num_timesteps, agent._order.tolist(), logged


@pytest.mark.parametrize("case", CASES)
def test_two_ranks_with_parts_of_the_rows_make_the_update_of_one_with_all(case: str) -> None:
    weights, *rest, logged = learn(case)
    (one, *others, one_logged), (two, *more, _) = on_ranks(learn, case)
    assert rest == others == more, "the same tokens and rows"
    for name in weights:
        np.testing.assert_array_equal(one[name], two[name], err_msg=name)
        np.testing.assert_allclose(one[name], weights[name], rtol=0, atol=1e-6, err_msg=name)
    assert one_logged.keys() == logged.keys()
    for name in logged.keys() - {"train/episodes"}:
        assert one_logged[name] == pytest.approx(logged[name], abs=1e-4), name


def settings(folder: Path, name: str, data: Path, n: int, **kwargs: Any) -> Any:
    hyperparams = dict(data=str(data), n_steps=3, batch_size=18, n_epochs=2)
    return config(folder, algo=name, hyperparams=hyperparams, kl_target=None, n_timesteps=n * ROLLOUT, **kwargs)


@pytest.mark.parametrize("name", ["dpo", pytest.param("kto", marks=pytest.mark.slow)])
def test_a_run_goes_on_exactly_with_as_many_ranks_and_with_another_number_too(name: str, tmp_path: Path) -> None:
    """The pass over the rows goes on too: with another number of ranks no row comes twice."""
    rows = bandit_pairs(40)
    data = tmp_path / "rows.jsonl"
    data.write_text("\n".join(map(json.dumps, rows if name == "dpo" else as_labels(rows))), encoding="utf-8")
    whole, half = (
        on_ranks(run, settings(place, name, data, n)) for place, n in ((tmp_path / "whole", 4), (tmp_path, 2))
    )
    resumed = on_ranks(run, settings(tmp_path, name, data, 4), True)
    assert resumed[0]["start"] == half[0]["tokens"] == half[1]["tokens"] >= 2 * ROLLOUT
    for one in resumed:
        assert_equal(one["weights"], whole[0]["weights"])
    assert [path.name for path in (tmp_path / name).iterdir()] == ["run"]
    first, *others = on_ranks(run, settings(tmp_path, name, data, 5), True, n=3)
    assert (first["start"], first["tokens"]) == (resumed[0]["tokens"], others[0]["tokens"])
    for other in others:
        assert_equal(first["weights"], other["weights"])
    alone = run(settings(tmp_path, name, data, 6), True)
    assert alone["tokens"] >= 6 * ROLLOUT > alone["start"] == first["tokens"] >= 5 * ROLLOUT


def compare_rows() -> None:
    rows = pairs()[: 12 - ranks.rank()]
    agent = agents.make("dpo", agents.make_vec_env("rlhf/IncreasingNumbers-v0", 2, seed=0), data=rows)
    check_alike({"the checksum of the rows to learn": agent.data_checksum})


def test_ranks_with_other_rows_say_so() -> None:
    for message in on_ranks(compare_rows, failing=True):
        assert "the checksum of the rows to learn is" in message, message
