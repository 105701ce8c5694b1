"""`SequenceRolloutBuffer` against SB3's own buffer, hand-computed returns and a second copy of the model."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from stable_baselines3 import A2C, PPO
from stable_baselines3.common.buffers import DictRolloutBuffer

from agents import SequenceRolloutBuffer, TokenPolicy, make, make_vec_env
from agents.core.kl_penalty import KLController
from rlhf_envs.tasks.increasing_numbers import IncreasingNumbers
from rlhf_envs.vector_env import TextGenerationVectorEnv


class Echo(IncreasingNumbers):
    def replies(self, dialogs):
        return ["7 7" for _ in dialogs]


def make_agent(cls=PPO, n_envs=6, n_steps=14, seed=0, buffer=SequenceRolloutBuffer, buffer_kwargs=None, **kwargs):
    env = make_vec_env("rlhf/IncreasingNumbers-v0", n_envs, seed=seed)
    if cls is PPO:
        kwargs.setdefault("batch_size", n_envs * n_steps // 2)
    settings = dict(gamma=1.0, gae_lambda=0.95, seed=seed, device="cpu") | kwargs
    return cls(
        TokenPolicy,
        env,
        n_steps=n_steps,
        rollout_buffer_class=buffer,
        rollout_buffer_kwargs=buffer_kwargs or {},
        **settings,
    )


def collect(agent, rollouts=1):
    """Fill the buffer as `learn` does, without an update."""
    _, callback = agent._setup_learn(10**6, None)
    for _ in range(rollouts):
        agent.collect_rollouts(agent.env, callback, agent.rollout_buffer, agent.n_steps)
    return agent.rollout_buffer


def test_the_first_minibatch_after_a_rollout_has_ratio_one():
    agent = make_agent()
    agent.learn(agent.n_steps * agent.n_envs)  # not the starting weights, whose reference they equal
    buffer = collect(agent)
    for samples in buffer.get(42):
        _, log_prob, _ = agent.policy.evaluate_actions(samples.observations, samples.actions.long().flatten())
        assert (torch.exp(log_prob - samples.old_log_prob) - 1).abs().max() < 1e-4


def test_old_values_are_those_of_the_update():
    agent = make_agent()
    torch.nn.init.normal_(agent.policy.value_net.weight)
    for samples in collect(agent).get(None):
        values, _, _ = agent.policy.evaluate_actions(samples.observations, samples.actions.long().flatten())
        torch.testing.assert_close(values.flatten(), samples.old_values, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("cls", [PPO, A2C])
def test_an_update_equals_that_of_one_row_a_token(cls):
    """Without a KL penalty and with one minibatch, both buffers hand SB3 the same transitions, in another order."""
    weights = []
    one_batch = {"batch_size": 6 * 14, "n_epochs": 2} if cls is PPO else {"use_rms_prop": False}
    for buffer, kwargs in ((DictRolloutBuffer, {}), (SequenceRolloutBuffer, {"kl_coef": 0.0})):
        agent = make_agent(cls, buffer=buffer, buffer_kwargs=kwargs, learning_rate=1e-3, **one_batch)
        agent.learn(6 * 14)
        weights.append(torch.cat([p.detach().flatten() for p in agent.policy.parameters()]))
    torch.testing.assert_close(*weights, atol=2e-5, rtol=1e-4)


def test_every_transition_comes_once_in_whole_segments_of_about_batch_size():
    buffer = collect(make_agent(), rollouts=2)
    seen, sizes = [], []
    for samples in buffer.get(28):
        rows, columns = samples.observations["rows"], samples.observations["columns"]
        sizes.append(len(rows))
        assert set(rows.tolist()) == set(range(len(samples.observations["input_ids"])))
        for row in rows.unique():
            assert (columns[rows == row].diff() == 1).all(), "a segment is whole and in order"
            taken = samples.actions.flatten()[rows == row]
            ids = samples.observations["input_ids"][row]
            assert torch.equal(ids[columns[rows == row][1:]], taken[:-1]), "an action is the next token of its context"
        seen += zip(samples.old_log_prob.tolist(), samples.advantages.tolist(), strict=True)
    expected = zip(buffer.log_probs.flatten().tolist(), buffer.advantages.flatten().tolist(), strict=True)
    assert sorted(seen) == sorted(expected)
    assert len(sizes) == 3
    assert all(abs(size - 28) <= 10 for size in sizes)


def test_contexts_are_stored_once_a_segment():
    buffer = collect(make_agent())
    dones = int(buffer.episode_starts[1:].sum())
    assert buffer.n_segments == 6 + dones < buffer.actions.size / 2


def test_contexts_are_stored_as_observed_and_rewritten_ones_are_refused():
    env = make_vec_env(lambda num_envs: TextGenerationVectorEnv(num_envs, Echo()), 5, seed=0)
    end = env.get_attr("tokenizer", 0)[0].eos_token_id
    buffer = SequenceRolloutBuffer(40, env.observation_space, env.action_space, n_envs=5)
    rng, obs, starts, seen = np.random.default_rng(0), env.reset(), np.ones(5, bool), []
    for _ in range(39):
        seen.append({key: array.copy() for key, array in obs.items()})
        actions = np.where(rng.random(5) < 0.2, end, 3)  # some end turns and are replied to
        following, rewards, dones, _ = env.step(actions)
        buffer.add(obs, actions, rewards, starts, torch.zeros(5), torch.zeros(5))
        obs, starts = following, dones
    for step, row in np.ndindex(39, 5):
        segment, length = buffer.segments[step, row], buffer.columns[step, row] + 1
        assert length == seen[step]["attention_mask"][row].sum()
        for key, stored in buffer.observations.items():
            assert (stored[segment, :length] == seen[step][key][row, :length]).all()
    assert {1, 3} <= set(np.diff(buffer.columns[:39], axis=0).ravel().tolist()), "some contexts grew by replies"
    obs["input_ids"][~starts, 0] += 1
    with pytest.raises(ValueError, match=f"environment {np.flatnonzero(~starts)[0]} changed its context in the middle"):
        buffer.add(obs, actions, rewards, starts, torch.zeros(5), torch.zeros(5))


def _naive_advantages(rewards, values, ends, last_values, gamma, lam):
    """GAE of Schulman et al. 2016, equation 16, as a double sum over each episode's own steps."""
    n_steps, n_envs = rewards.shape
    advantages = np.zeros_like(rewards)
    for env in range(n_envs):
        for start in range(n_steps):
            weight = 1.0
            for t in range(start, n_steps):
                following = 0.0 if ends[t, env] else (values[t + 1, env] if t + 1 < n_steps else last_values[env])
                advantages[start, env] += weight * (rewards[t, env] + gamma * following - values[t, env])
                weight *= gamma * lam
                if ends[t, env]:
                    break
    return advantages


