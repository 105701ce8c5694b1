"""The update: frozen trunk, chunks, micro-batches, bfloat16, compilation. Each equals the plain way."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from stable_baselines3 import PPO

from agents import SequenceRolloutBuffer, TokenPolicy, make, make_vec_env
from agents.core import distribution as token_distribution
from agents.core.forward_pass import find_blocks

pytestmark = pytest.mark.filterwarnings("ignore:.*decodes without a KV cache")

LENGTH = 20
CONTEXTS = [[5, 6, 7, 8, 9], [2, 3, 4, 5, 6, 7, 8], [9, 8, 7, 6]]
ACTIONS = torch.tensor([7, 8, 9, 6, 7, 8, 8, 7, 6])


def make_policy(small_model, token_spaces, shape="gpt2", **kwargs) -> TokenPolicy:
    policy = TokenPolicy(*token_spaces(LENGTH), lambda _: 1e-3, model=small_model(shape), **kwargs)
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
    return {
        "input_ids": ids,
        "attention_mask": mask,
        "rows": torch.arange(3).repeat_interleave(3),
        "columns": columns,
    }


def outcome(policy, obs, actions=ACTIONS) -> list[torch.Tensor]:
    """Values, log-probabilities, entropies and every gradient of a loss over all three."""
    policy.zero_grad()
    values, log_probs, entropies = policy.evaluate_actions(obs, actions)
    weights = torch.linspace(-1, 2, len(actions))
    (values.flatten() @ weights + log_probs.exp() @ weights + 0.3 * (entropies**2) @ weights).backward()
    gradients = [p.grad for p in policy.parameters() if p.grad is not None]
    return [values.detach(), log_probs.detach(), entropies.detach(), *gradients]


def check_equal(one, other, atol=2e-5, rtol=1e-4):
    assert len(one) == len(other) > 3
    for a, b in zip(one, other, strict=True):
        torch.testing.assert_close(a, b, atol=atol, rtol=rtol)


@pytest.mark.parametrize("train", [1, 2, "head"])
def test_the_stored_trunk_equals_a_recomputed_one_on_every_shape(any_shape, small_model, token_spaces, train):
    policy = make_policy(small_model, token_spaces, any_shape, train=train)
    obs = sequences()
    states = policy.trunk_states(obs)
    assert states is not None
    stored = obs | {"trunk_states": states}
    check_equal(outcome(policy, obs), outcome(policy, stored))
    recomputed = policy.reference_log_prob(obs, ACTIONS)
    torch.testing.assert_close(policy.reference_log_prob(stored, ACTIONS), recomputed, atol=2e-6, rtol=1e-4)


def test_a_separate_critic_starts_from_the_stored_trunk_and_shares_what_is_frozen(small_model, token_spaces):
    policy = make_policy(small_model, token_spaces, train=1, value="separate")
    obs = sequences()
    check_equal(outcome(policy, obs), outcome(policy, obs | {"trunk_states": policy.trunk_states(obs)}))
    actor, critic = policy.language_model.model.base_model, policy.value_trunk
    for (name, one), other in zip(actor.named_parameters(), critic.parameters(), strict=True):
        assert (one is other) == (not one.requires_grad), name


def test_where_everything_learns_nothing_is_stored(small_model, token_spaces):
    assert make_policy(small_model, token_spaces).trunk_states(sequences()) is None


def test_a_forward_of_a_blocks_own_outlives_the_split(small_model, token_spaces):
    """As accelerate's hooks put one there."""
    model = small_model("gpt2")
    block = model.base_model.h[0]
    original = block.forward
    block.forward = lambda *args, **kwargs: original(*args, **kwargs)
    mine = block.forward
    policy = TokenPolicy(*token_spaces(LENGTH), lambda _: 1e-3, model=model, train=1)
    check_equal(
        outcome(policy, sequences()), outcome(policy, sequences() | {"trunk_states": policy.trunk_states(sequences())})
    )
    assert block.forward is mine


