"""Episodes that are scored once a rollout, against the same runs scored in every step."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from stable_baselines3 import PPO
from stable_baselines3.common.buffers import DictRolloutBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.logger import KVWriter, Logger
from stable_baselines3.common.vec_env import VecCheckNan, VecEnvWrapper, VecMonitor, VecNormalize

import agents
from agents import SequenceRolloutBuffer, TextMetrics, TokenPolicy, make_vec_env
from rlhf_envs import Dialog, Reply, TextGenerationVectorEnv
from rlhf_envs.finished import FinishedEpisode
from rlhf_envs.rewards import RewardError, Whitened
from rlhf_envs.rewards.constraints import Constrained
from rlhf_envs.tasks import WordTask

ID = "rlhf/TokenBandit-v0"  # completions of at most 3 tokens
N_ENVS, N_STEPS = 4, 8


class Lengths:
    """A reward that does not depend on the batch, and notes how many texts each call had."""

    def __init__(self) -> None:
        self.calls: list[int] = []

    def __call__(self, prompts: list[str], completions: list[str], **columns: Any) -> list[float]:
        self.calls.append(len(prompts))
        return [len(completion) / 7 + (prompt == "a") for prompt, completion in zip(prompts, completions, strict=True)]


def environment(score: Any, reward: Any = None, **kwargs: Any) -> Any:
    reward = Lengths() if reward is None else reward
    return make_vec_env(ID, N_ENVS, seed=0, score=score, reward_fn=reward, **kwargs)


SIZES: dict[str, Any] = {"n_steps": N_STEPS, "batch_size": 16, "n_epochs": 1, "seed": 0, "device": "cpu"}


def stock(env: Any, buffer: Any = SequenceRolloutBuffer, **kwargs: Any) -> Any:
    return PPO(TokenPolicy, env, rollout_buffer_class=buffer, **SIZES, **kwargs)


def ours(name: str, env: Any, **kwargs: Any) -> Any:
    return agents.make(name, env, **SIZES, **kwargs)


class Log(Logger, KVWriter):
    """Keep what a run logs, but for the time."""

    def __init__(self) -> None:
        Logger.__init__(self, None, [self])
        self.rows: list[dict[str, Any]] = []

    def write(self, key_values: dict[str, Any], key_excluded: dict[str, Any], step: int = 0) -> None:
        numbers = {name: value for name, value in key_values.items() if isinstance(value, int | float | np.number)}
        self.rows.append({n: v for n, v in numbers.items() if "time" not in n and "second" not in n})


def weights(agent: Any) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in agent.policy.parameters()])


AGENTS: dict[str, Any] = {
    "PPO of SB3": lambda env: stock(env),
    "rloo": lambda env: ours("rloo", env, group_size=2),
    "maskable_ppo": lambda env: ours("maskable_ppo", env),
    "ppo_lagrangian": lambda env: ours("ppo_lagrangian", env, cost=shortness, cost_limit=0),
}


def shortness(prompts: list[str], completions: list[str], **columns: Any) -> list[float]:
    return [1 / (1 + len(completion)) for completion in completions]


@pytest.mark.parametrize("name", AGENTS)
def test_a_run_scored_by_rollouts_equals_one_scored_in_every_step(name: str) -> None:
    found = []
    for score in ("step", "rollout"):
        reward = Lengths()
        agent = AGENTS[name](environment(score, reward))
        agent.set_logger(log := Log())
        agent.learn(3 * N_ENVS * N_STEPS, TextMetrics(), log_interval=1)
        found.append((weights(agent), log.rows, reward.calls, list(agent.ep_info_buffer)))
    (w, logged, calls, episodes), (w2, logged2, calls2, episodes2) = found
    assert torch.equal(w, w2)
    assert logged == logged2
    assert len(logged) == 3
    assert {"rlhf/reward", "rollout/ep_rew_mean", "rlhf/reward_Lengths"} <= logged[0].keys()
    assert [(e["r"], e["l"]) for e in episodes] == [(e["r"], e["l"]) for e in episodes2]
    assert sum(calls) == sum(calls2) > len(calls) > 12
    assert len(calls2) <= 4  # one a rollout, and one if an episode ends in the very first step


def test_the_default_of_make_is_once_a_rollout_and_of_stock_agents_every_step() -> None:
    env = environment(None)
    assert env.score is None
    assert ours("ppo", env).get_env().score == "rollout"
    assert agents.make("reinforce", ID, n_envs=2).get_env().score == "rollout"
    assert ours("ppo", environment("step")).get_env().score == "step"
    reward = Lengths()
    stock(environment(None, reward)).learn(2 * N_ENVS * N_STEPS)
    assert len(reward.calls) > 3


def test_score_batch_bounds_a_call() -> None:
    reward = Lengths()
    stock(environment("rollout", reward, score_batch=3)).learn(2 * N_ENVS * N_STEPS)
    assert max(reward.calls) == 3
    assert sum(reward.calls) > 10


class Watch(BaseCallback):
    """Keep the infos and rewards of every step, and what the infos have in them at the end of the rollout."""

    def __init__(self) -> None:
        super().__init__()
        self.steps: list[tuple[np.ndarray, list[dict[str, Any]]]] = []

    def _on_step(self) -> bool:
        self.steps.append((np.array(self.locals["rewards"]), self.locals["infos"]))
        return True

    def _on_rollout_end(self) -> None:
        ended = [(step, row) for step, (_, infos) in enumerate(self.steps) for row, info in enumerate(infos) if info]
        assert len(ended) >= 8
        for step, row in ended:
            info = self.steps[step][1][row]
            (score,) = info["reward_components"].values()
            assert info["episode"]["r"] == pytest.approx(score, abs=1e-6)
            assert info["metrics"].keys() == {"regret"}
        self.scores = {(step, row): self.steps[step][1][row]["episode"]["r"] for step, row in ended}


def test_scores_reach_the_last_token_in_the_buffer_and_the_infos_before_the_rollout_ends(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from rlhf_envs.tasks.token_bandit import TokenBandit

    monkeypatch.setattr(TokenBandit, "metrics", lambda self, prompts, *_: {"regret": [0.5] * len(prompts)})
    watch, agent = Watch(), stock(environment("rollout"), rollout_buffer_kwargs={"kl_coef": 0.0})
    agent.learn(N_ENVS * N_STEPS, watch)
    expected = np.zeros((N_STEPS, N_ENVS), np.float32)
    for place, score in watch.scores.items():
        expected[place] = score
    np.testing.assert_allclose(agent.rollout_buffer.rewards, expected, atol=1e-6)
    assert all(not rewards.any() for rewards, _ in watch.steps[1:])  # the scores came later


def test_a_buffer_that_scores_nothing_gets_every_score_in_its_step(caplog: pytest.LogCaptureFixture) -> None:
    found = []
    for score in ("step", "rollout"):
        agent = stock(environment(score), DictRolloutBuffer)
        agent.learn(2 * N_ENVS * N_STEPS)
        found.append((weights(agent), agent.rollout_buffer.rewards.copy()))
    assert torch.equal(found[0][0], found[1][0])
    np.testing.assert_array_equal(found[0][1], found[1][1])
    assert found[1][1].any()
    assert [r.levelno for r in caplog.records if "score='rollout'" in r.message] == [logging.WARNING]


class Scaled(VecEnvWrapper):
    """Scale rewards where they stand."""

    def reset(self) -> Any:
        return self.venv.reset()

    def step_wait(self) -> Any:
        observations, rewards, dones, infos = self.venv.step_wait()
        rewards *= 0.5
        return observations, rewards, dones, infos


@pytest.mark.filterwarnings("ignore:.*already wrapped with a `Monitor`")  # of the third
@pytest.mark.parametrize(
    "wrap",
    [VecMonitor, lambda env: VecNormalize(env, norm_obs=False), lambda env: VecMonitor(VecCheckNan(env)), Scaled],
)
def test_a_wrapper_that_reads_rewards_in_the_step_finds_them(wrap: Any) -> None:
    found = []
    for score in ("step", "rollout"):
        agent = stock(wrap(environment(score)))
        agent.learn(2 * N_ENVS * N_STEPS)
        found.append((weights(agent), [episode["r"] for episode in agent.ep_info_buffer]))
    assert torch.equal(found[0][0], found[1][0])
    assert found[0][1] == found[1][1]
    assert np.isfinite(found[1][1]).all()
    assert np.max(found[1][1]) > 0


class Rarely(VecEnvWrapper):
    """Change rewards where episodes end, and nowhere else."""

    def reset(self) -> Any:
        return self.venv.reset()

    def step_wait(self) -> Any:
        observations, rewards, dones, infos = self.venv.step_wait()
        return observations, rewards + 1 if dones.any() else rewards, dones, infos


def test_episodes_that_never_get_a_score_are_counted(caplog: pytest.LogCaptureFixture) -> None:
    stock(Rarely(environment("rollout"))).learn(N_ENVS * N_STEPS)
    assert any("ended in the last step have no score" in record.message for record in caplog.records)


def test_a_callback_that_sums_rewards_finds_the_scores() -> None:
    sums: list[float] = []

    def note(seen: Any, _: Any) -> bool:
        sums.append(seen["rewards"].sum())
        return True

    reward = Lengths()
    stock(environment("rollout", reward)).learn(N_ENVS * N_STEPS, note)
    assert sum(reward.calls) >= 8
    assert np.count_nonzero(sums) == len(reward.calls)


def test_the_training_environment_evaluates_as_any_other() -> None:
    agent = ours("ppo", environment(None))
    agent.learn(N_ENVS * N_STEPS)
    rewards, _ = evaluate_policy(agent, agent.get_env(), 12, return_episode_rewards=True)
    assert np.isfinite(rewards).all()
    assert np.min(rewards) > 0


def test_a_reward_with_a_state_goes_on_exactly(tmp_path: Path) -> None:
    """The first step after a resume is scored after the rollout, as it is in a run that was never stopped."""

    def build() -> Any:
        return environment(None, Whitened(Lengths(), warm_up=4))

    whole = ours("ppo", build())
    whole.learn(2 * N_ENVS * N_STEPS)
    agents.save(whole, tmp_path / "half")
    whole.learn(2 * N_ENVS * N_STEPS, reset_num_timesteps=False)
    half = agents.load(tmp_path / "half", build())
    assert half.get_env().score == "rollout"
    half.learn(2 * N_ENVS * N_STEPS, reset_num_timesteps=False)
    assert torch.equal(weights(whole), weights(half))


def test_how_a_run_is_scored_is_saved(tmp_path: Path) -> None:
    agent = ours("ppo", make_vec_env(ID, N_ENVS, seed=0, score="step", score_batch=5))
    agent.learn(N_ENVS * N_STEPS)
    agents.save(agent, tmp_path / "agent")
    again = agents.load(tmp_path / "agent").get_env()
    assert (again.score, again.score_batch) == ("step", 5)


class StopAt(BaseCallback):
    """End the training in the middle of a rollout."""

    def __init__(self, calls: int) -> None:
        super().__init__()
        self.calls = calls

    def _on_step(self) -> bool:
        return self.n_calls < self.calls


def test_episodes_of_a_rollout_that_is_stopped_are_never_counted() -> None:
    agent, metrics = ours("ppo", environment("rollout")), TextMetrics()
    agent.set_logger(log := Log())
    agent.learn(3 * N_ENVS * N_STEPS, [metrics, StopAt(N_STEPS + 5)])
    before = len(agent.ep_info_buffer)
    assert before == len([e for e in agent.ep_info_buffer if np.isfinite(e["r"])]) > 3
    agent.learn(N_ENVS * N_STEPS, metrics, reset_num_timesteps=False)
    assert log.rows[-1]["rollout/ep_rew_mean"] > 0
    assert log.rows[-1]["rlhf/reward"] > 0


def test_a_reward_that_fails_after_a_rollout_names_the_environments() -> None:
    def broken(prompts: list[str], completions: list[str], **columns: Any) -> list[float]:
        raise ConnectionError("no answer")

    agent = stock(environment("rollout", broken, reward_retries=0))
    with pytest.raises(RewardError, match=r"no answer.*In environment \d \(row \d of the data\)"):
        agent.learn(N_ENVS * N_STEPS)


def test_arguments_that_make_no_sense_are_named() -> None:
    with pytest.raises(ValueError, match="score='later': choose 'step' or 'rollout'"):
        make_vec_env(ID, 2, score="later")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="score_batch must be a whole number of at least 1, got 0"):
        make_vec_env(ID, 2, score_batch=0)


def test_a_constraint_reads_its_costs_after_they_are_scored() -> None:
    constrained = Constrained(Lengths(), shortness, limit=0.0)
    agent = ours("ppo", environment("rollout", constrained))
    agent.learn(N_ENVS * N_STEPS, agents.LagrangeMultiplier())
    assert constrained.multiplier > 0


def powers(prompts: list[str], completions: list[str], completion_ids: list[list[int]], **columns: Any) -> list[Any]:
    """Reward the k-th token of a completion with 10 to the power of k."""
    return [10.0 ** np.arange(len(ids)) for ids in completion_ids]


def test_token_rewards_land_on_the_tokens_of_the_rollout() -> None:
    agent = stock(environment("rollout", powers), rollout_buffer_kwargs={"kl_coef": 0.0})
    _, callback = agent._setup_learn(10**6, None)
    written = np.zeros(N_ENVS, int)  # tokens of each episode so far
    for _ in range(3):
        agent.collect_rollouts(agent.env, callback, agent.rollout_buffer, N_STEPS)
        expected, begun = np.zeros((N_STEPS, N_ENVS)), written.copy()
        ends = agent.rollout_buffer._ends(agent._last_episode_starts)
        for env in range(N_ENVS):
            start = 0
            for end in np.flatnonzero(ends[:, env]).tolist():
                tokens = 10.0 ** np.arange(begun[env] + end - start + 1)
                expected[start : end + 1, env] = tokens[begun[env] :]
                expected[start, env] += tokens[: begun[env]].sum()  # of the rollout before
                start, begun[env] = end + 1, 0
            begun[env] += N_STEPS - start
        written = begun
        np.testing.assert_allclose(agent.rollout_buffer.rewards, expected)
        assert expected.any()
    assert written.any()  # an episode was cut


def test_scored_in_the_step_token_rewards_fall_on_the_last_token() -> None:
    agent = stock(environment("step", powers), rollout_buffer_kwargs={"kl_coef": 0.0})
    agent.learn(N_ENVS * N_STEPS)
    buffer = agent.rollout_buffer
    assert set(buffer.rewards[buffer._ends(agent._last_episode_starts)].tolist()) <= {1.0, 11.0, 111.0}
    assert not buffer.rewards[~buffer._ends(agent._last_episode_starts)].any()


class Pays(WordTask):
    """A user who pays for every turn, so that rewards of turns and scores are added, neither a round number."""

    name, words, prompts = "pays", ("a", "b", "c"), ("a", "b c")
    max_prompt_tokens, max_new_tokens, max_turns = 2, 9, 3

    def replies(self, dialogs: Sequence[Dialog]) -> list[Reply]:
        return [Reply("c", reward=0.1 * len(dialog.messages[-1]["content"]) + 1 / 3) for dialog in dialogs]


def test_rewards_of_turns_and_the_score_are_added_to_the_last_bit() -> None:
    found = []
    for score in ("step", "rollout"):
        made: Any = lambda num_envs: TextGenerationVectorEnv(num_envs, Pays, reward_fn=Lengths())  # noqa: E731
        agent = stock(make_vec_env(made, N_ENVS, seed=0, score=score), rollout_buffer_kwargs={"kl_coef": 0.0})
        agent.learn(4 * N_ENVS * N_STEPS)
        found.append((agent.rollout_buffer.rewards, weights(agent), [e["r"] for e in agent.ep_info_buffer]))
    np.testing.assert_array_equal(found[0][0], found[1][0])
    assert torch.equal(found[0][1], found[1][1])
    assert found[0][2] == found[1][2]
    assert len(found[0][2]) > 8


def test_the_reward_of_a_replys_token_goes_to_the_action_before_it() -> None:
    """The first token is of an earlier rollout; a reply of two tokens comes after the third."""
    buffer: Any = SimpleNamespace(
        buffer_size=4,
        rewards=np.zeros((4, 2), np.float32),
        segments=np.array([[0, 5], [1, 5], [1, 5], [1, 6]]),
        columns=np.array([[9, 3], [3, 4], [4, 7], [5, 2]]),
    )
    episode = FinishedEpisode(1, [7, 7, 7, 8, 8, 7], {}, token_rewards=np.array([1.0, 2.0, 4.0, 8.0, 16.0, 32.0]))
    SequenceRolloutBuffer._add_token_rewards(buffer, 2, episode)
    assert buffer.rewards.tolist() == [[0, 3], [0, 28], [0, 32], [0, 0]]
