from __future__ import annotations

import pytest

from agents.cli.train import advise
from agents.training.config import TrainConfig
from benchmarks.tasks.__main__ import read_plans
from rlhf_envs.registration import ENVIRONMENTS, task_of
from rlhf_envs.tasks.base import Task

PLANS = read_plans()


def get_task(env_id: str) -> Task:
    task = task_of(env_id)
    assert task is not None
    return task


STARTED = [env_id for env_id in ENVIRONMENTS if get_task(env_id).start is not None]


@pytest.mark.parametrize("env_id", STARTED)
def test_the_description_says_how_the_start_is_made(env_id: str) -> None:
    task = get_task(env_id)
    described = " ".join((type(task).__doc__ or "").split())
    base = [] if task.pretraining is None else ["--model", task.pretraining.split()[1]]
    command = " ".join(["rlhf sft", env_id, "start", *base, *(task.start or "").split()])
    assert f"`{command}`" in described
    assert task.pretraining is None or f"`rlhf pretrain {task.pretraining}`" in described
    assert task.demonstrations("train")


def test_what_is_measured_has_the_start_that_is_told() -> None:
    assert {env_id for env_id, plan in PLANS.items() if "sft" in plan} <= {*STARTED}
    for env_id in PLANS.keys() & {*STARTED}:
        told = (get_task(env_id).start or "").split()
        flags = dict(zip(told[::2], map(float, told[1::2]), strict=True))
        plan = {f"--{name}": value for name, value in PLANS[env_id]["sft"].items() if name != "model"}
        assert {"--epochs": 1.0, **flags} == {"--epochs": 1.0, **plan}, env_id


def test_a_run_from_the_bare_model_is_told_how_to_make_a_start_and_others_are_not() -> None:
    told = advise(TrainConfig(env="rlhf/SpamFilter-v0")) or ""
    assert "`rlhf sft rlhf/SpamFilter-v0 start --epochs 0.5` makes a start" in told
    assert "`rlhf sft rlhf/ClassifyNews-v0 start` makes" in (advise(TrainConfig(env="rlhf/ClassifyNews-v0")) or "")
    own = TrainConfig(env="rlhf/SpamFilter-v0", model="tiny", env_kwargs={"data": "mine.csv"})
    assert "`rlhf sft DATA start --epochs 0.5` makes" in (advise(own) or "")
    sums = TrainConfig(env="rlhf/QuestionAnswering-v0", env_kwargs={"wrong_cost": 0.2, "max_new_tokens": 4})
    command = "rlhf sft rlhf/QuestionAnswering-v0 start --learning-rate 1e-3 --env-kwargs wrong_cost:0.2"
    assert f"`{command}` makes" in (advise(sums) or "")
    chinese = advise(TrainConfig(env="rlhf/ChineseReview-v0", env_kwargs={"mode": "continue"})) or ""
    assert "`rlhf pretrain chinese-reviews zh --n-embd 160" in chinese
    assert (
        "`rlhf sft rlhf/ChineseReview-v0 start --model zh --learning-rate 1e-3 --env-kwargs mode:continue` makes"
        in chinese
    )
    assert "and `--algo rloo --model start` trains from it, as it was" in (
        advise(TrainConfig(env="rlhf/Tutor-v0")) or ""
    )
    assert "and `--model start` trains" in (advise(TrainConfig(env="rlhf/Tutor-v0", algo="rloo")) or "")
    assert "and `--algo rloo --lr-schedule linear --model start` trains from it, as it was measured" in (
        advise(TrainConfig(env="rlhf/Translate-v0")) or ""
    )
    assert advise(TrainConfig(env="rlhf/SpamFilter-v0", model="smollm2")) is None
    assert advise(TrainConfig(env="rlhf/Sentiment-v0")) is None
    assert advise(TrainConfig(env="rlhf/DialogBandit-v0")) is None
