"""Put LoRA adapters on a model, find them in it, take its weights without them, and merge them."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from peft import LoraConfig
    from transformers import PreTrainedModel

__all__ = [
    "FIELDS",
    "LORA",
    "active_adapter",
    "adapter_layers",
    "adapter_weights",
    "add_adapters",
    "base_checksum",
    "base_weights",
    "check_targets",
    "has_adapters",
    "import_peft",
    "inject",
    "make_config",
    "merge_adapters",
]

LORA: dict[str, Any] = {"r": 16, "lora_alpha": 32, "target_modules": "all-linear"}  # the defaults
LINEAR = ("Linear", "Conv1D")  # the classes that "all-linear" means
# What a user may choose and a folder may say. peft's other fields change the base or import modules.
FIELDS = {"r", "lora_alpha", "target_modules", "exclude_modules", "use_rslora", "use_dora", "init_lora_weights"} | {
    *("layers_to_transform", "layers_pattern", "rank_pattern", "alpha_pattern", "fan_in_fan_out"),
}


def has_adapters(model: object) -> bool:
    """Return whether a model has adapters of peft on it, wrapped as a `PeftModel` or injected."""
    return hasattr(model, "peft_config")  # a PeftModel has it, and a model in which peft has injected adapters


def add_adapters(model: PreTrainedModel, lora: Mapping[str, Any] | None = None) -> None:
    """Put new adapters on a plain model; the model is frozen. The adapters' first output is 0.

    A vision-language model has them in its decoder alone, unless `lora` says what to exclude: its encoder of pictures
    and its projector stay as they are.

    Args:
        model: the base.
        lora: fields of `peft.LoraConfig` that replace those of `LORA`.

    Raises:
        ModuleNotFoundError: peft is not installed.
        ValueError: a field is unknown or out of range, or no linear layer matches.
    """
    if unknown := sorted((lora or {}).keys() - FIELDS):
        raise ValueError(f"lora has the unknown entry {unknown[0]!r}; there are {', '.join(sorted(FIELDS))}")
    fields = {**LORA, **(lora or {})}
    if not fields.get("exclude_modules") and (others := _outside_decoder(model)):
        fields["exclude_modules"] = others
    inject(model, make_config(fields, "lora: "), "lora: ")


def _outside_decoder(model: PreTrainedModel) -> list[str]:
    """Return the names of a vision-language model's linear layers outside its decoder; none of a model of text."""
    if getattr(model.config, "vision_config", None) is None:
        return []
    decoder = {id(module) for module in model.get_decoder().modules()}
    named = ((name, module) for name, module in model.named_modules() if type(module).__name__ in LINEAR)
    head = model.get_output_embeddings()
    return [name for name, module in named if id(module) not in decoder and module is not head]


def inject(model: PreTrainedModel, config: LoraConfig, where: str, name: str = "default") -> None:
    """Put adapters of this `name` on a plain model, in float32 whatever type the model has.

    The message of a ValueError begins with `where`.
    """
    peft = import_peft()
    linear = {name.rpartition(".")[2] for name, m in model.named_modules() if type(m).__name__ in LINEAR}
    # The output of an experts' router is no tensor, and peft counts Llama 4's among the linear layers.
    routers = [name for name, m in model.named_modules() if type(m).__name__.endswith("Router")]
    if routers and config.target_modules == "all-linear" and not isinstance(config.exclude_modules, str):
        config.exclude_modules = sorted({*(config.exclude_modules or ()), *routers})
    try:
        with _quiet():
            peft.inject_adapter_in_model(config, model, name)
        for key, parameter in model.named_parameters():
            if _in_adapters(key):
                parameter.data = parameter.data.float()  # else they get the base's type
        check_targets(model)
    except (ValueError, TypeError) as error:
        _unload(model, merge=False)
        raise ValueError(
            f"{where}no adapters fit on this {type(model).__name__} ({str(error).splitlines()[0]}); its linear layers "
            f"are {', '.join(sorted(linear)) or 'none'}"
        ) from error


def adapter_layers(module: torch.nn.Module) -> dict[str, Any]:
    """Return the layers that have adapters, by name, each with `enable_adapters` and the flag `disable_adapters`."""
    # A PreTrainedModel has a method of that name.
    return {name: m for name, m in module.named_modules() if isinstance(getattr(m, "disable_adapters", None), bool)}


def check_targets(model: PreTrainedModel) -> None:
    """Raise ValueError if a tied head or embedding has adapters: peft 0.21 merges them twice, in silence."""
    head, embedding = model.get_output_embeddings(), model.get_input_embeddings()
    if head.weight is embedding.weight and (adapter_layers(head) or adapter_layers(embedding)):
        raise ValueError(
            f"head and embedding of this {type(model).__name__} share their weights, and the adapters of one would "
            "change both: leave them out of target_modules"
        )


