"""Run `transformers serve` as a child that ends with its parent. `engine.ChildEngine` starts this file as a program.

A parent that is killed cannot end its child. So the child reads its standard input, which ends with the parent.
"""

from __future__ import annotations

import os
import sys
import threading
from importlib import import_module

__all__ = ["main"]


def main() -> None:
    """Serve, with the arguments of this program."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    sys.argv = ["transformers", "serve", *sys.argv[1:]]
    import_module("transformers.cli.transformers").app()  # its `main` asks the network for updates first


def _end_with_parent() -> None:
    sys.stdin.buffer.read()
    os._exit(0)


if __name__ == "__main__":
    main()
