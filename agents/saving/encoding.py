"""Turn the values of an agent into JSON and arrays, and back, without pickle.

JSON holds plain values as they are. Everything else is an object with the key "$", from a closed list: tuples, deques,
dicts with other keys, NumPy scalars and arrays (an array lies in a file of tensors, under a key), paths, schedules
of SB3 and ours, and classes *by name from a fixed list*. Any other value becomes "opaque". Reading it is an error,
unless the reader passes the value: nothing is dropped in silence, and no name in a file is ever imported.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sb3_contrib import TRPO, MaskablePPO
from stable_baselines3 import A2C, PPO
from stable_baselines3.common.buffers import DictRolloutBuffer, RolloutBuffer
from stable_baselines3.common.sb2_compat.rmsprop_tf_like import RMSpropTFLike
from stable_baselines3.common.utils import ConstantSchedule, FloatSchedule, LinearSchedule

from ..algorithms.baselines import UniformPolicy
from ..algorithms.common.episode_buffer import EpisodeRolloutBuffer
from ..algorithms.common.q_policy import QPolicy
from ..algorithms.common.replay_buffer import SequenceReplayBuffer
from ..algorithms.ilql import ILQLPolicy
from ..algorithms.maskable_ppo import MaskableSequenceRolloutBuffer, MaskableTokenPolicy
from ..algorithms.nlpo import NLPOPolicy
from ..algorithms.qrdqn import QuantilePolicy
from ..core.policy import TokenPolicy
from ..core.rollout_buffer import SequenceRolloutBuffer
from ..core.schedules import CosineSchedule

__all__ = ["NAMED_CLASSES", "class_name", "decode", "encode"]

TAG = "$"
PLAIN: dict[str, type[Any]] = {"float": float, "path": Path}  # written as text
OPTIMIZERS = ("Adadelta", "Adafactor", "Adagrad", "Adam", "Adamax", "AdamW", "ASGD", "NAdam", "RAdam", "RMSprop", "SGD")
POLICIES = (TokenPolicy, UniformPolicy, MaskableTokenPolicy, NLPOPolicy, QPolicy, QuantilePolicy, ILQLPolicy)
BUFFERS = (SequenceRolloutBuffer, EpisodeRolloutBuffer, MaskableSequenceRolloutBuffer, SequenceReplayBuffer)
PARTS_OF_SB3 = (RolloutBuffer, DictRolloutBuffer, RMSpropTFLike)
# The classes that a bundle may name.
NAMED_CLASSES: dict[str, type[Any]] = {
    **{cls.__name__: cls for cls in (*POLICIES, *BUFFERS, *PARTS_OF_SB3)},
    **{f"torch.optim.{name}": getattr(torch.optim, name) for name in OPTIMIZERS},
    "stable_baselines3.A2C": A2C,
    "stable_baselines3.PPO": PPO,
    "sb3_contrib.MaskablePPO": MaskablePPO,
    "sb3_contrib.TRPO": TRPO,
}
# Schedules, and the attributes that hold their arguments.
SCHEDULES: dict[type[Any], tuple[str, ...]] = {
    FloatSchedule: ("value_schedule",),
    ConstantSchedule: ("val",),
    LinearSchedule: ("start", "end", "end_fraction"),
    CosineSchedule: ("start",),
}


def class_name(cls: Any) -> str | None:
    """Return the name of a class that a bundle may name; None for every other value."""
    return next((name for name, known in NAMED_CLASSES.items() if known is cls), None)


def encode(value: Any, arrays: dict[str, np.ndarray], at: str = "") -> Any:
    """Return a value as JSON; its arrays are added to `arrays`, under keys that start with `at`."""
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
    if isinstance(value, Path):
        return {TAG: "path", "value": str(value)}
    if type(value) in (list, tuple, deque):
        items = [encode(item, arrays, f"{at}/{i}") for i, item in enumerate(value)]
        more = {"maxlen": value.maxlen} if isinstance(value, deque) else {}
        return items if type(value) is list else {TAG: type(value).__name__, "items": items, **more}
    if type(value) in SCHEDULES:
        names = SCHEDULES[type(value)]
        args = [encode(getattr(value, name), arrays, f"{at}/{name}") for name in names]
        return {TAG: "schedule", "name": type(value).__name__, "args": args}
    if (name := class_name(value)) is not None:
        return {TAG: "class", "name": name}
    return {TAG: "opaque", "repr": repr(value)[:200]}


def decode(value: Any, arrays: Mapping[str, np.ndarray], at: str = "", given: Any = None) -> Any:
    """Return the value that `encode` turned into JSON.

    Args:
        value, arrays: the JSON, and the arrays by key.
        at: the name of the value for error messages; the names of nested values are joined by slashes.
        given: entries that replace or extend a dict's own.

    Raises:
        ValueError: the value could not be written: it has to be passed.
        LookupError: the file names something that no bundle of ours holds.
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
    """Return the value of an object with the key "$"."""
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
    if kind == "array":
        return np.array(arrays[value["key"]])
    if kind in PLAIN:
        return PLAIN[kind](value["value"])
    if kind == "tuple":
        return tuple(decode(items, arrays, at))
    if kind == "deque":
        return deque(decode(items, arrays, at), maxlen=value["maxlen"])
    if kind == "dict":
        return dict(decode(pair, arrays, at) for pair in items)
    if kind == "schedule" and (cls := {cls.__name__: cls for cls in SCHEDULES}.get(value["name"])):
        return cls(*(decode(item, arrays, at) for item in value["args"]))
    if kind == "class" and value["name"] in NAMED_CLASSES:
        return NAMED_CLASSES[value["name"]]
    raise LookupError(f"{at or 'a value'} is {value}, which no bundle of ours holds")
