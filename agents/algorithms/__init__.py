"""Hold one file per algorithm, and offer the base classes for an algorithm of your own.

`agents.registry` finds the algorithms by name and imports them when they are used. See docs/tutorials/algorithm.md.
"""

from .common.episode_buffer import EpisodeRolloutBuffer, EpisodeSamples
from .common.policy_gradient import PolicyGradient
from .common.q_agent import QAgent
from .common.text_agent import TextAgent

__all__ = ["EpisodeRolloutBuffer", "EpisodeSamples", "PolicyGradient", "QAgent", "TextAgent"]
