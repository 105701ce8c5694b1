"""Check that a device computes what it should: each part compares with another way to the same numbers."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.callbacks import BaseCallback

import agents
from agents.core.kv_cache import SlottedTrunk
from agents.core.observations import read_contexts
from agents.core.policy import TokenPolicy
from agents.core.random_state import get_generators, set_generators

from ..work import FreshLlama
from .parts import Outcome, Part, Setting, SkippedPart

__all__ = ["PARTS", "AtRolloutEnd", "build_policy", "make_agent", "random_sequences"]

# The ways to compute in bfloat16, arguments of `TokenPolicy` by name.
BFLOAT16: dict[str, dict[str, Any]] = {
    "autocast": {"bf16": True},
    "frozen weights": {"dtype": "bfloat16", "train": "head"},
}
FRESH = FreshLlama(vocab_size=512, n_layer=4, n_embd=128, n_head=8, n_kv_head=2, n_inner=256, std=0.1)
LENGTH = 48


def env_id(setting: Setting) -> str:
    """Return the environment that agents are made for: its model is "tiny", or a fresh one with `small`."""
    return "rlhf/TokenBandit-v0" if setting.small else "rlhf/Sentiment-v0"


def make_agent(setting: Setting, **kwargs: Any) -> Any:
    """Return a PPO agent on the device."""
    n_envs = 8 if setting.small else 64
    return agents.make("ppo", env_id(setting), n_envs=n_envs, seed=0, device=setting.device, **kwargs)


def build_policy(setting: Setting, shape: Any = FRESH, length: int = LENGTH, **kwargs: Any) -> TokenPolicy:
    """Return a policy on a fresh model, the same at every call, on the device."""
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    with torch.device(setting.device):
        model = AutoModelForCausalLM.from_config(shape.config(length)).eval()
    last = shape.vocab_size - 1
    observation_space = spaces.Dict(
        input_ids=spaces.Box(0, last, (length,), np.int64), attention_mask=spaces.Box(0, 1, (length,), np.int8)
    )
    policy = TokenPolicy(observation_space, spaces.Discrete(last + 1), lambda _: 1e-5, model=model, **kwargs)
    return policy.to(setting.device)


def random_sequences(
    setting: Setting, n: int, prompt: int, new: int, vocab_size: int
) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """Return n sequences of random tokens as an update reads them, and their `n * new` actions."""
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(2, vocab_size, (n, prompt + new), generator=generator).to(setting.device)
    rows = torch.arange(n, device=setting.device).repeat_interleave(new)
    columns = torch.arange(prompt - 1, prompt + new - 1, device=setting.device).repeat(n)
    obs = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "rows": rows, "columns": columns}
    return obs, ids[rows, columns + 1]


class AtRolloutEnd(BaseCallback):
    """Look at an agent after its rollout, before its update."""

    def __init__(self, look: Callable[[Any], None]) -> None:
        super().__init__()
        self.look = look

    def _on_step(self) -> bool:
        return True

    def _on_rollout_end(self) -> None:
        self.look(self.model)


def check_ratio(setting: Setting) -> Outcome:
    """Compare the log-probabilities of a first rollout with those of the update that follows."""
    differences: list[torch.Tensor] = []

    @torch.no_grad()
    def look(agent: Any) -> None:
        agent.policy.set_training_mode(True)
        for samples in agent.rollout_buffer.get(agent.batch_size):
            log_probs = agent.policy.evaluate_actions(samples.observations, samples.actions)[1]
            differences.append((log_probs - samples.old_log_prob).exp().sub(1).abs().max())

    agent = make_agent(setting)
    agent.learn(agent.n_steps * agent.n_envs, callback=AtRolloutEnd(look))
    return Outcome.at_most(max_ratio_off_1=(float(torch.stack(differences).max()), 1e-4))


@torch.no_grad()
def check_cache(setting: Setting) -> Outcome:
    """Decode, with rows that are replied to, start anew or are equal, and encode the same contexts without a cache."""
    policy = build_policy(setting)
    if not policy._actor.cache.enabled:
        return Outcome({}, passed=False, bar="the cache is off: it does not equal a full recompute")
    plain = SlottedTrunk(policy._actor.module, LENGTH, enabled=False)
    n, generator = (4 if setting.small else 64), torch.Generator().manual_seed(1)
    ids = torch.randint(2, FRESH.vocab_size, (n, LENGTH), generator=generator).to(setting.device)
    lengths, worst = torch.randint(1, 8, (n,), generator=generator), torch.zeros((), device=setting.device)
    for _ in range(16 if setting.small else 2 * LENGTH):
        mask = (torch.arange(LENGTH) < lengths[:, None]).long().to(setting.device)
        obs = {"input_ids": ids * mask, "attention_mask": mask}
        cached, full = policy._actor.cache(*read_contexts(obs)), plain(*read_contexts(obs))
        difference = (policy.language_model.head(cached) - policy.language_model.head(full)).abs().max()
        worst = torch.maximum(worst, difference)
        chance, replies = torch.rand(n, generator=generator), torch.randint(2, 8, (n,), generator=generator)
        starts = (lengths == LENGTH) | (chance < 0.05)
        lengths = torch.where(starts, replies, (lengths + torch.where(chance > 0.95, replies, 1)).clamp(max=LENGTH))
        ids = torch.where(starts.to(setting.device)[:, None], ids.roll(1, dims=1), ids)
        ids[1], lengths[1] = ids[0], lengths[0]
    return Outcome.at_most(max_difference_of_logits=(float(worst), 1e-4))


@torch.no_grad()
def check_graphs(setting: Setting) -> Outcome:
    """Decode by CUDA graphs and eagerly, before and after an update, with the same random numbers."""
    policies = [build_policy(setting, cuda_graphs=on) for on in (True, False)]
    obs, actions = random_sequences(setting, 4 if setting.small else 64, 8, LENGTH - 8, FRESH.vocab_size)
    columns = torch.arange(LENGTH, device=setting.device).expand_as(obs["input_ids"])
    other, worst = 0.0, 0.0
    for _ in range(2):
        for length in range(8, LENGTH):
            context = {"input_ids": obs["input_ids"], "attention_mask": (columns < length).long()}
            found = []
            for policy in policies:
                torch.manual_seed(length)
                found.append([result.cpu() for result in policy(context)])
            same = found[0][0] == found[1][0]
            other = max(other, float((~same).float().mean()))
            worst = max(worst, float((found[0][2] - found[1][2]).abs()[same].max()))
        for policy in policies:
            policy.set_training_mode(True)
            with torch.enable_grad():
                policy.optimizer.zero_grad()
                policy.evaluate_actions(obs, actions)[1].mean().backward()
                policy.optimizer.step()
    outcome = Outcome.at_most(share_of_other_tokens=(other, 0.0), max_difference_of_log_probs=(worst, 1e-4))
    outcome.figures["graphs"] = len(policies[0]._actor.cache.graphs or ())
    return outcome


@torch.no_grad()
def check_adapters(setting: Setting) -> Outcome:
    """Compare the reference of a policy with trained adapters with the untouched model."""
    try:
        import peft  # noqa: F401
    except ModuleNotFoundError:
        raise SkippedPart("peft is not installed") from None
    untouched, policy = build_policy(setting), build_policy(setting, train="lora")
    for name, parameter in policy.named_parameters():
        if "lora_B" in name:
            parameter.normal_(std=0.3)
    obs, actions = random_sequences(setting, 4, 8, 8, FRESH.vocab_size)
    base = untouched.evaluate_actions(obs, actions)[1]
    moved = float((policy.evaluate_actions(obs, actions)[1] - base).abs().max())
    off = float((policy.reference_log_prob(obs, actions) - base).abs().max())
    outcome = Outcome.at_most(max_difference=(off, 1e-5))
    outcome.figures["adapters move it by"] = moved
    return outcome


@torch.no_grad()
def check_bfloat16(setting: Setting) -> Outcome:
    """Compare log-probabilities in bfloat16 with those in float32, and a rollout in bfloat16 with its update."""
    obs, actions = random_sequences(setting, 16, 8, 32, FRESH.vocab_size)
    exact = build_policy(setting).evaluate_actions(obs, actions)[1]
    bars: dict[str, tuple[float, float]] = {}
    for name, arguments in BFLOAT16.items():
        policy = build_policy(setting, **arguments)
        off = (policy.evaluate_actions(obs, actions)[1] - exact).abs()
        columns = torch.arange(obs["input_ids"].shape[1], device=setting.device).expand_as(obs["input_ids"])
        for length in range(8, 25):  # through the cache, as a rollout does
            context = {"input_ids": obs["input_ids"], "attention_mask": (columns < length).long()}
            chosen, _, log_probs = policy(context)
        again = policy.evaluate_actions(context, chosen)[1]
        bars |= {f"{name}_mean": (float(off.mean()), 0.05), f"{name}_max": (float(off.max()), 0.5)}
        bars[f"{name}_rollout_to_update"] = (float((again.cpu() - log_probs.cpu()).abs().mean()), 0.05)
    return Outcome.at_most(**bars)


def check_resume(setting: Setting) -> Outcome:
    """Save an agent, load it, and let both learn on: they draw the same tokens and end with the same weights."""
    agent = make_agent(setting)
    rollout = agent.n_steps * agent.n_envs
    agent.learn(rollout)
    with tempfile.TemporaryDirectory() as folder:
        agents.save(agent, Path(folder) / "agent")
        torch.manual_seed(7)  # as in another process
        loaded = agents.load(Path(folder) / "agent")
        generators = get_generators()
        loaded.learn(rollout, reset_num_timesteps=False)
        set_generators(generators)
        agent.learn(rollout, reset_num_timesteps=False)
    other = float((agent.rollout_buffer.actions != loaded.rollout_buffer.actions).mean())
    pairs = zip(agent.policy.parameters(), loaded.policy.parameters(), strict=True)
    off = max(float((one - two).detach().abs().max()) for one, two in pairs)
    return Outcome.at_most(share_of_other_tokens=(other, 0.0), max_difference_of_weights=(off, 1e-6))


def check_against_cpu(setting: Setting) -> Outcome:
    """Train a little, and evaluate on the device and on the CPU: rewards and KL of the same completions are equal.

    The tokens are drawn with the same numbers. A token whose probability rounds to the other side is drawn differently,
    and its completion goes another way: such completions are counted, and compared no further.
    """
    agent = make_agent(setting, learning_rate=1e-3)
    agent.learn(2 * agent.n_steps * agent.n_envs)
    with tempfile.TemporaryDirectory() as folder:
        agents.save(agent, Path(folder) / "agent")
        loaded = agents.load(Path(folder) / "agent", device="cpu")
    n = 8 if setting.small else 64
    there, here = (agents.evaluate(one, env_id(setting), n, judges={}) for one in (agent, loaded))
    pairs = zip(there.completions, here.completions, strict=True)
    equal = np.array([np.array_equal(one.input_ids, other.input_ids) for one, other in pairs])
    assert there.kl is not None
    assert here.kl is not None
    return Outcome.at_most(
        share_of_other_completions=(float(1 - equal.mean()), 0.05),
        max_difference_of_rewards=(float(np.abs(there.reward - here.reward)[equal].max(initial=0)), 1e-3),
        max_difference_of_KL=(float(np.abs(there.kl - here.kl)[equal].max(initial=0)), 1e-2),
    )


PARTS = [
    Part("the first minibatch has ratio 1", 20, check_ratio),
    Part("cached equals recomputed", 15, check_cache),
    Part("graphs decode what eager decodes", 20, check_graphs),
    Part("the reference of LoRA is its base", 15, check_adapters),
    Part("bfloat16 is near float32", 15, check_bfloat16),
    Part("a loaded agent goes on exactly", 25, check_resume),
    Part("rewards and KL are the CPU's", 30, check_against_cpu),
]
