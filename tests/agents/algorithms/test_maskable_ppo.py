"""`maskable_ppo`: sb3-contrib's algorithm on a language model, with masks everywhere a token has a probability."""

from __future__ import annotations

import copy
import re

import gymnasium as gym
import numpy as np
import pytest
import sb3_contrib
import torch
from sb3_contrib.common.maskable.utils import get_action_masks
from stable_baselines3.common.vec_env import DummyVecEnv

import agents
from agents.algorithms.maskable_ppo import MaskableTokenPolicy
from agents.core.distribution import log_probs_and_entropies
from agents.core.forward_pass import hidden_states
from agents.core.observations import micro_batches
from agents.evaluation import evaluate as evaluation
from agents.evaluation.generate import generate
from agents.testing import bandit_figures
from agents.training.config import TrainConfig
from agents.training.run import train
from rlhf_envs import TextGenerationVectorEnv
from rlhf_envs.tasks.token_bandit import CONTEXTS, TokenBandit, completion_rewards, enumerate_completions, optimum

BANDIT, NUMBERS = "rlhf/TokenBandit-v0", "rlhf/IncreasingNumbers-v0"
N_ENVS, N_STEPS = 6, 12


class FirstLetterOnce(TokenBandit):
    """The prompt's letter may not be repeated, so that the rows' masks differ."""

    def action_masks(self, input_ids, lengths, prompt_lengths, steps):
        masks = np.ones((len(steps), 8), bool)
        masks[np.arange(len(steps)), input_ids[:, 0]] = False
        return masks


def make_agent(seed=0, env_kwargs=None, **kwargs):
    def make(num_envs, **options):
        return TextGenerationVectorEnv(num_envs, FirstLetterOnce(), **options)

    env = agents.make_vec_env(make, N_ENVS, seed=seed, **(env_kwargs or {"min_new_tokens": 2}))
    return agents.make("maskable_ppo", env, seed=seed, device="cpu", n_steps=N_STEPS, **kwargs)


def collect(agent):
    _, callback = agent._setup_learn(10**6, None)
    callback.on_training_start({}, {})
    agent.collect_rollouts(agent.env, callback, agent.rollout_buffer, agent.n_steps)
    return agent.rollout_buffer


def masks_of(contexts, steps):
    """The masks (n, V) from the rules of `FirstLetterOnce` and `min_new_tokens=2`, written down a second time."""
    masks = np.ones((len(contexts), 8), bool)
    for mask, context, step in zip(masks, contexts, steps, strict=True):
        mask[[0, context[0]]] = False
        mask[1] = step >= 2
    return masks


def recompute(network, buffer):
    """Log-probabilities (n_steps, n_envs) of the stored actions, each from a pass of its own over its context."""
    result = np.zeros_like(buffer.log_probs)
    for place in np.ndindex(*result.shape):
        length = int(buffer.columns[place]) + 1
        context = buffer.observations["input_ids"][buffer.segments[place], :length]
        ids = torch.as_tensor(context[None]).long()
        with torch.no_grad():
            logits = network(input_ids=ids).logits[0, -1, :8].double().numpy()
        logits = np.where(masks_of([context], [length - 1])[0], logits, -np.inf)
        result[place] = logits[int(buffer.actions[place][0])] - np.log(np.exp(logits).sum())
    return result


def test_rollout_and_reference_equal_a_second_computation_under_the_masks():
    agent = make_agent(learning_rate=1e-2)
    reference = copy.deepcopy(agent.policy.language_model.model)
    agent.learn(N_STEPS * N_ENVS)
    buffer = collect(agent)
    np.testing.assert_allclose(
        buffer.log_probs, recompute(agent.policy.language_model.model, buffer), atol=1e-5, rtol=1e-4
    )
    expected = recompute(reference, buffer)
    assert np.abs(expected - buffer.log_probs).max() > 0.01, "the policy has moved away from the reference"
    np.testing.assert_allclose(buffer.reference_log_probs_of(agent.policy), expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    "settings",
    [{}, {"train": 1}, {"train": "head"}, {"value": "separate"}, {"micro_batch_size": 9}, {"top_k": 3}],
    ids=str,
)
def test_the_first_minibatch_has_ratio_one(settings):
    agent = make_agent(learning_rate=1e-2, **settings)
    agent.learn(N_STEPS * N_ENVS)
    seen = 0
    for samples in collect(agent).get(24):
        actions = samples.actions.long().flatten()
        _, log_prob, entropy = agent.policy.evaluate_actions(
            samples.observations, actions, action_masks=samples.action_masks
        )
        assert (torch.exp(log_prob - samples.old_log_prob) - 1).abs().max() < 1e-4
        assert entropy.max() <= np.log(6) + 1e-5
        seen += len(actions)
    assert seen == N_STEPS * N_ENVS


