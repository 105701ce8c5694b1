"""REINFORCE, RLOO, GRPO and online DPO: their advantages, their losses (against TRL's) and their buffer of episodes."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
import torch
from torch.nn import functional

import agents
from agents.algorithms.common.episode_buffer import EpisodeRolloutBuffer
from agents.algorithms.common.policy_gradient import PolicyGradient, clip_metrics, clipped
from agents.algorithms.grpo import relative_to_group
from agents.algorithms.reinforce import rewards_to_go
from agents.algorithms.rloo import leave_one_out
from agents.core.ratios import MOST_NATS, ratio_of

ID = "rlhf/IncreasingNumbers-v0"


def after_rollouts(name, n_rollouts=1, n_envs=8, **kwargs):
    """An agent after some rollouts, and on until the buffer gives episodes out, without any update."""
    agent = agents.make(name, ID, n_envs=n_envs, seed=0, device="cpu", **kwargs)
    callback = agent._setup_learn(10_000, None)[1]
    callback.on_training_start({}, {})
    while n_rollouts > 0 or not agent.rollout_buffer.n_segments:
        agent.collect_rollouts(agent.env, callback, agent.rollout_buffer, agent.n_steps)
        n_rollouts -= 1
    return agent


def move(policy):
    """Change the weights a little, so that ratios are not 1."""
    torch.manual_seed(1)
    with torch.no_grad():
        for p in policy.language_model.parameters():
            p.add_(0.02 * torch.randn_like(p))


class Watch(agents.TextMetrics):
    """Note the lengths of the episodes that end and of those that the buffer gives out, and check the latter."""

    def __init__(self):
        super().__init__()
        self.ended, self.given = [], []

    def _on_step(self):
        self.ended.extend(info["episode"]["l"] for info in self.locals["infos"] if "episode" in info)
        return super()._on_step()

    def _on_rollout_end(self):
        buffer = self.model.rollout_buffer
        self.given.extend(np.bincount(buffer.segments[:, 0]).tolist())
        for row, ids in enumerate(buffer.observations.get("input_ids", [])):
            # the actions are what the context goes on with
            columns, actions = (a[buffer.segments[:, 0] == row, 0] for a in (buffer.columns, buffer.actions[..., 0]))
            assert columns.tolist() == list(range(len(columns))), "from the prompt's only token on"
            assert ids[1 : len(columns)].tolist() == actions[:-1].tolist()
        super()._on_rollout_end()


# The buffer


def test_every_episode_is_given_out_once_and_whole_however_short_the_rollouts():
    """With rollouts of 3 tokens and episodes of up to 10, everything an ended episode did comes out, nothing twice."""
    agent = agents.make("reinforce", ID, n_envs=4, seed=0, device="cpu", n_steps=3, kl_coef=0.0)
    watch = Watch()
    agent.learn(600, callback=watch)
    assert len(watch.ended) > 40
    assert sorted(watch.given) == sorted(watch.ended)


def test_a_group_is_of_one_row_also_where_rows_have_the_same_prompt():
    """Every completion of a row is worth the same here, so a group of one row has scores that do not differ."""
    env = agents.make_vec_env(
        "rlhf/TokenBandit-v0",
        8,
        seed=0,
        data=[{"prompt": "a", "answer": float(i)} for i in range(3)],
        reward_fn=lambda prompts, completions, answer, **columns: answer,
    )
    agent = agents.make("grpo", env, n_steps=5, group_size=4, kl_coef=0.0, seed=0, device="cpu")
    groups = []

    class Keep(agents.TextMetrics):
        def _on_rollout_end(self):
            groups.extend(self.model.rollout_buffer.scores.reshape(-1, 4).tolist())
            super()._on_rollout_end()

    agent.learn(8 * 5 * 20, callback=Keep())
    assert len(groups) > 20
    assert all(len(set(group)) == 1 for group in groups)
    assert {group[0] for group in groups} == {0.0, 1.0, 2.0}


def test_a_rollout_that_was_stopped_splices_no_episodes():
    """What an episode did before a stop is not joined to what another does after it."""
    agent = agents.make("reinforce", ID, n_envs=4, seed=0, device="cpu", n_steps=7, kl_coef=0.0)

    class Stop(agents.TextMetrics):
        def _on_step(self):
            return super()._on_step() and self.num_timesteps < 100

    agent.learn(200, callback=Stop())
    assert agent.num_timesteps == 100
    watch = Watch()
    agent.learn(400, callback=watch, reset_num_timesteps=False)
    assert 10 < len(watch.given) <= len(watch.ended)


def test_groups_are_given_out_complete_and_of_one_prompt():
    agent = after_rollouts("rloo", n_rollouts=6, n_steps=4, group_size=4)
    buffer = agent.rollout_buffer
    assert buffer.n_segments and buffer.n_segments % 4 == 0
    prompts = buffer.observations["input_ids"][:, 0].reshape(-1, 4)
    assert (prompts == prompts[:, :1]).all()


def test_minibatches_keep_groups_together_and_cover_every_episode():
    agent = after_rollouts("rloo", n_envs=16, n_steps=20, group_size=4)
    buffer = agent.rollout_buffer
    buffer.returns[:, 0] = buffer.segments[:, 0]
    seen = []
    for samples in buffer.get(60):
        episodes = sorted({int(i) for i in samples.returns})
        assert [i // 4 for i in episodes[::4]] == [i // 4 for i in episodes[3::4]]
        seen += episodes
    assert sorted(seen) == list(range(buffer.n_segments))


def test_log_probabilities_that_wait_are_those_the_tokens_were_drawn_with():
    buffer = after_rollouts("rloo", n_rollouts=5, n_steps=4).rollout_buffer
    samples = next(buffer.get(None))
    policy = after_rollouts("rloo", n_rollouts=5, n_steps=4).policy  # no update came between
    log_prob = policy.evaluate_actions(samples.observations, samples.actions)[1]
    torch.testing.assert_close(log_prob, samples.old_log_prob, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(samples.reference_log_prob, samples.old_log_prob, atol=1e-5, rtol=1e-4)


def test_frozen_trunks_are_used_for_whole_episodes():
    whole, split = (after_rollouts("rloo", n_rollouts=4, n_steps=4, train=train) for train in ("full", 1))
    assert split.rollout_buffer.trunk_states
    samples = next(split.rollout_buffer.get(None))
    log_prob = split.policy.evaluate_actions(samples.observations, samples.actions)[1]
    torch.testing.assert_close(log_prob, samples.old_log_prob, atol=1e-5, rtol=1e-4)
    assert whole.rollout_buffer.n_segments == split.rollout_buffer.n_segments


# Advantages


def test_leave_one_out_is_the_score_less_the_mean_of_the_others():
    scores = np.array([1.0, 2.0, 6.0, 0.0, 0.0, 3.0])
    assert leave_one_out(scores, 3).tolist() == [1 - 4, 2 - 3.5, 6 - 1.5, -1.5, -1.5, 3.0]


def test_grpo_standardises_within_the_group():
    scores = np.array([1.0, 3.0, 5.0, 5.0])
    assert relative_to_group(scores, 2, scale=False).tolist() == [-1, 1, 0, 0]
    assert relative_to_group(scores, 2, scale=True) == pytest.approx([-1 / 2**0.5, 1 / 2**0.5, 0, 0], abs=1e-3)


def test_rewards_to_go_stay_within_their_episode():
    rewards, segments = np.array([[1.0], [2], [4], [8], [16]]), np.array([[0], [0], [0], [1], [1]])
    assert rewards_to_go(rewards, segments)[:, 0].tolist() == [7, 6, 4, 24, 16]


def test_the_kl_is_charged_to_the_score():
    agent = after_rollouts("rloo", kl_coef=0.5)
    buffer = agent.rollout_buffer
    buffer.reference_log_probs = buffer.log_probs - 1.0  # a nat a token
    scores = agent._advantages(buffer)[1]
    lengths = buffer.sum_by_episode(np.ones_like(buffer.rewards))
    assert scores[:, 0] == pytest.approx((buffer.scores - 0.5 * lengths)[buffer.segments[:, 0]], abs=1e-5)


# Losses, against TRL


@pytest.fixture(scope="module")
def trainers(tmp_path_factory):
    """TRL's trainers by name, for a model and a tokenizer of ours."""
    trl, datasets = pytest.importorskip("trl"), pytest.importorskip("datasets")

    def build(name, agent, **config):
        model, tokenizer = agent.policy.language_model.model, agent.env.get_attr("tokenizer", 0)[0]
        horizon = agent.env.get_attr("max_new_tokens", 0)[0]
        arguments = getattr(trl, f"{name}Config")(
            output_dir=str(tmp_path_factory.mktemp(name)),
            use_cpu=True,
            bf16=False,
            gradient_checkpointing=False,
            report_to="none",
            num_generations=4,
            per_device_train_batch_size=4,
            max_completion_length=horizon,
            temperature=1.0,
            beta=0.0,
            epsilon=0.2,
            **config,
        )
        trainer = getattr(trl, f"{name}Trainer")(
            model=model,
            reward_funcs=lambda completions, **columns: [0.0] * len(completions),
            args=arguments,
            train_dataset=datasets.Dataset.from_dict({"prompt": ["1", "2"]}),
            processing_class=tokenizer,
        )
        model.eval()
        return trainer

    return build


