"""A mixture trains under stock SB3, and is measured, resumed, compared and completed by task."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.envs.registration import EnvSpec
from stable_baselines3 import PPO

import agents
from agents import SequenceRolloutBuffer, TextMetrics, TokenPolicy, make_vec_env
from agents.evaluation.evaluate import find_judges
from agents.experiments.compare.config import CompareConfig
from agents.experiments.compare.plan import plan
from agents.experiments.tune.config import TuneConfig
from agents.experiments.tune.search import find_space, measure
from agents.saving.untrusted import read_env_kwargs
from agents.training.early_stopping import EarlyStopping
from rlhf_envs.task_weights import WINDOW
from rlhf_envs.tasks.token_bandit import TokenBandit

BANDIT = "rlhf/TokenBandit-v0"
LETTERS = [{"prompt": "e"}, {"prompt": "f"}]
ALL = {"validation_share": 0, "test_share": 0}
BRIEF: dict[str, Any] = {"id": BANDIT, "name": "brief", "data": LETTERS, **ALL, "reward": "length-penalty"}
TASKS = [BANDIT, {**BRIEF, "max_new_tokens": 2, "reward_kwargs": {"longest": 1}}]
MIXTURE: dict[str, Any] = {"tasks": TASKS, "weights": "progress"}


def stock(n_envs: int = 8, score: Any = "rollout", tasks: Any = TASKS, weights: Any = None, **kwargs: Any) -> Any:
    env = make_vec_env(tasks, n_envs, seed=0, score=score, weights=weights)
    sizes: dict[str, Any] = {"n_steps": 12, "batch_size": 48, "n_epochs": 1, "seed": 0, "device": "cpu", **kwargs}
    kl = {"kl_coef": 0.0}
    return PPO(TokenPolicy, env, rollout_buffer_class=SequenceRolloutBuffer, rollout_buffer_kwargs=kl, **sizes)


class Watch(TextMetrics):
    """Keep what is logged about every rollout, and its episodes."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[dict[str, float], list[dict[str, Any]]]] = []

    def _on_rollout_end(self) -> None:
        episodes = list(self._episodes)
        super()._on_rollout_end()
        self.seen.append((dict(self.logger.name_to_value), episodes))


def test_tensorboard_has_rewards_by_task() -> None:
    watch = Watch()
    stock().learn(96, callback=watch)
    logged, episodes = watch.seen[0]
    for task, longest in (("token-bandit", 3), ("brief", 2)):
        own = [info["episode"] for info in episodes if info["task"] == task]
        assert logged[f"rlhf/{task}/reward"] == pytest.approx(np.mean([one["r"] for one in own]))
        assert logged[f"rlhf/{task}/length"] == pytest.approx(np.mean([one["l"] for one in own]))
        assert max(one["l"] for one in own) == longest
        assert logged[f"rlhf/{task}/share"] == pytest.approx(len(own) / len(episodes))
    assert "rlhf/brief/reward_length-penalty" in logged
    assert "rlhf/brief/reward_token-bandit" not in logged
    assert not [name for name in logged if "none_" in name]
    means = [logged["rlhf/reward_length-penalty"], logged["rlhf/brief/reward"]]
    assert means[0] == pytest.approx(means[1])


def test_scoring_once_a_rollout_equals_scoring_in_every_step() -> None:
    found = [stock(score=score).learn(192) for score in ("step", "rollout")]
    for one, other in zip(*(agent.policy.parameters() for agent in found), strict=True):
        assert torch.equal(one, other)


def test_stock_ppo_learns_opposite_tasks_by_their_prompts() -> None:
    """To write three words after some letters, and none after others."""
    tasks = [{"id": BANDIT, "name": "long", "reward": "length-penalty", "reward_kwargs": {"shortest": 3}}]
    tasks += [{**BRIEF, "reward_kwargs": {"longest": 0}}]
    agent = stock(32, tasks=tasks, n_steps=6, batch_size=96, n_epochs=4, learning_rate=3e-3)
    agent.learn(6 * 32 * 6, callback=(watch := Watch()))
    for task in ("long", "brief"):
        curve = [logged[f"rlhf/{task}/reward"] for logged, _ in watch.seen]
        assert curve[0] < -1, curve
        assert curve[-1] > -0.3, curve


def test_a_resumed_run_is_exact_and_its_weights_go_on(tmp_path: Path) -> None:
    unbroken = stock(weights="progress").learn(5 * 96)
    tasks = unbroken.get_env().env.episodes.sampler.tasks
    assert len(tasks._rewards[0]) == WINDOW
    assert tasks.probabilities().tolist() != tasks.shares.tolist()
    agents.save(unbroken, tmp_path / "half")
    unbroken.learn(2 * 96, reset_num_timesteps=False)
    resumed = agents.load(tmp_path / "half").learn(2 * 96, reset_num_timesteps=False)
    for name, tensor in unbroken.policy.state_dict().items():
        assert torch.equal(tensor, resumed.policy.state_dict()[name]), name
    again = resumed.get_env().env.episodes.sampler.tasks
    assert again.probabilities().tolist() == tasks.probabilities().tolist()


