#!/bin/sh
# stable-baselines3 2.9.2: A2C puts RMSprop into the caller's `policy_kwargs`, so that a PPO made with them trains with RMSprop.
#
# Expected: `policy_kwargs` are read. One dict serves several agents, as in a comparison of A2C with PPO.
# What happens: A2C writes `optimizer_class` and `optimizer_kwargs` into the dict it was given. A PPO made afterwards with
# the same dict has RMSprop; made before, it has Adam. A second A2C finds the class there, and then ignores its own
# `rms_prop_eps` and `use_rms_prop=False`. `optimizer_kwargs` without an `optimizer_class` are replaced. No message says so.
# Source: stable_baselines3/a2c/a2c.py, A2C.__init__; common/base_class.py keeps the dict without a copy.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet --no-compile --disable-pip-version-check stable-baselines3==2.9.2 gymnasium==1.4.0 torch==2.13.0
venv/bin/python - <<'PY'
from importlib.metadata import version

from stable_baselines3 import A2C, PPO

print(*(f"{name} {version(name)}" for name in ("stable-baselines3", "torch")))


def optimizer(algorithm, policy_kwargs, **arguments):
    agent = algorithm("MlpPolicy", "CartPole-v1", policy_kwargs=policy_kwargs, device="cpu", **arguments)
    found = agent.policy.optimizer
    name, eps, decay = type(found).__name__, found.defaults["eps"], found.defaults["weight_decay"]
    print(f"{algorithm.__name__} {arguments or ''}: {name}, eps {eps}, weight decay {decay}; the dict has {sorted(policy_kwargs)}")
    return name, eps, decay


shared = dict(net_arch=[8])
outcomes = [
    optimizer(PPO, shared),
    optimizer(A2C, shared),
    optimizer(PPO, shared),
    optimizer(A2C, shared, rms_prop_eps=1e-3),
    optimizer(A2C, shared, use_rms_prop=False),
    optimizer(A2C, dict(optimizer_kwargs=dict(weight_decay=0.01))),
]
rms_prop = ("RMSprop", 1e-5, 0)
assert outcomes == [("Adam", 1e-5, 0), rms_prop, rms_prop, rms_prop, rms_prop, rms_prop], "the behaviour has changed"
PY