def as_trl(samples):
    """A minibatch of ours as TRL has it: prompts of one token, completions (m, T) and their mask."""
    rows, columns = samples.observations["rows"], samples.observations["columns"]
    shape = (len(samples.observations["input_ids"]), int(columns.max()) + 1)

    def grid(values, dtype=torch.float32):
        filled = torch.zeros(shape, dtype=dtype)
        filled[rows, columns] = values.to(dtype)
        return filled

    prompts = samples.observations["input_ids"][:, :1]
    return {
        "prompt_ids": prompts,
        "prompt_mask": torch.ones_like(prompts),
        "completion_ids": grid(samples.actions, torch.long),
        "completion_mask": grid(torch.ones(len(rows)), torch.long),
        "old_per_token_logps": grid(samples.old_log_prob),
        "ref_per_token_logps": grid(samples.reference_log_prob),
        "advantages": grid(samples.advantages),
    }


def assert_equal_loss_and_gradients(policy, ours, theirs):
    parameters = [p for p in policy.language_model.model.parameters() if p.requires_grad]
    mine, other = (torch.autograd.grad(loss, parameters) for loss in (ours, theirs))
    assert ours.item() == pytest.approx(theirs.item(), abs=1e-5)
    assert max(float(g.abs().max()) for g in mine) > 1e-3, "there is something to compare"
    for one, another in zip(mine, other, strict=True):
        torch.testing.assert_close(one, another, atol=1e-5, rtol=1e-5)


