"""`nlpo` against a small reference in numpy: the nucleus of the target policy, the masked distribution, PPO's loss."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

import agents
from agents.algorithms.nlpo import NLPOPolicy
from agents.evaluation.generate import generate

BANDIT = "rlhf/TokenBandit-v0"
N_ENVS, N_STEPS, TOP_P = 6, 12, 0.7


def make_agent(seed=0, n_envs=N_ENVS, **kwargs):
    env = agents.make_vec_env(BANDIT, n_envs, seed=seed)
    settings = dict(mask_top_p=TOP_P, target_update=2, learning_rate=1e-2, n_steps=N_STEPS) | kwargs
    return agents.make("nlpo", env, seed=seed, device="cpu", **settings)


def collect(agent):
    _, callback = agent._setup_learn(10**6, None, reset_num_timesteps=False)
    callback.on_training_start({}, {})
    agent.collect_rollouts(agent.env, callback, agent.rollout_buffer, agent.n_steps)
    return agent.rollout_buffer


def moved_agent(**kwargs):
    """An agent whose policy, mask policy and reference all differ, and copies of the latter two: refreshed after two
    updates, and one update on."""
    agent = make_agent(**kwargs)
    reference = copy.deepcopy(agent.policy.language_model.model)
    agent.learn(2 * N_STEPS * N_ENVS)
    target = copy.deepcopy(agent.policy.language_model.model)
    agent.learn(N_STEPS * N_ENVS, reset_num_timesteps=False)
    return agent, target, reference


def next_logits(network, context, temperature=1.0):
    """Logits (8,) after a context, float64, from a pass of its own."""
    with torch.no_grad():
        logits = network(input_ids=torch.as_tensor(np.asarray(context))[None].long()).logits[0, -1, :8]
    return logits.double().numpy() / temperature


def nucleus(logits, top_p):
    """The smallest set of probability at least p, (8,) bool: Holtzman et al. 2020."""
    probs = np.exp(logits - logits.max())
    probs /= probs.sum()
    kept, mass = np.zeros(len(logits), bool), 0.0
    for token in np.argsort(-probs):
        if mass >= top_p:
            break
        kept[token] = True
        mass += probs[token]
    return kept


def masked_log_probs(network, target, context, top_p=TOP_P, temperature=1.0):
    """NLPO's distribution (8,): the policy's logits outside the target's nucleus are -inf, the rest renormalised."""
    kept = nucleus(next_logits(target, context, temperature), top_p)
    logits = np.where(kept, next_logits(network, context, temperature), -np.inf)
    return logits - np.log(np.exp(logits).sum())


def contexts_and_actions(buffer):
    """Of every transition (step, environment): its context and the token taken."""
    for place in np.ndindex(*buffer.log_probs.shape):
        length = int(buffer.columns[place]) + 1
        yield place, buffer.observations["input_ids"][buffer.segments[place], :length], int(buffer.actions[place][0])


@pytest.mark.parametrize("settings", [{}, {"train": 1}, {"temperature": 0.7}], ids=str)
def test_rollout_and_reference_equal_the_numpy_reference(settings):
    agent, target, reference = moved_agent(**settings)
    temperature = settings.get("temperature", 1.0)
    buffer = collect(agent)
    of_reference = buffer.reference_log_probs_of(agent.policy)
    network = agent.policy.language_model.model
    masked = 0
    for place, context, action in contexts_and_actions(buffer):
        expected = masked_log_probs(network, target, context, temperature=temperature)
        assert np.isfinite(expected[action]), "drawn from the nucleus"
        masked += int(np.isinf(expected).sum())
        assert buffer.log_probs[place] == pytest.approx(expected[action], abs=1e-4)
        expected = masked_log_probs(reference, target, context, temperature=temperature)
        assert of_reference[place] == pytest.approx(expected[action], abs=1e-4)
    assert masked > buffer.log_probs.size, "the mask leaves out more than a token on average"