def make_config(fields: Mapping[str, Any], where: str) -> LoraConfig:
    """Return peft's configuration, after checking the fields that peft checks late or not at all."""
    peft = import_peft()
    rank, how = fields.get("r", 8), fields.get("init_lora_weights", True)
    if isinstance(rank, bool) or not isinstance(rank, int) or rank < 1:
        raise ValueError(f"{where}r={rank!r}: expected a rank of at least 1")
    if not isinstance(how, bool) and how != "gaussian":
        raise ValueError(f"{where}init_lora_weights={how!r} changes the base model: expected True or 'gaussian'")
    try:
        return peft.LoraConfig(**fields, task_type="CAUSAL_LM")
    except (TypeError, ValueError) as error:
        raise ValueError(f"{where}{error}") from error


def import_peft() -> Any:
    """Return the module peft. Raise ModuleNotFoundError with the fix if it is not installed."""
    try:
        import peft
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("adapters (train='lora') need peft: pip install 'rlhf-envs[train]'") from error
    return peft


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence peft about what is handled: the transposed layers of GPT-2 by peft, tied targets by `check_targets`."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "fan_in_fan_out|Model (has|with) `tie_word_embeddings=True`")
        yield


def adapter_weights(model: PreTrainedModel) -> dict[str, torch.Tensor]:
    """Return the weights of the active adapters, by their names in peft's files; they share the model's memory."""
    from peft import get_peft_model_state_dict

    state = get_peft_model_state_dict(model, adapter_name=active_adapter(model), save_embedding_layers=False)
    return {f"base_model.model.{name}": tensor.detach() for name, tensor in state.items()}


def active_adapter(model: PreTrainedModel) -> str:
    """Return the name of the adapters that are in use."""
    return str(next(iter(adapter_layers(model).values())).active_adapters[0])


def base_weights(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Return the state of a model without its adapters, by the names that it has without them."""
    return {
        name.replace(".base_layer.", "."): tensor
        for name, tensor in model.state_dict().items()
        if not _in_adapters(name)
    }


def _in_adapters(name: str) -> bool:
    """Return whether a name in the state of a model belongs to its adapters."""
    return any(part.startswith("lora_") for part in name.split("."))


def base_checksum(model: torch.nn.Module) -> str:
    """Return a SHA-256 of a model's weights, rounded to bfloat16, without its adapters.

    It is rounded so that a base loaded in bfloat16 has the checksum that it has in float32.
    """
    import torch

    digest, seen = hashlib.sha256(), set[int]()
    for name, tensor in sorted(base_weights(model).items()):
        if tensor.data_ptr() in seen:  # tied
            continue
        seen.add(tensor.data_ptr())
        values = tensor.detach().cpu().contiguous()
        values = values.to(torch.bfloat16).view(torch.int16) if values.is_floating_point() else values
        digest.update(f"{name} {tuple(values.shape)}\n".encode())
        digest.update(values.numpy().data)
    return digest.hexdigest()


def merge_adapters(model: PreTrainedModel) -> PreTrainedModel:
    """Merge the adapters of a model into its weights, in place, and return it plain.

    The logits before and after are compared: peft 0.21 adds the adapters of tied embeddings twice, in silence.

    Raises:
        ValueError: the merged model computes something else.
    """
    import torch

    config = model.config.get_text_config()
    length = min(getattr(config, "max_position_embeddings", None) or 8, 8)
    ids = torch.arange(length, device=model.device)[None] % config.vocab_size
    with torch.no_grad():
        expected = model(input_ids=ids, use_cache=False).logits
        _unload(model, merge=True)
        logits = model(input_ids=ids, use_cache=False).logits
    tolerance = max(1e-3, 16 * torch.finfo(logits.dtype).eps)
    if not torch.allclose(logits, expected, atol=tolerance, rtol=tolerance):
        raise ValueError(
            f"the merged {type(model).__name__} has other logits than the model with its adapters (up to "
            f"{(logits - expected).abs().max():.2g}): keep head and embedding out of target_modules"
        )
    return model


def _unload(model: PreTrainedModel, merge: bool) -> None:
    """Take the adapters off a model, in place; with `merge` they are added to its weights."""
    for name, layer in adapter_layers(model).items():
        if hasattr(layer, "unload_and_optionally_merge_module"):  # a whole module that learns, beside the old one
            plain = layer.unload_and_optionally_merge_module(merge=merge, safe_merge=False, adapter_names=None)
        else:
            if merge:
                layer.merge()
            plain = layer.get_base_layer()
        model.set_submodule(name, plain)
    vars(model).pop("peft_config", None)
    model._hf_peft_config_loaded = False  # else transformers saves adapters alone