def prepared(name, **kwargs):
    """An agent and a minibatch, with ratios off 1 (some beyond the clip range) and a reference of its own."""
    agent = after_rollouts(name, **kwargs)
    move(agent.policy)
    buffer = agent.rollout_buffer
    buffer.scores = np.random.default_rng(0).normal(size=buffer.n_segments)
    buffer.advantages, buffer.returns = (a.astype(np.float32) for a in agent._advantages(buffer))
    samples = next(buffer.get(None))
    reference = samples.reference_log_prob + 0.3 * torch.randn_like(samples.reference_log_prob)
    return agent, samples._replace(reference_log_prob=reference)


@pytest.mark.filterwarnings("ignore::Warning")
@pytest.mark.parametrize(("loss_type", "theirs"), [("grpo", "grpo"), ("dr_grpo", "dr_grpo"), ("dapo", "bnpo")])
@pytest.mark.parametrize("kl_coef", [0.0, 0.2])
def test_grpos_loss_and_gradients_are_trls(trainers, loss_type, theirs, kl_coef):
    agent, samples = prepared("grpo", loss_type=loss_type, kl_coef=kl_coef)
    trainer = trainers("GRPO", agent, loss_type=theirs, use_bias_correction_kl=False)  # a later paper's
    trainer.beta = kl_coef  # after it was built: it would look for the reference on the disk
    loss, figures = agent._loss(samples)
    assert 0 < figures["clip_fraction"] < 1
    assert_equal_loss_and_gradients(agent.policy, loss, trainer._compute_loss(trainer.model, as_trl(samples)))


@pytest.mark.filterwarnings("ignore::Warning")
def test_rloos_loss_and_gradients_are_trls(trainers):
    agent, samples = prepared("rloo", kl_coef=0.1)
    inputs = as_trl(samples)
    inputs["old_logps"] = inputs["old_per_token_logps"].sum(1)
    inputs["advantages"] = inputs["advantages"][:, 0]
    trainer = trainers("RLOO", agent)
    loss, figures = agent._loss(samples)
    assert 0 < figures["clip_fraction"] < 1
    assert_equal_loss_and_gradients(agent.policy, loss, trainer._compute_loss(trainer.model, inputs))


