"""Run the floor: an iteration with nothing but the model.

- Decode: the same Hugging Face model with a plain `DynamicCache`, prompts of equal length in one batch, softmax and
  `torch.multinomial`, all rows to the full length. No EOS, no log-probabilities, no values.
- Reward: the completions are decoded to text and scored in one call, as in every contender.
- Reference: one forward pass per sequence with a frozen copy, log-probabilities of the completion's tokens.
- Update: an epoch is one forward and backward pass per sequence, the head on the completion's positions only
  (`logits_to_keep`), `cross_entropy` for the log-probabilities, a policy gradient and nothing else of PPO (no values,
  no ratios, no entropy, no clipping of gradients), in as many minibatches and optimiser steps as the others,
  with torch's fused Adam.

Where only the last k blocks learn (`train=k`; "head" is k = 0), the frozen trunk runs over the sequences once after the
decoding; the reference's and each epoch's passes are over the k blocks and the head alone. (A still lower floor would
keep the trunk's output while it decodes; this one is the teacher-forced pass that any trainer makes.)
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn
from torch.nn.functional import cross_entropy
from transformers import DynamicCache

from ..work import ADAM_EPS, LEARNING_RATE, Work
from ..worker import Session

__all__ = ["Floor"]


class Floor:
    """Run bare forward and backward passes for the same tokens."""

    def __init__(self, work: Work, session: Session) -> None:
        self.work, self.session = work, session
        self.model, self.tokenizer = work.load()
        self.prompts, self.reward_fn = work.prompt_ids(self.tokenizer), work.reward_fn()
        self.trunk, self.tail = split(self.model, work.train)
        self.reference = copy.deepcopy(self.tail).requires_grad_(False)
        trained = [p for p in self.tail.parameters() if p.requires_grad]
        self.optimizer = torch.optim.Adam(trained, lr=LEARNING_RATE, eps=ADAM_EPS, fused=True)

    def drive(self) -> None:
        """Run the session's commands until there is none left."""
        while command := self.session.next():
            getattr(self, command)()

    def iterate(self) -> None:
        """Do a whole iteration: rollout, reward, reference, epochs of updates."""
        self.rollout()
        self.update()

    def rollout(self) -> None:
        """Decode, score and run the reference."""
        chosen = torch.randint(len(self.prompts), (self.work.n_envs,), device=self.prompts.device)
        self.ids = self.decode(self.prompts[chosen]).clone()
        rewards = torch.tensor(self.reward()).to(self.ids.device)
        self.inputs = self.trunk_outputs()
        self.reference_log_probs = torch.cat([self.reference_log_prob(rows) for rows in self.minibatches()])
        self.advantages = (rewards - rewards.mean())[:, None]
        self.session.tokens += self.ids[:, self.work.prompt_tokens :].numel()

    def update(self) -> None:
        """Do the epochs of updates."""
        for _ in range(self.work.epochs):
            for rows in self.minibatches():
                self.backward(self.forward(rows))
                self.step()

    @torch.inference_mode()
    def decode(self, ids: torch.Tensor) -> torch.Tensor:
        """Complete `(n, prompt_tokens)` to the full length."""
        cache, inputs = DynamicCache(config=self.model.config), ids
        for _ in range(self.work.new_tokens):
            logits = self.model(inputs, past_key_values=cache, use_cache=True, logits_to_keep=1).logits
            inputs = self.sample(logits[:, -1])
            ids = torch.cat([ids, inputs], dim=1)
        return ids

    def sample(self, logits: torch.Tensor) -> torch.Tensor:
        """Sample one token per row, `(n, 1)`."""
        return torch.multinomial(logits.softmax(-1), 1)

    def reward(self) -> list[float]:
        """Return the scores of the completions."""
        cut = self.work.prompt_tokens
        prompts, completions = (
            self.tokenizer.batch_decode(ids, skip_special_tokens=True) for ids in (self.ids[:, :cut], self.ids[:, cut:])
        )
        return list(self.reward_fn(prompts, completions))

    def minibatches(self) -> tuple[torch.Tensor, ...]:
        """Return the rows in random order, in equal parts."""
        return torch.randperm(self.work.n_envs, device=self.ids.device).chunk(self.work.minibatches)

    @torch.no_grad()
    def trunk_outputs(self) -> torch.Tensor:
        """Return the input of the trained part: the ids, or the frozen trunk's hidden states."""
        return self.ids[:, :-1] if self.trunk is None else self.trunk(self.ids[:, :-1])

    def log_prob(self, model: nn.Module, rows: torch.Tensor) -> torch.Tensor:
        """Return the log-probabilities `(rows, new_tokens)` of the completions."""
        n = self.work.new_tokens
        logits = model(self.inputs[rows], n)
        return -cross_entropy(logits.flatten(0, 1), self.ids[rows, -n:].flatten(), reduction="none").view(-1, n)

    @torch.no_grad()
    def reference_log_prob(self, rows: torch.Tensor) -> torch.Tensor:
        """Return the log-probabilities under the reference."""
        return self.log_prob(self.reference, rows)

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        """Return the loss."""
        return -(self.advantages[rows] * self.log_prob(self.tail, rows)).mean()

    def backward(self, loss: torch.Tensor) -> None:
        """Compute the gradients."""
        loss.backward()

    def step(self) -> None:
        """Step the optimiser and clear the gradients."""
        self.optimizer.step()
        self.optimizer.zero_grad()


