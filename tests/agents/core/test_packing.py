"""Sequences that share rows: what is computed equals what padded sequences get, in every kind of model."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from stable_baselines3 import PPO

from agents import SequenceRolloutBuffer, TokenPolicy, make_vec_env
from agents.algorithms.common.q_policy import QPolicy
from agents.core import packing as packing_module
from agents.core.adversarial import hidden_at
from agents.core.packing import fill_rows, keeps_apart, pack

pytestmark = pytest.mark.filterwarnings("ignore:.*decodes without a KV cache", "ignore:.*runs its frozen blocks again")

LENGTH, VOCAB = 40, 50
SIZES = [17, 3, 1, 9, 12, 2, 5, 30]  # 79 tokens, 240 positions when padded; 30 is beyond all windows of the shapes
APART = {  # OPT hands its mask no positions, BLOOM reads none, and Mamba has a state
    *("gpt2", "llama", "gpt_neox", "qwen2", "qwen3", "gemma", "gemma2", "gemma3", "phi3", "smollm3", "granite"),
    *("cohere", "cohere2", "llama4", "mistral-sliding", "gemma3-sliding", "llama4-chunked", "gpt_neo-local"),
}


def sequences(vocab: int = VOCAB, sizes: list[int] = SIZES) -> dict[str, torch.Tensor]:
    """Return sequences of many lengths, each with an action after its last tokens."""
    generator = torch.Generator().manual_seed(0)
    ids, mask = torch.zeros(2, len(sizes), LENGTH, dtype=torch.long)
    for row, size in enumerate(sizes):
        ids[row, :size] = torch.randint(2, vocab, (size,), generator=generator)
        mask[row, :size] = 1
    places = [(row, column) for row, size in enumerate(sizes) for column in range(max(size - 4, 0), size)]
    rows, columns = torch.tensor(places).T
    return {"input_ids": ids, "attention_mask": mask, "rows": rows, "columns": columns}


def make_policy(token_spaces: Callable[..., Any], model: Any, vocab: int = VOCAB, **kwargs: Any) -> TokenPolicy:
    policy = TokenPolicy(*token_spaces(LENGTH, vocab), lambda _: 1e-3, model=model, **kwargs)
    torch.manual_seed(0)
    torch.nn.init.normal_(policy.value_net.weight)
    for name, parameter in policy.named_parameters():  # adapters begin as nothing
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.05)
    return policy


def outcome(policy: Any, obs: dict[str, torch.Tensor]) -> list[torch.Tensor]:
    """Return values, log-probabilities, entropies, the reference's and the gradients of a loss over the first three."""
    policy.zero_grad()
    actions = torch.arange(len(obs["rows"])) % VOCAB
    values, log_probs, entropies = policy.evaluate_actions(obs, actions)
    weights = torch.linspace(-1, 2, len(actions)) / len(actions)  # a mean, as the losses of updates are
    (values.flatten() @ weights + log_probs.exp() @ weights + 0.3 * (entropies**2) @ weights).backward()
    gradients = [p.grad.clone() for p in policy.parameters() if p.grad is not None]
    return [
        values.detach(),
        log_probs.detach(),
        entropies.detach(),
        policy.reference_log_prob(obs, actions),
        *gradients,
    ]


def rows_of_passes(policy: Any, obs: dict[str, torch.Tensor]) -> int:
    """Return how many rows the trunk is given."""
    seen: list[int] = []

    def look(module: Any, args: Any, kwargs: Any) -> None:
        seen.append(len(kwargs["input_ids"]))

    with policy._actor.module.register_forward_pre_hook(look, with_kwargs=True), torch.no_grad():
        policy.hidden(obs)
    return seen[0]


def check_packed_equals_padded(policy: Any, obs: dict[str, torch.Tensor]) -> None:
    assert policy._actor.packs
    assert rows_of_passes(policy, obs) < 0.9 * len(obs["input_ids"])
    packed = outcome(policy, obs)
    with policy.padded():
        assert rows_of_passes(policy, obs) == len(obs["input_ids"])
        padded = outcome(policy, obs)
    assert len(packed) == len(padded) > 5
    for one, other in zip(packed, padded, strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)