@pytest.mark.filterwarnings("ignore::Warning")
def test_a_step_of_stock_ppo_is_that_of_trls_clipped_loss(trainers):
    """One SGD step of SB3's own `train`, critic off, is the gradient of TRL's surrogate with an advantage a token."""
    agent = agents.make(
        "ppo",
        ID,
        n_envs=8,
        seed=0,
        device="cpu",
        batch_size=80,
        n_epochs=1,
        vf_coef=0.0,
        max_grad_norm=1e9,
        normalize_advantage=False,
        learning_rate=1.0,
        policy_kwargs=dict(optimizer_class=torch.optim.SGD),
    )
    callback = agent._setup_learn(1000, None)[1]
    callback.on_training_start({}, {})
    agent.collect_rollouts(agent.env, callback, agent.rollout_buffer, agent.n_steps)
    move(agent.policy)
    buffer = agent.rollout_buffer
    buffer.advantages = np.random.default_rng(0).normal(size=buffer.advantages.shape).astype(np.float32)
    samples = next(buffer.get(None))
    inputs = as_trl(
        agents.algorithms.common.episode_buffer.EpisodeSamples(
            samples.observations,
            samples.actions.flatten(),
            samples.old_values,
            samples.old_log_prob,
            samples.old_log_prob,
            samples.advantages,
            samples.returns,
        )
    )
    trainer = trainers("GRPO", agent, loss_type="bnpo")
    model = agent.policy.language_model.model
    parameters = list(model.parameters())
    expected = torch.autograd.grad(trainer._compute_loss(trainer.model, inputs), parameters)
    before = [p.detach().clone() for p in parameters]
    agent.train()
    for p, was, gradient in zip(parameters, before, expected, strict=True):
        torch.testing.assert_close(was - p.detach(), gradient, atol=1e-5, rtol=0)


def test_a_ratio_that_would_overflow_has_no_gradient_where_it_is_clipped_and_is_pulled_back_elsewhere():
    """The log ratios and advantages of the turns that stopped a run of examples/dialog_task.py."""
    log_ratio = torch.tensor([108.6, 108.6, -214.8, -214.8, 0.1], requires_grad=True)
    advantages = torch.tensor([0.04, -0.03, -0.03, 0.04, 0.5])
    clipped(ratio_of(log_ratio), advantages, 0.2).sum().backward()
    assert log_ratio.grad.tolist() == pytest.approx([0, -0.03 * np.exp(MOST_NATS), 0, 0, 0.5 * np.exp(0.1)])
    figures = clip_metrics(log_ratio, 0.2)
    assert figures["approx_kl"].isfinite()
    assert figures["clip_fraction"].item() == pytest.approx(0.8)


@pytest.mark.parametrize("name", ["rloo", "grpo"])
def test_an_update_of_completions_that_are_far_more_probable_now_is_finite(name):
    agent, samples = prepared(name, kl_coef=0.1)
    far = samples._replace(old_log_prob=samples.old_log_prob - 120, reference_log_prob=samples.old_log_prob + 120)
    parameters = [p for p in agent.policy.language_model.model.parameters() if p.requires_grad]
    loss, figures = agent._loss(far)
    assert all(figure.isfinite() for figure in (loss, *figures.values()))
    norm = torch.stack([g.norm() for g in torch.autograd.grad(loss, parameters)]).norm()
    assert 1 < norm < torch.inf, "those that should be less probable have a gradient"
    agent._kl_coef = 0.0  # of GRPO's loss
    clipped_loss, _ = agent._loss(far._replace(advantages=far.advantages.abs()))
    assert not any(g.any() for g in torch.autograd.grad(clipped_loss, parameters)), "all are clipped"


def test_weights_of_awr_without_a_bound_of_their_own_are_finite():
    agent, samples = prepared("awr", awr_temperature=0.001, max_weight=float("inf"))
    assert samples.advantages.max() > 0.1, "a weight would be e^100"
    loss, figures = agent._loss(samples)
    assert all(figure.isfinite() for figure in (loss, *figures.values()))


def test_dpo_prefers_the_better_completion_with_the_annotators_probability():
    agent, samples = prepared("online_dpo", beta=0.3)
    loss, _ = agent._loss(samples)
    log_prob = agent.policy.evaluate_actions(samples.observations, samples.actions)[1]
    ratios = samples.sum_by_episode(log_prob - samples.reference_log_prob).reshape(-1, 2)
    scores = samples.sum_by_episode(samples.returns) / samples.sum_by_episode(torch.ones_like(samples.returns))
    first = torch.sigmoid(scores.reshape(-1, 2) @ torch.tensor([1.0, -1.0]))  # that the first is preferred
    margin = 0.3 * (ratios[:, 0] - ratios[:, 1])
    expected = -(first * functional.logsigmoid(margin) + (1 - first) * functional.logsigmoid(-margin)).mean()
    torch.testing.assert_close(loss, expected)


def test_equal_scores_of_completions_of_any_length_are_ties():
    """Hard labels leave them out, whatever the rounding of a third would make of them."""
    agent, samples = prepared("online_dpo", labels="hard", n_epochs=1)
    assert len(set(samples.sum_by_episode(torch.ones_like(samples.returns)).tolist())) > 1, "of several lengths"
    loss, figures = agent._loss(samples._replace(returns=torch.full_like(samples.returns, 1 / 3)))
    assert figures["ties"] == len(samples.observations["input_ids"]) / 2
    assert loss == 0


