"""Train language models with stock Stable-Baselines3 algorithms.

A name is imported when it is first used, so that the command line starts without torch.
"""

from __future__ import annotations

import importlib
import os
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # the same names as in `_HOMES`, for type checkers
    from .algorithms.ppo_lagrangian import LagrangeMultiplier as LagrangeMultiplier
    from .core.policy import TokenPolicy as TokenPolicy
    from .core.rollout_buffer import SequenceRolloutBuffer as SequenceRolloutBuffer
    from .core.text_metrics import TextMetrics as TextMetrics
    from .core.trainer_state import TellTrainerState as TellTrainerState
    from .core.vec_env import TextVecEnv as TextVecEnv
    from .core.vec_env import make_vec_env as make_vec_env
    from .evaluation.chat import Chat as Chat
    from .evaluation.evaluate import evaluate as evaluate
    from .evaluation.explain.explain import explain as explain
    from .evaluation.explain.explain import explain_reward as explain_reward
    from .evaluation.generate import generate as generate
    from .evaluation.robustness import evaluate_robustness as evaluate_robustness
    from .experiments.compare.compare import Comparison as Comparison
    from .experiments.compare.compare import compare as compare
    from .experiments.compare.config import CompareConfig as CompareConfig
    from .experiments.loop.config import LoopConfig as LoopConfig
    from .experiments.loop.loop import run_loop as run_loop
    from .experiments.selftrain.config import SelfTrainConfig as SelfTrainConfig
    from .experiments.selftrain.run import self_train as self_train
    from .experiments.transfer.config import TransferConfig as TransferConfig
    from .experiments.transfer.transfer import Transfer as Transfer
    from .experiments.transfer.transfer import transfer as transfer
    from .registry import available as available
    from .registry import get_algorithm as get_algorithm
    from .registry import make as make
    from .registry import register as register
    from .saving.bundle import save as save
    from .saving.checkpoints import Checkpoints as Checkpoints
    from .saving.loading import load as load
    from .saving.loading import load_policy as load_policy
    from .serving.export.run import export as export
    from .training.checkpoint_callback import CheckpointCallback as CheckpointCallback
    from .training.config import TrainConfig as TrainConfig
    from .training.early_stopping import EarlyStopping as EarlyStopping
    from .training.hacking_alarm import HackingAlarm as HackingAlarm
    from .training.human_feedback import HumanFeedback as HumanFeedback
    from .training.plot import plot as plot
    from .training.pretrain import pretrain as pretrain
    from .training.run import train as train

_HOMES = {  # public name: its module
    "Chat": "evaluation.chat",
    "CheckpointCallback": "training.checkpoint_callback",
    "Checkpoints": "saving.checkpoints",
    "CompareConfig": "experiments.compare.config",
    "Comparison": "experiments.compare.compare",
    "EarlyStopping": "training.early_stopping",
    "HackingAlarm": "training.hacking_alarm",
    "HumanFeedback": "training.human_feedback",
    "LagrangeMultiplier": "algorithms.ppo_lagrangian",
    "LoopConfig": "experiments.loop.config",
    "SelfTrainConfig": "experiments.selftrain.config",
    "SequenceRolloutBuffer": "core.rollout_buffer",
    "TellTrainerState": "core.trainer_state",
    "TextMetrics": "core.text_metrics",
    "TextVecEnv": "core.vec_env",
    "TokenPolicy": "core.policy",
    "TrainConfig": "training.config",
    "Transfer": "experiments.transfer.transfer",
    "TransferConfig": "experiments.transfer.config",
    "available": "registry",
    "compare": "experiments.compare.compare",
    "evaluate": "evaluation.evaluate",
    "evaluate_robustness": "evaluation.robustness",
    "export": "serving.export.run",
    "explain": "evaluation.explain.explain",
    "explain_reward": "evaluation.explain.explain",
    "generate": "evaluation.generate",
    "get_algorithm": "registry",
    "load": "saving.loading",
    "load_policy": "saving.loading",
    "make": "registry",
    "make_vec_env": "core.vec_env",
    "plot": "training.plot",
    "pretrain": "training.pretrain",
    "register": "registry",
    "run_loop": "experiments.loop.loop",
    "save": "saving.bundle",
    "self_train": "experiments.selftrain.run",
    "train": "training.run",
    "transfer": "experiments.transfer.transfer",
}
__all__ = sorted(_HOMES)


def _forget_missing_backend() -> None:
    """Forget a MPLBACKEND that is not installed here, which a notebook of another environment may have set.

    Importing matplotlib would fail, and every picture of ours is drawn without a backend.
    """
    kind, _, module = os.environ.get("MPLBACKEND", "").partition("://")
    if kind == "module" and find_spec(module.partition(".")[0]) is None:
        del os.environ["MPLBACKEND"]


_forget_missing_backend()


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_HOMES[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted({*_HOMES, *(name for name in globals() if name.startswith("__"))})