def test_a_model_that_does_not_split_is_recomputed_with_one_warning(small_model, token_spaces):
    """Its last norm also reads the first block's output, past the blocks between."""
    model = small_model("gpt2")
    trunk, seen = model.base_model, []
    trunk.h[0].register_forward_hook(lambda _m, _a, output: seen.append(output))
    trunk.ln_f.register_forward_pre_hook(lambda _m, args: (args[0] + seen[-1],))
    with pytest.warns(UserWarning, match="frozen blocks again in every epoch.*do not equal the whole") as caught:
        policy = TokenPolicy(*token_spaces(LENGTH), lambda _: 1e-3, model=model, train=1)
    assert len(caught) == 1
    assert policy.trunk_states(sequences()) is None
    outcome(policy, sequences())


def test_neither_an_update_nor_the_reference_runs_a_frozen_block():
    env = make_vec_env("rlhf/IncreasingNumbers-v0", 6, seed=0)
    agent = PPO(
        TokenPolicy,
        env,
        n_steps=14,
        batch_size=42,
        n_epochs=3,
        seed=0,
        rollout_buffer_class=SequenceRolloutBuffer,
        policy_kwargs={"train": 1},
        device="cpu",
    )
    ran = 0

    def count(*_: object) -> None:
        nonlocal ran
        ran += 1

    # A block that only passes on computes no attention.
    find_blocks(agent.policy.language_model.model, 2)[0].attn.register_forward_pre_hook(count)

    def counted(function: Callable[..., None]) -> list[int]:
        """How often the frozen block runs in each call of a function, which is replaced."""
        counts: list[int] = []

        def spied(*args: object, **kwargs: object) -> None:
            before = ran
            function(*args, **kwargs)
            counts.append(ran - before)

        setattr(function.__self__, function.__name__, spied)
        return counts

    values_of = agent.policy.values_of

    def last_values(*args: object) -> torch.Tensor:  # they belong to the rollout, but are computed after it
        nonlocal ran
        before = ran
        values = values_of(*args)
        ran = before
        return values

    agent.policy.values_of = last_values
    updates, references = counted(agent.train), counted(agent.rollout_buffer.compute_returns_and_advantage)
    agent.learn(2 * 14 * 6)
    assert updates == [0, 0]
    assert references == [0, 0]


@pytest.mark.parametrize("train", [1, "head"])
def test_training_with_the_stored_trunk_equals_training_without(train):
    """Two iterations of PPO, with the trunk stored and with the policy told that its model does not split."""

    def trained(split: bool) -> list[torch.Tensor]:
        settings = dict(n_envs=6, seed=0, train=train, learning_rate=1e-2, device="cpu")
        # The first advantages are rounding errors, because all rewards are 0: SB3 would scale them to 1.
        agent = make("ppo", "rlhf/IncreasingNumbers-v0", normalize_advantage=False, **settings)
        if not split:
            agent.policy._actor.split = None
        agent.learn(2 * agent.n_steps * 6)
        return [p.detach() for p in agent.policy.parameters()]

    for one, other in zip(trained(True), trained(False), strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("settings", [{}, {"temperature": 0.7}, {"top_k": 5}])
def test_chunks_equal_the_whole(small_model, token_spaces, monkeypatch, settings):
    policy = make_policy(small_model, token_spaces, **settings)
    whole = outcome(policy, sequences())
    monkeypatch.setattr(token_distribution, "LOGITS_AT_ONCE", 2 * 50)  # two actions a chunk
    check_equal(whole, outcome(policy, sequences()))


def test_no_more_logits_than_a_chunk_are_held(small_model, token_spaces, monkeypatch):
    policy = make_policy(small_model, token_spaces)
    monkeypatch.setattr(token_distribution, "LOGITS_AT_ONCE", 2 * 50)
    kept: list[int] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.numel()) or t, lambda t: t):
        hidden = torch.randn(9, 32, requires_grad=True)
        token_distribution.log_probs_and_entropies(policy.action_logits, hidden, ACTIONS, 50)
    assert max(kept, default=0) <= 50 * 32, "the head's weights, and no logits of all nine actions"
    assert sum(n for n in kept if n % 50 == 0 and n != 50 * 32) == 0


