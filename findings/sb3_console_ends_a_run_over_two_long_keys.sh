#!/bin/sh
# Stable-Baselines3 2.9.2: two long metric names that begin alike raise a ValueError on the console, and end the run there.
#
# Expected: the console shortens what does not fit. Other outputs (CSV, JSON, TensorBoard) write such names.
# What happens: it cuts a name to 36 characters, and raises where two become one. The message asks for a larger `max_length`, which
# neither `configure`, `learn` nor `verbose=1` has as an argument. Only a name that leaves out the console
# (`record(..., exclude=("stdout", "log"))`) or a logger made by hand gets around it.
# Source: stable_baselines3/common/logger.py, HumanOutputFormat.write and _truncate; make_output_format.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet --no-compile --disable-pip-version-check torch==2.13.0 stable-baselines3==2.9.2
venv/bin/python - <<'PY'
from importlib.metadata import version

from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import configure

print(*(f"{name} {version(name)}" for name in ("stable-baselines3", "torch")))
NAMES = [f"customer-service-in-german/answers-{kind}" for kind in ("right", "polite")]


class Record(BaseCallback):
    def _on_step(self):
        for name in NAMES:
            self.logger.record(f"rollout/{name}", 1.0)
        return True


def train(*outputs):
    """Return the tokens trained and the error of a run that was asked for 128."""
    agent, error = PPO("MlpPolicy", "CartPole-v1", n_steps=64, batch_size=64), None
    agent.set_logger(configure("logs", [*outputs]))
    try:
        agent.learn(128, callback=Record())
    except ValueError as raised:
        error = str(raised)
    print(f"{', '.join(outputs)}: {agent.num_timesteps} of 128 steps; error: {error}")
    return agent.num_timesteps, error


assert train("csv", "json") == (128, None), "the behaviour has changed"
steps, error = train("csv", "json", "stdout")
assert steps == 64, "the behaviour has changed"
assert error is not None and "truncated to" in error and "max_length" in error, "the behaviour has changed"
PY
