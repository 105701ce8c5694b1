"""`TokenPolicy`: what is sampled is what is stored is what is trained."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from gymnasium import spaces
from transformers import Phi3Config, Phi3ForCausalLM

from agents import make
from agents.core import models
from agents.core.policy import TokenPolicy

pytestmark = pytest.mark.filterwarnings("ignore:.*decodes without a KV cache")

LENGTH = 20
CONTEXTS = [[5, 6, 7], [8, 9], [3, 4, 5, 6, 7, 8], [2]]


def make_policy(small_model, token_spaces, shape="gpt2", **kwargs) -> TokenPolicy:
    return TokenPolicy(*token_spaces(LENGTH), lambda _: 1e-3, model=small_model(shape), **kwargs)


def observation(contexts=CONTEXTS, length=LENGTH, pad=0, dtype=torch.long) -> dict[str, torch.Tensor]:
    ids = torch.full((len(contexts), length), pad)
    mask = torch.zeros_like(ids)
    for i, context in enumerate(contexts):
        ids[i, : len(context)] = torch.tensor(context)
        mask[i, : len(context)] = 1
    return {"input_ids": ids.to(dtype), "attention_mask": mask.to(dtype)}


def sequences(contexts, n_actions) -> dict[str, torch.Tensor]:
    """Every context as a sequence whose last `n_actions` tokens are actions."""
    rows = torch.arange(len(contexts)).repeat_interleave(n_actions)
    columns = torch.cat([torch.arange(len(c) - 1 - n_actions, len(c) - 1) for c in contexts])
    return observation(contexts) | {"rows": rows, "columns": columns}


def check_rollout_against_update(policy):
    torch.nn.init.normal_(policy.value_net.weight)
    contexts = [list(c) for c in CONTEXTS]
    for step in range(6):
        with torch.no_grad():
            actions, values, log_probs = policy(observation(contexts))
            again = policy.evaluate_actions(observation(contexts), actions)
        torch.testing.assert_close(again[0], values, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(again[1], log_probs, atol=1e-5, rtol=1e-4)
        contexts = [[*c, int(a)] for c, a in zip(contexts, actions, strict=True)]
        if step == 2:  # some rows are replied to, and two begin the same episode
            contexts[0] += [9, 9, 8]
            contexts[2] += [7, 6]
            contexts[1] = contexts[3] = [4, 4, 5]


def test_rollout_and_update_agree_on_every_shape(any_shape, small_model, token_spaces):
    check_rollout_against_update(make_policy(small_model, token_spaces, any_shape))


@pytest.mark.parametrize(
    "settings", [{}, {"temperature": 0.7}, {"top_k": 5}, {"top_p": 0.6}, {"top_k": 9, "top_p": 0.8}]
)
@pytest.mark.parametrize("value", ["shared", "separate"])
def test_rollout_and_update_agree_under_every_setting(small_model, token_spaces, settings, value):
    check_rollout_against_update(make_policy(small_model, token_spaces, value=value, **settings))


def test_a_separate_critic_learns_and_agrees_after_an_update(small_model, token_spaces):
    policy = make_policy(small_model, token_spaces, value="separate", train=2)
    torch.nn.init.normal_(policy.value_net.weight)
    before = [p.detach().clone() for p in policy.value_trunk.parameters()]
    values, log_probs, _ = policy.evaluate_actions(observation(), torch.tensor([1, 2, 3, 4]))
    (values.sum() + log_probs.sum()).backward()
    policy.optimizer.step()
    after = list(policy.value_trunk.parameters())
    moved = [not torch.equal(old, new) for old, new in zip(before, after, strict=True)]
    assert moved == [p.requires_grad for p in after]
    assert any(moved)
    check_rollout_against_update(policy)


def test_a_separate_critic_that_cannot_learn_is_refused(small_model, token_spaces):
    with pytest.raises(ValueError, match="computes the same as the first"):
        make_policy(small_model, token_spaces, value="separate", train="head")


@pytest.mark.parametrize("shape", ["gpt2", "llama", "gemma3"])
def test_bfloat16_models_agree_within_their_precision(small_model, token_spaces, shape):
    model = small_model(shape).to(torch.bfloat16)
    policy = TokenPolicy(*token_spaces(LENGTH), lambda _: 1e-3, model=model)
    with torch.no_grad():
        actions, values, log_probs = policy(observation())
        again = policy.evaluate_actions(observation(), actions)
    assert values.dtype == log_probs.dtype == torch.float32
    torch.testing.assert_close(again[1], log_probs, atol=0.05, rtol=0.05)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_coarse_model_that_learns_is_turned_into_float32_and_the_log_says_so(
    small_model, token_spaces, dtype, caplog
):
    model = small_model("llama").to(dtype)
    TokenPolicy(*token_spaces(LENGTH), lambda _: 0.0, model=model)
    assert model.dtype == dtype, "a policy that is only evaluated leaves the model alone"
    assert "float32" not in caplog.text
    policy = TokenPolicy(*token_spaces(LENGTH), lambda _: 1e-5, model=model)
    assert {p.dtype for p in policy.parameters()} == {torch.float32}
    assert f"weights of the given LlamaForCausalLM are {str(dtype)[6:]}, in which small updates are lost" in caplog.text
    before = policy.language_model.model.lm_head.weight.detach().clone()
    policy.language_model.model.lm_head.weight.grad = torch.ones_like(before)
    policy.optimizer.step()
    assert (policy.language_model.model.lm_head.weight != before).all()


@pytest.mark.parametrize(("original", "warns"), [(LENGTH - 1, True), (LENGTH, False)])
def test_contexts_beyond_the_short_factors_of_long_rope_are_warned_of(token_spaces, original, warns):
    rope = dict(rope_type="longrope", short_factor=[1.0] * 2, long_factor=[4.0] * 2, rope_theta=1e4)
    sizes = dict(hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=4, vocab_size=50)
    config = Phi3Config(
        **sizes,
        original_max_position_embeddings=original,
        max_position_embeddings=64,
        rope_parameters=rope | {"original_max_position_embeddings": original, "partial_rotary_factor": 1.0},
        pad_token_id=0,
    )
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        TokenPolicy(*token_spaces(LENGTH), lambda _: 1e-3, model=Phi3ForCausalLM(config))
    told = [
        str(warning.message) for warning in caught if "long RoPE takes other factors beyond" in str(warning.message)
    ]
    assert bool(told) is warns


def test_a_padded_embedding_never_shows(small_model, token_spaces):
    """The model has 50 rows, the tokenizer 46 tokens: the rest is no action, in rollout, update and reference."""
    policy = TokenPolicy(*token_spaces(LENGTH, vocab=46), lambda _: 1e-3, model=small_model("gpt2"))
    with torch.no_grad():
        actions, _, log_probs = policy(observation([[5, 6, 7]] * 300))
        logits = policy.language_model.model(input_ids=torch.tensor([[5, 6, 7]])).logits[0, -1, :46]
        torch.testing.assert_close(log_probs, logits.log_softmax(-1)[actions], atol=1e-5, rtol=1e-4)
        obs = sequences([[5, 6, 7, 8]], 1)
        reference = policy.reference_log_prob(obs, torch.tensor([8]))
        torch.testing.assert_close(reference, policy.evaluate_actions(obs, torch.tensor([8]))[1])


def test_a_distribution_with_gradients_reaches_the_whole_model(small_model, token_spaces):
    """As sb3-contrib's TRPO asks for it."""
    policy = make_policy(small_model, token_spaces)
    actions = torch.tensor([1, 2, 3, 4])
    policy.get_distribution(observation()).log_prob(actions).sum().backward()
    one = {n: p.grad.clone() for n, p in policy.language_model.named_parameters()}
    policy.zero_grad()
    policy.evaluate_actions(observation(), actions)[1].sum().backward()
    for name, parameter in policy.language_model.named_parameters():
        torch.testing.assert_close(one[name], parameter.grad, atol=1e-5, rtol=1e-4)