def test_log_probs_and_entropies_have_the_gradients_of_torchs_categorical():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(6, 11, generator=generator, dtype=torch.float64)
    logits[0, 3:9] = -torch.inf  # what top-k leaves out
    actions = torch.tensor([0, 1, 2, 3, 4, 10])
    upstream = 50 * torch.randn(2, 6, generator=generator, dtype=torch.float64)
    z = logits.clone().requires_grad_()
    log_probs, entropies = token_distribution.log_probs_and_entropies(lambda h, _: h, z, actions, 11)
    (log_probs @ upstream[0] + entropies @ upstream[1]).backward()
    for i in range(6):
        kept = logits[i].isfinite().nonzero().flatten()
        row = logits[i, kept].clone().requires_grad_()
        expected = torch.distributions.Categorical(logits=row)
        action = (kept == actions[i]).nonzero().squeeze()
        loss = expected.log_prob(action) * upstream[0, i] + expected.entropy() * upstream[1, i]
        loss.backward()
        torch.testing.assert_close(log_probs[i], expected.log_prob(action))
        torch.testing.assert_close(entropies[i], expected.entropy())
        torch.testing.assert_close(z.grad[i, kept], row.grad)
    assert (z.grad[~logits.isfinite()] == 0).all()


@pytest.mark.parametrize("size", [1, 9, 16, 1000])
@pytest.mark.parametrize("settings", [{}, {"train": 1}, {"value": "separate"}])
def test_micro_batches_add_up_to_the_minibatch(small_model, token_spaces, size, settings):
    whole, parts = (make_policy(small_model, token_spaces, micro_batch_size=s, **settings) for s in (None, size))
    check_equal(outcome(whole, sequences()), outcome(parts, sequences()))
    obs = sequences()
    stored = obs | {"trunk_states": states} if (states := parts.trunk_states(obs)) is not None else obs
    check_equal(outcome(whole, obs), outcome(parts, stored))


def test_micro_batches_of_one_row_a_token(small_model, token_spaces):
    whole, parts = (make_policy(small_model, token_spaces, micro_batch_size=size) for size in (None, 12))
    obs = {key: value for key, value in sequences().items() if key in ("input_ids", "attention_mask")}
    check_equal(outcome(whole, obs, ACTIONS[:3]), outcome(parts, obs, ACTIONS[:3]))


def test_micro_batches_hold_the_activations_of_one(small_model, token_spaces):
    """Counted in what autograd keeps until the backward pass."""

    def kept(size: int | None) -> int:
        policy, total = make_policy(small_model, token_spaces, micro_batch_size=size), 0

        def count(tensor: torch.Tensor) -> torch.Tensor:
            nonlocal total
            total += tensor.numel()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
            policy.evaluate_actions(sequences(), ACTIONS)
        return total

    assert kept(8) < kept(None) / 20


def test_a_micro_batch_of_nothing_is_refused(small_model, token_spaces):
    with pytest.raises(ValueError, match="micro_batch_size=0: expected a number of tokens"):
        make_policy(small_model, token_spaces, micro_batch_size=0)


@pytest.mark.parametrize("shape", ["gpt2", "llama", "gemma3"])
@pytest.mark.parametrize("train", ["full", 1])
def test_bf16_autocast_agrees_within_its_precision_and_keeps_float32_weights(small_model, token_spaces, shape, train):
    plain, half = (make_policy(small_model, token_spaces, shape, train=train, bf16=bf16) for bf16 in (False, True))
    obs = sequences()
    for one, other in zip(outcome(plain, obs)[:3], outcome(half, obs)[:3], strict=True):
        assert other.dtype == torch.float32
        torch.testing.assert_close(one, other, atol=0.05, rtol=0.05)
        assert not torch.equal(one, other), "autocast was on"
    for parameter in half.parameters():
        assert parameter.dtype == torch.float32
        assert parameter.grad is None or parameter.grad.dtype == torch.float32
    contexts = {key: value for key, value in obs.items() if key in ("input_ids", "attention_mask")}
    with torch.no_grad():
        actions, _, log_probs = half(contexts)
        again = half.evaluate_actions(contexts, actions)[1]
    torch.testing.assert_close(log_probs, again, atol=0.05, rtol=0.05)


