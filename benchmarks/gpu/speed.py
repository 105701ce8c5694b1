"""Measure a device's speed and memory: decoding, updates, and whole iterations by phase."""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import torch

from ..contenders import Ours
from ..profiling import watch_parts
from ..throughput import PARTS as PHASES
from ..work import FreshLlama, FreshModel, Work
from ..worker import Worker
from .checks import build_policy, random_sequences
from .parts import Outcome, Part, Setting, SkippedPart

__all__ = ["PARTS", "SHAPES", "TOY", "Phased", "timed"]

# Random weights in the shapes of SmolLM2-135M and Llama-3.2-1B.
SHAPES: dict[str, FreshModel] = {
    "tiny": FreshModel(vocab_size=3072, n_layer=4, n_embd=256, n_head=4),
    "135M": FreshLlama(vocab_size=49152, n_layer=30, n_embd=576, n_head=9, n_kv_head=3, n_inner=1536),
    "1B": FreshLlama(vocab_size=128256, n_layer=16, n_embd=2048, n_head=32, n_kv_head=8, n_inner=8192),
}
TOY = FreshLlama(vocab_size=64, n_layer=1, n_embd=16, n_head=2, n_kv_head=1, n_inner=16)
PROMPT, NEW = 64, 64
BATCHES = (1, 16, 64, 256)


def timed(setting: Setting, run: Callable[[], Any]) -> float:
    """Return the seconds that a call takes on the device, after one that is not counted."""
    run()
    setting.synchronize()
    start = time.perf_counter()
    run()
    setting.synchronize()
    return time.perf_counter() - start


def decode(name: str, setting: Setting) -> Outcome:
    """Measure tokens per second of decoding with the KV cache and sampling, without an environment."""
    shape, prompt, new, batches = (TOY, 4, 4, (2,)) if setting.small else (SHAPES[name], PROMPT, NEW, BATCHES)
    policy = build_policy(setting, shape, prompt + new, train="head")
    figures = {}
    for batch in batches:
        obs, _ = random_sequences(setting, batch, prompt, new, shape.vocab_size)
        seconds = timed(setting, partial(_complete, policy, obs["input_ids"], prompt))
        figures[f"batch {batch}"] = batch * new / seconds
    return Outcome(figures, bar="tokens per second")


@torch.no_grad()
def _complete(policy: Any, ids: torch.Tensor, prompt: int) -> None:
    ids, mask = ids.clone(), torch.zeros_like(ids)
    mask[:, :prompt] = 1
    for column in range(prompt, ids.shape[1]):
        ids[:, column] = policy({"input_ids": ids, "attention_mask": mask})[0]
        mask[:, column] = 1


def update(name: str, setting: Setting) -> Outcome:
    """Measure tokens per second (of sequences, prompts included) of a forward and backward pass and a step."""
    shape, prompt, new, batch = (TOY, 4, 4, 2) if setting.small else (SHAPES[name], PROMPT, NEW, 32)
    figures = {}
    for way, arguments in _ways().items():
        policy = build_policy(setting, shape, prompt + new, **arguments)
        obs, actions = random_sequences(setting, batch, prompt, new, shape.vocab_size)
        seconds = timed(setting, partial(_step, policy, obs, actions))
        figures[way] = batch * (prompt + new) / seconds
        if setting.peak is not None and "float32" not in way:
            done = _flops(policy, batch * (prompt + new), len(actions))
            figures[f"{way}: MFU %"] = 100 * done / seconds / setting.peak
        del policy
    return Outcome(figures, bar="tokens per second")


def _flops(policy: Any, tokens: int, actions: int) -> float:
    """Return the FLOPs of a forward and a backward pass.

    Per weight and token they are 2 in the forward pass, 2 for the gradient of the input, and 2 more if the weight
    learns. Attention's own products are not counted, and the head works on actions alone.
    """
    model = policy.language_model.model
    ends = {id(module.weight) for module in (model.get_input_embeddings(), model.get_output_embeddings())}
    total = 0.0
    for weight in model.parameters():
        if weight.dim() > 1 and id(weight) not in ends:
            total += weight.numel() * tokens * (6 if weight.requires_grad else 4)
    head = model.get_output_embeddings().weight
    return total + head.numel() * actions * (6 if head.requires_grad else 4)


