"""The multiplier of a constraint: its steps by hand, its resume, and the cost that it reaches."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import configure

import agents
from agents.algorithms.ppo_lagrangian import LagrangeMultiplier
from agents.training.callbacks import PeriodicEvaluation
from rlhf_envs.rewards.constraints import Constrained, find_constraints
from rlhf_envs.rewards.diversity import Novelty
from rlhf_envs.rewards.rules import TokenBanditReward
from rlhf_envs.rewards.shaping import Whitened
from rlhf_envs.rewards.state import get_reward_state
from rlhf_envs.tasks.token_bandit import CONTEXTS, TokenBandit, completion_rewards, enumerate_completions

LIMIT, KL_COEF = 0.4, 0.3


def letters(prompts, completions, **columns):
    """The cost: how many of the letters a and d a completion has."""
    return [float(sum(completion.split().count(letter) for letter in "ad")) for completion in completions]


def constrained(limit=LIMIT, **kwargs):
    return Constrained(TokenBanditReward(3), letters, limit=limit, **kwargs)


def make_agent(reward_fn, n_envs=8, seed=0, **kwargs):
    env = agents.make_vec_env("rlhf/TokenBandit-v0", n_envs, seed=seed, reward_fn=reward_fn)
    settings = dict(n_steps=6, batch_size=48, kl_coef=KL_COEF) | kwargs
    return agents.make("ppo", env, seed=seed, device="cpu", **settings)


class Record(BaseCallback):
    """A rollout each: the mean cost of its episodes, the multiplier after it, and what was logged; stands last."""

    def __init__(self, reward):
        super().__init__()
        self.reward, self.costs, self.multipliers, self.logged, self._now = reward, [], [], [], []

    def _on_step(self):
        self._now += [info for info in self.locals["infos"] if "episode" in info]
        return True

    def _on_rollout_end(self):
        self.costs.append(np.mean([info["reward_components"]["letters"] for info in self._now]))
        self.multipliers.append(self.reward.multiplier)
        self.logged.append(
            {name: self.logger.name_to_value[f"rlhf/{name}"] for name in ("cost", "lagrange_multiplier")}
        )
        self._now = []


def test_the_multiplier_moves_once_a_rollout_by_the_violation_and_never_below_zero():
    reward = constrained(limit=1.5, multiplier=0.02)
    record = Record(reward)
    make_agent(reward).learn(48 * 6, callback=[LagrangeMultiplier(step=0.5), record])
    expected, multiplier = [], 0.02
    for cost in record.costs:
        multiplier = max(0.0, multiplier + 0.5 * (cost - 1.5))
        expected.append(multiplier)
    assert record.multipliers == pytest.approx(expected)
    assert min(expected) == 0.0, "the projection was needed"
    assert [row["cost"] for row in record.logged] == pytest.approx(record.costs)
    assert [row["lagrange_multiplier"] for row in record.logged] == pytest.approx(expected)


def test_the_multiplier_answers_the_last_cost_at_once_too(tmp_path):
    reward = constrained(limit=0.7, multiplier=0.5)
    record = Record(reward)
    agent = make_agent(reward)
    agent.learn(48 * 4, callback=[LagrangeMultiplier(step=0.1, proportional=2.0), record])
    agents.save(agent, tmp_path / "bundle")  # what the violations sum up to is in the bundle, with the multiplier
    other = constrained(limit=0.7)
    again = Record(other)
    env = agents.make_vec_env("rlhf/TokenBandit-v0", 8, reward_fn=other)
    resumed = agents.load(tmp_path / "bundle", env=env)
    resumed.learn(48 * 4, callback=[LagrangeMultiplier(step=0.1, proportional=2.0), again], reset_num_timesteps=False)
    expected, integral = [], 0.5
    for cost in record.costs + again.costs:
        integral = max(0.0, integral + 0.1 * (cost - 0.7))
        expected.append(max(0.0, integral + 2.0 * (cost - 0.7)))
    assert 0.0 in expected[:-1] and integral > 0 and max(expected) > 0, "a multiplier was cut off, the sum was not"
    assert record.multipliers + again.multipliers == pytest.approx(expected)
    with pytest.raises(ValueError, match="proportional must be a number of at least 0, got -1"):
        LagrangeMultiplier(proportional=-1.0)


def test_the_multiplier_stays_below_the_highest():
    reward = constrained(limit=-1.0)
    make_agent(reward).learn(48 * 2, callback=LagrangeMultiplier(step=10.0, highest=3.0))
    assert reward.multiplier == 3.0


def test_several_constraints_are_found_and_told_apart(tmp_path):
    def short(prompts, completions, **columns):
        return [float(not completion.strip()) for completion in completions]

    inner = constrained(limit=0.0)
    outer = Constrained(inner, short, limit=-1.0)
    agent = make_agent(0.5 * outer)
    agent.set_logger(configure(str(tmp_path), ["csv"]))
    callback = LagrangeMultiplier()
    agent.learn(48, callback=callback, log_interval=1)
    agent.logger.close()
    assert callback.constraints == {"short": [outer], "letters": [inner]}
    assert outer.multiplier > 0
    assert inner.multiplier > 0
    header = (tmp_path / "progress.csv").read_text().splitlines()[0]
    for tag in ("cost_letters", "cost_short", "lagrange_multiplier_letters", "lagrange_multiplier_short"):
        assert f"rlhf/{tag}" in header


def stateful():
    """A constrained reward with running statistics and a memory."""
    reward = Whitened(TokenBanditReward(3), warm_up=2) + 0.1 * Novelty(1, memory=8)
    return Constrained(reward, letters, limit=0.1)


def test_a_run_goes_on_with_its_multiplier_statistics_and_memory(tmp_path):
    """Two rollouts, a bundle, two more are the four in one go, bit for bit."""
    whole = stateful()
    agent = make_agent(whole)
    agent.learn(48 * 4, callback=LagrangeMultiplier(step=0.5))
    first = stateful()
    begun = make_agent(first)
    begun.learn(48 * 2, callback=LagrangeMultiplier(step=0.5))
    agents.save(begun, tmp_path / "bundle")
    second = stateful()
    env = agents.make_vec_env("rlhf/TokenBandit-v0", 8, reward_fn=second)
    resumed = agents.load(tmp_path / "bundle", env=env)
    assert second.multiplier == first.multiplier > 0
    resumed.learn(48 * 2, callback=LagrangeMultiplier(step=0.5), reset_num_timesteps=False)
    assert second.multiplier == whole.multiplier
    assert get_reward_state(second) == get_reward_state(whole)
    for ours, theirs in zip(resumed.policy.parameters(), agent.policy.parameters(), strict=True):
        assert (ours == theirs).all()


def test_evaluations_leave_multiplier_statistics_and_memory_as_they_are(tmp_path):
    reward = stateful()
    agent = make_agent(reward)
    agent.learn(48, callback=LagrangeMultiplier())
    before = get_reward_state(reward)
    assert len(before) == 3
    evaluation = agents.evaluate(agent, "rlhf/TokenBandit-v0", 8, env_kwargs={"reward_fn": reward})
    assert {"token-bandit", "whitened_token-bandit", "novelty", "letters"} == set(evaluation.components)
    env = agents.make_vec_env("rlhf/TokenBandit-v0", 4, reward_fn=reward)
    watched = make_agent(TokenBanditReward(3))
    watched.learn(48, callback=PeriodicEvaluation(env, 4, 48, tmp_path / "evaluations", seed=0))
    assert get_reward_state(reward) == before


def test_ppo_lagrangian_takes_no_cost_beside_the_environments_own():
    env = agents.make_vec_env("rlhf/TokenBandit-v0", 4, seed=0)
    own = dict(device="cpu", cost="repetition", cost_limit=0.1)
    agents.make("ppo_lagrangian", env, **own)
    agents.make("ppo_lagrangian", env, **own)  # the same again, as when an agent goes on
    for other in (dict(cost_limit=0.2), dict(cost=letters)):
        with pytest.raises(ValueError, match=r"constrained already, by 'repetition' with the limit 0\.1; leave both"):
            agents.make("ppo_lagrangian", env, **(own | other))
    agents.make("ppo_lagrangian", env, device="cpu")


def test_ppo_lagrangian_takes_a_cost_that_is_one_of_several():
    reward = Constrained(Constrained(TokenBanditReward(3), "repetition", 0.2), letters, 3.0)
    env = agents.make_vec_env("rlhf/TokenBandit-v0", 4, seed=0, reward_fn=reward)
    agents.make("ppo_lagrangian", env, device="cpu", cost="repetition", cost_limit=0.2)
    with pytest.raises(ValueError, match=r"already, by 'letters' with the limit 3\.0 and 'repetition' with the limit"):
        agents.make("ppo_lagrangian", env, device="cpu", cost="repetition", cost_limit=0.3)


def test_ppo_lagrangian_limits_several_costs_each_with_its_own_multiplier(tmp_path):
    env = agents.make_vec_env("rlhf/TokenBandit-v0", 8, seed=0)
    costs = {"repetition": 0.9, "repetition-penalty": -0.9}
    agent = agents.make("ppo_lagrangian", env, n_steps=6, batch_size=48, device="cpu", costs=costs, multiplier_step=1.0)
    agent.learn(48)
    found = {one.cost_name: one for one in find_constraints(env.get_attr("reward_fn", 0)[0])}
    assert {name: one.limit for name, one in found.items()} == costs
    assert found["repetition"].multiplier == 0 < found["repetition-penalty"].multiplier
    agents.save(agent, tmp_path / "bundle")
    again = agents.load(tmp_path / "bundle")
    assert again.costs == costs
    multipliers = {
        one.cost_name: one.multiplier for one in find_constraints(again.get_env().get_attr("reward_fn", 0)[0])
    }
    assert multipliers == {name: one.multiplier for name, one in found.items()}
    for wrong, message in (
        (dict(costs={}), "costs={}: expected limits by the names"),
        (dict(costs={"repetition": "low"}), "the limit of 'repetition' is 'low'"),
        (dict(costs=costs, cost="repetition", cost_limit=0.1), "put all limits into costs"),
        (dict(costs={"repetition": 0.5}), "cost='repetition' with cost_limit=0.5: the environment's reward is constr"),
    ):
        with pytest.raises(ValueError, match=message):
            agents.make("ppo_lagrangian", env, device="cpu", **wrong)


def test_the_first_multiplier_can_be_given_and_a_bundle_goes_on_with_the_last(tmp_path):
    def multipliers(env):
        return [one.multiplier for one in find_constraints(env.get_attr("reward_fn", 0)[0])]

    env = agents.make_vec_env("rlhf/TokenBandit-v0", 8, seed=0)
    settings = dict(costs={"repetition": 0.9, "repetition-penalty": -0.9}, n_steps=6, batch_size=48, device="cpu")
    agent = agents.make("ppo_lagrangian", env, multiplier_start=2.0, multiplier_step=0.5, **settings)
    assert multipliers(env) == [2.0, 2.0]
    agent.learn(48)
    last = multipliers(env)
    assert last[0] != last[1] and 2.0 not in last
    agents.save(agent, tmp_path / "bundle")
    again = agents.load(tmp_path / "bundle")
    assert again.multiplier_start == 2.0
    assert multipliers(again.get_env()) == last
    for wrong in (-1.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match=r"multiplier_start( must be|=nan: expected) a number of at least"):
            agents.make("ppo_lagrangian", env, multiplier_start=wrong, **settings)


def test_a_constraint_can_be_named_and_then_needs_no_object_to_go_on(tmp_path):
    named = {"reward": "token-bandit", "cost": "repetition-penalty", "limit": -0.5}
    env = agents.make_vec_env("rlhf/TokenBandit-v0", 8, seed=0, reward="constrained", reward_kwargs=named)
    agent = agents.make("ppo", env, n_steps=6, batch_size=48, device="cpu")
    agent.learn(48, callback=LagrangeMultiplier())
    agents.save(agent, tmp_path / "bundle")
    again = agents.load(tmp_path / "bundle").get_env().get_attr("reward_fn", 0)[0]
    assert again.multiplier == env.get_attr("reward_fn", 0)[0].multiplier > 0


def test_environments_with_rewards_of_their_own_share_the_multiplier():
    """As SB3's `make_vec_env` makes them."""
    from stable_baselines3.common.env_util import make_vec_env

    env = make_vec_env(lambda: gym.make("rlhf/TokenBandit-v0", reward_fn=constrained(limit=0.0)), 2, seed=0)
    agents.make("ppo", env, n_steps=6, batch_size=12, device="cpu", seed=1).learn(12, callback=LagrangeMultiplier())
    first, second = env.get_attr("reward_fn")
    assert first is not second
    assert first.multiplier == second.multiplier > 0