def test_bf16_keeps_the_cache_of_tiny():
    agent = make("ppo", "rlhf/Sentiment-v0", n_envs=2, seed=0, bf16=True, device="cpu")
    assert agent.policy._actor.cache.enabled


def test_compile_is_for_full_training(small_model, token_spaces):
    with pytest.raises(ValueError, match="compile=True with train=1: only the passes of train='full'"):
        make_policy(small_model, token_spaces, train=1, compile=True)


def test_bf16_trains():
    agent = make("ppo", "rlhf/IncreasingNumbers-v0", n_envs=6, seed=0, bf16=True, learning_rate=1e-3, device="cpu")
    before = [p.detach().clone() for p in agent.policy.parameters() if p.requires_grad]
    agent.learn(2 * agent.n_steps * 6)
    after = [p for p in agent.policy.parameters() if p.requires_grad]
    assert all(torch.isfinite(p).all() for p in after)
    assert not all(torch.equal(one, other) for one, other in zip(before, after, strict=True))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.torch.jit.script_method. is deprecated:DeprecationWarning")  # torch's own import
def test_a_compiled_update_equals_the_plain_one(small_model, token_spaces):
    plain, compiled = (make_policy(small_model, token_spaces, compile=on) for on in (False, True))
    check_equal(outcome(plain, sequences()), outcome(compiled, sequences()), atol=1e-5, rtol=1e-3)


def test_a_gradient_that_is_not_finite_stops_before_the_step(small_model, token_spaces):
    policy = make_policy(small_model, token_spaces)
    before = [p.detach().clone() for p in policy.parameters()]
    (policy.evaluate_actions(sequences(), ACTIONS)[1].sum() * torch.inf).backward()
    with pytest.raises(FloatingPointError, match=r"the gradient is not finite, and the step was not"):
        policy.optimizer.step()
    assert all(torch.equal(one, other) for one, other in zip(before, policy.parameters(), strict=True))


def test_the_parameter_whose_gradient_is_not_finite_is_named(small_model, token_spaces):
    policy = make_policy(small_model, token_spaces)
    outcome(policy, sequences())
    policy.value_net.weight.grad[0, 3] = torch.nan
    with pytest.raises(FloatingPointError, match=r"the gradient of value_net\.weight is not finite"):
        policy.optimizer.step()


def test_an_update_that_is_no_number_names_its_context():
    agent = make("ppo", "rlhf/Sentiment-v0", n_envs=2, seed=0, device="cpu")
    policy, ids = agent.policy, torch.tensor([[74, 1502, 369]])
    obs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    with torch.no_grad():
        policy.value_net.bias.fill_(torch.nan)
    with pytest.raises(FloatingPointError, match='the value is nan in the update, after "i won\'t"'):
        policy.evaluate_actions(obs, torch.tensor([5]))


def test_a_loss_that_overflows_stops_ppo_and_leaves_the_weights_finite():
    agent = make("ppo", "rlhf/IncreasingNumbers-v0", n_envs=6, seed=0, vf_coef=float("inf"), device="cpu")
    with pytest.raises(FloatingPointError, match="lower learning_rate, ent_coef or vf_coef"):
        agent.learn(agent.n_steps * 6)
    assert all(torch.isfinite(p).all() for p in agent.policy.parameters())


def test_tokens_are_drawn_by_their_probabilities_and_never_at_probability_zero():
    logits = torch.tensor(
        [[0.0, -torch.inf, 1.0, 2.0, -torch.inf], [-torch.inf, -torch.inf, -torch.inf, 3.0, -torch.inf]]
    )
    n = 40_000
    distribution = token_distribution.TokenDistribution(5).proba_distribution(logits.repeat_interleave(n, dim=0))
    torch.manual_seed(0)
    counts = [torch.bincount(draws, minlength=5) / n for draws in distribution.sample().split(n)]
    for share, probabilities in zip(counts, logits.softmax(-1), strict=True):
        deviation = (probabilities * (1 - probabilities) / n).sqrt()
        assert ((share - probabilities).abs() <= 4 * deviation).all()