def test_advantages_equal_a_naive_sum_with_the_kl_penalty_and_bootstrapped_cuts():
    agent = make_agent(buffer_kwargs={"kl_coef": 0.3}, gae_lambda=0.9, learning_rate=1e-2)
    torch.nn.init.normal_(agent.policy.value_net.weight)
    reference = copy.deepcopy(agent.policy.language_model)
    agent.learn(agent.n_steps * agent.n_envs)
    scores, dones_seen = [], []
    step = agent.env.step_wait

    def spy():
        result = step()
        scores.append(result[1].copy())
        dones_seen.append(result[2].copy())
        return result

    agent.env.step_wait = spy
    buffer = collect(agent)
    ends = np.array(dones_seen)
    assert not ends[-1].all(), "some episode is cut by the end of the rollout"
    kl = np.zeros_like(buffer.rewards)
    for samples in buffer.get(None):
        obs = samples.observations
        with torch.no_grad():
            logits = reference.logits(obs["input_ids"], obs["attention_mask"], obs["rows"], obs["columns"]).log_softmax(
                -1
            )
        log_ref = logits.gather(1, samples.actions.long()).flatten()
        kl[np.nonzero(np.ones_like(kl))] = (samples.old_log_prob - log_ref).numpy()
    assert np.abs(kl).max() > 1e-3, "the policy has left its reference"
    rewards = np.array(scores) - 0.3 * kl
    np.testing.assert_allclose(buffer.rewards, rewards, atol=1e-5)
    last_values = agent.policy.predict_values(agent.policy.obs_to_tensor(agent._last_obs)[0]).detach().numpy().flatten()
    expected = _naive_advantages(rewards, buffer.values, ends, last_values, 1.0, 0.9)
    np.testing.assert_allclose(buffer.advantages, expected, atol=1e-4)
    np.testing.assert_allclose(buffer.returns, expected + buffer.values, atol=1e-4)


