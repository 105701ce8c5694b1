#!/bin/sh
# stable-baselines3 2.9.2: PPO and A2C read a schedule at the end of a rollout: the last update learns nothing, or unlearns.
#
# Expected: a learning rate that falls from 1e-2 to 0 in four rollouts is 1e-2, 7.5e-3, 5e-3 and 2.5e-3 in their updates, as
# in the original PPO2, which reads it at the beginning of a rollout. A run of one rollout learns with 1e-2.
# What happens: the updates have 7.5e-3, 5e-3, 2.5e-3 and 0, and a run of one rollout changes no weight. If the rollouts end
# after `total_timesteps`, the progress that remains is below 0: `lambda progress: progress * 1e-2`, the form that the maintainers
# give in issue 246, is negative in the last update, which goes up the loss. Nothing says so.
# Source: stable_baselines3/common/on_policy_algorithm.py, `learn`; common/base_class.py, `_update_current_progress_remaining`.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet --no-compile --disable-pip-version-check \
    torch==2.13.0 stable-baselines3==2.9.2 gymnasium==1.4.0
venv/bin/python - <<'PY'
from importlib.metadata import version

import gymnasium as gym
import numpy as np
import torch
from stable_baselines3 import A2C, PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.utils import LinearSchedule

print(*(f"{name} {version(name)}" for name in ("stable-baselines3", "gymnasium", "torch")))


class RewardedAction(gym.Env):
    """Reward action 1, in episodes of one step."""

    observation_space = gym.spaces.Box(0, 1, (1,), np.float32)
    action_space = gym.spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.ones(1, np.float32), {}

    def step(self, action):
        return np.ones(1, np.float32), float(action), True, False, {}


class LearningRates(BaseCallback):
    """Keep the learning rate of each update."""

    def _on_training_start(self):
        self.rates = []

    def _on_rollout_start(self):
        self.rates.append(self.model.policy.optimizer.param_groups[0]["lr"])

    def _on_training_end(self):
        self._on_rollout_start()

    def _on_step(self):
        return True


def rewarded(agent):
    """Return the probability of the rewarded action."""
    with torch.inference_mode():
        return agent.policy.get_distribution(torch.ones(1, 1)).distribution.probs[0, 1].item()


def train(algorithm, total_timesteps, learning_rate):
    """Return the learning rate of each update, and the change in the probability of the rewarded action."""
    options = {"batch_size": 32} if algorithm is PPO else {}
    agent = algorithm("MlpPolicy", RewardedAction(), learning_rate=learning_rate, n_steps=32, device="cpu", seed=0, **options)
    before = rewarded(agent)
    callback = LearningRates()
    agent.learn(total_timesteps, callback=callback)
    rates = [round(rate, 9) for rate in callback.rates[1:]]  # the first was set before training
    change = rewarded(agent) - before
    name = f"{algorithm.__name__}, {total_timesteps} steps in rollouts of 32"
    print(f"{name}: learning rates {rates}, probability of the rewarded action {change:+.3f}")
    return rates, change


to_zero = LinearSchedule(1e-2, 0.0, 1.0)
for algorithm in PPO, A2C:
    rates, change = train(algorithm, 128, to_zero)
    assert rates == [7.5e-3, 5e-3, 2.5e-3, 0.0] and change > 0, "the behaviour has changed"
    assert train(algorithm, 32, to_zero) == ([0.0], 0.0), "the behaviour has changed"
    rates, change = train(algorithm, 20, lambda progress: progress * 1e-2)
    assert rates == [-6e-3] and change < 0, "the behaviour has changed"
PY
