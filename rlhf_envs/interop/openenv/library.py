"""Import what is used of the packages of the extra `openenv`, and say what to install where one is missing."""

from __future__ import annotations

from importlib import import_module
from typing import Any

__all__ = ["import_openenv", "import_outlines"]


def import_openenv(module: str) -> Any:
    """Return a module of the package `openenv`, such as "core.generic_client".

    Raises:
        ModuleNotFoundError: the package, or one that it needs, is missing; the message has the pip command.
    """
    try:
        return import_module(f"openenv.{module}")
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"OpenEnv's package is missing, or one that it needs ({error}): pip install 'rlhf-envs[openenv]'"
        ) from error


def import_outlines(module: str) -> Any:
    """Return a module of the package `outlines_core`, "" for the package itself.

    Raises:
        ModuleNotFoundError: it is missing; the message has the pip command.
    """
    try:
        return import_module(f"outlines_core.{module}" if module else "outlines_core")
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"json_mask=True needs outlines-core ({error}): pip install 'rlhf-envs[openenv]'"
        ) from error
