"""Know the adapters of a language model: what learns, the model without them, and how they are written."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rlhf_envs.models.adapters import (
    active_adapter,
    adapter_layers,
    add_adapters,
    base_checksum,
    check_targets,
    has_adapters,
    merge_adapters,
    save_adapters,
    save_config,
)
from rlhf_envs.models.layer_names import NAMED, has_patterns

__all__ = ["Adapters"]

BELOW = ("base_layer.", "original_module.")  # what peft calls the modules below its adapters


class Adapters:
    """Know the adapters in a language model. This is no module: the parameters are the model's own.

    Args:
        model: a plain model, which gets LoRA adapters in place, or a model that has adapters of peft, such as a
            `PeftModel`, which is taken as it is.
        lora: fields of `peft.LoraConfig` for new adapters, see `rlhf_envs.models.adapters.LORA`.

    Attributes:
        model: the language model with the adapters in its layers.

    Raises:
        ValueError: adapters of this kind cannot learn here, or do not fit the model.
    """

    def __init__(self, model: Any, lora: Mapping[str, Any] | None = None) -> None:
        if has_adapters(model):
            model = model.get_base_model() if hasattr(model, "get_base_model") else model
            _check(model, lora or {})
        else:
            add_adapters(model, lora)
        self.model: Any = model
        self._layers = [*adapter_layers(model).values()]
        self._checksum: str | None = None

    @contextmanager
    def off(self) -> Iterator[None]:
        """Let the model compute what its base does while a `with` block runs. What learns stays the same."""
        learns = [(p, p.requires_grad) for layer in self._layers for p in layer.parameters()]
        for layer in self._layers:
            layer.enable_adapters(False)
        try:
            yield
        finally:
            for layer in self._layers:
                layer.enable_adapters(True)
            for parameter, before in learns:  # peft lets all active adapters learn, also those that were frozen
                parameter.requires_grad_(before)

    def base_checksum(self) -> str:
        """Return the checksum of the base, which is computed once: the base never changes."""
        if self._checksum is None:
            self._checksum = base_checksum(self.model)
        return self._checksum

    def save(self, directory: str | Path, base: str | None) -> None:
        """Write a folder of adapters, with the name of their base.

        Raises:
            ValueError: the base has no name, so that nobody could load the folder.
        """
        base = base or self.model.config.name_or_path
        if not base:
            raise ValueError(
                "the base of these adapters has no name to load it by: write the whole model, "
                "save_pretrained(directory, merge=True)"
            )
        save_adapters(self.model, directory, base, self.base_checksum())

    def save_config(self, directory: Path, base: str | None) -> None:
        """Write the configuration of the adapters without their weights."""
        save_config(self.model, directory, base)

    def merged(self) -> Any:
        """Return a plain copy of the model, in float32, with the adapters merged into its weights."""
        return merge_adapters(copy.deepcopy(self.model).float())


def _check(model: Any, lora: Mapping[str, Any]) -> None:
    """Check that a model that has adapters can be taken as it is; let adapters learn that were loaded for inference.

    Raises:
        ValueError: the model has no adapters in its layers, or other ones than `lora` says; its tied head has some; or
            its base learns too.
    """
    layers = adapter_layers(model).values()
    if not layers:
        kinds = ", ".join(type(config).__name__ for config in getattr(model, "peft_config", {}).values())
        raise ValueError(
            f"this {type(model).__name__} has no adapters in its layers ({kinds or 'a prompt that learns?'}): what "
            "changes the tokens that a model reads cannot be switched off; take LoRA adapters"
        )
    config = model.peft_config[active_adapter(model)]
    # peft writes full names for "all-linear", and a folder has names where patterns were given.
    for name in lora.keys() - (NAMED if has_patterns(lora) else {"target_modules"}):
        if (own := getattr(config, name, None)) != lora[name]:
            raise ValueError(
                f"lora: {name}={lora[name]!r}, and the adapters of the given model have {own!r}: leave lora out"
            )
    check_targets(model)
    learn = {id(p) for layer in layers for name, p in layer.named_parameters() if not name.startswith(BELOW)}
    if not any(p.requires_grad for p in model.parameters()):
        for layer in layers:
            layer.set_adapter([active_adapter(model)])
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and id(parameter) not in learn:
            raise ValueError(
                f"{name} of the base learns beside the adapters, and the base is the reference: freeze it, "
                "requires_grad_(False) (peft does, with bias='none')"
            )
