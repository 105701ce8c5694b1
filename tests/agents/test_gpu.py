"""The same on any device: what CUDA computes is what the CPU computes. Only the device differs in these tests."""

from __future__ import annotations

import copy
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import agents
from agents import TokenPolicy
from agents.core.random_state import get_generators, isolated_generators, set_generators
from benchmarks.gpu.checks import AtRolloutEnd

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")  # peft's

BANDIT, NUMBERS = "rlhf/TokenBandit-v0", "rlhf/IncreasingNumbers-v0"
LENGTH = 20
CONTEXTS = [[5, 6, 7, 8, 9], [2, 3, 4, 5, 6, 7, 8], [9, 8, 7, 6]]
ACTIONS = torch.tensor([7, 8, 9, 6, 7, 8, 8, 7, 6])
SHAPES = ["gpt2", "llama"]


def observation(contexts: list[list[int]], device: str = "cpu") -> dict[str, torch.Tensor]:
    ids, mask = torch.zeros((2, len(contexts), LENGTH), dtype=torch.long)
    for i, context in enumerate(contexts):
        ids[i, : len(context)], mask[i, : len(context)] = torch.tensor(context), 1
    return {"input_ids": ids.to(device), "attention_mask": mask.to(device)}


def sequences(device: str = "cpu") -> dict[str, torch.Tensor]:
    """Three sequences whose last three tokens are the actions."""
    columns = torch.cat([torch.arange(len(c) - 4, len(c) - 1) for c in CONTEXTS]).to(device)
    return observation(CONTEXTS, device) | {
        "rows": torch.arange(3, device=device).repeat_interleave(3),
        "columns": columns,
    }


def outcome(policy: TokenPolicy) -> list[torch.Tensor]:
    """Values, log-probabilities, entropies, the reference's log-probabilities and every gradient, on the CPU."""
    obs, actions = sequences(str(policy.device)), ACTIONS.to(policy.device)
    policy.zero_grad()
    evaluated = policy.evaluate_actions(obs, actions)
    sum(result.square().mean() for result in evaluated).backward()
    gradients = [p.grad for p in policy.parameters() if p.grad is not None]
    return [t.detach().cpu() for t in (*evaluated, policy.reference_log_prob(obs, actions), *gradients)]


def check_close(ones: Any, others: Any, atol: float = 1e-4, rtol: float = 1e-3) -> None:
    for one, other in zip(ones, others, strict=True):
        torch.testing.assert_close(one, other, atol=atol, rtol=rtol)


def on_cpu(*results: torch.Tensor) -> list[torch.Tensor]:
    return [result.cpu() for result in results]


@pytest.fixture
def two_policies(small_model: Any, token_spaces: Any, any_device: str) -> Any:
    """Build a policy on the CPU with a reference that differs from it, and its copy on the device."""

    def build(shape: str = "gpt2", **kwargs: Any) -> tuple[TokenPolicy, TokenPolicy]:
        policies = []
        for _ in range(2):
            torch.manual_seed(1)
            policy = TokenPolicy(*token_spaces(LENGTH), lambda _: 1e-2, model=small_model(shape), **kwargs)
            generator = torch.Generator().manual_seed(2)
            with torch.no_grad():
                for parameter in (p for p in policy.parameters() if p.requires_grad):
                    parameter += 0.05 * torch.randn(parameter.shape, generator=generator)
            policies.append(policy)
        return policies[0], policies[1].to(any_device)

    return build


def make(algo: str, device: str, env: str = BANDIT, seed: int = 0, **kwargs: Any) -> Any:
    return agents.make(algo, agents.make_vec_env(env, 8, seed=seed), seed=seed, device=device, **kwargs)


# Policy and update


@pytest.mark.parametrize("shape", SHAPES)
def test_an_update_computes_what_the_cpu_computes(shape: str, two_policies: Any) -> None:
    check_close(*map(outcome, two_policies(shape)))