def test_sequences_equal_one_row_a_token(small_model, token_spaces):
    policy = make_policy(small_model, token_spaces)
    torch.nn.init.normal_(policy.value_net.weight)
    contexts = [[5, 6, 7, 8, 9], [2, 3, 4, 5, 6, 7, 8], [9, 8, 7, 6]]
    packed = sequences(contexts, 3)
    rows = [(c[: k + 1], c[k + 1]) for c in contexts for k in range(len(c) - 4, len(c) - 1)]
    actions = torch.tensor([action for _, action in rows])
    flat = policy.evaluate_actions(observation([context for context, _ in rows]), actions)
    whole = policy.evaluate_actions(packed, actions)
    for one, other in zip(flat, whole, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)


def test_log_probs_are_those_of_a_categorical_over_the_models_logits(small_model, token_spaces):
    policy = make_policy(small_model, token_spaces, temperature=0.5)
    with torch.no_grad():
        actions, _, log_probs = policy(observation())
        for context, action, log_prob in zip(CONTEXTS, actions, log_probs, strict=True):
            logits = policy.language_model.model(input_ids=torch.tensor([context])).logits[0, -1] / 0.5
            expected = torch.distributions.Categorical(logits=logits)
            torch.testing.assert_close(log_prob, expected.log_prob(action), atol=1e-5, rtol=1e-4)
            entropy = policy.evaluate_actions(observation([context]), action)[2]
            torch.testing.assert_close(entropy[0], expected.entropy(), atol=1e-5, rtol=1e-4)


