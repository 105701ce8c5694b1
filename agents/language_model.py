"""Causal language models, seen without knowing any architecture by name.

Everything here is found by looking: the list of `num_hidden_layers` blocks, what runs after the last of them, whether
the logits really are the output embedding of the last hidden state. So any decoder of `transformers` fits, and one that
does not says so when it is loaded and not in the middle of a run.
"""

from __future__ import annotations

import copy
from typing import Any, Literal

import torch
from torch import nn

__all__ = ["LanguageModel", "TrainPart"]

TrainPart = Literal["full", "head"] | int


class LanguageModel(nn.Module):
    """A Hugging Face causal language model split into its trunk and its head.

    Args:
        model: any `AutoModelForCausalLM`. It is used in place: it is the model that learns.
        train: what learns: "full"; k, the last k blocks with the final norm and the head; or "head" (k = 0), the head
            alone. Everything else is frozen, and a head that is tied to the frozen input embedding is untied first.

    Raises:
        ValueError: `train` is out of range, or the model's logits are not its head applied to its last hidden state.
    """

    def __init__(self, model: nn.Module, train: TrainPart = "full") -> None:
        super().__init__()
        self.model: Any = model.eval()
        self.config: Any = model.config.get_text_config()  # type: ignore[operator, union-attr]
        self.soft_cap: float | None = getattr(self.config, "final_logit_softcapping", None)
        self._check_head()
        self._freeze(train)

    @property
    def hidden_size(self) -> int:
        return int(self.model.get_output_embeddings().weight.shape[1])

    @property
    def vocab_size(self) -> int:
        return int(self.model.get_output_embeddings().weight.shape[0])

    def hidden(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """Last hidden states of right-padded contexts: ids `(batch, length)` to `(batch, length, hidden_size)`."""
        return hidden_states(self.model.base_model, input_ids, attention_mask)

    def head(self, hidden: torch.Tensor) -> torch.Tensor:
        """Logits of last hidden states: `(..., hidden_size)` to `(..., vocab_size)`, in float32."""
        logits = self.model.get_output_embeddings()(hidden).float()
        if self.soft_cap:
            logits = self.soft_cap * torch.tanh(logits / self.soft_cap)
        return logits

    def forward(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor, rows: torch.Tensor, columns: torch.Tensor
    ) -> torch.Tensor:
        """Logits `(n, vocab_size)` after the tokens at `(rows, columns)`, each of shape `(n,)`."""
        return self.head(self.hidden(input_ids, attention_mask)[rows, columns])

    def trained_parameters(self) -> dict[str, nn.Parameter]:
        """The parameters that learn, by name; tied ones once."""
        return {name: p for name, p in self.named_parameters() if p.requires_grad}

    def copy_trunk(self) -> nn.Module:
        """A separate copy of the trunk, frozen where this one is."""
        return copy.deepcopy(self.model.base_model)

    @torch.no_grad()
    def _check_head(self) -> None:
        ids = torch.arange(2, device=self.model.device)[None]
        mask = torch.ones_like(ids)
        expected = self.model(input_ids=ids, attention_mask=mask, use_cache=False).logits.float()
        tolerance = float_tolerance(self.model.dtype)
        if not torch.allclose(self.head(self.hidden(ids, mask)), expected, atol=tolerance, rtol=tolerance):
            raise ValueError(
                f"the logits of {type(self.model).__name__} are not its output embedding applied to its last hidden "
                "state, so the policy cannot gather hidden states before the head; use a model of another kind"
            )

    def _freeze(self, train: TrainPart) -> None:
        if train == "full":
            self.model.requires_grad_(True)
            return
        kept = 0 if train == "head" else train
        blocks = self._blocks()
        if isinstance(kept, bool) or not isinstance(kept, int) or not 0 <= kept <= len(blocks):
            raise ValueError(f"train={train!r}: expected 'full', 'head' or a number of last blocks, 0 to {len(blocks)}")
        tail = self._modules_after(blocks[-1]) if kept else []
        self.model.requires_grad_(False)
        self._untie_head()
        for module in [*blocks[len(blocks) - kept :], *tail, self.model.get_output_embeddings()]:
            module.requires_grad_(True)

    def _blocks(self) -> nn.ModuleList:
        n_blocks = self.config.num_hidden_layers
        for module in self.model.modules():
            if isinstance(module, nn.ModuleList) and len(module) == n_blocks:
                return module
        raise ValueError(f"{type(self.model).__name__} has no list of {n_blocks} blocks: only train='full' fits it")

    @torch.no_grad()
    def _modules_after(self, last_block: nn.Module) -> list[nn.Module]:
        """The leaf modules of the trunk that first run after the last block: the final norm, a projection."""
        seen: list[nn.Module] = []
        before: set[int] = set()
        passed = False

        def record(module: nn.Module, *_: object) -> None:
            nonlocal passed
            if module is last_block:
                passed = True
            elif passed and id(module) not in before:
                seen.append(module)
            else:
                before.add(id(module))

        leaves = [m for m in self.model.base_model.modules() if not list(m.children())]
        hooks = [m.register_forward_hook(record) for m in [last_block, *leaves]]
        try:
            ids = torch.zeros((1, 1), dtype=torch.long, device=self.model.device)
            self.hidden(ids, torch.ones_like(ids))
        finally:
            for hook in hooks:
                hook.remove()
        return seen

    def _untie_head(self) -> None:
        """Give the head weights of its own, so that training it leaves the frozen input embedding alone."""
        head = self.model.get_output_embeddings()
        if head.weight is self.model.get_input_embeddings().weight:
            head.weight = nn.Parameter(head.weight.detach().clone())
            self.model.config.tie_word_embeddings = False
            self.config.tie_word_embeddings = False


def float_tolerance(dtype: torch.dtype) -> float:
    """How far two ways of computing the same thing may lie apart: 1e-3 in float32, 16 steps of coarser types."""
    return max(1e-3, 16 * torch.finfo(dtype).eps)


def hidden_states(trunk: nn.Module, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
    """Last hidden states `(batch, length, hidden_size)` of right-padded contexts, without a cache."""
    positions = torch.arange(input_ids.shape[1], device=input_ids.device)[None].expand_as(input_ids)
    output = trunk(input_ids=input_ids, attention_mask=attention_mask, position_ids=positions, use_cache=False)
    return output.last_hidden_state
