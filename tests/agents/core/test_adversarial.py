"""Adversarial training: the gradient is that of the loss as the paper writes it, and nothing else changes."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from stable_baselines3 import A2C, PPO
from torch.distributions import Categorical, kl_divergence

import agents
from agents import SequenceRolloutBuffer, TokenPolicy, make, make_vec_env
from agents.core import distribution as token_distribution
from agents.core.adversarial import ascend, divergences, hidden_at, radius_of, random_start

pytestmark = pytest.mark.filterwarnings("ignore:.*decodes without a KV cache")

LENGTH, EPSILON, STEPS = 20, 0.3, 2
CONTEXTS = [[5, 6, 7, 8, 9], [2, 3, 4, 5, 6, 7, 8], [9, 8, 7, 6]]
ACTIONS = torch.tensor([7, 8, 9, 6, 7, 8, 8, 7, 6])


def make_policy(small_model, token_spaces, shape="gpt2", coef=0.0, **kwargs) -> TokenPolicy:
    policy = TokenPolicy(
        *token_spaces(LENGTH),
        lambda _: 1e-3,
        model=small_model(shape),
        adversarial_coef=coef,
        adversarial_epsilon=EPSILON,
        adversarial_steps=STEPS,
        **kwargs,
    )
    torch.manual_seed(0)
    torch.nn.init.normal_(policy.value_net.weight)
    return policy


def sequences() -> dict[str, torch.Tensor]:
    """Three sequences whose last three tokens are actions."""
    ids, mask = torch.zeros(2, 3, LENGTH, dtype=torch.long)
    for i, context in enumerate(CONTEXTS):
        ids[i, : len(context)] = torch.tensor(context)
        mask[i, : len(context)] = 1
    columns = torch.cat([torch.arange(len(c) - 4, len(c) - 1) for c in CONTEXTS])
    rows = torch.arange(3).repeat_interleave(3)
    return {"input_ids": ids, "attention_mask": mask, "rows": rows, "columns": columns}


def loss_of(values, log_probs, entropies) -> torch.Tensor:
    weights = torch.linspace(-1, 2, len(log_probs))
    return values.flatten() @ weights + log_probs.exp() @ weights + 0.3 * (entropies**2) @ weights


def gradients(policy) -> dict[str, torch.Tensor]:
    return {name: p.grad.clone() for name, p in policy.named_parameters() if p.grad is not None}


def trained_gradients(policy, obs, actions=ACTIONS) -> dict[str, torch.Tensor]:
    """As an algorithm gets them; the delta starts from seed 7."""
    policy.zero_grad()
    torch.manual_seed(7)
    loss_of(*policy.evaluate_actions(obs, actions)).backward()
    return gradients(policy)


def found_delta(policy, obs) -> torch.Tensor:
    torch.manual_seed(7)
    radius = radius_of(policy, EPSILON)
    start = random_start(policy, obs, radius)
    return ascend(policy, obs, hidden_at(policy, obs).detach(), start, radius, STEPS)


def explicit_kls(policy, obs, delta) -> torch.Tensor:
    """KL (n,) between the model's own logits on embeddings without and with delta, by torch's formula."""
    model = policy.language_model.model
    embedded = model.get_input_embeddings()(obs["input_ids"])
    positions = torch.arange(LENGTH)[None].expand(len(embedded), -1)

    def at_actions(inputs: torch.Tensor) -> Categorical:
        logits = model(inputs_embeds=inputs, attention_mask=obs["attention_mask"], position_ids=positions).logits
        return Categorical(logits=logits[obs["rows"], obs["columns"]] / policy.temperature)

    return kl_divergence(at_actions(embedded), at_actions(embedded + delta))


def explicit_gradients(policy, obs, coef, actions=ACTIONS) -> dict[str, torch.Tensor]:
    """Of L + coef * mean KL, where L is from the policy without adversarial training."""
    delta = found_delta(policy, obs)
    policy.zero_grad()
    assert policy.adversarial is None
    (loss_of(*policy.evaluate_actions(obs, actions)) + coef * explicit_kls(policy, obs, delta).mean()).backward()
    return gradients(policy)


def check_equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor], atol=2e-5, rtol=1e-3) -> None:
    assert one.keys() == other.keys() and len(one) >= 3
    for name in one:
        torch.testing.assert_close(one[name], other[name], atol=atol, rtol=rtol, msg=lambda m, n=name: f"{n}: {m}")


def differ(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return any((one[name] - other[name]).abs().max() > 1e-3 for name in one)


# The gradient


@pytest.mark.parametrize("shape", ["gpt2", "llama", "gemma3", "opt"])
@pytest.mark.parametrize(
    "settings", [{}, {"train": 1}, {"train": "head"}, {"temperature": 0.7}, {"value": "separate"}], ids=str
)
def test_the_gradient_is_that_of_the_loss_plus_the_kl(small_model, token_spaces, shape, settings):
    plain = make_policy(small_model, token_spaces, shape, **settings)
    policy = make_policy(small_model, token_spaces, shape, coef=1.7, **settings)
    obs = sequences()
    expected = explicit_gradients(plain, obs, 1.7)
    check_equal(trained_gradients(policy, obs), expected)
    assert differ(expected, explicit_gradients(plain, obs, 0.0)), "the regulariser is felt"


def test_gradients_with_a_stored_trunk_are_those_without(small_model, token_spaces):
    """The stored states are of the clean input: the perturbed pass starts from the embeddings all the same."""
    for train in (1, "head"):
        policy = make_policy(small_model, token_spaces, coef=1.7, train=train)
        obs = sequences()
        stored = obs | {"trunk_states": policy.trunk_states(obs)}
        check_equal(trained_gradients(policy, stored), trained_gradients(policy, obs))


@pytest.mark.parametrize("size", [1, 9, 1000])
@pytest.mark.parametrize("settings", [{}, {"train": 1}])
def test_micro_batches_add_up_to_the_minibatch(small_model, token_spaces, size, settings):
    whole, parts = (
        make_policy(small_model, token_spaces, coef=1.7, micro_batch_size=s, **settings) for s in (None, size)
    )
    check_equal(trained_gradients(parts, sequences()), trained_gradients(whole, sequences()))
    assert parts.adversarial.take_metrics() == pytest.approx(whole.adversarial.take_metrics(), rel=1e-4)


def test_one_row_a_token_as_stock_sb3_hands_them_out(small_model, token_spaces):
    policy, plain = (make_policy(small_model, token_spaces, coef=coef) for coef in (1.7, 0.0))
    obs = {key: value for key, value in sequences().items() if key in ("input_ids", "attention_mask")}
    last = obs | {"rows": torch.arange(3), "columns": obs["attention_mask"].sum(dim=1) - 1}
    check_equal(trained_gradients(policy, obs, ACTIONS[:3]), explicit_gradients(plain, last, 1.7, ACTIONS[:3]))


def test_chunks_of_logits_change_nothing_and_none_is_larger(small_model, token_spaces, monkeypatch):
    policy = make_policy(small_model, token_spaces, coef=1.7)
    whole = trained_gradients(policy, sequences())
    monkeypatch.setattr(token_distribution, "LOGITS_AT_ONCE", 4 * 50)  # two actions a chunk, and both distributions
    check_equal(trained_gradients(policy, sequences()), whole)
    widest, head = 0, policy.language_model.head

    def spied(hidden: torch.Tensor) -> torch.Tensor:
        nonlocal widest
        widest = max(widest, len(hidden))
        return head(hidden)

    monkeypatch.setattr(policy.language_model, "head", spied)
    kept: list[int] = []
    hidden = torch.randn(2, 9, 32, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.numel()) or t, lambda t: t):
        divergences(policy, *hidden)
    assert widest == 2
    assert sum(n for n in kept if n % 50 == 0 and n != 50 * 32) == 0, "no logits outlive their chunk"


def test_bf16_agrees_within_its_precision(small_model, token_spaces):
    plain, half = (make_policy(small_model, token_spaces, coef=1.7, bf16=bf16) for bf16 in (False, True))
    trained_gradients(plain, sequences()), trained_gradients(half, sequences())
    assert all(p.grad.dtype == torch.float32 for p in half.parameters() if p.grad is not None)
    one, other = (policy.adversarial.take_metrics()["adversarial_kl"] for policy in (plain, half))
    assert other == pytest.approx(one, rel=0.05) and other != one


# What delta is


@pytest.mark.parametrize("shape", ["gpt2", "gemma3"])  # the second scales its embeddings inside the module
def test_the_radius_is_relative_to_the_embeddings_that_the_blocks_see(small_model, token_spaces, shape):
    policy = make_policy(small_model, token_spaces, shape)
    embedded = policy.language_model.model.get_input_embeddings()(torch.arange(50))
    expected = EPSILON * np.linalg.norm(embedded.detach().numpy(), axis=1).mean()
    assert float(radius_of(policy, EPSILON)) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("steps", [1, 3])
def test_delta_stays_in_the_ball_and_off_the_padding(small_model, token_spaces, steps):
    policy, obs = make_policy(small_model, token_spaces), sequences()
    radius = radius_of(policy, EPSILON)
    start = 5 * random_start(policy, obs, radius)  # from far outside
    delta = ascend(policy, obs, hidden_at(policy, obs).detach(), start, radius, steps)
    norms = delta.norm(dim=-1)
    real = obs["attention_mask"].bool()
    assert (norms[~real] == 0).all()
    assert (norms <= radius * (1 + 1e-5)).all() and (norms[real] > 0.9 * radius).any()
    where = torch.zeros_like(real)
    where[:, 1] = True
    only = ascend(policy, obs, hidden_at(policy, obs).detach(), start, radius, steps, where)
    assert (only[~where] == 0).all() and (only[where] != 0).all()


def test_the_kl_it_finds_exceeds_that_of_random_deltas_of_its_norm(small_model, token_spaces):
    policy, obs = make_policy(small_model, token_spaces), sequences()
    delta = found_delta(policy, obs)
    with torch.no_grad():
        found = explicit_kls(policy, obs, delta).mean()
        noise = [torch.randn_like(delta) for _ in range(50)]
        noise = [n / n.norm(dim=-1, keepdim=True) * delta.norm(dim=-1, keepdim=True) for n in noise]
        by_chance = torch.stack([explicit_kls(policy, obs, n).mean() for n in noise])
    assert found > 2 * by_chance.max()


def test_padding_changes_neither_delta_nor_kl(small_model, token_spaces):
    policy, obs = make_policy(small_model, token_spaces), sequences()
    radius = radius_of(policy, EPSILON)
    start = random_start(policy, obs, radius)
    together = ascend(policy, obs, hidden_at(policy, obs).detach(), start, radius, STEPS)
    for i, context in enumerate(CONTEXTS):
        n, mine = len(context), obs["rows"] == i
        alone = {key: obs[key][i : i + 1, :n] for key in ("input_ids", "attention_mask")}
        alone |= {"rows": obs["rows"][mine] - i, "columns": obs["columns"][mine]}
        clean = hidden_at(policy, alone).detach()
        delta = ascend(policy, alone, clean, start[i : i + 1, :n], radius, STEPS)
        torch.testing.assert_close(delta[0], together[i, :n], atol=1e-4, rtol=1e-3)


def test_the_search_leaves_gradients_and_parameters_alone(small_model, token_spaces):
    policy, obs = make_policy(small_model, token_spaces), sequences()
    before = trained_gradients(policy, obs)
    weights = copy.deepcopy(dict(policy.named_parameters()))
    found_delta(policy, obs)
    assert all(torch.equal(before[name], grad) for name, grad in gradients(policy).items())
    assert all(torch.equal(weights[name], value) for name, value in policy.named_parameters())
    assert not policy.language_model.model.get_input_embeddings()._forward_hooks


# What stays as it was


def test_values_log_probabilities_and_entropies_are_untouched(small_model, token_spaces):
    plain, policy = (make_policy(small_model, token_spaces, coef=coef) for coef in (0.0, 1.7))
    results = zip(
        plain.evaluate_actions(sequences(), ACTIONS), policy.evaluate_actions(sequences(), ACTIONS), strict=True
    )
    assert all(torch.equal(one, other) for one, other in results)
    with torch.no_grad():
        policy.adversarial.take_metrics()
        policy.evaluate_actions(sequences(), ACTIONS)
    assert policy.adversarial.take_metrics() == {}, "no search where no gradient is wanted"


def trained_weights(**kwargs: Any) -> tuple[Any, list[torch.Tensor]]:
    agent = make("ppo", "rlhf/IncreasingNumbers-v0", n_envs=6, seed=0, learning_rate=1e-2, device="cpu", **kwargs)
    agent.learn(2 * agent.n_steps * 6)
    return agent, [p.detach() for p in agent.policy.parameters()]


def test_a_coefficient_of_0_is_bit_for_bit_what_there_was_before(monkeypatch):
    with monkeypatch.context() as patched:  # the policy as it was: nothing to do with this module
        patched.setattr("agents.core.adversarial.AdversarialRegulariser.attach", None)
        patched.setattr("agents.core.adversarial.random_start", None)
        _, off = trained_weights(adversarial_coef=0.0, adversarial_epsilon=0.5, adversarial_steps=3)
    _, never_heard_of = trained_weights()
    assert all(torch.equal(one, other) for one, other in zip(off, never_heard_of, strict=True))
    _, on = trained_weights(adversarial_coef=1.0)
    assert not all(torch.equal(one, other) for one, other in zip(off, on, strict=True))


@pytest.mark.parametrize("algorithm", [PPO, A2C])
def test_stock_algorithms_train_with_it_and_the_first_ratio_is_1(algorithm):
    agent = algorithm(
        TokenPolicy,
        make_vec_env("rlhf/IncreasingNumbers-v0", 6, seed=0),
        n_steps=14,
        seed=0,
        rollout_buffer_class=SequenceRolloutBuffer,
        policy_kwargs=dict(adversarial_coef=1.0, adversarial_epsilon=0.2, adversarial_steps=2),
        device="cpu",
        **({"batch_size": 84, "n_epochs": 1} if algorithm is PPO else {}),
    )
    old, new = [], []
    original = agent.policy.evaluate_actions

    def spied(obs, actions):
        results = original(obs, actions)
        new.append(results[1].detach())
        return results

    agent.policy.evaluate_actions = spied
    get = agent.rollout_buffer.get
    agent.rollout_buffer.get = lambda batch_size=None: (old.append(s.old_log_prob) or s for s in get(batch_size))
    agent.learn(14 * 6)
    assert (new[0] - old[0]).abs().max() < 1e-4
    assert agent.policy.adversarial.take_metrics()["adversarial_kl"] > 0


def test_training_lowers_the_kl_that_the_attack_finds():
    def attacked_kl(coef: float) -> float:
        agent, _ = trained_weights(adversarial_coef=coef, adversarial_epsilon=0.3, adversarial_steps=2, n_epochs=4)
        policy = agent.policy
        ids = torch.arange(2, 12)[None] % policy.n_actions
        obs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        obs |= {"rows": torch.zeros(9, dtype=torch.long), "columns": torch.arange(9)}
        torch.manual_seed(0)
        radius, clean = radius_of(policy, 0.3), hidden_at(policy, obs).detach()
        delta = ascend(policy, obs, clean, random_start(policy, obs, radius), radius, 5)
        with torch.no_grad():
            return float(divergences(policy, clean, hidden_at(policy, obs, delta)).mean())

    assert attacked_kl(20.0) < 0.7 * attacked_kl(0.0)


def test_the_kl_is_logged_and_a_bundle_keeps_the_arguments(tmp_path):
    arguments = dict(adversarial_coef=0.5, adversarial_epsilon=0.2, adversarial_steps=3)
    env = make_vec_env("rlhf/IncreasingNumbers-v0", 6, seed=0)
    agent = make("ppo", env, seed=0, device="cpu", **arguments)
    rows: list[float | None] = []

    class Log(agents.TextMetrics):
        def _on_rollout_end(self) -> None:
            super()._on_rollout_end()
            rows.append(self.logger.name_to_value.get("rlhf/adversarial_kl"))

    agent.learn(3 * agent.n_steps * 6, callback=Log())
    assert rows[0] is None and all(value > 0 for value in rows[1:]) and len(rows) == 3
    agents.save(agent, tmp_path / "bundle")
    agent.save(tmp_path / "agent.zip")
    from_zip = agents.load(tmp_path / "agent.zip", env, algorithm="ppo", trust_pickle=True)
    restored = [agents.load(tmp_path / "bundle"), from_zip]
    for policy in [one.policy for one in restored]:
        assert (policy.adversarial.coef, policy.adversarial.epsilon, policy.adversarial.steps) == (0.5, 0.2, 3)
    kept = agent.policy._get_constructor_parameters()
    assert {name: kept[name] for name in arguments} == arguments


def test_training_goes_on_from_a_bundle_exactly(tmp_path):
    arguments = dict(adversarial_coef=0.5, adversarial_steps=2, n_envs=6, seed=0, learning_rate=1e-3, device="cpu")
    whole, half = (make("ppo", "rlhf/IncreasingNumbers-v0", **arguments) for _ in range(2))
    rollout = whole.n_steps * 6
    torch.manual_seed(1), np.random.seed(1)
    whole.learn(rollout)
    whole.learn(rollout, reset_num_timesteps=False)
    torch.manual_seed(1), np.random.seed(1)
    half.learn(rollout)
    agents.save(half, tmp_path / "bundle")
    torch.manual_seed(99)
    half = agents.load(tmp_path / "bundle")
    half.learn(rollout, reset_num_timesteps=False)
    for one, other in zip(whole.policy.parameters(), half.policy.parameters(), strict=True):
        assert torch.equal(one, other)


# Bad input


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"adversarial_coef": -1.0}, "adversarial_coef=-1.0: expected a number of at least 0"),
        ({"adversarial_coef": float("nan")}, "adversarial_coef=nan"),
        ({"adversarial_coef": 1.0, "adversarial_epsilon": 0.0}, "adversarial_epsilon=0.0: expected a number above 0"),
        ({"adversarial_epsilon": -0.1}, "adversarial_epsilon=-0.1"),
        ({"adversarial_coef": 1.0, "adversarial_steps": 0}, "adversarial_steps=0: expected a whole number"),
        ({"adversarial_steps": 1.5}, "adversarial_steps=1.5"),
        ({"adversarial_coef": 1.0, "compile": True}, "compile=True with adversarial_coef=1.0"),
    ],
)
def test_nonsense_is_refused(small_model, token_spaces, settings, message):
    with pytest.raises(ValueError, match=message):
        TokenPolicy(*token_spaces(LENGTH), lambda _: 1e-3, model=small_model("gpt2"), **settings)


def test_an_algorithm_that_never_calls_evaluate_actions_is_told_so():
    class Deaf(agents.get_algorithm("ppo")):
        def train(self) -> None:
            """An update by another road, as TRPO's through `get_distribution`."""
            self._n_updates += 1

    agent = Deaf(
        env=make_vec_env("rlhf/IncreasingNumbers-v0", 6, seed=0),
        policy_kwargs={"adversarial_coef": 1.0},
        n_steps=14,
        batch_size=84,
        seed=0,
        device="cpu",
    )
    with pytest.raises(TypeError, match=r"adversarial_coef=1\.0 does nothing in Deaf"):
        agent.learn(2 * 14 * 6)
