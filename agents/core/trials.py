"""Remember which kinds of models have passed a trial, so that a second model of a kind is not tried out again."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any

from torch import nn
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from .precision import computing_type

__all__ = ["try_once"]

PLAIN = (bool, int, float, str, type(None))
HOOKS = ("_forward_hooks", "_forward_pre_hooks")

_passed: set[Hashable] = set()


def try_once(trial: Callable[[], str], module: nn.Module, *about: Hashable) -> str:
    """Return "" if the trial passes, or has passed with a module of the same kind; otherwise the reason it gives.

    Trials look at what the code of a model does, not at its weights. What fails is tried again each time.

    Args:
        trial: tries the module out, and returns why it fails, or "".
        module: what is tried out.
        about: what else the outcome depends on: the name of the trial, a length.
    """
    kind = _kind(module)
    if kind is None:
        return trial()
    if (*about, kind) in _passed:
        return ""
    reason = trial()
    if not reason:
        _passed.add((*about, kind))
    return reason


def _kind(module: nn.Module) -> Hashable | None:
    """Return what two modules share that compute alike but for their weights; None if code was put into this one."""
    config: Any = getattr(module, "config", None)
    if config is None or any(map(_is_changed, module.modules())):
        return None
    attention = str(getattr(config, "_attn_implementation", None))
    code = [(type(m), type(m).forward, _plain(m)) for m in module.modules()]
    weights = [(name, p.shape, p.dtype, p.device, computing_type(p)) for name, p in module.named_parameters()]
    settings = (config.to_json_string(use_diff=False), attention, ALL_ATTENTION_FUNCTIONS.get(attention))
    return (*settings, *code, *weights)


def _is_changed(module: nn.Module) -> bool:
    return "forward" in vars(module) or any(getattr(module, hooks) for hooks in HOOKS)


def _plain(module: nn.Module) -> Hashable:
    return tuple(sorted((name, value) for name, value in vars(module).items() if isinstance(value, PLAIN)))