def test_masked_tokens_are_never_drawn_and_have_no_probability():
    agent = make_agent()
    env = agent.env
    obs = env.reset()
    for _ in range(60):
        masks = get_action_masks(env)
        tensors = agent.policy.obs_to_tensor(obs)[0]
        probs = agent.policy.get_distribution(tensors, action_masks=masks).distribution.probs
        assert (probs.detach().numpy()[~masks] == 0).all()
        actions, _ = agent.predict(obs, action_masks=masks)
        assert masks[np.arange(N_ENVS), actions].all()
        forwarded = agent.policy(tensors, action_masks=masks)[0]
        assert masks[np.arange(N_ENVS), forwarded.numpy()].all()
        obs = env.step(actions)[0]
    buffer = collect(agent)
    bits = np.unpackbits(buffer.action_masks, axis=2)[:, :, :8]
    assert np.take_along_axis(bits, buffer.actions, axis=2).all()
    drawn = set(buffer.actions.flatten().tolist())
    assert 0 not in drawn
    assert len(drawn) > 5


def test_predict_takes_the_most_probable_token_that_is_allowed():
    agent = make_agent()
    obs = agent.env.reset()
    free, _ = agent.predict(obs, deterministic=True)
    masks = np.ones((N_ENVS, 8), bool)
    masks[np.arange(N_ENVS), free] = False
    second, _ = agent.predict(obs, deterministic=True, action_masks=masks)
    with torch.no_grad():
        logits = agent.policy.get_distribution(agent.policy.obs_to_tensor(obs)[0]).distribution.logits
    assert second.tolist() == logits.topk(2, dim=1).indices[:, 1].tolist()
    one, _ = agent.predict({key: value[0] for key, value in obs.items()}, deterministic=True, action_masks=masks[0])
    assert int(one) == second[0]