def test_shaping_adds_the_value_of_what_a_token_makes_and_its_probability():
    """`alpha * Q + beta * P` on every token, before GAE, from rewards, values and log-probabilities of the rollout."""
    shaped, plain = (
        make_agent(buffer_kwargs={"kl_coef": 0.0, **shaping}, gae_lambda=0.9)
        for shaping in ({"value_shaping": 0.5, "probability_shaping": 0.25}, {})
    )
    rollouts = []
    for agent in (shaped, plain):
        torch.manual_seed(1)
        torch.nn.init.normal_(agent.policy.value_net.weight)
        rollouts.append(collect(agent))
    buffer, unshaped = rollouts
    np.testing.assert_array_equal(buffer.actions, unshaped.actions)
    last_values = shaped.policy.predict_values(shaped.policy.obs_to_tensor(shaped._last_obs)[0]).detach().numpy()
    ends = np.vstack([buffer.episode_starts[1:], np.asarray(shaped._last_episode_starts)[None]]).astype(bool)
    expected = unshaped.rewards.copy()
    for step, env in np.ndindex(expected.shape):
        following = buffer.values[step + 1, env] if step + 1 < len(expected) else last_values[env, 0]
        q = 0.0 if ends[step, env] else following
        expected[step, env] += 0.5 * q + 0.25 * np.exp(buffer.log_probs[step, env])
    np.testing.assert_allclose(buffer.rewards, expected, atol=1e-5)
    advantages = _naive_advantages(expected, buffer.values, ends, last_values.flatten(), 1.0, 0.9)
    np.testing.assert_allclose(buffer.advantages, advantages, atol=1e-4)
    added = buffer.stats["shaping_value"] + buffer.stats["shaping_probability"]
    assert added == pytest.approx((buffer.rewards - unshaped.rewards).mean(), abs=1e-5)
    assert buffer.stats["shaping_probability"] == pytest.approx(0.25 * np.exp(buffer.log_probs).mean(), abs=1e-6)
    assert "shaping_value" not in unshaped.stats


def test_shaping_is_an_argument_of_make_and_is_logged(tmp_path):
    from stable_baselines3.common.logger import configure

    env = make_vec_env("rlhf/IncreasingNumbers-v0", 4, seed=0)
    agent = make("ppo", env, n_steps=14, value_shaping=0.01, probability_shaping=0.1, device="cpu")
    agent.set_logger(configure(str(tmp_path), ["csv"]))
    agent.learn(56, log_interval=1)
    agent.logger.close()
    header, row = (line.split(",") for line in (tmp_path / "progress.csv").read_text().splitlines()[:2])
    assert float(row[header.index("rlhf/shaping_probability")]) > 0
    assert "rlhf/shaping_value" in header
    with pytest.raises(ValueError, match="value_shaping=nan: expected a finite number"):
        make_agent(buffer_kwargs={"value_shaping": float("nan")})


def test_scores_stand_on_last_tokens_only():
    agent = make_agent(buffer_kwargs={"kl_coef": 0.0})
    buffer = collect(agent)
    last = np.vstack([buffer.episode_starts[1:], np.asarray(agent._last_episode_starts)[None]]).astype(bool)
    assert (buffer.rewards[~last] == 0).all()
    assert (buffer.rewards[last] != 0).any()


