"""Share what all policies of this package are: a causal language model, its reference and its decoding options."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from gymnasium import spaces
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.type_aliases import PyTorchObs, Schedule
from torch import nn

from rlhf_envs.models import has_tokenizer, load_tokenizer, no_progress_bars
from rlhf_envs.models.adapters import adapter_base, base_weights, is_adapter_folder
from rlhf_envs.models.vision import save_processor
from rlhf_envs.tokens import end_ids

from .checks import check_arguments, check_gradients, check_packing, check_picture_space, check_sizes
from .distribution import TokenDistribution, keep_top
from .language_model import LanguageModel, Snapshot, TrainPart
from .models import find_model, save_drawing
from .observations import PIXELS
from .plain_card import write_plain_card
from .precision import check_device, check_dtype, keep_float32, set_attention, store_frozen
from .sharding import Shards
from .trunk import Trunk

__all__ = ["LanguageModelPolicy"]

AUTOCASTING = ("cpu", "cuda", "mps", "xpu")  # the kinds of devices that torch can autocast on


class LanguageModelPolicy(ActorCriticPolicy):
    """Hold a causal language model whose actions are tokens; how it acts and what it learns is up to a subclass.

    Observations are the token environments' `Dict(input_ids, attention_mask)`: right-padded contexts of shape
    `(batch, length)`, and where a subclass `reads_pictures` also `pixel_values`, one picture per episode. They are
    read through a KV cache with one slot per environment (`SlottedTrunk`).

    The *reference* is the model as it was before training. Only the parameters that learn have a second copy. With
    adapters the reference is the model without them, also where they have been trained before.

    Args:
        model: a name that `rlhf_envs.models.resolve` knows ("tiny", a folder of a model or of adapters, a hub id), or a
            `PreTrainedModel`, which is trained in place, or a `PeftModel`, whose adapters learn. With None, "tiny" if
            the action space is its vocabulary, else a small fresh model that fits the action space.
        train: what learns. "full": the whole model, or the adapters that it has. "lora": LoRA adapters (peft) and the
            value head. A number k: the last k blocks, the final norm and the heads. "head": the heads alone, the same
            as k = 0.
        lora: with "lora", fields of `peft.LoraConfig`; by default `dict(r=16, lora_alpha=32,
            target_modules="all-linear")`, adapters at all linear layers but the head. In float32 a rollout holds a
            merged copy of the weights that have adapters, which is freed before the update.
        temperature: divides the logits, in sampling and in the log-probabilities of rollout and update alike.
        top_k, top_p: keep the k most probable tokens, or the smallest set with a probability of at least p. They too
            enter the log-probabilities. The token that was taken always counts as kept, so that its log-probability
            stays finite when an update drops it from the set. The reference is read in the same way. A token that only
            the policy keeps therefore costs a finite KL, slightly less than it should.
        bf16: run the model under bfloat16 autocast, in rollout and update. Weights, logits, values and
            log-probabilities stay float32.
        dtype: "float32", or "bfloat16" to store frozen matrices in it (see `agents.core.precision`) and compute as with
            `bf16`. What learns stays float32, so that with "bfloat16" something has to be frozen.
        attn_implementation: how attention is computed, one of "eager", "sdpa", "flash_attention_2", "flex_attention";
            None leaves it to transformers.
        gradient_checkpointing: keep only the inputs of the model's blocks for the backward pass, which runs the blocks
            again: much less memory for about a third more time of updates. Rollouts are as without.
        cuda_graphs: decode on a GPU by replaying CUDA graphs (see `agents.core.graph_decode`), which keep the memory of
            the KV cache also while the policy is updated. False decodes eagerly, which is slower and frees it.
        packing: in a pass over whole sequences, put several short ones into a row, if the model tells them apart and
            that saves at least a tenth of the pass (see `agents.core.packing`). False pads them instead. By default
            they are padded in bfloat16 alone, where a shared row is rounded otherwise than a row of its own, so that
            the first ratio of an update would not be 1.
        optimizer_class, optimizer_kwargs: as in SB3. The default is Adam, fused and with eps 1e-5; what is given goes
            before these two.

    Raises:
        ValueError: the spaces, the model and the arguments do not fit together.

    Attributes:
        base_name: the name of the model below the adapters; None without adapters, or if it has no name.
        is_language_model: whether the model that `save_pretrained` writes is all of the policy.
        reads_action_masks: whether tokens are chosen under the environment's action masks.
        shardable: whether ranks can share its weights: it has no networks but the language model and a value head.
        reads_pictures: whether it reads the key `pixel_values` of observations, with a vision-language model.
        shards: what shares the weights among the ranks of a run; None without `agents.core.sharding.shard`.
        kl_coef: a copy of the adaptive KL coefficient, a scalar. The rollout buffer's `KLController` owns the
            coefficient; the copy is here because a saved policy keeps it and a saved buffer may not exist.
    """

    is_language_model: ClassVar[bool] = True
    reads_action_masks: ClassVar[bool] = False
    reads_pictures: ClassVar[bool] = False
    shardable: ClassVar[bool] = False
    shards: Shards | None = None
    kl_coef: torch.Tensor
    _arguments: dict[str, Any]

    def __new__(cls, *_: Any, **arguments: Any) -> LanguageModelPolicy:
        """Remember the arguments, which `save` and SB3's own `load` need to build the policy again."""
        policy = super().__new__(cls)
        policy._arguments = arguments
        return policy

    def __init__(
        self,
        observation_space: spaces.Space[Any],
        action_space: spaces.Space[Any],
        lr_schedule: Schedule,
        *,
        model: str | Any | None = None,
        train: TrainPart = "full",
        lora: Mapping[str, Any] | None = None,
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float | None = None,
        bf16: bool = False,
        dtype: str = "float32",
        attn_implementation: str | None = None,
        gradient_checkpointing: bool = False,
        cuda_graphs: bool = True,
        packing: bool | None = None,
        use_sde: bool = False,
        optimizer_class: type[torch.optim.Optimizer] = torch.optim.Adam,
        optimizer_kwargs: dict[str, Any] | None = None,
    ) -> None:
        keys = {"input_ids", "attention_mask", *([PIXELS] if self.reads_pictures else [])}
        check_arguments(observation_space, action_space, temperature, top_k, top_p, use_sde, keys)
        check_dtype(dtype)
        if optimizer_class is torch.optim.Adam:
            given = optimizer_kwargs or {}
            others = given.get("foreach") or given.get("differentiable")  # what torch does not fuse
            optimizer_kwargs = dict(eps=1e-5, fused=not others) | given
        optimizer: dict[str, Any] = dict(optimizer_class=optimizer_class, optimizer_kwargs=optimizer_kwargs)
        super().__init__(observation_space, action_space, lr_schedule, **optimizer)
        self.dtype, self.bf16 = dtype, bf16 or dtype == "bfloat16"
        self.gradient_checkpointing = gradient_checkpointing
        self.temperature, self.top_k, self.top_p = temperature, top_k, top_p
        self.n_actions = int(action_space.n)  # type: ignore[attr-defined]
        self.max_length = int(observation_space["input_ids"].shape[0])  # type: ignore[index]
        self.picture = check_picture_space(observation_space)
        sees = self.picture is not None
        network, self.model_name = find_model(model, action_space, self.max_length, getattr(torch, dtype), sees)
        if dtype == "float32" and lr_schedule(1):  # a policy that is only evaluated never learns
            keep_float32(network)
        self.language_model = LanguageModel(network, train, lora, None if self.picture is None else self.picture.shape)
        if dtype == "bfloat16":
            trains_all = train == "full" and self.language_model.adapters is None
            store_frozen(self.language_model.model, trains_all)
        if attn_implementation is not None:
            set_attention(self.language_model.model, attn_implementation)
        self.train_part = "lora" if self.language_model.adapters else train
        self.base_name = _base_name(self.model_name) if self.language_model.adapters else None
        check_sizes(self.language_model, self.model_name, self.n_actions, self.max_length)
        check_packing(self.language_model, packing)
        with self.autocast() if dtype == "bfloat16" else nullcontext():  # what they try out is exact in float32
            trunk = self.language_model.trunk
            self._actor = Trunk(trunk, self.max_length, self.language_model, checkpointing=gradient_checkpointing)
            if not cuda_graphs:
                self._actor.cache.graphs = None
            self._actor.packs &= not self.bf16 if packing is None else packing
            self._build_heads()
        trained = [p for p in self.parameters() if p.requires_grad]
        self.optimizer = optimizer_class(trained, lr=lr_schedule(1), **self.optimizer_kwargs)  # type: ignore[call-arg]
        self.optimizer.register_step_pre_hook(self._check_gradients)
        self.set_training_mode(False)

    # Construction

    def _build(self, lr_schedule: Schedule) -> None:
        """Build nothing here, where SB3 would build its MLPs: `_build_heads` is called once the model is there."""

    def _build_heads(self) -> None:
        """Build the networks besides the language model; a subclass adds its own networks."""
        self.value_net = nn.Linear(self.language_model.hidden_size, 1)
        nn.init.zeros_(self.value_net.weight)
        nn.init.zeros_(self.value_net.bias)
        self.reference = Snapshot(self.language_model.trained_parameters())
        self.register_buffer("kl_coef", torch.tensor(torch.nan))

    def _check_gradients(self, *_: object) -> None:
        check_gradients(self.named_parameters())

    def _get_constructor_parameters(self) -> dict[str, Any]:
        spaces_and_rate = dict(observation_space=self.observation_space, action_space=self.action_space)
        return self._arguments | spaces_and_rate | {"lr_schedule": self._dummy_schedule}

    # The model

    def autocast(self) -> AbstractContextManager[Any]:
        """Return the context in which the model runs: bfloat16 autocast with `bf16` or `dtype`, else float32."""
        if not self.bf16 and not any(map(torch.is_autocast_enabled, AUTOCASTING)):  # this is entered at every step
            return nullcontext()
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16)

    def to(self, *args: Any, **kwargs: Any) -> Self:
        """Move the policy, as `torch.nn.Module.to`.

        Raises:
            ValueError: the device does not compute in bfloat16, and the policy does.
        """
        super().to(*args, **kwargs)
        if self.bf16:
            check_device(self.device)
        return self

    def embedding(self) -> Any:
        """Return the module that turns the actor's token ids into vectors."""
        return self._actor.module.get_input_embeddings()  # type: ignore[operator]

    def hidden(self, obs: PyTorchObs, trunk: Trunk | None = None, needed: torch.Tensor | None = None) -> torch.Tensor:
        """Return the last hidden states at the places where actions are chosen, shape `(n, hidden_size)`.

        With `rows` and `columns` in `obs`, a row of `input_ids` is a whole sequence, and place i is its token
        `(rows[i], columns[i])`. Otherwise every row is one context and its place is its last token; without gradients
        such contexts go through the KV cache, which spares rows that are not `needed`, `(n,)` bool. The trunk that runs
        is the actor's by default.
        """
        assert isinstance(obs, dict)
        with self.autocast():
            return (self._actor if trunk is None else trunk).hidden(obs, needed)

    def padded(self) -> AbstractContextManager[None]:
        """Return a context in which the actor gives every sequence a row of its own, whatever `packing` says."""
        return self._actor.padded()

    def set_training_mode(self, mode: bool) -> None:
        """Stay in evaluation mode: dropout would make the update's log-probabilities differ from the rollout's.

        With True an update is about to come, so the KV cache is emptied.
        """
        super().set_training_mode(False)
        if mode:
            self._actor.cache.clear()

    # Decoding

    def get_distribution(self, obs: PyTorchObs) -> TokenDistribution:
        """Return the distribution of the next token of every context."""
        raise NotImplementedError

    def masks(self, obs: PyTorchObs) -> tuple[torch.Tensor, ...]:
        """Return what a subclass forbids tokens by, tensors `(n, ...)` for the n actions of `obs`; none here."""
        return ()

    def allowed(self, taken: torch.Tensor | None, *masks: torch.Tensor) -> torch.Tensor:
        """Return the tokens that may be chosen, bool `(n, n_actions)`, from what `masks` returned.

        It is called only where `masks` returned something. The tokens `taken`, `(n,)`, have to be among them.
        """
        raise NotImplementedError

    def distribution_after(self, hidden: torch.Tensor, *masks: torch.Tensor) -> TokenDistribution:
        """Return the language model's distribution of the next token after hidden states `(n, hidden_size)`.

        Raises:
            FloatingPointError: the logits are not finite.
        """
        with self.autocast():
            logits = self.action_logits(hidden, None, *masks)
        return TokenDistribution(self.n_actions).proba_distribution(logits)

    def action_logits(self, hidden: torch.Tensor, actions: torch.Tensor | None, *masks: torch.Tensor) -> torch.Tensor:
        """Return the logits that tokens are drawn by, `(n, n_actions)`, from hidden states `(n, hidden_size)`."""
        return self.decoding_logits(self.language_model.head(hidden), actions, *masks)

    def decoding_logits(
        self, logits: torch.Tensor, taken: torch.Tensor | None = None, *masks: torch.Tensor
    ) -> torch.Tensor:
        """Turn the model's logits `(n, vocab_size)` into the logits that tokens are drawn by, `(n, n_actions)`.

        They are cut to the action space and divided by the temperature. Tokens that `masks` forbid, and then tokens
        outside top-k and top-p, get -inf. The tokens `taken`, `(n,)`, always stay.
        """
        logits = logits[..., : self.n_actions]
        if (mark := self.language_model.picture_token) is not None and mark < self.n_actions:
            logits = logits.clone()
            logits[..., mark] = -torch.inf  # no text has it: a picture would be missing at its place
        if self.temperature != 1.0:
            logits = logits / self.temperature
        if masks:
            logits = logits.masked_fill(~self.allowed(taken, *masks), -torch.inf)
        return keep_top(logits, self.top_k, self.top_p, taken)

    def decode(self, ids: Any) -> str | list[int]:
        """Return the text of token ids, or the ids themselves if the model has no tokenizer."""
        if self.model_name is None or not has_tokenizer(self.model_name):
            return [int(i) for i in ids]
        return str(load_tokenizer(self.model_name).decode(ids))

    # The reference

    @torch.no_grad()
    def reference_logits(self, *inputs: torch.Tensor) -> torch.Tensor:
        """Return what `LanguageModel.logits` returns for the same inputs, by the reference."""
        return self._as_reference(self.language_model.logits, *inputs)

    def reference_decoding_logits(
        self, logits: torch.Tensor, taken: torch.Tensor | None = None, *masks: torch.Tensor
    ) -> torch.Tensor:
        """Turn the reference's logits into the logits that its tokens are drawn by, as `decoding_logits` does."""
        return self.decoding_logits(logits, taken, *masks)

    def _as_reference(self, function: Callable[..., torch.Tensor], *args: Any) -> torch.Tensor:
        """Call a function of the model without its adapters, or else with the parameters from before training."""
        if self.shards is not None and self.shards.reading_reference:
            with self.autocast():
                return function(*args)
        if self.language_model.adapters is None:
            return self._with(self.reference, function, *args)
        with self.language_model.adapters.off(), self.autocast():
            return function(*args)

    def _with(self, snapshot: Snapshot, function: Callable[..., torch.Tensor], *args: Any) -> torch.Tensor:
        """Call a function of the model with the parameters of a snapshot."""
        parameters = snapshot.parameters_by_name()
        with self.autocast():
            result: torch.Tensor = torch.func.functional_call(self.language_model, parameters, (function, *args))
        return result

    def at_reference(self) -> AbstractContextManager[None]:
        """Return a context in which the reference is at hand. With `shards` all ranks have to enter it."""
        return nullcontext() if self.shards is None else self.shards.reference()

    def start_parameters(self) -> dict[str, tuple[nn.Parameter, torch.Tensor]]:
        """Return the parameters that learn and act, by name, each with the value it had before training."""
        first = self.reference.parameters_by_name()
        return {name: (p, first[name]) for name, p in self.language_model.trained_parameters().items()}

    @contextmanager
    def at_start(self) -> Iterator[None]:
        """Give the policy its parameters from before training while a `with` block runs."""
        start = self.start_parameters()
        learned = {name: parameter.data for name, (parameter, _) in start.items()}
        self.set_training_mode(True)  # empties the caches
        try:
            for parameter, first in start.values():
                parameter.data = first
            yield
        finally:
            for name, (parameter, _) in start.items():
                parameter.data = learned[name]
            self.set_training_mode(True)
            self.set_training_mode(False)

    # Saving

    def base_entries(self) -> set[str]:
        """Return the names in the state of what belongs to the base of adapters, which never changes."""
        if self.language_model.adapters is None:
            return set()
        memory = {tensor.data_ptr() for tensor in base_weights(self.language_model.model).values()}
        return {name for name, tensor in self.state_dict().items() if tensor.numel() and tensor.data_ptr() in memory}

    def save_pretrained(self, directory: str | Path, merge: bool = False, **generation: Any) -> None:
        """Write a plain Hugging Face model, or the adapters alone; with its tokenizer if the model was given by name.

        The weights are float32, whatever `dtype` is. The `generation_config.json` draws tokens as the policy does,
        with its temperature, top_k and top_p. It ends texts where episodes end: a chat template's end of a turn is an
        EOS there. A model card (README.md) says what is known, unless there is one of somebody else's.

        Args:
            directory: the folder to write.
            merge: write a plain model where there are adapters, with the adapters merged into the weights.
            **generation: further fields of that file, such as `max_new_tokens`.

        Raises:
            ValueError: the base of the adapters has no name, or the merged model does not have the policy's logits.
        """
        adapters, model = self.language_model.adapters, self.language_model.model
        if adapters is not None and not merge:
            adapters.save(directory, self.base_name)
        else:
            if adapters is not None:
                plain = adapters.merged()
            else:  # a file has one type
                plain = copy.deepcopy(model).float() if self.dtype == "bfloat16" else model
            with no_progress_bars():
                plain.save_pretrained(directory)
        if self.model_name is not None and has_tokenizer(self.model_name):
            tokenizer = load_tokenizer(self.model_name)
            tokenizer.save_pretrained(directory)
            save_processor(self.model_name, directory)
            generation = {"eos_token_id": end_ids(tokenizer, self.model_name), **generation}
        save_drawing(model, directory, self.temperature, self.top_k, self.top_p, **generation)
        base, is_adapter = self.base_name or self.model_name, adapters is not None and not merge
        write_plain_card(directory, base, getattr(self, "picture", None) is not None, is_adapter)


def _base_name(name: str | None) -> str | None:
    """Return the name of the base of a model that has adapters: its own, unless it is a folder of adapters."""
    return adapter_base(name) if name is not None and is_adapter_folder(name) else name
