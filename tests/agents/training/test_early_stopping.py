"""Early stopping on a held-out metric: when it stops, what it keeps, and that it leaves the run alone."""

from __future__ import annotations

import json

import pytest
import torch

import agents
from agents.experiments.loop.config import LoopConfig
from agents.saving.bundle import read_extra
from agents.training import held_out_callback
from agents.training.callbacks import PeriodicEvaluation
from agents.training.early_stopping import EarlyStopping, stopping_point
from agents.training.run import prepare, train
from tests.agents.training.runs import config, finish, rlhf, train_until_killed

ID = "rlhf/TokenBandit-v0"
ROLLOUT = 48


class Scripted:
    """A judge whose mean score is what the script says, an evaluation each."""

    def __init__(self, *script):
        self.script, self.calls = script, 0

    def __call__(self, prompts, completions, **columns):
        self.calls += 1
        return [float(self.script[min(self.calls, len(self.script)) - 1])] * len(prompts)


def make_agent(seed=0, **env_kwargs):
    env = agents.make_vec_env(ID, 8, seed=seed, **env_kwargs)
    return agents.make("ppo", env, seed=seed, device="cpu", n_steps=6, batch_size=ROLLOUT)


def stopping(*script, **kwargs):
    settings = dict(eval_freq=ROLLOUT, n_episodes=4, patience=2, judges={"gold": Scripted(*script)}) | kwargs
    return EarlyStopping("gold", **settings)


def weights(agent):
    return torch.cat([parameter.detach().flatten() for parameter in agent.policy.parameters()])


@pytest.mark.parametrize(
    ("values", "patience", "min_delta", "expected"),
    [
        ([1, 2, 3], 1, 0, (2, None)),
        ([1, 3, 2, 2.5], 2, 0, (1, 3)),
        ([1, 3, 2, 4, 1, 1], 2, 0, (3, 5)),
        ([1, 1, 1], 2, 0, (0, 2)),
        ([1, 1.05, 1.2], 2, 0.1, (2, None)),
        ([1, 1.05, 1.08, 9], 2, 0.1, (0, 2)),
        ([5], 1, 0, (0, None)),
    ],
)
def test_a_series_stops_after_patience_evaluations_without_a_rise(values, patience, min_delta, expected):
    assert stopping_point(values, patience, min_delta) == expected


def test_a_run_stops_and_the_best_agent_is_kept(tmp_path):
    agent = make_agent()
    callback = stopping(0.1, 0.5, 0.9, 0.2, 0.3, 0.99, folder=tmp_path / "best")
    agent.learn(ROLLOUT * 20, callback=callback)
    assert [tokens for tokens, _ in callback.history] == [0, 48, 96, 144, 192]
    assert (callback.best, callback.best_timesteps, callback.stopped) == (0.9, 96, True)
    assert agent.num_timesteps < 192 + ROLLOUT, "the next rollout was given up at once"
    short = make_agent()
    short.learn(96)
    kept = agents.load(tmp_path / "best")
    assert kept.num_timesteps == 96
    assert torch.equal(weights(kept), weights(short))
    assert not torch.equal(weights(kept), weights(agent))


def test_a_run_that_does_not_stop_learns_what_it_learns_without():
    plain = make_agent()
    plain.learn(ROLLOUT * 3)
    watched, callback = make_agent(), stopping(1, 2, 3, 4, 5)
    watched.learn(ROLLOUT * 3, callback=callback)
    assert torch.equal(weights(plain), weights(watched))
    assert [tokens for tokens, _ in callback.history] == [0, 48, 96, 144], "the end of training is evaluated too"
    assert not callback.stopped


def test_evaluations_come_every_eval_freq_tokens_and_are_logged(tmp_path):
    from stable_baselines3.common.logger import configure

    agent = make_agent()
    agent.set_logger(configure(str(tmp_path), ["csv"]))
    callback = stopping(3, 2, 5, eval_freq=2 * ROLLOUT)
    agent.learn(ROLLOUT * 4, callback=callback, log_interval=1)
    agent.logger.close()
    assert [tokens for tokens, _ in callback.history] == [0, 96, 192]
    header, *rows = (line.split(",") for line in (tmp_path / "progress.csv").read_text().splitlines())
    logged = [(row[header.index("eval/gold")], row[header.index("eval/best_gold")]) for row in rows]
    assert logged[0] == ("3.0", "3.0")
    assert ("2.0", "3.0") in logged


def test_the_state_goes_on_where_it_was(tmp_path):
    first = stopping(5, 1)
    agent = make_agent()
    agent.learn(ROLLOUT, callback=first)
    agents.save(agent, tmp_path / "bundle", {"stopping": first.get_state()})
    second = stopping(1, 1, 1)
    second.set_state(read_extra(tmp_path / "bundle")["stopping"])
    resumed = agents.load(tmp_path / "bundle")
    resumed.learn(ROLLOUT * 9, callback=second, reset_num_timesteps=False)
    assert second.history == [(0, 5.0), (48, 1.0), (96, 1.0)]
    assert second.stopped


def test_it_takes_the_environment_of_the_periodic_evaluation_and_any_metric(tmp_path):
    env = agents.make_vec_env(ID, 4, split="test")
    periodic = PeriodicEvaluation(env, 4, ROLLOUT, tmp_path / "evaluations", seed=0)
    callback = EarlyStopping("reward", env=periodic.eval_env, eval_freq=ROLLOUT, n_episodes=8)
    make_agent().learn(ROLLOUT, callback=[periodic, callback])
    assert len(callback.history) == 2
    assert -1 <= callback.best <= 1