def test_padding_never_matters_to_log_probs_values_or_gradients(any_shape, small_model, token_spaces):
    policy = make_policy(small_model, token_spaces, any_shape)
    torch.nn.init.normal_(policy.value_net.weight)
    results = []
    for contexts, length, pad in (([[4, 5, 6, 7]], 4, 0), ([[4, 5, 6, 7], list(range(3, 19))], LENGTH, 33)):
        obs = observation(contexts, length, pad) | {"rows": torch.tensor([0, 0]), "columns": torch.tensor([1, 2])}
        values, log_probs, entropy = policy.evaluate_actions(obs, torch.tensor([6, 7]))
        policy.zero_grad()
        (values.sum() + log_probs.sum() + entropy.sum()).backward()
        gradients = torch.cat([p.grad.flatten() for p in policy.parameters() if p.grad is not None])
        results.append((values.detach(), log_probs.detach(), gradients))
    for alone, padded in zip(*results, strict=True):
        torch.testing.assert_close(alone, padded, atol=2e-5, rtol=1e-4)


def test_top_k_and_top_p_never_sample_outside_their_sets(small_model, token_spaces):
    policy = make_policy(small_model, token_spaces, top_k=3, top_p=0.5)
    many = observation([[5, 6, 7]] * 400)
    with torch.no_grad():
        probabilities = policy.language_model.model(input_ids=torch.tensor([[5, 6, 7]])).logits[0, -1].softmax(-1)
        top = probabilities.topk(3)
        renormalised = (top.values / top.values.sum()).tolist()
        nucleus = 1 + sum(sum(renormalised[: i + 1]) < 0.5 for i in range(3))
        assert set(policy(many)[0].tolist()) == set(top.indices[:nucleus].tolist())


@pytest.mark.parametrize("top_p", [0.05, 0.3, 0.9])
def test_the_nucleus_is_the_smallest_set_of_at_least_p(small_model, token_spaces, top_p):
    policy = make_policy(small_model, token_spaces, top_p=top_p)
    with torch.no_grad():
        kept = torch.isfinite(policy.get_distribution(observation()).distribution.logits)
        for row, context in zip(kept, CONTEXTS, strict=True):
            ordered = policy.language_model.model(input_ids=torch.tensor([context])).logits[0, -1].softmax(-1).sort()
            from_the_top, mass = ordered.values.flip(0).tolist(), 0.0
            smallest = next(n for n, p in enumerate(from_the_top, 1) if (mass := mass + p) >= top_p)
            assert set(row.nonzero().flatten().tolist()) == set(ordered.indices.flip(0)[:smallest].tolist())


def test_an_action_outside_the_new_nucleus_keeps_a_finite_log_prob_and_gradient(small_model, token_spaces):
    policy = make_policy(small_model, token_spaces, top_k=2)
    with torch.no_grad():
        worst = policy.language_model.model(input_ids=torch.tensor([[5, 6]])).logits[0, -1].argmin()
    _, log_prob, entropy = policy.evaluate_actions(observation([[5, 6]]), worst[None])
    (log_prob + entropy).sum().backward()
    assert torch.isfinite(log_prob).all()
    assert all(torch.isfinite(p.grad).all() for p in policy.parameters() if p.grad is not None)


def test_dropout_is_off_even_when_sb3_turns_training_on(token_spaces):
    from transformers import GPT2Config, GPT2LMHeadModel

    model = GPT2LMHeadModel(GPT2Config(vocab_size=50, n_positions=64, n_layer=2, n_embd=32, n_head=4, resid_pdrop=0.5))
    policy = TokenPolicy(*token_spaces(LENGTH), lambda _: 1e-3, model=model)
    policy.set_training_mode(True)
    actions = torch.tensor([1, 2, 3, 4])
    first, second = (policy.evaluate_actions(observation(), actions)[1] for _ in range(2))
    assert torch.equal(first, second)


def test_the_value_head_starts_at_zero(small_model, token_spaces):
    assert torch.equal(make_policy(small_model, token_spaces).predict_values(observation()), torch.zeros(4, 1))


