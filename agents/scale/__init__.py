"""Train in several processes and on several machines: the ranks of torchrun. Nothing here imports torch by itself."""

from __future__ import annotations

__all__: list[str] = []