def test_masks_are_kept_as_bits_and_come_back_as_the_environment_gave_them():
    agent = agents.make("maskable_ppo", NUMBERS, n_envs=4, n_steps=14, seed=0, device="cpu")
    vocab = agent.action_space.n
    given = []
    method = agent.env.env_method

    def spy(name, *args, **kwargs):
        result = method(name, *args, **kwargs)
        if name == "action_masks":
            given.append(np.stack(result))
        return result

    agent.env.env_method = spy
    buffer = collect(agent)
    assert buffer.action_masks.nbytes == 14 * 4 * -(-vocab // 8)
    np.testing.assert_array_equal(np.unpackbits(buffer.action_masks, axis=2)[:, :, :vocab].astype(bool), given)
    held = {name: value.nbytes for name, value in vars(buffer).items() if isinstance(value, np.ndarray)}
    assert sum(held.values()) < 14 * 4 * 100, "nothing in it is as wide as the vocabulary"
    samples = next(buffer.get(None))
    assert samples.action_masks.dtype == torch.uint8
    torch.testing.assert_close(agent.policy.allowed(None, samples.action_masks).sum(1), torch.full((56,), vocab - 1))


def test_chunks_and_their_gradients_equal_the_whole_under_masks(monkeypatch):
    torch.manual_seed(0)
    weight = torch.randn(5, 13, requires_grad=True)
    hidden, actions = torch.randn(30, 5), torch.randint(13, (30,))
    masks = torch.rand(30, 13) < 0.5
    masks[torch.arange(30), actions] = True
    expected = torch.distributions.Categorical(logits=(hidden @ weight).masked_fill(~masks, -1e30))
    loss = expected.log_prob(actions).sum() + 0.3 * expected.entropy().sum()
    (gradient,) = torch.autograd.grad(loss, weight)

    def logits(h, a, m):
        return (h @ weight).masked_fill(~m, -torch.inf)

    for at_once in (13 * 100, 13 * 7):
        monkeypatch.setattr("agents.core.distribution.LOGITS_AT_ONCE", at_once)
        log_probs, entropies = log_probs_and_entropies(logits, hidden, actions, 13, masks)
        torch.testing.assert_close(log_probs, expected.log_prob(actions))
        torch.testing.assert_close(entropies, expected.entropy())
        (ours,) = torch.autograd.grad(log_probs.sum() + 0.3 * entropies.sum(), weight)
        torch.testing.assert_close(ours, gradient)


def test_parts_of_a_minibatch_keep_the_masks_of_their_actions():
    agent = make_agent()
    samples = next(collect(agent).get(None))
    obs = samples.observations
    for part, places in micro_batches(obs, 8):
        torch.testing.assert_close(part["action_masks"], obs["action_masks"][places])


def test_the_update_is_that_of_sb3_contrib():
    """No method of the algorithm is ours but the checks and the callback."""
    cls = agents.get_algorithm("maskable_ppo")
    for name in ("train", "collect_rollouts", "predict"):
        assert getattr(cls, name) is getattr(sb3_contrib.MaskablePPO, name)


def test_an_update_does_not_move_masked_tokens():
    """Of a head without ties, the rows of tokens that were always masked get no gradient."""
    agent = make_agent(train="head", ent_coef=0.1, env_kwargs={"suppress_tokens": [5]})
    head = agent.policy.language_model.model.get_output_embeddings().weight
    before = head.detach().clone()
    agent.learn(2 * N_STEPS * N_ENVS)
    moved = (head.detach() - before).abs().amax(dim=1) > 0
    assert moved.tolist() == [False, True, True, True, True, False, True, True]


def test_an_action_that_is_masked_is_refused_in_an_update():
    agent = make_agent()
    samples = next(collect(agent).get(None))
    with pytest.raises(ValueError, match=r"action 0 \(number 0 of the batch\) is masked"):
        agent.policy.evaluate_actions(
            samples.observations, torch.zeros(len(samples.actions)), action_masks=samples.action_masks
        )


def test_wrong_masks_are_refused():
    agent = make_agent()
    obs = agent.env.reset()
    with pytest.raises(ValueError, match="do not fit 8 tokens"):
        agent.predict(obs, action_masks=np.ones((N_ENVS, 7), bool))
    masks = np.ones((N_ENVS, 8), bool)
    masks[2] = False
    with pytest.raises(ValueError, match="row 2 leaves no token"):
        agent.predict(obs, action_masks=masks)


def test_an_environment_without_masks_is_refused_before_training():
    class Bare(gym.Wrapper):
        def get_wrapper_attr(self, name):
            if name == "action_masks":
                raise AttributeError(name)
            return super().get_wrapper_attr(name)

    with pytest.raises(ValueError, match=r"needs an environment with a method action_masks\(\)"):
        agents.make("maskable_ppo", DummyVecEnv([lambda: Bare(gym.make(BANDIT))]), device="cpu")


@pytest.mark.parametrize("given", [dict(min_new_tokens=2), dict(suppress_tokens=[3])])
def test_an_algorithm_that_masks_do_not_bind_is_warned_of(given):
    env = agents.make_vec_env("rlhf/TokenBandit-v0", 4, **given)
    (name, value), *_ = given.items()
    with pytest.warns(
        UserWarning, match=rf"ppo reads no action masks, {name}={re.escape(str(value))} does not bind it"
    ):
        agents.make("ppo", env, device="cpu")
    agents.make("maskable_ppo", env, device="cpu")  # warnings are errors here


def test_an_algorithm_that_a_tasks_own_masks_do_not_bind_is_warned_of():
    class Vowels(TokenBandit):
        def action_masks(self, input_ids, lengths, prompt_lengths, steps):
            return np.arange(8) < 4

    env = agents.make_vec_env("rlhf/TokenBandit-v0", 4, task=Vowels())
    with pytest.warns(UserWarning, match="rloo reads no action masks, action_masks of the task 'token-bandit'"):
        agents.make("rloo", env, device="cpu")
    agents.make("maskable_ppo", env, device="cpu")


def test_completions_and_evaluations_are_under_the_masks():
    agent = make_agent()
    agent.learn(N_STEPS * N_ENVS)
    completions = generate(agent, agent.env, indices=np.arange(40) % 4)
    for c in completions:
        actions = c.input_ids[c.columns + 1]
        masks = np.unpackbits(c.action_masks, axis=1)[:, :8].astype(bool)
        np.testing.assert_array_equal(masks, masks_of([c.input_ids] * len(actions), range(len(actions))))
        assert masks[np.arange(len(actions)), actions].all()
    before = copy.deepcopy(agent.policy)
    for name, value in before.reference.parameters_by_name().items():
        before.language_model.get_parameter(name).data.copy_(value)
    figures = evaluation.evaluate(before, agent.env, n_episodes=16)
    assert np.abs(figures.kl).max() < 1e-5, "the start does not differ from itself under the masks"


def test_saving_and_loading_goes_on_exactly(tmp_path):
    kwargs = dict(n_envs=6, n_steps=6, seed=0, device="cpu", kl_target=0.1)
    whole = agents.make("maskable_ppo", BANDIT, **kwargs)
    whole.learn(6 * 6 * 4)
    agent = agents.make("maskable_ppo", BANDIT, **kwargs)
    agent.learn(6 * 6 * 2)
    agents.save(agent, tmp_path / "agent")
    again = agents.load(tmp_path / "agent")
    again.learn(6 * 6 * 2, reset_num_timesteps=False)
    assert type(again.policy) is MaskableTokenPolicy
    for one, other in zip(whole.policy.state_dict().values(), again.policy.state_dict().values(), strict=True):
        assert torch.equal(one.nan_to_num(), other.nan_to_num())
    completions = generate(str(tmp_path / "agent"), BANDIT, indices=np.arange(32) % 4)
    assert all(0 not in c.input_ids[c.columns + 1] for c in completions)


@pytest.mark.slow
def test_a_short_run_is_on_its_way_to_the_optimum_under_the_mask():
    """The closed form over the completions that the mask leaves: those without the padding."""
    kl_coef = 0.3
    env = agents.make_vec_env(BANDIT, 64, seed=0)
    settings = dict(learning_rate=lambda left: 2e-3 * left, n_steps=24, batch_size=768, n_epochs=8, vf_coef=0.5)
    agent = agents.make("maskable_ppo", env, seed=0, device="cpu", kl_coef=kl_coef, **settings)
    reference = copy.deepcopy(agent.policy.language_model.model)
    agent.learn(36_000)
    completions = [c for c in enumerate_completions() if 0 not in c]
    figures = []
    for prompt in CONTEXTS:
        rewards = completion_rewards(prompt, completions)
        start = env.get_attr("tokenizer", 0)[0](prompt, add_special_tokens=False)["input_ids"]
        log_pi, log_ref = (
            _log_probs(model, start, completions) for model in (agent.policy.language_model.model, reference)
        )
        pi = np.exp(log_pi)
        assert pi.sum() == pytest.approx(1, abs=1e-4)
        objective = pi @ rewards - kl_coef * pi @ (log_pi - log_ref)
        figures.append((np.exp(log_ref) @ rewards, objective, optimum(log_ref, rewards, kl_coef)["objective"]))
    begin, end, best = np.mean(figures, axis=0)
    assert end - begin > 0.35 * (best - begin), (begin, end, best)
    enumerated = bandit_figures(agent, kl_coef)
    names = ("start", "objective", "best_objective")
    assert [enumerated[name] for name in names] == pytest.approx([begin, end, best], abs=1e-5)


def _log_probs(model, start, completions):
    """Log-probabilities of completions under a model without its padding, through a pass over each."""
    ids = torch.zeros(len(completions), len(start) + 3, dtype=torch.long)
    for row, completion in enumerate(completions):
        ids[row, : len(start) + len(completion)] = torch.tensor([*start, *completion])
    with torch.no_grad():
        logits = model.get_output_embeddings()(hidden_states(model.base_model, ids, torch.ones_like(ids)))
    logits[..., 0] = -torch.inf
    log_probs = logits.double().log_softmax(-1)
    return np.array(
        [
            sum(float(log_probs[row, len(start) - 1 + i, token]) for i, token in enumerate(completion))
            for row, completion in enumerate(completions)
        ]
    )


def test_a_run_of_the_command_line_evaluates_under_the_masks(tmp_path):
    """During training, after it, and out of the folder that it leaves, whose model alone knows of no masks."""
    result = train(
        TrainConfig(
            env=BANDIT,
            algo="maskable_ppo",
            n_timesteps=192,
            n_envs=32,
            eval_freq=96,
            n_eval_episodes=6,
            test_episodes=8,
            log_folder=str(tmp_path),
            run_name="run",
            hyperparams=dict(batch_size=48),
            env_kwargs=dict(min_new_tokens=3),
            progress=False,
        )
    )
    lengths = np.load(result.folder / "evaluations.npz")["ep_lengths"]
    assert lengths.size >= 6
    assert (lengths == 3).all()
    assert (result.before.length == 3).all()
    assert (result.after.length == 3).all()
    completions = generate(str(result.folder), BANDIT, indices=np.arange(40) % 4)
    assert all(len(c.columns) == 3 and 0 not in c.input_ids[c.columns + 1] for c in completions)