def test_by_default_the_reward_in_use_is_evaluated_on_the_validation_split(monkeypatch):
    seen = []
    real = held_out_callback.evaluate
    monkeypatch.setattr(held_out_callback, "evaluate", lambda *a, **k: seen.append(k) or real(*a, **k))

    def constant(value):
        return lambda prompts, completions, **_: [value] * len(prompts)

    given, set_later = make_agent(reward_fn=constant(0.5)), make_agent()
    set_later.get_env().set_attr("reward_fn", constant(0.25))
    for agent, value in ((given, 0.5), (set_later, 0.25)):
        callback = EarlyStopping("reward", eval_freq=ROLLOUT, n_episodes=4)
        agent.learn(ROLLOUT, callback=callback)
        assert callback.history == [(0, value), (48, value)]
    assert {call["split"] for call in seen} == {"validation"}


def test_a_rollout_that_is_given_up_is_no_end_to_evaluate_after():
    """As a signal has it: the run goes on from before that rollout, and its history must not know of the evaluation."""
    agent, callback = make_agent(), stopping(1, 2, 3)
    agent.learn(ROLLOUT * 3, callback=[callback, lambda *_: agent.num_timesteps < ROLLOUT + 24])
    assert [tokens for tokens, _ in callback.history] == [0, 48]


@pytest.fixture
def best_after_96(monkeypatch):
    """Let the validation reward of runs be best after 96 tokens, whatever the agent does."""
    real = EarlyStopping._evaluate

    def scripted(self):
        real(self)
        tokens = self.num_timesteps
        self.history[-1] = (tokens, 1.0 - abs(tokens - 96) / 1000)
        if tokens <= 96:
            agents.save(self.model, self.folder)

    monkeypatch.setattr(EarlyStopping, "_evaluate", scripted)


@pytest.mark.usefixtures("best_after_96")
def test_a_run_keeps_its_best_agent_and_says_so(tmp_path):
    result = train(config(tmp_path, eval_freq=96, early_stopping="reward", eval_patience=2, n_timesteps=960))
    folder = tmp_path / "ppo" / "run"
    summary = json.loads((folder / "report.json").read_text())["early_stopping"]
    assert summary == {"metric": "reward", "patience": 2, "best": 1.0, "best_timesteps": 96, "stopped": True}
    short = train(config(tmp_path / "short", n_timesteps=96, eval_freq=0))
    for name in ("model/model.safetensors", "best/policy.safetensors"):
        other = tmp_path / "short/ppo/run" / name.replace("best", "agent")
        assert (folder / name).read_bytes() == other.read_bytes(), name
    assert result.after.reward.tolist() == short.after.reward.tolist()
    assert result.tokens_of_after == 96 < result.agent.num_timesteps == 288 + 32
    for more in ([], ["-n", "9600"]):
        output = rlhf("train", "--resume", str(folder), *more).output
        assert "nothing to do" in output
        assert "unless it stopped early" in output


@pytest.mark.usefixtures("best_after_96")
def test_a_killed_run_goes_on_with_its_patience(tmp_path, monkeypatch):
    train_until_killed(monkeypatch, config(tmp_path, eval_freq=96, early_stopping="reward", save_freq=96), 288)
    result = finish(tmp_path / "ppo" / "run")
    assert (result.early_stopping["best_timesteps"], result.early_stopping["stopped"]) == (96, True)
    assert result.agent.num_timesteps == 384 + 32


def test_the_metric_and_the_prompts_to_stop_by_are_checked_before_training(tmp_path):
    with pytest.raises(ValueError, match="there is no metric 'rewards' to go by; did you mean 'reward'"):
        prepare(config(tmp_path, early_stopping="rewards"))
    with pytest.raises(ValueError, match="--early-stopping repetition: this is the cost of --constraint, and the hig"):
        prepare(config(tmp_path, early_stopping="repetition", constraint="repetition", limit=0.1))
    rows = [{"prompt": text, "split": split} for split, text in (("train", "a"), ("test", "b"))]
    env = dict(data=rows, reward="length-penalty", reward_kwargs={"longest": 1}, max_new_tokens=3)
    with pytest.raises(ValueError, match="--early-stopping reward needs validation prompts"):
        prepare(config(tmp_path, early_stopping="reward", env="rlhf/Prompts-v0", env_kwargs=env))


def test_a_loop_does_not_stop_early():
    with pytest.raises(ValueError, match="early_stopping=gold: the rounds of a loop have none; leave it out"):
        LoopConfig(early_stopping="gold", eval_freq=96)
    assert "early-stopping" not in rlhf("loop", "--help").output


def test_mistakes_are_named():
    with pytest.raises(ValueError, match="patience=0: expected at least 1"):
        EarlyStopping(patience=0)
    with pytest.raises(ValueError, match="min_delta=-1: expected a number of at least 0"):
        EarlyStopping(min_delta=-1)
    with pytest.raises(ValueError, match="no metric 'gold' to go by; there are reward, kl"):
        make_agent().learn(ROLLOUT, callback=EarlyStopping("gold", n_episodes=4))
