"""Evaluate models with verifiers on an environment that `rlhf serve-env` serves: `vf-eval rlhf-served`."""

from rlhf_served.env import ServedEnv
from rlhf_served.harness import PlainHarness
from rlhf_served.taskset import ServedTaskset

__all__ = ["PlainHarness", "ServedEnv", "ServedTaskset"]