def test_an_episode_cut_by_the_end_of_a_rollout_goes_on_in_the_next():
    agent = make_agent(n_steps=4)
    first = collect(agent)
    before = first.observations["input_ids"][first.segments[-1]], first.columns[-1].copy(), first.actions[-1].copy()
    cut = ~np.asarray(agent._last_episode_starts, bool)
    assert cut.any()
    second = collect_again(agent)
    for env in np.flatnonzero(cut):
        context = second.observations["input_ids"][second.segments[0, env]]
        assert second.columns[0, env] == before[1][env] + 1
        assert context[before[1][env] + 1] == before[2][env, 0]
        assert (context[: before[1][env] + 1] == before[0][env][: before[1][env] + 1]).all()


def collect_again(agent):
    _, callback = agent._setup_learn(10**6, None, reset_num_timesteps=False)
    agent.collect_rollouts(agent.env, callback, agent.rollout_buffer, agent.n_steps)
    return agent.rollout_buffer


def test_the_kl_of_an_untrained_policy_is_zero():
    buffer = collect(make_agent(buffer_kwargs={"kl_coef": 1.0}))
    assert abs(buffer.stats["kl"]) < 1e-4
    assert abs(buffer.stats["kl_k3"]) < 1e-4


@pytest.mark.parametrize("settings", [{"temperature": 0.7}, {"top_k": 4}, {"top_p": 0.8}])
def test_the_reference_is_decoded_as_the_policy_is(settings):
    """So the KL of an untrained policy is zero, and the update's ratio one, under every decoding."""
    buffer = collect(agent := make_agent(policy_kwargs=settings))
    assert abs(buffer.stats["kl"]) < 1e-4
    for samples in buffer.get(None):
        log_prob = agent.policy.evaluate_actions(samples.observations, samples.actions.long().flatten())[1]
        assert (torch.exp(log_prob - samples.old_log_prob) - 1).abs().max() < 1e-4


def test_the_metrics_of_a_rollout_equal_those_by_hand():
    agent = make_agent(buffer_kwargs={"kl_coef": 0.1, "kl_target": 0.01, "kl_horizon": 100}, learning_rate=1e-2)
    agent.learn(agent.n_steps * agent.n_envs)
    before = agent.rollout_buffer.controller.value
    agent.env.reset()
    buffer = collect(agent)
    k1 = buffer.log_probs - buffer.reference_log_probs_of(agent.policy)
    episodes = {"kl": [], "kl_k3": []}
    for env in range(6):
        start = 0
        for step in range(14):
            last = agent._last_episode_starts[env] if step == 13 else buffer.episode_starts[step + 1, env]
            if last:
                tokens = k1[start : step + 1, env].astype(np.float64)
                episodes["kl"].append(tokens.sum())
                episodes["kl_k3"].append(sum(np.exp(-t) - 1 + t for t in tokens))
                start = step + 1
    assert buffer.stats["kl"] == pytest.approx(np.mean(episodes["kl"]), rel=1e-4)
    assert buffer.stats["kl_k3"] == pytest.approx(np.mean(episodes["kl_k3"]), rel=1e-4)
    assert buffer.stats["entropy"] == pytest.approx(-buffer.log_probs.mean())
    error = np.clip(np.mean(episodes["kl"]) / 0.01 - 1, -0.2, 0.2)
    assert buffer.stats["kl_coef"] == pytest.approx(before)
    assert buffer.controller.value == pytest.approx(before * (1 + error * len(episodes["kl"]) / 100), rel=1e-5)


def test_a_stopped_rollout_leaves_no_kl_behind():
    agent = make_agent(learning_rate=0.0)
    collect(agent)
    agent.rollout_buffer._running_kl[:] = 100.0
    agent.rollout_buffer.pos = 5  # as when a callback stops the rollout
    assert abs(collect(agent).stats["kl"]) < 1e-4


def test_every_epoch_has_an_order_of_its_own():
    buffer = collect(make_agent())
    first, second = ([s.old_log_prob[0].item() for s in buffer.get(14)] for _ in range(2))
    assert first != second


