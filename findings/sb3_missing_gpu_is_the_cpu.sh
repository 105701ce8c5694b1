#!/bin/sh
# stable-baselines3 2.9.2: an algorithm that is told to train on a GPU trains on the CPU where there is none.
#
# Expected: `device="cuda"` without CUDA is an error, as it is in torch, or at least a warning.
# What happens: the CPU is taken, and nothing is said. A wrong driver or torch's CPU build shows as a slow run.
# Source: stable_baselines3/common/utils.py, get_device.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet --no-compile --disable-pip-version-check torch==2.13.0 stable-baselines3==2.9.2
CUDA_VISIBLE_DEVICES= venv/bin/python - <<'PY'
import warnings
from importlib.metadata import version

from stable_baselines3 import PPO

print("stable-baselines3", version("stable-baselines3"))
with warnings.catch_warnings(record=True) as told:
    warnings.simplefilter("always")
    agent = PPO("MlpPolicy", "CartPole-v1", device="cuda")
print(f"asked for cuda, got {agent.device}; warnings: {[str(warning.message) for warning in told]}")
assert agent.device.type == "cpu" and not told
PY
