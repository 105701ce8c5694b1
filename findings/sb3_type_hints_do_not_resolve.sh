#!/bin/sh
# stable-baselines3 2.9.2: the type hints of an algorithm's arguments cannot be read at run time.
#
# Expected: `typing.get_type_hints(PPO.__init__)`, by which tools make a command line or check settings, returns the types.
# What happens: NameError for every algorithm. Their argument `env` has the type `GymEnv`, an alias whose parts are
# strings that name classes imported for type checkers alone. `inspect.get_annotations` works, and leaves them strings.
# Source: stable_baselines3/common/type_aliases.py, `GymEnv`.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet --no-compile --disable-pip-version-check torch==2.13.0 stable-baselines3==2.9.2
venv/bin/python - <<'PY'
import inspect
import typing
from importlib.metadata import version

from stable_baselines3 import A2C, DDPG, DQN, PPO, SAC, TD3

print("stable-baselines3", version("stable-baselines3"))
for algorithm in (A2C, DDPG, DQN, PPO, SAC, TD3):
    try:
        typing.get_type_hints(algorithm.__init__)
        found = "resolved"
    except NameError as failure:
        found = f"NameError: {failure}"
    print(f"{algorithm.__name__:5} {found}; unresolved: {inspect.get_annotations(algorithm.__init__)['env']}")
    assert found == "NameError: name 'VecEnv' is not defined"
PY