def test_mistakes_are_named():
    with pytest.raises(ValueError, match="step must be a number above 0, got 0"):
        LagrangeMultiplier(step=0)
    with pytest.raises(ValueError, match="the training environment's reward has no constraint"):
        make_agent(TokenBanditReward(3)).learn(48, callback=LagrangeMultiplier())
    with pytest.raises(
        ValueError, match=r"reports no cost 'letters' .*'token-bandit'.* is its reward_fn the constrained"
    ):
        make_agent(TokenBanditReward(3)).learn(48, callback=LagrangeMultiplier(constrained()))
    twice = Constrained(constrained(), lambda prompts, completions, **_: [0.0] * len(prompts), 1, cost_name="letters")
    with pytest.raises(ValueError, match="costs of one name"):
        make_agent(twice).learn(48, callback=LagrangeMultiplier())


def best_multiplier() -> tuple[float, float]:
    """By enumeration: the cost of the unconstrained optimum, and the multiplier at whose optimum the cost is LIMIT.

    At a multiplier m the KL-regularised optimum is pi_ref exp((r - m c) / KL_COEF) / Z, here with a uniform reference.
    """
    completions = enumerate_completions()
    texts = TokenBandit().tokenizer(None).batch_decode([list(ids) for ids in completions], skip_special_tokens=True)
    costs = np.array(letters([], texts))
    log_ref = -np.log(8) * np.array([len(ids) for ids in completions])

    def cost(multiplier):
        means = []
        for prompt in CONTEXTS:
            logits = log_ref + (completion_rewards(prompt, completions) - multiplier * costs) / KL_COEF
            weights = np.exp(logits - logits.max())
            means.append(weights @ costs / weights.sum())
        return float(np.mean(means))

    low, high = 0.0, 10.0
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (middle, high) if cost(middle) > LIMIT else (low, middle)
    return cost(0.0), low


