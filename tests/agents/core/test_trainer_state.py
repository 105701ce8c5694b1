"""Rewards are told how far training is, and TensorBoard shows what they log."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from stable_baselines3 import PPO
from stable_baselines3.common.env_util import make_vec_env as sb3_make_vec_env
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import agents
from agents import SequenceRolloutBuffer, TellTrainerState, TextMetrics, TokenPolicy
from rlhf_envs.rewards import FunctionReward, Guarded, Reward, TrainerState

ID = "rlhf/TokenBandit-v0"


class Reads:
    """A reward that notes the states it is given, and logs."""

    def __init__(self) -> None:
        self.states: list[tuple[int, int, int]] = []

    def __call__(self, completions: Any, trainer_state: Any, log_metric: Any, log_extra: Any, **columns: Any) -> Any:
        self.states.append((trainer_state.global_step, trainer_state.max_steps, trainer_state.num_input_tokens_seen))
        log_metric("progress", trainer_state.global_step / trainer_state.max_steps)
        log_extra("note", [f"<b>{len(text)}</b>" for text in completions])
        return [float(len(text)) for text in completions]


def sometimes(completions: Any, **columns: Any) -> list[float | None]:
    return [None if i == 0 else 1.0 for i, _ in enumerate(completions)]


def events_of(folder: Path) -> EventAccumulator:
    events = EventAccumulator(str(next(folder.iterdir())), size_guidance={"scalars": 0, "tensors": 0})
    events.Reload()
    return events


@pytest.mark.parametrize(("algo", "per_step"), [("ppo", 16), ("reinforce", 16)])
def test_agents_tell_the_rollouts_done_and_planned_and_show_what_rewards_log(
    tmp_path: Path, algo: str, per_step: int
) -> None:
    reward = Reads()
    env = agents.make_vec_env(ID, 4, seed=0, reward_fn=FunctionReward(reward) + sometimes)
    agent = agents.make(algo, env, n_steps=4, seed=0, device="cpu", tensorboard_log=str(tmp_path))
    agent.learn(3 * per_step - 1, callback=TextMetrics(judges={}))
    assert sorted(set(reward.states)) == [(step, 3, step * per_step) for step in range(3)]
    events = events_of(tmp_path)
    assert [event.value for event in events.Scalars("rlhf/progress")] == pytest.approx([0, 1 / 3, 2 / 3])
    assert 0 < events.Scalars("rlhf/none_sometimes")[0].value < 1
    assert events.Scalars("rlhf/reward_sometimes")[0].value == 1.0
    (tag,) = (tag for tag in events.Tags()["tensors"] if tag.startswith("rlhf/samples"))
    shown = events.Tensors(tag)[0].tensor_proto.string_val[0].decode()
    assert " (note&#58; &lt;b\\>" in shown, "escaped, since rewards may repeat what models wrote"


@pytest.mark.parametrize("vec_env", [agents.make_vec_env, sb3_make_vec_env])
def test_stock_ppo_tells_them_by_the_callback(vec_env: Any) -> None:
    reward = Reads()
    options = {"reward_fn": reward}
    env = vec_env(ID, 2, **(options if vec_env is agents.make_vec_env else {"env_kwargs": options}))
    agent = PPO(TokenPolicy, env, n_steps=4, batch_size=8, rollout_buffer_class=SequenceRolloutBuffer, device="cpu")
    agent.learn(16, callback=TellTrainerState())
    assert sorted(set(reward.states)) == [(0, 2, 0), (1, 2, 8)]


def test_environments_of_others_are_left_alone() -> None:
    agent = PPO("MlpPolicy", "CartPole-v1", n_steps=8, batch_size=8, device="cpu")
    agent.learn(16, callback=TellTrainerState())
    assert agent.num_timesteps == 16
    assert not agent.env.has_attr("trainer_state")


def test_a_metric_of_a_reward_may_not_take_the_name_of_another() -> None:
    def greedy(completions: Any, log_metric: Any, **columns: Any) -> list[float]:
        log_metric("kl", 0.0)
        return [0.0] * len(completions)

    env = agents.make_vec_env(ID, 2, reward_fn=greedy)
    with pytest.raises(ValueError, match="log_metric of a reward, gives 'kl', which is the name of another metric"):
        agents.make("ppo", env, n_steps=4, device="cpu").learn(8)


def test_an_evaluation_in_the_agents_environment_knows_the_state() -> None:
    reward = Reads()
    env = agents.make_vec_env(ID, 4, seed=0, reward_fn=reward)
    agent = agents.make("ppo", env, n_steps=4, device="cpu").learn(16)
    env.env_method("set_trainer_state", TrainerState(5, 10))
    reward.states.clear()
    agents.evaluate(agent, env, 2, judges={})
    assert set(reward.states) == {(5, 10, 0)}


@pytest.mark.parametrize("algo", ["ppo", "grpo", "dqn"])
def test_an_agent_takes_the_reward_models_to_its_device(algo: str) -> None:
    class Follows(Reward):
        device: Any = None

        def score(self, prompts: Any, completions: Any, **columns: Any) -> list[float]:
            return [0.0] * len(prompts)

        def follow(self, device: Any) -> None:
            self.device = device

    reward = Follows()
    agent = agents.make(algo, agents.make_vec_env(ID, 4, reward_fn=2 * Guarded(reward)), device="cpu")
    assert reward.device == agent.device
