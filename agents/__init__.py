"""Agents that learn to write: stock Stable-Baselines3 algorithms over a language model, and what they need.

Names are imported when they are first used, so that the command line starts without torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .algorithms.lagrange import LagrangeMultiplier
    from .core.policy import TokenPolicy
    from .core.rollout_buffer import SequenceRolloutBuffer
    from .core.text_metrics import TextMetrics
    from .core.vec_env import TextVecEnv, make_vec_env
    from .evaluation.evaluate import evaluate
    from .evaluation.generate import generate
    from .evaluation.robustness import evaluate_robustness
    from .experiments.compare.compare import Comparison, compare
    from .experiments.compare.config import CompareConfig
    from .experiments.loop.config import LoopConfig
    from .experiments.loop.loop import run_loop
    from .registry import available, get_algorithm, make, register
    from .saving.bundle import save
    from .saving.checkpoints import CheckpointCallback, Checkpoints
    from .saving.loading import load
    from .training.early_stopping import EarlyStopping
    from .training.human_feedback import HumanFeedback
    from .training.pretrain import pretrain

_MODULES = {
    "CheckpointCallback": "saving.checkpoints",
    "Checkpoints": "saving.checkpoints",
    "CompareConfig": "experiments.compare.config",
    "Comparison": "experiments.compare.compare",
    "EarlyStopping": "training.early_stopping",
    "HumanFeedback": "training.human_feedback",
    "LagrangeMultiplier": "algorithms.lagrange",
    "LoopConfig": "experiments.loop.config",
    "SequenceRolloutBuffer": "core.rollout_buffer",
    "TextMetrics": "core.text_metrics",
    "TextVecEnv": "core.vec_env",
    "TokenPolicy": "core.policy",
    "available": "registry",
    "compare": "experiments.compare.compare",
    "evaluate": "evaluation.evaluate",
    "evaluate_robustness": "evaluation.robustness",
    "generate": "evaluation.generate",
    "get_algorithm": "registry",
    "load": "saving.loading",
    "make": "registry",
    "make_vec_env": "core.vec_env",
    "pretrain": "training.pretrain",
    "register": "registry",
    "run_loop": "experiments.loop.loop",
    "save": "saving.bundle",
}

__all__ = [
    "CheckpointCallback",
    "Checkpoints",
    "CompareConfig",
    "Comparison",
    "EarlyStopping",
    "HumanFeedback",
    "LagrangeMultiplier",
    "LoopConfig",
    "SequenceRolloutBuffer",
    "TextMetrics",
    "TextVecEnv",
    "TokenPolicy",
    "available",
    "compare",
    "evaluate",
    "evaluate_robustness",
    "generate",
    "get_algorithm",
    "load",
    "make",
    "make_vec_env",
    "pretrain",
    "register",
    "run_loop",
    "save",
]


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return getattr(importlib.import_module(f".{_MODULES[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