def test_adam_has_epsilon_1e_5_and_only_what_learns(small_model, token_spaces):
    policy = make_policy(small_model, token_spaces, train=1)
    (group,) = policy.optimizer.param_groups
    assert group["eps"] == 1e-5
    assert {id(p) for p in group["params"]} == {id(p) for p in policy.parameters() if p.requires_grad}
    (group,) = make_policy(small_model, token_spaces, optimizer_kwargs={"eps": 1e-8}).optimizer.param_groups
    assert (group["eps"], group["fused"]) == (1e-8, True)
    (group,) = make_policy(small_model, token_spaces, optimizer_kwargs={"foreach": True}).optimizer.param_groups
    assert (group["eps"], group["fused"], group["foreach"]) == (1e-5, False, True)


@pytest.mark.parametrize("train", ["full", 1, "head"])
def test_the_reference_stays_the_starting_model(small_model, token_spaces, train):
    policy = make_policy(small_model, token_spaces, train=train)
    obs, actions = sequences([[5, 6, 7, 8, 9], [2, 3, 4, 5, 6, 7, 8]], 3), torch.tensor([7, 8, 9, 6, 7, 8])
    before = policy.evaluate_actions(obs, actions)[1].detach()
    torch.testing.assert_close(policy.reference_log_prob(obs, actions), before, atol=1e-6, rtol=1e-5)
    policy.evaluate_actions(obs, actions)[1].sum().backward()
    policy.optimizer.step()
    after = policy.evaluate_actions(obs, actions)[1].detach()
    assert not torch.allclose(after, before, atol=1e-3)
    torch.testing.assert_close(policy.reference_log_prob(obs, actions), before, atol=1e-6, rtol=1e-5)


def test_the_reference_costs_only_what_learns(small_model, token_spaces):
    policy = make_policy(small_model, token_spaces, train=1)
    learning = sum(p.numel() for p in policy.language_model.parameters() if p.requires_grad)
    assert sum(b.numel() for b in policy.reference.buffers()) == learning


@pytest.mark.parametrize("train", [1, "head"])
def test_frozen_parameters_do_not_move(small_model, token_spaces, train):
    policy = make_policy(small_model, token_spaces, train=train)
    frozen = {n: p.detach().clone() for n, p in policy.named_parameters() if not p.requires_grad}
    assert frozen
    values, log_probs, entropy = policy.evaluate_actions(observation(), torch.tensor([1, 2, 3, 4]))
    (values.sum() + log_probs.sum() + entropy.sum()).backward()
    policy.optimizer.step()
    assert all(torch.equal(p, frozen[n]) for n, p in policy.named_parameters() if n in frozen)


def test_observations_may_come_as_float32(small_model, token_spaces):
    policy = make_policy(small_model, token_spaces)
    actions = torch.tensor([1, 2, 3, 4])
    as_float = policy.evaluate_actions(observation(dtype=torch.float32), actions)
    for one, other in zip(policy.evaluate_actions(observation(), actions), as_float, strict=True):
        assert torch.equal(one, other)


def test_predict_deterministic_is_the_argmax(small_model, token_spaces):
    policy = make_policy(small_model, token_spaces)
    obs = {key: array.numpy() for key, array in observation().items()}
    actions, _ = policy.predict(obs, deterministic=True)
    with torch.no_grad():
        expected = [
            int(policy.language_model.model(input_ids=torch.tensor([c])).logits[0, -1].argmax()) for c in CONTEXTS
        ]
    assert actions.tolist() == expected
    single, _ = policy.predict({key: array[0] for key, array in obs.items()}, deterministic=True)
    assert single == expected[0]


def test_save_pretrained_writes_a_plain_model(any_shape, small_model, token_spaces, tmp_path):
    from transformers import AutoModelForCausalLM

    policy = make_policy(small_model, token_spaces, any_shape, train=1)
    policy.evaluate_actions(observation(), torch.tensor([1, 2, 3, 4]))[1].sum().backward()
    policy.optimizer.step()
    policy.save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    ids = torch.tensor([[5, 6, 7, 8]])
    with torch.no_grad():
        expected = policy.language_model.model(input_ids=ids, use_cache=False).logits
        torch.testing.assert_close(loaded(input_ids=ids, use_cache=False).logits, expected, atol=1e-5, rtol=1e-4)


def test_a_policy_saves_and_loads(small_model, token_spaces, tmp_path):
    policy = make_policy(small_model, token_spaces, temperature=0.8, train=2)
    policy.save(str(tmp_path / "policy.pt"))
    loaded = TokenPolicy.load(str(tmp_path / "policy.pt"), device="cpu")
    actions = torch.tensor([1, 2, 3, 4])
    for one, other in zip(
        policy.evaluate_actions(observation(), actions), loaded.evaluate_actions(observation(), actions), strict=True
    ):
        assert torch.equal(one, other)