class _Whole(nn.Module):
    """Run a whole causal language model, from ids to the logits of the last n positions."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, ids: torch.Tensor, n: int) -> torch.Tensor:
        logits: torch.Tensor = self.model(ids, use_cache=False, logits_to_keep=n).logits
        return logits


class _Trunk(nn.Module):
    """Run the first blocks, from ids to hidden states."""

    def __init__(self, base: Any) -> None:
        super().__init__()
        self.base = base

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        hidden: torch.Tensor = self.base(ids, use_cache=False).last_hidden_state
        return hidden


class _Tail(nn.Module):
    """Run the last blocks and the head, from hidden states to the logits of the last n positions."""

    def __init__(self, base: Any, head: nn.Module) -> None:
        super().__init__()
        self.base, self.head = base, head

    def forward(self, hidden: torch.Tensor, n: int) -> torch.Tensor:
        if self.base is not None:
            hidden = self.base(inputs_embeds=hidden, use_cache=False).last_hidden_state
        logits: torch.Tensor = self.head(hidden[:, -n:])
        return logits


class _NoPositions(nn.Module):
    def forward(self, position_ids: torch.Tensor) -> torch.Tensor:
        return torch.zeros((), device=position_ids.device)


def split(model: Any, train: str | int) -> tuple[nn.Module | None, nn.Module]:
    """Split a GPT-2 or a Llama into the frozen trunk (None with "full") and what learns. They share weights."""
    if train == "full":
        model.requires_grad_(True)
        return None, _Whole(model)
    base, k = model.base_model, 0 if train == "head" else int(train)
    names = {"gpt2": ("h", "ln_f"), "llama": ("layers", "norm")}
    blocks_name, norm_name = names[model.config.model_type]
    blocks = getattr(base, blocks_name)
    head = model.get_output_embeddings()
    if head.weight is model.get_input_embeddings().weight:
        head.weight = nn.Parameter(head.weight.detach().clone())
    model.requires_grad_(False)
    head.requires_grad_(True)
    if k == 0:
        return _Trunk(base), _Tail(None, head)
    learned = blocks[len(blocks) - k :]
    learned.requires_grad_(True)
    getattr(base, norm_name).requires_grad_(True)
    trunk = _with(base, **{blocks_name: blocks[: len(blocks) - k], norm_name: nn.Identity()})
    tail = _with(base, **{blocks_name: learned})
    for name, module in (("wpe", _NoPositions()), ("wte", None), ("embed_tokens", None)):
        if name in tail._modules:
            tail._modules[name] = module
    return _Trunk(trunk), _Tail(tail, head)


def _with(module: nn.Module, **children: nn.Module) -> nn.Module:
    """Return a shallow copy of a module with some children replaced."""
    twin = copy.copy(module)
    twin._modules = {**module._modules, **children}
    return twin
