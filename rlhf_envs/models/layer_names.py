"""Say which layers have LoRA adapters by their names alone.

peft matches some fields of its configuration as regular expressions, and one made for it takes for ever. So files have
names only: patterns that a user gives are replaced by the names that they stand for when adapters are saved.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

__all__ = ["NAMED", "check_names", "has_patterns", "spell_out"]

# The fields that say which layers have adapters, and with which rank and scale.
NAMED = {"target_modules", "exclude_modules", "layers_to_transform", "layers_pattern", "rank_pattern", "alpha_pattern"}
MATCHED = ("target_modules", "exclude_modules", "layers_pattern", "rank_pattern", "alpha_pattern")
NAME = re.compile(r"[\w.-]+")


def has_patterns(fields: Mapping[str, Any]) -> bool:
    """Return whether fields of `peft.LoraConfig` have a regular expression, or what is no name at all."""
    return any(_is_pattern(name, fields.get(name)) for name in MATCHED)


def check_names(fields: Mapping[str, Any], weights: Iterable[str], where: str) -> None:
    """Raise ValueError, which begins with `where`, if the fields in a file have a regular expression.

    The message has the names of the layers that the names of the adapters' `weights` tell.
    """
    if (name := next((name for name in MATCHED if _is_pattern(name, fields.get(name))), None)) is None:
        return
    layers = sorted({key.rpartition(".lora_")[0].rpartition(".")[2] for key in weights} - {""})
    raise ValueError(
        f"{where}{name}={fields[name]!r:.80} may be a regular expression, which can take for ever to match and is not "
        f"taken from a file: write the names of the layers (its weights are of {', '.join(layers) or 'none'})"
    )


def spell_out(layers: Mapping[str, Any], rank: int, alpha: float, adapter: str) -> dict[str, Any]:
    """Return the fields `NAMED` for layers with adapters, without patterns.

    Args:
        layers: peft's layers by their names.
        rank: the rank of those that `rank_pattern` does not have.
        alpha: the scale of those that `alpha_pattern` does not have.
        adapter: the name of the adapters.
    """
    layers = {name: layer for name, layer in layers.items() if hasattr(layer, "lora_alpha")}
    return dict.fromkeys(NAMED) | {
        "target_modules": sorted(layers),
        "rank_pattern": {name: layer.r[adapter] for name, layer in layers.items() if layer.r[adapter] != rank},
        "alpha_pattern": {
            name: layer.lora_alpha[adapter] for name, layer in layers.items() if layer.lora_alpha[adapter] != alpha
        },
    }


def _is_pattern(field: str, value: Any) -> bool:
    if not value or (field, value) == ("target_modules", "all-linear"):
        return False
    names = [value] if field == "layers_pattern" and isinstance(value, str) else value
    listed = isinstance(names, list | tuple | set | dict)
    return not listed or not all(isinstance(name, str) and NAME.fullmatch(name) for name in names)
