"""Types of weights, and gradient checkpointing: less memory, the same policy and the same gradients."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM

import agents
from agents.core import precision
from agents.core.forward_pass import find_blocks
from agents.core.policy import TokenPolicy
from rlhf_envs.models.adapters import add_adapters

pytest.importorskip("peft")
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*decodes without a KV cache"),
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"),  # peft's
]

LENGTH = 20
PROMPTS = [[5, 6, 7, 8, 9], [2, 3], [9, 8, 7]]
SHAPES = ["gpt2", "llama", "gemma3"]  # LayerNorm and RMSNorm; fused, separate and scaled


def make_policy(model: Any, token_spaces: Any, **kwargs: Any) -> TokenPolicy:
    kwargs = {"train": "lora", "lora": dict(r=2)} | kwargs if kwargs.get("train", "lora") == "lora" else kwargs
    return TokenPolicy(*token_spaces(LENGTH), lambda _: 1e-2, model=model, **kwargs)


def roll_out(policy: TokenPolicy, steps: int = 4) -> tuple[dict[str, torch.Tensor], torch.Tensor, torch.Tensor]:
    """Write a few tokens, the first row with a reply in between; return what a rollout buffer does.

    That is the sequences, the actions and their log-probabilities.
    """
    ids, mask = torch.zeros(2, len(PROMPTS), LENGTH, dtype=torch.long)
    for row, prompt in enumerate(PROMPTS):
        ids[row, : len(prompt)], mask[row, : len(prompt)] = torch.tensor(prompt), 1
    rows, log_probs, actions, columns = torch.arange(len(PROMPTS)), [], [], []
    torch.manual_seed(0)
    with torch.no_grad():
        for step in range(steps):
            taken, _, log_prob = policy({"input_ids": ids, "attention_mask": mask})
            columns.append(mask.sum(dim=1) - 1)
            ids[rows, columns[-1] + 1], mask[rows, columns[-1] + 1] = taken, 1
            if step == 1:
                ids[0, mask[0].sum() : mask[0].sum() + 3] = torch.tensor([4, 3, 4])
                mask[0, : mask[0].sum() + 3] = 1
            actions.append(taken)
            log_probs.append(log_prob)
    sequences = {"input_ids": ids, "attention_mask": mask, "rows": rows.repeat(steps), "columns": torch.cat(columns)}
    return sequences, torch.cat(actions), torch.cat(log_probs)


def gradients(policy: TokenPolicy, obs: dict[str, torch.Tensor], actions: torch.Tensor) -> list[torch.Tensor]:
    policy.zero_grad()
    values, log_probs, entropies = policy.evaluate_actions(obs, actions)
    (log_probs.exp().sum() + values.square().sum() + 0.3 * entropies.square().sum()).backward()
    return [p.grad for p in policy.parameters() if p.grad is not None]


def types(policy: TokenPolicy, chosen: Callable[[nn.Parameter], bool]) -> set[torch.dtype]:
    return {p.dtype for p in policy.parameters() if chosen(p)}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("train", ["lora", 1])
def test_frozen_blocks_are_bfloat16_and_what_learns_is_float32(shape, train, small_model, token_spaces):
    policy = make_policy(small_model(shape), token_spaces, train=train, dtype="bfloat16")
    base = policy.language_model.model
    ends = (base.get_input_embeddings().weight, base.get_output_embeddings().weight)
    assert types(policy, lambda p: p.requires_grad) == {torch.float32}
    frozen = types(policy, lambda p: not p.requires_grad and p.dim() > 1 and all(p is not end for end in ends))
    assert frozen == {torch.bfloat16}
    obs, actions, old = roll_out(policy)
    assert gradients(policy, obs, actions)
    policy.optimizer.step()
    moments = [value for state in policy.optimizer.state.values() for value in state.values() if value.dim()]
    assert moments and all(value.dtype == torch.float32 for value in moments)
    assert old.dtype == torch.float32


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("kwargs", [dict(dtype="bfloat16"), dict(dtype="bfloat16", train=1), dict(bf16=True)])
def test_the_first_ratio_is_1_within_the_precision(shape, kwargs, small_model, token_spaces):
    policy = make_policy(small_model(shape), token_spaces, **kwargs)
    obs, actions, old = roll_out(policy)
    with torch.no_grad():
        new = policy.evaluate_actions(obs, actions)[1]
    torch.testing.assert_close((new - old).exp(), torch.ones(len(old)), atol=2e-2, rtol=0)


@pytest.mark.parametrize(
    ("algo", "options"),
    [("ppo", dict(bf16=True, batch_size=48)), ("grpo", dict(dtype="bfloat16", train=1, group_size=2))],
)
def test_in_bfloat16_old_log_probs_are_those_of_an_update_whatever_its_minibatches(algo, options, monkeypatch):
    """So what decoding found is replaced, and the difference logged: decoding is 0.5 nats off here."""
    env = agents.make_vec_env("rlhf/Sentiment-v0", 4, seed=0, group_size=options.get("group_size", 1))
    agent = agents.make(algo, env, seed=0, device="cpu", n_steps=12, **options)
    forward = agent.policy.forward

    def off(*args: Any, **kwargs: Any) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        actions, values, log_probs = forward(*args, **kwargs)
        return actions, values, log_probs - 0.5

    monkeypatch.setattr(agent.policy, "forward", off)
    callback = agent._setup_learn(48, None)[1]
    callback.on_training_start({}, {})
    agent.collect_rollouts(agent.env, callback, agent.rollout_buffer, 12)
    assert agent.rollout_buffer.stats["sampling_logp_difference"] == pytest.approx(0.5, abs=2e-2)
    for samples in agent.rollout_buffer.get(12):
        with torch.no_grad():
            new = agent.policy.evaluate_actions(samples.observations, samples.actions)[1]
        torch.testing.assert_close(new, samples.old_log_prob, atol=2e-2, rtol=0)


@pytest.mark.parametrize("kwargs", [dict(dtype="bfloat16"), dict(bf16=True)])
def test_a_cache_in_bfloat16_decodes_where_keys_are_float32(kwargs, small_model, token_spaces):
    policy = make_policy(small_model("llama"), token_spaces, **kwargs)
    roll_out(policy)
    assert policy._actor.cache.enabled
    assert policy._actor.cache._layers[0].keys.dtype == torch.bfloat16


def test_bfloat16_agrees_with_float32(small_model, token_spaces):
    coarse = make_policy(small_model("llama"), token_spaces, dtype="bfloat16")
    exact = make_policy(small_model("llama"), token_spaces)
    obs, actions, old = roll_out(exact)
    with torch.no_grad():
        new = coarse.evaluate_actions(obs, actions)[1]
        reference = coarse.reference_log_prob(obs, actions)
    torch.testing.assert_close(new, old, atol=5e-2, rtol=0)
    assert not torch.equal(new, old)
    torch.testing.assert_close(reference, new, atol=2e-2, rtol=0)  # the adapters' first output is 0


def test_adapters_on_a_bfloat16_model_are_float32(small_model):
    model = small_model("llama").to(torch.bfloat16)
    add_adapters(model, dict(r=2))
    assert {p.dtype for p in model.parameters() if p.requires_grad} == {torch.float32}


def test_a_given_bfloat16_model_keeps_its_frozen_weights_if_asked(small_model, token_spaces, caplog):
    model = small_model("llama").to(torch.bfloat16)
    policy = make_policy(model, token_spaces, dtype="bfloat16")
    assert not caplog.records
    assert torch.bfloat16 in types(policy, lambda p: not p.requires_grad)
    make_policy(small_model("llama").to(torch.bfloat16), token_spaces)
    assert "they are turned into float32" in caplog.text


@pytest.mark.parametrize("train", ["lora", 1])
def test_what_is_saved_is_float32_and_has_the_policys_logits(train, small_model, token_spaces, tmp_path):
    policy = make_policy(small_model("llama"), token_spaces, train=train, dtype="bfloat16")
    with torch.no_grad():
        for parameter in policy.language_model.trained_parameters().values():
            parameter.add_(torch.randn_like(parameter) * 0.02)
    obs, actions, old = roll_out(policy)
    policy.save_pretrained(tmp_path, merge=True)
    model = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    with torch.no_grad():
        logits = model(input_ids=obs["input_ids"], attention_mask=obs["attention_mask"]).logits
    log_probs = logits[obs["rows"], obs["columns"]].log_softmax(-1).gather(1, actions[:, None]).squeeze(1)
    torch.testing.assert_close(log_probs, old, atol=5e-2, rtol=0)


def test_attention_is_computed_as_asked(small_model, token_spaces):
    policy = make_policy(small_model("llama"), token_spaces, attn_implementation="eager")
    assert policy.language_model.model.config._attn_implementation == "eager"


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        (dict(dtype="float16"), "dtype='float16': its numbers end at 65,504"),
        (dict(dtype="float8_e4m3fn"), "dtype='float8_e4m3fn': expected 'float32' or 'bfloat16'"),
        (dict(dtype="bfloat16", train="full"), "dtype='bfloat16' with train='full': all weights learn"),
        (dict(attn_implementation="evil/kernel"), "attn_implementation='evil/kernel': expected one of eager, sdpa"),
        (dict(attn_implementation="flash_attention_2"), "attn_implementation='flash_attention_2': "),
        (dict(train="full", compile=True, gradient_checkpointing=True), "compile=True with gradient_checkpointing"),
    ],
)
def test_types_and_attention_that_do_not_fit_are_refused(kwargs, message, small_model, token_spaces):
    with pytest.raises(ValueError, match=message):
        make_policy(small_model("llama"), token_spaces, **kwargs)


def test_a_device_without_bfloat16_is_refused_by_name(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: False)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Tesla T4")
    precision.check_device(torch.device("cpu"))
    with pytest.raises(ValueError, match="Tesla T4 does not compute in bfloat16"):
        precision.check_device(torch.device("cuda"))


@pytest.mark.parametrize(
    ("shape", "kwargs"),
    [
        ("gpt2", dict(train="full")),
        ("llama", dict(train=1)),
        ("gpt2", dict(train="lora")),
        ("llama", dict(train="lora", dtype="bfloat16")),
        ("llama", dict(train="full", value="separate", micro_batch_size=10)),
    ],
)
def test_checkpointing_keeps_less_and_has_the_same_gradients(shape, kwargs, small_model, token_spaces):
    results = {}
    for on in (False, True):
        torch.manual_seed(0)  # of the adapters
        policy = make_policy(small_model(shape), token_spaces, gradient_checkpointing=on, **kwargs)
        obs, actions, old = roll_out(policy)
        sizes: list[int] = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t, sizes=sizes: sizes.append(t.numel()) or t, lambda t: t):
            policy.evaluate_actions(obs, actions)
        results[on] = old, gradients(policy, obs, actions), sum(sizes)
    torch.testing.assert_close(results[True][0], results[False][0], atol=0, rtol=0)  # rollouts are as without
    assert len(results[True][1]) > 1
    for one, other in zip(results[True][1], results[False][1], strict=True):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-6)
    if "micro_batch_size" not in kwargs:
        assert results[True][2] < 0.8 * results[False][2]


def test_checkpointing_leaves_dropout_off_and_the_blocks_as_they_were(small_model, token_spaces):
    policy = make_policy(small_model("opt"), token_spaces, train="full", gradient_checkpointing=True)
    assert policy.language_model.config.dropout > 0
    blocks = find_blocks(policy.language_model.model, policy.language_model.config.num_hidden_layers)
    obs, actions, old = roll_out(policy)
    policy.set_training_mode(True)
    new = policy.evaluate_actions(obs, actions)[1]
    new.sum().backward()
    torch.testing.assert_close(new, old, atol=1e-5, rtol=1e-5)
    assert not any("forward" in vars(block) for block in blocks)


def test_trpo_differentiates_checkpointed_blocks_twice():
    settings = dict(n_envs=4, n_steps=5, batch_size=20, seed=0, device="cpu")
    one, other = (
        agents.make("trpo", "rlhf/IncreasingNumbers-v0", gradient_checkpointing=on, **settings).learn(20)
        for on in (False, True)
    )
    for a, b in zip(one.policy.parameters(), other.policy.parameters(), strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)
