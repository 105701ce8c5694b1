"""The memory of a run, computed from shapes, is what a run takes."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

import agents
from agents.core.forward_pass import checkpointed, find_blocks, hidden_states
from agents.core.graph_decode import DecodingGraphs
from agents.training.memory import activation_bytes, cache_bytes, estimate_memory, state_bytes
from benchmarks import memory_estimate

ROWS, LENGTH = 3, 16
SHAPE: dict[str, Any] = dict(vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=4)


def build_model(**shape: Any) -> Any:
    torch.manual_seed(0)
    heads = dict(num_attention_heads=4, num_key_value_heads=2, tie_word_embeddings=True)
    return LlamaForCausalLM(LlamaConfig(**SHAPE | heads | shape)).eval()


def kept_in_a_real_pass(trunk: Any, bf16: bool, blocks: list[Any]) -> int:
    own = {p.untyped_storage().data_ptr() for p in (*trunk.parameters(), *trunk.buffers())}
    sizes: dict[int, tuple[int, torch.Tensor]] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            sizes[storage.data_ptr()] = storage.nbytes(), tensor
        return tensor

    ids, mask = torch.zeros(ROWS, LENGTH, dtype=torch.long), torch.ones(ROWS, LENGTH, dtype=torch.long)
    mask[0, -1] = 0  # else attention has a kernel without a mask
    count = torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor)
    with count, torch.autocast("cpu", torch.bfloat16, enabled=bf16), checkpointed(blocks):
        hidden_states(trunk, ids, mask)
    return sum(size for size, _ in sizes.values())


@pytest.mark.parametrize("bf16", [False, True])
@pytest.mark.parametrize("learns", ["all", "the last block"])
def test_activations_are_those_of_a_real_pass(bf16: bool, learns: str) -> None:
    trunk = build_model().base_model
    blocks = find_blocks(trunk, 4)
    if learns != "all":
        trunk.requires_grad_(False)
        blocks[-1].requires_grad_(True)
    real = kept_in_a_real_pass(trunk, bf16, [])
    assert activation_bytes(trunk, ROWS, LENGTH, bf16, checkpointing=False) == pytest.approx(real, rel=0.1)
    inputs = kept_in_a_real_pass(trunk, bf16, [*blocks])
    estimated = activation_bytes(trunk, ROWS, LENGTH, bf16, checkpointing=True)
    assert estimated == pytest.approx(inputs + real / 4, rel=0.1)


def test_nothing_is_kept_of_what_is_frozen_and_twice_as_much_of_twice_the_rows() -> None:
    trunk = build_model().base_model
    one, two = (activation_bytes(trunk, rows, LENGTH, False, False) for rows in (4, 8))
    assert two == pytest.approx(2 * one, rel=0.05)
    assert activation_bytes(trunk.requires_grad_(False), 4, LENGTH, False, False) == 0


def test_weights_of_a_model_on_the_meta_device_are_counted_once_each() -> None:
    with torch.device("meta"):
        model = build_model()
    weights = sum(p.numel() for p in model.parameters())  # the tied head has none of its own
    model.requires_grad_(False)
    model.model.norm.requires_grad_(True)
    assert state_bytes(model) == {"weights": 4 * weights, "reference": 0, "gradients": 4 * 32, "optimiser": 8 * 32}
    assert cache_bytes(model.config, 3, 5, 2) == 2 * 4 * (2 * 8) * 3 * 5 * 2  # keys and values, blocks, heads


class OnTheCPU:
    """Capture nothing: call the function again."""

    device_type = "cpu"

    def __init__(self, device: torch.device) -> None:
        pass

    def capture(self, function: Callable[[], None]) -> Callable[[], None]:
        function()
        return function


@pytest.mark.parametrize(
    ("policy", "graphs"),
    [
        ({"train": "lora", "lora": {"r": 2}}, False),
        ({"train": "lora", "lora": {"r": 2}}, True),
        ({"bf16": True}, True),
        ({"bf16": True}, False),
        ({"value": "separate", "bf16": True}, True),
        ({}, True),
    ],
)
def test_copies_of_weights_are_those_that_decoding_makes(policy: dict[str, Any], graphs: bool) -> None:
    pytest.importorskip("peft")
    agent = agents.make("ppo", "rlhf/IncreasingNumbers-v0", n_envs=2, n_steps=8, batch_size=16, device="cpu", **policy)
    trunks = {id(trunk): trunk for trunk in (agent.policy._actor, agent.policy._critic)}.values()
    for trunk in trunks:
        trunk.cache.graphs = DecodingGraphs(trunk.module, trunk.cache.adapted, OnTheCPU) if graphs else None
    estimated = estimate_memory(agent).get("copies of weights", 0)
    obs = agent.env.reset()
    for _ in range(7):
        with torch.no_grad():
            actions, _, _ = agent.policy(agent.policy.obs_to_tensor(obs)[0])
        obs = agent.env.step(np.full_like(actions.numpy(), 3))[0]
    found = 0
    for trunk in trunks:
        copies = trunk.cache.graphs._copies if graphs else trunk.cache._merged
        for forward in copies._forwards if copies is not None else ():
            weights = [t for t in forward.keywords.values() if t is not None]
            found += sum(t.nbytes for t in (weights if policy.get("bf16") else weights[:1]))  # biases are not copied
    assert estimated == found
    assert (found > 0) == (graphs if policy.get("bf16") else "lora" in policy)


def test_a_run_with_fewer_tokens_at_a_time_or_bfloat16_is_estimated_smaller() -> None:
    def estimate(**kwargs: Any) -> dict[str, int]:
        agent = agents.make("ppo", "rlhf/IncreasingNumbers-v0", n_envs=16, batch_size=160, seed=0, **kwargs)
        return estimate_memory(agent)

    whole = estimate()
    assert estimate(micro_batch_size=40)["activations"] < whole["activations"] / 3
    assert estimate(gradient_checkpointing=True)["activations"] < whole["activations"] * 0.8
    coarse = estimate(train="head", dtype="bfloat16")
    assert "activations" not in coarse and coarse["weights"] < whole["weights"]
    assert coarse["KV cache"] == whole["KV cache"] / 2
    assert coarse["stored hidden states"] > 0


@pytest.mark.slow
def test_the_estimate_of_a_model_of_a_billion_weights_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("peft")
    memory_estimate.main(["--small", "--rows", "1", "--length", "32"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1].startswith("| lora, dtype=bfloat16, checkpointing | ")
    assert len(lines) == 4 + len(memory_estimate.ROWS)


MEASURE = """
import resource, sys
import agents
from agents.training.memory import estimate_memory
from transformers import LlamaConfig, LlamaForCausalLM

options = eval(sys.argv[1])
agents.make("ppo", "rlhf/IncreasingNumbers-v0", n_envs=2, seed=0, device="cpu").learn(20)  # loads what is loaded late
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
shape = dict(vocab_size=32, hidden_size=512, intermediate_size=1536, num_hidden_layers=6, num_attention_heads=8)
model = LlamaForCausalLM(LlamaConfig(**shape, max_position_embeddings=64))
agent = agents.make("ppo", "rlhf/IncreasingNumbers-v0", n_envs=32, batch_size=320, n_epochs=1, seed=0, device="cpu",
    policy_kwargs=dict(model=model, **options))
estimate = sum(estimate_memory(agent).values())
agent.learn(320)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 / estimate)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss is in kB there")
@pytest.mark.parametrize("options", [dict(train="full"), dict(train="full", gradient_checkpointing=True)])
def test_a_run_takes_what_was_estimated_within_a_factor_of_one_and_a_half(options: dict[str, Any]) -> None:
    done = subprocess.run([sys.executable, "-c", MEASURE, repr(options)], capture_output=True, text=True, check=True)
    assert 1 / 1.5 < float(done.stdout.splitlines()[-1]) < 1.5, done.stdout