def test_the_nucleus_is_the_targets_and_not_the_policys():
    agent, target, _ = moved_agent()
    with torch.no_grad():
        agent.policy.language_model.model.get_output_embeddings().weight.neg_()  # what was likely is unlikely now
    obs = agent.env.reset()
    probs = agent.policy.get_distribution(agent.policy.obs_to_tensor(obs)[0]).distribution.probs.detach().numpy()
    differ = 0
    for row in range(N_ENVS):
        context = obs["input_ids"][row, : obs["attention_mask"][row].sum()]
        kept = nucleus(next_logits(target, context), TOP_P)
        np.testing.assert_array_equal(probs[row] > 0, kept)
        differ += (kept != nucleus(next_logits(agent.policy.language_model.model, context), TOP_P)).any()
    assert differ


@pytest.mark.parametrize(
    "settings", [{}, {"train": 1}, {"value": "separate"}, {"micro_batch_size": 9}, {"top_k": 2}], ids=str
)
def test_the_first_minibatch_has_ratio_one(settings):
    agent, _, _ = moved_agent(**settings)
    for samples in collect(agent).get(24):
        _, log_prob, _ = agent.policy.evaluate_actions(samples.observations, samples.actions.long().flatten())
        assert (torch.exp(log_prob - samples.old_log_prob) - 1).abs().max() < 1e-4


def test_loss_and_gradient_equal_ppos_on_the_masked_distribution(monkeypatch):
    """One update on one minibatch: what SB3 steps along is the gradient of the loss written down here."""
    agent, target, _ = moved_agent(batch_size=N_STEPS * N_ENVS, n_epochs=1, normalize_advantage=False, ent_coef=0.02)
    buffer = collect(agent)
    policy = agent.policy
    network = copy.deepcopy(policy.language_model.model)
    value_head = copy.deepcopy(policy.value_net)
    losses = []
    for place, context, action in contexts_and_actions(buffer):
        ids = torch.as_tensor(context)[None].long()
        kept = torch.as_tensor(nucleus(next_logits(target, context), TOP_P))
        output = network(input_ids=ids, output_hidden_states=True)
        probs = output.logits[0, -1, :8][kept].softmax(0)
        log_prob = probs[int(kept[:action].sum())].log()
        ratio = torch.exp(log_prob - float(buffer.log_probs[place]))
        advantage = float(buffer.advantages[place])
        surrogate = torch.minimum(advantage * ratio, advantage * ratio.clamp(0.8, 1.2))
        value = value_head(output.hidden_states[-1][0, -1])[0]
        error = (float(buffer.returns[place]) - value) ** 2
        losses.append(-surrogate - 0.02 * -(probs * probs.log()).sum() + agent.vf_coef * error)
    loss = torch.stack(losses).mean()
    loss.backward()
    gradients = []

    def keep(*args, **kwargs):
        gradients.append({name: p.grad.clone() for name, p in policy.language_model.model.named_parameters()})
        return clip(*args, **kwargs)

    clip = torch.nn.utils.clip_grad_norm_
    monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", keep)
    agent.train()
    assert agent.logger.name_to_value["train/loss"] == pytest.approx(loss.detach().item(), abs=1e-4)
    (ours,) = gradients
    for name, parameter in network.named_parameters():
        torch.testing.assert_close(ours[name], parameter.grad, atol=1e-5, rtol=1e-3)


def test_the_target_is_refreshed_after_every_second_update():
    agent = make_agent()
    policy = agent.policy

    def differs():
        pairs = policy.mask_policy.parameters_by_name().items()
        learned = policy.language_model.trained_parameters()
        return any(not torch.equal(value, learned[name]) for name, value in pairs)

    assert not differs(), "it starts as the policy"
    seen = []
    for _ in range(5):
        agent.learn(N_STEPS * N_ENVS, reset_num_timesteps=False)
        seen.append(differs())
    assert seen == [True, False, True, False, True]
    assert agent.logger.name_to_value["train/mask_refreshes"] == 2


def test_the_target_costs_a_copy_of_what_learns_and_never_learns_itself():
    agent = make_agent(train=1)
    trained = agent.policy.language_model.trained_parameters()
    copied = agent.policy.mask_policy.parameters_by_name()
    assert {name: value.shape for name, value in copied.items()} == {name: p.shape for name, p in trained.items()}
    assert len(trained) < len(list(agent.policy.language_model.parameters()))
    assert not any(name.startswith("mask_policy") for name, _ in agent.policy.named_parameters())


