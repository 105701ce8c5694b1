"""Skip the environments whose extra is not installed."""

from __future__ import annotations

from collections.abc import Iterable
from importlib.util import find_spec
from typing import Any

import pytest

NEEDS = {"rlhf/Translate-v0": ("sacrebleu", "translate")}  # the package and the extra that has it

SERVED = ("rlhf/OpenEnv-v0",)  # there is none without a server: tests/rlhf_envs/interop has their tests


def with_extras(env_ids: Iterable[str]) -> list[Any]:
    """Return ids for `pytest.mark.parametrize`, which skip where the package of an extra is missing, or a server."""
    return [pytest.param(env_id, marks=[needed] if (needed := missing(env_id)) else []) for env_id in env_ids]


def missing(env_id: str) -> Any:
    """Return the mark that skips an environment whose package is not installed; None if it is, or there is none."""
    if env_id in SERVED:
        return pytest.mark.skip(reason="needs a server, and is tested with one in tests/rlhf_envs/interop")
    package, extra = NEEDS.get(env_id, ("pytest", ""))
    return None if find_spec(package) else pytest.mark.skip(reason=f"needs the extra {extra}")
