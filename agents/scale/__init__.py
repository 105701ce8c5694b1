"""Train in several processes and on several machines: the ranks of torchrun, and the workers of Ray."""

from __future__ import annotations

__all__: list[str] = []