def test_value_and_reward_read_the_same_text():
    """The context of an episode's last action, with that action, is the text that was scored."""
    agent = make_agent(n_steps=20)
    tokenizer = agent.env.get_attr("tokenizer", 0)[0]
    scored = []
    reward = agent.env.get_attr("reward_fn", 0)[0]

    def spy(prompts, completions, **columns):
        scored.extend(p + c for p, c in zip(prompts, completions, strict=True))
        return reward(prompts, completions, **columns)

    agent.env.set_attr("reward_fn", spy)
    buffer = collect(agent)
    read = []
    ends = np.vstack([buffer.episode_starts[1:], np.asarray(agent._last_episode_starts)[None]]).astype(bool)
    for step, env in np.argwhere(ends):
        context = buffer.observations["input_ids"][buffer.segments[step, env]][: buffer.columns[step, env] + 1]
        read.append(tokenizer.decode([*context, buffer.actions[step, env, 0]], skip_special_tokens=True))
    assert len(read) == len(scored) > 6
    assert sorted(read) == sorted(scored)


def test_an_episode_with_replies_is_one_sequence_whose_actions_are_the_agents_own():
    env = make_vec_env(lambda num_envs: TextGenerationVectorEnv(num_envs, Echo()), 6, seed=0)
    sizes = dict(n_steps=40, batch_size=120, rollout_buffer_class=SequenceRolloutBuffer, seed=0, device="cpu")
    agent = PPO(TokenPolicy, env, policy_kwargs={"train": 1}, **sizes)  # frozen blocks, whose output is kept
    buffer = collect(agent)
    steps = np.diff(buffer.columns, axis=0)[buffer.episode_starts[1:] == 0]
    assert set(steps.tolist()) == {1, 3}, "one token, or an EOS and a reply of two"
    for samples in buffer.get(None):
        log_prob = agent.policy.evaluate_actions(samples.observations, samples.actions.long().flatten())[1]
        assert (torch.exp(log_prob - samples.old_log_prob) - 1).abs().max() < 1e-4


def test_the_kl_of_an_episode_is_the_sum_over_its_tokens_across_rollouts():
    agent = make_agent(n_steps=4, learning_rate=1e-2)
    agent.learn(4 * 6 * 3)
    totals, running = [], np.zeros(6)
    agent.env.reset()
    agent._last_obs = None
    for rollout in range(5):
        buffer = collect(agent) if rollout == 0 else collect_again(agent)
        ends = np.vstack([buffer.episode_starts[1:], np.asarray(agent._last_episode_starts)[None]]).astype(bool)
        kl = -np.log(np.exp(buffer.reference_log_probs_of(agent.policy) - buffer.log_probs))
        finished = []
        for t in range(4):
            running += kl[t]
            finished += running[ends[t]].tolist()
            running[ends[t]] = 0
        if finished:
            assert buffer.stats["kl"] == pytest.approx(np.mean(finished), abs=1e-4)
        totals += finished
    assert len(totals) > 5


@pytest.mark.parametrize("name", ["ppo", "grpo"])
def test_without_a_penalty_and_without_its_report_no_reference_is_asked(name):
    def trained(**kwargs):
        asked, settings = [], dict(n_envs=4, seed=0, learning_rate=1e-2, device="cpu", kl_coef=0.0)
        agent = make(name, "rlhf/IncreasingNumbers-v0", **settings, **kwargs)
        ask = agent.policy.reference_log_prob
        agent.policy.reference_log_prob = lambda *args: asked.append(args) or ask(*args)
        agent.learn(2 * agent.n_steps * 4)
        weights = torch.cat([p.detach().flatten() for p in agent.policy.parameters()])
        return weights, len(asked), {"kl", "kl_k3"} & set(agent.rollout_buffer.stats)

    reported, silent = trained(), trained(report_kl=False)
    assert reported[1:] == (2, {"kl", "kl_k3"})
    assert silent[1:] == (0, set())
    assert torch.equal(reported[0], silent[0])
    with pytest.raises(ValueError, match=r"report_kl=False with kl_coef=0\.1: a penalty needs the KL"):
        make(name, "rlhf/IncreasingNumbers-v0", n_envs=4, kl_coef=0.1, report_kl=False)


