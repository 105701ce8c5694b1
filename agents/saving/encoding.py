"""Values of an agent as JSON and arrays, and back, without pickle.

JSON holds plain values as they are. Everything else is an object with the key "$", from a closed list: tuples, deques,
dicts with other keys, numpy scalars and arrays (which lie in a file of tensors, under a key), paths, SB3's schedules
and classes *by name from a fixed list*. What is none of these becomes "opaque" and is an error when it is read, unless
the reader is given the value: nothing is dropped in silence and no name in a file is ever imported.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["decode", "encode", "named_classes"]

TAG = "$"
OPTIMIZERS = ("Adadelta", "Adafactor", "Adagrad", "Adam", "Adamax", "AdamW", "ASGD", "NAdam", "RAdam", "RMSprop", "SGD")
BUILT_IN: dict[str, tuple[str, ...]] = {  # algorithms of others: on-policy ones
    "stable_baselines3": ("A2C", "PPO"),
    "sb3_contrib": ("MaskablePPO", "TRPO"),
}


@lru_cache(maxsize=1)
def named_classes() -> dict[str, type[Any]]:
    """The classes that a bundle may name."""
    import importlib

    import torch
    from stable_baselines3.common import buffers
    from stable_baselines3.common.sb2_compat.rmsprop_tf_like import RMSpropTFLike

    from ..algorithms.baselines import UniformPolicy
    from ..algorithms.common.episode_buffer import EpisodeRolloutBuffer
    from ..algorithms.common.q_policy import QPolicy
    from ..algorithms.common.replay_buffer import SequenceReplayBuffer
    from ..algorithms.ilql_policy import ILQLPolicy
    from ..algorithms.masked_buffer import MaskableSequenceRolloutBuffer
    from ..algorithms.masked_policy import MaskableTokenPolicy
    from ..algorithms.nlpo_policy import NLPOPolicy
    from ..algorithms.quantile_policy import QuantilePolicy
    from ..core.policy import TokenPolicy
    from ..core.rollout_buffer import SequenceRolloutBuffer

    ours: list[type[Any]] = [TokenPolicy, UniformPolicy, SequenceRolloutBuffer, EpisodeRolloutBuffer]
    ours += [MaskableTokenPolicy, MaskableSequenceRolloutBuffer, NLPOPolicy]
    ours += [QPolicy, QuantilePolicy, ILQLPolicy, SequenceReplayBuffer]
    theirs: list[type[Any]] = [buffers.RolloutBuffer, buffers.DictRolloutBuffer, RMSpropTFLike]
    classes = {cls.__name__: cls for cls in (*ours, *theirs)}
    classes |= {f"torch.optim.{name}": getattr(torch.optim, name) for name in OPTIMIZERS}
    for module, names in BUILT_IN.items():
        classes |= {f"{module}.{name}": getattr(importlib.import_module(module), name) for name in names}
    return classes


def encode(value: Any, arrays: dict[str, np.ndarray], at: str = "") -> Any:
    """Turn a value into JSON; arrays go to `arrays`, under keys that start with `at`."""
    if isinstance(value, np.generic):
        return {TAG: "scalar", "dtype": value.dtype.str, "value": encode(value.item(), arrays, at)}
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else {TAG: "float", "value": repr(value)}
    if isinstance(value, np.ndarray) and value.dtype.kind in "biuf":
        arrays[at] = np.array(value, order="C")
        return {TAG: "array", "key": at}
    if isinstance(value, dict) and TAG not in value and all(isinstance(key, str) for key in value):
        return {key: encode(item, arrays, f"{at}/{key}") for key, item in value.items()}
    if isinstance(value, dict):
        pairs = [encode(list(pair), arrays, f"{at}/{i}") for i, pair in enumerate(value.items())]
        return {TAG: "dict", "items": pairs}
    if isinstance(value, list | tuple | deque):
        items = [encode(item, arrays, f"{at}/{i}") for i, item in enumerate(value)]
        if type(value) is list:
            return items
        if type(value) is tuple:
            return {TAG: "tuple", "items": items}
        if type(value) is deque:
            return {TAG: "deque", "items": items, "maxlen": value.maxlen}
    if isinstance(value, Path):
        return {TAG: "path", "value": str(value)}
    return _encode_schedule(value, arrays, at) or _encode_class(value) or {TAG: "opaque", "repr": repr(value)[:200]}


def _encode_schedule(value: Any, arrays: dict[str, np.ndarray], at: str) -> dict[str, Any] | None:
    from stable_baselines3.common import utils

    fields: dict[type[Any], tuple[str, ...]] = {
        utils.FloatSchedule: ("value_schedule",),
        utils.ConstantSchedule: ("val",),
        utils.LinearSchedule: ("start", "end", "end_fraction"),
    }
    if type(value) not in fields:
        return None
    return {
        TAG: "schedule",
        "name": type(value).__name__,
        "args": [encode(getattr(value, name), arrays, f"{at}/{name}") for name in fields[type(value)]],
    }


def _encode_class(value: Any) -> dict[str, Any] | None:
    name = next((name for name, cls in named_classes().items() if cls is value), None)
    return None if name is None else {TAG: "class", "name": name}


def decode(value: Any, arrays: Mapping[str, np.ndarray], at: str = "", given: Any = None) -> Any:
    """Turn what `encode` made back into the value.

    Args:
        value: from JSON.
        arrays: the arrays.
        at: the name of the value, for messages: of nested ones with slashes.
        given: of a dict, entries that replace those of the file (and add to them).

    Raises:
        ValueError: the value could not be written, or the file names something that it must not.
    """
    if isinstance(value, list):
        return [decode(item, arrays, f"{at}/{i}") for i, item in enumerate(value)]
    if not isinstance(value, dict):
        return value
    if TAG not in value:
        given = given if isinstance(given, Mapping) else {}
        return {k: decode(v, arrays, f"{at}/{k}") for k, v in value.items() if k not in given} | dict(given)
    return _decode_tagged(value, arrays, at)


def _decode_tagged(value: dict[str, Any], arrays: Mapping[str, np.ndarray], at: str) -> Any:
    kind, items = value[TAG], value.get("items", [])
    if kind == "opaque":
        outer, _, inner = at.partition("/")
        how = f"{outer}={{{inner!r}: ...}}" if inner else f"{outer}=..."
        raise ValueError(
            f"{at or 'a value'} was {value['repr']} when the agent was saved, which a bundle cannot hold: pass it, "
            f"agents.load(..., {how})"
        )
    if kind == "scalar":
        return np.dtype(value["dtype"]).type(decode(value["value"], arrays, at))
    if kind == "float":
        return float(value["value"])
    if kind == "array":
        return np.array(arrays[value["key"]])
    if kind == "path":
        return Path(value["value"])
    if kind == "tuple":
        return tuple(decode(items, arrays, at))
    if kind == "deque":
        return deque(decode(items, arrays, at), maxlen=value["maxlen"])
    if kind == "dict":
        return dict(decode(pair, arrays, at) for pair in items)
    if kind == "schedule" and value["name"] in ("FloatSchedule", "ConstantSchedule", "LinearSchedule"):
        from stable_baselines3.common import utils

        return getattr(utils, value["name"])(*(decode(item, arrays, at) for item in value["args"]))
    if kind == "class" and value["name"] in named_classes():
        return named_classes()[value["name"]]
    raise ValueError(f"{at or 'a value'} is {value}, which no bundle of ours holds: the file is damaged or forged")