def test_a_mask_that_keeps_everything_is_ppo():
    weights = []
    for algo, kwargs in (("ppo", {}), ("nlpo", {"mask_top_p": 1.0, "target_update": 1})):
        env = agents.make_vec_env(BANDIT, N_ENVS, seed=0)
        agent = agents.make(algo, env, seed=0, device="cpu", n_steps=N_STEPS, learning_rate=1e-3, **kwargs)
        agent.learn(2 * N_STEPS * N_ENVS)
        weights.append(torch.cat([p.detach().flatten() for p in agent.policy.parameters()]))
    torch.testing.assert_close(*weights, atol=1e-6, rtol=1e-5)


def test_saving_and_loading_goes_on_exactly(tmp_path):
    """Saved between two refreshes, where the mask policy is neither the policy nor the reference."""
    part = N_STEPS * N_ENVS
    whole = make_agent()
    whole.learn(6 * part)
    agent = make_agent()
    agent.learn(3 * part)
    agents.save(agent, tmp_path / "agent")
    again = agents.load(tmp_path / "agent")
    assert type(again.policy) is NLPOPolicy
    assert again.policy.mask_top_p == TOP_P
    again.learn(3 * part, reset_num_timesteps=False)
    for (name, one), other in zip(whole.policy.state_dict().items(), again.policy.state_dict().values(), strict=True):
        assert torch.equal(one.nan_to_num(), other.nan_to_num()), name


def test_completions_of_a_bundle_come_from_the_nucleus(tmp_path):
    agent, target, _ = moved_agent()
    agents.save(agent, tmp_path / "agent")
    for c in generate(str(tmp_path / "agent"), BANDIT, indices=np.arange(8) % 4):
        for column, log_prob in zip(c.columns, c.log_probs, strict=True):
            expected = masked_log_probs(agent.policy.language_model.model, target, c.input_ids[: column + 1])
            assert log_prob == pytest.approx(expected[c.input_ids[column + 1]], abs=1e-4)


def test_a_model_that_is_not_all_float32_is_masked_in_rollout_and_update_alike():
    agent, _, _ = moved_agent(bf16=True)
    for samples in collect(agent).get(None):
        log_prob = agent.policy.evaluate_actions(samples.observations, samples.actions.long().flatten())[1]
        assert (log_prob - samples.old_log_prob).abs().median() < 0.02


@pytest.mark.parametrize("top_p", [0.0, 1.5, -1])
def test_a_wrong_p_is_refused(top_p):
    with pytest.raises(ValueError, match=r"mask_top_p=.*in \(0, 1\]"):
        make_agent(mask_top_p=top_p)


@pytest.mark.parametrize("target_update", [0, 1.5, True])
def test_a_wrong_number_of_rollouts_is_refused(target_update):
    with pytest.raises((ValueError, TypeError), match=r"expected a (number of rollouts|whole number)"):
        make_agent(target_update=target_update)


def test_a_policy_without_a_mask_policy_is_refused():
    with pytest.raises(TypeError, match="NLPOPolicy, and this is a TokenPolicy"):
        agents.get_algorithm("nlpo")(
            agents.TokenPolicy, agents.make_vec_env(BANDIT, 2), n_steps=4, batch_size=8, device="cpu"
        )


@pytest.mark.slow
def test_a_short_run_improves_the_objective():
    """The policy that acts, the masked one, scores more than the start, on all prompts."""
    agent = make_agent(n_envs=64, n_steps=24, batch_size=768, learning_rate=2e-3, n_epochs=8, vf_coef=0.5, kl_coef=0.1)
    before = np.mean([c.reward for c in generate(agent, agent.env, indices=np.arange(400) % 4)])
    agent.learn(24 * 64 * 16)
    completions = generate(agent, agent.env, indices=np.arange(400) % 4)
    rewards = np.array([c.reward for c in completions])
    assert rewards.mean() - before > 5 * rewards.std() / 20, (before, rewards.mean())
