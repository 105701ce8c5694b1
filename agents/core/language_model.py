"""Take a causal language model apart without knowing any architecture by name.

Everything is found by looking: the list of `num_hidden_layers` blocks, the modules that run after the last block, and
whether the logits are the output embedding of the last hidden state. So any decoder of `transformers` fits, and a model
that does not fit is refused when it is loaded, not in the middle of a run.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from typing import Any, Literal

import torch
from torch import nn

from rlhf_envs.models.adapters import has_adapters
from rlhf_envs.models.kinds import check_text_decoder

from .adapters import Adapters
from .forward_pass import find_blocks, hidden_states, nearly_equal
from .pictures import as_model_input, check_vision_model, try_pictures
from .split_trunk import SplitTrunk

__all__ = ["LanguageModel", "Snapshot", "TrainPart"]

TrainPart = Literal["full", "lora", "head"] | int

# Fields of configurations by which models multiply (1) or divide (-1) their logits; some do the opposite.
SCALES = {"logits_scaling": -1, "logit_scale": 1, "lm_head_multiplier": 1}


class LanguageModel(nn.Module):
    """Split a Hugging Face causal language model into its trunk and its head.

    Args:
        model: any `AutoModelForCausalLM`. It is used in place: it is the model that learns. A `PeftModel` learns with
            its own adapters, whether `train` is "full" or "lora".
        train: what learns. "full": everything. "lora": adapters. k: the last k blocks, the final norm and the head.
            "head" (k = 0): the head alone. The rest is frozen, and a head that is tied to the frozen input embedding is
            untied first; with "lora" it stays tied.
        lora: with "lora", fields of `peft.LoraConfig` that replace `rlhf_envs.models.adapters.LORA`.
        picture: the shape `(n, channels, height, width)` of the picture that comes with every context, which an
            `AutoModelForImageTextToText` reads; None for contexts of text alone.

    Attributes:
        adapters: the adapters that learn, or None.
        scale: what the model multiplies the output of its head by.
        nests_pictures: whether the model takes the pictures of a context as `(batch, n, ...)`, not as `(batch, ...)`.
        picture_token: the id that marks the place of a picture, which is never drawn; None without pictures.

    Raises:
        ValueError: `train` is out of range, the adapters do not fit the model, it is no decoder of text alone, or its
            logits are not its head applied to its last hidden state; or it reads no pictures, and some come.
    """

    nests_pictures = False
    picture_token: int | None = None

    def __init__(
        self,
        model: Any,
        train: TrainPart = "full",
        lora: Mapping[str, Any] | None = None,
        picture: tuple[int, ...] | None = None,
    ) -> None:
        super().__init__()
        if picture is None:
            check_text_decoder(model.config, f"this {type(model).__name__}")
        else:
            self.picture_token = check_vision_model(model)
        self.adapters = self._adapters(model, train, lora)
        self.model: Any = (model if self.adapters is None else self.adapters.model).eval()
        self.config: Any = self.model.config.get_text_config()
        self.soft_cap: float | None = getattr(self.config, "final_logit_softcapping", None)
        self.scale = 1.0
        self._check()
        if picture is not None:
            self.nests_pictures = try_pictures(self.trunk, picture, int(model.config.image_token_id))
        self.n_frozen = self._freeze(train)

    @staticmethod
    def _adapters(model: Any, train: TrainPart, lora: Mapping[str, Any] | None) -> Adapters | None:
        if has_adapters(model) and train not in ("full", "lora"):
            raise ValueError(f"train={train!r}: this {type(model).__name__} learns with its adapters; take 'lora'")
        if has_adapters(model) or train == "lora":
            return Adapters(model, lora)
        if lora is not None:
            raise ValueError(f"lora={dict(lora)} with train={train!r}: adapters need train='lora'")
        return None

    @property
    def trunk(self) -> Any:
        """Return the model without its head."""
        trunk = self.model.base_model
        return trunk if trunk is not self.model else self.model.model  # Llama 4's base model is itself

    @property
    def hidden_size(self) -> int:
        return int(self.model.get_output_embeddings().weight.shape[1])

    @property
    def vocab_size(self) -> int:
        return int(self.model.get_output_embeddings().weight.shape[0])

    def head(self, hidden: torch.Tensor) -> torch.Tensor:
        """Return the logits of last hidden states: `(..., hidden_size)` to `(..., vocab_size)`, in float32.

        They are computed in the head's own type, also under autocast.
        """
        head = self.model.get_output_embeddings()
        with torch.autocast(hidden.device.type, enabled=False):
            logits = head(hidden.to(head.weight.dtype)).float()
        if self.scale != 1:
            logits = logits * self.scale
        if self.soft_cap:
            logits = self.soft_cap * torch.tanh(logits / self.soft_cap)
        return logits

    def logits(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        rows: torch.Tensor,
        columns: torch.Tensor,
        pixels: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Return the logits `(n, vocab_size)` after the tokens at `(rows, columns)` of right-padded contexts.

        `pixels` are observations' `pixel_values`.
        """
        pixels = as_model_input(pixels, self.nests_pictures)
        return self.head(hidden_states(self.trunk, input_ids, attention_mask, pixels=pixels)[rows, columns])

    def forward(self, function: Callable[..., Any], *args: Any) -> Any:
        """Call a function that reads this model, so that `torch.func.functional_call` can give it other parameters."""
        return function(*args)

    def trained_parameters(self) -> dict[str, nn.Parameter]:
        """Return the parameters that learn, by name; tied ones once."""
        return {name: p for name, p in self.named_parameters() if p.requires_grad}

    def copy_trunk(self) -> nn.Module:
        """Return a second trunk: it shares the frozen parameters and has its own copies of the others."""
        frozen = {id(p): p for p in self.trunk.parameters() if not p.requires_grad}
        return copy.deepcopy(self.trunk, frozen)

    def split(self, trunk: nn.Module) -> SplitTrunk | None:
        """Split this trunk, or its copy, into the frozen part and the rest; return None if it does not split."""
        if self.n_frozen is None:
            return None
        split = SplitTrunk(trunk, find_blocks(trunk, self.config.num_hidden_layers), self.n_frozen)
        if not (reason := split.try_out()):
            return split
        again = f"{type(trunk).__name__} runs its frozen blocks again in every epoch, which is slow: {reason}"
        warnings.warn(again, stacklevel=3)
        return None

    @torch.no_grad()
    def _check(self) -> None:
        """Check that no token changes what comes before it, and that head and trunk make the logits; find the scale."""
        length = min(getattr(self.config, "max_position_embeddings", None) or 4, 4)
        ids = torch.tensor([[0, 1, 0, 1], [0, 1, 0, 0]], device=self.model.device)[:, -length:]
        mask = torch.ones_like(ids)
        hidden = hidden_states(self.trunk, ids, mask)
        dtype, name = self.model.dtype, type(self.model).__name__
        tolerance = max(1e-5, 4 * torch.finfo(dtype).eps)  # the shapes are the same, so even the rounding is
        if not torch.allclose(hidden[0, :-1], hidden[1, :-1], atol=tolerance, rtol=tolerance):
            raise ValueError(
                f"{name} is bidirectional: another last token changes the hidden states before it, so the "
                "probabilities of a text are no product over its tokens; take a causal language model"
            )
        expected = self.model(input_ids=ids, attention_mask=mask, use_cache=False).logits.float()
        for scale in self._scales():
            self.scale = scale
            if nearly_equal(self.head(hidden), expected, dtype):
                return
        raise ValueError(
            f"the logits of {name} are not its output embedding applied to its last hidden state, so the policy cannot "
            "gather hidden states before the head; use a model of another kind"
        )

    def _scales(self) -> list[float]:
        """Return what the logits may be multiplied by according to the configuration, the likeliest first."""
        given = [(float(v), sign) for name, sign in SCALES.items() if (v := getattr(self.config, name, None))]
        return [value**power for value, sign in given for power in (sign, -sign)] + [1.0]

    def _freeze(self, train: TrainPart) -> int | None:
        """Freeze what does not learn. Return how many of the first blocks never change; None if everything learns."""
        if self.adapters is not None:  # peft has frozen the rest
            return None
        if train == "full":
            self.model.requires_grad_(True)
            return None
        kept = 0 if train == "head" else train
        blocks = find_blocks(self.trunk, self.config.num_hidden_layers)
        if isinstance(kept, bool) or not isinstance(kept, int) or not 0 <= kept <= len(blocks):
            raise ValueError(
                f"train={train!r}: expected 'full', 'lora', 'head' or a number of last blocks, 0 to {len(blocks)}"
            )
        tail = self._modules_after(blocks[-1]) if kept else []
        self.model.requires_grad_(False)
        self._untie_head()
        for module in [*blocks[len(blocks) - kept :], *tail, self.model.get_output_embeddings()]:
            module.requires_grad_(True)
        return len(blocks) - kept

    @torch.no_grad()
    def _modules_after(self, last_block: nn.Module) -> list[nn.Module]:
        """Return the leaf modules of the trunk that first run after the last block: the final norm, a projection."""
        ran: list[nn.Module] = []  # in the order in which they ended
        ids = torch.zeros((1, 1), dtype=torch.long, device=self.model.device)
        leaves = [m for m in self.trunk.modules() if not list(m.children())]
        with ExitStack() as hooks:
            for module in [last_block, *leaves]:
                hooks.enter_context(module.register_forward_hook(lambda module, *_: ran.append(module)))
            hidden_states(self.trunk, ids, torch.ones_like(ids))
        end = ran.index(last_block) + 1
        return [module for module in ran[end:] if module not in ran[:end]]

    def _untie_head(self) -> None:
        """Give the head weights of its own, so that training it leaves the frozen input embedding alone."""
        head = self.model.get_output_embeddings()
        if head.weight is self.model.get_input_embeddings().weight:
            head.weight = nn.Parameter(head.weight.detach().clone())
            self.model.config.tie_word_embeddings = False
            self.config.tie_word_embeddings = False


class Snapshot(nn.Module):
    """Hold frozen copies of parameters, as buffers: they move with the policy, are saved with it and never learn."""

    def __init__(self, parameters: dict[str, nn.Parameter]) -> None:
        super().__init__()
        for name, parameter in parameters.items():
            self.register_buffer(name.replace(".", "/"), parameter.detach().clone())

    def parameters_by_name(self) -> dict[str, torch.Tensor]:
        """Return the copies by the names of their originals."""
        return {name.replace("/", "."): value for name, value in self.named_buffers()}

    @torch.no_grad()
    def take(self, parameters: dict[str, nn.Parameter]) -> None:
        """Copy the values of parameters with the same names."""
        for name, value in self.parameters_by_name().items():
            value.copy_(parameters[name])