@pytest.mark.parametrize("decoding", [dict(temperature=0.7), dict(top_k=5, top_p=0.8)], ids=["temperature", "top"])
def test_a_distribution_is_the_cpus(decoding: dict[str, Any], two_policies: Any, any_device: str) -> None:
    here, there = two_policies(**decoding)
    expected = here.get_distribution(observation(CONTEXTS)).distribution.probs
    found = there.get_distribution(observation(CONTEXTS, any_device)).distribution.probs
    torch.testing.assert_close(found.cpu(), expected, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("shape", SHAPES)
def test_the_cache_equals_a_full_recompute(shape: str, two_policies: Any, any_device: str) -> None:
    """Over steps, with a row that is replied to and one that starts anew in the middle."""
    _, policy = two_policies(shape)
    assert policy._actor.cache.enabled
    contexts = [list(context) for context in CONTEXTS]
    for step in range(6):
        obs = observation(contexts, any_device)
        with torch.no_grad():
            actions, values, log_probs = policy(obs)
            again = policy.evaluate_actions(obs, actions)
        check_close(on_cpu(*again[:2]), on_cpu(values, log_probs), atol=1e-5)
        contexts = [[*context, int(action)] for context, action in zip(contexts, actions, strict=True)]
        if step == 2:
            contexts[1] = [4, 4]
            contexts[0] += [5, 6, 7]


def test_a_policy_that_moves_takes_no_cache_with_it(two_policies: Any, any_device: str) -> None:
    here, there = two_policies()
    with torch.no_grad():
        expected = here.predict_values(observation(CONTEXTS))
        there.predict_values(observation(CONTEXTS, any_device))
        found = there.cpu().predict_values(observation(CONTEXTS))
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("train", [1, "head"])
def test_a_stored_trunk_equals_a_recomputed_one(train: int | str, two_policies: Any, any_device: str) -> None:
    _, policy = two_policies(train=train)
    obs, actions = sequences(any_device), ACTIONS.to(any_device)
    stored = obs | {"trunk_states": policy.trunk_states(obs)}
    check_close(policy.evaluate_actions(obs, actions), policy.evaluate_actions(stored, actions), atol=1e-5)


def test_micro_batches_add_up(two_policies: Any) -> None:
    _, policy = two_policies()
    whole = outcome(policy)
    policy.micro_batch_size = 8
    check_close(whole, outcome(policy), atol=1e-5)


def test_bf16_is_near_float32_and_gives_float32(two_policies: Any) -> None:
    (_, exact), (_, coarse) = two_policies(), two_policies(bf16=True)
    for one, other in zip(outcome(exact)[:4], outcome(coarse)[:4], strict=True):
        assert other.dtype == torch.float32
        torch.testing.assert_close(one, other, atol=0.1, rtol=0.05)
        assert not torch.equal(one, other)


@pytest.mark.parametrize("shape", SHAPES)
def test_a_bf16_rollout_is_near_its_update(shape: str, two_policies: Any, any_device: str) -> None:
    _, policy = two_policies(shape, bf16=True)
    contexts = [list(context) for context in CONTEXTS]
    for _ in range(3):
        obs = observation(contexts, any_device)
        with torch.no_grad():
            actions, values, log_probs = policy(obs)
            again = policy.evaluate_actions(obs, actions)
        check_close(on_cpu(*again[:2]), on_cpu(values, log_probs), atol=0.1, rtol=0.05)
        contexts = [[*context, int(action)] for context, action in zip(contexts, actions, strict=True)]


@pytest.mark.slow  # compiling takes seconds
@pytest.mark.filterwarnings("ignore:.torch.jit.script_method. is deprecated:DeprecationWarning")  # torch's own import
@pytest.mark.filterwarnings("ignore:TensorFloat32 tensor cores:UserWarning")  # inductor's advice on a GPU
def test_a_compiled_update_equals_the_plain_one(two_policies: Any) -> None:
    (_, plain), (_, compiled) = two_policies(), two_policies(compile=True)
    check_close(outcome(plain), outcome(compiled))


def test_adapters_leave_the_reference_alone(small_model: Any, two_policies: Any) -> None:
    pytest.importorskip("peft")
    here, there = two_policies("llama", train="lora")
    check_close(outcome(here), outcome(there))
    obs, actions = sequences(str(there.device)), ACTIONS.to(there.device)
    with torch.no_grad():
        logits = small_model("llama")(input_ids=obs["input_ids"].cpu()).logits.log_softmax(-1)
    expected = logits[obs["rows"].cpu(), obs["columns"].cpu()].gather(1, ACTIONS[:, None])[:, 0]
    torch.testing.assert_close(there.reference_log_prob(obs, actions).cpu(), expected, atol=1e-5, rtol=1e-4)


# CUDA graphs


@pytest.mark.gpu
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(
    ("arguments", "atol"),
    [({}, 1e-4), (dict(train="lora"), 1e-4), (dict(value="separate", top_p=0.9), 1e-4), (dict(bf16=True), 0.1)],
    ids=["full", "lora", "separate", "bf16"],
)
def test_graphs_decode_what_eager_decodes(
    shape: str, arguments: dict[str, Any], atol: float, small_model: Any, token_spaces: Any
) -> None:
    """Over steps with a row that starts anew, before and after an update, which captures nothing again."""
    if "train" in arguments:
        pytest.importorskip("peft")
    policies, captured = [], []
    for on in (True, False):
        torch.manual_seed(1)
        model = small_model(shape)
        policy = TokenPolicy(*token_spaces(LENGTH), lambda _: 1e-2, model=model, cuda_graphs=on, **arguments)
        policies.append(policy.to("cuda"))
    for _ in range(2):
        contexts = [list(context) for context in CONTEXTS]
        for step in range(8):
            found = []
            for policy in policies:
                torch.manual_seed(step)
                with torch.no_grad():
                    found.append(on_cpu(*policy(observation(contexts, "cuda"))))
            check_close(found[0][1:], found[1][1:], atol=atol)
            if not arguments.get("bf16"):
                assert torch.equal(found[0][0], found[1][0])
            contexts = [[*context, int(action)] for context, action in zip(contexts, found[1][0], strict=True)]
            contexts[1] = [4, 4] if step == 3 else contexts[1]
        captured.append([*policies[0]._actor.cache.graphs._captured.values()])
        assert captured[0]
        for policy in policies:
            policy.set_training_mode(True)
            policy.evaluate_actions(sequences("cuda"), ACTIONS)[1].mean().backward()
            policy.optimizer.step()
    assert [id(graph) for graph in captured[0]] == [id(graph) for graph in captured[1]]


@pytest.mark.gpu
def test_a_step_by_graphs_waits_for_the_device_twice(small_model: Any, token_spaces: Any) -> None:
    """For where contexts have grown, and for what was chosen."""
    policy = TokenPolicy(*token_spaces(LENGTH), lambda _: 1e-2, model=small_model("llama")).to("cuda")
    observations = [observation([context + [5] * step for context in CONTEXTS], "cuda") for step in range(4)]
    with torch.no_grad(), warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for step, obs in enumerate(observations):
            torch.cuda.set_sync_debug_mode("warn" if step == 3 else "default")
            policy(obs)
        torch.cuda.set_sync_debug_mode("default")
    assert len([warning for warning in caught if "synchronizing" in str(warning.message)]) <= 2


# Rollouts


@pytest.mark.parametrize("algo", ["ppo", "a2c", "rloo", "grpo", "maskable_ppo"])
def test_the_first_update_has_ratio_one(algo: str, any_device: str) -> None:
    log_ratios = []

    def look(agent: Any) -> None:
        (samples,) = agent.rollout_buffer.get(None)
        agent.policy.set_training_mode(True)
        with torch.no_grad():
            log_probs = agent.policy.evaluate_actions(samples.observations, samples.actions)[1]
        log_ratios.append(log_probs - samples.old_log_prob)

    make(algo, any_device, NUMBERS).learn(80, callback=AtRolloutEnd(look))
    assert log_ratios[0].exp().sub(1).abs().max() < 1e-4


def test_a_buffer_holds_what_the_cpu_computes(any_device: str) -> None:
    """After an update: values, log-probabilities, and those of the reference."""
    kept: list[Any] = []

    def look(agent: Any) -> None:
        (samples,) = agent.rollout_buffer.get(None)
        reference = agent.policy.reference_log_prob(samples.observations, samples.actions.flatten())
        kept.append((samples, reference.cpu(), copy.deepcopy(agent.policy).cpu()))

    make("ppo", any_device, NUMBERS, learning_rate=1e-2).learn(160, callback=AtRolloutEnd(look))
    samples, reference, policy = kept[-1]
    obs = {key: tensor.cpu() for key, tensor in samples.observations.items()}
    actions = samples.actions.cpu().flatten()
    with torch.no_grad():
        values, log_probs, _ = policy.evaluate_actions(obs, actions)
    check_close((samples.old_values.cpu(), samples.old_log_prob.cpu()), (values.flatten(), log_probs))
    torch.testing.assert_close(reference, policy.reference_log_prob(obs, actions), atol=1e-4, rtol=1e-3)
    assert not torch.allclose(reference, log_probs, atol=1e-2)


def test_q_values_are_the_cpus(any_device: str) -> None:
    agent = make("dqn", any_device, NUMBERS, learning_starts=24, train_freq=5, batch_size=24)
    agent.learn(120)
    here, obs = copy.deepcopy(agent.policy).cpu(), agent.env.reset()
    found = [net(agent.policy.obs_to_tensor(obs)[0]) for net in (agent.policy.q_net, agent.policy.q_net_target)]
    expected = [net(here.obs_to_tensor(obs)[0]) for net in (here.q_net, here.q_net_target)]
    assert agent._n_updates > 0
    check_close([q.cpu() for q in found], expected)


# Evaluation


def test_completions_and_their_metrics_are_the_cpus(any_device: str) -> None:
    """Tokens are drawn by numbers of NumPy's, so both write the same texts."""
    agent = make("ppo", any_device, NUMBERS, learning_rate=1e-2)
    agent.learn(80)
    there = agents.evaluate(agent, NUMBERS, 8)
    agent.policy = copy.deepcopy(agent.policy).cpu()
    here = agents.evaluate(agent, NUMBERS, 8)
    assert [c.completion for c in there.completions] == [c.completion for c in here.completions]
    np.testing.assert_allclose(there.reward, here.reward, atol=1e-5)
    np.testing.assert_allclose(there.kl, here.kl, atol=1e-3)


def test_the_most_probable_completions_are_the_cpus(any_device: str) -> None:
    agent = make("a2c", any_device, NUMBERS, learning_rate=1e-2)
    agent.learn(80)
    there = agents.generate(agent, NUMBERS, n_prompts=8, deterministic=True)
    agent.policy = copy.deepcopy(agent.policy).cpu()
    here = agents.generate(agent, NUMBERS, n_prompts=8, deterministic=True)
    assert [c.completion for c in there] == [c.completion for c in here]


# Saving


def test_a_bundle_moves_between_devices(any_device: str, tmp_path: Path) -> None:
    agent = make("ppo", any_device).learn(24)
    agents.save(agent, tmp_path / "agent")
    for device in ("cpu", any_device):
        loaded = agents.load(tmp_path / "agent", device=device)
        assert loaded.policy.device.type == device
        saved, now = agent.policy.state_dict(), loaded.policy.state_dict()
        assert all(torch.equal(saved[name].cpu().nan_to_num(), now[name].cpu().nan_to_num()) for name in saved)
        loaded.learn(24, reset_num_timesteps=False)


def test_a_bundle_goes_on_where_it_was(any_device: str, tmp_path: Path) -> None:
    """The next rollout draws the same tokens: the device's generator is among what is saved."""
    agent = make("ppo", any_device, NUMBERS).learn(80)
    agents.save(agent, tmp_path / "agent")
    for seed in (np.random.seed, torch.manual_seed):
        seed(7)
    loaded, generators = agents.load(tmp_path / "agent"), get_generators()
    assert loaded.policy.device.type == any_device
    loaded.learn(80, reset_num_timesteps=False)
    set_generators(generators)
    agent.learn(80, reset_num_timesteps=False)
    assert np.array_equal(agent.rollout_buffer.actions, loaded.rollout_buffer.actions)
    for one, other in zip(agent.policy.parameters(), loaded.policy.parameters(), strict=True):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=0)