def test_without_a_model_a_fresh_one_is_built_and_said_once(token_spaces, caplog):
    models._announce_fresh.cache_clear()
    policies = [TokenPolicy(*token_spaces(LENGTH), lambda _: 1e-3) for _ in range(2)]
    assert [policy.language_model.vocab_size for policy in policies] == [50, 50]
    assert caplog.text.count("a small fresh one for 50 actions") == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"value": "none"}, "expected 'shared' or 'separate'"),
        ({"temperature": 0.0}, "temperature=0.0: expected a number above 0"),
        ({"top_k": 0}, "top_k=0: expected at least 1"),
        ({"top_p": 1.5}, r"top_p=1.5: expected a number in \(0, 1\]"),
        ({"use_sde": True}, "tokens are discrete"),
    ],
)
def test_bad_arguments_are_clear_errors(token_spaces, arguments, message):
    with pytest.raises(ValueError, match=message):
        TokenPolicy(*token_spaces(LENGTH), lambda _: 1e-3, **arguments)


def test_spaces_that_do_not_fit_are_clear_errors(small_model, token_spaces):
    with pytest.raises(ValueError, match="TokenPolicy needs a token environment"):
        TokenPolicy(spaces.Box(0, 1, (3,), np.float32), spaces.Discrete(3), lambda _: 1e-3)
    stacked = spaces.Dict({name: spaces.Box(0, 3, (2, 4), np.int64) for name in ("input_ids", "attention_mask")})
    with pytest.raises(ValueError, match="TokenPolicy needs a token environment"):
        TokenPolicy(stacked, spaces.Discrete(3), lambda _: 1e-3)
    with pytest.raises(ValueError, match=r"has 60 tokens and the model .* has 50"):
        TokenPolicy(*token_spaces(LENGTH, vocab=60), lambda _: 1e-3, model=small_model("gpt2"))
    with pytest.raises(ValueError, match=r"has 8 tokens and the model .* has 50"):
        TokenPolicy(*token_spaces(LENGTH, vocab=8), lambda _: 1e-3, model=small_model("gpt2"))
    with pytest.raises(ValueError, match="contexts reach 100 tokens and the model has 64 positions"):
        TokenPolicy(*token_spaces(100), lambda _: 1e-3, model=small_model("gpt2"))


def test_observations_that_no_policy_reads_are_refused_by_name(token_spaces):
    observations, actions = token_spaces(LENGTH)
    with_sounds = spaces.Dict({**observations.spaces, "audio_values": spaces.Box(0, 1, (8,), np.float32)})
    with pytest.raises(ValueError, match="observations have audio_values, which this policy does not read: leave it"):
        TokenPolicy(with_sounds, actions, lambda _: 1e-3)


@pytest.mark.parametrize("algorithm", ["ppo", "dqn"])
def test_at_start_is_the_reference_and_gives_the_learned_weights_back(algorithm):
    agent = make(algorithm, "rlhf/IncreasingNumbers-v0", n_envs=4, seed=0, learning_rate=1e-2, device="cpu")
    policy, before = agent.policy, [p.detach().clone() for p in agent.policy.parameters()]
    for parameter, _ in policy.start_parameters().values():
        parameter.data += 0.1 * torch.randn_like(parameter)
    learned = [p.detach().clone() for p in policy.parameters()]
    with policy.at_start():
        assert all(torch.equal(one, other) for one, other in zip(before, policy.parameters(), strict=True))
    assert all(torch.equal(one, other) for one, other in zip(learned, policy.parameters(), strict=True))
    assert not all(torch.equal(one, other) for one, other in zip(before, learned, strict=True))


@pytest.mark.parametrize("algorithm", ["ppo", "nlpo", "qrdqn", "ilql"])
def test_sb3s_own_save_and_load_keep_the_arguments_and_the_weights(algorithm, tmp_path):
    agent = make(algorithm, "rlhf/TokenBandit-v0", n_envs=2, seed=0, top_k=7, temperature=0.7, device="cpu")
    agent.policy.save(tmp_path / "policy.pt")
    loaded = type(agent.policy).load(tmp_path / "policy.pt", device="cpu")
    assert (loaded.top_k, loaded.temperature) == (7, 0.7)
    saved = agent.policy.state_dict()
    assert all(torch.equal(value.nan_to_num(), saved[name].nan_to_num()) for name, value in loaded.state_dict().items())
