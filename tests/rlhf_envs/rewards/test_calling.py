"""What a reward function may declare, and what it logs."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch

import rlhf_envs  # noqa: F401  registers the environments
from rlhf_envs.rewards import FunctionReward, Guarded, Reward, ScoreError, TrainerState, evaluate_reward
from rlhf_envs.rewards.by_task import TaskRewards

ID = "rlhf/TokenBandit-v0"
EVERYTHING = {"completion_ids", "trainer_state", "log_metric", "log_extra"}


def evaluate(reward: Any, n: int = 2, **columns: list[Any]) -> Any:
    return evaluate_reward(reward, ["p"] * n, [f"c{i}" for i in range(n)], columns)


def as_trl_users_write_it(
    completions: Any,
    completion_ids: Any,
    trainer_state: Any,
    log_metric: Any,
    log_extra: Any,
    label: Any,
    **kwargs: Any,
) -> list[float]:
    log_metric("accuracy", sum(label) / len(label))
    log_extra("golden", [f"answer {value}" for value in label])
    return [float(len(ids) + trainer_state.global_step) for ids in completion_ids]


class Methods(Reward):
    name = "methods"

    def score(self, prompts: Any, completions: Any, log_metric: Any = None, **columns: Any) -> list[float]:
        log_metric("methods_called", 1)
        return [0.0] * len(prompts)


@pytest.mark.parametrize(
    "around", [lambda reward: reward, FunctionReward, lambda reward: Guarded(1.0 * Methods() + reward)]
)
def test_a_function_gets_what_it_declares_and_its_logs_come_back(around: Any) -> None:
    reward = around(as_trl_users_write_it)
    columns = {"completion_ids": [[1], [1, 2, 3]], "label": [0, 1]}
    scores = evaluate_reward(reward, ["a", "b"], ["c", "d"], columns, TrainerState(global_step=10, max_steps=20))
    assert scores.totals.tolist() == [11, 13]
    assert scores.metrics["accuracy"] == 0.5
    assert scores.extra == {"golden": ["answer 0", "answer 1"]}
    assert scores.metrics.get("methods_called", 1.0) == 1.0


def test_columns_are_only_the_datas_unless_more_is_declared() -> None:
    seen: dict[str, Any] = {}

    def plain(prompts: Any, completions: Any, **columns: Any) -> list[float]:
        seen.update(columns)
        return [0.0] * len(prompts)

    evaluate(plain, label=[0, 1], completion_ids=[[1], [2]], finish_reasons=["eos", "eos"])
    assert seen == {"label": [0, 1]}


@pytest.mark.parametrize("name", sorted(EVERYTHING))
def test_a_function_that_looks_for_more_in_its_keywords_is_told_to_declare_it(name: str) -> None:
    def greedy(completions: Any, **kwargs: Any) -> list[float]:
        return [float(bool(kwargs[name])) for _ in completions]

    with pytest.raises(
        ScoreError, match=f"'greedy' looks for '{name}' among .* parameter, .prompts, completions, {name}"
    ):
        evaluate(Guarded(greedy, backoff=0.0), completion_ids=[[1], [2]])


def test_texts_alone_are_scored_at_step_0() -> None:
    def by_step(completions: Any, trainer_state: Any, **columns: Any) -> list[float]:
        return [trainer_state.global_step / trainer_state.max_steps] * len(completions)

    assert evaluate(by_step).totals.tolist() == [0, 0]
    assert by_step(["a"], TrainerState(1, 4)) == [0.25]


def test_metrics_are_means_and_numbers_of_any_kind() -> None:
    def logs(completions: Any, log_metric: Any, log_extra: Any, **columns: Any) -> list[float]:
        for value in (1, np.float32(2), torch.tensor(3.0), True):
            log_metric("n", value)
        log_extra("tensors", torch.arange(len(completions)))
        log_extra("objects", [range(2), ["a", None]])
        return [0.0] * len(completions)

    scores = evaluate(logs)
    assert scores.metrics == {"n": 7 / 4}
    assert scores.extra == {"tensors": [0, 1], "objects": ["range(0, 2)", ["a", None]]}, "as a bundle can save them"


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda log_metric, log_extra: log_metric("n", "high"), r"log_metric\('n', ...\) takes a number, got 'high'"),
        (lambda log_metric, log_extra: log_metric("n", [1, 2]), r"takes a number, got \[1, 2\]"),
        (lambda log_metric, log_extra: log_metric(3, 1.0), r"log_metric takes a name first, got 3"),
        (lambda log_metric, log_extra: log_extra("c", [1]), r"'c', ...\) takes a list with one value for each of 2"),
        (lambda log_metric, log_extra: log_extra("c", "ab"), r"one value for each of 2 completions, got 'ab'"),
        (lambda log_metric, log_extra: log_extra("", [1, 2]), r"log_extra takes a name first, got ''"),
    ],
)
def test_a_wrong_log_names_the_reward_and_the_value(call: Any, message: str) -> None:
    def careless(completions: Any, log_metric: Any, log_extra: Any, **columns: Any) -> list[float]:
        call(log_metric, log_extra)
        return [0.0] * len(completions)

    with pytest.raises(ScoreError, match=f"reward 'careless': .*{message}"):
        evaluate(Guarded(careless, backoff=0.0))


def test_an_attempt_that_fails_logs_nothing() -> None:
    attempts = []

    def flaky(completions: Any, log_metric: Any, **columns: Any) -> list[float]:
        attempts.append(1)
        log_metric("attempt", len(attempts))
        if len(attempts) < 3:
            raise ConnectionError
        return [0.0] * len(completions)

    assert evaluate(Guarded(flaky, backoff=0.0)).metrics == {"attempt": 3.0}


def test_a_column_that_a_mixtures_reward_logs_about_some_completions_is_refused_and_not_lost() -> None:
    def logs(completions: Any, log_extra: Any, **columns: Any) -> list[float]:
        log_extra("kept", [text.upper() for text in completions])
        return [1.0] * len(completions)

    by_task = TaskRewards({"a": logs, "b": logs}, {"a": (), "b": ()})

    class Some(Reward):
        def __init__(self, n: int) -> None:
            self.n = n

        def score(self, prompts: Any, completions: Any, **columns: list[Any]) -> np.ndarray:
            some = {name: values[: self.n] for name, values in columns.items()}
            by_task.evaluate(prompts[: self.n], completions[: self.n], some)
            return np.ones(len(prompts))

    tasks = ["a", "b", "a"]
    assert evaluate(Some(3), 3, task=tasks).extra == {"kept": ["C0", "C1", "C2"]}
    with pytest.raises(ValueError, match=r"log_extra\('kept'\) was given 2 values, and 3 completions are scored"):
        evaluate(Some(2), 3, task=tasks)


def test_a_column_of_the_data_may_not_have_such_a_name() -> None:
    for name in EVERYTHING:
        with pytest.raises(ValueError, match=f"has a column '{name}', which reward functions get already"):
            gym.make(ID, data=[{"prompt": "a", name: 1}])


@pytest.mark.parametrize("kind", ["single", "batched"])
def test_environments_give_all_of_it_and_put_the_logs_into_the_infos(kind: str) -> None:
    def reward(completion_ids: Any, trainer_state: Any, log_metric: Any, log_extra: Any, **columns: Any) -> list[float]:
        log_metric("share", 0.25)
        log_extra("first", [ids[0] for ids in completion_ids])
        return [float(trainer_state.global_step)] * len(completion_ids)

    options = {"num_envs": 2, "vectorization_mode": "vector_entry_point"} if kind == "batched" else {}
    env: Any = (gym.make_vec if options else gym.make)(ID, reward_fn=reward, **options)
    env.unwrapped.set_trainer_state(TrainerState(7, 10))
    env.reset(seed=0)
    _, rewards, _, _, info = env.step(np.ones(2, np.int64) if options else 1)
    info = info["final_info"] if options else info
    assert np.array_equal(rewards, [7, 7] if options else 7)
    assert np.array_equal(info["logged"]["share"], [0.25, 0.25] if options else 0.25)
    assert np.array_equal(info["extra"]["first"], [1, 1] if options else 1)