def _ways() -> dict[str, dict[str, Any]]:
    ways: dict[str, dict[str, Any]] = {"full, float32": {}, "full, autocast": {"bf16": True}}
    try:
        import peft  # noqa: F401
    except ModuleNotFoundError:
        return ways
    ways["LoRA, autocast"] = {"train": "lora", "bf16": True}
    ways["LoRA, bfloat16 weights"] = {"train": "lora", "dtype": "bfloat16"}
    return ways


def _step(policy: Any, obs: dict[str, torch.Tensor], actions: torch.Tensor) -> None:
    policy.set_training_mode(True)
    values, log_probs, entropies = policy.evaluate_actions(obs, actions)
    policy.optimizer.zero_grad()
    (values.square().mean() - log_probs.mean() - 0.01 * entropies.mean()).backward()
    policy.optimizer.step()


class Phased(Ours):
    """Run iterations of stock PPO, which are timed as a whole, then one that is timed phase by phase."""

    def profiled(self) -> None:
        """Do an iteration, phase by phase. Waiting for the device at each border makes it slower as a whole."""
        watch_parts(self)
        self.iterate()


def iterate(name: str, train: str, setting: Setting, **policy_kwargs: Any) -> Outcome:
    """Measure an iteration in a process of its own: rollout, reward, reference, one epoch of four updates."""
    sizes: dict[str, Any] = {"n_envs": 64, "prompt_tokens": PROMPT, "new_tokens": NEW}
    work = Work(SHAPES[name], train, **sizes, device=setting.device, policy_kwargs=policy_kwargs)
    if setting.small:
        work = replace(work, model=TOY, n_envs=2, prompt_tokens=4, new_tokens=4, minibatches=1, threads=1)
    worker = Worker("benchmarks.gpu.speed:Phased", work)
    try:
        worker.run()
        whole, parts = worker.run(), worker.run("profiled")
    finally:
        worker.close()
    figures = {"seconds": whole.seconds, "tokens/s": whole.tokens / whole.seconds}
    figures |= {"peak GB": whole.peak / 1e9, "above model and optimiser GB": whole.above / 1e9}
    shares = {phase: 100 * parts.profile.get(phase, 0.0) / parts.seconds for phase in PHASES}
    return Outcome(figures | {f"{phase} %": share for phase, share in shares.items() if share >= 1})


def against_trl(setting: Setting) -> Outcome:
    """Compare an iteration with one of TRL's GRPO with its default generation: both in float32, at the same work."""
    if importlib.util.find_spec("trl") is None:
        raise SkippedPart("trl is not installed")
    work = Work(SHAPES["135M"], n_envs=256, prompt_tokens=PROMPT, new_tokens=NEW, device=setting.device)
    if setting.small:
        work = replace(work, model=TOY, n_envs=2, prompt_tokens=4, new_tokens=4, minibatches=1, threads=1)
    seconds = {}
    for name, contender in (("ours", "benchmarks.contenders:Ours"), ("TRL", "benchmarks.contenders.trl:Grpo")):
        worker = Worker(contender, work)
        try:
            worker.run()
            seconds[f"{name}, seconds"] = worker.run().seconds
        finally:
            worker.close()
    ours, trl = seconds.values()
    return Outcome(seconds | {"TRL to ours": trl / ours}, bar="asked: at least 5 times")


PARTS = [
    Part("decode, tiny", 10, partial(decode, "tiny")),
    Part("decode, 135M", 25, partial(decode, "135M")),
    Part("decode, 1B", 25, partial(decode, "1B")),
    Part("update, tiny", 10, partial(update, "tiny")),
    Part("update, 135M", 20, partial(update, "135M")),
    Part("update, 1B", 30, partial(update, "1B")),
    Part("iteration against TRL, 135M", 90, against_trl),
    Part("iteration, tiny", 35, partial(iterate, "tiny", "full")),
    Part("iteration, 135M", 45, partial(iterate, "135M", "full")),
    Part("iteration, 1B", 60, partial(iterate, "1B", "full")),
    Part("iteration, 1B, LoRA", 60, partial(iterate, "1B", "lora")),
    Part("iteration, 1B, LoRA, bfloat16 weights", 60, partial(iterate, "1B", "lora", dtype="bfloat16")),
    Part("iteration, 135M, LoRA", 45, partial(iterate, "135M", "lora")),
]
