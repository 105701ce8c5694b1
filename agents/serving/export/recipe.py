"""Say what an export does to a model: the format, the bits of its weights, and how many of them are pruned."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from .gguf.writing import import_gguf
from .onnx.writing import check_onnx
from .packed import check_packed
from .prune import check_pruning

__all__ = ["FORMATS", "QUANTIZED", "Recipe"]

Format = Literal["hf", "merged", "gguf", "onnx"]
Quantized = Literal["float16", "int8", "int4"]
FORMATS, QUANTIZED = get_args(Format), get_args(Quantized)
CAN = {"hf": QUANTIZED, "merged": QUANTIZED, "gguf": QUANTIZED, "onnx": ("int8", "int4")}


@dataclass(frozen=True)
class Recipe:
    """Hold the format of an export, the bits of its weights, and what is pruned: the arguments of `export`.

    Raises:
        ValueError: there is no such format, it is not written in these bits, or the pruning contradicts itself.
        ImportError: a package that the format needs is missing, or too old; the message has the command.
    """

    to: str
    quantize: str | None = None
    prune_share: float | None = None
    prune_pattern: str | None = None

    def __post_init__(self) -> None:
        if self.to not in FORMATS:
            raise ValueError(f"to={self.to!r}: expected {', '.join(FORMATS)}")
        if self.quantize is not None and self.quantize not in QUANTIZED:
            raise ValueError(f"quantize={self.quantize!r}: expected {', '.join(QUANTIZED)}")
        if self.quantize is not None and self.quantize not in CAN[self.to]:
            others = ", ".join(name for name, kinds in CAN.items() if self.quantize in kinds)
            raise ValueError(
                f"to={self.to!r} is not written as {self.quantize}: take {others}, or {', '.join(CAN[self.to])}"
            )
        if self.to == "gguf":
            import_gguf()
        if self.to == "onnx":
            check_onnx()
        if self.to in ("hf", "merged") and self.quantize in ("int8", "int4"):
            check_packed()
        check_pruning(self.prune_share, self.prune_pattern)

    @property
    def prunes(self) -> bool:
        """Return whether weights are set to 0."""
        return self.prune_share is not None or self.prune_pattern is not None

    def describe(self, source: str) -> str:
        """Return what is exported, and how, as a sentence.

        Args:
            source: the name of the model or its folder, of whose path the last part is shown.
        """
        name = Path(source).name if Path(source).is_absolute() else source
        how = f"`--to {self.to}`" + (f" in {self.quantize}" if self.quantize else "")
        if self.prune_pattern:
            how += f" pruned {self.prune_pattern}"
        elif self.prune_share:
            how += f" with {self.prune_share:g} of each linear layer's weights set to 0"
        return f"`{name}`, exported by rlhf-envs: {how}."
