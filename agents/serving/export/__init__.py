"""Export what was trained: adapters merged, GGUF, ONNX, in 8 or 4 bits, pruned; with what it costs on held-out prompts.

`export` is imported when it is first used, so that the command line starts without torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .run import Exported as Exported
    from .run import export as export

__all__ = ["Exported", "export"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.run"), name)
