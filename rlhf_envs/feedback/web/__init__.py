"""Serve the annotation web app: `create_app` builds it over a store, `serve` runs it. Needs the extra `web`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .admin.archive import write_archive
    from .admin.participation import panel_csv
    from .admin.study import remark_on_settings
    from .admin.summary import summarise
    from .app import create_app
    from .server import serve

__all__ = ["create_app", "panel_csv", "remark_on_settings", "serve", "summarise", "write_archive"]

_HOMES = {
    "create_app": "app",
    "panel_csv": "admin.participation",
    "remark_on_settings": "admin.study",
    "serve": "server",
    "summarise": "admin.summary",
    "write_archive": "admin.archive",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    try:
        return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("rlhf_envs"):
            raise
        raise ImportError(f'the web app needs {error.name}: pip install "rlhf-envs[web]"') from error
