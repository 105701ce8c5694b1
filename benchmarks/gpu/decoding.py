"""Measure decoding against a bare loop of CUDA graphs, and count launches and waits per step."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile
from transformers import AutoModelForCausalLM
from transformers.cache_utils import Cache

from agents.core.forward_pass import cache_argument
from agents.core.graph_decode import CudaBackend
from agents.core.slot_layer import SlotLayer

from ..work import FreshLlama
from .checks import build_policy, random_sequences
from .parts import Outcome, Part, Setting
from .speed import SHAPES, TOY, timed

__all__ = ["PARTS", "bare_loop"]

PROMPT, NEW, BATCH = 64, 64, 256
WAYS: dict[str, dict[str, Any]] = {"graph": {}, "eager": {"cuda_graphs": False}}
CALLS = {"launches": r"cu(da)?LaunchKernel|cudaGraphLaunch", "waits": "Synchronize", "copies": "cudaMemcpy"}


class _OneColumn(SlotLayer):
    """Hold keys and values of rows that all have the same length, `columns` `(1,)` tokens so far."""

    def update(self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        self.keys.index_copy_(2, self.columns, key_states)
        self.values.index_copy_(2, self.columns, value_states)
        return self.keys, self.values

    def get_seq_length(self) -> int:
        return self.length - 1


def bare_loop(setting: Setting, shape: FreshLlama, batch: int, prompt: int, new: int) -> Callable[[], None]:
    """Return a loop that decodes `new` tokens as fast as a static cache and one graph per token go.

    All weights and the cache are bfloat16. There is no environment, no value and no log-probability, tokens never leave
    the device, and the prompts' keys are zeros.
    """
    torch.manual_seed(0)
    with torch.device(setting.device):
        model: Any = AutoModelForCausalLM.from_config(shape.config(prompt + new)).eval().to(torch.bfloat16)
        tokens, column = torch.zeros((batch, 1), dtype=torch.long), torch.full((1,), prompt)
        positions = torch.arange(prompt + new)
    like = torch.empty(
        (1, shape.n_kv_head, 1, shape.n_embd // shape.n_head), dtype=torch.bfloat16, device=tokens.device
    )
    layers = [_OneColumn(like, like, batch, prompt + new) for _ in range(shape.n_layer)]
    for layer in layers:
        layer.columns, layer.length = column, prompt + new

    def step() -> None:
        mask = torch.zeros(prompt + new, dtype=torch.bfloat16, device=column.device)
        mask.masked_fill_(positions > column, torch.finfo(mask.dtype).min)
        hidden = model.model(
            input_ids=tokens,
            attention_mask=mask.expand(batch, 1, 1, -1),
            position_ids=column.expand(batch, 1),
            use_cache=True,
            **{cache_argument(model.model): Cache(layers=list(layers))},
        ).last_hidden_state
        probabilities = model.lm_head(hidden[:, -1]).float().softmax(dim=-1)
        tokens.copy_((probabilities / torch.empty_like(probabilities).exponential_()).argmax(-1, keepdim=True))
        column.add_(1)

    with torch.no_grad():
        replay = CudaBackend(column.device).capture(step) if column.is_cuda else torch.no_grad()(step)

    def loop() -> None:
        column.fill_(prompt)
        for _ in range(new):
            replay()

    return loop


@torch.no_grad()
def _decoding(policy: Any, ids: torch.Tensor, prompt: int) -> Callable[[], None]:
    """Return a loop that decodes tokens behind prompts that are encoded already, without an environment."""
    mask = (torch.arange(ids.shape[1], device=ids.device) < prompt).long().expand_as(ids)

    def loop() -> None:
        with torch.no_grad():
            seen = mask.clone()
            for column in range(prompt, ids.shape[1]):
                ids[:, column] = policy({"input_ids": ids, "attention_mask": seen})[0]
                seen[:, column] = 1

    policy({"input_ids": ids, "attention_mask": mask})
    return loop


def against_bare(setting: Setting) -> Outcome:
    """Compare the tokens per second of decoding in bfloat16, by graphs and eagerly, with those of the bare loop."""
    shape, prompt, new, batch = (TOY, 4, 4, 2) if setting.small else (SHAPES["135M"], PROMPT, NEW, BATCH)
    assert isinstance(shape, FreshLlama)
    rates = {"bare": batch * new / timed(setting, bare_loop(setting, shape, batch, prompt, new))}
    for way, arguments in WAYS.items():
        policy = build_policy(setting, shape, prompt + new, bf16=True, **arguments)
        ids = random_sequences(setting, batch, prompt, new, shape.vocab_size)[0]["input_ids"]
        rates[way] = batch * new / timed(setting, _decoding(policy, ids, prompt))
    shares = {f"{way} of bare %": 100 * rates[way] / rates["bare"] for way in WAYS}
    return Outcome(rates | shares, bar="tokens per second; asked: graph at least 50% of bare")


def count_calls(setting: Setting) -> Outcome:
    """Count what the host asks of the device per step: launches, waits, copies."""
    shape, prompt, new, batch = (TOY, 4, 4, 2) if setting.small else (SHAPES["135M"], PROMPT, 16, 64)
    activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * setting.device.startswith("cuda")
    figures = {}
    for way, arguments in WAYS.items():
        policy = build_policy(setting, shape, prompt + new, bf16=True, **arguments)
        ids = random_sequences(setting, batch, prompt, new, shape.vocab_size)[0]["input_ids"]
        loop = _decoding(policy, ids, prompt)
        loop()
        with profile(activities=activities) as profiler:
            loop()
            setting.synchronize()
        for what, pattern in CALLS.items():
            n_calls = sum(event.count for event in profiler.key_averages() if re.search(pattern, event.key))
            figures[f"{way}: {what}"] = n_calls / new
    return Outcome(figures, bar="per step of all rows")


PARTS = [
    Part("decode against a bare loop, 135M", 40, against_bare),
    Part("launches and waits per token, 135M", 20, count_calls),
]