# Bad input


def test_groups_that_cannot_be_are_refused():
    with pytest.raises(ValueError, match="group_size=1: RLOO compares completions of one prompt and needs at least 2"):
        agents.make("rloo", ID, n_envs=4, group_size=1)
    with pytest.raises(
        ValueError, match=r"group_size=4 with 6 environments: groups have to divide the batch.*such as 8"
    ):
        agents.make("grpo", ID, n_envs=6, group_size=4)
    with pytest.raises(TypeError, match="kl='losses': expected 'loss' or 'reward'"):
        agents.make("grpo", ID, n_envs=4, kl="losses")
    with pytest.raises(ValueError, match="beta=0: expected a number above 0"):
        agents.make("online_dpo", ID, n_envs=4, beta=0)
    with pytest.raises(TypeError, match="baseline='median'"):
        agents.make("reinforce", ID, n_envs=4, baseline="median")


def test_an_environment_that_makes_no_groups_is_named():
    from stable_baselines3.common.vec_env import DummyVecEnv

    class Foreign(gym.Env):
        def __init__(self):
            inner = gym.make(ID)
            self.observation_space, self.action_space = inner.observation_space, inner.action_space

    with pytest.raises(TypeError, match=r"needs completions of one prompt side by side.*set_group_size"):
        agents.make("rloo", DummyVecEnv([Foreign] * 4))


def test_there_is_a_word_on_the_recurrent_ppo():
    with pytest.raises(ValueError, match="no 'recurrent_ppo': a context is the whole history"):
        agents.make("recurrent_ppo", ID)


def test_a_restart_forgets_what_was_under_way():
    agent = after_rollouts("rloo", n_rollouts=3, n_steps=4)
    assert isinstance(agent, PolicyGradient)
    assert isinstance(agent.rollout_buffer, EpisodeRolloutBuffer)
    assert agent.rollout_buffer.forget() > 0
    assert agent.rollout_buffer.forget() == 0


@pytest.mark.parametrize(("name", "given"), [("rloo", dict(n_steps=1)), ("dqn", dict(train_freq=2))])
def test_tokens_that_are_too_few_for_an_update_are_warned_of(name, given):
    agent = agents.make(name, ID, n_envs=4, device="cpu", **given)
    with pytest.warns(UserWarning, match="has learned nothing in 8 tokens"):
        agent.learn(8)


def test_arguments_that_would_do_nothing_are_refused():
    with pytest.raises(TypeError, match="rloo takes no argument 'whiten_rewards'"):
        agents.make("rloo", ID, n_envs=4, whiten_rewards=True)
    with pytest.raises(ValueError, match=r"gamma=0\.9: a completion is judged as a whole"):
        agents.make("grpo", ID, n_envs=4, gamma=0.9)
    for name, given, message in (
        ("rloo", dict(vf_coef=0.5), r"vf_coef=0\.5: RLOO makes no use of it; leave it out"),
        ("grpo", dict(gae_lambda=0.9), r"gae_lambda=0\.9: GRPO makes no use"),
        ("reinforce", dict(gae_lambda=0.9), r"gae_lambda=0\.9: Reinforce makes no use"),
        ("rloo", dict(value="separate"), "value='separate': RLOO makes no use"),
        ("sft", dict(ent_coef=0.1), r"ent_coef=0\.1: SFT makes no use"),
        ("sft", dict(kl_coef=0.1), r"kl_coef=0\.1: SFT makes no use of it; leave"),
        (
            "online_dpo",
            dict(kl_coef=0.1),
            r"kl_coef=0\.1: OnlineDPO makes no use of it \(its KL penalty is weighed by beta\)",
        ),
        ("online_dpo", dict(kl_target=3.0), r"kl_target=3\.0: OnlineDPO makes no use"),
        ("online_dpo", dict(report_kl=False), "report_kl=False: OnlineDPO makes no use"),
        ("best_of_n", dict(gamma=0.9), r"gamma=0\.9: BestOfN makes no use"),
        ("random", dict(ent_coef=0.1), r"ent_coef=0\.1: Random makes no use"),
        ("trpo", dict(sub_sampling_factor=2), "sub_sampling_factor=2: sb3-contrib slices observations"),
    ):
        with pytest.raises(ValueError, match=message):
            agents.make(name, ID, n_envs=4, device="cpu", **given)
    with pytest.raises(ValueError, match=r"optimize_memory_usage=True: contexts are stored once"):
        agents.make("dqn", ID, n_envs=4, optimize_memory_usage=True)