def test_every_token_has_a_place_of_its_own_and_its_position() -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        lengths = torch.from_numpy(rng.integers(1, 20, rng.integers(2, 30)))
        packing = pack(lengths, 25)
        if packing is None:
            continue
        padded = torch.arange(len(lengths) * 25).reshape(-1, 25)
        taken = packing.take(padded)
        assert taken.shape[1] >= lengths.max()
        assert taken.numel() <= 0.9 * len(lengths) * int(lengths.max())
        covered = torch.zeros_like(taken)
        for i, n in enumerate(lengths.tolist()):
            span = packing.rows[i], slice(int(packing.starts[i]), int(packing.starts[i]) + n)
            torch.testing.assert_close(taken[span], padded[i, :n])
            torch.testing.assert_close(packing.positions[span], torch.arange(n))
            covered[span] += 1
        assert covered.max() == 1
        for row, places in zip(covered, packing.positions, strict=True):
            left = int((row == 0).sum())
            assert row[len(row) - left :].sum() == 0, "what is left of a row is its end"
            torch.testing.assert_close(places[len(row) - left :], torch.arange(left) % lengths.max())
        assert packing.positions.max() < lengths.max(), "a model may have no position beyond the longest sequence"


def test_packing_that_saves_less_than_a_tenth_is_left() -> None:
    assert pack(torch.tensor([10, 10, 10, 10]), 12) is None, "what is beyond the longest one is cut anyway"
    assert pack(torch.tensor([9, 9, 9, 10]), 10) is None
    assert pack(torch.tensor([7]), 10) is None
    packing = pack(torch.tensor([10, 5, 5]), 10)
    assert packing is not None
    assert packing.positions.numel() == 20


