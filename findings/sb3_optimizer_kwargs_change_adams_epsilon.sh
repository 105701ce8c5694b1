#!/bin/sh
# stable-baselines3 2.9.2: any `optimizer_kwargs` also changes Adam's epsilon, from 1e-5 to 1e-8.
#
# Expected: `optimizer_kwargs=dict(weight_decay=0.01)` adds weight decay and leaves the rest as it was.
# What happens: PPO's (and A2C's) policy sets eps to 1e-5 only where `optimizer_kwargs` is None. With any dict, an empty one too,
# Adam has torch's 1e-8. Only torch's Adam itself has 1e-5, so AdamW differs from it in two ways. No message says so.
# Where gradients are small, the steps are larger then: a trial of weight decay is a trial of another epsilon too.
# Source: stable_baselines3/common/policies.py, ActorCriticPolicy.__init__.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet --no-compile --disable-pip-version-check stable-baselines3==2.9.2 gymnasium==1.4.0 torch==2.13.0
venv/bin/python - <<'PY'
from importlib.metadata import version

import torch
from stable_baselines3 import PPO

print(*(f"{name} {version(name)}" for name in ("stable-baselines3", "torch")))


def epsilon(**policy_kwargs):
    agent = PPO("MlpPolicy", "CartPole-v1", policy_kwargs=policy_kwargs, device="cpu")
    found = agent.policy.optimizer.defaults
    print(f"{policy_kwargs}: {type(agent.policy.optimizer).__name__}, eps {found['eps']}, weight decay {found['weight_decay']}")
    return found["eps"]


outcomes = [
    epsilon(),
    epsilon(optimizer_kwargs={}),
    epsilon(optimizer_kwargs=dict(weight_decay=0.01)),
    epsilon(optimizer_kwargs=dict(betas=(0.9, 0.99))),
    epsilon(optimizer_class=torch.optim.AdamW),
]
assert outcomes == [1e-5, 1e-8, 1e-8, 1e-8, 1e-8], "the behaviour has changed"
PY
