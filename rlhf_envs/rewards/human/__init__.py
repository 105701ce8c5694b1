"""Ask people what they think of completions, and learn from their labels."""

from .reward import HumanReward
from .waiting import Fitting, Refit, Waiting

__all__ = ["Fitting", "HumanReward", "Refit", "Waiting"]