@pytest.mark.parametrize("lengths", [[7], [10] * 64, [9] * 63 + [10]], ids=["one row", "equal", "nearly equal"])
def test_no_rows_are_tried_where_packing_cannot_pay(lengths: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[int] = []

    def counting(sizes: list[int], room: int) -> list[list[int]]:
        tried.append(room)
        return fill_rows(sizes, room)

    monkeypatch.setattr(packing_module, "fill_rows", counting)
    assert pack(torch.tensor(lengths), 12) is None
    assert tried == []
    assert pack(torch.tensor([10, 5, 5]), 12) is not None
    assert len(tried) > 1


def test_rows_are_filled_to_the_brim_where_it_can_be_done() -> None:
    assert sorted(map(sorted, fill_rows([6, 4, 7, 3, 10], 10))) == [[0, 1], [2, 3], [4]]


def test_packed_equals_padded_on_every_shape(
    any_shape: str, small_model: Callable[..., Any], token_spaces: Callable[..., Any]
) -> None:
    policy = make_policy(token_spaces, small_model(any_shape))
    assert policy._actor.packs == (any_shape in APART)
    if policy._actor.packs:
        check_packed_equals_padded(policy, sequences())
    else:
        assert rows_of_passes(policy, sequences()) == len(SIZES)


@pytest.mark.parametrize("shape", ["gpt2", "llama"])
@pytest.mark.parametrize(
    "kwargs",
    [
        dict(train="lora"),
        dict(train="lora", value="separate"),
        dict(train=1),
        dict(train="head"),
        dict(value="separate"),
        dict(attn_implementation="eager"),
        dict(train=2, gradient_checkpointing=True),
        dict(micro_batch_size=100),
    ],
    ids=str,
)
def test_packed_equals_padded_however_it_is_trained(
    shape: str, kwargs: dict[str, Any], small_model: Callable[..., Any], token_spaces: Callable[..., Any]
) -> None:
    policy, obs = make_policy(token_spaces, small_model(shape), **kwargs), sequences()
    check_packed_equals_padded(policy, obs)
    states = policy.trunk_states(obs)
    assert (states is not None) == (policy.train_part in (1, 2, "head"))
    if states is not None:
        packed = outcome(policy, obs | {"trunk_states": states})
        with policy.padded():
            padded = outcome(policy, obs | {"trunk_states": states})
        for one, other in zip(packed, padded, strict=True):
            torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("train", ["full", "lora", 2])
def test_packed_equals_padded_on_tiny(train: Any, token_spaces: Callable[..., Any]) -> None:
    from rlhf_envs.models import load_tokenizer

    vocab = len(load_tokenizer("tiny"))
    check_packed_equals_padded(make_policy(token_spaces, "tiny", vocab, train=train), sequences(vocab))


def test_padding_ids_at_the_edges_of_shared_rows_are_no_warning(
    small_model: Callable[..., Any], token_spaces: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    model = small_model("gpt2")
    model.config.pad_token_id = 5
    policy, obs = make_policy(token_spaces, model), sequences()
    obs["input_ids"] = torch.where(obs["attention_mask"] > 0, 5, obs["input_ids"])
    policy.hidden(obs)
    assert rows_of_passes(policy, obs) < len(obs["input_ids"])
    assert "attention_mask" not in caplog.text


def test_one_context_per_row_is_packed_too(small_model: Callable[..., Any], token_spaces: Callable[..., Any]) -> None:
    policy = make_policy(token_spaces, small_model("gpt2"))
    obs = {key: value for key, value in sequences().items() if key in ("input_ids", "attention_mask")}
    packed = policy.hidden(obs)  # with gradients, so not through the KV cache
    with policy.padded():
        torch.testing.assert_close(policy.hidden(obs), packed, atol=1e-5, rtol=1e-4)


def test_the_q_networks_pack(small_model: Callable[..., Any], token_spaces: Callable[..., Any]) -> None:
    policy: Any = QPolicy(*token_spaces(LENGTH), lambda _: 1e-3, model=small_model("llama"))
    torch.nn.init.normal_(policy.q_head.advantage.weight)
    policy.target_head.load_state_dict(policy.q_head.state_dict())
    obs, columns = sequences(), ("q_values", "target_q", "base_log_probs")
    with torch.no_grad():
        packed = [getattr(policy, name)(obs) for name in columns]
        policy._actor.packs = False
        padded = [getattr(policy, name)(obs) for name in columns]
    for one, other in zip(packed, padded, strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)


@pytest.mark.filterwarnings("ignore:.*torch.jit.script_method")  # torch's own, where it imports its compiler
def test_packing_can_be_switched_off_and_is_off_where_it_does_not_fit(
    small_model: Callable[..., Any], token_spaces: Callable[..., Any]
) -> None:
    for kwargs in (dict(packing=False), dict(compile=True)):
        policy = make_policy(token_spaces, small_model("gpt2"), **kwargs)
        assert not policy._actor.packs
    for packing in (None, False, True):
        policy = make_policy(token_spaces, small_model("gpt2"), packing=packing, bf16=True)
        assert policy._actor.packs == (packing is True)
    policy = make_policy(token_spaces, small_model("gpt2"), packing=False, value="separate")
    assert not policy._critic.packs
    model = small_model("gpt2")

    def run(ids: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        hidden: torch.Tensor = model.transformer(input_ids=ids, position_ids=positions, use_cache=False)[0]
        return hidden

    weight = model.transformer.wte.weight
    assert keeps_apart(run, model.config, weight)
    assert not keeps_apart(lambda ids, positions: run(ids, torch.arange(ids.shape[1])[None]), model.config, weight)
    config = copy.deepcopy(model.config)
    config._attn_implementation = "flash_attention_2"  # tells sequences apart in a single row only
    assert not keeps_apart(run, config, weight)


def test_a_change_of_the_input_stays_at_its_token(
    small_model: Callable[..., Any], token_spaces: Callable[..., Any]
) -> None:
    """A delta of adversarial training has the shape of padded contexts."""
    policy, obs = make_policy(token_spaces, small_model("gpt2")), sequences()
    delta = torch.zeros(len(SIZES), LENGTH, 32)
    delta[0, 2, 0] = 5.0
    moved = (hidden_at(policy, obs, delta) - hidden_at(policy, obs)).abs().amax(dim=1) > 1e-6
    torch.testing.assert_close(moved, obs["rows"] == 0)


@pytest.mark.parametrize("kwargs", [dict(train="full"), dict(train=1), dict(train="lora", bf16=True)], ids=str)
def test_the_first_ratio_of_an_update_is_1(kwargs: dict[str, Any]) -> None:
    """In bfloat16 a row that sequences share is rounded otherwise than their own rows, so none is shared."""
    rows = [{"prompt": "word " * n} for n in (1, 2, 3, 5, 8, 13, 21, 28)]
    rows = [{**row, "split": "train"} for row in rows]
    env = make_vec_env(
        "rlhf/Prompts-v0",
        16,
        data=rows,
        reward_fn=lambda completions, **_: [0.0] * len(completions),
        max_prompt_tokens=32,
        max_new_tokens=16,
        seed=0,
    )
    agent = PPO(
        TokenPolicy,
        env,
        n_steps=16,
        batch_size=256,
        n_epochs=1,
        rollout_buffer_class=SequenceRolloutBuffer,
        policy_kwargs=dict(model="tiny", **kwargs),
        seed=0,
    )
    agent.collect_rollouts(env, agent._setup_learn(256)[1], agent.rollout_buffer, 16)
    for samples in agent.rollout_buffer.get(256):
        shared = rows_of_passes(agent.policy, samples.observations) < len(samples.observations["input_ids"])
        assert shared != agent.policy.bf16
        log_probs = agent.policy.evaluate_actions(samples.observations, samples.actions)[1]
        assert (log_probs - samples.old_log_prob).exp().sub(1).abs().max() < 1e-4