def test_whitening_keeps_the_mean_and_scales_to_one():
    plain, whitened = (
        collect(make_agent(buffer_kwargs={"kl_coef": 0.0, "whiten_rewards": flag})).rewards for flag in (False, True)
    )
    assert whitened.mean() == pytest.approx(plain.mean(), abs=1e-5)
    assert whitened.std() == pytest.approx(1.0, abs=1e-3)
    assert plain.std() < 0.9


def test_a_batch_smaller_than_an_episode_is_an_error():
    agent = make_agent(batch_size=4)
    with pytest.raises(ValueError, match="batch_size=4 is smaller than one episode of"):
        agent.learn(84)


def test_a_context_that_is_rewritten_is_an_error():
    agent = make_agent(n_steps=4)
    step = agent.env.step_wait

    def rewrite():
        obs, *rest = step()
        obs["input_ids"] = np.roll(obs["input_ids"], 1, axis=1)
        return obs, *rest

    agent.env.step_wait = rewrite
    with pytest.raises(ValueError, match="contexts may only grow"):
        agent.learn(24)


def test_another_policy_is_an_error():
    buffer = collect(make_agent())
    with pytest.raises(TypeError, match="use it with that policy"):
        buffer.compute_returns_and_advantage(torch.zeros(6, 1), np.zeros(6))


def test_the_controller_follows_ziegler():
    controller = KLController(0.1, target=6.0, horizon=100)
    controller.update(6.6, 50)  # error 0.1
    assert controller.value == pytest.approx(0.1 * (1 + 0.1 * 0.5))
    controller.update(60.0, 50)  # clipped to 0.2
    assert controller.value == pytest.approx(0.1 * 1.05 * 1.1)
    controller.update(0.0, 50)  # clipped to -0.2
    assert controller.value == pytest.approx(0.1 * 1.05 * 1.1 * 0.9)
    fixed = KLController(0.1)
    fixed.update(60.0, 50)
    assert fixed.value == 0.1


@pytest.mark.parametrize("arguments", [(-0.1,), (0.1, 0.0), (0.0, 1.0), (0.1, 1.0, 0), (float("nan"),)])
def test_impossible_controllers_are_errors(arguments):
    with pytest.raises(ValueError, match="kl_"):
        KLController(*arguments)


def test_the_adaptive_coefficient_is_saved_with_the_policy(tmp_path):
    settings = {"kl_coef": 0.5, "kl_target": 100.0, "kl_horizon": 10}
    agent = make_agent(buffer_kwargs=settings)
    agent.learn(84)
    coefficient = agent.rollout_buffer.controller.value
    assert coefficient < 0.5
    agent.save(tmp_path / "agent.zip")
    loaded = PPO.load(tmp_path / "agent.zip", env=agent.env)
    collect(loaded)
    assert loaded.rollout_buffer.stats["kl_coef"] == pytest.approx(coefficient)


@pytest.mark.parametrize("name", ["rewards", "values", "log_probs"])
def test_a_rollout_that_is_not_finite_is_an_error_that_says_where(name):
    agent = make_agent()
    buffer = collect(agent)
    getattr(buffer, name)[3, 2] = np.nan
    last_values = agent.policy.predict_values(agent.policy.obs_to_tensor(agent._last_obs)[0])
    with pytest.raises(FloatingPointError, match=rf"{name}\[3, 2\] of the rollout is nan"):
        buffer.compute_returns_and_advantage(last_values, np.zeros(6))


def test_diverged_weights_are_an_error_that_says_so():
    agent = make_agent()
    with torch.no_grad():
        agent.policy.language_model.model.get_output_embeddings().weight.fill_(torch.nan)
    with pytest.raises(FloatingPointError, match="weights have diverged; lower learning_rate"):
        collect(agent)