def learn(seed, tokens, **kwargs):
    reward = constrained()
    record = Record(reward) if kwargs.pop("with_multiplier") else None
    settings = dict(n_envs=64, n_steps=24, batch_size=768, n_epochs=8, vf_coef=0.5, learning_rate=2e-3)
    agent = make_agent(reward, seed=seed, **settings)
    agent.learn(tokens, callback=[] if record is None else [LagrangeMultiplier(), record])
    return agent, record


@pytest.mark.slow
def test_the_cost_settles_within_a_tenth_of_its_limit_which_the_unconstrained_optimum_breaks():
    unconstrained, multiplier = best_multiplier()
    assert unconstrained > 1.5 * LIMIT
    agent, _ = learn(0, 40_000, with_multiplier=False)
    after = agents.evaluate(agent, "rlhf/TokenBandit-v0", 1024, env_kwargs={"reward_fn": constrained()})
    assert after.components["letters"].mean() > 1.5 * LIMIT, "and a run without a multiplier does break it"
    for seed in range(3):
        _, record = learn(seed, 60_000, with_multiplier=True)
        third = len(record.costs) // 3
        settled = np.mean(record.costs[-third:])
        found = np.mean(record.multipliers[-third:])
        print(f"seed {seed}: cost {settled:.3f} (limit {LIMIT}), multiplier {found:.3f} (closed form {multiplier:.3f})")
        assert settled == pytest.approx(LIMIT, rel=0.1)
        assert found == pytest.approx(multiplier, rel=0.25)