def test_an_evaluation_has_rewards_by_task_in_the_shares() -> None:
    agent = agents.make("ppo", make_vec_env(TASKS, 4), n_steps=6)
    found = agents.evaluate(agent, agent.get_env(), 10)
    tasks = np.array([c.row["task"] for c in found.completions])
    assert [(tasks == task).sum() for task in ("token-bandit", "brief")] == [5, 5]
    estimates = found.estimates()
    for task in ("token-bandit", "brief"):
        assert estimates[f"{task}/reward"].mean == pytest.approx(found.reward[tasks == task].mean())
    assert not find_judges(agent.get_env().env.task, None)
    assert agents.evaluate(agent, agent.get_env(), 10).change_from(found)["brief/reward"].mean == 0


def test_early_stopping_and_comparisons_go_by_a_task(tmp_path: Path) -> None:
    callback = EarlyStopping("brief/reward", eval_freq=96, n_episodes=4, env=make_vec_env(TASKS, 2))
    stock().learn(96, callback=callback)
    assert [tokens for tokens, _ in callback.history] == [0, 96]
    shared: dict[str, Any] = {"env": "rlhf/Mixture-v0", "algos": ["ppo"], "seeds": 1, "tokens": 96}
    shared |= {"folder": str(tmp_path / "c"), "env_kwargs": MIXTURE}
    assert plan(CompareConfig(**shared, metric="brief/reward"))
    with pytest.raises(ValueError, match=r"unknown metric 'brief/rewards' .*did you mean 'brief/reward'"):
        plan(CompareConfig(**shared, metric="brief/rewards"))


class Measured(TokenBandit):
    """Count the words of a completion, in a metric of its own."""

    name = "measured"

    def metrics(self, prompts: list[str], completions: list[str], columns: Any) -> dict[str, Any]:
        return {"words": [len(text.split()) for text in completions]}


def test_early_stopping_may_go_by_a_task_that_comes_late(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two prompts try the metric, and the task is third; too few prompts for a task are an error, not NaN."""
    spec = EnvSpec("test/Measured-v0", "rlhf_envs.text_env:TextGenerationEnv", kwargs={"task": Measured})
    monkeypatch.setitem(gym.registry, spec.id, spec)
    tasks = [BANDIT, {**BRIEF, "reward_kwargs": {"longest": 1}}, spec.id]
    agent, env = stock(tasks=tasks), make_vec_env(tasks, 2)
    for metric in ("measured/words", "words", "measured/reward"):
        EarlyStopping(metric, env=env).check_metric(agent)
    with pytest.raises(ValueError, match=r"no metric 'measured/word' .* did you mean 'measured/words'"):
        EarlyStopping("measured/word", env=env).check_metric(agent)
    few = EarlyStopping("measured/reward", n_episodes=2, env=env)
    with pytest.raises(ValueError, match="none of 2 held-out prompts has the metric 'measured/reward': take more"):
        agent.learn(96, callback=few)


def test_a_search_goes_by_a_task() -> None:
    shared: dict[str, Any] = {"env": "rlhf/Mixture-v0", "env_kwargs": {"tasks": TASKS}, "n_envs": 16, "episodes": 8}
    config = TuneConfig(**shared, tokens=192, metric="brief/reward", threads=1)
    find_space(config)
    agent = stock()
    found = agents.evaluate(agent, "rlhf/Mixture-v0", 8, "train", env_kwargs={"tasks": TASKS})
    assert measure(config, agent, "train")[0] == pytest.approx(found.estimates()["brief/reward"].mean)


def test_a_saved_agent_completes_prompts_without_the_tasks_rewards(tmp_path: Path) -> None:
    agents.save(stock(), tmp_path / "agent")
    assert json.loads((tmp_path / "agent" / "agent.json").read_text())["env"]["kwargs"]["tasks"] == TASKS
    done = agents.generate(tmp_path / "agent", prompts=["b"])
    assert done[0].prompt == "b"
    scored = agents.generate(tmp_path / "agent", "rlhf/Mixture-v0", prompts=[{"prompt": "e", "task": "brief"}])
    assert scored[0].components.keys() == {"length-penalty"}
    with pytest.raises(ValueError, match=r"row 0 of the mixture's data has task=None: it needs a column 'task'"):
        agents.generate(tmp_path / "agent", "rlhf/Mixture-v0", prompts=["e"])


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"id": "no_such_module:rlhf/X-v0"}, "the environment 'no_such_module:rlhf/X-v0' is not imported"),
        ({"id": BANDIT, "reward": "m:r"}, "the reward 'm:r' is not imported just because it names it"),
        ({"id": BANDIT, "data": "/etc/hostname"}, "data names '/etc/hostname', which is not followed"),
        ({"id": BANDIT, "task": "m:T"}, "the environment's argument 'task' is not taken from it"),
    ],
)
def test_a_file_imports_nothing_by_its_tasks(entry: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_env_kwargs({"tasks": [BANDIT, entry]}, "it", follow_paths=False)
    assert read_env_kwargs({"tasks": TASKS}, "it", follow_paths=False) == {"tasks": TASKS}