def test_generators_go_on_where_they_were(any_device: str) -> None:
    torch.zeros(1, device=any_device)  # CUDA has a state once it is in use
    saved = get_generators()
    first = torch.rand(5, device=any_device)
    set_generators(saved)
    with isolated_generators(3):
        inner = torch.rand(5, device=any_device)
    assert torch.equal(torch.rand(5, device=any_device), first)
    with isolated_generators(3):
        assert torch.equal(torch.rand(5, device=any_device), inner)


def test_drawing_tokens_takes_only_the_devices_own_numbers(any_device: str, two_policies: Any) -> None:
    _, policy = two_policies()
    before = get_generators()
    policy(observation(CONTEXTS, any_device))
    moved = not np.array_equal(before["torch"], get_generators()["torch"])
    assert moved == (any_device == "cpu")


# Devices that are not there


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_missing_gpu_is_an_error_and_never_the_cpu(tmp_path: Path) -> None:
    """Stable-Baselines3 trains on the CPU instead, and says nothing."""
    with pytest.raises(ValueError, match=r"device 'cuda': .*; take auto, or a device that this machine has"):
        make("ppo", "cuda")
    agents.save(make("ppo", "auto").learn(24), tmp_path / "agent")
    with pytest.raises(ValueError, match="device 'cuda'"):
        agents.load(tmp_path / "agent", device="cuda")


def test_a_device_that_does_not_exist_is_an_error() -> None:
    with pytest.raises(ValueError, match="device 'gpu': there is no such device"):
        make("ppo", "gpu")
